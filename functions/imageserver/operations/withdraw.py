"""Take versions and files off the list, and back on while their files are there.

A withdrawal is part of the record, written conditionally; publish takes the version off the list as with
any other change of a record. Nothing is deleted here: maintain does that after the grace time, when no client still
uses a catalog that names the files.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from msgspec.structs import replace

from imageserver.errors import InvalidUpload, SimplestreamsError
from imageserver.format.keys import ImageKey, Target, VersionId, parse_record_key, version_of
from imageserver.storage import listing
from imageserver.storage.port import Store, write
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.versions import diff, records
from imageserver.versions.records import Record, Withdrawal
from imageserver.versions.withdrawal import restored, undone, withdrawn

Change = Callable[[Record], Record]


@dataclass(slots=True)
class Changed:
    """Versions and files now in the requested state, whether or not this call changed them; the latest deletion.

    `already` has those that were withdrawn before: their date and reason stay. `deleting` are versions and files that
    stay as they are because their files are being deleted. `held` are the withdrawn versions of files that were to be
    restored alone. `not_withdrawn` are the targets of a restore that were on the list already.
    """

    versions: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    delete_after: str = ""
    already: dict[str, Withdrawal] = field(default_factory=dict)
    deleting: dict[str, Withdrawal] = field(default_factory=dict)
    held: dict[str, Withdrawal] = field(default_factory=dict)
    not_withdrawn: list[str] = field(default_factory=list)


def withdraw(
    store: Store,
    target: Target,
    now: datetime,
    grace_hours: int,
    pause: Pause,
    reason: str = "",
    *,
    automatic: bool = False,
) -> Changed:
    """Take the target off the list. What is already withdrawn keeps its date and reason.

    `automatic`: no person asks for it. If a person withdraws it afterwards, it gets that date and reason.

    Raises CatalogBusy, StorageUnavailable, StorageDenied, CatalogDamaged: of the first version that failed, when every
    other one of a product is withdrawn.
    """
    try:
        until = now + timedelta(hours=grace_hours)
    except OverflowError:
        until = datetime.max.replace(tzinfo=UTC)
    since, delete_after = now.isoformat(timespec="seconds"), until.isoformat(timespec="seconds")
    withdrawal = Withdrawal(since, delete_after, reason, automatic=automatic)
    return _change(store, target, lambda record: withdrawn(record, target, withdrawal), pause)


def restore(store: Store, target: Target, pause: Pause) -> Changed:
    """Put the target back on the list: a version with its files, or a single file. Idempotent; errors as `withdraw`.

    A file of a withdrawn version cannot be restored alone: nothing of it is listed before the version is.
    """
    done = _change(store, target, lambda record: restored(record, target), pause)
    if isinstance(target, ImageKey) and done.held:
        done.files.clear()
    return done


def undo_withdrawal(store: Store, version: VersionId, reason: str, pause: Pause) -> None:
    """Put a version back on the list if it was withdrawn for exactly this reason.

    Its files that were withdrawn alone stay withdrawn. Errors as of `withdraw`.
    """
    change = partial(_change_record, store, version, version, lambda record: undone(record, reason))
    retry(version.path, change, pause)


def _change(store: Store, target: Target, change: Change, pause: Pause) -> Changed:
    done, failed = Changed(), list[SimplestreamsError]()
    for version in _versions(store, target):
        try:
            before, after = retry(version.path, partial(_change_record, store, version, target, change), pause)
        except SimplestreamsError as error:
            failed.append(error)
            continue
        if not after.files or (isinstance(target, ImageKey) and target.file not in after.files):
            continue
        path = target.key if isinstance(target, ImageKey) else version.path
        was, withdrawal = (
            (record.files[target.file] if isinstance(target, ImageKey) else record).withdrawn
            for record in (before, after)
        )
        if final := next((one for one in (after.withdrawn, withdrawal) if one and one.final), None):
            done.deleting[path] = final  # as good as deleted
            continue
        if isinstance(target, ImageKey) and after.withdrawn:
            done.held[version.path] = after.withdrawn
        (done.files if isinstance(target, ImageKey) else done.versions).append(path)
        if not withdrawal and not was:
            done.not_withdrawn.append(path)
        if withdrawal:
            done.delete_after = max(done.delete_after, withdrawal.delete_after)
            if withdrawal == was:
                done.already[path] = withdrawal
    if failed:
        raise failed[0]
    return done


def _change_record(store: Store, version: VersionId, target: Target, change: Change) -> tuple[Record, Record]:
    """Write the changed record; return it before and after. It has no files if there is nothing. Raise RaceLost.

    Files that arrived just now have no record yet: digest fills in the rest.
    """
    seen = store.read(version.record_key)
    if seen:
        recorded = records.decode(seen.body, version.record_key)
        before = _as_it_is(store, recorded, target) if isinstance(target, ImageKey) else recorded
    else:
        recorded = before = Record(version=version.path, files=listing.listed(store, version))
    after = change(before) if before.files else before
    if after in (before, recorded) or write(store, version.record_key, records.encode(after), seen):
        return before, after
    raise RaceLost


def _as_it_is(store: Store, record: Record, image: ImageKey) -> Record:
    """Return the record with the current object of a file, which digest may not have looked at yet.

    The withdrawal of a file ends with its next upload, so a withdrawal that follows an upload must be about that
    upload.
    """
    there = listing.listed(store, image.version).get(image.file)
    if there is None:
        return record
    facts, known = diff.known({}, record, {image.file: there})[image.file], record.files.get(image.file)
    replaced = {image.file} if known and known.etag != there.etag else set()
    return replace(
        record,
        files={**record.files, image.file: facts},
        replaced=tuple(sorted({*record.replaced, *replaced})),
    )


def _versions(store: Store, target: Target) -> Iterable[VersionId]:
    """Return the versions that a target covers: those with a record, or with files that were not read yet."""
    if isinstance(target, ImageKey):
        return [target.version]
    if isinstance(target, VersionId):
        return [target]
    found: set[VersionId] = set()
    for parse, prefix in ((parse_record_key, target.records_prefix), (version_of, f"{target.path}/")):
        for info in store.list(prefix):
            try:
                found.add(parse(info.key))
            except InvalidUpload:  # a key that is in no version, and was never listed
                continue
    return sorted(found)
