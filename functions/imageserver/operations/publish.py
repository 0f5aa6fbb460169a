"""Bring a stream's catalog up to date with the records of some products.

An attempt reads the revisions of the three documents first, then the records, then writes each document
that changed with If-Match. Losing any of these races starts again from fresh reads; what was written
already is then found unchanged. The index is compared every time, so a publisher that died between two
writes is made good by the next one.

If-Match is not enough. Another publisher may find an index right that this one is about to change, and
equal documents have equal ETags, so a document that went away and came back is not noticed. Hence an
attempt that wrote looks again at all that it read and wrote, and one that finds a change is repeated.

Publishers of one stream take turns by a lease on the stream (imageserver.storage.leases). It saves races and decides
nothing: a publisher that has waited for long enough continues without it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from imageserver.aws.cloudfront import Invalidate, no_invalidation
from imageserver.catalog.fold import fold, fold_index, fold_unlisted
from imageserver.errors import CatalogDamaged, SimplestreamsError
from imageserver.format import documents
from imageserver.format.documents import Document as CatalogDocument
from imageserver.format.documents import Products, Unlisted, Version, product_id
from imageserver.format.keys import ProductId, VersionId, stream_lease_key, version_of
from imageserver.storage.leases import wait_for_lease
from imageserver.storage.listing import is_unchanged
from imageserver.storage.port import Document, Store, write
from imageserver.storage.retries import RaceLost, retry
from imageserver.versions import records
from imageserver.versions.records import FileFacts, Record

READERS: Final = 16  # records that are read at once
MOST_REPEATS: Final = 3
"""How often a publisher that wrote begins again because something changed meanwhile.

Each change sends an event of its own, so most repeats only do the next run's work. The case that needs them, a
document that came back, is rare.
"""
LEASE_S: Final = 20.0
"""How long a publisher's lease on a stream lasts at most, and how long another waits for it.

Above the few seconds that publishing takes; a publisher that was killed delays the next one by this long.
"""


def lease_wait_seconds(left_s: float) -> float:
    """Return the wait for a run with this time left: a quarter of it, since CloudFront may need most of the rest."""
    return min(LEASE_S, left_s / 4)


@dataclass(frozen=True, slots=True)
class PublishServices:
    """Dependencies of `publish`. `invalidate` removes keys from the edge's caches; for `lease_wait_s` see LEASE_S."""

    store: Store
    clients: Sequence[str]
    now: Callable[[], datetime]
    pause: Callable[[float], object]
    invalidate: Invalidate = no_invalidation
    lease_wait_s: float = LEASE_S


@dataclass(slots=True)
class Published:
    """Result of publishing one stream.

    `damaged` products were left as they are in the catalog: a record of theirs cannot be read. `held` versions were
    taken off the list: the edge may hold other bytes of them and did not take an invalidation, which is not asked for
    again in this run. Both are `failed`.

    `listed` are the versions that clients see from now on, `delisted` those that they see no longer, with the bytes
    of the files that were listed.
    `invalidated`: (key, sha256, time of upload) of the files that the edge was told to invalidate older bytes of.
    `repeats` are attempts that lost nothing and were made again to be sure, see MOST_REPEATS. `had_lease` is
    false when it gave up waiting for the lease on the stream.
    `seen`: prefix -> key -> revision of all that the last attempt read or wrote there.
    """

    stream: str
    writes: int = 0
    attempts: int = 0
    lost_races: int = 0
    repeats: int = 0
    catalog_bytes: int = 0
    damaged: dict[ProductId, SimplestreamsError] = field(default_factory=dict)
    held: dict[VersionId, SimplestreamsError] = field(default_factory=dict)
    listed: list[Record] = field(default_factory=list)
    delisted: dict[VersionId, int] = field(default_factory=dict)
    invalidated: set[tuple[str, str, str]] = field(default_factory=set)
    had_lease: bool = False
    seen: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def failed(self) -> dict[ProductId, SimplestreamsError]:
        """The products that are not listed as their records say, and why."""
        return {version.product: error for version, error in self.held.items()} | self.damaged


def publish(stream: str, products: Iterable[ProductId], services: PublishServices) -> Published:
    """Fold these products of one stream into its catalog.

    A product that fails is noted in the answer, and the others are published. Raises CatalogBusy when other publishers
    won every race, CatalogDamaged when a document of the stream cannot be read, StorageUnavailable, StorageDenied.
    """
    wanted = sorted(set(products))
    done = Published(stream)
    with wait_for_lease(
        services.store, stream_lease_key(stream), services.now, services.lease_wait_s, services.pause
    ) as done.had_lease:
        retry(f"the catalog of {stream}", partial(_attempt, wanted, services, done), services.pause)
    return done


def _attempt(wanted: Sequence[ProductId], services: PublishServices, done: Published) -> None:
    """Write what changed; RaceLost when another publisher was faster, or anything changed while this one wrote."""
    done.attempts += 1
    done.damaged.clear()
    done.seen.clear()
    writes = done.writes
    _update(wanted, services, done)
    if done.writes > writes and done.repeats < MOST_REPEATS and not is_unchanged(services.store, done.seen):
        done.repeats += 1
        raise RaceLost


def _update(wanted: Sequence[ProductId], services: PublishServices, done: Published) -> None:
    stream, store = done.stream, services.store
    index_seen = _read(store, documents.INDEX_KEY, done)
    products_seen = _read(store, documents.products_key(stream), done)
    unlisted_seen = _read(store, documents.unlisted_key(stream), done)
    changed = _read_products(store, wanted, done)
    before = documents.decode_products(products_seen.body if products_seen else None, stream)
    after = _folded(before, changed, services, done)
    unlisted = documents.decode_unlisted(unlisted_seen.body if unlisted_seen else None, stream)
    index = documents.decode_index(index_seen.body if index_seen else None)
    # First the edge: a digest may be believed as soon as it is written.
    while not _invalidate(before, after, changed, services, done):
        changed = _without_failed(changed, done)
        after = _folded(before, changed, services, done)
    _put(store, documents.products_key(stream), after, products_seen, done)
    _note_changes(before, after, changed, done)
    _put(store, documents.unlisted_key(stream), fold_unlisted(unlisted, changed), unlisted_seen, done)
    _put(store, documents.INDEX_KEY, fold_index(index, after), index_seen, done)


def _read(store: Store, key: str, done: Published) -> Document | None:
    found = store.read(key)
    done.seen[key] = {key: found.revision} if found else {}
    return found


def _folded(
    before: Products, changed: dict[ProductId, list[Record]], services: PublishServices, done: Published
) -> Products:
    """Fold, with the records of every other product that turns out to be touched; `changed` grows by them."""
    folded = fold(before, changed, services.clients)
    while folded.needs:
        others = {product_id(done.stream, name) for name in folded.needs}
        changed.update(_read_products(services.store, sorted(others - done.damaged.keys()), done))
        if unknown := others & done.damaged.keys():
            _set_aside(before, changed, min(unknown), services, done)
        folded = fold(before, changed, services.clients)
    return folded.document


def _set_aside(
    before: Products,
    changed: dict[ProductId, list[Record]],
    unknown: ProductId,
    services: PublishServices,
    done: Published,
) -> None:
    """Leave products as they are that share an image with one whose records cannot be read.

    Without those nobody can tell which of the two to list; the others of the batch go on.
    """
    for product in sorted(changed):
        if unknown.name in fold(before, {product: changed[product]}, services.clients).needs:
            del changed[product]
            done.damaged[product] = CatalogDamaged(
                f"{product.name} shares an image with {unknown.name}, which is damaged: {done.damaged[unknown]}"
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
            versions = [records.decode(seen.body, key) for key, seen in mine.items()]
            found[product] = [record for record in versions if record.id not in done.held]
        except CatalogDamaged as damage:  # its neighbours in the batch go on
            done.damaged[product] = damage
    return found


def _put(store: Store, key: str, document: CatalogDocument, seen: Document | None, done: Published) -> None:
    """Write a document unless it is there byte for byte; RaceLost when another publisher was faster."""
    body = documents.encode(document)
    if isinstance(document, Products):
        done.catalog_bytes = len(body)
    if (seen and seen.body == body) or (seen is None and _says_nothing(document)):
        return
    revision = write(store, key, body, seen)
    if not revision:
        done.lost_races += 1
        raise RaceLost
    done.seen[key] = {key: revision}
    done.writes += 1


def _says_nothing(document: CatalogDocument) -> bool:
    """A document about nothing is not worth creating, but for the index: clients ask for it on an empty server."""
    if isinstance(document, Products):
        return not (document.products or document.withheld)
    return isinstance(document, Unlisted) and not document.products


def _invalidate(
    before: Products,
    after: Products,
    changed: Mapping[ProductId, Sequence[Record]],
    services: PublishServices,
    done: Published,
) -> bool:
    """Make the edge invalidate what it may hold of keys that get another digest, or lost their file.

    What was invalidated once in this run is not again: its bytes had changed by then, and waiting takes long. False
    when it failed, which is noted in `done`: a version is held back whose record remembers that its keys held other
    bytes, so the next try knows it too. Of another one only the catalog remembers it, so its product is left there as
    it is.
    """
    if not (new := _stale(before, after, changed, done) - done.invalidated):
        return True
    try:
        services.invalidate(sorted(key for key, _, _ in new))
    except SimplestreamsError as error:
        replaced = _replaced(changed)
        for key, sha256, _ in new:
            version = version_of(key)
            if sha256 and key not in replaced:
                done.damaged[version.product] = error
            else:
                done.held[version] = error
        return False
    done.invalidated |= new
    return True


def _stale(
    before: Products, after: Products, changed: Mapping[ProductId, Sequence[Record]], done: Published
) -> set[tuple[str, str, str]]:
    """(key, sha256, time of upload) of what the edge may hold other bytes of; the last two are empty for no file.

    A version that is listed anew may have lost a file when it was held back.
    """
    names = [product.name for product in changed]
    was, now = _files(before, names), _files(after, names)
    facts, replaced = _facts(changed), _replaced(changed)
    known = {key for key, _ in was} | replaced
    anew = _folders(now) - _folders(was)
    gone = {key for key, _ in was - now if version_of(key) not in done.held}
    gone |= {key for key in replaced if key.rpartition("/")[0] in anew}
    stale = {(key, sha256, facts[key].modified) for key, sha256 in now - was if key in known}
    return stale | {(key, "", "") for key in gone - facts.keys()}


def _folders(files: Iterable[tuple[str, str]]) -> set[str]:
    return {key.rpartition("/")[0] for key, _ in files}


def _without_failed(changed: Mapping[ProductId, Sequence[Record]], done: Published) -> dict[ProductId, list[Record]]:
    return {
        product: [record for record in versions if record.id not in done.held]
        for product, versions in changed.items()
        if product not in done.damaged
    }


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
