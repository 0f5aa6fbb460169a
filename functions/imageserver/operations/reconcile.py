"""Find what events missed: compare the bucket with the records, and the records with the catalog.

A version whose folder differs from its record is sent to digest through the queue arrivals. A product whose records
differ from the catalog is sent to publish through the queue changes. Both are what would have happened if the event had
come. Nothing is repaired here but what a lost record said of its version. Time passes here too: a version whose time in
a channel is over leaves it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby

from imageserver.aws.cloudfront import Invalidate, no_invalidation
from imageserver.aws.queues import Notifier
from imageserver.catalog.fold import Folded, fold, fold_unlisted
from imageserver.catalog.rights import NOBODY, Rights
from imageserver.catalog.streams import ALONE, Streams
from imageserver.format import documents
from imageserver.format.documents import Index, Products, Unlisted
from imageserver.format.keys import ProductId, VersionId
from imageserver.format.signed_paths import key_of
from imageserver.operations.delta_requests import DeltaRequests, ask_again
from imageserver.operations.inventory import ProductSnapshot, known_products, look
from imageserver.operations.lost_records import describe, recalled
from imageserver.operations.runs import Run, Task
from imageserver.operations.view_documents import Views, change_view, no_views
from imageserver.storage.document_cache import DocumentCache, StreamDocuments
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store
from imageserver.versions import records
from imageserver.versions.diff import outdated
from imageserver.versions.records import Record
from imageserver.views.catalogs import Catalog, catalogs
from imageserver.views.channels import expired, selected
from imageserver.views.view import View, view_key


def reconcile(
    store: Store,
    notifier: Notifier,
    clients: Sequence[str],
    run: Run,
    rights: Rights = NOBODY,
    invalidate: Invalidate = no_invalidation,
    marked_since: datetime | None = None,
    views: Views = no_views,
    deltas: DeltaRequests | None = None,
    now: datetime | None = None,
    pause: Callable[[float], object] = lambda _: None,
) -> None:
    """Look at the products that are next, and have `notifier` send what differs.

    Of files that were uploaded from `marked_since` on it is looked at whether the edge may serve them, at none without
    it. `rights` say who may use which names. `invalidate` tells the edge of the files of versions whose record is lost:
    nobody knows any more which of them held other bytes before. The catalog of each of the `views` is compared too, as
    it is to be `now`; without it, as it was when versions last left a channel.
    `deltas` asks for those that nobody was asked for; without it the server makes none.

    A record that cannot be read is named in `run` and its product left alone; a task or a product that fails is noted
    there too, and the next one is looked at. Raises StorageUnavailable, StorageDenied, and CatalogDamaged for a served
    document, where nothing could be done at all.
    """
    _create_index(store, run)
    index_seen = store.read(documents.INDEX_KEY)
    index = documents.decode_index(index_seen.body if index_seen else None)
    cache = DocumentCache(store)
    as_it_is = views()
    everybody, *others = catalogs({name: expired(view, now) if now else view for name, view in as_it_is.items()})
    compared = [_Compared(everybody, cache, index), *(_compared(one, store, as_it_is) for one in others)]
    marks = _Marks(store, notifier, marked_since, run)
    todo = known_products(store, cache, index, run.after)
    for stream, names in groupby(todo, key=lambda product: product.stream):
        there = cache.of(stream)
        looked: list[ProductSnapshot] = []
        for product_id_ in names:
            if not run.more():
                break
            size = 1
            with run.looking_at(product_id_.path):
                product = look(store, product_id_)
                size += len(product.known)
                _send_outdated(product, there, _Sender(store, notifier, invalidate), run)
                marks.look(product, there)
                if deltas:
                    ask_again(product, documents.versions_of(there.products, product.id.name), deltas, run)
                looked.append(product)
            run.finished(product_id_.path, size)
        for one in compared:
            if one.catalog.has(stream):
                with run.looking_at(one.catalog.prefix + documents.products_key(stream)):
                    beside = there if one is compared[0] else one.cache.of(stream)
                    for product in looked if one is not compared[0] else ():
                        marks.look(product, beside)
                    if now:
                        _expire(one, looked, store, now, pause, run)
                    _fold_again(one, beside, looked, _Fold(store, notifier, clients, rights), run)
    run.end(todo[-1].path if todo else "")


def _create_index(store: Store, run: Run) -> None:
    """Create a missing index: clients ask an empty server for it too, and report its absence as a broken server."""
    if store.read(documents.INDEX_KEY) is None:
        empty = documents.encode(documents.decode_index(None))
        run.do(
            Task("create", documents.INDEX_KEY, "it is missing; clients cannot list a server without it"),
            lambda: store.create(documents.INDEX_KEY, empty),
        )


@dataclass(frozen=True, slots=True)
class _Sender:
    """Has versions ingested."""

    store: Store
    notifier: Notifier
    invalidate: Invalidate

    def send(self, version: VersionId) -> None:
        self.notifier.version_changed(version)

    def send_lost(self, version: VersionId, files: Iterable[str], said: Record | None) -> None:
        """Have a version ingested whose record is lost; ingest goes on from what an earlier one `said`."""
        self.invalidate(sorted(version.prefix + file for file in files))
        if said:
            self.store.create(version.record_key, records.encode(said))  # not over one that was written meanwhile
        self.send(version)


def _send_outdated(product: ProductSnapshot, there: StreamDocuments, sender: _Sender, run: Run) -> None:
    for version in sorted(product.folders.keys() | product.known.keys()):
        if version in product.seen and version not in product.known:
            run.damaged(version.record_key)
            continue
        folder = product.folders.get(version, {})
        if reason := outdated(product.known.get(version), folder):
            action = partial(sender.send, version)
            if version not in product.known:
                said = recalled(sender.store, version)
                if said or _is_in_catalog(version, there):
                    reason = f"its record is lost; {describe(said)}"
                    files = {*folder, *(said.files if said else ())}
                    action = partial(sender.send_lost, version, files, said)
            size_bytes = sum(facts.size_bytes for facts in folder.values())
            run.do(Task("look again", version.path, reason, size_bytes), action)


@dataclass(frozen=True, slots=True)
class _Marks:
    """Has a product published again of which the edge may not serve a file that a catalog lists: its event was lost.

    It looks once at each file that was uploaded from `since` on, at none without it.
    """

    store: Store
    notifier: Notifier
    since: datetime | None
    run: Run
    seen: set[str] = field(default_factory=set)

    def look(self, product: ProductSnapshot, there: StreamDocuments) -> None:
        """Look at the files of a product that the documents of one catalog list."""
        if not self.since:
            return
        listed = documents.versions_of(there.products, product.id.name)
        uploads = {
            version.prefix + file: facts.uploaded
            for version, record in product.known.items()
            for file, facts in record.files.items()
        }
        named = {key_of(item.path) for version in listed.values() for item in version.items.values()}
        keys = sorted((named & uploads.keys()) - self.seen)
        recent = [key for key in keys if datetime.fromisoformat(uploads[key]) >= self.since]
        self.seen.update(recent)
        marked = in_parallel(self.store.is_marked, recent)
        if unmarked := [key for key, is_marked in zip(recent, marked, strict=True) if not is_marked]:
            why = f"the edge may not serve {unmarked[0]}, which is listed"
            self.run.do(Task("mark", product.id.path, why), partial(self.notifier.product_changed, product.id))


def _expire(
    one: "_Compared",
    looked: Sequence[ProductSnapshot],
    store: Store,
    now: datetime,
    pause: Callable[[float], object],
    run: Run,
) -> None:
    """Have the versions leave a channel whose time in it is over. Its catalog differs then, and is folded again."""
    before, view = one.before, one.catalog.view
    if before == view or before is None or view is None:
        return
    for product in looked:
        versions = list(product.known.values())
        stay = {record.version for record in selected(view, product.id, versions)}
        if left := [one.version for one in selected(before, product.id, versions) if one.version not in stay]:
            why = f"{left[0]} was in the channel {view.name} for its time, and leaves it"
            run.do(
                Task("expire", view_key(view.name), why),
                partial(change_view, store, view.name, partial(expired, now=now), pause),
            )
            return


def _is_in_catalog(version: VersionId, there: StreamDocuments) -> bool:
    """Return whether the catalog says anything of a version, which it only does when there was a record."""
    name = version.product.name
    listed = documents.versions_of(there.products, name)
    withheld = {held.version for held in there.products.withheld.get(name, ())}
    return version.version in {*listed, *withheld, *there.unlisted.products.get(name, ())}


@dataclass(frozen=True, slots=True)
class _Compared:
    """One catalog with its documents, as they are read; `before` is its view as it is, before any version leaves it."""

    catalog: Catalog
    cache: DocumentCache
    index: Index
    before: View | None = None


def _compared(catalog: Catalog, store: Store, views: Mapping[str, View]) -> _Compared:
    seen = store.read(catalog.prefix + documents.INDEX_KEY)
    index = documents.decode_index(seen.body if seen else None)
    before = views[catalog.view.name] if catalog.view else None
    return _Compared(catalog, DocumentCache(store, catalog.prefix), index, before)


@dataclass(frozen=True, slots=True)
class _Fold:
    """What folding needs from around it."""

    store: Store
    notifier: Notifier
    clients: Sequence[str]
    rights: Rights


def _fold_again(
    one: _Compared, there: StreamDocuments, looked: Sequence[ProductSnapshot], services: _Fold, run: Run
) -> None:
    """Have those products folded whose part of a catalog is not what their records say."""
    changed = {p.id: list(p.known.values()) for p in looked if not p.damaged and one.catalog.takes(p.id)}
    if not changed:
        return
    others = one.catalog.others(one.index, there.products.content_id)
    streams = Streams([there.products, *map(one.cache.products, others)]) if others else ALONE
    folded = _folded(one.catalog, there.products, streams, changed, services, run)
    if not changed:  # each of them shares an image with one that cannot be read
        return
    unlisted = fold_unlisted(there.unlisted, {p: one.catalog.records(p, known) for p, known in changed.items()})
    stale = {
        p.name for p in changed if _part(folded, unlisted, p.name) != _part(there.products, there.unlisted, p.name)
    }
    if one.catalog.index(one.index, folded) != one.index:
        stale.add(min(p.name for p in changed))
    where = f"the catalog of the view {one.catalog.view.name}" if one.catalog.view else "the catalog"
    for product in looked:
        if product.id.name in stale and product.id in changed:
            why = f"its entry in {where} is not what its records say"
            run.do(Task("fold again", product.id.path, why), partial(services.notifier.product_changed, product.id))


def _part(products: Products, unlisted: Unlisted, name: str) -> tuple[object, ...]:
    return products.products.get(name), products.withheld.get(name), unlisted.products.get(name)


def _folded(
    of: Catalog,
    document: Products,
    streams: Streams,
    changed: dict[ProductId, list[Record]],
    services: _Fold,
    run: Run,
) -> Products:
    """Return the document with these products folded, others read as needed.

    A product that shares an image with one whose records cannot be read is taken out of `changed`: nobody can tell
    which of the two to list. The others do not wait for it.
    """

    def folded_with(known: Mapping[ProductId, Sequence[Record]]) -> Folded:
        selected = {product: of.records(product, versions) for product, versions in known.items()}
        return fold(document, selected, of.clients(services.clients), services.rights, streams)

    others: dict[ProductId, list[Record]] = {}
    unknown: set[ProductId] = set()
    folded = folded_with(changed)
    while folded.needs:
        for product in sorted(folded.needs - unknown):
            other = look(services.store, product)
            if other.damaged:
                unknown.add(product)
                for version in sorted(other.seen.keys() - other.known.keys()):
                    run.damaged(version.record_key)
            else:
                others[other.id] = list(other.known.values())
        for product in sorted(folded.needs & unknown):
            for products in (changed, others):
                waiting = [p for p in products if product in folded_with({p: products[p]}).needs]
                unknown.update(waiting)
                for one in waiting:
                    del products[one]
        folded = folded_with(changed | others)
    names = {product.name for product in changed | others if product.stream == document.content_id}
    return of.signed(folded.document, names)
