"""What the functions need of a bucket. The S3 adapter is one; tests put hooks and faults in between."""

from collections.abc import Iterator
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
    """An object as a listing shows it; `modified` in ISO 8601, UTC."""

    key: str
    size_bytes: int
    etag: str
    modified: str


@dataclass(frozen=True, slots=True)
class Opened:
    """An object being read, pinned to one ETag. `chunks` may be reused buffers: use each before the next.

    `declared_sha256` is what its uploader said the digest is, empty when nobody did.
    """

    size_bytes: int
    content_encoding: str
    chunks: Iterator[bytes | memoryview]
    declared_sha256: str = ""


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
        adapter's next try met the first one. Whoever gets None must look again, not conclude.
        """

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        """Write over the very revision that was read; the new one, or None when that is gone: a race was lost.

        Equal bytes may be an equal revision. So a revision that came back is not noticed: A reads it, B and C
        write another and this one again, A's write goes through. Whoever writes must look again afterwards.
        """

    def delete(self, key: str, revision: str) -> bool:
        """Delete the very revision that was seen; False when it is another one or gone."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Return every object below a prefix whose key is greater than `after`, in order of keys."""

    def earlier(self, key: str) -> Iterator[bytes]:
        """Return what a small object was before what it is now, newest first, as long as the bucket keeps it."""

    def open(self, key: str, etag: str) -> Opened:
        """Start to read a large object; ObjectChanged, also midway, when it is no longer that one."""


def write(store: Store, key: str, body: bytes, seen: StoredObject | None) -> str | None:
    """Write what was decided from `seen`: over it, or where nothing was. Its revision; None: a race was lost."""
    return store.create(key, body) if seen is None else store.replace(key, body, seen.revision)
