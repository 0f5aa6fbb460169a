"""The table of files and ftypes."""

import pytest

from imageserver.format.file_kinds import Role, classify


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
    ],
)
def test_each_file_name_has_its_role_and_ftype(file: str, role: Role, ftype: str) -> None:
    assert (classify(file).role, classify(file).ftype) == (role, ftype)


def test_a_delta_names_its_base() -> None:
    assert classify("rootfs.20261122_10:00.vcdiff").delta_base == "20261122_10:00"
    assert classify("disk.20261122.qcow2.vcdiff").delta_base == "20261122"
