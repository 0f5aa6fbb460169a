"""A disk in a tarball obeys the same rules as a separate one; and disks that QEMU cannot open."""

import struct

import pytest

from imageserver.inspection import qcow2
from imageserver.versions import records
from tests.support import images
from tests.support.memory_store import System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
DISK = images.qcow2()


def reasons(files: dict[str, bytes]) -> tuple[str, str]:
    """Return the state of a version of these files, and its reasons."""
    system = System()
    system.upload(PATH, files)
    system.ingest(PATH)
    record = records.decode(system.store.objects[f"versions/{PATH}.json"].body, f"versions/{PATH}.json")
    return record.state.value, "\n".join(reason.sentence for reason in record.reasons)


def machine(disk: bytes, *, disk_first: bool = False) -> bytes:
    members = {"metadata.yaml": images.metadata_yaml(), "rootfs.img": disk}
    return images.compress(images.tarball(dict(reversed(members.items())) if disk_first else members), "xz")


@pytest.mark.parametrize("disk_first", [False, True])
@pytest.mark.parametrize(
    ("disk", "sentence"),
    [
        (DISK[:600], "holds a rootfs.img that is cut short"),
        (images.qcow2_header(backing=200, backing_bytes=11) + bytes(4096), "img that needs a backing file"),
        (
            images.qcow2_header(version=3, incompatible=4) + bytes(4096),
            "img that keeps its data in another file",
        ),
        (images.qcow2_header(encryption=2) + bytes(4096), "holds a rootfs.img that is encrypted"),
        (images.qcow2_header(virtual=0) + bytes(4096), "holds a rootfs.img that is a disk of 0 bytes"),
        (bytes(4096), "holds a rootfs.img that is not a qcow2 disk"),
        (b"QFI\xfb", "holds a rootfs.img that has 4 bytes"),
    ],
)
def test_the_disk_in_a_unified_tarball_is_checked_like_a_separate_one(
    disk: bytes, sentence: str, *, disk_first: bool
) -> None:
    state, sentences = reasons({"u.tar.xz": machine(disk, disk_first=disk_first)})
    assert (state, sentence in sentences) == ("invalid", True), sentences


@pytest.mark.parametrize("disk_first", [False, True])
def test_a_sound_disk_in_a_unified_tarball_is_accepted(*, disk_first: bool) -> None:
    assert reasons({"u.tar.xz": machine(DISK, disk_first=disk_first)})[0] == "complete"


@pytest.mark.parametrize("compression", ["xz", "gz", "zst", "plain"])
@pytest.mark.parametrize("root", ["metadata", "unified", "machine"])
def test_metadata_and_unified_images_named_like_a_root_are_refused(compression: str, root: str) -> None:
    body = {
        "metadata": images.metadata_tarball(compression=compression),
        "unified": images.unified_tarball(compression=compression),
        "machine": images.compress(
            images.tarball({"metadata.yaml": images.metadata_yaml(), "rootfs.img": DISK}), compression
        ),
    }[root]
    state, sentences = reasons({"lxd.tar.xz": images.metadata_tarball(serial="x"), "rootfs.tar.xz": body})
    assert (state, "rootfs.tar.xz is no root, it holds a metadata.yaml" in sentences) == ("invalid", True), sentences


def test_a_root_with_a_metadata_yaml_among_its_folders_stays_a_root() -> None:
    body = images.compress(images.tarball({"metadata.yaml": b"of an application", "etc/hostname": b"x"}), "xz")
    assert reasons({"lxd.tar.xz": images.metadata_tarball(), "rootfs.tar.xz": body})[0] == "complete"


@pytest.mark.parametrize("compression", ["xz", "gz", "zst", "bz2", "lzma"])
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (DISK, "it unpacks to a qcow2 disk and not to a tarball: upload what it unpacks to as disk.qcow2"),
        (
            images.squashfs(),
            "it unpacks to a squashfs and not to a tarball: upload what it unpacks to as rootfs.squashfs",
        ),
        (b"070701" + b"0" * 600, "it unpacks to a cpio archive and not to a tarball: pack the file system with tar"),
        (images.compress(images.tarball({"etc/hostname": b"x"}), "xz"), "it unpacks to compressed data and not to"),
        (b"\x33\xc0\x8e\xd0" * 300, "it unpacks to something that starts with 33 c0 8e d0 33 c0 8e d0 and not to"),
        (b"hello\n", "it unpacks to something that starts with 68 65 6c 6c 6f 0a and not to a tarball"),
        (b"", "it unpacks to nothing and not to a tarball"),
    ],
    ids=["qcow2", "squashfs", "cpio", "packed twice", "disk", "text", "nothing"],
)
def test_a_compressed_root_that_is_not_a_tarball_is_refused(compression: str, body: bytes, sentence: str) -> None:
    state, sentences = reasons(
        {"lxd.tar.xz": images.metadata_tarball(), "rootfs.tar.xz": images.compress(body, compression)}
    )
    assert (state, f"rootfs.tar.xz is no root, {sentence}" in sentences) == ("invalid", True), sentences


def test_a_member_of_negative_size_in_a_plain_root_is_refused() -> None:
    header = bytearray(images.tarball({"x": b""})[:512])
    header[124:136] = b"\xff" * 4 + (-512).to_bytes(8, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    state, sentences = reasons({"lxd.tar.xz": images.metadata_tarball(), "rootfs.tar": bytes(header) + bytes(1024)})
    assert (state, "a member of -512 bytes" in sentences) == ("invalid", True), sentences


def bitmaps(directory: int) -> bytes:
    """Return a disk of version 3 with the extension for persistent bitmaps."""
    header = bytearray(images.qcow2_header(version=3))
    struct.pack_into(">IIIIQQ", header, 104, 0x23852875, 24, 1, 0, 32, directory)
    return bytes(header) + bytes(4096)


def one_table() -> bytes:
    """Return a disk with one empty L2 table."""
    body = bytearray(images.qcow2_header() + bytes(6 * images.QCOW2_CLUSTER))
    struct.pack_into(">Q", body, 3 * images.QCOW2_CLUSTER, 1 << 63 | 4 * images.QCOW2_CLUSTER)
    return bytes(body)


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        (images.qcow2_header(refcount_clusters=0) + bytes(4096), "no table of reference counts"),
        (images.qcow2_header(snapshots=70_000, snapshots_at=512) + bytes(4096), "has 70,000 snapshots"),
        (images.qcow2_header(snapshots=1, snapshots_at=1 << 40) + bytes(4096), "its table of snapshots ends at byte"),
        (bitmaps(1 << 30), "its directory of bitmaps ends at byte"),
    ],
)
def test_disks_that_qemu_cannot_open_are_refused(disk: bytes, message: str) -> None:
    with pytest.raises(qcow2.UnusableDisk, match=message):
        list(qcow2.checked(iter([disk]), len(disk)))


def test_disks_with_internal_snapshots_and_bitmaps_are_accepted() -> None:
    for disk in (bitmaps(512), images.qcow2_header(snapshots=1, snapshots_at=512) + bytes(4096), one_table()):
        assert list(qcow2.checked(iter([disk]), len(disk))) == [disk]
