"""Inspect a few places of a file while it passes by, without storing it or reading it again.

A scan is a generator. It yields the bytes it wants next and is sent them; it returns once it has seen enough, and
raises if the file is wrong.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

Chunk = bytes | memoryview


class CutShort(Exception):
    """The file ended before a position that its own content names. The message completes "the file …"."""


@dataclass(frozen=True, slots=True)
class Want:
    """A request for the next `length` bytes after `skip` others. `may_end`: the file may also end exactly here."""

    skip: int
    length: int
    may_end: bool = False


Scan = Generator[Want, bytes, None]


class Reader:
    """Feeds a scan from chunks of any size. `want` is what the scan wants next; None once it has seen enough."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._held = bytearray()
        self.want: Want | None = next(scan, None)
        self._skip = self.want.skip if self.want else 0

    def feed(self, chunk: Chunk) -> None:
        """Send the scan what it wants of the next chunk. Raise what the scan raises."""
        rest = memoryview(chunk)
        while self.want and rest:
            rest = rest[(skipped := min(self._skip, len(rest))) :]
            self._skip -= skipped
            missing = self.want.length - len(self._held)
            self._held += rest[:missing]
            rest = rest[missing:]
            if not self._skip and len(self._held) == self.want.length:
                found, self._held = bytes(self._held), bytearray()
                try:
                    self.want = self._scan.send(found)
                    self._skip = self.want.skip
                except StopIteration:
                    self.want = None

    def finish(self) -> None:
        """Raise CutShort unless the scan has seen enough."""
        if self.want and (self._skip or self._held or not self.want.may_end):
            raise CutShort("is cut short: it ends in the middle of its own structure")


def scanned(chunks: Iterator[Chunk], scan: Scan) -> Iterator[Chunk]:
    """Pass on the chunks of a file, from its first byte, through a scan. Raise CutShort, and what the scan raises."""
    reader = Reader(scan)
    for chunk in chunks:
        reader.feed(chunk)
        yield chunk
    reader.finish()


def scan_start(chunks: Iterable[Chunk], scan: Scan, most_bytes: int) -> None:
    """Feed a scan until it has seen enough, or `most_bytes`. Raise as `scanned` does."""
    reader, at = Reader(scan), 0
    for chunk in chunks:
        reader.feed(chunk)
        at += len(chunk)
        if reader.want is None or at >= most_bytes:
            return
    reader.finish()
