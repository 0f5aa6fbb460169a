"""Check that a file that starts like a qcow2 disk is complete and needs no other file.

Sources: docs/interop/qcow2.rst and block/qcow2.c of QEMU; all numbers are big-endian. A disk with a backing file or an
external data file would make a client read a file of its own host, or a missing one; `qemu-img convert` accepts a
truncated disk without an error and fills the rest with zeros. The offsets in the tables are compared with the file's
size, as far as one pass can. The beginning of the file is kept, because in a disk that was preallocated or has grown a
table may lie before the one that points to it; beyond that beginning, such a table has already passed by.

QEMU writes the last cluster only up to the end of the disk, not to the end of the cluster; with extended entries, only
up to the last part that has data.
"""

import heapq
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from imageserver.inspection.scan import Chunk, CutShort, Scan, Want, scan_start, scanned

MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_3: Final = struct.Struct(">QQQII")
_CLUSTER_BITS: Final = range(9, 22)
_EXTENDED_CLUSTER_BITS: Final = 14  # the fewest with extended L2 entries
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00  # of a cluster, in an entry of L1, L2 or the refcount table
_COMPRESSED: Final = 1 << 62
_PARTS: Final = 32  # of a cluster, where entries are extended
_PARTS_THERE: Final = (1 << _PARTS) - 1
_ALL_ZEROS: Final = 1
_MOST_SNAPSHOTS: Final = 65536
_SNAPSHOT_BYTES: Final = 40  # the smallest size of each, without variable parts
_BITMAPS: Final = 0x23852875  # the type of a header extension
_BITMAPS_FIELDS: Final = struct.Struct(">IIQQ")
_SECTOR: Final = 512
_LARGEST_OFFSET: Final = (1 << 63) - 1
_UNKNOWN_BYTES: Final = 1 << 64  # more than any place in a header
_HELD_BYTES: Final = 1 << 20
_HELD_CLUSTERS: Final = 4  # of 2 MiB at most
_MOST_TABLE_BYTES: Final = 1 << 20
"""How much of the L1 and of the refcount table is checked: enough for the L1 table of 64 TiB at clusters of 64 KiB."""
_MOST_L2_BYTES: Final = 32 << 20
"""How much of all L2 tables is checked: enough for 256 GiB at clusters of 64 KiB. It takes some seconds."""

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_RAW_DATA_FILE: Final = 1 << 1  # a bit of the features that a program clears if it does not know them
_KNOWN_FEATURES: Final = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2


class UnusableDisk(Exception):
    """The file is no disk, needs another file, or contradicts its size. The message completes "<file> …"."""


@dataclass(frozen=True, slots=True)
class _Header:
    """The header fields needed to read the tables. Offsets and sizes are in bytes of the file."""

    cluster_bits: int
    virtual_bytes: int
    l1_offset: int
    l1_entries: int
    refcount_offset: int
    refcount_bytes: int
    has_zero_flag: bool
    entry_bytes: int
    header_bytes: int

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        return self.cluster_bytes // self.entry_bytes


def checked(chunks: Iterator[Chunk], size_bytes: int) -> Iterator[Chunk]:
    """Pass on the chunks of a disk of `size_bytes`. Raise UnusableDisk if no client could use it."""
    try:
        yield from scanned(chunks, _scan(size_bytes))
    except CutShort as reason:
        raise UnusableDisk(str(reason)) from reason


def check_start(chunks: Iterable[Chunk], size_bytes: int, most_bytes: int) -> None:
    """Check the tables of a disk that lie in its first `most_bytes`. Raise UnusableDisk as `checked` does."""
    try:
        scan_start(chunks, _scan(size_bytes), most_bytes)
    except CutShort as reason:
        raise UnusableDisk(str(reason)) from reason


def check_header(start: bytes) -> None:
    """Check the header of a disk of which only the first bytes can be seen. Raise UnusableDisk as `checked` does."""
    header = start[: _HEADER.size + _HEADER_3.size + 1]
    check_start([header], _UNKNOWN_BYTES, len(header))


def _scan(size_bytes: int) -> Scan:
    if size_bytes < _HEADER.size:
        raise UnusableDisk(f"has {size_bytes:,} bytes, a qcow2 header alone has {_HEADER.size}")
    fixed = yield Want(0, _HEADER.size)
    if not fixed.startswith(MAGIC):
        raise UnusableDisk(f"is not a qcow2 disk: it starts with {fixed[:8].hex(' ')}")
    version = struct.unpack_from(">I", fixed, 4)[0]
    if version not in (2, 3):
        raise UnusableDisk(f"is qcow2 version {version} by its header, expected 2 or 3: convert it with qemu-img")
    extra = (yield Want(0, _HEADER_3.size + 1)) if version == 3 else b""
    header = _read_header(fixed, extra, size_bytes)
    start = fixed + extra
    held = min(size_bytes, max(_HELD_BYTES, _HELD_CLUSTERS * header.cluster_bytes))
    if held > len(start):
        start += yield Want(0, held - len(start))
    _check_extensions(header, start[: header.cluster_bytes], size_bytes)
    yield from _scan_tables(header, size_bytes, start)


def _read_header(fixed: bytes, extra: bytes, size_bytes: int) -> _Header:
    (
        _, version, backing, _, bits, virtual, encryption, l1_entries, l1, refcounts, refcount_clusters, snapshots,
        snapshots_offset,
    ) = _HEADER.unpack(fixed)  # fmt: skip
    if bits not in _CLUSTER_BITS:
        raise UnusableDisk(f"has clusters of 2^{bits} bytes by its header, expected 2^9 to 2^21")
    features = _check_features(extra, bits) if version == 3 else 0
    if backing:
        raise UnusableDisk(
            "needs a backing file, which no client has: make it independent with `qemu-img convert -O qcow2`"
        )
    if encryption:
        raise UnusableDisk("is encrypted, and no client has its key: decrypt it with `qemu-img convert -O qcow2`")
    if virtual < _SECTOR:
        raise UnusableDisk(f"is a disk of {virtual} bytes by its header, expected one with something on it")
    header = _Header(
        cluster_bits=bits,
        virtual_bytes=virtual,
        l1_offset=l1,
        l1_entries=l1_entries,
        refcount_offset=refcounts,
        refcount_bytes=refcount_clusters << bits,
        has_zero_flag=version == 3,
        entry_bytes=16 if features & _EXTENDED_L2 else 8,
        header_bytes=_HEADER_3.unpack_from(extra)[-1] if version == 3 else _HEADER.size,
    )
    _check_tables(header, snapshots, snapshots_offset, size_bytes)
    return header


def _check_tables(header: _Header, snapshots: int, snapshots_offset: int, size_bytes: int) -> None:
    """Check that the header describes every table, and that each begins with a cluster and lies inside the file."""
    if not header.refcount_bytes:
        raise UnusableDisk("has no table of reference counts by its header, and QEMU opens no such disk")
    if snapshots > _MOST_SNAPSHOTS:
        raise UnusableDisk(f"has {snapshots:,} snapshots by its header, QEMU takes {_MOST_SNAPSHOTS:,} at most")
    if snapshots_offset % header.cluster_bytes:
        raise UnusableDisk(f"has its table of snapshots at byte {snapshots_offset:,}, expected the start of a cluster")
    if snapshots or snapshots_offset > _LARGEST_OFFSET:
        _check_inside("table of snapshots", snapshots_offset, snapshots * _SNAPSHOT_BYTES, size_bytes)
    needed = -(-header.virtual_bytes // (header.cluster_bytes * header.l2_entries))
    if header.l1_entries < needed:
        raise UnusableDisk(
            f"has an L1 table of {header.l1_entries:,} entries, expected {needed:,} for {header.virtual_bytes:,} bytes"
        )
    for what, offset, length in (
        ("L1 table", header.l1_offset, header.l1_entries * 8),
        ("refcount table", header.refcount_offset, header.refcount_bytes),
    ):
        if offset % header.cluster_bytes or not offset:
            raise UnusableDisk(f"has its {what} at byte {offset:,}, expected the start of a cluster after the first")
        _check_inside(what, offset, length, size_bytes)


def _check_features(extra: bytes, bits: int) -> int:
    """Check the header fields that version 3 adds; return the incompatible features."""
    features, _, autoclear, refcount_order, header_bytes = _HEADER_3.unpack_from(extra)
    compression = extra[_HEADER_3.size] if header_bytes > _HEADER.size + _HEADER_3.size else 0
    if header_bytes < _HEADER.size + _HEADER_3.size or header_bytes % 8 or header_bytes > 1 << bits:
        raise UnusableDisk(f"has a header of {header_bytes:,} bytes by itself, expected 104 or a few more")
    if features & _DATA_FILE:
        raise UnusableDisk(
            "keeps its data in another file, which no client has: put it into one with `qemu-img convert -O qcow2`"
        )
    if autoclear & _RAW_DATA_FILE:
        raise UnusableDisk("is marked as one whose data is in a raw file, and has none: convert it with qemu-img")
    if unknown := features & ~_KNOWN_FEATURES:
        raise UnusableDisk(f"needs the qcow2 features {unknown:#x}, which no client's QEMU knows")
    if features & _CORRUPT:
        raise UnusableDisk("is marked as corrupt: repair it with `qemu-img check -r all` or build it again")
    if compression > 1 or bool(compression) != bool(features & _COMPRESSION):
        raise UnusableDisk(f"has compression {compression} by its header, expected 0 (zlib) or 1 (zstd)")
    if refcount_order > 6:
        raise UnusableDisk(f"has reference counts of 2^{refcount_order} bits by its header, expected 2^6 at most")
    if features & _EXTENDED_L2 and bits < _EXTENDED_CLUSTER_BITS:
        raise UnusableDisk(f"has extended entries and clusters of 2^{bits} bytes, expected 2^14 at least")
    return int(features)


def _check_extensions(header: _Header, cluster: bytes, size_bytes: int) -> None:
    """Check the header extensions. QEMU does not open a disk with an overlong extension or a lost bitmap directory."""
    at = header.header_bytes
    while at + 8 <= len(cluster):
        kind, length = struct.unpack_from(">II", cluster, at)
        if at + 8 + length > len(cluster):
            raise UnusableDisk(f"is damaged: an extension of its header has {length:,} bytes, more than fit into it")
        if not kind:
            return
        if kind == _BITMAPS and length >= _BITMAPS_FIELDS.size:
            _, _, directory_bytes, directory = _BITMAPS_FIELDS.unpack_from(cluster, at + 8)
            _check_inside("directory of bitmaps", directory, directory_bytes, size_bytes)
        at += 8 + -(-length // 8) * 8


def _scan_tables(header: _Header, size_bytes: int, start: bytes) -> Scan:
    """Check each table that lies in `start` (the beginning of the file) or after it, in the order of the file."""
    ahead = [
        (header.refcount_offset, -2, min(header.refcount_bytes, _MOST_TABLE_BYTES)),
        (header.l1_offset, -1, min(header.l1_entries * 8, _MOST_TABLE_BYTES)),
    ]
    heapq.heapify(ahead)
    left = _MOST_L2_BYTES // header.cluster_bytes
    at = len(start)
    while ahead and left:
        offset, number, length = heapq.heappop(ahead)
        if offset + length <= len(start):
            table = start[offset : offset + length]
        elif offset >= at:
            table = yield Want(offset - at, length)
            at = offset + length
        else:
            continue  # it passed by before its position was known
        if number == -2:
            for place in _places(table):
                _check_inside("refcount block", place, header.cluster_bytes, size_bytes)
        elif number == -1:
            for index, place in enumerate(_places(table)):
                if place % header.cluster_bytes:
                    raise UnusableDisk(f"is damaged: its L1 table names an L2 table at byte {place:,}")
                _check_inside("L2 table", place, header.cluster_bytes, size_bytes)
                if place:
                    heapq.heappush(ahead, (place, index, header.cluster_bytes))
        else:
            left -= 1
            _check_l2(header, table, number, size_bytes)


def _places(table: bytes) -> Iterable[int]:
    return (entry & _OFFSET for (entry,) in struct.iter_unpack(">Q", table))


def _check_l2(header: _Header, table: bytes, number: int, size_bytes: int) -> None:
    """Compare the clusters that an L2 table names with the size of the file. `number` is its index in the L1 table."""
    shift = 62 - (header.cluster_bits - 8)
    words = struct.unpack(f">{len(table) // 8}Q", table)
    step = header.entry_bytes // 8
    guest = number * header.l2_entries << header.cluster_bits
    for entry, bitmap in zip(words[::step], words[step - 1 :: step], strict=True):
        if entry & _COMPRESSED:
            start = entry & (1 << shift) - 1
            last_sector = start // _SECTOR + (entry >> shift & (1 << header.cluster_bits - 8) - 1)
            _check_inside("compressed cluster", last_sector * _SECTOR, _SECTOR, size_bytes)
        elif place := entry & _OFFSET:
            if place % header.cluster_bytes:
                raise UnusableDisk(f"is damaged: an L2 table names a cluster at byte {place:,}, where none starts")
            used = min(header.cluster_bytes, header.virtual_bytes - guest)
            if step > 1:  # each entry is followed by a bitmap of the parts of the cluster that have data
                used = min(used, (bitmap & _PARTS_THERE).bit_length() * header.cluster_bytes // _PARTS)
            if not (header.has_zero_flag and entry & _ALL_ZEROS):
                _check_inside("cluster", place, used, size_bytes)
        guest += header.cluster_bytes


def _check_inside(what: str, offset: int, length: int, size_bytes: int) -> None:
    if (end := offset + length) > size_bytes:
        raise UnusableDisk(
            f"is cut short: by its tables its {what} ends at byte {end:,}, the file has {size_bytes:,} bytes"
        )
