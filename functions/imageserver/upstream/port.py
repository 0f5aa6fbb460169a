"""What the functions need of another image server. The HTTP adapter is one; tests put faults in between."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

PART_BYTES: Final = 16 << 20
"""How much of a file is read, uploaded and remembered as one part. S3's 10,000 parts of it are 156 GiB."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document, read whole. `etag` is upstream's own, empty where it has none; good for the next conditional read."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A file that is being read, pinned to one generation of it.

    `parts` has PART_BYTES each but the last, in order; nobody else uses them. `generation` names what is read: good
    for a later `read` that continues it, empty where upstream serves no ranges or does not name its generations.
    Close `parts` to stop early.
    """

    size_bytes: int
    generation: str
    parts: Iterator[bytes | bytearray]


class Upstream(Protocol):
    """Another image server, as one mirror follows it. Paths are below its address.

    All methods raise UpstreamRefused when trying again would not help, and UpstreamUnavailable when it may.
    """

    def document(self, path: str, etag: str = "") -> Document | None:
        """Return a document, or None when it is still the one of this ETag."""

    def read(self, path: str, size_bytes: int = 0, start: int = 0, generation: str = "") -> Reading:
        """Start to read a file of this size, 0 where that is unknown, from byte `start` on: a whole number of parts.

        With a `generation` it continues that one. UpstreamChanged, also midway, when upstream has another by now.
        """
