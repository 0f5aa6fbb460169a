"""Find what events missed: compare the bucket with the records, and the records with the catalog.

A version whose folder differs from its record is sent to digest through the queue arrivals. A product whose records
differ from the catalog is sent to publish through the queue changes. Both then do what the missed event would have made
them do. The only repair made here is to restore what a lost record recovered about its version. Reconcile also removes
expired versions from channels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Final

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
from imageserver.storage.retries import Pause
from imageserver.versions import records
from imageserver.versions.diff import outdated
from imageserver.versions.records import Record
from imageserver.views.catalogs import Catalog, catalogs
from imageserver.views.channels import expired, selected
from imageserver.views.view import View, view_key

RECENT: Final = timedelta(days=2)
"""How long after an upload the edge's tag and the deltas are checked: longer than any event is retried."""


@dataclass(frozen=True, slots=True)
class ReconcileServices:
    """Dependencies of `reconcile`; `notifier` sends what differs. `rights` say who may use which names.

    `invalidate` removes the files of a version with a lost record from the edge's caches, because no record remembers
    which of their keys held other bytes. `tagged_since`: files uploaded from then on are checked for the tag that lets
    the edge serve them; None checks none. `views` returns the views. Their catalogs are compared as they must be `now`;
    without `now`, as they were when versions last left a channel. `deltas` requests deltas whose request was lost; None
    requests none.
    """

    store: Store
    notifier: Notifier
    clients: Sequence[str]
    rights: Rights = NOBODY
    invalidate: Invalidate = no_invalidation
    tagged_since: datetime | None = None
    views: Views = no_views
    deltas: DeltaRequests | None = None
    now: datetime | None = None
    pause: Pause = lambda _: None


@dataclass(frozen=True, slots=True)
class _Compared:
    """One catalog with its documents as read. `before` is its view before any version leaves it."""

    catalog: Catalog
    cache: DocumentCache
    index: Index
    before: View | None = None


def reconcile(services: ReconcileServices, run: Run) -> None:
    """Compare the products that are next, and send what differs.

    A record that cannot be read is named in `run` and its product left alone. A task or a product that fails is noted
    there too, and the next one follows. Raises StorageUnavailable, StorageDenied, and CatalogDamaged for a served
    document, if nothing can be done at all.
    """
    store, tags = services.store, _Tags(services, run)
    if store.read(documents.INDEX_KEY) is None:  # clients ask an empty server for it too
        task = Task("create", documents.INDEX_KEY, "it is missing; clients cannot list a server without it")
        empty = documents.encode(documents.decode_index(None))
        run.do(task, lambda: store.create(documents.INDEX_KEY, empty))
    compared = _compared(services)
    everybody = compared[0]
    todo = known_products(store, everybody.cache, everybody.index, run.after)
    for stream, products in groupby(todo, key=lambda product: product.stream):
        there = everybody.cache.of(stream)
        looked = _looked_at(products, there, services, run)
        for one in compared:
            if not one.catalog.has(stream):
                continue
            with run.looking_at(one.catalog.prefix + documents.products_key(stream)):
                beside = there if one is everybody else one.cache.of(stream)
                for product in looked:
                    tags.look(product, beside)
                _expire(one, looked, services, run)
                _fold_again(one, beside, looked, services, run)
    run.end(todo[-1].path if todo else "")


def _looked_at(
    products: Iterable[ProductId], there: StreamDocuments, services: ReconcileServices, run: Run
) -> list[ProductSnapshot]:
    """Compare products of one stream with their folders, as far as the run gets. Return each product as found."""
    looked: list[ProductSnapshot] = []
    for wanted in products:
        if not run.more():
            break
        size = 1
        with run.looking_at(wanted.path):
            product = look(services.store, wanted)
            size += len(product.known)
            _send_outdated(product, there, services, run)
            if services.deltas:
                ask_again(product, documents.versions_of(there.products, product.id.name), services.deltas, run)
            looked.append(product)
        run.finished(wanted.path, size)
    return looked


def _send_outdated(product: ProductSnapshot, there: StreamDocuments, services: ReconcileServices, run: Run) -> None:
    """Have digest ingest the versions of a product whose folders differ from their records."""
    for version in product.damaged:
        run.damaged(version.record_key)
    for version in sorted((product.folders.keys() | product.known.keys()).difference(product.damaged)):
        folder = product.folders.get(version, {})
        if reason := outdated(product.known.get(version), folder):
            action = partial(services.notifier.version_changed, version)
            if version not in product.known:
                recovered = recalled(services.store, version)
                if recovered or version.version in there.mentioned(product.id.name):  # it once had a record
                    reason = f"its record is lost; {describe(recovered)}"
                    files = {*folder, *(recovered.files if recovered else ())}
                    action = partial(_ingest_lost, services, version, files, recovered)
            size_bytes = sum(facts.size_bytes for facts in folder.values())
            run.do(Task("look again", version.path, reason, size_bytes), action)


def _ingest_lost(
    services: ReconcileServices, version: VersionId, files: Iterable[str], recovered: Record | None
) -> None:
    """Have a version with a lost record ingested. Ingest continues from what an earlier record `recovered`."""
    services.invalidate(sorted(version.prefix + file for file in files))
    if recovered:
        services.store.create(version.record_key, records.encode(recovered))  # never over a newer record
    services.notifier.version_changed(version)


@dataclass(frozen=True, slots=True)
class _Tags:
    """Has a product published again if a listed file of it is not tagged for the edge, because its event was lost.

    It checks each file uploaded since `tagged_since` once.
    """

    services: ReconcileServices
    run: Run
    seen: set[str] = field(default_factory=set)

    def look(self, product: ProductSnapshot, there: StreamDocuments) -> None:
        """Check the files of a product that the documents of one catalog list."""
        since, notifier = self.services.tagged_since, self.services.notifier
        if not since:
            return
        listed = documents.versions_of(there.products, product.id.name)
        uploads = {
            version.prefix + file: facts.uploaded
            for version, record in product.known.items()
            for file, facts in record.files.items()
        }
        named = {key_of(item.path) for version in listed.values() for item in version.items.values()}
        keys = sorted((named & uploads.keys()) - self.seen)
        recent = [key for key in keys if datetime.fromisoformat(uploads[key]) >= since]
        self.seen.update(recent)
        tagged = in_parallel(self.services.store.is_tagged, recent)
        if untagged := [key for key, is_tagged in zip(recent, tagged, strict=True) if not is_tagged]:
            why = f"the edge may not serve {untagged[0]}, which is listed"
            self.run.do(Task("tag", product.id.path, why), partial(notifier.product_changed, product.id))


def _expire(one: _Compared, looked: Sequence[ProductSnapshot], services: ReconcileServices, run: Run) -> None:
    """Remove expired versions from a channel. Its catalog then differs and is folded again."""
    before, view, now = one.before, one.catalog.view, services.now
    if before == view or before is None or view is None or now is None:
        return
    for product in looked:
        versions = list(product.known.values())
        stay = {record.version for record in selected(view, product.id, versions)}
        shown = (record.version for record in selected(before, product.id, versions))
        if left := next((version for version in shown if version not in stay), ""):
            why = f"{left} was in the channel {view.name} for its full time, and leaves it"
            run.do(
                Task("expire", view_key(view.name), why),
                partial(change_view, services.store, view.name, partial(expired, now=now), services.pause),
            )
            return


def _compared(services: ReconcileServices) -> list[_Compared]:
    """Return the public catalog, then that of each view."""
    store, now, views = services.store, services.now, services.views()
    found: list[_Compared] = []
    for catalog in catalogs({name: expired(view, now) if now else view for name, view in views.items()}):
        seen = store.read(catalog.prefix + documents.INDEX_KEY)
        index = documents.decode_index(seen.body if seen else None)
        before = views[catalog.view.name] if catalog.view else None
        found.append(_Compared(catalog, DocumentCache(store, catalog.prefix), index, before))
    return found


def _fold_again(
    one: _Compared, there: StreamDocuments, looked: Sequence[ProductSnapshot], services: ReconcileServices, run: Run
) -> None:
    """Have publish fold the products whose part of a catalog differs from their records."""
    changed = {p.id: list(p.known.values()) for p in looked if not p.damaged and one.catalog.takes(p.id)}
    if not changed:
        return
    others = one.catalog.others(one.index, there.products.content_id)
    streams = Streams([there.products, *map(one.cache.products, others)]) if others else ALONE
    folded = _folded(one.catalog, there.products, streams, changed, services, run)
    if not changed:  # each of them shares an image with a product whose records cannot be read
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
    services: ReconcileServices,
    run: Run,
) -> Products:
    """Return the document with these products folded, reading others as needed.

    A product that shares an image with one whose records cannot be read is removed from `changed`, because it is
    unknown which of the two to list. The others do not wait for it.
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
                for version in other.damaged:
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
