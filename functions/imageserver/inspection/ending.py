"""Whether a tarball has its end, seen while it passes by to be hashed.

Unpacking a root of some GB would cost more than hashing it, so each format is asked in the cheapest way that it has:

- xz ends with an index of its blocks, which says how long the file is;
- zstd is a row of blocks with their lengths in front, and unpacks so fast that it is unpacked too;
- bzip2 marks its end with 48 bits, at any bit;
- a plain tar is a row of headers with lengths, and ends with zeros;
- gzip and lzma have none of that and are unpacked.

Unpacking, up to `_MOST_UNPACKED` and `_MOST_UNPACKED_LZMA`, compares the checksums of gzip and zstd too. It would cost
fifteen times as much for xz as for zstd, thirty times for bzip2: damage in the middle of those is not looked for.
"""

import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from imageserver.inspection.scan import Chunk, CutShort, Scan, Want, scanned
from imageserver.inspection.tarball import (
    BYTES_BEHIND,
    BZIP2,
    GZIP,
    LZMA,
    LZMA_MEMORY,
    XZ,
    ZSTD,
    UnreadableArchive,
    Zstd,
    check_streams,
)  # fmt: skip

_STEP: Final = 64 * 1024  # of packed bytes: what one call leaves is copied for the next
_MOST_AT_ONCE: Final = 1 << 20
_MOST_UNPACKED: Final = 16 << 30
"""Of gzip and zstd: about half a minute. What would unpack to more is hashed and not looked at from there on."""
_MOST_UNPACKED_LZMA: Final = 2 << 30
"""The same for lzma, which takes ten times as long."""
_MOST_PARTS: Final = 2_000_000
"""Blocks of zstd or members of a tar that are looked at; a hostile file has one in every few bytes."""
_TAIL: Final = 256 * 1024
_XZ_HEADER, _XZ_FOOTER = 12, 12
_BZIP2_END: Final = bytes.fromhex("177245385090")
_BZIP2_CHECKSUM_BITS: Final = 32
_ZSTD_WINDOW_BYTES: Final = 1 << 27  # what the command takes without being told to take more
_ZSTD_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)
_ZSTD_RLE, _ZSTD_RESERVED = 1, 3
_NO_CONTENT: Final = (b"1", b"2", b"3", b"4", b"5", b"6")  # types of members: links, devices, folders, pipes
_MOST_PAX: Final = 1 << 20
_PAX_SIZE: Final = re.compile(rb"(?:\A|\n)[0-9]{1,3} size=([0-9]{1,18})\n")
_SPARSE_GOES_ON, _SPARSE_MAP_GOES_ON = 482, 504  # the places of two flags of GNU's older sparse format


def checked(chunks: Iterator[Chunk], head: bytes, size_bytes: int, *, is_unpacked: bool = False) -> Iterator[Chunk]:
    """Pass on the chunks of a tarball of `size_bytes` that begins with `head`; UnreadableArchive when it has no end.

    `is_unpacked` says that the reader of the chunks unpacks gzip and zstd to their end, so it is not done here.
    """
    try:
        if head.startswith(XZ):
            yield from _with_tail(chunks, size_bytes, _check_xz)
        elif head.startswith(BZIP2):
            yield from _with_tail(chunks, size_bytes, _check_bzip2)
        elif head.startswith(GZIP):
            yield from chunks if is_unpacked else _gunzipped(chunks)
        elif head.startswith(ZSTD):
            blocks = scanned(chunks, _scan_zstd())
            yield from blocks if is_unpacked else _unzstded(blocks)
        elif head.startswith(LZMA):
            yield from _unlzmaed(chunks)
        else:
            yield from scanned(chunks, _scan_tar())
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
    """Check footer and index of the last stream; xz allows padding behind it and other streams before it."""
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
        return  # more blocks than the tail has room for: the footer is all that is checked
    index = body[-end_bytes:-_XZ_FOOTER]
    if index[0] != 0 or zlib.crc32(index[:-4]) != _number(index[-4:]):
        raise UnreadableArchive("is damaged xz data: the checksum of its index is wrong")
    named = _XZ_HEADER + _xz_blocks_bytes(index[1:-4]) + end_bytes
    if named > stream_bytes:
        raise UnreadableArchive(f"is cut short: its index names {named:,} bytes, the file has {stream_bytes:,}")


def _xz_blocks_bytes(records: bytes) -> int:
    """Return what the blocks of an index come to: their number, then packed and unpacked size of each."""
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
    """Look for the end of a stream, at any bit, with its checksum behind it and no other stream behind that.

    bzip2 takes a file with something else behind its end, and tar goes by that.
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


def _gunzipped(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Unpack one member after the other as gzip does, and keep nothing of it.

    gzip ignores zeros behind its data. It warns of anything else, and tar takes that for a failure.
    """
    unpacker, made, members, only_zeros = zlib.decompressobj(wbits=31), 0, 1, False
    for chunk in chunks:
        yield chunk  # first: who reads it may refuse a bomb before it is unpacked here
        for start in range(0, len(chunk) if made <= _MOST_UNPACKED else 0, _STEP):
            data: Chunk = chunk[start : start + _STEP]
            while data and made <= _MOST_UNPACKED:
                if unpacker.eof:
                    only_zeros = only_zeros or not data[0]
                    if any(data) if only_zeros else data[0] != GZIP[0]:
                        raise UnreadableArchive(BYTES_BEHIND.format("gzip"))
                    if only_zeros:
                        break
                    unpacker, members = zlib.decompressobj(wbits=31), members + 1
                    check_streams(members, made)
                try:
                    made += len(unpacker.decompress(data, _MOST_AT_ONCE))
                except zlib.error as error:
                    raise UnreadableArchive(f"is damaged gzip data ({error})") from error
                data = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    if made <= _MOST_UNPACKED and not unpacker.eof:
        raise UnreadableArchive("is cut short: the gzip data has no end")


def _unlzmaed(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Unpack the one stream that lzma has, and keep nothing of it. Nothing may stand behind it, not even zeros."""
    unpacker, made = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=LZMA_MEMORY), 0
    for chunk in chunks:
        yield chunk  # first, as above
        data: Chunk = chunk
        while made <= _MOST_UNPACKED_LZMA and not unpacker.eof and (data or not unpacker.needs_input):
            try:
                made += len(unpacker.decompress(data, _MOST_AT_ONCE))
            except lzma.LZMAError as error:
                if "Memory usage limit" in str(error):  # clients have more: it is hashed and not looked at
                    made = _MOST_UNPACKED_LZMA + 1
                    break
                raise UnreadableArchive(f"is damaged lzma data ({error})") from error
            data = unpacker.unused_data if unpacker.eof else b""
        if unpacker.eof and data:
            raise UnreadableArchive(BYTES_BEHIND.format("lzma"))
    if made <= _MOST_UNPACKED_LZMA and not unpacker.eof:
        raise UnreadableArchive("is cut short: the lzma data has no end")


def _unzstded(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Unpack one frame after the other, and keep nothing of it."""
    unpacker, made, frames = Zstd(), 0, 1
    for chunk in chunks:
        yield chunk  # first, as above
        for start in range(0, len(chunk), _STEP):
            data = bytes(chunk[start : start + _STEP])
            while made <= _MOST_UNPACKED and (data or not (unpacker.eof or unpacker.needs_input)):
                if unpacker.eof:
                    unpacker, frames = Zstd(), frames + 1
                    check_streams(frames, made)
                made += len(unpacker.decompress(data, _MOST_AT_ONCE))
                data = unpacker.unused_data if unpacker.eof else b""


def _scan_zstd() -> Scan:
    """Go from block to block, as the format's description (RFC 8878) has them."""
    skip, parts = 0, 0
    while parts < _MOST_PARTS:
        magic = _number((yield Want(skip, 4, may_end=parts > 0)))
        parts += 1
        if magic in _ZSTD_SKIPPABLE:
            skip = _number((yield Want(0, 4)))
            continue
        if magic != _number(ZSTD):
            raise UnreadableArchive(f"is damaged zstd data: a frame starts with {magic:#x}")
        descriptor = (yield Want(0, 1))[0]
        has_checksum = bool(descriptor & 4)
        header = yield Want(0, _zstd_header_bytes(descriptor))
        if (window := _zstd_window_bytes(descriptor, header)) > _ZSTD_WINDOW_BYTES:
            raise UnreadableArchive(
                f"needs a window of {window:,} bytes to unpack and zstd takes {_ZSTD_WINDOW_BYTES:,}, so no client "
                "can: compress it with --long=27 at most"
            )
        skip, last = 0, False
        while not last and parts < _MOST_PARTS:
            block = _number((yield Want(skip, 3)))
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            if kind == _ZSTD_RESERVED:
                raise UnreadableArchive("is damaged zstd data: a block is of no kind")
            skip = 1 if kind == _ZSTD_RLE else size
            parts += 1
        skip += 4 * has_checksum


def _zstd_header_bytes(descriptor: int) -> int:
    """Return what follows the descriptor of a frame in front of its first block."""
    single_segment = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    return 1 - single_segment + dictionary + content_size


def _zstd_window_bytes(descriptor: int, header: bytes) -> int:
    """Return how much of what was unpacked a frame looks back at: all of it, where it says how much that is."""
    if descriptor >> 5 & 1:
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        return _number(header[dictionary:])
    exponent, mantissa = header[0] >> 3, header[0] & 7
    return (1 << 10 + exponent) // 8 * (8 + mantissa)


def _scan_tar() -> Scan:
    """Go from header to header until the zeros of the end."""
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
        is_sparse_map = member.type == tarfile.GNUTYPE_SPARSE and header[_SPARSE_GOES_ON]
        while is_sparse_map:
            is_sparse_map = (yield Want(0, tarfile.BLOCKSIZE))[_SPARSE_MAP_GOES_ON]
        size, size_by_pax = size_by_pax if size_by_pax is not None else member.size, None
        skip = 0 if member.type in _NO_CONTENT else -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.type == tarfile.XHDTYPE and size <= _MOST_PAX:
            found = _PAX_SIZE.search((yield Want(0, skip))[:size]) if skip else None
            size_by_pax, skip = int(found[1]) if found else None, 0


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
