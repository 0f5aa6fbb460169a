"""Whether a file that starts like a squashfs could be one: what Linux checks before it reads the first directory.

Sources: fs/squashfs/super.c, id.c and squashfs_fs.h of Linux; all numbers are little-endian. The layout is

    superblock (96 bytes) | data | inodes | directories | fragments? | exports? | id blocks | id index | xattrs?

The id index is a list of the places of the id blocks. It lies close to the end, so a file that was cut short, or
whose content is not what its superblock says, is told here and not when the first container starts.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

SUPERBLOCK_BYTES: Final = 96
_SUPERBLOCK: Final = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_BLOCK_BYTES: Final = 8192
"""A metadata block holds this many bytes at most, and two more with its length in front."""
_ID_BYTES: Final = 4
_POINTER_BYTES: Final = 8
_COMPRESSIONS: Final = range(1, 7)  # gzip, lzma, lzo, xz, lz4, zstd
_SMALLEST_BLOCK_LOG, _LARGEST_BLOCK_LOG = 12, 20


class NotSquashfs(Exception):
    """The file is none, or contradicts itself or its size; the message completes the sentence "<file> …"."""


@dataclass(frozen=True, slots=True)
class _IdIndex:
    """Where the places of the id blocks are kept: `count` numbers from byte `start` of the file on."""

    start: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.count * _POINTER_BYTES

    def check(self, content: bytes | bytearray) -> None:
        """Compare the bytes [start, stop) of the file with what can stand there."""
        places = struct.unpack(f"<{self.count}Q", content)
        for place, following in zip(places, (*places[1:], self.start), strict=True):
            if not SUPERBLOCK_BYTES <= place < following <= place + _BLOCK_BYTES + 2:
                raise NotSquashfs(
                    f"is no whole squashfs: by its header the list of owners is at byte {self.start:,}, "
                    "but something else is there"
                )


def checked(chunks: Iterable[bytes | memoryview], head: bytes, size_bytes: int) -> Iterator[bytes | memoryview]:
    """Pass on the chunks of a file of `size_bytes` that begins with `head`; NotSquashfs when it is none after all."""
    index = _read_superblock(head, size_bytes)
    found, at = bytearray(), 0
    for chunk in chunks:
        if at < index.stop and index.start < at + len(chunk):
            found += chunk[max(0, index.start - at) : index.stop - at]
        at += len(chunk)
        yield chunk
    index.check(found)


def _read_superblock(head: bytes, size_bytes: int) -> _IdIndex:
    """Check the superblock; what else is to be looked at."""
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
            f"is compressed in a way of number {compression} by its header, expected 1 (gzip) to 6 (zstd)"
        )
    if used > size_bytes:
        raise NotSquashfs(f"is cut short: a squashfs of {used:,} bytes by its header, the file has {size_bytes:,}")
    index = _IdIndex(id_table, -(-ids * _ID_BYTES // _BLOCK_BYTES))
    if not ids or not SUPERBLOCK_BYTES <= inodes < directories < id_table or index.stop > used:
        raise NotSquashfs("is no squashfs: the tables that its header names lie outside of it or over each other")
    return index
