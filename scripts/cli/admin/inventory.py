"""The inventory of a server: versions with their records, and how the catalog lists them."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from imageserver.catalog.conflicts import shared_with
from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format import documents, file_kinds
from imageserver.format.documents import Withheld, product_id
from imageserver.format.keys import RECORDS, VersionId, parse_record_key
from imageserver.storage.document_cache import DocumentCache, documented_streams
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store
from imageserver.versions import records
from imageserver.versions.records import Record, Withdrawal
from imageserver.versions.state import State, visible_state


@dataclass(frozen=True)
class RecordState:
    """A record, or the damage that makes it unreadable."""

    version: VersionId
    record: Record | None
    damage: str = ""


@dataclass(frozen=True)
class ListedItem:
    """One item of the catalog."""

    version: VersionId
    name: str
    item: documents.Item


@dataclass(frozen=True)
class Catalog:
    """The items of the catalog. By path of a version, `withheld` has what it lost and `shared` what others have too."""

    items: list[ListedItem]
    withheld: dict[str, list[Withheld]]
    shared: dict[str, list[str]]


@dataclass(frozen=True)
class Unlisted:
    """Why a version or a file of it is not listed, or a warning about it.

    `kind` is the kind of a record's reason, or withdrawn, withheld (another version is listed instead) or unreadable.
    """

    kind: str
    sentence: str


def is_below(path: str, root: str) -> bool:
    """Return whether a path is `root` or lies below it. Everything is below an empty `root`."""
    root = root.rstrip("/")
    return not root or path == root or path.startswith(f"{root}/")


def read_records(store: Store, below: str = "") -> Iterator[RecordState]:
    """Yield the record of every version at or below a path, in order of path."""
    below = below.rstrip("/")
    listed = (info.key for info in store.list(f"{RECORDS}{below}"))
    keys = [key for key in listed if is_below(key.removeprefix(RECORDS).removesuffix(".json"), below)]
    for key, document in zip(keys, in_parallel(store.read, keys), strict=True):
        try:
            version = parse_record_key(key)
            if document is not None:
                yield RecordState(version, records.decode(document.body, key))
        except InvalidUpload:
            continue
        except CatalogDamaged as damage:
            yield RecordState(version, None, str(damage))


def recorded_versions(store: Store) -> Iterator[VersionId]:
    """Yield every version that has a record, without reading one."""
    for info in store.list(RECORDS):
        with suppress(InvalidUpload):  # a file of another kind beside the records
            yield parse_record_key(info.key)


def read_index(store: Store) -> documents.Index:
    """Return the index of the catalog; an empty one if there is none. Raise CatalogDamaged."""
    seen = store.read(documents.INDEX_KEY)
    return documents.decode_index(seen.body if seen else None)


def read_catalog(store: Store, below: str = "") -> Catalog:
    """Return the items that are listed at or below a path, and what is withheld anywhere."""
    found, cache = Catalog([], {}, {}), DocumentCache(store)
    streams = set(read_index(store).index)
    streams |= {version.product.stream for version in recorded_versions(store)}
    known = [cache.products(stream) for stream in sorted(streams)]
    holders = {
        documents.holder_elsewhere(entry.held_by) or (document.content_id, entry.held_by)
        for document in known
        for entries in document.withheld.values()
        for entry in entries
    }
    for document in known:
        stream = document.content_id
        for name, product in document.products.items():
            for version, entry in documents.decode_versions(product).items():
                id_ = VersionId(product_id(stream, name), version)
                found.items.extend(
                    ListedItem(id_, k, item) for k, item in entry.items.items() if is_below(item.path, below)
                )
                if not holders.isdisjoint({id_.product, (stream, name)}):
                    found.shared[id_.path] = shared_with(known, id_.product, documents.images(entry))
        for name, entries in document.withheld.items():
            for lost in entries:  # without a version, the product lost an alias
                if lost.version:
                    path = f"{product_id(stream, name).path}/{lost.version}"
                    found.withheld.setdefault(path, []).append(lost)
    return found


def clients(store: Store) -> tuple[str, ...]:
    """Return the clients that the catalog has items for; all clients if it lists nothing that can be read."""
    cache, ftypes = DocumentCache(store), set[str]()
    for stream in documented_streams(store):
        with suppress(CatalogDamaged):  # another stream may show it; the doctor reports the damage
            for product in cache.products(stream).products.values():
                for version in documents.decode_versions(product).values():
                    ftypes |= {item.ftype for item in version.items.values()}
    own = {
        client: {file_kinds.METADATA_FTYPES[client], file_kinds.UNIFIED_FTYPES[client]}
        for client in file_kinds.ALL_CLIENTS
    }
    return tuple(client for client in file_kinds.ALL_CLIENTS if own[client] & ftypes) or file_kinds.ALL_CLIENTS


def summary(found: RecordState, there: Catalog, is_listed: bool) -> dict[str, Any]:
    """Return one version as `admin list` prints it."""
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


def _state(record: Record, there: Catalog, is_listed: bool) -> State:
    return visible_state(record.state, listed=is_listed, withheld=bool(there.withheld.get(record.version)))


def reasons(found: RecordState, there: Catalog, is_listed: bool) -> list[Unlisted]:
    """Return why a version or a file of it is not listed: by its record, and by the catalog."""
    record = found.record
    if record is None:
        return [Unlisted("unreadable", found.damage)]
    unlisted = [Unlisted("withdrawn", _withdrawn("it", record.withdrawn))] if record.withdrawn else []
    withdrawn = {file: facts.withdrawn for file, facts in record.files.items() if facts.withdrawn}
    unlisted += [Unlisted("withdrawn", _withdrawn(file, withdrawal)) for file, withdrawal in withdrawn.items()]
    # The record's own reason for a withdrawn file does not say why it was withdrawn.
    unlisted += [Unlisted(reason.kind, reason.sentence) for reason in record.reasons if reason.file not in withdrawn]
    withheld = there.withheld.get(found.version.path, [])
    unlisted += [Unlisted("withheld", entry.reason) for entry in withheld]
    unlisted += [Unlisted("warning", sentence) for sentence in there.shared.get(found.version.path, [])]
    if _state(record, there, is_listed) is State.COMPLETE:
        unlisted.append(
            Unlisted("waiting", "it is complete and about to be listed; run `admin reconcile` if that lasts")
        )
    return unlisted


def _withdrawn(what: str, withdrawal: Withdrawal) -> str:
    until = "is being deleted" if withdrawal.final else f"is deleted after {withdrawal.delete_after}"
    why = f": {withdrawal.reason}" if withdrawal.reason else "; no reason was given"
    return f"{what} was withdrawn at {withdrawal.since} and {until}{why}"


def plain(value: object) -> Any:
    """Return a record or a part of one as JSON types."""
    return msgspec.to_builtins(value)
