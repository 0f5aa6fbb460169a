"""Copy one file of another server: either the whole file becomes an object here, or nothing does.

Size and sha256 are compared before the object is made, and it is made only if there is none. Until then nothing of it
is visible. A file of one part is written at once. A larger one is uploaded part by part while it is read; a run that
has no time left notes its progress (imageserver.upstream.copies), and the next one continues from there.

A kill at any moment leaves the whole file or nothing visible. The bucket's rules remove a multipart upload without a
note, and a note without an upload starts again from the first byte.

Memory: what the upstream adapter holds, and `part_bytes` * (UPLOADS + 1).
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from imageserver.errors import LeaseHeld, StorageUnavailable, UpstreamChanged, UpstreamRefused, UpstreamUnavailable
from imageserver.format.keys import LEASES
from imageserver.inspection.resumable import RunningSha256, is_resumable, running_sha256
from imageserver.storage.leases import lease
from imageserver.storage.port import FileStore, StoredObject, write
from imageserver.storage.retries import Pause
from imageserver.upstream.copies import CopyNote, decode_note, encode_note, note_key
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.port import Reading, Upstream
from imageserver.versions.records import Origin, encode_origin

UPLOADS: Final = 3
"""Parts of one file that are on their way to S3 at once."""
SAVE_S: Final = 15
"""How often progress is noted. A killed run loses what it read since its last note."""
STOP_S: Final = 60.0
"""Seconds that a run reserves to end connections, finish uploads and note its progress."""
FRESH_S: Final = 300.0
"""A run that read for this long had time for at least one part, unless the file is too slow to be worth continuing."""
REFUSED_S: Final = 6 * 3600
"""How long a file with another sha256 is not fetched again, because upstream has to repair it first."""


class Outcome(StrEnum):
    """The result of a copy. `continued`: another run has to continue it; `unwanted`: no mirror brings it any more."""

    COPIED = "copied"
    PRESENT = "present"
    REFUSED = "refused"
    CONTINUED = "continued"
    UNWANTED = "unwanted"


@dataclass(frozen=True, slots=True)
class Copied:
    """The outcome for one file. `reason` completes "<key> …" when it is refused; `bytes_read` came from upstream."""

    outcome: Outcome
    reason: str = ""
    bytes_read: int = 0


@dataclass(frozen=True, slots=True)
class CopyServices:
    """Dependencies of a copy. `host` is upstream's; `seconds_left` returns how long this run has left.

    A file of more than `most_bytes` is refused, also if upstream's catalog does not say its size; None: no limit.
    `is_wanted` is asked before a file of several parts becomes an object: its mirror may be removed by then.
    """

    store: FileStore
    upstream: Upstream
    now: Callable[[], datetime]
    pause: Pause
    seconds_left: Callable[[], float]
    host: str
    most_bytes: int | None = None
    is_wanted: Callable[[], bool] = lambda: True


def copy(file: UpstreamFile, services: CopyServices) -> Copied:
    """Copy a file unless it is there, or continue the copy of an earlier run.

    Raise UpstreamUnavailable, StorageUnavailable and StorageDenied as the ports do, and LeaseHeld while another worker
    copies a file of several parts. After any of these but StorageDenied, a later try may succeed.
    """
    if 0 < file.size_bytes <= services.upstream.part_bytes:
        return _Copy(file, services).run()  # so small that a lease costs more than reading it twice
    key, seconds = f"{LEASES}mirrors/{file.key}.json", services.seconds_left()
    with lease(services.store, key, uuid4().hex, services.now, seconds, services.pause) as mine:
        if not mine:
            raise LeaseHeld(f"{file.key} is being copied by another worker: its message is tried again later")
        return _Copy(file, services).run()


class _UploadGone(StorageUnavailable):
    """Another worker, an operator or a rule of the bucket ended the multipart upload."""


class _StoredNote:
    """The note about one file as it is stored."""

    def __init__(self, store: FileStore, file: UpstreamFile) -> None:
        self._store, self._file, self._key = store, file, note_key(file.key)
        self._seen = store.read(self._key)
        self.note = (decode_note(self._seen.body) if self._seen else None) or CopyNote(path="", sha256="")

    @property
    def refusal(self) -> str:
        """Return why exactly this file was refused recently; empty if it was not."""
        is_recent = self._seen is not None and self._seen.age_s < REFUSED_S
        return self.note.refusal if is_recent and self.note.is_of(self._file) else ""

    def save(self, note: CopyNote) -> None:
        """Write a note. Raise LeaseHeld if another worker wrote one, because that worker has taken over."""
        body = encode_note(note)
        revision = write(self._store, self._key, body, self._seen)
        if revision is None:
            raise LeaseHeld(f"{self._file.key} is being copied by another worker, which took over")
        self._seen, self.note = StoredObject(body, revision, 0.0), note

    def drop(self) -> None:
        """Abort the upload that the note is about, and delete the note."""
        if self.note.upload_id:
            self._store.abort(self._file.key, self.note.upload_id)
        if self._seen:
            self._store.delete(self._key, self._seen.revision)
        self._seen, self.note = None, CopyNote(path="", sha256="")


@dataclass(slots=True)
class _Copy:
    """One run of a copy, with `read_s` seconds for reading."""

    file: UpstreamFile
    services: CopyServices
    stored_note: _StoredNote = field(init=False)
    read_s: float = field(init=False)
    bytes_read: int = 0

    def __post_init__(self) -> None:
        self.stored_note = _StoredNote(self.services.store, self.file)
        self.read_s = self.services.seconds_left() - STOP_S

    def run(self) -> Copied:
        """Copy as much as this run can."""
        stored_note = self.stored_note
        if self._is_there():
            stored_note.drop()
            return self._ended(Outcome.PRESENT)
        if stored_note.refusal:
            return self._ended(Outcome.REFUSED, stored_note.refusal)
        if self.read_s <= 0:
            return self._ended(Outcome.CONTINUED)
        if not (
            stored_note.note.is_of(self.file) and stored_note.note.can_continue(self._part_bytes) and is_resumable()
        ):
            stored_note.drop()
        try:
            return self._read(stored_note.note)
        except (UpstreamChanged, _UploadGone):
            stored_note.drop()
            raise
        except UpstreamRefused as refusal:
            stored_note.drop()
            return self._ended(Outcome.REFUSED, f"cannot be copied: {refusal}")

    def _read(self, note: CopyNote) -> Copied:
        """Read the file: one of one part whole, a larger one from where the note ends."""
        file = self.file
        reading = self.services.upstream.read(
            file.path, file.size_bytes, self.read_s, note.done_bytes, note.generation
        )  # fmt: skip
        most = self.services.most_bytes
        with closing(reading.parts):
            if most is not None and reading.size_bytes > most:
                raise UpstreamRefused(
                    f"it has {reading.size_bytes:,} bytes upstream, expected at most {most:,} (MaxUploadBytes)"
                )
            if reading.size_bytes > self._part_bytes:
                return self._in_parts(reading, note)
            body = next(reading.parts, b"")
            self.bytes_read = len(body)
            if len(body) != reading.size_bytes:
                return self._continued(reading)
            digest = running_sha256()
            digest.update(body)
            if refusal := self._refusal(digest):
                return refusal
            return self._made(self.services.store.create_file(file.key, body, file.sha256, self._origin))

    def _in_parts(self, reading: Reading, note: CopyNote) -> Copied:
        """Upload each part while others are read. Note the progress now and then, and at the end, whatever ends it."""
        store, file = self.services.store, self.file
        digest = running_sha256(note.digest)
        if not note.upload_id:
            note = CopyNote(
                path=file.path, sha256=file.sha256, size_bytes=reading.size_bytes, generation=reading.generation,
                upload_id=store.begin(file.key, file.sha256, self._origin), part_bytes=self._part_bytes,
            )  # fmt: skip
            self.stored_note.save(note)
        with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
            sender = _Sender(store, file.key, pool, note)
            try:
                self._send_all(reading, sender, digest)
            except UpstreamChanged:
                raise
            except UpstreamUnavailable:
                sender.wait()
                self.stored_note.save(sender.note)
                raise
        if sender.size_bytes < reading.size_bytes:
            self.stored_note.save(sender.note)
            return self._continued(reading)
        if refusal := self._refusal(digest):
            return refusal
        if not self.services.is_wanted():
            self.stored_note.drop()
            return self._ended(Outcome.UNWANTED)
        return self._made(store.complete(file.key, note.upload_id, sender.etags))

    def _send_all(self, reading: Reading, sender: "_Sender", digest: RunningSha256) -> None:
        saved = self.services.now()
        for part in reading.parts:
            self.bytes_read += len(part)
            digest.update(part)
            sender.send(part, digest.state)
            if self.services.now() - saved >= timedelta(seconds=SAVE_S):
                self.stored_note.save(sender.note)
                saved = self.services.now()
        sender.wait()

    def _refusal(self, digest: RunningSha256) -> Copied | None:
        """Refuse bytes that differ from upstream's catalog, and note the refusal; return None if they are right."""
        found, expected = digest.hexdigest(), self.file.sha256
        if found == expected:
            return None
        reason = f"has sha256 {found} upstream, expected {expected} as upstream's catalog says: nothing was stored"
        self.stored_note.drop()
        self.stored_note.save(
            CopyNote(path=self.file.path, sha256=expected, size_bytes=self.file.size_bytes, refusal=reason)
        )
        return self._ended(Outcome.REFUSED, reason)

    def _made(self, made: bool) -> Copied:
        """Return the outcome of making the object. A lost answer can hide a success, so the key is looked at again."""
        is_there = made or self._is_there()
        self.stored_note.drop()
        if not is_there:
            raise StorageUnavailable(f"{self.file.key} was not stored, and nothing else is there; it is copied anew")
        return self._ended(Outcome.COPIED if made else Outcome.PRESENT)

    def _continued(self, reading: Reading) -> Copied:
        """Return `continued` if another run can get further than this one did."""
        can_continue = self.stored_note.note.can_continue(self._part_bytes)
        if self.read_s < FRESH_S or (can_continue and self.bytes_read):
            return self._ended(Outcome.CONTINUED)
        if not can_continue:
            self.stored_note.drop()
        if self.bytes_read < self._part_bytes:
            raise UpstreamUnavailable(
                f"{self.file.path} is too slow: less than {self._part_bytes:,} bytes came in {self.read_s:.0f} s"
            )
        why = "upstream serves no ranges" if not reading.generation else "this Python cannot continue a sha256"
        return self._ended(Outcome.REFUSED, f"takes longer to read than one run lasts, and {why}")

    @property
    def _origin(self) -> str:
        """Return where the file comes from, as stored with its object and then in its record."""
        return encode_origin(Origin(self.services.host, self.file.combined, self.file.signed_by))

    @property
    def _part_bytes(self) -> int:
        return self.services.upstream.part_bytes

    def _is_there(self) -> bool:
        return any(info.key == self.file.key for info in self.services.store.list(self.file.key))

    def _ended(self, outcome: Outcome, reason: str = "") -> Copied:
        return Copied(outcome, reason, self.bytes_read)


class _Sender:
    """Uploads parts, a few at once. `etags` are those of the parts that arrived, in order.

    `note` is what a later run can continue from: the parts that arrived, and the digest after exactly these.
    """

    def __init__(self, store: FileStore, key: str, pool: ThreadPoolExecutor, note: CopyNote) -> None:
        self._store, self._key, self._pool = store, key, pool
        self._pending: deque[tuple[Future[str | None], int, str]] = deque()
        self.note, self.etags, self.size_bytes = note, list(note.etags), note.done_bytes

    def send(self, part: bytes | bytearray, digest: str) -> None:
        """Begin to send a part; `digest` is the state after it. Wait until fewer than UPLOADS are on their way."""
        number = len(self.etags) + len(self._pending) + 1
        sent = self._pool.submit(self._store.put_part, self._key, self.note.upload_id, number, part)
        self._pending.append((sent, len(part), digest))
        self.wait(UPLOADS - 1)

    def wait(self, unfinished: int = 0) -> None:
        """Wait until at most `unfinished` parts are being sent. Raise _UploadGone if there is no such upload."""
        while len(self._pending) > unfinished:
            sent, size_bytes, digest = self._pending.popleft()
            etag = sent.result()
            if etag is None:
                raise _UploadGone(f"the upload of {self._key} is gone; the file is copied anew")
            self.etags.append(etag)
            self.size_bytes += size_bytes
            if digest:
                self.note = replace(self.note, etags=tuple(self.etags), digest=digest)
