"""Bring a stream's catalog up to date with the records of some products.

An attempt reads the revisions of the documents first, then other streams' documents and the records, then writes each
document that changed with If-Match. Each view that takes one of the products has its own documents, which are folded
from the same records and written in the same attempt. A lost race starts again from fresh reads; documents that were
written already are then found unchanged. The index is compared every time, so if a publisher dies between two writes
the next one repairs it.

If-Match is not enough. Another publisher may find an index correct that this one is about to change, and equal
documents have equal ETags, so a document that changed and changed back is not noticed. An attempt that wrote therefore
checks again all that it read and wrote, and is repeated if anything has changed.

The edge serves only uploads that are tagged as listed (decisions/0010-listed-uploads.md). An attempt tags them, before
or after it writes the catalog; see catalog.changes.UploadsToTag.

Publishers of one stream take turns by a lease on the stream (imageserver.storage.leases). It saves races and decides
nothing: a publisher that has waited long enough continues without it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from imageserver.aws.cloudfront import Invalidate, no_invalidation
from imageserver.catalog.changes import Changes, ListedUpload, StaleKey, compare, uploads_to_tag
from imageserver.catalog.rights import NOBODY, Rights
from imageserver.errors import CatalogDamaged, SimplestreamsError
from imageserver.format import documents
from imageserver.format.keys import ProductId, VersionId, product_of, stream_lease_key
from imageserver.operations.stream_catalogs import StreamCatalog, keys_of, read_neighbours, read_stream
from imageserver.operations.view_documents import KnownViews, read_views
from imageserver.storage.leases import wait_for_lease
from imageserver.storage.listing import etags, is_unchanged
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store, StoredObject, write
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.versions import records
from imageserver.versions.records import Record
from imageserver.views.catalogs import EVERYBODY, Catalog, catalogs
from imageserver.views.view import SERVED, VIEWS

MOST_REPEATS: Final = 3
"""How often a publisher that wrote starts again because something changed meanwhile.

Each change sends its own event, so most repeats only do the next run's work. The case that needs them, a document
that changed and changed back, is rare.
"""
LEASE_S: Final = 20.0
"""How long a publisher's lease on a stream lasts at most, and how long another waits for it.

More than the few seconds that publishing takes; a killed publisher delays the next one by this long.
"""


Subject = ProductId | VersionId
"""The subject of a message to publish: a changed record, or a whole product that may be outdated in any way."""


def lease_wait_seconds(left_s: float) -> float:
    """Return the wait for a run with this time left: a quarter of it, since CloudFront may need most of the rest."""
    return min(LEASE_S, left_s / 4)


@dataclass(frozen=True, slots=True)
class PublishServices:
    """Dependencies of `publish`. `invalidate` removes keys from the edge's caches; LEASE_S explains `lease_wait_s`.

    `server` is a name that no other server has. `rights` say who may use which names.
    `notify` sends publish a product of another stream that is to be folded again. `views`: the server may have views,
    each with its own catalog; `known_views` are kept from one run to the next.
    """

    store: Store
    clients: Sequence[str]
    now: Callable[[], datetime]
    pause: Pause
    invalidate: Invalidate = no_invalidation
    lease_wait_s: float = LEASE_S
    server: str = "simplestreams"
    rights: Rights = NOBODY
    notify: Callable[[ProductId], object] = lambda _: None
    views: bool = False
    known_views: KnownViews = field(default_factory=dict)


@dataclass(slots=True)
class Published:
    """Result of publishing one stream.

    `damaged` products stay in the catalog as they are, because one of their records cannot be read. `held` versions
    were taken off the list, because the edge may hold other bytes of them and their invalidation failed; it is not
    requested again in this run. Both are `failed`.

    `listed` are the versions that clients see from now on, `delisted` those that they no longer see, with the size of
    their listed files. `invalidated` are the keys whose older bytes were invalidated at the edge. `repeats` counts
    attempts that lost no race and were repeated because something changed, see MOST_REPEATS. `had_lease` is false if it
    gave up waiting for the lease on the stream. `has_neighbours`: the server has other streams, or `views`. `outdated`
    are products to fold again: those of other streams, and those of this one that kept changing meanwhile. `asked` are
    the subjects that publish was called with, and `tagged` the uploads that the edge may serve since. `revisions`:
    prefix -> key -> revision of all that the last attempt read or wrote there.
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
    views: bool = False
    outdated: frozenset[ProductId] = frozenset()
    asked: frozenset[Subject] = frozenset()
    tagged: set[ListedUpload] = field(default_factory=set)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def failed(self) -> dict[ProductId, SimplestreamsError]:
        """The products that are not listed as their records say, and why."""
        return {version.product: error for version, error in self.held.items()} | self.damaged


@dataclass(slots=True)
class _Records:
    """The records of products, each read once in an attempt."""

    store: Store
    done: Published
    known: dict[ProductId, list[Record]] = field(default_factory=dict)

    def of(self, products: Collection[ProductId]) -> dict[ProductId, Sequence[Record]]:
        """Return the records of the undamaged products, without the held versions; note the damaged products."""
        wanted = sorted(set(products) - self.known.keys() - self.done.damaged.keys())
        folders = in_parallel(lambda product: list(self.store.list(product.records_prefix)), wanted)
        keys = [info.key for folder in folders for info in folder]
        bodies = {key: seen for key, seen in zip(keys, in_parallel(self.store.read, keys), strict=True) if seen}
        for product, folder in zip(wanted, folders, strict=True):
            mine = {info.key: bodies[info.key] for info in folder if info.key in bodies}
            self.done.revisions[product.records_prefix] = {key: seen.revision for key, seen in mine.items()}
            try:
                self.known[product] = [records.decode(seen.body, key) for key, seen in mine.items()]
            except CatalogDamaged as damage:  # the other products of the batch continue
                self.done.damaged[product] = damage
        return {
            product: [record for record in self.known[product] if record.id not in self.done.held]
            for product in products
            if product in self.known and product not in self.done.damaged
        }


def publish(stream: str, subjects: Iterable[Subject], services: PublishServices) -> Published:
    """Fold the products of these subjects, of one stream, into its catalog.

    The listed files of each subject are tagged again. A product that fails is noted in the answer, and the others are
    published. Raises CatalogBusy if other publishers won every race, CatalogDamaged if a document of the stream cannot
    be read, StorageUnavailable, StorageDenied.
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
    """Write what changed. Raise RaceLost if another publisher was faster, or anything changed while this one wrote."""
    done.attempts += 1
    done.damaged.clear()
    done.revisions.clear()
    writes = done.writes
    try:
        _update(wanted, services, done)
    except RaceLost:
        done.lost_races += 1  # once, however many documents were lost: they are read in parallel
        raise
    if done.writes == writes:
        return
    # One listing covers the documents of all views.
    of_views = {key: found for key, found in done.revisions.items() if key.startswith(SERVED)}
    others = {prefix: found for prefix, found in done.revisions.items() if prefix not in of_views}
    noted = {key: etag for found in of_views.values() for key, etag in found.items()}
    if is_unchanged(services.store, others) and etags(services.store, of_views) == noted:
        return
    if done.repeats < MOST_REPEATS:
        done.repeats += 1
        raise RaceLost
    if done.has_neighbours:
        done.outdated |= set(wanted)


def _update(wanted: Sequence[ProductId], services: PublishServices, done: Published) -> None:
    stream, store = done.stream, services.store
    done.outdated = frozenset()
    everybody, of_views = EVERYBODY, list[Catalog]()
    if services.views:
        views, done.revisions[VIEWS] = read_views(store, services.known_views)
        done.views = bool(views)
        everybody, *every_view = catalogs(views)
        of_views = [one for one in every_view if any(map(one.takes, wanted))]
    first = read_stream(everybody, stream, partial(_read, store, done=done))
    noted = etags(store, {key for one in of_views for key in keys_of(one, stream)})
    if done.views and not is_unchanged(store, {VIEWS: done.revisions[VIEWS]}):
        raise RaceLost  # a view must be read after the revisions of the documents that are decided from it
    done.has_neighbours = done.views or bool(everybody.others(first.index, stream))
    known = _Records(store, done)
    _bring_up_to_date(first, wanted, known, services, done)
    for catalog in of_views:  # one after the other, because a document may have 10 MB
        one = read_stream(catalog, stream, partial(_read_noted, store, noted=noted, done=done))
        _bring_up_to_date(one, wanted, known, services, done)


def _bring_up_to_date(
    one: StreamCatalog, wanted: Sequence[ProductId], known: _Records, services: PublishServices, done: Published
) -> None:
    """Write the changed documents of a stream in one catalog."""
    store, prefix, before = services.store, one.catalog.prefix, done.outdated
    one.streams = read_neighbours(one, partial(_read, store, done=done))
    done.outdated = before | _fold(one, wanted, known, services, done)
    # First the edge: clients rely on a digest as soon as it is written.
    while not _invalidate(changes := compare(one.before, one.after, one.changed, done.held), services, done):
        done.outdated = before | _fold(one, wanted, known, services, done)
    to_tag = uploads_to_tag(one.before, one.after, one.changed, done.asked)
    for product in sorted(to_tag.uncertain):
        services.notify(product)
    _tag(store, to_tag.first, done)
    if body := one.products_body():
        if not prefix:
            done.catalog_bytes = len(body)
        _put(store, prefix + documents.products_key(one.stream), body, one.seen, done)
    _tag(store, to_tag.then, done)
    if not prefix:  # the public catalog counts
        done.listed += changes.listed
        done.delisted |= changes.delisted
    for key, body in one.other_bodies(services.server):
        _put(store, key, body, one.seen, done)


def _tag(store: Store, uploads: set[ListedUpload], done: Published) -> None:
    """Let the edge serve these uploads. An upload that is gone was replaced or deleted, which sends an event."""
    new = sorted(uploads - done.tagged)
    in_parallel(lambda upload: store.tag_listed(upload.key, upload.version_id), new)
    done.tagged.update(new)


def _read(store: Store, key: str, done: Published) -> StoredObject | None:
    found = store.read(key)
    done.revisions[key] = {key: found.revision} if found else {}
    return found


def _read_noted(store: Store, key: str, noted: Mapping[str, str], done: Published) -> StoredObject | None:
    """Read a document that was `noted` before the records were read. Raise RaceLost if it has changed since.

    A document that was not there is not requested. If it has appeared since, writing it fails, and so does the final
    check of all that was read.
    """
    if key not in noted:
        done.revisions[key] = {}
        return None
    found = _read(store, key, done)
    if not found or found.revision != noted[key]:
        raise RaceLost
    return found


def _fold(
    one: StreamCatalog,
    wanted: Collection[ProductId],
    known: _Records,
    services: PublishServices,
    done: Published,
) -> frozenset[ProductId]:
    """Fold, with the records of every other product that turns out to be affected.

    Return the outdated products elsewhere.
    """
    changed = known.of(wanted)
    folded = one.fold(changed, services.clients, services.rights)
    while folded.needs:
        changed |= known.of(folded.needs)
        if unknown := folded.needs & done.damaged.keys():
            _set_aside(one, changed, min(unknown), services, done)
        folded = one.fold(changed, services.clients, services.rights)
    one.put(folded, changed)
    return folded.outdated


def _set_aside(
    one: StreamCatalog,
    changed: dict[ProductId, Sequence[Record]],
    unknown: ProductId,
    services: PublishServices,
    done: Published,
) -> None:
    """Leave alone the products that share an image or a name with a product whose records cannot be read.

    Without those records it is unknown which of the two to list. The rest of the batch continues.
    """
    for product in [product for product in sorted(changed) if product.stream == one.stream]:
        if unknown in one.fold({product: changed[product]}, services.clients, services.rights).needs:
            del changed[product]
            done.damaged[product] = CatalogDamaged(
                f"{product.name} shares an image with {unknown.name}, which is damaged: {done.damaged[unknown]}"
            )


def _put(store: Store, key: str, body: bytes, known: Mapping[str, StoredObject | None], done: Published) -> None:
    """Write a document unless it is unchanged byte for byte. Raise RaceLost if another publisher was faster."""
    seen = known[key]
    if seen and seen.body == body:
        return
    revision = write(store, key, body, seen)
    if not revision:
        raise RaceLost
    done.revisions[key] = {key: revision}
    done.writes += 1


def _invalidate(changes: Changes, services: PublishServices, done: Published) -> bool:
    """Invalidate at the edge the keys that get another digest or whose file is gone.

    A key is invalidated only once in a run: its bytes had changed by then, and waiting takes long. Return False if an
    invalidation failed, which is noted in `done`. A version whose record remembers that its keys held other bytes is
    held back, so the next try knows it too. For any other key only the catalog remembers it, so its product is left
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
