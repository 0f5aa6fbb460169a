"""Check a file that starts like a squashfs, as Linux does before it reads the first directory.

Sources: fs/squashfs/super.c, id.c and squashfs_fs.h of Linux; all numbers are little-endian. The layout is

    superblock (96 bytes) | data | inodes | directories | fragments? | exports? | id blocks | id index | xattrs?

The id index lists the positions of the id blocks. It lies close to the end, so a truncated file, or one whose content
contradicts its superblock, is found here and not when the first container starts.

Inodes and directories are stored in metadata blocks, each compressed on its own after two bytes with its length. The
names in the root folder distinguish a whole image from a root; a few KiB are unpacked for them. Python's library has
no lz4, so its blocks are unpacked here. It has no lzo, so an image in lzo is taken for a root, and so is one whose root
folder cannot be read.
"""

import lzma
import struct
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from imageserver.inspection import foreign
from imageserver.inspection.scan import Chunk, Want, scanned

SUPERBLOCK_BYTES: Final = 96
_SUPERBLOCK: Final = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_BLOCK_BYTES: Final = 8192
"""A metadata block holds this many bytes at most, and two more with its length in front."""
_ID_BYTES: Final = 4
_POINTER_BYTES: Final = 8
_XATTRS_BYTES: Final = 16
_NO_TABLE: Final = (1 << 64) - 1
_COMPRESSIONS: Final = range(1, 7)  # gzip, lzma, lzo, xz, lz4, zstd
_SMALLEST_BLOCK_LOG, _LARGEST_BLOCK_LOG = 12, 20
_STORED: Final = 1 << 15
"""The bit in the length of a metadata block that says it is not compressed."""
_MOST_BLOCKS: Final = 3  # consecutive ones: an inode or the start of a folder may span two
_LZMA_MEMORY: Final = 32 << 20
_LZ4_SHORTEST, _LZ4_LONG = 4, 15
_FOLDER_TYPE, _LONG_FOLDER_TYPE = 1, 8
_FOLDER: Final = struct.Struct("<H14xIIHHI")
_LONG_FOLDER: Final = struct.Struct("<H18xII6xH4x")
_SIZE_OF_NO_FOLDER: Final = 3  # the names of the folder itself and its parent, which are not stored
_MOST_OF_FOLDER: Final = 2048
"""How much of the root folder is read. That of an image has at most four names."""
_RUN_BYTES: Final = 12
_ENTRY: Final = struct.Struct("<6xH")  # after other fields, the length of its name less one


class NotSquashfs(Exception):
    """The file is no squashfs, or contradicts itself or its size. The message completes "<file> …"."""


class NotRoot(Exception):
    """The squashfs is not the root of a container. The message completes "<file> …"."""


class _Unread(Exception):
    """The root folder is not where it should be, or cannot be unpacked."""


@dataclass(frozen=True, slots=True)
class _Superblock:
    """The superblock fields that locate the tables, as byte offsets in the file.

    `id_index` is where the positions of the `id_blocks` blocks of ids are stored.
    """

    compression: int
    root_inode: int
    inodes: int
    directories: int
    id_index: int
    id_blocks: int


@dataclass(slots=True)
class _MetadataBlocks:
    """Metadata blocks, unpacked as they pass by.

    `at` is how much of the file has passed, `stop` where the blocks end.
    """

    unpack: Callable[[bytes], bytes]
    stop: int
    at: int = 0

    def read(self, place: int, length: int) -> Generator[Want, bytes, bytes]:
        """Return the unpacked content of the block at `place` and of those after it, at least `length` bytes."""
        made = b""
        for _ in range(_MOST_BLOCKS):
            head = int.from_bytes((yield from self._take(place, 2)), "little")
            packed = yield from self._take(self.at, head & ~_STORED)
            made += packed if head & _STORED else self.unpack(packed)
            if len(made) >= length:
                return made
            place = self.at
        raise _Unread

    def _take(self, place: int, length: int) -> Generator[Want, bytes, bytes]:
        if not self.at <= place <= self.stop - length or not length:
            raise _Unread
        found = yield Want(place - self.at, length)
        self.at = place + length
        return found


def checked(chunks: Iterator[Chunk], head: bytes, size_bytes: int) -> Iterator[Chunk]:
    """Pass on the chunks of a file of `size_bytes` that begins with `head`.

    Raise NotSquashfs if it is none after all, and NotRoot if its root folder is that of an image.
    """
    yield from scanned(chunks, _scan(_read_superblock(head, size_bytes)))


def _scan(superblock: _Superblock) -> Generator[Want, bytes, None]:
    """Check the root folder, then the id index after it."""
    index = superblock.id_index
    unpack = _UNPACK.get(superblock.compression)
    blocks = _MetadataBlocks(unpack or bytes, index)
    try:
        names = (yield from _root_names(superblock, blocks)) if unpack else None
    except (_Unread, struct.error, zlib.error, lzma.LZMAError, EOFError, ValueError):
        names = None
    if names is not None and (why := _unlike_a_root(names)):
        raise NotRoot(why)
    positions = yield Want(index - blocks.at, superblock.id_blocks * _POINTER_BYTES)
    places = struct.unpack(f"<{superblock.id_blocks}Q", positions)
    for place, following in zip(places, (*places[1:], index), strict=True):
        if not SUPERBLOCK_BYTES <= place < following <= place + _BLOCK_BYTES + 2:
            raise NotSquashfs(
                f"is no whole squashfs: by its header the list of owners is at byte {index:,}, "
                "but something else is there"
            )


def _root_names(superblock: _Superblock, blocks: _MetadataBlocks) -> Generator[Want, bytes, frozenset[bytes]]:
    """Return the first names in the root folder; an image has few."""
    place, offset = superblock.inodes + (superblock.root_inode >> 16), superblock.root_inode & 0xFFFF
    inode = (yield from blocks.read(place, offset + _FOLDER.size))[offset:]
    kind, start, _, size, at, _ = _FOLDER.unpack_from(inode)
    if kind == _LONG_FOLDER_TYPE:
        if len(inode) < _LONG_FOLDER.size:
            inode += yield from blocks.read(blocks.at, _LONG_FOLDER.size - len(inode))
        _, size, start, at = _LONG_FOLDER.unpack_from(inode)
    elif kind != _FOLDER_TYPE:
        raise _Unread
    size -= _SIZE_OF_NO_FOLDER
    if size <= 0:
        return frozenset()
    length = at + min(size, _MOST_OF_FOLDER)
    return _names((yield from blocks.read(superblock.directories + start, length))[at:length])


def _names(listing: bytes) -> frozenset[bytes]:
    """Return the names in a directory's listing: runs of entries, each with a header. A truncated entry is left out."""
    names: set[bytes] = set()
    at = 0
    while at + _RUN_BYTES < len(listing):
        (more,) = struct.unpack_from("<I", listing, at)
        at += _RUN_BYTES
        for _ in range(more + 1):
            if at + _ENTRY.size > len(listing):
                break
            end = at + _ENTRY.size + _ENTRY.unpack_from(listing, at)[0] + 1
            names.add(listing[at + _ENTRY.size : end])
            at = end
    return frozenset(names)


def _unlike_a_root(names: frozenset[bytes]) -> str:
    """Return why a squashfs with these names in its root folder is not a root; empty if it may be one."""
    texts = {name.decode("utf-8", "surrogateescape") for name in names}
    if foreign.holds_image(texts):
        if names & {b"rootfs", b"rootfs.img"}:
            return (
                "is a whole image in squashfs form, with its metadata.yaml: `sqfs2tar FILE | xz >image.tar.xz`, and "
                "upload that instead"
            )
        return (
            "is metadata in squashfs form, which this server does not read: `sqfs2tar FILE | xz >lxd.tar.xz`, and "
            "upload that, with a root"
        )
    if names == {b"rootfs"}:
        return "is no root, all of it lies below rootfs/: make the squashfs of what is in that folder"
    if found := foreign.by_names(texts):
        return f"is no root but {found.what}: {found.how}"
    return "" if names else "is no root, it holds no file: pack the file system again"


def _unzstd(packed: bytes) -> bytes:
    """Unpack a block of zstd. The module is loaded here, because loading it slows a cold start."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    try:
        return zstd.ZstdDecompressor().decompress(packed, _BLOCK_BYTES)
    except zstd.ZstdError as error:
        raise _Unread from error


def _unlz4(packed: bytes) -> bytes:
    """Unpack a block of lz4: literal bytes and copies of what was made before, in turn (lz4_Block_format.md)."""
    made = bytearray()
    source = iter(packed)
    try:
        for token in source:
            made += bytes(islice(source, _lz4_length(token >> 4, source)))
            if (low := next(source, None)) is None:
                return bytes(made)  # the last copy is left out
            offset = low | next(source) << 8
            length = _lz4_length(token & 15, source) + _LZ4_SHORTEST
            if not 0 < offset <= len(made) or len(made) + length > _BLOCK_BYTES:
                break
            copied = made[-offset:]
            made += (copied * (length // offset + 1))[:length]
    except StopIteration:
        pass
    raise _Unread


def _lz4_length(length: int, source: Iterator[int]) -> int:
    """Return a length of which four bits are known: the largest is followed by bytes to add, up to one below 255."""
    more = length == _LZ4_LONG
    while more:
        length += (byte := next(source))
        more = byte == 255
    return length


def _unlzma(packed: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(packed, _BLOCK_BYTES)


_UNPACK: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: lambda packed: zlib.decompressobj().decompress(packed, _BLOCK_BYTES),
    2: _unlzma,
    4: _unlzma,  # xz
    5: _unlz4,
    6: _unzstd,
}


def _read_superblock(head: bytes, size_bytes: int) -> _Superblock:
    """Check the superblock; return the positions of what is checked next."""
    if len(head) < SUPERBLOCK_BYTES:
        raise NotSquashfs(f"has {len(head)} bytes, a squashfs header alone has {SUPERBLOCK_BYTES}")
    found = _SUPERBLOCK.unpack_from(head)
    block_bytes, compression, block_log, ids, major, minor = (found[at] for at in (3, 5, 6, 8, 9, 10))
    used, id_table, inodes, directories = (found[at] for at in (12, 13, 15, 16))
    if (major, minor) != (4, 0):
        raise NotSquashfs(f"is squashfs {major}.{minor} by its header, expected 4.0, the only one that Linux mounts")
    if not _SMALLEST_BLOCK_LOG <= block_log <= _LARGEST_BLOCK_LOG or block_bytes != 1 << block_log:
        raise NotSquashfs(f"has blocks of {block_bytes:,} or 2^{block_log} bytes by its header, expected 2^12 to 2^20")
    if compression not in _COMPRESSIONS:
        raise NotSquashfs(
            f"says in its header that its compression is number {compression}, expected 1 (gzip) to 6 (zstd)"
        )
    if used > size_bytes:
        raise NotSquashfs(f"is cut short: a squashfs of {used:,} bytes by its header, the file has {size_bytes:,}")
    id_blocks = -(-ids * _ID_BYTES // _BLOCK_BYTES)
    xattrs, fragment_table, exports = (found[at] for at in (14, 17, 18))
    between = [table for table, is_there in ((fragment_table, found[4]), (exports, exports != _NO_TABLE)) if is_there]
    is_in_order = SUPERBLOCK_BYTES <= inodes < directories < id_table
    is_in_order &= all(directories < table < id_table for table in between)
    is_in_order &= xattrs == _NO_TABLE or id_table < xattrs <= used - _XATTRS_BYTES
    if not ids or not is_in_order or id_table + id_blocks * _POINTER_BYTES > used:
        raise NotSquashfs("is no squashfs: the tables that its header names lie outside it or overlap")
    return _Superblock(compression, found[11], inodes, directories, id_table, id_blocks)
