"""The port to another image server. The HTTP adapter implements it; tests put faults in between."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, Protocol

PART_BYTES: Final = 16 << 20
"""How much of a file is read, uploaded and noted as one part. S3's limit of 10,000 parts allows 156 GiB."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document, read whole. `etag` is upstream's, for the next conditional read; empty where it has none.

    `signed_by` is the fingerprint of the key that signed it, 40 or 64 hex digits; empty where no signature was checked.
    """

    body: bytes
    etag: str
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """A file that is being read, pinned to one generation of it.

    `parts` yields the parts in order, of `part_bytes` each but the last; the buffers are not reused. It ends early when
    the time is over. `generation` identifies what is read, so that a later `read` can continue it; empty where upstream
    serves no ranges or does not name its generations. Close `parts` to stop early.
    """

    size_bytes: int
    generation: str
    parts: Generator[bytes | bytearray]


class Upstream(Protocol):
    """Another image server, as one mirror follows it. Paths are below its address. Files are read in parts.

    All methods raise UpstreamRefused when trying again would not help, and UpstreamUnavailable when it may.
    """

    @property
    def part_bytes(self) -> int:
        """The size of each part of a file but the last."""

    def document(self, path: str, etag: str = "") -> Document | None:
        """Return a document, or None if it still has this ETag."""

    def read(self, path: str, size_bytes: int, seconds: float, start: int = 0, generation: str = "") -> Reading:
        """Start to read a file of this size, 0 where that is unknown, for at most this many seconds.

        `start` is a multiple of the part size, from which to continue a `generation`. Raise UpstreamChanged, also
        midway, if upstream now has another one.
        """
