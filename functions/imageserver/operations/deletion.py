"""Delete files that clients no longer ask for: off the list first, deleted later.

Three things must hold before anything is deleted: its grace time has ended, the served catalog does not name it, and
its record says `final`, written over exactly the revision that the decision was based on. From then on nobody can put
it back on the list, so no client ever learns of a file that is about to be deleted. Each object is deleted by the ETag
in its record. A file that a publisher uploads meanwhile stays; if a delete hid it, it is copied back. The record is
deleted last, after the invalidation of the deleted keys.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from msgspec.structs import replace

from imageserver.aws.cloudfront import Invalidate
from imageserver.aws.queues import Notifier
from imageserver.format.keys import VersionId
from imageserver.operations.inventory import ProductSnapshot
from imageserver.operations.runs import Run, Task
from imageserver.storage import listing
from imageserver.storage.port import Store, StoredObject
from imageserver.versions import diff, records
from imageserver.versions.assessment import assessed
from imageserver.versions.records import FileFacts, Record, Withdrawal
from imageserver.versions.state import State


def no_results(_version: VersionId) -> None:
    """Delete nothing, because only a server with views has check results."""


@dataclass(frozen=True, slots=True)
class PruneContext:
    """Dependencies of the deletions of one product. `named` are the keys that the catalog names.

    `delete_results` deletes what checks have posted about a version.
    """

    store: Store
    notifier: Notifier
    invalidate: Invalidate
    named: Collection[str]
    now: datetime
    run: Run
    delete_results: Callable[[VersionId], object] = no_results


def remove_withdrawn(product: ProductSnapshot, context: PruneContext) -> None:
    """Delete withdrawn versions and single files whose grace time is over."""
    for version, record in sorted(product.known.items()):
        seen = product.seen[version]
        over: dict[str, Withdrawal] = {}
        for file, facts in record.files.items():
            withdrawal = record.withdrawn or facts.withdrawn
            if withdrawal and (withdrawal.final or datetime.fromisoformat(withdrawal.delete_after) <= context.now):
                over[file] = withdrawal
        if not over:
            continue
        expired_files = {file: record.files[file] for file in over}
        if still := sorted(version.prefix + file for file in expired_files if version.prefix + file in context.named):
            # Publish may have missed the withdrawal, or failed.
            task = Task("wait", version.path, f"its grace time is over, but the catalog still names {still[0]}")
            context.run.do(task, partial(context.notifier.product_changed, product.id))
            continue
        path = version.path if record.withdrawn else f"{version.path}/{{{','.join(sorted(expired_files))}}}"
        size_bytes = sum(facts.size_bytes for facts in expired_files.values())
        first = next(iter(over.values()))
        why = f"withdrawn, {first.reason or 'on request'}, on {first.since}"
        task = Task("delete", path, why, size_bytes)
        context.run.do(task, partial(_delete, context, record, seen, expired_files))


def remove_stale(product: ProductSnapshot, days: Mapping[State, int], context: PruneContext) -> None:
    """Delete versions that never became an image and have not changed for a time.

    `days` says how long incomplete and invalid versions are kept; 0 keeps them.
    """
    for version, record in sorted(product.known.items()):
        if not days.get(record.state) or not _is_no_image(product, version, record, context.named):
            continue
        # The time in this state counts: a listed version that lost a file lately can still be repaired.
        uploads = (facts.modified for facts in product.folders[version].values())
        quiet = context.now - max(map(datetime.fromisoformat, (*uploads, product.written[version])))
        if quiet < timedelta(days=days[record.state]):
            continue
        moment = context.now.isoformat(timespec="seconds")
        what = "refused" if record.state is State.INVALID else "incomplete"
        why = f"{what}, and nothing was uploaded for {quiet.days} days"
        marked = replace(record, withdrawn=Withdrawal(moment, moment, why))
        task = Task("delete", version.path, why, marked.size_bytes)
        context.run.do(task, partial(_delete, context, marked, product.seen[version], marked.files))


def remove_empty(product: ProductSnapshot, mentioned: Collection[str], context: PruneContext) -> None:
    """Delete records of empty versions once the catalog does not mention them. `mentioned` are version names."""
    for version, record in sorted(product.known.items()):
        if record.state is State.EMPTY and version.version not in mentioned and version not in product.folders:
            task = Task("invalidate", version.path, "its folder is empty and the catalog does not name it")
            context.run.do(task, partial(_invalidate_record, context, record, product.seen[version].revision))


def _is_no_image(product: ProductSnapshot, version: VersionId, record: Record, named: Collection[str]) -> bool:
    """Return whether nothing of a version is listed, withdrawn, or on its way."""
    if any(facts.withdrawn for facts in record.files.values()):
        return False
    if diff.outdated(record, product.folders.get(version, {})):
        return False
    return not any(version.prefix + file in named for file in record.files)


def _delete(context: PruneContext, record: Record, seen: StoredObject, expired_files: dict[str, FileFacts]) -> None:
    """Mark the record final, delete the objects, then the record if the version is empty. A killed run is repeated."""
    key, revision = record.id.record_key, seen.revision
    if record.withdrawn:
        final = assessed(replace(record, withdrawn=replace(record.withdrawn, final=True)))
    else:
        over = {
            file: replace(facts, withdrawn=replace(facts.withdrawn, final=True))
            for file, facts in expired_files.items()
            if facts.withdrawn
        }
        final = assessed(replace(record, files={**record.files, **over}))
    if records.encode(final) != seen.body:
        written = context.store.replace(key, records.encode(final), seen.revision)
        if written is None:
            return  # it was restored or changed meanwhile: the next run decides anew
        revision = written
    # S3 compares only ETags: the same bytes, uploaded again since the record was written, would be deleted too.
    now = listing.listed(context.store, record.id)
    ours = {file: facts for file, facts in expired_files.items() if now.get(file, facts).is_same_upload(facts)}
    gone = [_delete_upload(context, record.id, file, facts) for file, facts in ours.items()]
    if all(gone) and ours.keys() == record.files.keys():
        _invalidate_record(context, final, revision)
    else:
        _invalidate_files(context, record.id, ours)


def _delete_upload(context: PruneContext, version: VersionId, file: str, facts: FileFacts) -> bool:
    """Hide one upload of a file behind a delete marker. Return whether its key is empty now.

    S3 has no delete of "this upload if it is the newest" that leaves a marker. A delete by ETag also matches the same
    bytes uploaded again, and the SDK repeats it if its answer is lost. An upload that was hidden in that way is copied
    back. A run that is killed before that is repeated for as long as the record has the file.
    """
    key = version.prefix + file
    before = context.store.history(key)
    ours = [upload for upload in before.uploads if listing.as_listed(upload).is_same_upload(facts)]
    if ours and not before.is_deleted and before.uploads[0] in ours:
        context.store.delete(key, facts.etag)
    now = context.store.history(key)
    later = now.uploads[: now.uploads.index(ours[-1])] if ours and ours[-1] in now.uploads else ()
    if now.is_deleted and later:
        context.store.bring_back(later[0])
        context.notifier.version_changed(version)
        return False
    return now.is_deleted or not now.uploads


def _invalidate_record(context: PruneContext, record: Record, revision: str) -> None:
    """Delete the record of an empty version, and with it the list of keys that have held other bytes."""
    _invalidate_files(context, record.id, {*record.replaced, *record.files})
    context.delete_results(record.id)
    context.store.delete(record.id.record_key, revision)


def _invalidate_files(context: PruneContext, version: VersionId, files: Iterable[str]) -> None:
    """Invalidate the keys at the edge, so that the next upload to one of them is not answered with the old bytes."""
    if keys := sorted(version.prefix + file for file in files):
        context.invalidate(keys)
