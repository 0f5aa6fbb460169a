"""Compressed log -> lines, in bounded memory."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

LONGEST_LINE: Final = 64 << 10
"""CloudFront logs no request whose URL exceeds 8,192 bytes or whose headers exceed 20 KB."""
BLOCK_BYTES: Final = 128 << 10
"""Bytes decompressed in one step, so that a file of zeros needs no more memory than any other."""
GZIP: Final = 16 + zlib.MAX_WBITS
"""The window bits with which zlib reads and writes gzip."""


class DamagedLog(Exception):
    """Raised when a log cannot be read to its end. The message completes "<key> …"."""


def lines_of(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield the lines of a gzip file, without their ends.

    Raise DamagedLog if it is not a gzip file or ends early, after yielding the complete lines before that.
    """
    rest = b""
    for block in _blocks(chunks):
        first, *lines = (rest + block).split(b"\n")
        if lines:
            yield first
            rest = lines.pop()
            yield from lines
        else:
            rest = first
        if len(rest) > LONGEST_LINE:
            raise DamagedLog(f"has a line of more than {LONGEST_LINE:,} bytes, which CloudFront does not write")
    if rest:
        yield rest


def _blocks(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    member = zlib.decompressobj(GZIP)
    is_empty = True
    try:
        for chunk in chunks:
            data = bytes(chunk)
            while data:
                if member.eof:  # several gzip files in a row count as one, as gunzip reads them
                    member = zlib.decompressobj(GZIP)
                is_empty = False
                block = member.decompress(data, BLOCK_BYTES)
                if block:
                    yield block
                data = member.unused_data if member.eof else member.unconsumed_tail
    except zlib.error as error:
        raise DamagedLog(f"is not a gzip file, or is damaged: {error}") from error
    if is_empty or not member.eof:
        raise DamagedLog("ends early" if not is_empty else "is empty")
