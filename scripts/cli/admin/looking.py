"""What there is: versions with their records and what the catalog lists of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from operations.look import documented_streams
from simplestreams import catalog, items, records
from simplestreams.errors import CatalogDamaged, RejectedUpload
from simplestreams.keys import RECORDS, ProductId, VersionId, parse_record_key
from simplestreams.records import Record
from storage.catalogs import Catalogs
from storage.port import Store

READERS = 16


@dataclass(frozen=True)
class Seen:
    """One record as it was read; `damage` says why it could not be."""

    version: VersionId
    record: Record | None
    damage: str = ""


@dataclass(frozen=True)
class Listed:
    """One item of the catalog."""

    version: VersionId
    name: str
    item: catalog.Item


def is_below(path: str, root: str) -> bool:
    """Whether a path is this one or lies below it, folder by folder; everything is below an empty one."""
    root = root.rstrip("/")
    return not root or path == root or path.startswith(f"{root}/")


def seen(store: Store, below: str = "") -> Iterator[Seen]:
    """Every record of a version at or below a path, in order of path."""
    below = below.rstrip("/")
    keys = [info.key for info in store.list(f"{RECORDS}{below}") if is_below(_path(info.key), below)]
    with ThreadPoolExecutor(READERS) as pool:
        for key, document in zip(keys, pool.map(store.read, keys), strict=True):
            try:
                version = parse_record_key(key)
            except RejectedUpload:
                continue
            if document is None:
                continue
            try:
                yield Seen(version, records.decode(document.body, key))
            except CatalogDamaged as damage:
                yield Seen(version, None, str(damage))


def _path(key: str) -> str:
    return key.removeprefix(RECORDS).removesuffix(".json")


def streams(store: Store) -> list[str]:
    """The streams that have a record, a document or an entry in the index."""
    index = store.read(catalog.INDEX_KEY)
    found = set(catalog.decode_index(index.body if index else None).index)
    found |= {key.path.split("/")[0] for key in _products(store)}
    return sorted(found)


def _products(store: Store) -> set[ProductId]:
    found = set()
    for info in store.list(RECORDS):
        try:
            found.add(parse_record_key(info.key).product)
        except RejectedUpload:
            continue
    return found


def listed(store: Store, below: str = "") -> list[Listed]:
    """Every item that the catalog names at or below a path."""
    found = []
    catalogs = Catalogs(store)
    for stream in streams(store):
        for name, product in catalogs.products(stream).products.items():
            for version, entry in catalog.decode_versions(product).items():
                id_ = VersionId(ProductId(stream, *name.split(":")), version)
                found += [Listed(id_, key, item) for key, item in entry.items.items() if is_below(item.path, below)]
    return found


def clients(store: Store) -> tuple[str, ...]:
    """Whose items the catalog carries now; all while it lists nothing that can be read."""
    catalogs, ftypes = Catalogs(store), set[str]()
    for stream in documented_streams(store):
        with suppress(CatalogDamaged):  # another stream may tell; that this one is damaged, the doctor says
            for product in catalogs.products(stream).products.values():
                for version in catalog.decode_versions(product).values():
                    ftypes |= {item.ftype for item in version.items.values()}
    own = {client: {items.METADATA_FTYPES[client], items.UNIFIED_FTYPES[client]} for client in items.ALL_CLIENTS}
    return tuple(client for client in items.ALL_CLIENTS if own[client] & ftypes) or items.ALL_CLIENTS


def described(found: Seen, in_catalog: set[str]) -> dict[str, Any]:
    """One line of `admin list`."""
    record = found.record
    return {
        "version": found.version.path,
        "state": record.state if record else "unreadable",
        "listed": found.version.path in in_catalog,
        "files": len(record.files) if record else 0,
        "bytes": record.size_bytes if record else 0,
        "reasons": [reason.sentence for reason in record.reasons] if record else [found.damage],
    }


def plain(value: object) -> Any:
    """A record or a part of one as JSON has it."""
    return msgspec.to_builtins(value)
