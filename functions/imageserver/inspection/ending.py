"""Check that a tarball has its end, while its chunks pass by to be hashed.

A tar is a sequence of headers with lengths, and ends with zeros. Its compression has an end as well, and each format
but gzip and lzma marks it in a way that is cheap to check, whatever the size:

- xz ends with an index of its blocks, which says how long the file is;
- zstd is a sequence of blocks, each with its length in front;
- bzip2 marks its end with 48 bits, at any bit.

In addition, every format is unpacked up to `MOST_UNPACKED`. That verifies the checksums, which finds damage in the
middle, and shows whether the tar was whole before it was compressed.
"""

import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Final

from imageserver.inspection.scan import Chunk, CutShort, Reader, Scan, Want, scanned
from imageserver.inspection.tar_members import SPARSE_IS_EXTENDED, SPARSE_MAP_IS_EXTENDED
from imageserver.inspection.tarball import MOST_UNPACKED
from imageserver.inspection.unpacking import BZIP2, XZ, ZSTD, NeedsMemory, Unpacker, UnreadableArchive, compression

_MOST_PARTS: Final = 2_000_000
"""Blocks of zstd, or members of a tar, that are checked. A hostile file has one every few bytes."""
_TAIL: Final = 256 * 1024
_XZ_HEADER, _XZ_FOOTER = 12, 12
_BZIP2_END: Final = bytes.fromhex("177245385090")
_BZIP2_CHECKSUM_BITS: Final = 32
_ZSTD_WINDOW_BYTES: Final = 1 << 27  # the largest window that the zstd command accepts by default
_ZSTD_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)
_ZSTD_RLE, _ZSTD_RESERVED = 1, 3
_NO_CONTENT: Final = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_MOST_PAX: Final = 1 << 20
_PAX_SIZE: Final = re.compile(rb"(?:\A|\n)[0-9]{1,3} size=([0-9]{1,18})\n")


def checked(chunks: Iterator[Chunk], head: bytes, size_bytes: int, *, is_unpacked: bool = False) -> Iterator[Chunk]:
    """Pass on the chunks of a tarball that begins with `head`. Raise UnreadableArchive if it has no end.

    `is_unpacked`: the reader of the chunks unpacks them and looks for the end of the tar, so that is not done here.
    """
    magic = compression(head)
    if magic == XZ:
        chunks = _with_tail(chunks, size_bytes, _check_xz)
    elif magic == BZIP2:
        chunks = _with_tail(chunks, size_bytes, _check_bzip2)
    elif magic == ZSTD:
        chunks = scanned(chunks, _scan_zstd())
    if not magic:
        chunks = scanned(chunks, _scan_tar())
    elif not is_unpacked:
        chunks = _unpacked_too(chunks, magic)
    try:
        yield from chunks
    except CutShort as reason:
        raise UnreadableArchive(str(reason)) from reason


def _with_tail(chunks: Iterator[Chunk], size_bytes: int, check: Callable[[bytes, int], None]) -> Iterator[Chunk]:
    """Pass on the chunks, then check the last `_TAIL` bytes of them."""
    start, at = max(0, size_bytes - _TAIL), 0
    tail = bytearray()
    for chunk in chunks:
        end = at + len(chunk)
        if end > start:
            tail += chunk[max(0, start - at) :]
        at = end
        yield chunk
    check(bytes(tail), size_bytes)


def _check_xz(tail: bytes, size_bytes: int) -> None:
    """Check footer and index of the last stream. xz allows padding after it and other streams before it."""
    body = tail.rstrip(b"\0")  # a footer ends with letters
    footer = body[-_XZ_FOOTER:]
    if len(footer) < _XZ_FOOTER or footer[-2:] != b"YZ" or zlib.crc32(footer[4:10]) != _number(footer[:4]):
        raise UnreadableArchive("is cut short: it does not end as xz data does")
    if size_bytes % 4:
        raise UnreadableArchive(f"is damaged xz data: it has {size_bytes:,} bytes, expected a multiple of four")
    end_bytes = (_number(footer[4:8]) + 1) * 4 + _XZ_FOOTER
    stream_bytes = size_bytes - (len(tail) - len(body))
    if end_bytes > len(body):
        if end_bytes > stream_bytes:
            raise UnreadableArchive("is damaged xz data: its index is larger than the file")
        return  # more blocks than fit into the tail: only the footer is checked
    index = body[-end_bytes:-_XZ_FOOTER]
    if index[0] != 0 or zlib.crc32(index[:-4]) != _number(index[-4:]):
        raise UnreadableArchive("is damaged xz data: the checksum of its index is wrong")
    named = _XZ_HEADER + _xz_blocks_bytes(index[1:-4]) + end_bytes
    if named > stream_bytes:
        raise UnreadableArchive(f"is cut short: its index names {named:,} bytes, the file has {stream_bytes:,}")


def _xz_blocks_bytes(records: bytes) -> int:
    """Return the total packed size of the blocks in an index. It holds their number, then both sizes of each."""
    numbers = []
    number = shift = 0
    for byte in records:
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise UnreadableArchive("is damaged xz data: its index has a number of more than 63 bits")
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    return sum(-(-packed // 4) * 4 for packed in numbers[1 : 2 * numbers[0] + 1 : 2]) if numbers else 0


def _check_bzip2(tail: bytes, _size_bytes: int) -> None:
    """Look for the end of a stream at any bit, with its checksum after it and no other stream after that.

    bzip2 accepts a file with something else after its end, and tar relies on bzip2.
    """
    bits = int.from_bytes(tail, "big")
    behind = []  # of the checksum, in bits
    for shift in range(8):
        found = (bits >> shift).to_bytes(len(tail), "big").rfind(_BZIP2_END)
        if found >= 0:
            behind.append((len(tail) - found - len(_BZIP2_END)) * 8 + shift - _BZIP2_CHECKSUM_BITS)
    left = min(behind, default=-1)
    rest = tail[len(tail) - left // 8 :]
    if left < 0 or (rest and rest.startswith(BZIP2[: len(rest)])):
        raise UnreadableArchive("is cut short: it does not end as bzip2 data does")


def _unpacked_too(chunks: Iterator[Chunk], magic: bytes) -> Iterator[Chunk]:
    """Unpack the chunks as they pass by and walk the tar in them; keep nothing of either."""
    unpacker, tar = Unpacker(magic), Reader(_scan_tar())
    is_looked_at = True
    for chunk in chunks:
        yield chunk  # first: its reader may refuse a bomb before it is unpacked here
        try:
            for step in unpacker.feed(chunk) if is_looked_at else ():
                tar.feed(step)
            is_looked_at = is_looked_at and unpacker.made_bytes <= MOST_UNPACKED[magic]
        except NeedsMemory:  # clients have more
            is_looked_at = False
    if is_looked_at:
        unpacker.finish()
        tar.finish()


def _scan_zstd() -> Scan:
    """Walk the blocks as RFC 8878 describes them."""
    skip, parts = 0, 0
    while parts < _MOST_PARTS:
        magic = _number((yield Want(skip, 4, may_end=parts > 0)))
        parts += 1
        if magic in _ZSTD_SKIPPABLE:
            skip = _number((yield Want(0, 4)))
            continue
        if magic != _number(ZSTD):
            raise UnreadableArchive(f"is damaged zstd data: a frame starts with {magic:#x}")
        has_checksum = yield from _zstd_frame_header()
        skip, last = 0, False
        while not last and parts < _MOST_PARTS:
            block = _number((yield Want(skip, 3)))
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            if kind == _ZSTD_RESERVED:
                raise UnreadableArchive("is damaged zstd data: a block has a reserved type")
            skip = 1 if kind == _ZSTD_RLE else size
            parts += 1
        skip += 4 * has_checksum


def _zstd_frame_header() -> Generator[Want, bytes, bool]:
    """Read what stands between a frame's magic and its first block, and check the size of the window that it needs.

    Return whether a checksum follows the last block.
    """
    descriptor = (yield Want(0, 1))[0]
    single_segment = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    header = yield Want(0, 1 - single_segment + dictionary + content_size)
    if single_segment:
        window = _number(header[dictionary:])  # the size of its content
    else:
        exponent, mantissa = header[0] >> 3, header[0] & 7
        window = (1 << 10 + exponent) // 8 * (8 + mantissa)
    if window > _ZSTD_WINDOW_BYTES:
        raise UnreadableArchive(
            f"needs a window of {window:,} bytes to unpack and zstd takes {_ZSTD_WINDOW_BYTES:,}, so no client "
            "can: compress it with --long=27 at most"
        )
    return bool(descriptor & 4)


def _scan_tar() -> Scan:
    """Walk the headers up to the zeros of the end."""
    skip, size_by_pax = 0, None
    for _ in range(_MOST_PARTS):
        header = yield Want(skip, tarfile.BLOCKSIZE)
        if not any(header):
            return
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UnreadableArchive(f"is not a valid tarball ({error})") from error
        if member.size < 0:
            raise UnreadableArchive(f"is not a valid tarball (a member of {member.size:,} bytes)")
        is_sparse_map = member.type == tarfile.GNUTYPE_SPARSE and header[SPARSE_IS_EXTENDED]
        while is_sparse_map:
            is_sparse_map = (yield Want(0, tarfile.BLOCKSIZE))[SPARSE_MAP_IS_EXTENDED]
        size, size_by_pax = size_by_pax if size_by_pax is not None else member.size, None
        skip = 0 if member.type in _NO_CONTENT else -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.type == tarfile.XHDTYPE and size <= _MOST_PAX:
            found = _PAX_SIZE.search((yield Want(0, skip))[:size]) if skip else None
            size_by_pax, skip = int(found[1]) if found else None, 0


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
