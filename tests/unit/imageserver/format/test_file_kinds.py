"""The table of files and ftypes."""

import pytest

from imageserver.format.file_kinds import Role, classify, conversion


@pytest.mark.parametrize(
    ("file", "role", "ftype"),
    [
        ("lxd.tar.xz", Role.METADATA, "lxd.tar.xz"),
        ("incus.tar.xz", Role.METADATA, "incus.tar.xz"),
        ("rootfs.squashfs", Role.ROOT, "squashfs"),
        ("root.squashfs", Role.ROOT, "squashfs"),
        ("noble-server-cloudimg-amd64.squashfs", Role.ROOT, "squashfs"),
        ("root.tar.xz", Role.ROOT, "root.tar.xz"),
        ("rootfs.tar.xz", Role.ROOT, "root.tar.xz"),
        ("rootfs.tar.zst", Role.ROOT, "root.tar.xz"),
        ("disk.qcow2", Role.ROOT, "disk-kvm.img"),
        ("disk-kvm.img", Role.ROOT, "disk-kvm.img"),
        ("any.qcow2", Role.ROOT, "disk-kvm.img"),
        ("disk1.img", Role.ROOT, "disk1.img"),
        ("uefi1.img", Role.ROOT, "uefi1.img"),
        ("lxd_combined.tar.gz", Role.UNIFIED, "lxd_combined.tar.gz"),
        ("incus_combined.tar.gz", Role.UNIFIED, "incus_combined.tar.gz"),
        ("0123abcd.tar.gz", Role.UNIFIED, "lxd_combined.tar.gz"),
        ("rootfs.20261122_10:00.vcdiff", Role.DELTA, "squashfs.vcdiff"),
        ("disk.20261122.qcow2.vcdiff", Role.DELTA, "disk-kvm.img.vcdiff"),
        ("rootfs.yesterday.vcdiff", Role.OTHER, ""),
        ("rootfs.20261399.vcdiff", Role.OTHER, ""),
        ("metadata.json", Role.OVERRIDES, ""),
        ("image.yaml", Role.OVERRIDES, ""),
        ("SHA256SUMS", Role.CHECKSUMS, ""),
        ("README", Role.OTHER, ""),
        ("disk2.img", Role.OTHER, ""),
        ("0123abcd.tar.lzma", Role.UNIFIED, "lxd_combined.tar.gz"),
        ("rootfs.tar.lzma", Role.ROOT, "root.tar.xz"),
        ("meta-0123abcd.squashfs", Role.OTHER, ""),
    ],
)
def test_each_file_name_has_its_role_and_ftype(file: str, role: Role, ftype: str) -> None:
    assert (classify(file).role, classify(file).ftype) == (role, ftype)


def test_a_delta_names_its_base() -> None:
    assert classify("rootfs.20261122_10:00.vcdiff").delta_base == "20261122_10:00"
    assert classify("disk.20261122.qcow2.vcdiff").delta_base == "20261122"
    assert classify("rootfs.20261122.3.vcdiff").delta_base == "20261122.3"
    assert classify("disk.20261122.12.qcow2.vcdiff").delta_base == "20261122.12"


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("meta-0123abcd.squashfs", "is metadata in squashfs form"),
        ("metadata.squashfs", "sqfs2tar metadata.squashfs | xz > lxd.tar.xz, and upload that"),
        ("lxd_combined.squashfs", "is a unified image in squashfs form"),
        ("disk.raw", "qemu-img convert -O qcow2 disk.raw disk.qcow2, and upload that"),
        ("noble.vmdk", "is a disk that clients do not take as it is"),
        ("image.tar.lz4", "is a tarball in a compression"),
        ("0123abcd.root", "is a root as image export names it; name it rootfs.tar.xz, and upload that"),
        ("rootfs.sqfs", "is a squashfs under a name that is not recognised; name it rootfs.squashfs"),
        ("disk.qcow", "is a disk whose name does not say its format; name it disk.qcow2 if it is one"),
        ("disk.qed", "qemu-img convert -O qcow2 disk.qed disk.qcow2, and upload that"),
        ("noble.iso", "is an ISO, which installs a machine; install it"),
        ("noble.ova", "is an appliance of another hypervisor; unpack it"),
        ("noble.zip", "is an archive that clients do not read; unpack it"),
        ("rootfs.7z", "is an archive that clients do not read"),
        ("rootfs.ext4", "is a bare file system; mount it"),
        ("ROOTFS.SQUASHFS", "is named in capitals, which are not recognised; name it rootfs.squashfs, and upload that"),
        ("rootfs.SquashFS", "name it rootfs.squashfs"),
        ("LXD.TAR.XZ", "name it lxd.tar.xz"),
        ("Disk.QCOW2", "name it disk.qcow2"),
        ("Metadata.json", "name it metadata.json"),
        ("IMAGE.yaml", "name it image.yaml"),
        ("Noble.squashfs", ""),
        ("Noble.tar.xz", ""),
        (
            "rootfs.yesterday.vcdiff",
            "is a delta whose name does not say its base; name it rootfs.<base version>.vcdiff",
        ),
        ("rootfs.squashfs.vcdiff", "is a delta whose name does not say its base"),
        ("disk.20261399.qcow2.vcdiff", "is a delta whose name does not say its base"),
        ("rootfs.20261122_1000.vcdiff", ""),
        ("README", ""),
        ("disk.qcow2.xz", "is a file of an image that is compressed once more; unpack disk.qcow2.xz, and upload that"),
        ("rootfs.squashfs.gz", "is a file of an image that is compressed once more"),
        ("rootfs.20261101.vcdiff.zst", "is a file of an image that is compressed once more"),
        ("rootfs.tar.zstd", "is a tarball whose ending is not recognised; name it .tar.zst"),
        ("rootfs.cpio.gz", "is an archive that clients do not read"),
        ("rootfs.20261101.xdelta", "is a delta under a name that is not recognised"),
        ("image.yml", "name it image.yaml, and upload that"),
        ("rootfs.squashfs.tmp", "if it is whole, name it rootfs.squashfs, and upload that"),
        ("rootfs.squashfs.1.part", "is named as a copy of rootfs.squashfs, or a part of it"),
        ("metadata.json~", "name it metadata.json"),
        ("disk.qcow2.bak", "name it disk.qcow2"),
        ("build.log.1", ""),
        (".rootfs.squashfs.tmp", ""),
        ("metadata.yaml", "is metadata that is not packed; tar -cJf lxd.tar.xz metadata.yaml, and upload that"),
        ("SHA512SUMS", "make a SHA256SUMS with sha256sum, and upload that"),
        ("sha256sums.txt", "is a list of digests under a name that is not recognised; name it SHA256SUMS"),
        ("SHA256SUMS", ""),
        ("disk-kvm.img", ""),
        ("uefi1.img", ""),
        ("rootfs.squashfs", ""),
    ],
)
def test_a_file_in_another_form_is_named_with_the_command_that_converts_it(file: str, hint: str) -> None:
    assert hint in conversion(file)
    assert bool(hint) == bool(conversion(file))


@pytest.mark.parametrize("name", ["$(reboot)", "a;reboot;", "-rf", "two words", "x\x1b[2J", "\u202ex", "`id`"])
@pytest.mark.parametrize("ending", [".raw", ".squashfs.gz", ".img"])
def test_a_name_that_a_shell_would_take_apart_stands_in_no_command(name: str, ending: str) -> None:
    """A publisher chooses the name, and an operator may copy the command."""
    assert name not in conversion(name + ending)
    assert "FILE" in conversion(name + ending)
    assert conversion(name + ".SQUASHFS") == ""
