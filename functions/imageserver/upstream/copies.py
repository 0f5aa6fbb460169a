"""The note that one run of a copy leaves for the next: the progress of a file, or why it was refused. Pure.

Notes are private. They are stored below `mirrors/copies/`, one for each file that is being copied. A note only saves
work: if it is missing or cannot be read, the file is copied from its start.
"""

from typing import Final

import msgspec

from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.mirrors import MIRRORS

COPIES: Final = f"{MIRRORS}copies/"


class CopyNote(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A copy under way, or a refused one. `path` and `sha256` are those of the requested file.

    Under way: the parts with these `etags`, of `part_bytes` each, are in the multipart upload `upload_id`, and `digest`
    is the state of the file's sha256 after them (imageserver.inspection.resumable). All of them come from one
    `generation` of the file, which has `size_bytes`.
    """

    path: str
    sha256: str
    size_bytes: int = 0
    upload_id: str = ""
    generation: str = ""
    digest: str = ""
    etags: tuple[str, ...] = ()
    part_bytes: int = 0
    refusal: str = ""

    @property
    def done_bytes(self) -> int:
        """The number of bytes in those parts."""
        return len(self.etags) * self.part_bytes

    def is_of(self, file: UpstreamFile) -> bool:
        """Return whether the note is about exactly this file."""
        return (self.path, self.sha256) == (file.path, file.sha256) and file.size_bytes in (0, self.size_bytes)

    def can_continue(self, part_bytes: int) -> bool:
        """Return whether a run that reads parts of this size can continue from here."""
        begun = bool(self.upload_id and self.generation and self.digest)
        return begun and self.part_bytes == part_bytes and 0 < self.done_bytes < self.size_bytes


def note_key(key: str) -> str:
    """Return the key of the note about the file that becomes `key`."""
    return f"{COPIES}{key}.json"


def encode_note(note: CopyNote) -> bytes:
    """Return the bytes of a note."""
    return msgspec.json.encode(note)


def decode_note(body: bytes) -> CopyNote | None:
    """Read a note. Return None if it cannot be read."""
    try:
        return msgspec.json.decode(body, type=CopyNote)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
