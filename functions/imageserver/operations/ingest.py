"""Settle one version: look at its folder, read what is new, write its record.

Level-triggered: whatever the notice said, the folder is listed and compared with the record. Each attempt
reads the record's revision first and then everything that it decides from, so a write that goes through
was decided from facts that were current. What was read once is remembered over attempts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal
from uuid import uuid4

from imageserver.errors import ObjectChanged, OutOfTime
from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.format.keys import VersionId
from imageserver.inspection.digests import InTurn, Sha256, Spread
from imageserver.storage import listing
from imageserver.storage.leases import lease
from imageserver.storage.port import Document, Store, write
from imageserver.storage.retries import attempts
from imageserver.versions import diff, examine, records
from imageserver.versions.assessment import assessed
from imageserver.versions.diff import Files, Learned
from imageserver.versions.records import Fault, FileFacts, Record
from imageserver.versions.withdrawal import past

SAVE_EVERY_BYTES: Final = 1 << 30
"""A run that is cut short loses at most about so much reading: the record is saved in between."""

Outcome = Literal["recorded", "unchanged", "leased by another worker"]
Came = Literal["done", "saved", "lost"]
"""What came of one attempt: saved is a record that was written with more to read, lost is to be looked at again."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Dependencies of `ingest`. `budget_bytes` is what this run can still read; None means no limit."""

    store: Store
    now: Callable[[], datetime]
    pause: Callable[[float], object]
    max_bytes: int
    lease_seconds: float
    spread: Callable[[Sequence[Sha256]], Spread] = InTurn
    budget_bytes: int | None = None


@dataclass(slots=True)
class Ingested:
    """What came of it. `bytes_read` counts every byte that was fetched, metadata read again included.

    `new_faults` has the fault of each refusal that the record did not have before.
    """

    version: VersionId
    outcome: Outcome = "unchanged"
    record: Record | None = None
    bytes_read: int = 0
    lost_races: int = 0
    new_faults: list[Fault] = field(default_factory=list)


@dataclass(slots=True)
class _Work:
    """The state of ingesting one version over several attempts."""

    tools: Tools
    ingested: Ingested
    learned: Learned = field(default_factory=dict)
    token: str = field(default_factory=lambda: uuid4().hex)
    states: dict[str, Sha256] = field(default_factory=dict)  # sha256 of a metadata file -> digest state after it

    @property
    def version(self) -> VersionId:
        return self.ingested.version


@dataclass(slots=True)
class _Sight:
    """One look at a version: the record's revision and what it said, then the folder."""

    seen: Document | None
    before: Record | None
    files: Files

    @property
    def nothing(self) -> bool:
        return self.before is None and not self.files

    @property
    def needs_lease(self) -> bool:
        return not all(examine.is_small(file_kinds.classify(file)) for file in diff.unread(self.files))

    @property
    def unread_bytes(self) -> int:
        return sum(self.files[file].size_bytes for file in diff.unread(self.files))


def ingest(version: VersionId, tools: Tools) -> Ingested:
    """Bring the record of a version up to date with its folder.

    Raises CatalogBusy when other writers won every race, OutOfTime when there is more to read than `budget_bytes`,
    StorageUnavailable, StorageDenied, CatalogDamaged.
    """
    work = _Work(tools, Ingested(version))
    while not _ingest(work):
        pass  # what was read so far is saved: that is no lost race, so the count of attempts begins anew
    return work.ingested


def _ingest(work: _Work) -> bool:
    """Whether it came to its end; False when what was read so far is saved and there is more."""
    for _ in attempts(work.version.path, work.tools.pause):
        if (came := _attempt(work)) != "lost":
            return came == "done"
    raise AssertionError("attempts() ends by raising")


def _attempt(work: _Work) -> Came:
    tools, version = work.tools, work.version
    sight = _look(work)
    if sight.nothing:
        return "done"
    if not sight.needs_lease:
        came = _finish(work, sight)
        if work.ingested.outcome == "unchanged":
            return came
    else:
        if tools.budget_bytes is not None and sight.unread_bytes > tools.budget_bytes:
            raise OutOfTime(f"{version.path} has {sight.unread_bytes:,} bytes to read, too many for the rest of a run")
        with lease(tools.store, version.lease_key, work.token, tools.now, tools.lease_seconds, tools.pause) as mine:
            if not mine:
                work.ingested.outcome = "leased by another worker"
                return "done"
            sight = _look(work)  # again: whoever held the claim until now may have read all there is
            came = _finish(work, sight)
    # Whoever saw the claim and left, or wrote before this did, had nothing newer to show.
    return "lost" if came == "done" and not _is_as_seen(work, sight) else came


def _look(work: _Work) -> _Sight:
    key = work.version.record_key
    seen = work.tools.store.read(key)  # before anything is decided: the rule of the conditional write
    before = records.decode(seen.body, key) if seen else None
    return _Sight(seen, before, diff.known(work.learned, before, listing.listed(work.tools.store, work.version)))


def _finish(work: _Work, sight: _Sight) -> Came:
    """Read what is unread, then write the record."""
    if diff.lists_what_changed(
        sight.before, sight.files
    ):  # off the list first: the bytes are no longer those that it names
        return "saved" if _save(work, sight) else "lost"
    saved_at = work.ingested.bytes_read
    try:
        while unread := diff.unread(sight.files):
            sight.files[unread[0]] = _read(work, unread[0], sight.files)
            if work.ingested.bytes_read - saved_at >= SAVE_EVERY_BYTES and len(unread) > 1:
                return "saved" if _save(work, sight) else "lost"
    except ObjectChanged:
        return "lost"
    return "done" if _save(work, sight) else "lost"


def _read(work: _Work, file: str, files: Files) -> FileFacts:
    """Examine one object, pinned to the generation that was listed."""
    listed, kind = files[file], file_kinds.classify(file)
    opened = work.tools.store.open(work.version.prefix + file, listed.etag)
    facts = examine.refuse_unread(file, listed, opened.content_encoding, work.tools.max_bytes)
    chunks = _counted(work, opened.chunks)
    if facts.refusal:
        pass
    elif kind.role is Role.METADATA:
        facts, state = examine.read_metadata(facts, chunks, work.version.product)
        work.states[facts.sha256] = state
    elif kind.role is Role.ROOT:
        facts = examine.read_root(facts, chunks, kind.ftype, _states(work, files), work.tools.spread)
    elif kind.role is Role.UNIFIED:
        facts = examine.read_unified(facts, chunks, work.version.product, work.tools.spread)
    elif kind.role is Role.DELTA:
        facts = examine.read_delta(facts, chunks, work.tools.spread)
    else:
        facts = examine.read_document(file, facts, chunks, work.version.product)
    facts = examine.compare_declared(facts, opened.declared_sha256)
    work.learned[file, listed.etag, listed.modified] = facts
    return facts


def _states(work: _Work, files: Files) -> dict[str, Sha256]:
    """The digest state after each metadata file, read again where an earlier run examined it."""
    sha256s = diff.metadata_sha256s(files)
    for file, facts in files.items():
        if facts.sha256 in sha256s and facts.sha256 not in work.states:
            opened = work.tools.store.open(work.version.prefix + file, facts.etag)
            work.states[facts.sha256] = examine.seed(_counted(work, opened.chunks))
    return {sha256: work.states[sha256] for sha256 in sha256s}


def _counted(work: _Work, chunks: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        work.ingested.bytes_read += len(chunk)
        yield chunk


def _save(work: _Work, sight: _Sight) -> bool:
    """Write the record unless it says this already; False when another writer was faster."""
    withdrawn, files = past(sight.before, sight.files) if sight.before else (None, dict(sight.files))
    found = Record(version=work.version.path, files=files, withdrawn=withdrawn, replaced=_replaced(sight))
    record = assessed(found)
    work.ingested.record = record
    if record == sight.before:
        return True
    if not write(work.tools.store, work.version.record_key, records.encode(record), sight.seen):
        work.ingested.lost_races += 1
        return False
    work.ingested.outcome = "recorded"
    known = set(sight.before.reasons) if sight.before else set()
    work.ingested.new_faults += [r.fault for r in record.reasons if r.kind == "error" and r not in known]
    return True


def _replaced(sight: _Sight) -> tuple[str, ...]:
    """The files whose key held other bytes before, or is empty now: what is put there next may meet them in a cache."""
    if sight.before is None:
        return ()
    now = {file: facts.etag for file, facts in sight.files.items()}
    changed = {file for file, facts in sight.before.files.items() if now.get(file) != facts.etag}
    return tuple(sorted({*sight.before.replaced, *changed}))


def _is_as_seen(work: _Work, sight: _Sight) -> bool:
    """Whether the folder is still as it was decided from. Asked after each write, for a condition is not enough:

    equal records have equal ETags, so If-Match also holds when the record went away and came back meanwhile.
    """
    return _generations(listing.listed(work.tools.store, work.version)) == _generations(sight.files)


def _generations(files: Files) -> dict[str, tuple[str, int]]:
    return {file: (facts.etag, facts.size_bytes) for file, facts in files.items()}
