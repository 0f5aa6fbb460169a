"""A file that is not part of an image is refused and named for what it is, with a command that converts it."""

import tarfile

import pytest

from imageserver.inspection import foreign
from imageserver.versions.records import Record
from tests.support import images
from tests.support.memory_store import System

PATH = "images/ubuntu/noble/amd64/default/20261123_1000"
META = images.metadata_tarball()


def ingested(files: dict[str, bytes]) -> tuple[System, Record]:
    system = System()
    system.upload(PATH, files)
    system.catch_up()
    record = system.ingest(PATH).record
    assert record is not None
    return system, record


def refusal(files: dict[str, bytes], file: str) -> str:
    """Return the only error of a version that is not listed."""
    system, record = ingested(files)
    assert (system.listed(), record.state) == ({}, "invalid")
    (sentence,) = [reason.sentence for reason in record.reasons if reason.kind == "error"]
    assert sentence.startswith(f"{file} ")
    return sentence


def at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(2048)


BYTES = {
    "qcow2": (images.qcow2(), "a qcow2 disk: upload it as disk.qcow2"),
    "squashfs": (images.squashfs(), "a squashfs: upload it as rootfs.squashfs"),
    "old squashfs": (at(0, b"sqsh"), "a squashfs that Linux does not mount: pack the file system again"),
    "delta": (images.vcdiff(), "a vcdiff delta: upload it as rootfs.<base version>.vcdiff"),
    "VMDK": (at(0, b"KDMV"), "a disk of another hypervisor: run `qemu-img convert -O qcow2 FILE disk.qcow2`"),
    "VHDX": (at(0, b"vhdxfile"), "a disk of another hypervisor"),
    "VHD": (at(0, b"\x63onectix"), "a disk of another hypervisor"),
    "VDI": (at(64, b"\x7f\x10\xda\xbe"), "a disk of another hypervisor"),
    "QED": (at(0, b"QED\0"), "a disk of another hypervisor"),
    "Parallels": (at(0, b"WithoutFreeSpace"), "a disk of another hypervisor"),
    "MBR": (at(510, b"\x55\xaa"), "a raw disk: run `qemu-img convert"),
    "GPT": (at(512, b"EFI PART"), "a raw disk: run `qemu-img convert"),
    "ISO": (at(32769, b"CD001"), "an ISO, which installs a machine: install it"),
    "hybrid ISO": (at(510, b"\x55\xaa")[:512] + at(32257, b"CD001"), "an ISO, which installs a machine"),
    "lz4": (at(0, b"\x04\x22\x4d\x18"), "data in lz4, which not all clients read: unpack it"),
    "lzip": (at(0, b"LZIP\1"), "data in lzip, which clients do not read: unpack it"),
    "lzop": (at(0, b"\x89LZO\0"), "data in lzop, which clients do not read"),
    "compress": (at(0, b"\x1f\x9d\x90"), "data in compress, which clients do not read"),
    "pzstd": (at(0, b"\x50\x2a\x4d\x18\4\0\0\0"), "zstd data that begins with a frame to pass over"),
    "zip": (at(0, b"PK\3\4"), "an archive: unpack it"),
    "7z": (at(0, b"7z\xbc\xaf\x27\x1c"), "an archive: unpack it"),
    "rpm": (at(0, b"\xed\xab\xee\xdb"), "a package of software"),
    "deb": (at(0, b"!<arch>\ndebian-binary"), "a package of software"),
    "cpio": (at(0, b"070701"), "a cpio archive: pack the file system with tar"),
    "ext4": (at(1080, b"\x53\xef"), "a bare file system: mount it"),
    "erofs": (at(1024, b"\xe2\xe1\xf5\xe0"), "a bare file system: mount it"),
    "page": (at(0, b"<!DOCTYPE html>"), "a web page: fetch the image again"),
    "V7": (images.old_tar("etc"), "a tar of the form V7, which clients do not recognise: compress it with xz"),
    "gzip": (images.compress(b"x" * 600, "gz"), "compressed data: unpack it"),
    "tar": (images.root_tarball(compression="plain"), "a tarball: upload a root as rootfs.tar.xz"),
}
SUITABLE = {"squashfs": "rootfs.squashfs", "qcow2": "disk.qcow2", "gzip": "rootfs.tar.xz", "tar": "rootfs.tar.xz"}


@pytest.mark.parametrize("name", ["rootfs.squashfs", "disk.qcow2", "disk1.img", "rootfs.tar.xz"])
@pytest.mark.parametrize("kind", BYTES)
def test_bytes_under_the_name_of_another_root_are_named_for_what_they_are(kind: str, name: str) -> None:
    body, content = BYTES[kind]
    is_suitable = SUITABLE.get(kind) == name or (kind == "qcow2" and name == "disk1.img")
    if not is_suitable:
        sentence = refusal({"lxd.tar.xz": META, name: body}, name)
        assert f"{name} is not a " in sentence
        assert f" but {content}" in sentence


@pytest.mark.parametrize("name", ["lxd.tar.xz", "incus.tar.xz", "lxd_combined.tar.gz", "image.tar.xz"])
@pytest.mark.parametrize("kind", sorted(BYTES.keys() - {"gzip", "tar"}))
def test_a_file_named_like_a_tarball_is_named_for_what_it_is(kind: str, name: str) -> None:
    sentence = refusal({name: BYTES[kind][0]}, name)
    assert f"{name} is not a tarball (xz, gz, zst, bz2, lzma or plain) but {BYTES[kind][1]}" in sentence


def test_unknown_bytes_are_shown() -> None:
    sentence = refusal({"lxd.tar.xz": META, "rootfs.squashfs": b"hello" * 200}, "rootfs.squashfs")
    assert (
        "is not a squashfs: it starts with 68 65 6c 6c 6f 68 65 6c; upload the right file under this name" in sentence
    )


NAMES = {
    "backup": (["backup/index.yaml", "backup/container/rootfs/etc/x"], "a backup of an instance (lxc export"),
    "optimized backup": (["backup/index.yaml", "backup/container.bin"], "a backup of an instance (lxc export"),
    "backup of a machine": (["./backup/index.yaml", "./backup/virtual-machine.img"], "a backup of an instance"),
    "docker save": (["0a1b/layer.tar", "manifest.json", "repositories"], "an image of Docker or OCI: run `docker"),
    "OCI": (["blobs/sha256/0a", "index.json", "oci-layout"], "an image of Docker or OCI"),
    "OVA": (["noble.ovf", "noble.mf", "noble-disk1.vmdk"], "an appliance (OVA) of another hypervisor"),
    "LXC": (["config", "templates", "create-message"], "metadata of LXC (lxc-create)"),
    "older LXC": (["config", "expiry", "excludes-user"], "metadata of LXC (lxc-create)"),
    "GCE": (["disk.raw"], "a disk in a tarball: unpack it"),
    "disk": (["./noble.qcow2"], "a disk in a tarball: unpack it"),
    "squashfs": (["noble.squashfs"], "a squashfs in a tarball: unpack it"),
}  # fmt: skip


@pytest.mark.parametrize("compression", ["xz", "zst", "plain"])
@pytest.mark.parametrize("kind", NAMES)
def test_a_tarball_of_something_else_is_neither_image_nor_root(kind: str, compression: str) -> None:
    names, content = NAMES[kind]
    body = images.compress(images.tarball(dict.fromkeys(names, b"x")), compression)
    assert f"image.tar.xz is not an image of LXD or Incus but {content}" in refusal(
        {"image.tar.xz": body}, "image.tar.xz"
    )
    assert f"lxd.tar.xz is not an image of LXD or Incus but {content}" in refusal({"lxd.tar.xz": body}, "lxd.tar.xz")
    sentence = refusal({"lxd.tar.xz": META, "rootfs.tar.xz": body}, "rootfs.tar.xz")
    assert f"rootfs.tar.xz is no root but {content}" in sentence


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_system_may_hold_any_of_these_names_at_its_top(kind: str) -> None:
    names = [*NAMES[kind][0], "etc/hostname"]
    body = images.compress(images.tarball(dict.fromkeys(names, b"x")), "xz")
    assert ingested({"lxd.tar.xz": META, "rootfs.tar.xz": body})[1].state == "complete"


@pytest.mark.parametrize("names", [["backup"], ["oci-layout", "index.json"], ["noble.ovf"], ["disk.raw"], ["a.sfs"]])
def test_a_squashfs_of_something_else_is_not_a_root(names: list[str]) -> None:
    body = images.squashfs_of(*names)
    assert "rootfs.squashfs is no root but a" in refusal(
        {"lxd.tar.xz": META, "rootfs.squashfs": body}, "rootfs.squashfs"
    )


@pytest.mark.parametrize("more", ["README", "lost+found", "templates"])
def test_a_unified_image_is_not_a_root_whatever_else_is_at_its_top(more: str) -> None:
    members = {"metadata.yaml": b"x", "rootfs/etc/hostname": b"x", f"{more}/x": b"x"}
    root = images.compress(images.tarball(members), "xz")
    sentence = refusal({"lxd.tar.xz": META, "rootfs.tar.xz": root}, "rootfs.tar.xz")
    assert "is no root, it holds a metadata.yaml" in sentence
    squashed = images.squashfs_of("metadata.yaml", "rootfs", more)
    sentence = refusal({"lxd.tar.xz": META, "rootfs.squashfs": squashed}, "rootfs.squashfs")
    assert "is a whole image in squashfs form" in sentence


def test_a_metadata_yaml_in_a_folder_is_reported_with_its_path() -> None:
    body = images.compress(images.tarball({"img/metadata.yaml": b"x", "img/rootfs/etc/x": b"x"}), "xz")
    sentence = "holds no metadata.yaml at its top level, it has one in 'img': pack what is in that folder"
    assert sentence in refusal({"image.tar.xz": body}, "image.tar.xz")


BOTH = [("metadata.yaml", images.metadata_yaml()), ("rootfs/etc/x", b"x"), ("rootfs.img", images.qcow2())]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("compression", ["xz", "gz", "zst", "bz2", "lzma", "plain"])
def test_a_tarball_with_two_roots_is_neither_a_container_nor_a_machine(
    order: tuple[int, ...], compression: str
) -> None:
    body = images.compress(images.tarball(dict(BOTH[index] for index in order)), compression)
    assert "u.tar.xz holds both rootfs/ and rootfs.img" in refusal({"u.tar.xz": body}, "u.tar.xz")


def test_an_empty_rootfs_folder_next_to_a_disk_is_not_a_second_root() -> None:
    body = images.tar(*BOTH[:1], images.special("rootfs", tarfile.DIRTYPE), BOTH[2])
    assert ingested({"u.tar": body})[1].state == "complete"


@pytest.mark.parametrize("names", [set(), {"etc"}, {"srv", "opt"}, {"backup", "srv"}, {"config"}, {"disk.raw", "boot"}])
def test_possible_names_in_a_root_are_not_foreign(names: set[str]) -> None:
    assert foreign.by_names(names) is None
