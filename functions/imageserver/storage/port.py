"""What the functions need of a bucket. The S3 adapter is one; tests put hooks and faults in between."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small object, read whole. `revision` is opaque: its ETag, good for one conditional write.

    `age_s`: how many seconds before this answer it was written. Both times are of the store's own clock.
    """

    body: bytes
    revision: str
    age_s: float


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing shows it; `modified` in ISO 8601, UTC.

    `version_id` names this upload of the key. Only listings of images have it.
    """

    key: str
    size_bytes: int
    etag: str
    modified: str
    version_id: str = ""


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """The uploads of one key that the bucket still keeps, newest first; `is_deleted`: a delete marker hides them."""

    uploads: tuple[ObjectInfo, ...] = ()
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """An object being read, pinned to one ETag. `chunks` may be reused buffers: use each before the next.

    `declared_sha256` is what its uploader said the digest is, empty when nobody did. `origin` is what a file of another
    server was copied with, empty for others.
    """

    size_bytes: int
    content_encoding: str
    chunks: Iterator[bytes | memoryview]
    declared_sha256: str = ""
    origin: str = ""


class Store(Protocol):
    """One bucket.

    All methods raise StorageUnavailable when a later try may work and StorageDenied when only a change of
    policy helps. Only "no such key" is an answer.
    """

    def read(self, key: str) -> StoredObject | None:
        """Return a small object, or None when there is no such key."""

    def create(self, key: str, body: bytes) -> str | None:
        """Write an object that must not exist yet; its revision, or None when it does: a race was lost.

        None, here and below, may also follow a write that took effect: its answer was lost, and the
        adapter's next try met the first one. A caller that gets None looks again and concludes nothing.
        """

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        """Write over the very revision that was read; the new one, or None when that is gone: a race was lost.

        Equal bytes may be an equal revision. So a revision that came back is not noticed: A reads it, B and C
        write another and this one again, A's write goes through. A caller therefore looks again after it has written.
        """

    def delete(self, key: str, revision: str) -> bool:
        """Delete the very revision that was seen; False when it is another one or gone.

        Equal bytes are an equal revision here too, and a delete whose answer was lost is sent again. Where that may
        meet a later upload of the same bytes, look at the `history` before and afterwards.
        """

    def history(self, key: str) -> KeyHistory:
        """Return the uploads of a key, those that were deleted or replaced included."""

    def bring_back(self, upload: ObjectInfo) -> bool:
        """Copy an earlier upload over the delete marker that hides it, without its tags; False when it lost a race.

        Raises UploadHidden when it is too large to be copied at once.
        """

    def mark_listed(self, key: str, version_id: str) -> bool:
        """Let the edge serve this upload of a file, and no other one; False when the bucket no longer has it."""

    def is_marked(self, key: str) -> bool:
        """Return whether the edge may serve the upload that a key has now; False also when there is none."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Return every object below a prefix whose key is greater than `after`, in order of keys.

        Below `images…` with the id of each upload.
        """

    def earlier(self, key: str) -> Iterator[bytes]:
        """Return what a small object was before what it is now, newest first, as long as the bucket keeps it."""

    def open(self, key: str, etag: str) -> Opened:
        """Start to read a large object; ObjectChanged, also midway, when it is no longer that one."""


class FileStore(Store, Protocol):
    """A bucket into which files of images are written, each as if its publisher had uploaded it. Errors as of Store.

    `sha256` is that of the whole file, in hex. It is declared with the object, and digest compares it. `origin` is kept
    with the object too: ASCII, 1 KiB at most.
    """

    def create_file(self, key: str, body: bytes | bytearray, sha256: str, origin: str = "") -> bool:
        """Write a file that must not exist yet; False as for `create`. The store refuses a body of another sha256."""

    def begin(self, key: str, sha256: str, origin: str = "", /) -> str:
        """Begin to write a file in parts, which stay invisible until they are completed; the id of that upload."""

    def put_part(self, key: str, upload_id: str, number: int, body: bytes | bytearray) -> str | None:
        """Write part `number`, from 1 on, of at least 5 MiB unless it is the last; its ETag. None: no such upload."""

    def complete(self, key: str, upload_id: str, etags: Sequence[str]) -> bool:
        """Make a file of the parts that have these ETags, in order; it must not exist yet.

        False when it does, when a part is another one, or when there is no such upload; and, as with `create`, perhaps
        after it took effect. The upload is of no more use then.
        """

    def abort(self, key: str, upload_id: str) -> None:
        """Give up an upload and its parts. It may be gone already."""


def write(store: Store, key: str, body: bytes, seen: StoredObject | None) -> str | None:
    """Write what was decided from `seen`: over it, or where nothing was. Its revision; None: a race was lost."""
    return store.create(key, body) if seen is None else store.replace(key, body, seen.revision)
