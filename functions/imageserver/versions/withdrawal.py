"""Withdraw a version or a file in its record, or restore it."""

from collections.abc import Mapping

from msgspec.structs import replace

from imageserver.format.keys import ImageKey, Target
from imageserver.versions.assessment import assessed
from imageserver.versions.records import FileFacts, Record, Withdrawal
from imageserver.versions.state import Event, allows


def withdrawn(record: Record, target: Target, withdrawal: Withdrawal) -> Record:
    """Return the record with the target withdrawn.

    An earlier withdrawal stays, unless it is automatic and this one is not: taking back the automatic one must not undo
    this one.
    """
    if not isinstance(target, ImageKey):
        before = record.withdrawn
        gives_way = before is None or (before.automatic and not before.final and not withdrawal.automatic)
        return assessed(replace(record, withdrawn=withdrawal if gives_way else before))
    facts = record.files.get(target.file)
    if facts is None or facts.withdrawn:
        return record
    return assessed(replace(record, files={**record.files, target.file: replace(facts, withdrawn=withdrawal)}))


def restored(record: Record, target: Target) -> Record:
    """Return the record with the target restored. Files that are already being deleted stay withdrawn.

    A file of a withdrawn version stays withdrawn too: it is restored with its version.
    """
    if isinstance(target, ImageKey) and record.withdrawn:
        return record
    if isinstance(target, ImageKey):
        facts = record.files.get(target.file)
        return assessed(replace(record, files={**record.files, target.file: _restored(facts)})) if facts else record
    if record.withdrawn and not allows(record.state, Event.RESTORE):
        return record
    files = {file: _restored(facts) for file, facts in record.files.items()}
    return assessed(replace(record, withdrawn=None, files=files))


def without_withdrawal(record: Record) -> Record:
    """Return the record without the withdrawal of the whole version. Files that were withdrawn alone stay withdrawn."""
    return assessed(replace(record, withdrawn=None))


def undone(record: Record, reason: str) -> Record:
    """Return the record without the withdrawal of the whole version, if it was for exactly this reason."""
    withdrawal = record.withdrawn
    if withdrawal is None or withdrawal.final or withdrawal.reason != reason:
        return record
    return without_withdrawal(record)


def _restored(facts: FileFacts) -> FileFacts:
    return facts if facts.withdrawn and facts.withdrawn.final else replace(facts, withdrawn=None)


def applies_to(record: Record, file: str, size_bytes: int) -> Withdrawal | None:
    """Return the withdrawal that applies to a copy of a file, which has lost its ETag and its date.

    A withdrawal of the version applies to every file of it. A withdrawal of a file, or one that is being carried out,
    applies to the object that the record knows. A file of another size came later; one of the same size may be that
    object.
    """
    facts = record.files.get(file)
    is_known = facts is not None and facts.size_bytes == size_bytes
    if record.withdrawn and (is_known or not record.withdrawn.final):
        return record.withdrawn
    return facts.withdrawn if facts and is_known else None


def past(before: Record, files: Mapping[str, FileFacts]) -> tuple[Withdrawal | None, dict[str, FileFacts]]:
    """Return the withdrawal as it applies to the files that are there now, which may differ from those `before`.

    In a version that is being deleted, only the files that were there before are withdrawn: a file that arrives later
    begins the version anew.
    """
    if before.withdrawn is None or not files:
        return None, dict(files)
    old = {file for file, facts in files.items() if file in before.files and before.files[file].is_same_upload(facts)}
    if not before.withdrawn.final or old == files.keys():
        return before.withdrawn, dict(files)
    return None, {file: replace(f, withdrawn=before.withdrawn) if file in old else f for file, f in files.items()}
