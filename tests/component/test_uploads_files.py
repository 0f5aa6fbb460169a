"""Which files `scripts/upload` accepts as an image, and how it reports the others. No server is needed."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.processes import need
from tests.support.upload_script import FINGERPRINT, QCOW2, SCRIPT, SQUASHFS, UNIFIED, XZ, run, write

GZ, ROOT_XZ = images.metadata_tarball(compression="gz"), images.root_tarball()
LZMA = lzma.compress(images.tarball({"metadata.yaml": images.metadata_yaml()}), lzma.FORMAT_ALONE)
UNIFIED_LZMA = lzma.compress(images.unified_tarball(compression="plain"), lzma.FORMAT_ALONE)

LEFT_BEHIND = {
    "image export of a split container": (
        {f"meta-{FINGERPRINT}.tar.xz": XZ, f"{FINGERPRINT}.squashfs": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "image export of a split container with a tarball": (
        {f"meta-{FINGERPRINT}.tar.xz": XZ, f"{FINGERPRINT}.tar.xz": ROOT_XZ}, ["lxd.tar.xz", "root.tar.xz"]),
    "image export of a unified image": ({f"{FINGERPRINT}.tar.gz": UNIFIED["gz"]}, ["lxd_combined.tar.gz"]),
    "image export of a unified image in xz": ({f"{FINGERPRINT}.tar.xz": UNIFIED["xz"]}, ["lxd_combined.tar.xz"]),
    "image export of a unified image in zstd": ({f"{FINGERPRINT}.tar.zst": UNIFIED["zst"]}, ["lxd_combined.tar.zst"]),
    "image export of a plain unified image": ({f"{FINGERPRINT}.tar": UNIFIED["plain"]}, ["lxd_combined.tar"]),
    "image export to a name": ({"mine": XZ, "mine.root": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "image export to a name, tarball": ({"mine": GZ, "mine.root": ROOT_XZ}, ["lxd.tar.xz", "root.tar.xz"]),
    "image export of a virtual machine": (
        {f"meta-{FINGERPRINT}.tar.xz": XZ, f"{FINGERPRINT}.qcow2": QCOW2}, ["lxd.tar.xz", "disk.qcow2"]),
    "virtual machine to a name": ({"vm": XZ, "vm.root": QCOW2}, ["lxd.tar.xz", "disk.qcow2"]),
    "distrobuilder for LXD": ({"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "distrobuilder for Incus": ({"incus.tar.xz": XZ, "disk.qcow2": QCOW2}, ["disk.qcow2", "incus.tar.xz"]),
    "container and virtual machine": (
        {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "disk.qcow2": QCOW2},
        ["disk.qcow2", "lxd.tar.xz", "rootfs.squashfs"]),
    "with documents and a delta": (
        {"incus.tar.xz": XZ, "root.squashfs": SQUASHFS, "SHA256SUMS": b"x", "metadata.json": b"{}",
         "rootfs.20261122.vcdiff": images.vcdiff()},
        ["SHA256SUMS", "incus.tar.xz", "metadata.json", "rootfs.20261122.vcdiff", "rootfs.squashfs"]),
    "image export of a unified image in lzma": (
        {f"{FINGERPRINT}.tar.lzma": UNIFIED_LZMA}, ["lxd_combined.tar.lzma"]),
    "image export of a split container in lzma": (
        {f"meta-{FINGERPRINT}.tar.lzma": LZMA, f"{FINGERPRINT}.squashfs": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "metadata under a name of its own, a root tarball too": (
        {"incus.tar.gz": GZ, "base.tar.xz": ROOT_XZ}, ["lxd.tar.xz", "root.tar.xz"]),
    "metadata alone in lzma": ({"mine.tar.lzma": LZMA}, ["lxd.tar.xz"]),
    "metadata alone": ({"mine.tar.gz": GZ}, ["lxd.tar.xz"]),
    "a root tarball alone": ({"mine.tar.xz": ROOT_XZ}, ["root.tar.xz"]),
    "a misleading name": ({"noble.img": SQUASHFS, "noble.tar": XZ}, ["lxd.tar.xz", "rootfs.squashfs"]),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_BEHIND)
def test_files_get_the_names_that_the_server_knows(tmp_path: Path, case: str) -> None:
    if case in ("metadata alone in lzma", "a root tarball alone"):
        need("xz")  # without it the script does not look into these, and the server decides
    files, names = LEFT_BEHIND[case]
    for order in (1, -1):
        done = run("--dry-run", "--to", "a/b/amd64/d", *write(tmp_path, files)[::order])
        assert (done.returncode, sorted(line.split("\t")[0] for line in done.stdout.splitlines())) == (
            0,
            sorted(names),
        ), done


def test_only_image_files_of_a_folder_are_uploaded(tmp_path: Path) -> None:
    write(
        tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "build.log": b"a log", "notes.gz": gzip.compress(b"")}
    )
    done = run("--dry-run", "--to", "a/b/amd64/d", tmp_path)
    assert done.returncode == 3, "a tarball of an unknown name is not passed over: it could be the metadata"
    (tmp_path / "notes.gz").unlink()
    done = run("--dry-run", "--to", "a/b/amd64/d", tmp_path)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["lxd.tar.xz", "rootfs.squashfs"]


@pytest.mark.parametrize("name", ["rootfs.squashfs", "metadata.json"])
def test_a_link_in_a_folder_is_refused_by_name_and_one_given_by_name_is_followed(tmp_path: Path, name: str) -> None:
    (private,) = write(tmp_path, {"private": SQUASHFS if name == "rootfs.squashfs" else b"{}"})
    folder = tmp_path / "image"
    folder.mkdir()
    write(folder, {"lxd.tar.xz": XZ})
    (folder / name).symlink_to(private)
    (folder / "build.log").symlink_to("/etc/hostname")
    done = run("--dry-run", "--to", "a/b/amd64/d", folder)
    assert (done.returncode, f"{folder / name} is a symbolic link, which is not followed" in done.stderr) == (3, True)
    done = run("--dry-run", "--to", "a/b/amd64/d", folder / "lxd.tar.xz", folder / name)
    assert (done.returncode, f"{name}\t" in done.stdout) == (0, True), done.stderr
    (folder / name).unlink()
    assert run("--dry-run", "--to", "a/b/amd64/d", folder).returncode == 0


NOT_IMAGES = [
    ({"noble.iso": b"CD001" * 100}, "noble.iso is no image file: it starts with 434430303143, expected a squashfs"),
    ({"lxd.tar.xz": b""}, "lxd.tar.xz is empty (0 bytes)"),
    ({"lxd.tar.xz": b"<xml>"}, "lxd.tar.xz is no image file"),
    ({"lxd.tar.xz": b"<html>"}, "lxd.tar.xz is a web page; fetch the image again"),
    (
        {"metadata.yaml": images.metadata_yaml()},
        "metadata.yaml is metadata that is not packed; run: tar -cJf lxd.tar.xz",
    ),
    ({"d.qcow": b"QFI\xfb\0\0\0\1" + bytes(600)}, "d.qcow is a disk of qcow's version 1"),
    ({"d.img": b"QED\0" + bytes(600)}, "d.img is a disk of another hypervisor; run: qemu-img convert"),
    ({"d.hdd": b"WithoutFreeSpace" + bytes(600)}, "d.hdd is a disk of another hypervisor; run: qemu-img convert"),
    ({"m.tar.lz4": b"\x04\x22\x4d\x18" + bytes(600)}, "m.tar.lz4 is compressed with lz4, which not all clients read"),
    ({"m.tar.lz": b"LZIP\1" + bytes(600)}, "m.tar.lz is compressed with lzip, which not all clients read"),
    ({"m.tar.Z": b"\x1f\x9d\x90" + bytes(600)}, "m.tar.Z is compressed with compress, which"),
    ({"m.tar.zst": b"\x50\x2a\x4d\x18" + bytes(600)}, "m.tar.zst is compressed with a form of zstd (pzstd)"),
    ({"i.zip": b"PK\3\4" + bytes(600)}, "i.zip is an archive that LXD and Incus cannot read; unpack it"),
    ({"i.7z": b"7z\xbc\xaf\x27\x1c" + bytes(600)}, "i.7z is an archive that LXD and Incus cannot read"),
    ({"i.rpm": b"\xed\xab\xee\xdb" + bytes(600)}, "i.rpm is a package of software"),
    ({"i.deb": b"!<arch>\ndebian-binary"}, "i.deb is a package of software"),
    ({"i.cpio": b"070701" + bytes(600)}, "i.cpio is a cpio archive; unpack it"),
    ({"r.ext4": bytes(1080) + b"\x53\xef" + bytes(600)}, "r.ext4 is a bare file system; run: mount -o loop,ro"),
    (
        {"old.tar": images.old_tar("metadata.yaml")},
        "old.tar is a tar of the form V7, which LXD and Incus do not recognise",
    ),
    (
        {"gce.tar.gz": images.compress(images.tarball({"disk.raw": bytes(600)}), "gz")},
        "gce.tar.gz is a disk in a tarball",
    ),
    (
        {
            "both.tar.gz": images.compress(
                images.tarball({"metadata.yaml": b"x", "rootfs/x": b"x", "rootfs.img": images.qcow2()}), "gz"
            )
        },
        "both.tar.gz holds both rootfs/ and rootfs.img",
    ),
    (
        {
            "both.tar.xz": images.compress(
                images.tarball({"rootfs.img": images.qcow2(), "./rootfs/x": b"x", "metadata.yaml": b"x"}), "xz"
            )
        },
        "both.tar.xz holds both rootfs/ and rootfs.img",
    ),
    ({"a.squashfs": SQUASHFS, "b.squashfs": SQUASHFS}, "these would all be rootfs.squashfs, expected one of each kind"),
    ({"a.tar.gz": UNIFIED["gz"], "b.tar.gz": UNIFIED["gz"]}, "these would all be lxd_combined.tar.gz"),
]


@pytest.mark.parametrize(("files", "sentence"), NOT_IMAGES)
def test_a_file_that_is_not_an_image_is_refused_before_anything_is_sent(
    tmp_path: Path, files: dict[str, bytes], sentence: str
) -> None:
    if "both.tar.xz" in files:
        need("xz")
    done = run("--dry-run", "--to", "a/b/amd64/d", *write(tmp_path, files))
    assert (done.returncode, sentence in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("meta-a.squashfs", SQUASHFS, "is metadata in squashfs form"),
        ("metadata.squashfs", SQUASHFS, "metadata.squashfs | xz >lxd.tar.xz, and upload lxd.tar.xz instead"),
        ("disk.raw", b"\0" * 1000, "disk.raw disk.qcow2, and upload that"),
        ("disk.vmdk", b"KDMV" * 100, "run: qemu-img convert -O qcow2"),
    ],
)
def test_a_file_in_another_form_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, name: str, body: bytes, message: str
) -> None:
    done = run("--to", "a/b/amd64/d", "--dry-run", *write(tmp_path, {name: body}))
    assert (done.returncode, message in done.stderr) == (3, True), done.stderr


def tarred(*names: str) -> bytes:
    return images.compress(images.tarball(dict.fromkeys(names, b"x")), "gz")


def at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(512)


FOREIGN = {
    "backup": (tarred("backup/index.yaml", "backup/container/x"), "backup of an instance", "incus import {file} NAME"),
    "metadata of LXC": (tarred("./config", "./templates"), "metadata of LXC", "tar -cJf lxd.tar.xz metadata.yaml"),
    "metadata of an older LXC": (tarred("create-message", "x"), "metadata of LXC", "creation_date: "),
    "docker save": (tarred("blobs/x", "manifest.json"), "image of Docker", "docker export CONTAINER"),
    "OCI": (tarred("oci-layout", "index.json"), "image of Docker or OCI", "xz >root.tar.xz"),
    "OVA": (tarred("web.ovf", "disk1.vmdk"), "an appliance (OVA)", "tar -xf {file}, then qemu-img convert"),
    "ISO": (at(32769, b"CD001"), "an ISO", "--from-incus NAME"),
    "raw disk": (at(510, b"\x55\xaa"), "a raw disk", "qemu-img convert -O qcow2 {file} disk.qcow2"),
    "VMDK": (b"KDMV" * 100, "a disk of another hypervisor", "qemu-img convert -O qcow2 {file}"),
    "VHDX": (b"vhdxfile" * 100, "a disk of another hypervisor", "qemu-img convert -O qcow2 {file}"),
    "VDI": (at(64, b"\x7f\x10\xda\xbe"), "a disk of another hypervisor", "qemu-img convert -O qcow2 {file}"),
}

QCOW2_IN = "gzip -dc <{file} >disk.qcow2, and upload disk.qcow2"
RAW_IN = "xz -dc <{file} >disk.raw && qemu-img convert -O qcow2 disk.raw disk.qcow2, and upload disk.qcow2"
FOREIGN |= {
    "packed qcow2 disk": (images.compress(QCOW2, "gz"), "a qcow2 disk in compressed form", QCOW2_IN),
    "packed raw disk": (images.compress(at(510, b"\x55\xaa"), "xz"), "a raw disk in compressed form", RAW_IN),
    "packed ISO": (images.compress(at(32769, b"CD001"), "gz"), "is an ISO", "--from-lxd NAME"),
    "packed squashfs": (images.compress(SQUASHFS, "gz"), "a squashfs in compressed form", "{file} >rootfs.squashfs"),
    "packed tarball, twice": (images.compress(XZ, "gz"), "compressed twice", "gzip -dc <{file} >image.tar.xz"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_of_another_kind_is_named_with_the_command_that_makes_an_image(tmp_path: Path, case: str) -> None:
    if case == "packed raw disk":
        need("xz")
    body, kind, command = FOREIGN[case]
    (file,) = write(tmp_path, {"meta.tar.xz": body})
    done = run("--to", "a/b/amd64/d", "--dry-run", file)
    assert (done.returncode, kind in done.stderr) == (3, True), done.stderr
    assert command.format(file=file) in done.stderr


@pytest.mark.parametrize(
    "name", ["my disk.gz", "it's 50% (new) $HOME.gz", "noble_20261123_10:00.gz", "größe.gz", "-x.gz"]
)
@pytest.mark.parametrize(
    ("body", "command", "made"),
    [
        (images.compress(QCOW2, "gz"), r"gzip -dc <.* >disk\.qcow2", "disk.qcow2"),
        (tarred("web.ovf", "disk1.vmdk"), r"tar -xf .*(?=, then)", "disk1.vmdk"),
    ],
    ids=["gzip", "tar"],
)
def test_a_printed_command_works_for_a_file_of_any_name(
    tmp_path: Path, name: str, body: bytes, command: str, made: str
) -> None:
    write(tmp_path, {name: body})
    done = subprocess.run(
        ("sh", SCRIPT, "--to", "a/b/amd64/d", "--dry-run", "--", name), cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    found = re.search(command, done.stderr)
    assert found, done.stderr
    subprocess.run(("sh", "-c", found[0]), cwd=tmp_path, check=True)
    assert (tmp_path / made).stat().st_size


def test_a_compressed_disk_with_metadata_is_not_taken_for_the_root_of_a_container(tmp_path: Path) -> None:
    """It would be listed, since the server does not unpack roots, but no client could use it."""
    disk = write(tmp_path, {"lxd.tar.xz": XZ, "disk.qcow2.gz": images.compress(QCOW2, "gz")})
    done = run("--to", "a/b/amd64/d", "--dry-run", *disk)
    assert (done.returncode, "is a qcow2 disk in compressed form" in done.stderr) == (3, True), done.stderr


def test_a_folder_without_an_image_is_described_or_its_subfolders_named_as_not_searched(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    write(tmp_path / "build", {"rootfs.squashfs": SQUASHFS})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert (done.returncode, "folders within a folder are not searched" in done.stderr) == (3, True), done.stderr
    write(tmp_path, {"oci-layout": b"{}", "index.json": b"{}"})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert (done.returncode, f"{tmp_path} is an image of Docker or OCI" in done.stderr) == (3, True), done.stderr


def test_a_disk_next_to_an_image_in_a_folder_is_skipped_and_named(tmp_path: Path) -> None:
    write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "disk.raw": at(510, b"\x55\xaa")})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["lxd.tar.xz", "rootfs.squashfs"]
    assert f"passed over: {tmp_path}/disk.raw is a raw disk" in done.stderr


def test_an_empty_file_in_a_folder_is_skipped_unless_it_has_the_name_of_an_image(tmp_path: Path) -> None:
    write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "build.lock": b""})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["lxd.tar.xz", "rootfs.squashfs"]
    assert done.stderr == f"passed over: {tmp_path}/build.lock is empty (0 bytes)\n"
    write(tmp_path, {"disk.qcow2": b""})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert (done.returncode, f"{tmp_path}/disk.qcow2 is empty (0 bytes)" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("case", [case for case in LEFT_BEHIND if "lzma" in case])
def test_the_tools_of_busybox_suffice_to_read_lzma(tmp_path: Path, case: str) -> None:
    need("busybox")
    busybox = str(shutil.which("busybox"))
    programs, files = tmp_path / "programs", tmp_path / "files"
    programs.mkdir()
    files.mkdir()
    for applet in subprocess.run((busybox, "--list"), capture_output=True, text=True, check=True).stdout.split():
        (programs / applet).symlink_to(busybox)
    given, names = LEFT_BEHIND[case]
    command: list[str | Path] = [programs / "sh", SCRIPT, "--dry-run", "--to", "a/b/amd64/d", *write(files, given)]
    done = subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    assert sorted(line.split("\t")[0] for line in done.stdout.splitlines()) == sorted(names), done.stderr


def test_a_whole_image_in_squashfs_form_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    need("mksquashfs", "unsquashfs")
    (tmp_path / "tree/rootfs/etc").mkdir(parents=True)
    (tmp_path / "tree/metadata.yaml").write_bytes(images.metadata_yaml())
    image = tmp_path / "export.squashfs"
    subprocess.run(("mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"), check=True, capture_output=True)
    done = run("--to", "a/b/amd64/d", "--dry-run", image)
    assert (done.returncode, f"sqfs2tar {image} | xz >image.tar.xz" in done.stderr) == (3, True), done.stderr


def test_a_squashfs_named_after_its_own_digest_is_a_whole_image(tmp_path: Path) -> None:
    """`image export` names it so: the fingerprint of a split image is not the digest of its root."""
    (image,) = write(tmp_path, {f"{hashlib.sha256(SQUASHFS).hexdigest()}.squashfs": SQUASHFS})
    done = run("--to", "a/b/amd64/d", "--api", "http://127.0.0.1:1", image)
    assert (done.returncode, "is a whole image in squashfs form" in done.stderr) == (3, True), done.stderr
