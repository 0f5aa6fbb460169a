"""Recognise a file that is not part of an image, by its first bytes or by the names in a tarball or a squashfs.

Publishers hold backups, ISOs, disks of other hypervisors and images of other systems. A refusal says what
the file is, and how to make a part of an image from it. FILE stands for its name.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from imageserver.inspection.tar_members import BLOCK, is_header

HEAD_BYTES: Final = 33 * 1024
"""How much of a file is needed to recognise it: the mark of an ISO follows 32 KiB."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a file is, and what to do with it; completes "<file> is not a tarball but <what>: <how>"."""

    what: str
    how: str


_CONVERT: Final = "run `qemu-img convert -O qcow2 FILE disk.qcow2`, and upload that"
_HYPERVISOR: Final = Foreign("a disk of another hypervisor", _CONVERT)
_OLD_TAR: Final = Foreign("a tar of the form V7, which clients do not recognise", "compress it with xz")
_COMPRESSED: Final = Foreign(
    "compressed data", "unpack it, and upload what was in it; upload a tarball of a file system as rootfs.tar.xz"
)
_UNREAD_COMPRESSION: Final = "unpack it, and compress the tar with xz"
_ARCHIVE: Final = "unpack it, and upload the files of the image that are in it"
_PACKAGE: Final = "upload the files of an image"
_FILE_SYSTEM: Final = Foreign(
    "a bare file system", "mount it, run `mksquashfs` over what is in it, and upload that as rootfs.squashfs"
)
_BACKUP: Final = Foreign(
    "a backup of an instance (lxc export, incus export)", "import it, and publish the instance as an image"
)
_CONTAINER_IMAGE: Final = Foreign(
    "an image of Docker or OCI", "run `docker export CONTAINER | xz >rootfs.tar.xz`, and upload that with metadata"
)
_LXC_METADATA: Final = Foreign(
    "metadata of LXC (lxc-create), which LXD and Incus cannot read",
    "pack a metadata.yaml that says architecture and creation_date, and upload that as lxd.tar.xz",
)
_BYTES: Final = (
    (0, b"hsqs", Foreign("a squashfs", "upload it as rootfs.squashfs")),
    (0, b"sqsh", Foreign("a squashfs that Linux does not mount", "pack the file system again with mksquashfs")),
    (0, b"QFI\xfb", Foreign("a qcow2 disk", "upload it as disk.qcow2")),
    (0, b"\xd6\xc3\xc4", Foreign("a vcdiff delta", "upload it as rootfs.<base version>.vcdiff")),
    (257, b"ustar", Foreign("a tarball", "upload a root as rootfs.tar.xz, and metadata as lxd.tar.xz")),
    *((0, magic, _COMPRESSED) for magic in (b"\xfd7zXZ\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\x5d\0\0")),
    *((0, magic, _HYPERVISOR) for magic in (b"KDMV", b"# Disk DescriptorFile", b"vhdxfile", b"\x63onectix", b"QED\0")),
    *((0, magic, _HYPERVISOR) for magic in (b"WithoutFreeSpace", b"WithouFreSpacExt")),  # Parallels
    (64, b"\x7f\x10\xda\xbe", _HYPERVISOR),  # VirtualBox
    (32769, b"CD001", Foreign("an ISO, which installs a machine", "install it, and publish the machine as an image")),
    (0, b"\x04\x22\x4d\x18", Foreign("data in lz4, which not all clients read", _UNREAD_COMPRESSION)),
    *(
        (0, magic, Foreign(f"data in {name}, which clients do not read", _UNREAD_COMPRESSION))
        for magic, name in (
            (b"\x02\x21\x4c\x18", "lz4"), (b"LZIP", "lzip"), (b"\x89LZO\0", "lzop"), (b"\x1f\x9d", "compress")
        )
    ),
    *(
        (0, bytes([0x50 + low]) + b"\x2a\x4d\x18",
         Foreign("zstd data that begins with a frame to pass over, which clients do not recognise",
                 "compress it with zstd and not with pzstd"))
        for low in range(16)
    ),
    *((0, magic, Foreign("an archive", _ARCHIVE)) for magic in (b"PK\3\4", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07")),
    *((0, magic, Foreign("a package of software", _PACKAGE)) for magic in (b"\xed\xab\xee\xdb", b"!<arch>\ndebian")),
    (0, b"0707", Foreign("a cpio archive", "pack the file system with tar")),
    (1080, b"\x53\xef", _FILE_SYSTEM),  # ext2 to ext4
    (1024, b"\xe2\xe1\xf5\xe0", _FILE_SYSTEM),  # EROFS
    (0, b"XFSB", _FILE_SYSTEM),
    *(
        (0, start, Foreign("a web page", "fetch the image again: a server answered with this in its place"))
        for start in (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML", b"<?xml")
    ),
    (510, b"\x55\xaa", Foreign("a raw disk", _CONVERT)),
    (512, b"EFI PART", Foreign("a raw disk", _CONVERT)),
)  # fmt: skip
"""Offset, the bytes there, and the kind of file that has them; the first match counts."""

_IMAGE_PARTS: Final = frozenset({"metadata.yaml", "rootfs", "rootfs.img", "templates"})
_MOST_OTHERS: Final = 8
"""How many other names, such as README, may be beside those parts before it looks like a file system."""
_ROOTS: Final = frozenset({"rootfs", "rootfs.img"})
_SYSTEM: Final = frozenset({"bin", "dev", "etc", "lib", "proc", "sbin", "sys", "usr", "var"})
"""Folders of a file system. Beside one of these, any other name may occur."""
_LXC: Final = frozenset({"create-message", "excludes-user", "expiry"})
_DISKS: Final = (".qcow2", ".raw", ".img", ".vmdk", ".vdi", ".vhd", ".vhdx")
_SQUASHED: Final = (".squashfs", ".sfs")


def by_bytes(head: bytes) -> Foreign | None:
    """Return the kind of a file that begins with `head`, its first `HEAD_BYTES`; None if it is unknown."""
    found = next((known for place, magic, known in _BYTES if head[place : place + len(magic)] == magic), None)
    return _OLD_TAR if found is None and any(head[:BLOCK]) and is_header(head[:BLOCK]) else found


def holds_image(names: Set[str]) -> bool:
    """Return whether these top-level names are those of an image and not of a root."""
    if "metadata.yaml" not in names or names & _SYSTEM:
        return False
    others = len(names - _IMAGE_PARTS)
    return not others or (others <= _MOST_OTHERS and bool(names & _ROOTS))


def by_names(names: Set[str]) -> Foreign | None:
    """Return what has these top-level names if it is neither an image nor a root; None if it may be one."""
    if not names or names & _SYSTEM:
        return None
    if names == {"backup"}:
        return _BACKUP
    if "oci-layout" in names or "manifest.json" in names:
        return _CONTAINER_IMAGE
    if any(name.endswith(".ovf") for name in names):
        return Foreign("an appliance (OVA) of another hypervisor", f"unpack it; for its disk {_CONVERT}")
    if names & _LXC or {"config", "templates"} <= names:
        return _LXC_METADATA
    if all(name.endswith(_DISKS) for name in names):
        return Foreign("a disk in a tarball", f"unpack it; upload a qcow2 disk as disk.qcow2, for any other {_CONVERT}")
    if all(name.endswith(_SQUASHED) for name in names):
        return Foreign("a squashfs in a tarball", "unpack it, and upload what was in it as rootfs.squashfs")
    return None
