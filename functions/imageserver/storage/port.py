"""The port to a bucket. The S3 adapter implements it; tests put hooks and faults in between."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small object, read whole. `revision` is opaque: its ETag, valid for one conditional write.

    `age_s` is how many seconds before this answer it was written, both by the store's own clock.
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

    `declared_sha256` is the digest that its uploader declared, empty if none. `origin` says where a file that was
    copied from another server comes from, empty for others.
    """

    size_bytes: int
    content_encoding: str
    chunks: Iterator[bytes | memoryview]
    declared_sha256: str = ""
    origin: str = ""


class Store(Protocol):
    """One bucket.

    All methods raise StorageUnavailable when a later try may work, and StorageDenied when only a policy change helps.
    Only "no such key" counts as absent.
    """

    def read(self, key: str) -> StoredObject | None:
        """Return a small object, or None when there is no such key."""

    def create(self, key: str, body: bytes) -> str | None:
        """Create an object; return its revision, or None if it exists already (a lost race).

        None, here and below, may also follow a write that took effect: its answer was lost, and the adapter's retry met
        the first try. A caller that gets None reads again and concludes nothing from it.
        """

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        """Write over exactly this revision; return the new one, or None if it is gone (a lost race).

        Equal bytes may have equal revisions, so a revision that came back is not noticed: A reads it, B writes another,
        C writes the first one again, and A's write succeeds. A caller therefore reads again after it has written.
        """

    def delete(self, key: str, revision: str) -> bool:
        """Delete exactly this revision; return False if it is another one or gone.

        Equal bytes have equal revisions here too, and a delete whose answer was lost is sent again. Where that may hit
        a later upload of the same bytes, compare the `history` before and after.
        """

    def history(self, key: str) -> KeyHistory:
        """Return the uploads of a key, including deleted and replaced ones."""

    def bring_back(self, upload: ObjectInfo) -> bool:
        """Copy an earlier upload over the delete marker that hides it, without its tags; False if it lost a race.

        Raises UploadHidden when it is too large to be copied at once.
        """

    def tag_listed(self, key: str, version_id: str) -> bool:
        """Let the edge serve this upload of a file, and no other; return False if the bucket no longer has it."""

    def is_tagged(self, key: str) -> bool:
        """Return whether the edge may serve the current upload of a key; False also if there is none."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Return every object below a prefix whose key is greater than `after`, in order of keys.

        Below `images…` with the id of each upload.
        """

    def earlier(self, key: str) -> Iterator[bytes]:
        """Return the earlier bodies of a small object that the bucket still keeps, newest first."""

    def open(self, key: str, etag: str) -> Opened:
        """Start to read a large object. Raise ObjectChanged, also midway, if it is no longer that one."""


class FileStore(Store, Protocol):
    """A bucket to write image files to, each as if its publisher had uploaded it. Errors as of Store.

    `sha256` is that of the whole file, in hex. It is declared with the object, and digest compares it. `origin` is
    stored with the object too: ASCII, 1 KiB at most.
    """

    def create_file(self, key: str, body: bytes | bytearray, sha256: str, origin: str = "") -> bool:
        """Create a file; return False where `create` returns None. The store refuses a body with another sha256."""

    def begin(self, key: str, sha256: str, origin: str = "", /) -> str:
        """Begin to write a file in parts, invisible until completed; return the id of the upload."""

    def put_part(self, key: str, upload_id: str, number: int, body: bytes | bytearray) -> str | None:
        """Write part `number` (from 1; 5 MiB or more unless last); return its ETag, None if there is no such upload."""

    def complete(self, key: str, upload_id: str, etags: Sequence[str]) -> bool:
        """Create a file from the parts with these ETags, in order.

        Return False if the file exists already, a part is another one, or there is no such upload; and, as with
        `create`, possibly after it took effect. The upload is of no use afterwards.
        """

    def abort(self, key: str, upload_id: str) -> None:
        """Abort an upload and discard its parts. It may be gone already."""


def write(store: Store, key: str, body: bytes, seen: StoredObject | None) -> str | None:
    """Write a body decided from `seen`, over it or as a new object; return the revision, None if a race was lost."""
    return store.create(key, body) if seen is None else store.replace(key, body, seen.revision)
