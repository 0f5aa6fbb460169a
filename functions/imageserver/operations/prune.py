"""Keep the bucket in order: retention, deletion of what was withdrawn or never finished, empty records."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from imageserver.aws.cloudfront import Invalidate, no_invalidation
from imageserver.aws.queues import Notifier
from imageserver.format import documents
from imageserver.format.signed_paths import key_of
from imageserver.operations.channel_needs import withdraw_unneeded
from imageserver.operations.check_results import delete_results
from imageserver.operations.deletion import PruneContext, no_results, remove_empty, remove_stale, remove_withdrawn
from imageserver.operations.inventory import ProductSnapshot, known_products, look
from imageserver.operations.recent_fetches import ReasonToKeep, no_reason
from imageserver.operations.runs import Run, Task
from imageserver.operations.view_documents import Views, no_views
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Store
from imageserver.storage.retries import Pause
from imageserver.versions.records import Record
from imageserver.versions.retention import Rule, expired
from imageserver.versions.state import State
from imageserver.views.catalogs import Catalog, catalogs
from imageserver.views.channels import kept, usable


@dataclass(frozen=True, slots=True)
class Rules:
    """How long things are kept.

    A version without a new upload is kept for `stale_days` if incomplete, `refused_days` if invalid; 0 keeps it.
    Retention leaves what was fetched in the last `keep_fetched_days`; 0 ignores fetches.
    """

    retention: Rule
    grace_hours: int
    stale_days: int
    refused_days: int = 30
    keep_fetched_days: int = 0


def prune(
    store: Store,
    notifier: Notifier,
    rules: Rules,
    now: datetime,
    pause: Pause,
    run: Run,
    invalidate: Invalidate = no_invalidation,
    views: Views = no_views,
    reason_to_keep: ReasonToKeep = no_reason,
) -> None:
    """Prune the products that are next.

    `notifier` sends publish a product whose catalog entry still names withdrawn files; `invalidate` removes deleted
    keys from the edge. Retention leaves versions that a channel of the `views` points to, and nothing is deleted that
    the catalog of a view names. `reason_to_keep` says why retention leaves a version that it would otherwise withdraw.

    A task or a product that fails is noted in `run`, and the next one follows. Raises StorageUnavailable,
    StorageDenied, and CatalogDamaged for a served document, if nothing can be done at all.
    """
    index_seen = store.read(documents.INDEX_KEY)
    index = documents.decode_index(index_seen.body if index_seen else None)
    public = DocumentCache(store)
    of_views = [(one, DocumentCache(store, one.prefix)) for one in catalogs(views())[1:]]
    of_checks = partial(delete_results, store) if of_views else no_results
    todo = known_products(store, public, index, run.after)
    for product_id in todo:
        if not run.more():
            break
        size = 1
        with run.looking_at(product_id.path):
            # Records before the catalog: putting a version back on the list after this read changes its record, and
            # then no write that was decided here succeeds.
            product = look(store, product_id)
            size += len(product.known)
            entry = _entry(product, public, of_views)
            for version in product.damaged:
                run.damaged(version.record_key)
            if not product.damaged:
                context = PruneContext(store, notifier, invalidate, entry.named, now, run, of_checks)
                _withdraw_expired(product, entry.listed, rules, pause, context, views, reason_to_keep)
                remove_withdrawn(product, context)
                days = {State.INCOMPLETE: rules.stale_days, State.INVALID: rules.refused_days}
                remove_stale(product, days, context)
                remove_empty(product, entry.mentioned, context)
        run.finished(product_id.path, size)
    run.end(todo[-1].path if todo else "")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the catalogs say about a product.

    `listed` are the versions that the public one lists. `named` are the keys of files that any catalog names,
    `mentioned` the versions that any one lists, withholds or reports as unlisted.
    """

    listed: Collection[str]
    named: set[str]
    mentioned: set[str]


def _entry(
    product: ProductSnapshot, public: DocumentCache, of_views: Sequence[tuple[Catalog, DocumentCache]]
) -> _Entry:
    """Return the entry of a product. The catalogs of views are read only if something of it may be deleted."""
    stream, name = product.id.stream, product.id.name
    caches = [public]
    if any(map(_is_leaving, product.known.values())):
        caches += [cache for catalog, cache in of_views if catalog.takes(product.id)]
    found = [cache.of(stream) for cache in caches]
    listed = [documents.versions_of(there.products, name) for there in found]
    versions = (version for one in listed for version in one.values())
    named = {key_of(item.path) for version in versions for item in version.items.values()}
    return _Entry(listed[0], named, set().union(*(there.mentioned(name) for there in found)))


def _is_leaving(record: Record) -> bool:
    """Return whether anything of a version may be deleted, so that the catalogs must be checked for its name."""
    return record.state is not State.COMPLETE or any(facts.withdrawn for facts in record.files.values())


def _withdraw_expired(
    product: ProductSnapshot,
    listed: Collection[str],
    rules: Rules,
    pause: Pause,
    context: PruneContext,
    views: Views,
    reason_to_keep: ReasonToKeep,
) -> None:
    plan = expired(product.known.values(), listed, rules.retention, context.now)
    there = usable(product.known.values()) if plan else {}
    needed = kept(views().values(), product.id, there) if plan else {}  # read now: a run takes minutes
    for version, reason in plan:
        if version.version in needed:
            continue
        if kept_because := reason_to_keep(version, context.run):
            size_bytes = product.known[version].size_bytes
            context.run.kept.append(Task("keep", version.path, f"{reason}, but {kept_because}", size_bytes))
            continue
        why = f"{reason}; its files are deleted {rules.grace_hours} hours later"
        task = Task("withdraw", version.path, why, product.known[version].size_bytes)
        action = partial(
            withdraw_unneeded, context.store, version, context.now, rules.grace_hours, pause, reason, views
        )
        context.run.do(task, action)
