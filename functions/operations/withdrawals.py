"""Take versions and files off the list, and back on while their files are there.

A withdrawal is part of the record, written conditionally; publish takes the version off the list as with
any other change of a record. Nothing is deleted here: maintain does that after the grace time, when no
client believes a catalog any more that names the files.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec.structs import replace

from simplestreams import records
from simplestreams.errors import RejectedUpload
from simplestreams.keys import ImageKey, ProductId, VersionId, parse_key, parse_product, parse_record_key, parse_version
from simplestreams.records import FileFacts, Record, Withdrawal
from storage.attempts import attempts
from storage.port import Store, write

Target = ImageKey | VersionId | ProductId
Change = Callable[[Record], Record]


@dataclass(slots=True)
class Changed:
    """Paths of versions and of single files that are now as was asked, whoever made them so; latest deletion."""

    versions: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    delete_after: str = ""


def parse_target(path: str) -> Target:
    """The product, version or file that a path names, by its number of parts; RejectedUpload if none."""
    parts = path.count("/") + 1
    if parts == 5:
        return parse_product(path)
    return parse_version(path) if parts == 6 else parse_key(path)


def path_of(target: Target) -> str:
    """`images/…`, as it was parsed."""
    return target.key if isinstance(target, ImageKey) else target.path


def withdraw(
    store: Store, target: Target, now: datetime, grace_hours: int, pause: Callable[[float], object], reason: str = ""
) -> Changed:
    """Take it off the list; what is withdrawn already keeps its date. Empty if there is nothing of that name.

    Raises CatalogBusy, StorageUnavailable, StorageDenied, CatalogDamaged; then part of a product may be withdrawn.
    """
    until = (now + timedelta(hours=grace_hours)).isoformat(timespec="seconds")
    withdrawal = Withdrawal(now.isoformat(timespec="seconds"), until, reason)
    return _change(store, target, lambda record: withdrawn(record, target, withdrawal), pause)


def restore(store: Store, target: Target, pause: Callable[[float], object]) -> Changed:
    """Put it back on the list: a version with its files, or a single file. Idempotent; errors as `withdraw`."""
    return _change(store, target, lambda record: restored(record, target), pause)


def withdrawn(record: Record, target: Target, withdrawal: Withdrawal) -> Record:
    """The record with what the target names withdrawn."""
    if not isinstance(target, ImageKey):
        return _judged(replace(record, withdrawn=record.withdrawn or withdrawal))
    facts = record.files.get(target.file)
    if facts is None or facts.withdrawn:
        return record
    return _judged(_with_file(record, target.file, replace(facts, withdrawn=withdrawal)))


def restored(record: Record, target: Target) -> Record:
    """The record with what the target names no longer withdrawn; what is being deleted already stays so."""
    if isinstance(target, ImageKey):
        facts = record.files.get(target.file)
        return _judged(_with_file(record, target.file, _restored_file(facts))) if facts else record
    if record.withdrawn and record.withdrawn.final:
        return record
    files = {file: _restored_file(facts) for file, facts in record.files.items()}
    return _judged(replace(record, withdrawn=None, files=files))


def _restored_file(facts: FileFacts) -> FileFacts:
    return facts if facts.withdrawn and facts.withdrawn.final else replace(facts, withdrawn=None)


def _change(store: Store, target: Target, change: Change, pause: Callable[[float], object]) -> Changed:
    done = Changed()
    for version in _versions(store, target):
        record = _change_record(store, version, change, pause)
        if record is None or (isinstance(target, ImageKey) and target.file not in record.files):
            continue
        withdrawal = record.files[target.file].withdrawn if isinstance(target, ImageKey) else record.withdrawn
        if withdrawal and withdrawal.final:
            continue  # as good as deleted
        if isinstance(target, ImageKey):
            done.files.append(target.key)
        else:
            done.versions.append(version.path)
        done.delete_after = max(done.delete_after, withdrawal.delete_after if withdrawal else "")
    return done


def _change_record(store: Store, version: VersionId, change: Change, pause: Callable[[float], object]) -> Record | None:
    """Write the record as changed; None if the version has neither record nor files."""
    for _ in attempts(version.path, pause):
        seen = store.read(version.record_key)
        before = records.decode(seen.body, version.record_key) if seen else _unread(store, version)
        if not before.files:
            return None
        after = change(before)
        if after == before or write(store, version.record_key, records.encode(after), seen):
            return after
    raise AssertionError("attempts() ends by raising")


def _versions(store: Store, target: Target) -> Iterable[VersionId]:
    """The versions that a target is about: with a record, or with files that nobody has looked at yet."""
    if isinstance(target, ImageKey):
        return [target.version]
    if isinstance(target, VersionId):
        return [target]
    found: set[VersionId] = {parse_record_key(info.key) for info in store.list(target.records_prefix)}
    for info in store.list(f"{target.path}/"):
        try:
            found.add(parse_key(info.key).version)
        except RejectedUpload:  # such a file is in no version, and was never listed
            continue
    return sorted(found)


def _unread(store: Store, version: VersionId) -> Record:
    """The record of files that arrived just now; digest fills in the rest."""
    listed = {info.key.removeprefix(version.prefix): info for info in store.list(version.prefix)}
    files = {
        file: FileFacts(etag=info.etag, size_bytes=info.size_bytes, modified=info.modified)
        for file, info in listed.items()
        if file  # consoles put an empty object for a folder
    }
    return Record(version=version.path, files=files)


def _with_file(record: Record, file: str, facts: FileFacts) -> Record:
    return replace(record, files={**record.files, file: facts})


def _judged(record: Record) -> Record:
    return records.settled(record.id, record.files, record.withdrawn)
