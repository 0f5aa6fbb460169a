"""What there is: versions with their records and what the catalog lists of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from imageserver.catalog.conflicts import shared_with
from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format import documents, file_kinds
from imageserver.format.documents import Withheld, product_id
from imageserver.format.keys import RECORDS, ProductId, VersionId, parse_record_key
from imageserver.operations.inventory import documented_streams
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Store
from imageserver.versions import records
from imageserver.versions.records import Record, Withdrawal
from imageserver.versions.state import State, visible_state

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
    item: documents.Item


@dataclass(frozen=True)
class Catalogued:
    """What the catalog has: its items, and by path of a version what of it is withheld, and what others asked for."""

    items: list[Listed]
    withheld: dict[str, list[Withheld]]
    shared: dict[str, list[str]]


@dataclass(frozen=True)
class Why:
    """Why a version, or a part of it, is not listed; or what of it was passed over.

    `kind` is that of a record's reason, or: withdrawn, withheld (something else that is listed has its place),
    unreadable.
    """

    kind: str
    sentence: str


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
            except InvalidUpload:
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
    index = store.read(documents.INDEX_KEY)
    found = set(documents.decode_index(index.body if index else None).index)
    found |= {key.path.split("/")[0] for key in _products(store)}
    return sorted(found)


def _products(store: Store) -> set[ProductId]:
    found = set()
    for info in store.list(RECORDS):
        try:
            found.add(parse_record_key(info.key).product)
        except InvalidUpload:
            continue
    return found


def listed(store: Store, below: str = "") -> list[Listed]:
    """Every item that the catalog names at or below a path."""
    return catalogued(store, below).items


def catalogued(store: Store, below: str = "") -> Catalogued:
    """Return the same, and what complete versions go without because of what else is listed."""
    found = Catalogued([], {}, {})
    cache = DocumentCache(store)
    for stream in streams(store):
        document = cache.products(stream)
        holders = {entry.held_by for entries in document.withheld.values() for entry in entries}
        for name, product in document.products.items():
            for version, entry in documents.decode_versions(product).items():
                id_ = VersionId(product_id(stream, name), version)
                found.items.extend(
                    Listed(id_, k, item) for k, item in entry.items.items() if is_below(item.path, below)
                )
                if name in holders:
                    found.shared[id_.path] = shared_with(document, name, documents.images(entry))
        for name, entries in document.withheld.items():
            for lost in entries:  # an alias that was lost is the whole product's
                if lost.version:
                    path = f"{product_id(stream, name).path}/{lost.version}"
                    found.withheld.setdefault(path, []).append(lost)
    return found


def clients(store: Store) -> tuple[str, ...]:
    """Whose items the catalog carries now; all while it lists nothing that can be read."""
    cache, ftypes = DocumentCache(store), set[str]()
    for stream in documented_streams(store):
        with suppress(CatalogDamaged):  # another stream may tell; that this one is damaged, the doctor says
            for product in cache.products(stream).products.values():
                for version in documents.decode_versions(product).values():
                    ftypes |= {item.ftype for item in version.items.values()}
    own = {
        client: {file_kinds.METADATA_FTYPES[client], file_kinds.UNIFIED_FTYPES[client]}
        for client in file_kinds.ALL_CLIENTS
    }
    return tuple(client for client in file_kinds.ALL_CLIENTS if own[client] & ftypes) or file_kinds.ALL_CLIENTS


def described(found: Seen, there: Catalogued, is_listed: bool) -> dict[str, Any]:
    """One version as `admin list` tells it."""
    record = found.record
    withdrawn_files = {file: facts.withdrawn for file, facts in record.files.items()} if record else {}
    return {
        "version": found.version.path,
        "state": _state(record, there, is_listed) if record else "unreadable",
        "listed": is_listed,
        "files": len(record.files) if record else 0,
        "bytes": record.size_bytes if record else 0,
        "reasons": [why.sentence for why in reasons(found, there, is_listed)],
        "withdrawn": plain(record.withdrawn) if record else None,
        "withdrawn_files": {file: plain(withdrawn) for file, withdrawn in withdrawn_files.items() if withdrawn},
    }


def _state(record: Record, there: Catalogued, is_listed: bool) -> State:
    return visible_state(record.state, listed=is_listed, withheld=bool(there.withheld.get(record.version)))


def reasons(found: Seen, there: Catalogued, is_listed: bool) -> list[Why]:
    """Everything that keeps a version, or a file of it, off the list: what the record says, and what the catalog."""
    record = found.record
    if record is None:
        return [Why("unreadable", found.damage)]
    told = [Why("withdrawn", _withdrawn("it", record.withdrawn))] if record.withdrawn else []
    withdrawn = {file: facts.withdrawn for file, facts in record.files.items() if facts.withdrawn}
    told += [Why("withdrawn", _withdrawn(file, withdrawal)) for file, withdrawal in withdrawn.items()]
    # The record has a sentence of its own about each withdrawn file, and no other: it does not say why.
    told += [Why(reason.kind, reason.sentence) for reason in record.reasons if reason.file not in withdrawn]
    withheld = there.withheld.get(found.version.path, [])
    told += [Why("withheld", entry.reason) for entry in withheld]
    told += [Why("warning", sentence) for sentence in there.shared.get(found.version.path, [])]
    if _state(record, there, is_listed) is State.COMPLETE:
        told.append(Why("waiting", "it is complete and about to be listed; run `admin reconcile` if that lasts"))
    return told


def _withdrawn(what: str, withdrawal: Withdrawal) -> str:
    until = "is being deleted" if withdrawal.final else f"is deleted after {withdrawal.delete_after}"
    why = f": {withdrawal.reason}" if withdrawal.reason else "; no reason was given"
    return f"{what} was withdrawn at {withdrawal.since} and {until}{why}"


def plain(value: object) -> Any:
    """A record or a part of one as JSON has it."""
    return msgspec.to_builtins(value)
