"""A record with something of it taken off the list, or put back."""

from msgspec.structs import replace

from simplestreams import records
from simplestreams.keys import ImageKey, Target
from simplestreams.records import FileFacts, Record, Withdrawal


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


def _with_file(record: Record, file: str, facts: FileFacts) -> Record:
    return replace(record, files={**record.files, file: facts})


def _judged(record: Record) -> Record:
    return records.settled(record.id, record.files, record.withdrawn)
