"""Whatever is listed works: deltas, images, aliases and versions that meet others of their kind."""

from __future__ import annotations

import pytest

from imageserver.format.keys import parse_version
from imageserver.operations.withdraw import withdraw
from tests.support import images
from tests.support.listed_cases import (
    DELTA,
    DISK,
    DISK_DELTA,
    MACHINE,
    NOBLE,
    OTHER_VERSION,
    PATH,
    ROOT,
    SQUASHFS,
    UNIFIED,
    Row,
    assert_listed_or_explained,
    fewest,
    meta,
    packed,
    row,
    rows,
    split,
)
from tests.support.memory_store import System

TABLE: dict[str, Row] = {
    # 3: deltas
    "3 two deltas of one root": rows(
        {
            f"{NOBLE}/20261121_1000": split("1"),
            OTHER_VERSION: split("2"),
            PATH: split("3") | {"rootfs.20261121_1000.vcdiff": images.vcdiff("a"), DELTA: images.vcdiff("b")},
        },
        f"{NOBLE}/20261121_1000/rootfs.squashfs",
        f"{OTHER_VERSION}/rootfs.squashfs",
        f"{PATH}/rootfs.squashfs",
        f"{PATH}/{DELTA}",
        reason="is a second delta beside",
    ),
    "3 three deltas of one root": rows(
        {
            f"{NOBLE}/20261120_1000": split("0"),
            f"{NOBLE}/20261121_1000": split("1"),
            OTHER_VERSION: split("2"),
            PATH: split("3")
            | {f"rootfs.{base}.vcdiff": images.vcdiff(base) for base in ("20261120_1000", "20261121_1000")}
            | {DELTA: images.vcdiff("b")},
        },
        f"{NOBLE}/20261120_1000/rootfs.squashfs",
        f"{NOBLE}/20261121_1000/rootfs.squashfs",
        f"{OTHER_VERSION}/rootfs.squashfs",
        f"{PATH}/rootfs.squashfs",
        f"{PATH}/{DELTA}",
        reason="is a second delta beside",
    ),
    "3 a delta whose base is the same image": rows(
        {OTHER_VERSION: split("1"), PATH: split("1") | {DELTA: images.vcdiff("a")}},
        f"{PATH}/rootfs.squashfs",
        reason="which is not listed",
    ),
    "3 a chain of deltas": rows(
        {
            f"{NOBLE}/20261121_1000": split("1"),
            OTHER_VERSION: split("2") | {"rootfs.20261121_1000.vcdiff": images.vcdiff("a")},
            PATH: split("3") | {DELTA: images.vcdiff("b")},
        },
        f"{NOBLE}/20261121_1000/rootfs.squashfs",
        f"{OTHER_VERSION}/rootfs.squashfs",
        f"{PATH}/rootfs.squashfs",
        f"{OTHER_VERSION}/rootfs.20261121_1000.vcdiff",
        f"{PATH}/{DELTA}",
    ),
    "3 a delta of a disk whose base lists a squashfs": rows(
        {
            OTHER_VERSION: split("1") | {"disk.qcow2": DISK},
            PATH: split("2", "disk.qcow2") | {DISK_DELTA: images.vcdiff("b")},
        },
        f"{OTHER_VERSION}/rootfs.squashfs",
        f"{OTHER_VERSION}/disk.qcow2",
        f"{PATH}/disk.qcow2",
        reason="Incus would patch that one",
    ),
    "3 a delta of a disk alone": rows(
        {OTHER_VERSION: split("1", "disk.qcow2"), PATH: split("2", "disk.qcow2") | {DISK_DELTA: images.vcdiff("b")}},
        f"{OTHER_VERSION}/disk.qcow2",
        f"{PATH}/disk.qcow2",
        f"{PATH}/{DISK_DELTA}",
    ),
    "3 deltas of both roots": rows(
        {
            OTHER_VERSION: split("1") | {"disk.qcow2": images.qcow2("1")},
            PATH: split("2")
            | {"disk.qcow2": images.qcow2("2"), DELTA: images.vcdiff("a"), DISK_DELTA: images.vcdiff("b")},
        },
        f"{OTHER_VERSION}/rootfs.squashfs",
        f"{OTHER_VERSION}/disk.qcow2",
        f"{PATH}/rootfs.squashfs",
        f"{PATH}/disk.qcow2",
        f"{PATH}/{DELTA}",
        reason="Incus would patch that one",
    ),
    **{
        f"3 a delta {what}": rows(
            {OTHER_VERSION: split("1"), PATH: split("2") | {DELTA: body}},
            f"{OTHER_VERSION}/rootfs.squashfs",
            f"{PATH}/rootfs.squashfs",
            reason=reason,
        )
        for what, body, reason in (
            ("cut short", images.vcdiff()[:-1], "is cut short"),
            ("that makes nothing", images.vcdiff()[:5], "is cut short"),
            ("of another file", images.vcdiff(made_bytes=4097), "it was made for another file"),
            ("as large as its root", images.vcdiff(size_bytes=4096), "not fewer than the squashfs beside it"),
            ("of a longer base", images.vcdiff(base_bytes=4097), "reads 4,097 bytes of a base"),
            ("of another version of the format", b"\xd6\xc3\xc4S\0" + bytes(9), "is a delta of version 83"),
        )
    },
    "3 a delta of a base that is gone": row(
        split() | {DELTA: images.vcdiff()}, "rootfs.squashfs", reason="which is not listed"
    ),
    "3 a delta of a tar": rows(
        {OTHER_VERSION: split("1", "rootfs.tar.xz"), PATH: split("2", "rootfs.tar.xz") | {DELTA: images.vcdiff()}},
        f"{OTHER_VERSION}/rootfs.tar.xz",
        f"{PATH}/rootfs.tar.xz",
        reason="has no squashfs beside it",
    ),
    # 4: one image of a type in a version
    **{
        f"4 a {kind} beside {root}": row(
            split(root=root) | {"u.tar.gz": packed(body, "gz")},
            *([root, "u.tar.gz"] if both else [root]),
            reason="" if both else "u.tar.gz is not listed beside",
        )
        for kind, body, root, both in (
            ("unified container", UNIFIED, "rootfs.squashfs", False),
            ("unified container", UNIFIED, "rootfs.tar.xz", False),
            ("unified container", UNIFIED, "disk.qcow2", True),
            ("unified machine", MACHINE, "disk.qcow2", False),
            ("unified machine", MACHINE, "rootfs.squashfs", False),
            ("unified machine", MACHINE, "rootfs.tar.xz", False),
        )
    },
    "4 two unified tarballs": row(
        {"a.tar.gz": packed(UNIFIED, "gz"), "b.tar.xz": packed(UNIFIED)},
        "a.tar.gz",
        reason="is a second unified tarball",
    ),
    "4 squashfs, tar and disk": row(
        split() | {"rootfs.tar.xz": ROOT, "disk.qcow2": DISK}, "rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2"
    ),
    # 9: architectures
    **{
        f"9 {arch}": row(
            images.split_image(arch),
            "rootfs.squashfs",
            path=f"ubuntu/noble/{arch}/default/20261123_1000",
            reason=reason,
        )
        for arch, reason in (
            ("amd64v3", "every Incus, and LXD before 5.21.5"),
            ("x86_64_v1", "every LXD"),
            ("x86_64_v4", "every LXD"),
            ("loong64", "LXD before 5.0.3"),
            ("generic_64", ""),
            ("armhfp", ""),
            ("arm64_generic", ""),
            ("powerpc64", ""),
            ("386", ""),
        )
    },
    "9 metadata of a higher level": row(
        {"lxd.tar.xz": meta("architecture: x86_64_v3"), "rootfs.squashfs": SQUASHFS}, "rootfs.squashfs"
    ),
    # 10: respins
    "10 respins": rows(
        {f"{NOBLE}/{version}": split(version) for version in ("20240101", "20240101.1", "20240101.10")},
        *(f"{NOBLE}/{version}/rootfs.squashfs" for version in ("20240101", "20240101.1", "20240101.10")),
        reason="clients order versions as texts",
    ),
    "10 a respin beside a time of day": rows(
        {f"{NOBLE}/20240101.1": split("1"), f"{NOBLE}/20240102_0930": split("2"), f"{NOBLE}/20240103_0930": split("3")},
        f"{NOBLE}/20240102_0930/rootfs.squashfs",
        f"{NOBLE}/20240103_0930/rootfs.squashfs",
        reason="expected YYYYMMDD_HHMM as most versions",
    ),
    "10 a delta of a respin": rows(
        {
            f"{NOBLE}/20240101.1": split("1"),
            f"{NOBLE}/20240101.2": split("2") | {"rootfs.20240101.1.vcdiff": images.vcdiff()},
        },
        f"{NOBLE}/20240101.1/rootfs.squashfs",
        f"{NOBLE}/20240101.2/rootfs.squashfs",
        f"{NOBLE}/20240101.2/rootfs.20240101.1.vcdiff",
    ),
    # 11: an image or alias of another product
    "11 the image of another product": rows(
        {"b/r/amd64/default/20261123_1000": split("x"), "a/r/amd64/default/20261123_1000": split("x")},
        "b/r/amd64/default/20261123_1000/rootfs.squashfs",
        reason="is the same image as one that b:r:amd64:default lists",
    ),
    "11 the disk of another product": rows(
        {
            "b/r/amd64/v/20261123_1000": split("x", "disk.qcow2"),
            "a/r/amd64/v/20261123_1000": split("x", "disk.qcow2") | {"rootfs.squashfs": SQUASHFS},
        },
        "b/r/amd64/v/20261123_1000/disk.qcow2",
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        reason="is the same image as one that b:r:amd64:v lists",
    ),
    "11 an alias of another product's path": rows(
        {
            "a/r/amd64/v/20261123_1000": split("1", metadata_json=b'{"aliases": ["b/r"]}'),
            "b/r/amd64/default/20261123_1000": split("2"),
        },
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        "b/r/amd64/default/20261123_1000/rootfs.squashfs",
        reason="the alias b/r is taken by b:r:amd64:default",
        aliases={"b/r": "b/r/amd64/default"},
    ),
    "11 an alias that clients add to another product's": rows(
        {
            "a/r/amd64/v/20261123_1000": split("1", metadata_json=b'{"aliases": ["b/r/amd64"]}'),
            "b/r/amd64/default/20261123_1000": split("2"),
        },
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        "b/r/amd64/default/20261123_1000/rootfs.squashfs",
        reason="the alias b/r/amd64 is taken by b:r:amd64:default",
    ),
    "11 an alias that two ask for": rows(
        {f"{name}/r/amd64/v/20261123_1000": split(name, metadata_json=b'{"aliases": "x, y"}') for name in "ab"},
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        "b/r/amd64/v/20261123_1000/rootfs.squashfs",
        reason="the alias y is taken by a:r:amd64:v",
        aliases={"x": "a/r/amd64/v"},
    ),
}


def test_each_kind_of_fault_has_at_least_three_cases() -> None:
    assert fewest(TABLE, 3, 4, 9, 10, 11) >= 3


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_a_listed_version_works_and_an_unlisted_one_has_a_reason(case: Row) -> None:
    assert_listed_or_explained(case)


def test_newer_versions_that_hide_older_ones_give_a_reason_delete_nothing_and_can_be_withdrawn() -> None:
    system = System()
    older = [f"images/{NOBLE}/2026110{day}_1000" for day in (1, 2)]
    for path in older:
        system.upload(path, images.split_image(seed=path))
    system.catch_up()
    before = system.streams()
    newer = [f"images/{NOBLE}/2026111{day}" for day in (1, 2, 3)]
    for path in newer:
        system.upload(path, images.split_image(seed=path))
    system.catch_up()
    assert system.listed() == {NOBLE.replace("/", ":"): ["20261111", "20261112", "20261113"]}
    withheld = system.products_document().withheld[NOBLE.replace("/", ":")]
    assert {(entry.version, "expected YYYYMMDD as most versions" in entry.reason) for entry in withheld} == {
        ("20261101_1000", True),
        ("20261102_1000", True),
    }
    assert all(f"{path}/rootfs.squashfs" in system.store.objects for path in older)
    for path in newer:
        withdraw(system.store, parse_version(path), system.store.clock, 24, lambda _: None)
    system.publish(*system.products())
    after = system.streams()
    assert after["streams/v1/images.json"] == before["streams/v1/images.json"]
