"""Copy one file of another server: its bytes become an object of this one, or nothing does.

Size and sha256 are compared before the object is made, and it is made only where none is. Until then nothing of it is
visible.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from imageserver.errors import StorageUnavailable, UpstreamRefused
from imageserver.storage.port import FileStore
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.port import Upstream


class Outcome(StrEnum):
    """What came of a copy; `continued` means that another run has to go on with it."""

    COPIED = "copied"
    PRESENT = "present"
    REFUSED = "refused"
    CONTINUED = "continued"


@dataclass(frozen=True, slots=True)
class Copied:
    """The outcome for one file. `reason` completes "<key> …" when it is refused; `bytes_read` came from upstream."""

    outcome: Outcome
    reason: str = ""
    bytes_read: int = 0


@dataclass(frozen=True, slots=True)
class CopyServices:
    """What a copy works with. `seconds_left` says how long this run may still last."""

    store: FileStore
    upstream: Upstream
    seconds_left: Callable[[], float]


def copy(file: UpstreamFile, services: CopyServices) -> Copied:
    """Copy a file unless it is there.

    Raise UpstreamUnavailable, StorageUnavailable and StorageDenied as the ports do; a later try may work.
    """
    store = services.store
    if _is_there(store, file.key):
        return Copied(Outcome.PRESENT)
    digest, bytes_read, upload_id = hashlib.sha256(), 0, ""
    etags: list[str] = []
    try:
        reading = services.upstream.read(file.path, file.size_bytes)
        for part in reading.parts:
            digest.update(part)
            bytes_read += len(part)
            if bytes_read == reading.size_bytes and not etags and digest.hexdigest() == file.sha256:
                made = store.create_file(file.key, part, file.sha256)
                return Copied(Outcome.COPIED if made else Outcome.PRESENT, bytes_read=bytes_read)
            upload_id = upload_id or store.begin(file.key, file.sha256)
            etag = store.put_part(file.key, upload_id, len(etags) + 1, part)
            if etag is None:
                raise StorageUnavailable(f"the upload of {file.key} is gone; it begins anew on redelivery")
            etags.append(etag)
    except UpstreamRefused as refusal:
        return Copied(Outcome.REFUSED, f"cannot be copied: {refusal}", bytes_read)
    if digest.hexdigest() != file.sha256:
        store.abort(file.key, upload_id)
        reason = f"has sha256 {digest.hexdigest()}, expected {file.sha256} as upstream's catalog says"
        return Copied(Outcome.REFUSED, reason, bytes_read)
    made = store.complete(file.key, upload_id, etags)
    return Copied(Outcome.COPIED if made else Outcome.PRESENT, bytes_read=bytes_read)


def _is_there(store: FileStore, key: str) -> bool:
    return any(info.key == key for info in store.list(key))
