"""Ingest one version: look at its folder, read what is new, write its record.

Level-triggered: whatever the event said, the folder is listed and compared with the record. Each attempt reads the
record's revision first, and then everything that it decides from. So a write that succeeds was based on current facts.
Later attempts reuse what an earlier one has read.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final, Literal
from uuid import uuid4

from msgspec.structs import replace

from imageserver.errors import CatalogDamaged, ObjectChanged, OutOfTime, SimplestreamsError
from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.format.keys import VersionId
from imageserver.inspection.digests import Sha256, Spread, in_turn
from imageserver.storage import listing
from imageserver.storage.leases import lease
from imageserver.storage.listing import is_unchanged
from imageserver.storage.port import Store, StoredObject, write
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.versions import diff, examine, records
from imageserver.versions.assessment import assess, assessed
from imageserver.versions.diff import Files, Learned
from imageserver.versions.limits import DEFAULT_LIMITS, Limits, refuse_all, refuse_another_metadata, refuse_surplus
from imageserver.versions.records import Fault, FileFacts, Record
from imageserver.versions.withdrawal import past

SAVE_EVERY_BYTES: Final = 1 << 30
SAVE_EVERY_FILES: Final = 50
"""A killed run loses at most about this much reading, because the record is saved in between.

A save takes longer the more files a version has, so each save waits until as much again has been read as before it. All
saves together then take only a few times as long as the last one.
"""
SLOWEST_BYTES_PER_S: Final = 40_000_000
"""The assumed lowest rate, in bytes a second, at which a run reads; a function of the default size gets 75 MB/s."""
LEASE_MARGIN_S: Final = 30.0
"""How much longer a lease lasts than the reading should take; shorter than a killed run's message stays hidden."""

Outcome = Literal["recorded", "unchanged", "leased by another worker"]


@dataclass(frozen=True, slots=True)
class IngestServices:
    """Dependencies of `ingest`. `budget_bytes` is how much this run can still read; None means no limit.

    `lease_seconds` is the time left to the run. `is_suspect`: an earlier run may have died of this version. Its lease
    is then always taken, for all of that time. If this run dies too, the next runs find the lease held, work on their
    other versions, and try this one later.
    """

    store: Store
    now: Callable[[], datetime]
    pause: Pause
    max_bytes: int
    lease_seconds: float
    spread: Spread = in_turn
    budget_bytes: int | None = None
    is_suspect: bool = False
    limits: Limits = DEFAULT_LIMITS


@dataclass(slots=True)
class Ingested:
    """Result of `ingest`. `bytes_read` counts every fetched byte, including metadata that was read again.

    `new_faults` has the fault of each new refusal. `unparsed` maps the key of each file that was refused because of an
    unexpected exception to that exception, for the operator.
    """

    version: VersionId
    outcome: Outcome = "unchanged"
    record: Record | None = None
    bytes_read: int = 0
    lost_races: int = 0
    new_faults: list[Fault] = field(default_factory=list)
    unparsed: dict[str, Exception] = field(default_factory=dict)


@dataclass(slots=True)
class _Progress:
    """The state of ingesting one version over several attempts."""

    version: VersionId
    services: IngestServices
    ingested: Ingested
    token: str  # of the lease
    began: str
    learned: Learned = field(default_factory=dict)
    states: dict[str, Sha256] = field(default_factory=dict)  # sha256 of a metadata file -> digest state after it
    siblings: list[str] | None = None  # records of the product's other versions, at most as many as a product may have
    root_states: dict[str, Sha256] | None = None  # those that the current roots are combined with
    failed: dict[str, Exception] = field(default_factory=dict)  # files that failed without being at fault


@dataclass(slots=True)
class _Snapshot:
    """A version at one moment: the record's revision, what it said, and then the folder."""

    seen: StoredObject | None
    before: Record | None
    files: Files


def ingest(version: VersionId, services: IngestServices) -> Ingested:
    """Bring the record of a version up to date with its folder.

    Raises CatalogBusy if other writers won every race, OutOfTime if there is more to read than `budget_bytes`, and
    StorageUnavailable, StorageDenied, CatalogDamaged. An unexpected exception is raised after the version's other files
    have been read and recorded.
    """
    progress = _Progress(version, services, Ingested(version), token=uuid4().hex, began=services.now().isoformat())
    while not retry(version.path, partial(_attempt, progress), services.pause):
        pass  # a save is no lost race, so the count of attempts starts anew
    return progress.ingested


def _attempt(progress: _Progress) -> bool:
    """Return whether the version is done; False if the record was saved with files left to read.

    Raise RaceLost if another writer was faster, or the folder changed meanwhile.
    """
    services, version = progress.services, progress.version
    snapshot = _look(progress)
    if snapshot.before is None and not snapshot.files:
        return True
    unread = diff.unread(snapshot.files, progress.failed)
    if not services.is_suspect and all(file_kinds.classify(file).role in examine.SMALL for file in unread):
        done = _finish(progress, snapshot)
        if progress.ingested.outcome == "unchanged":
            return done
    else:
        size_bytes = sum(snapshot.files[file].size_bytes for file in unread)
        if services.budget_bytes is not None and size_bytes > services.budget_bytes:
            raise OutOfTime(f"{version.path} has {size_bytes:,} bytes to read, too many for the rest of a run")
        key, seconds = version.lease_key, services.lease_seconds
        if not services.is_suspect:  # just long enough, in case this worker is killed
            seconds = min(seconds, LEASE_MARGIN_S + size_bytes / SLOWEST_BYTES_PER_S)
        with lease(services.store, key, progress.token, services.now, seconds, services.pause) as mine:
            if not mine:
                progress.ingested.outcome = "leased by another worker"
                return True
            snapshot = _look(progress)  # again: the worker that held the lease may have read everything
            done = _finish(progress, snapshot)
    # Another worker may have skipped this version because of our lease: it looked at the folder after we did.
    uploads = {version.prefix + file: facts.version_id or facts.etag for file, facts in snapshot.files.items()}
    if done and not is_unchanged(services.store, {version.prefix: uploads}):
        raise RaceLost
    return done


def _look(progress: _Progress) -> _Snapshot:
    """Return the version as it is now, with a refusal of each file beyond the limits of a version or a product.

    Files that were accepted before stay.
    """
    services, key = progress.services, progress.version.record_key
    seen = services.store.read(key)  # read before anything is decided, as the conditional write requires
    before = records.decode(seen.body, key) if seen else None
    listed = listing.listed(services.store, progress.version)
    files = diff.dated(diff.known(progress.learned, before, listed), before, progress.began)
    known = before.files if before else {}
    is_new = all(facts.refusal for facts in known.values())
    if files and is_new and len(_siblings(progress)) >= services.limits.versions:
        return _Snapshot(seen, before, refuse_all(files, services.limits))
    return _Snapshot(seen, before, refuse_surplus(files, known, services.limits))


def _siblings(progress: _Progress) -> list[str]:
    if progress.siblings is None:
        services, version = progress.services, progress.version
        keys = (info.key for info in services.store.list(version.product.records_prefix))
        others = (key for key in keys if key != version.record_key)
        progress.siblings = list(islice(others, services.limits.versions))
    return progress.siblings


def _published_since(progress: _Progress) -> str:
    """Return when the product was first published.

    Each record copies this from an older one, so the oldest version has it.
    """
    seen = progress.services.store.read(key) if (key := min(_siblings(progress), default="")) else None
    with suppress(CatalogDamaged):  # maintain reports it; this version can be read all the same
        return records.decode(seen.body, key).published_since if seen else ""
    return ""


def _finish(progress: _Progress, snapshot: _Snapshot) -> bool:
    """Read what is unread, then write the record. Results and errors as of `_attempt`."""
    if diff.lists_what_changed(snapshot.before, snapshot.files):
        _save(progress, snapshot)  # delist first: the catalog names bytes that are gone
        return False
    saved_at = progress.ingested.bytes_read
    most = max(SAVE_EVERY_FILES, sum(bool(facts.sha256) for facts in snapshot.files.values()))
    for read, file in enumerate(_in_reading_order(progress, snapshot.files)):
        if progress.ingested.bytes_read - saved_at >= SAVE_EVERY_BYTES or read >= most:
            _save(progress, snapshot)
            return False
        try:
            snapshot.files[file] = _read(progress, file, snapshot.files)
        except ObjectChanged as changed:
            raise RaceLost from changed
        except SimplestreamsError:
            raise
        except Exception as error:  # noqa: BLE001  (raised below, once the other files are recorded)
            error.add_note(f"while reading {progress.version.prefix}{file}")
            progress.failed[file] = error
    _save(progress, snapshot)
    if progress.failed:
        raise next(iter(progress.failed.values()))
    return True


def _in_reading_order(progress: _Progress, files: Files) -> Iterator[str]:
    """Yield the files to read, roots last: their metadata is known once the other files have been read."""
    for roots in (False, True):
        progress.root_states = None
        unread = diff.unread(files, progress.failed)
        yield from (file for file in unread if (file_kinds.classify(file).role is Role.ROOT) == roots)


def _read(progress: _Progress, file: str, files: Files) -> FileFacts:
    """Examine one object, pinned to the generation that was listed.

    Inspection is a pure function, so the same bytes raise an unexpected exception each time: the file is refused. An
    error of storage or of the reader is never the fault of the bytes.
    """
    listed = files[file]
    opened = progress.services.store.open(progress.version.prefix + file, listed.etag)
    facts = examine.refuse_unread(file, listed, opened.content_encoding, progress.services.max_bytes)
    failed: list[Exception] = []
    chunks = _counted(progress.ingested, opened.chunks, failed)
    if not facts.refusal:
        try:
            facts = _examined(progress, file, facts, chunks, files)
        except Exception as error:
            if failed or not examine.is_of_the_bytes(error):
                raise
            facts = examine.refuse_unparsed(facts, error)
            progress.ingested.unparsed[progress.version.prefix + file] = error
        if failed:  # a parser may have taken the error for the end of the file
            raise failed[0]
    facts = examine.compare_declared(facts, opened.declared_sha256, records.decode_origin(opened.origin))
    progress.learned[file, listed.etag, listed.modified] = facts
    return facts


def _examined(progress: _Progress, file: str, facts: FileFacts, chunks: examine.Chunks, files: Files) -> FileFacts:
    kind, product, spread = file_kinds.classify(file), progress.version.product, progress.services.spread
    if kind.role is Role.METADATA:
        facts, state = examine.read_tarball(facts, chunks, product, whole=True)
        progress.states[facts.sha256] = state
    elif kind.role is Role.ROOT:
        if progress.root_states is None:  # the same for all roots
            progress.root_states = _states(progress, files)
        facts = examine.read_root(facts, chunks, kind.ftype, progress.root_states, spread)
    elif kind.role is Role.UNIFIED:
        facts, state = examine.read_tarball(facts, chunks, product, whole=False, spread=spread)
        progress.states[facts.sha256] = state
    elif kind.role is Role.DELTA:
        facts = examine.read_delta(facts, chunks, spread)
    else:
        facts = examine.read_document(file, facts, chunks, product)
    return refuse_another_metadata(file, facts, files)


def _states(progress: _Progress, files: Files) -> dict[str, Sha256]:
    """Return the digest state after each metadata file; one that an earlier run examined is read again."""
    sha256s = diff.metadata_sha256s(files)
    for file, facts in files.items():
        if facts.sha256 in sha256s and facts.sha256 not in progress.states:
            opened = progress.services.store.open(progress.version.prefix + file, facts.etag)
            progress.states[facts.sha256] = examine.seed(_counted(progress.ingested, opened.chunks, []))
    return {sha256: progress.states[sha256] for sha256 in sha256s}


def _counted(
    ingested: Ingested, chunks: Iterator[bytes | memoryview], failed: list[Exception]
) -> Iterator[bytes | memoryview]:
    """Pass on the chunks of an object and count their bytes. Append an exception that ends them early to `failed`."""
    try:
        for chunk in chunks:
            ingested.bytes_read += len(chunk)
            yield chunk
    except Exception as error:
        failed.append(error)
        raise


def _save(progress: _Progress, snapshot: _Snapshot) -> None:
    """Write the record unless it is unchanged. Raise RaceLost if another writer was faster."""
    before, found = snapshot.before, Record(version=progress.version.path, files=snapshot.files)
    if before:
        withdrawn, files = past(before, snapshot.files)
        # Keys that held other bytes before, or are empty now: a cache may still have the old bytes at the next upload.
        changed = {file for file, facts in before.files.items() if file not in files or files[file].etag != facts.etag}
        begins_anew = bool(before.withdrawn and not withdrawn)
        found = replace(
            before,
            files=files,
            withdrawn=withdrawn,
            replaced=tuple(sorted({*before.replaced, *changed})),
            # In a record of an older release, the facts say it.
            published={} if begins_anew else assess(before).published,
        )
    else:
        found = replace(found, since=_published_since(progress))
    record = assessed(found)
    progress.ingested.record = record
    if record == before:
        return
    if not write(progress.services.store, progress.version.record_key, records.encode(record), snapshot.seen):
        progress.ingested.lost_races += 1
        raise RaceLost
    progress.ingested.outcome = "recorded"
    known = set(before.reasons) if before else set()
    progress.ingested.new_faults += [r.fault for r in record.reasons if r.kind == "error" and r not in known]
