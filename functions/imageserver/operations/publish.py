"""Bring a stream's catalog up to date with the records of some products.

An attempt reads the revisions of the three documents first, then other streams' documents and the records, then
writes each document that changed with If-Match. Losing any of these races starts again from fresh reads; what was
written already is then found unchanged. The index is compared every time, so the next
publisher repairs what one that died between two writes left behind.

If-Match is not enough. Another publisher may find an index right that this one is about to change, and
equal documents have equal ETags, so a document that went away and came back is not noticed. Hence an
attempt that wrote looks again at all that it read and wrote, and one that finds a change is repeated.

The edge serves only uploads that are marked as listed (decisions/0010-listed-uploads.md). An attempt marks them, before
or after it writes the catalog; see catalog.changes.Marks.

Publishers of one stream take turns by a lease on the stream (imageserver.storage.leases). It saves races and decides
nothing: a publisher that has waited for long enough continues without it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from imageserver.aws.cloudfront import Invalidate, no_invalidation
from imageserver.catalog.changes import Changes, Mark, StaleKey, compare, marks
from imageserver.catalog.feeds import feed_key, render_feed
from imageserver.catalog.fold import Folded, fold, fold_index, fold_unlisted
from imageserver.catalog.rights import NOBODY, Rights
from imageserver.catalog.streams import ALONE, Streams
from imageserver.errors import CatalogDamaged, SimplestreamsError
from imageserver.format import documents
from imageserver.format.documents import Index, Products
from imageserver.format.keys import ProductId, VersionId, stream_lease_key
from imageserver.storage.leases import wait_for_lease
from imageserver.storage.listing import is_unchanged
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store, StoredObject, write
from imageserver.storage.retries import RaceLost, retry
from imageserver.versions import records
from imageserver.versions.records import Record

MOST_REPEATS: Final = 3
"""How often a publisher that wrote begins again because something changed meanwhile.

Each change sends an event of its own, so most repeats only do the next run's work. The case that needs them, a
document that came back, is rare.
"""
LEASE_S: Final = 20.0
"""How long a publisher's lease on a stream lasts at most, and how long another waits for it.

Above the few seconds that publishing takes; a publisher that was killed delays the next one by this long.
"""


Subject = ProductId | VersionId
"""What publish is asked about: a record that changed, or a whole product of which anything may be wrong."""


def product_of(subject: Subject) -> ProductId:
    """Return the product that is folded for a subject."""
    return subject.product if isinstance(subject, VersionId) else subject


def lease_wait_seconds(left_s: float) -> float:
    """Return the wait for a run with this time left: a quarter of it, since CloudFront may need most of the rest."""
    return min(LEASE_S, left_s / 4)


@dataclass(frozen=True, slots=True)
class PublishServices:
    """Dependencies of `publish`. `invalidate` removes keys from the edge's caches; for `lease_wait_s` see LEASE_S.

    `server` is a name that no other server has. `rights` say who may use which names.
    `notify` sends publish a product of another stream that is to be folded again.
    """

    store: Store
    clients: Sequence[str]
    now: Callable[[], datetime]
    pause: Callable[[float], object]
    invalidate: Invalidate = no_invalidation
    lease_wait_s: float = LEASE_S
    server: str = "simplestreams"
    rights: Rights = NOBODY
    notify: Callable[[ProductId], object] = lambda _: None


@dataclass(slots=True)
class Published:
    """Result of publishing one stream.

    `damaged` products were left as they are in the catalog: a record of theirs cannot be read. `held` versions were
    taken off the list: the edge may hold other bytes of them and did not take an invalidation, which is not asked for
    again in this run. Both are `failed`.

    `listed` are the versions that clients see from now on, `delisted` those that they see no longer, with the bytes
    of the files that were listed.
    `invalidated` are the keys whose older bytes the edge invalidated.
    `repeats` are attempts that lost nothing and were made again to be sure, see MOST_REPEATS. `had_lease` is
    false when it gave up waiting for the lease on the stream.
    `has_neighbours`: the server has other streams. `outdated` are products that are to be folded again: of these, and
    of this one where they never rested meanwhile.
    `asked` is what publish was called for, and `marked` the uploads that the edge may serve since.
    `revisions`: prefix -> key -> revision of all that the last attempt read or wrote there.
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
    invalidated: set[StaleKey] = field(default_factory=set)
    had_lease: bool = False
    has_neighbours: bool = False
    outdated: frozenset[ProductId] = frozenset()
    asked: frozenset[Subject] = frozenset()
    marked: set[Mark] = field(default_factory=set)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def failed(self) -> dict[ProductId, SimplestreamsError]:
        """The products that are not listed as their records say, and why."""
        return {version.product: error for version, error in self.held.items()} | self.damaged


def publish(stream: str, subjects: Iterable[Subject], services: PublishServices) -> Published:
    """Fold the products of these subjects, of one stream, into its catalog.

    The listed files of each subject are marked again. A product that fails is noted in the answer, and the others are
    published. Raises CatalogBusy when other publishers won every race, CatalogDamaged when a document of the stream
    cannot be read, StorageUnavailable, StorageDenied.
    """
    asked = frozenset(subjects)
    wanted = sorted(set(map(product_of, asked)))
    done = Published(stream, asked=asked)
    with wait_for_lease(
        services.store, stream_lease_key(stream), services.now, services.lease_wait_s, services.pause
    ) as done.had_lease:
        retry(f"the catalog of {stream}", partial(_attempt, wanted, services, done), services.pause)
    for product in sorted(done.outdated):  # a run that dies before this is repeated, and finds them again
        services.notify(product)
    return done


def _attempt(wanted: Sequence[ProductId], services: PublishServices, done: Published) -> None:
    """Write what changed; RaceLost when another publisher was faster, or anything changed while this one wrote."""
    done.attempts += 1
    done.damaged.clear()
    done.revisions.clear()
    writes = done.writes
    _update(wanted, services, done)
    if done.writes == writes or is_unchanged(services.store, done.revisions):
        return
    if done.repeats < MOST_REPEATS:
        done.repeats += 1
        raise RaceLost
    if done.has_neighbours:
        done.outdated |= set(wanted)


def _update(wanted: Sequence[ProductId], services: PublishServices, done: Published) -> None:
    stream, store = done.stream, services.store
    index_seen = _read(store, documents.INDEX_KEY, done)
    products_seen = _read(store, documents.products_key(stream), done)
    unlisted_seen = _read(store, documents.unlisted_key(stream), done)
    feed_seen = _read(store, feed_key(stream), done)
    index = documents.decode_index(index_seen.body if index_seen else None)
    before = documents.decode_products(products_seen.body if products_seen else None, stream)
    streams = _beside(before, index, done, store)
    changed = _read_products(store, wanted, done)
    after = _folded(before, streams, changed, services, done)
    unlisted = documents.decode_unlisted(unlisted_seen.body if unlisted_seen else None, stream)
    # First the edge: a digest may be believed as soon as it is written.
    while not _invalidate(changes := compare(before, after, changed, done.held), services, done):
        changed = {
            product: [record for record in versions if record.id not in done.held]
            for product, versions in changed.items()
            if product not in done.damaged
        }
        after = _folded(before, streams, changed, services, done)
    to_mark = marks(before, after, changed, done.asked)
    for product in sorted(to_mark.uncertain):
        services.notify(product)
    _mark(store, to_mark.first, done)
    # A document about nothing is not worth creating, except for the index: clients ask for it on an empty server.
    if products_seen or after != before:
        body = documents.encode(after)
        done.catalog_bytes = len(body)
        _put(store, documents.products_key(stream), body, products_seen, done)
    _mark(store, to_mark.then, done)
    done.listed += changes.listed
    done.delisted |= changes.delisted
    unlisted_after = fold_unlisted(unlisted, changed)
    if unlisted_seen or unlisted_after != unlisted:
        _put(store, documents.unlisted_key(stream), documents.encode(unlisted_after), unlisted_seen, done)
    _put(store, documents.INDEX_KEY, documents.encode(fold_index(index, after)), index_seen, done)
    if feed_seen or after.products:
        _put(store, feed_key(stream), render_feed(after, services.server), feed_seen, done)


def _mark(store: Store, uploads: set[Mark], done: Published) -> None:
    """Let the edge serve these uploads. One that is gone by now was replaced or deleted, which sends an event."""
    new = sorted(uploads - done.marked)
    in_parallel(lambda mark: store.mark_listed(mark.key, mark.version_id), new)
    done.marked.update(new)


def _beside(before: Products, index: Index, done: Published, store: Store) -> Streams:
    """Return the document with those of the server's other streams, as the index names them."""
    others = sorted(index.index.keys() - {done.stream})
    done.has_neighbours = bool(others)
    if not others:
        return ALONE
    seen = in_parallel(lambda stream: _read(store, documents.products_key(stream), done), others)
    found = [documents.decode_products(one.body if one else None, name) for name, one in zip(others, seen, strict=True)]
    return Streams([before, *found])


def _read(store: Store, key: str, done: Published) -> StoredObject | None:
    found = store.read(key)
    done.revisions[key] = {key: found.revision} if found else {}
    return found


def _folded(
    before: Products,
    streams: Streams,
    changed: dict[ProductId, list[Record]],
    services: PublishServices,
    done: Published,
) -> Products:
    """Fold, with the records of every other product that turns out to be touched.

    `changed` grows by those of this stream.
    """
    elsewhere: dict[ProductId, list[Record]] = {}
    folded = _fold(before, streams, {**changed, **elsewhere}, services)
    while folded.needs:
        found = _read_products(services.store, sorted(folded.needs - done.damaged.keys()), done)
        changed.update((product, known) for product, known in found.items() if product.stream == done.stream)
        elsewhere.update((product, known) for product, known in found.items() if product.stream != done.stream)
        if unknown := folded.needs & done.damaged.keys():
            _set_aside(before, streams, changed, min(unknown), services, done)
        folded = _fold(before, streams, {**changed, **elsewhere}, services)
    done.outdated = folded.outdated
    return folded.document


def _fold(
    before: Products, streams: Streams, known: Mapping[ProductId, Sequence[Record]], services: PublishServices
) -> Folded:
    return fold(before, known, services.clients, services.rights, streams)


def _set_aside(
    before: Products,
    streams: Streams,
    changed: dict[ProductId, list[Record]],
    unknown: ProductId,
    services: PublishServices,
    done: Published,
) -> None:
    """Leave products as they are that share an image or a name with one whose records cannot be read.

    Without those nobody can tell which of the two to list; the others of the batch go on.
    """
    for product in sorted(changed):
        if unknown in _fold(before, streams, {product: changed[product]}, services).needs:
            del changed[product]
            done.damaged[product] = CatalogDamaged(
                f"{product.name} shares an image with {unknown.name}, which is damaged: {done.damaged[unknown]}"
            )


def _read_products(store: Store, products: Iterable[ProductId], done: Published) -> dict[ProductId, list[Record]]:
    found: dict[ProductId, list[Record]] = {}
    wanted = list(products)
    folders = in_parallel(lambda product: list(store.list(product.records_prefix)), wanted)
    keys = [info.key for folder in folders for info in folder]
    bodies = {key: seen for key, seen in zip(keys, in_parallel(store.read, keys), strict=True) if seen}
    for product, folder in zip(wanted, folders, strict=True):
        mine = {info.key: bodies[info.key] for info in folder if info.key in bodies}
        done.revisions[product.records_prefix] = {key: seen.revision for key, seen in mine.items()}
        try:
            versions = [records.decode(seen.body, key) for key, seen in mine.items()]
            found[product] = [record for record in versions if record.id not in done.held]
        except CatalogDamaged as damage:  # its neighbours in the batch go on
            done.damaged[product] = damage
    return found


def _put(store: Store, key: str, body: bytes, seen: StoredObject | None, done: Published) -> None:
    """Write a document unless it is there byte for byte; raise RaceLost when another publisher was faster."""
    if seen and seen.body == body:
        return
    revision = write(store, key, body, seen)
    if not revision:
        done.lost_races += 1
        raise RaceLost
    done.revisions[key] = {key: revision}
    done.writes += 1


def _invalidate(changes: Changes, services: PublishServices, done: Published) -> bool:
    """Make the edge invalidate what it may hold of keys that get another digest, or lost their file.

    What was invalidated once in this run is not again: its bytes had changed by then, and waiting takes long. Return
    False when it failed, which is noted in `done`. A version is held back whose record remembers that its keys held
    other bytes, so the next try knows it too. Of any other key only the catalog remembers it, so its product is left
    there as it is.
    """
    if not (new := changes.stale - done.invalidated):
        return True
    try:
        services.invalidate(sorted({stale.key for stale in new}))
    except SimplestreamsError as error:
        for stale in new:
            if stale.sha256 and not stale.is_recorded:
                done.damaged[stale.version.product] = error
            else:
                done.held[stale.version] = error
        return False
    done.invalidated |= new
    return True
