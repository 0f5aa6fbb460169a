"""The kind of a file in a version's folder, by its name: the table of ftypes.

The ftypes and the field of the combined sha256 for each kind of root are the clients'
(shared/simplestreams/products.go of LXD and Incus).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from imageserver.errors import InvalidUpload
from imageserver.format.keys import check_file, version_form


class Role(StrEnum):
    """What a file is for."""

    METADATA = "metadata"
    ROOT = "root"
    UNIFIED = "unified"
    DELTA = "delta"
    OVERRIDES = "overrides"
    CHECKSUMS = "checksums"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileKind:
    """The role of a file and how the catalog names it; `delta_base` is the version a delta applies to."""

    role: Role
    ftype: str = ""
    delta_base: str = ""


ALL_CLIENTS: Final = ("incus", "lxd")
"""The kinds of client whose metadata and unified items the catalog can carry."""

SQUASHFS: Final = "squashfs"
ROOT_TAR: Final = "root.tar.xz"
DISK_KVM: Final = "disk-kvm.img"
CONTAINER_FTYPES: Final = (SQUASHFS, ROOT_TAR)
ROOT_FTYPES: Final = (SQUASHFS, ROOT_TAR, DISK_KVM, "disk1.img", "uefi1.img")
"""Every kind of root, in the order in which clients' listings usually show them."""

METADATA_FTYPES: Final[dict[str, str]] = {"lxd": "lxd.tar.xz", "incus": "incus.tar.xz"}
"""Client -> the ftype of the metadata that it reads."""
UNIFIED_FTYPES: Final[dict[str, str]] = {"lxd": "lxd_combined.tar.gz", "incus": "incus_combined.tar.gz"}
"""Client -> the ftype of the unified tarball that it reads."""
UNIFIED_VM_CLIENTS: Final = ("incus",)
"""The client that reads `combined_type`, and so a virtual machine in one tarball: Incus from 7.1 on, no LXD."""

_PACKED = r"\.(gz|xz|zst|bz2|lzma)"
_TAR = rf"tar({_PACKED})?"
_ANY_TAR = rf"({_TAR}|tgz|txz|tbz2?|tzst|tlz)"
_ROOT_TAR = re.compile(rf"root(fs)?\.{_TAR}")
_UNIFIED = re.compile(rf".+\.{_ANY_TAR}")
_METADATA_NAME = re.compile(rf"(meta(data)?([-._].*)?|(.*[-._])?(lxd|incus))\.{_ANY_TAR}", re.IGNORECASE)
_DELTA = re.compile(r"[^.]+\.(?P<base>[0-9][^.]*(\.[0-9]+)?)\.(?P<disk>qcow2\.)?vcdiff")
_FIXED: Final[dict[str, FileKind]] = {
    "lxd.tar.xz": FileKind(Role.METADATA, "lxd.tar.xz"),
    "incus.tar.xz": FileKind(Role.METADATA, "incus.tar.xz"),
    "lxd_combined.tar.gz": FileKind(Role.UNIFIED, "lxd_combined.tar.gz"),
    "incus_combined.tar.gz": FileKind(Role.UNIFIED, "incus_combined.tar.gz"),
    "disk-kvm.img": FileKind(Role.ROOT, DISK_KVM),
    "disk1.img": FileKind(Role.ROOT, "disk1.img"),
    "uefi1.img": FileKind(Role.ROOT, "uefi1.img"),
    "metadata.json": FileKind(Role.OVERRIDES),
    "image.yaml": FileKind(Role.OVERRIDES),
    "SHA256SUMS": FileKind(Role.CHECKSUMS),
}
USUAL_NAMES: Final = frozenset({"rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2", *_FIXED})
"""The names that distrobuilder gives. Of two files of one ftype, the one with such a name is listed."""
_DELTA_WITHOUT_BASE: Final = (
    "is a delta whose name does not say its base; name it rootfs.<base version>.vcdiff, or that of a disk "
    "disk.<base version>.qcow2.vcdiff, and upload that"
)
_SQUASHED_METADATA = re.compile(r"(meta-.+|metadata|meta|lxd|incus)\.squashfs")
_COPY = re.compile(
    r"(?P<file>.+?)(~|(\.(tmp|temp|part|partial|filepart|download|crdownload|bak|old|orig|new|[0-9]{1,3}))+)"
)
"""Matches what programs call a file that they have not finished, or one of which there are several."""
_OTHER_SUMS = re.compile(r"(sha256sums?|checksums?)([.-](txt|asc))?|.+\.sha256(sums?)?(\.txt)?", re.IGNORECASE)
_CONVERTED_BY: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = (
    (_SQUASHED_METADATA, "metadata in squashfs form, which clients read and this server does not",
     "sqfs2tar {file} | xz > lxd.tar.xz"),
    (re.compile(r"(lxd|incus)_combined\.squashfs"), "a unified image in squashfs form",
     "sqfs2tar {file} | xz > lxd_combined.tar.xz"),
    (re.compile(r".+\.root"), "a root as image export names it", "name it rootfs.tar.xz"),
    (re.compile(r".+\.(sqfs|squash|sfs)"), "a squashfs under a name that is not recognised",
     "name it rootfs.squashfs"),
    (re.compile(r".+\.(img|qcow)"), "a disk whose name does not say its format",
     "name it disk.qcow2 if it is one, as those of Ubuntu are, or qemu-img convert -O qcow2 {file} disk.qcow2"),
    (re.compile(r".+\.(raw|vmdk|vdi|vhd|vhdx|vpc|qed)"), "a disk that clients do not take as it is",
     "qemu-img convert -O qcow2 {file} disk.qcow2"),
    (re.compile(r".+\.tar\.(lz4|lz|lzo|Z|br)"), "a tarball in a compression that clients or this server do not read",
     "unpack it and compress the tar with xz"),
    (re.compile(r".+\.iso"), "an ISO, which installs a machine",
     "install it, qemu-img convert -O qcow2 the disk of that machine to disk.qcow2"),
    (re.compile(r".+\.(ova|ovf)"), "an appliance of another hypervisor",
     "unpack it, qemu-img convert -O qcow2 its disk to disk.qcow2"),
    (re.compile(r".+\.tar\.(zstd|xzip|gzip|bzip2)"), "a tarball whose ending is not recognised",
     "name it .tar.zst, .tar.xz, .tar.gz or .tar.bz2"),
    (re.compile(r".+\.(xdelta3?|xd3|delta)"), "a delta under a name that is not recognised",
     "name it rootfs.<base version>.vcdiff"),
    (re.compile(r"image\.yml"), "a definition under a name that is not recognised", "name it image.yaml"),
    (re.compile(rf".+\.(zip|7z|rar|cpio({_PACKED})?)"), "an archive that clients do not read",
     "unpack it, pack it with tar -cJf"),
    (re.compile(r".+\.(ext[234]|erofs|btrfs|xfs)"), "a bare file system",
     "mount it, mksquashfs what is in it to rootfs.squashfs"),
    (re.compile(r"metadata\.ya?ml"), "metadata that is not packed", "tar -cJf lxd.tar.xz metadata.yaml"),
    (re.compile(rf".+\.(squashfs|qcow2|img|raw|vcdiff){_PACKED}"), "a file of an image that is compressed once more",
     "unpack {file}"),
    (re.compile(r"(md5|sha1|sha224|sha384|sha512|b2)sums?(\.txt)?", re.IGNORECASE),
     "a list of digests that are not compared", "make a SHA256SUMS with sha256sum"),
    (_OTHER_SUMS, "a list of digests under a name that is not recognised", "name it SHA256SUMS"),
)  # fmt: skip


def classify(file: str) -> FileKind:
    """Return the kind of a file by its name; Role.OTHER for an unknown name, or one that cannot stand in a URL."""
    try:
        check_file(file)
    except InvalidUpload:
        return FileKind(Role.OTHER)
    return kind_by_name(file)


def kind_by_name(file: str) -> FileKind:
    """Return the kind of file that the name suggests, whether it can be served under that name or not."""
    if file in _FIXED:
        return _FIXED[file]
    if file.endswith(".vcdiff"):
        return _delta(file)
    return FileKind(Role.OTHER) if conversion(file) else _by_ending(file)


def _by_ending(file: str) -> FileKind:
    if file.endswith(".squashfs"):
        return FileKind(Role.ROOT, SQUASHFS)
    if file.endswith(".qcow2"):
        return FileKind(Role.ROOT, DISK_KVM)
    if _ROOT_TAR.fullmatch(file):
        return FileKind(Role.ROOT, ROOT_TAR)
    if _UNIFIED.fullmatch(file):
        return FileKind(Role.UNIFIED, UNIFIED_FTYPES["lxd"])
    return FileKind(Role.OTHER)


def conversion(file: str) -> str:
    """Return what a file in a form that is not accepted is, and how to convert it; completes "<file> …"."""
    if file in _FIXED:
        return ""
    found = next(((what, how) for pattern, what, how in _CONVERTED_BY if pattern.fullmatch(file)), None)
    if file.endswith(".vcdiff"):
        return "" if _delta(file).role is Role.DELTA else _DELTA_WITHOUT_BASE
    if found:
        return f"is {found[0]}; {found[1].format(file=_in_command(file))}, and upload that"
    copy = _COPY.fullmatch(file)
    if copy and classify(name := copy["file"]).role is not Role.OTHER:
        return f"is named as a copy of {name}, or a part of it; if it is whole, name it {name}, and upload that"
    lower = file.lower()
    if (
        file != lower
        and _in_command(lower) == lower
        and _by_ending(file).role is Role.OTHER
        and kind_by_name(lower).role is not Role.OTHER
    ):
        return f"is named in capitals, which are not recognised; name it {lower}, and upload that"
    return ""


def _in_command(file: str) -> str:
    """Return a name as it may stand in a command that somebody copies; FILE for one that a shell would take apart."""
    try:
        check_file(file)
    except InvalidUpload:
        return "FILE"
    return file


def is_metadata_name(file: str) -> bool:
    """Return whether a name is that of metadata for a separate root: `meta-<fingerprint>.tar.xz`, `incus.tar.gz`."""
    return _METADATA_NAME.fullmatch(file) is not None


def combined_fields(ftype: str) -> tuple[str, ...]:
    """Return the fields of a metadata item that carry the combined sha256 with a root of this ftype."""
    return {
        SQUASHFS: ("combined_squashfs_sha256",),
        ROOT_TAR: ("combined_rootxz_sha256", "combined_sha256"),  # old clients read the second name
        DISK_KVM: ("combined_disk-kvm-img_sha256",),
        "disk1.img": ("combined_disk1-img_sha256",),
        "uefi1.img": ("combined_uefi1-img_sha256",),
    }[ftype]


def _delta(file: str) -> FileKind:
    match = _DELTA.fullmatch(file)
    if match is None:
        return FileKind(Role.OTHER)
    try:
        version_form(match["base"])
    except InvalidUpload:
        return FileKind(Role.OTHER)
    root = DISK_KVM if match["disk"] else SQUASHFS
    return FileKind(Role.DELTA, f"{root}.vcdiff", match["base"])
