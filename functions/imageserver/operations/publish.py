"""Bring a stream's catalog up to date with the records of some products.

An attempt reads the revisions of the three documents first, then the records, then writes each document
that changed with If-Match. Losing any of these races starts again from fresh reads; what was written
already is then found unchanged. The index is compared every time, so a publisher that died between two
writes is made good by the next one.

If-Match is not enough. Another publisher may find an index right that this one is about to change, and
equal documents have equal ETags, so a document that went away and came back is not noticed. Hence an
attempt that wrote looks again at all that it read and wrote, and one that finds a change is repeated.

Publishers of one stream take turns, which a mark on the stream tells (imageserver.storage.leases). That saves the races
and decides nothing: one that has waited for long enough goes on without it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from imageserver.aws.cloudfront import Invalidate, no_invalidation
from imageserver.catalog.render import fold, fold_index, fold_unlisted, product_id
from imageserver.errors import CatalogDamaged, SimplestreamsError
from imageserver.format import documents
from imageserver.format.documents import Document as CatalogDocument
from imageserver.format.documents import Products, Unlisted, Version
from imageserver.format.keys import ProductId, VersionId, stream_lease_key, version_of
from imageserver.storage.leases import wait_for_lease
from imageserver.storage.port import Document, Store, write
from imageserver.storage.retries import attempts
from imageserver.versions import records
from imageserver.versions.records import FileFacts, Record

READERS: Final = 16  # records that are read at once
MOST_REPEATS: Final = 3
"""How often a publisher that wrote begins again because something changed meanwhile.

Each change sends a notice of its own, so most repeats only do the next run's work; what they are for, a
document that came back, does not happen in every one of them.
"""
LEASE_S: Final = 20.0
"""How long a publisher's mark on a stream holds at most, and how long another waits for it.

Above the few seconds that publishing takes; a publisher that was killed delays the next one by so much.
"""


def lease_wait_seconds(left_s: float) -> float:
    """The same for a run with so many seconds left: a quarter, for the edge may need most of it (handlers.publish)."""
    return min(LEASE_S, left_s / 4)


@dataclass(frozen=True, slots=True)
class Tools:
    """Dependencies of `publish`. `invalidate` removes keys from the edge's caches; for `lease_wait_s` see LEASE_S."""

    store: Store
    clients: Sequence[str]
    now: Callable[[], datetime]
    pause: Callable[[float], object]
    invalidate: Invalidate = no_invalidation
    lease_wait_s: float = LEASE_S


@dataclass(slots=True)
class Published:
    """What came of publishing one stream.

    `damaged` products have a record that cannot be read, `not_invalidated` ones bytes that the edge still holds: both,
    together `failed`, were left as they are in the catalog. What failed at the edge is not asked for again in a run.

    `listed` are the versions that clients see from now on, `delisted` those that they see no longer, with the bytes
    of the files that were listed.
    `invalidated`: (key, sha256, time of upload) of the files that the edge was told to invalidate older bytes of.
    `repeats` are attempts that lost nothing and were made again to be sure, see MOST_REPEATS. `had_lease` is
    false when it gave up waiting for the mark on the stream.
    `seen`: prefix -> key -> revision of all that the last attempt read or wrote there.
    """

    stream: str
    writes: int = 0
    attempts: int = 0
    lost_races: int = 0
    repeats: int = 0
    catalog_bytes: int = 0
    damaged: dict[ProductId, SimplestreamsError] = field(default_factory=dict)
    not_invalidated: dict[ProductId, SimplestreamsError] = field(default_factory=dict)
    listed: list[Record] = field(default_factory=list)
    delisted: dict[VersionId, int] = field(default_factory=dict)
    invalidated: set[tuple[str, str, str]] = field(default_factory=set)
    had_lease: bool = False
    seen: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def failed(self) -> dict[ProductId, SimplestreamsError]:
        """The products that could not be folded, and why."""
        return self.damaged | self.not_invalidated


@dataclass(frozen=True, slots=True)
class _Sight:
    """The documents of a stream as an attempt found them, before it read any record."""

    index: Document | None
    products: Document | None
    unlisted: Document | None


def publish(stream: str, products: Iterable[ProductId], tools: Tools) -> Published:
    """Fold these products of one stream into its catalog.

    A product that fails is left out, noted in the answer, and ends nobody else's. Raises CatalogBusy when other
    publishers won every race, CatalogDamaged when a document of the stream cannot be read, StorageUnavailable,
    StorageDenied.
    """
    wanted = sorted(set(products))
    done = Published(stream)
    with wait_for_lease(
        tools.store, stream_lease_key(stream), tools.now, tools.lease_wait_s, tools.pause
    ) as done.had_lease:
        for _ in attempts(f"the catalog of {stream}", tools.pause):
            done.attempts += 1
            done.damaged.clear()
            done.seen.clear()
            writes = done.writes
            if not _attempt(wanted, tools, done):
                done.lost_races += 1
            elif done.writes == writes or _is_as_seen(tools.store, done) or done.repeats == MOST_REPEATS:
                return done
            else:
                done.repeats += 1
    raise AssertionError("attempts() ends by raising")


def _attempt(wanted: Sequence[ProductId], tools: Tools, done: Published) -> bool:
    stream, store = done.stream, tools.store
    sight = _Sight(
        index=_read(store, documents.INDEX_KEY, done),
        products=_read(store, documents.products_key(stream), done),
        unlisted=_read(store, documents.unlisted_key(stream), done),
    )
    changed = _read_products(store, [product for product in wanted if product not in done.not_invalidated], done)
    before = documents.decode_products(sight.products.body if sight.products else None, stream)
    after = _folded(before, changed, tools, done)
    unlisted = documents.decode_unlisted(sight.unlisted.body if sight.unlisted else None, stream)
    index = documents.decode_index(sight.index.body if sight.index else None)
    # First the edge: a digest may be believed as soon as it is written.
    while failed := _not_forgotten(before, after, changed, tools, done):
        changed = {product: versions for product, versions in changed.items() if product not in failed}
        after = _folded(before, changed, tools, done)
    if not _put(store, documents.products_key(stream), after, sight.products, done):
        return False
    _note_changes(before, after, changed, done)
    return _put(store, documents.unlisted_key(stream), fold_unlisted(unlisted, changed), sight.unlisted, done) and _put(
        store, documents.INDEX_KEY, fold_index(index, after), sight.index, done
    )


def _read(store: Store, key: str, done: Published) -> Document | None:
    found = store.read(key)
    done.seen[key] = {key: found.revision} if found else {}
    return found


def _is_as_seen(store: Store, done: Published) -> bool:
    """Whether everything that was read or written is as it was then."""
    return all(
        {info.key: info.etag for info in store.list(prefix)} == revisions for prefix, revisions in done.seen.items()
    )


def _folded(before: Products, changed: dict[ProductId, list[Record]], tools: Tools, done: Published) -> Products:
    """Fold, with the records of every other product that turns out to be touched; `changed` grows by them."""
    folded = fold(before, changed, tools.clients)
    while folded.needs:
        others = {product_id(done.stream, name) for name in folded.needs}
        changed.update(_read_products(tools.store, sorted(others - done.failed.keys()), done))
        if unknown := others & done.failed.keys():
            _set_aside(before, changed, min(unknown), tools, done)
        folded = fold(before, changed, tools.clients)
    return folded.document


def _set_aside(
    before: Products, changed: dict[ProductId, list[Record]], unknown: ProductId, tools: Tools, done: Published
) -> None:
    """Leave products as they are that share an image with one that cannot be folded now.

    Without its records nobody can tell which of the two to list; the others of the batch go on.
    """
    failed = done.damaged if unknown in done.damaged else done.not_invalidated
    cause = failed[unknown]
    for product in sorted(changed):
        if unknown.name in fold(before, {product: changed[product]}, tools.clients).needs:
            del changed[product]
            failed[product] = type(cause)(
                f"{product.name} shares an image with {unknown.name}, which cannot be folded: {cause}"
            )


def _read_products(store: Store, products: Iterable[ProductId], done: Published) -> dict[ProductId, list[Record]]:
    found: dict[ProductId, list[Record]] = {}
    wanted = list(products)
    with ThreadPoolExecutor(READERS, thread_name_prefix="records") as pool:
        folders = list(pool.map(lambda product: list(store.list(product.records_prefix)), wanted))
        keys = [info.key for folder in folders for info in folder]
        bodies = {key: seen for key, seen in zip(keys, pool.map(store.read, keys), strict=True) if seen}
    for product, folder in zip(wanted, folders, strict=True):
        mine = {info.key: bodies[info.key] for info in folder if info.key in bodies}
        done.seen[product.records_prefix] = {key: seen.revision for key, seen in mine.items()}
        try:
            found[product] = [records.decode(seen.body, key) for key, seen in mine.items()]
        except CatalogDamaged as damage:  # its neighbours in the batch go on
            done.damaged[product] = damage
    return found


def _put(store: Store, key: str, document: CatalogDocument, seen: Document | None, done: Published) -> bool:
    """Write a document unless it is there byte for byte; False when another publisher was faster."""
    body = documents.encode(document)
    if isinstance(document, Products):
        done.catalog_bytes = len(body)
    if (seen and seen.body == body) or (seen is None and _says_nothing(document)):
        return True
    revision = write(store, key, body, seen)
    if not revision:
        return False
    done.seen[key] = {key: revision}
    done.writes += 1
    return True


def _says_nothing(document: CatalogDocument) -> bool:
    """A document about nothing is not worth creating, but for the index: clients ask for it on an empty server."""
    if isinstance(document, Products):
        return not (document.products or document.withheld)
    return isinstance(document, Unlisted) and not document.products


def _not_forgotten(
    before: Products, after: Products, changed: Mapping[ProductId, Sequence[Record]], tools: Tools, done: Published
) -> set[ProductId]:
    """Make the edge invalidate what it may hold of keys that get another digest, or lost their file.

    Returns the products for which that failed. What was invalidated once in this run is not again: its bytes had
    changed by then, and waiting takes long.
    """
    names = [product.name for product in changed]
    was, now = _files(before, names), _files(after, names)
    held = {key for key, _ in was}
    facts, replaced = _facts(changed), _replaced(changed)
    stale = {(key, sha256, facts[key].modified) for key, sha256 in now - was if key in held or key in replaced}
    stale |= {(key, "", "") for key, _ in was - now if key not in facts}
    if not (new := stale - done.invalidated):
        return set()
    try:
        tools.invalidate(sorted(key for key, _, _ in new))
    except SimplestreamsError as error:
        failed = {version_of(key).product for key, _, _ in new}
        done.not_invalidated |= dict.fromkeys(failed, error)
        return failed
    done.invalidated |= new
    return set()


def _facts(changed: Mapping[ProductId, Sequence[Record]]) -> dict[str, FileFacts]:
    """What is known of each file of these products, by key."""
    every = (record for versions in changed.values() for record in versions)
    return {f"{record.version}/{file}": facts for record in every for file, facts in record.files.items()}


def _replaced(changed: Mapping[ProductId, Sequence[Record]]) -> set[str]:
    """The keys that held other bytes before."""
    every = (record for versions in changed.values() for record in versions)
    return {f"{record.version}/{file}" for record in every for file in record.replaced}


def _files(document: Products, names: Iterable[str]) -> set[tuple[str, str]]:
    """(key, sha256) of every file that some products list."""
    return {
        (item.path, item.sha256)
        for name in names
        if name in document.products
        for version in documents.decode_versions(document.products[name]).values()
        for item in version.items.values()
    }


def _note_changes(
    before: Products, after: Products, changed: Mapping[ProductId, Sequence[Record]], done: Published
) -> None:
    """Note the versions that the catalog lists from now on, and those that it lists no longer."""
    for product, versions in changed.items():
        was, now = _versions(before, product), _versions(after, product)
        done.listed.extend(record for record in versions if record.id.version in now.keys() - was.keys())
        for name in sorted(was.keys() - now.keys()):
            sizes = {item.path: item.size for item in was[name].items.values()}  # a file may be two items
            done.delisted[VersionId(product, name)] = sum(sizes.values())


def _versions(document: Products, product: ProductId) -> dict[str, Version]:
    entry = document.products.get(product.name)
    return documents.decode_versions(entry) if entry else {}
