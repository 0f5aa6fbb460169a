"""Whatever is listed works: files by their content, the forms of an image, complete roots, and names that mislead."""

from __future__ import annotations

import tarfile

import pytest

from tests.support import images
from tests.support.listed_cases import (
    APPLIES,
    COMPRESSIONS,
    DISK,
    MACHINE,
    META,
    NOBLE,
    OK,
    OTHER_VERSION,
    PATH,
    ROOT,
    SQUASHFS,
    UNIFIED,
    YAML,
    Row,
    assert_listed_or_explained,
    compressed,
    disk3,
    fewest,
    meta,
    packed,
    row,
    rows,
    split,
    with_links,
)

TABLE: dict[str, Row] = {
    # 1: the content of a tarball decides what it is, not its name
    **{
        f"1 metadata named {name}": row(
            {name: compressed(images.tarball({"metadata.yaml": YAML}), how), root: body}, root
        )
        for name, how in (
            ("meta-0123456789ab.tar.xz", "xz"),
            ("noble-server-cloudimg-amd64-lxd.tar.xz", "xz"),
            ("incus.tar.gz", "gz"),
            ("metadata.tar", "plain"),
            ("meta.tar.lzma", "lzma"),
            ("lxd.tar.bz2", "bz2"),
            ("incus.tzst", "zst"),
            ("lxd_combined.tar.gz", "gz"),
            ("lxd.tar.xz", "lzma"),
        )
        for root, body in (("noble.squashfs", SQUASHFS), ("rootfs.tar.xz", ROOT), ("disk.qcow2", DISK))
    },
    "1 metadata alone": row(
        {"image.tar.gz": packed({"metadata.yaml": YAML}, "gz")}, reason="upload its root beside it"
    ),
    "1 metadata in a folder": row(
        {"image.tar.gz": packed({"image/metadata.yaml": YAML, "image/rootfs/x": b""}, "gz")},
        reason="holds no metadata.yaml at its top level",
    ),
    "1 an empty rootfs": row(
        {"image.tar.xz": with_links(("rootfs", tarfile.DIRTYPE, ""))}, reason="is a metadata tarball"
    ),
    "1 rootfs is a link": row(
        {"image.tar.xz": with_links(("rootfs", tarfile.SYMTYPE, "other"))}, reason="is not a folder"
    ),
    "1 a hard link in rootfs": row(
        {"image.tar.xz": with_links(("rootfs/etc/a", tarfile.LNKTYPE, "metadata.yaml"))}, "image.tar.xz"
    ),
    "1 a root of another name": row(
        {"lxd.tar.xz": META, "noble-root.tar.xz": ROOT}, reason="upload it as rootfs.tar.xz, however it is compressed"
    ),
    "1 of two metadata.yaml the last counts": row(
        {
            "lxd.tar.xz": images.compress(
                images.tarball({"metadata.yaml": b"architecture: aarch64"})[:-9216]
                + images.tarball({"metadata.yaml": YAML}),
                "xz",
            ),
            "rootfs.squashfs": SQUASHFS,
        },
        "rootfs.squashfs",
    ),
    # 2: a virtual machine in one tarball
    **{
        f"2 a machine in {how}": row(
            {f"vm.tar.{how}": packed(MACHINE, how)}, f"vm.tar.{how}", reason="only Incus 7.1 and newer"
        )
        for how in COMPRESSIONS[1:]
    },
    "2 a machine under ./": row({"vm.tar": packed({f"./{n}": b for n, b in MACHINE.items()}, "plain")}, "vm.tar"),
    "2 a machine for LXD alone": row(
        {"vm.tar": packed(MACHINE, "plain")}, reason="this server serves only LXD", clients=("lxd",)
    ),
    "2 a machine whose disk needs another file": row(
        {
            "vm.tar.gz": packed(
                MACHINE | {"rootfs.img": images.qcow2_header(backing=300, backing_bytes=9) + bytes(4096)}, "gz"
            )
        },
        reason="holds a rootfs.img that needs a backing file",
    ),
    "2 a machine with a raw disk": row(
        {"vm.tar.gz": packed(MACHINE | {"rootfs.img": bytes(4096)}, "gz")},
        reason="holds a rootfs.img that is not a qcow2",
    ),
    "2 an older machine hides no container": rows(
        {PATH: {"vm.tar.gz": packed(MACHINE, "gz")}, OTHER_VERSION: split()},
        f"{OTHER_VERSION}/rootfs.squashfs",
        reason="would launch as a container",
    ),
    # 7: metadata.yaml as the daemons read it
    **{
        f"7 refused: {text}": row(split() | {"lxd.tar.xz": meta(OK + text, **{"b.tpl": b""})}, reason=reason)
        for text, reason in (
            ("properties: {release: [noble]}", "has a list at `properties.release`"),
            ("properties: {a: {b: c}}", "has a mapping at `properties.a`"),
            ("properties: noble", "expected a mapping of texts"),
            ("templates: []", "has a list at `templates`"),
            ("templates: {/a: {when: create}}", "expected a list"),
            ("templates: {/a: {when: [create], template: a.tpl}}", "expected a file templates/a.tpl"),
            ("templates: {/a: {when: [start], template: b.tpl, mode: rw}}", "gives a template the mode"),
            ("expiry_date: never", "has the text 'never' at `expiry_date`"),
            ("creation_date: 2026-11-23", "has the date '2026-11-23' at `creation_date`"),
            ("properties: {architecture: aarch64}", "expected one machine"),
        )
    },
    **{
        f"7 taken: {text[:40]}": row(
            split() | {"lxd.tar.xz": meta(OK + text, **{"a.tpl": b"x"})}, "rootfs.squashfs", reason=reason
        )
        for text, reason in (
            ("", ""),
            ("---\nnotes: none", "more follows"),
            ("x: &a {b: c}\nproperties: {<<: *a}", ""),
            ("properties:\n  text: |\n" + "    x\n" * 50_000, ""),
            ("creation_date: 0x10", ""),
            ("templates: {/a: {when: [create], template: a.tpl, mode: '0644'}}", ""),
            ("properties: {serial: 20261123, on: yes, empty: ~}", ""),
        )
    },
    **{
        f"7 a whole image, its template {where}": row(
            {"u.tar.xz": packed({"metadata.yaml": APPLIES, "rootfs/etc/x": b"x", **more})}, *listed, reason=reason
        )
        for where, more, listed, reason in (
            ("behind the root", {"templates/a.tpl": b"x"}, ("u.tar.xz",), ""),
            ("nowhere", {"templates/b.tpl": b"x"}, (), "expected a file templates/a.tpl"),
        )
    },
    "7 zeros behind gzip": row(
        {"lxd.tar.xz": packed({"metadata.yaml": YAML}, "gz") + bytes(700), "rootfs.squashfs": SQUASHFS},
        "rootfs.squashfs",
    ),
    # Both daemons were tried: tar ends with an error, and so does each launch.
    **{
        f"8 {what} behind {how} of {file}": row(
            {"lxd.tar.xz": META, "rootfs.tar.xz": ROOT} | {file: compressed(images.tarball(members), how) + behind},
            *listed,
            reason=reason,
        )
        for file, members in (("lxd.tar.xz", {"metadata.yaml": YAML}), ("rootfs.tar.xz", {"bin/x": b"x"}))
        for what, how, behind, listed, reason in (
            ("a signature", "gz", b"signature", (), "has bytes after its gzip data"),
            ("a line end", "gz", b"\n", (), "has bytes after its gzip data"),
            ("zeros and a line end", "gz", bytes(70_000) + b"\n", (), "has bytes after its gzip data"),
            ("a signature", "bz2", b"signature" * 200, ("rootfs.tar.xz",), ""),
            ("zeros", "lzma", bytes(4), (), "has bytes after its lzma data"),
            ("zeros", "xz", bytes(8), ("rootfs.tar.xz",), ""),
            ("three zeros", "xz", bytes(3), (), "expected a multiple of four"),
            ("zeros", "zst", bytes(4), (), "is damaged zstd data"),
        )
    },
    # 8: roots are complete and need no other file
    **{
        f"8 a tar in {how} cut short": row(
            {"lxd.tar.xz": META, "rootfs.tar.xz": packed({"bin/x": images.filler("x", 60_000)}, how)[:-20_000]},
            reason="is cut short",
        )
        for how in COMPRESSIONS
    },
    **{
        f"8 a root {what}": row({"lxd.tar.xz": META, "rootfs.tar.xz": packed(members)}, *listed, reason=reason)
        for what, members, listed, reason in (
            ("below rootfs/", {"rootfs/bin/sh": b"x", "./rootfs/etc/x": b"x"}, (), "all of it lies below rootfs/"),
            ("without a file", {}, (), "it holds no file"),
            ("with a folder rootfs/", {"rootfs/x": b"x", "bin/sh": b"x"}, ("rootfs.tar.xz",), ""),
        )
    },
    **{
        f"8 a tar in {how}": row({"lxd.tar.xz": META, "rootfs.tar.xz": packed({"bin/x": b"x"}, how)}, "rootfs.tar.xz")
        for how in COMPRESSIONS
    },
    **{
        f"8 a disk {what}": row({"lxd.tar.xz": META, name: body}, reason=reason)
        for what, name, body, reason in (
            ("cut short", "disk.qcow2", DISK[:1600], "is cut short"),
            ("of version 1", "disk.qcow2", images.qcow2_header(version=1) + bytes(4096), "is qcow2 version 1"),
            ("with a backing file", "disk1.img", disk3(backing=500, backing_bytes=11), "needs a backing file"),
            ("with a data file", "uefi1.img", disk3(incompatible=4), "keeps its data in another file"),
            ("that is encrypted", "disk-kvm.img", disk3(encryption=2), "is encrypted"),
            ("of no size", "disk.qcow2", disk3(virtual=0), "is a disk of 0 bytes"),
            ("of an unknown feature", "disk.qcow2", disk3(incompatible=1 << 20), "needs the qcow2 features"),
            ("that is raw", "disk.qcow2", bytes(4096), "is not a qcow2 disk"),
            ("that is a VMDK", "disk.qcow2", b"KDMV".ljust(4096), "is not a qcow2 disk"),
        )
    },
    **{
        f"8 a disk {what}": row({"lxd.tar.xz": META, "disk.qcow2": body}, "disk.qcow2")
        for what, body in (
            ("that is dirty", disk3(incompatible=1)),
            ("in zstd", disk3(incompatible=8, compression=1, header_bytes=112)),
            ("with a snapshot", images.qcow2_header(snapshots=1, snapshots_at=512) + bytes(8192)),
        )
    },
    "8 a squashfs cut short": row(split() | {"rootfs.squashfs": SQUASHFS[:-100]}, reason="is cut short"),
    "8 a squashfs in no known compression": row(
        split() | {"rootfs.squashfs": images.superblock(4096, compression=9).ljust(4096)},
        reason="its compression is number 9",
    ),
    **{
        f"8 metadata with {what}": row({"lxd.tar.xz": body, "rootfs.squashfs": SQUASHFS}, reason=reason)
        for what, body, reason in (
            ("a device", with_links(("dev/null", tarfile.CHRTYPE, "")), "is a device or a pipe"),
            (
                "a path outside",
                packed({"metadata.yaml": YAML, "../x": b""}),
                "names inside the tarball's own folder",
            ),
            ("a link outside", with_links(("templates/x", tarfile.SYMTYPE, "../../etc/shadow")), "leads out of"),
            ("a hard link outside", with_links(("templates/x", tarfile.LNKTYPE, "/etc/shadow")), "leads out of"),
        )
    },
    # 13: hints
    "13 a date far ahead": rows({f"{NOBLE}/20991231_0000": split("1")}, reason="is dated ahead of its upload"),
    "13 a date two days ahead, beside a real one": rows(
        {f"{NOBLE}/20261125_1100": split("1"), PATH: split("2")},
        f"{PATH}/rootfs.squashfs",
        reason="is dated ahead of its upload",
    ),
    "13 a delta whose base is dated ahead": rows(
        {
            f"{NOBLE}/20991231_0000": split("1"),
            PATH: split("2") | {"rootfs.20991231_0000.vcdiff": images.vcdiff("d", 300, 700)},
        },
        f"{PATH}/rootfs.squashfs",
        reason="is dated ahead of its upload",
    ),
    "13 secure_boot": row(
        split(metadata_json=b'{"requirements": {"secure_boot": "false"}}'),
        "rootfs.squashfs",
        reason="expected `requirements.secureboot`",
    ),
    "13 the release current": row(
        split(),
        "rootfs.squashfs",
        path="ubuntu/current/amd64/default/20261123_1000",
        aliases={"ubuntu": "ubuntu/current/amd64/default"},
    ),
    **{
        f"13 {name}": row({name: b"hsqs"}, reason=reason)
        for name, reason in (
            ("meta-0123.squashfs", "is metadata in squashfs form"),
            ("lxd_combined.squashfs", "is a unified image in squashfs form"),
            ("noble.squashfs", "is a whole image (compression_algorithm=squashfs)"),
            ("image.tar.lz4", "is a tarball in a compression"),
            ("disk.vmdk", "qemu-img convert"),
            ("noble-server-cloudimg-amd64.img", "name it disk.qcow2 if it is one"),
        )
    },
    **{
        f"13 a squashfs with {what} named as a root": row(
            {"lxd.tar.xz": META, "rootfs.squashfs": images.squashfs_of(*names)},
            *(["rootfs.squashfs"] if not reason else []),
            reason=reason,
        )
        for what, names, reason in (
            ("a whole image", ("metadata.yaml", "rootfs", "templates"), "is a whole image in squashfs form"),
            ("a whole machine", ("metadata.yaml", "rootfs.img"), "is a whole image in squashfs form"),
            ("metadata", ("metadata.yaml",), "is metadata in squashfs form"),
            ("all below rootfs/", ("rootfs",), "all of it lies below rootfs/"),
            ("nothing", (), "it holds no file"),
            ("a file system and a metadata.yaml", ("bin", "etc", "metadata.yaml", "rootfs"), ""),
        )
    },
    "13 an export in lzma": row({"image.tar.lzma": packed(UNIFIED, "lzma")}, "image.tar.lzma"),
}


def test_each_kind_of_fault_has_at_least_three_cases() -> None:
    assert fewest(TABLE, 1, 2, 7, 8, 13) >= 3


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_a_listed_version_works_and_an_unlisted_one_has_a_reason(case: Row) -> None:
    assert_listed_or_explained(case)
