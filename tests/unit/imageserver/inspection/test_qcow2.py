"""Disks that need another file, or are shorter than their own tables say."""

import struct
import subprocess
from pathlib import Path

import pytest

from imageserver.inspection import qcow2
from imageserver.inspection.qcow2 import UnusableDisk
from tests.support import images
from tests.support.processes import need

CLUSTER = images.QCOW2_CLUSTER
DATA_FILE, EXTENDED = 1 << 2, 1 << 4


def disk(l1: int = 0, l2: tuple[int, ...] = (), clusters: int = 8, **header: int) -> bytes:
    """Return a disk of `clusters` whose L1 table, in cluster 3, has one entry, and whose L2 table is in cluster 4."""
    table = struct.pack(f">{len(l2)}Q", *l2).ljust(CLUSTER, b"\0")
    body = images.qcow2_header(**header) + bytes(2 * CLUSTER) + struct.pack(">Q", l1).ljust(CLUSTER, b"\0") + table
    return body.ljust(clusters * CLUSTER, b"x")


def problem(body: bytes, chunk: int = 700) -> str:
    chunks = iter([body[start : start + chunk] for start in range(0, len(body), chunk)])
    try:
        passed = b"".join(bytes(part) for part in qcow2.checked(chunks, len(body)))
    except UnusableDisk as reason:
        return str(reason)
    assert passed == body
    return ""


def changed(body: bytes, at: int, value: int) -> bytes:
    """Return a disk with another 64-bit number at a byte of its header."""
    return body[:at] + struct.pack(">Q", value) + body[at + 8 :]


def extended(parts: int, there: int) -> bytes:
    """Return a disk with extended entries and 16 KiB clusters. `parts` of the last one have data, in `there` bytes."""
    size = 1 << 14
    header = images.qcow2_header(
        version=3, incompatible=EXTENDED, cluster_bits=14, l1_entries=1, l1=3 * size, refcounts=size
    )
    tables = header.ljust(3 * size, b"\0") + struct.pack(">Q", 1 << 63 | 4 * size).ljust(size, b"\0")
    return tables + struct.pack(">QQ", 1 << 63 | 5 * size, parts).ljust(size, b"\0") + bytes(there)


L2 = 1 << 63 | 4 * CLUSTER
GOOD = {
    "version 2": disk(),
    "version 3": disk(version=3),
    "a cluster": disk(L2, (1 << 63 | 5 * CLUSTER, 7 * CLUSTER)),
    "zeros whose place is beyond the file": disk(L2, (99 * CLUSTER | 1,), version=3),
    "the last cluster up to the end of the disk": disk(L2, (0, 7 * CLUSTER), virtual=612)[: 7 * CLUSTER + 100],
    "a compressed cluster": disk(L2, (1 << 62 | 5 * CLUSTER + 7,)),
    "the last cluster up to its last part with data": extended(0b11, 1024),
    "dirty": disk(version=3, incompatible=1),
    "compressed with zstd": disk(version=3, incompatible=8, compression=1, header_bytes=112),
}
BAD = {
    "version 1": (disk(version=1), "is qcow2 version 1 by its header, expected 2 or 3"),
    "version 4": (disk(version=4), "is qcow2 version 4"),
    "a backing file": (disk(backing=600, backing_bytes=9), "needs a backing file"),
    "an external data file": (disk(version=3, incompatible=DATA_FILE), "keeps its data in another file"),
    "encrypted with AES": (disk(encryption=1), "is encrypted"),
    "encrypted with LUKS": (disk(encryption=2, version=3), "is encrypted"),
    "no size": (disk(virtual=0), "is a disk of 0 bytes"),
    "no whole sector": (disk(virtual=511), "is a disk of 511 bytes"),  # QEMU rounds down
    "snapshots at no cluster": (changed(disk(), 64, 700), "its table of snapshots at byte 700"),
    "snapshots beyond every file": (changed(disk(), 64, 1 << 63), "its table of snapshots ends at byte 9,223,372,036"),
    "an endless header extension": (changed(disk(version=3), 104, 1 << 32 | 900), "has 900 bytes, more than"),
    "the same in version 2": (changed(disk(), 72, 1 << 32 | 900), "has 900 bytes, more than"),
    "a raw data file that is not named": (changed(disk(version=3), 88, 2), "data is in a raw file, and has none"),
    "tiny clusters": (disk(cluster_bits=8), "has clusters of 2^8 bytes"),
    "huge clusters": (disk(cluster_bits=22), "has clusters of 2^22 bytes"),
    "an unknown feature": (disk(version=3, incompatible=1 << 40), "needs the qcow2 features 0x10000000000"),
    "marked as corrupt": (disk(version=3, incompatible=2), "is marked as corrupt"),
    "unknown compression": (
        disk(version=3, incompatible=8, compression=2, header_bytes=112),
        "has compression 2 by its header",
    ),
    "a short header": (disk(version=3, header_bytes=72), "has a header of 72 bytes"),
    "wide reference counts": (disk(version=3, refcount_order=7), "2^7 bits"),
    "extended entries in small clusters": (disk(version=3, incompatible=EXTENDED), "has extended entries"),
    "an L1 table that is too small": (disk(l1_entries=31), "has an L1 table of 31 entries, expected 32"),
    "an L1 table beyond the file": (disk(l1=0, l1_entries=32)[: 3 * CLUSTER], "its L1 table ends at byte 1,792"),
    "an L1 table at no cluster": (disk() and images.qcow2_header(l1=700).ljust(4096), "its L1 table at byte 700"),
    "no L1 table": (images.qcow2_header(l1=0).ljust(4096), "its L1 table at byte 0"),
    "a refcount table beyond the file": (disk(refcounts=90 * CLUSTER), "its refcount table ends"),
    "an L2 table beyond the file": (disk(90 * CLUSTER), "its L2 table ends"),
    "a cluster beyond the file": (disk(L2, (8 * CLUSTER,)), "its cluster ends at byte 4,608, the file has 4,096"),
    "a cluster cut short": (disk(L2, (7 * CLUSTER,))[:-1], "its cluster ends"),
    "a part of a cluster cut short": (extended(0b11, 1023), "its cluster ends at byte 82,944, the file has 82,943"),
    "a compressed cluster beyond the file": (disk(L2, (1 << 62 | 8 * CLUSTER,)), "its compressed cluster ends"),
    "only a magic": (b"QFI\xfb", "a qcow2 header alone has 72"),
    "half a header": (disk()[:60], "a qcow2 header alone has 72"),
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD.keys())
def test_a_complete_disk_passes_with_any_chunk_sizes(body: bytes) -> None:
    assert [problem(body, chunk) for chunk in (1, 700, 1 << 20)] == [""] * 3


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD.keys())
def test_a_disk_that_no_client_can_use_is_refused(body: bytes, message: str) -> None:
    assert message in problem(body)
    assert message in problem(body, 1)


OPTIONS = {
    "as it comes": [],
    "compressed": ["-c"],
    "compressed with zstd": ["-c", "-o", "compression_type=zstd"],
    "extended entries": ["-o", "extended_l2=on"],
    "small clusters": ["-o", "cluster_size=512"],
    "large clusters": ["-o", "cluster_size=2M"],
    "version 2": ["-o", "compat=0.10"],
    "preallocated tables": ["-o", "preallocation=metadata"],
    "preallocated": ["-o", "preallocation=falloc"],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_disk_written_by_qemu_img_passes_and_half_of_it_does_not(options: list[str], tmp_path: Path) -> None:
    need("qemu-img")
    raw, made = tmp_path / "raw", tmp_path / "disk.qcow2"
    raw.write_bytes(images.filler("1", 300_000) + bytes(3_000_000) + images.filler("2", 700_123))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, made], check=True, timeout=60)
    body = made.read_bytes()
    assert problem(body, 1 << 16) == ""
    assert "is cut short" in problem(body[: len(body) // 2], 1 << 16)
