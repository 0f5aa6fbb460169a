"""Check that a file that starts like a VCDIFF delta is complete, and determine which files it fits.

Source: RFC 3284 as xdelta3 writes it; numbers are big-endian, seven bits a byte. A delta is a sequence of windows. Each
says how much of the base it reads, how much it makes, and how long it is. Clients have no fallback: a delta that
xdelta3 rejects fails the download of the image.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

from imageserver.inspection.scan import Chunk, CutShort, Scan, Want, scanned

MAGIC: Final = b"\xd6\xc3\xc4"
_SECONDARY, _CODE_TABLE, _APPLICATION = 1, 2, 4
_SOURCE, _TARGET, _ADLER32 = 1, 2, 4
_COMPRESSORS: Final = (1, 2, 16)  # DJW, LZMA, FGK
_LONGEST_NUMBER: Final = 8
_LARGEST: Final = 1 << 56
_MOST_WINDOWS: Final = 200_000
"""Windows that are checked: those of 1.5 TB as xdelta3 makes them. A hostile file has one every few bytes."""


class UnusableDelta(Exception):
    """The delta is damaged or cut short. The message completes "<file> …"."""


@dataclass(slots=True)
class Sizes:
    """How much of the base a delta reads, and how much it makes; 0 until all of the delta has passed."""

    base_bytes: int = 0
    made_bytes: int = 0


def checked(chunks: Iterator[Chunk], sizes: Sizes) -> Iterator[Chunk]:
    """Pass on the chunks of a delta and fill in its `sizes`. Raise UnusableDelta if xdelta3 could not apply it."""
    try:
        yield from scanned(chunks, _scan(sizes))
    except CutShort as reason:
        raise UnusableDelta(str(reason)) from reason


def _scan(sizes: Sizes) -> Scan:
    header = yield Want(0, 5)
    if header[3]:
        raise UnusableDelta(f"is a delta of version {header[3]}, expected 0, the only one that xdelta3 reads")
    if header[4] & ~(_SECONDARY | _APPLICATION):
        what = "has a code table of its own" if header[4] & _CODE_TABLE else f"has the flags {header[4]:#x}"
        raise UnusableDelta(f"is a delta that {what}, which xdelta3 does not read: make it with `xdelta3 -e`")
    if header[4] & _SECONDARY and (number := (yield Want(0, 1))[0]) not in _COMPRESSORS:
        raise UnusableDelta(f"is a delta in compression {number}, which xdelta3 does not read")
    skip = 0
    if header[4] & _APPLICATION:
        skip, _ = yield from _number()
    base = made = 0
    for _ in range(_MOST_WINDOWS):
        found = yield Want(skip, 1, may_end=made > 0)
        if found[0] & ~(_SOURCE | _ADLER32):
            what = "copies from what it made" if found[0] == _TARGET else f"has the flags {found[0]:#x}"
            raise UnusableDelta(f"is a delta in which a window {what}, which xdelta3 does not read")
        if found[0] & _SOURCE:
            length, _ = yield from _number()
            start, _ = yield from _number()
            base = max(base, start + length)
        left, _ = yield from _number()
        target, taken = yield from _number()
        if taken > left:
            raise UnusableDelta("is a damaged delta: a window is shorter than its own beginning")
        made += target
        if max(base, made) > _LARGEST:
            raise UnusableDelta("is a damaged delta: it names places beyond the end of any file")
        skip = left - taken
        sizes.base_bytes, sizes.made_bytes = base, made
    sizes.base_bytes = sizes.made_bytes = 0


def _number(skip: int = 0) -> Generator[Want, bytes, tuple[int, int]]:
    """Read a number after `skip` bytes; return it and its length in bytes."""
    number = 0
    for taken in range(1, _LONGEST_NUMBER + 1):
        byte = (yield Want(skip if taken == 1 else 0, 1))[0]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, taken
    raise UnusableDelta(f"is a damaged delta: it has a number of more than {_LONGEST_NUMBER} bytes")
