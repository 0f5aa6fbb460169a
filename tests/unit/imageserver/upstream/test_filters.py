"""Which files of another server are copied: by product, field, kind and size, and how many versions per product."""

from __future__ import annotations

import pytest

from imageserver.errors import InvalidFilter
from imageserver.format.keys import parse_key
from imageserver.upstream.filters import chosen, parse_filter

NOBLE, JAMMY = "images/ubuntu/noble/amd64/cloud", "images/ubuntu/jammy/arm64/default"
OLD, NEW = "20261101_1000", "20261102_1000"
SIZES = {
    f"{NOBLE}/{OLD}/lxd.tar.xz": 1_000,
    f"{NOBLE}/{OLD}/rootfs.squashfs": 300_000_000,
    f"{NOBLE}/{NEW}/lxd.tar.xz": 1_000,
    f"{NOBLE}/{NEW}/metadata.json": 50,
    f"{NOBLE}/{NEW}/SHA256SUMS": 200,
    f"{NOBLE}/{NEW}/rootfs.squashfs": 300_000_000,
    f"{NOBLE}/{NEW}/rootfs.{OLD}.vcdiff": 9_000_000,
    f"{NOBLE}/{NEW}/disk.qcow2": 600_000_000,
    f"{NOBLE}/{NEW}/disk.{OLD}.qcow2.vcdiff": 9_000_000,
    f"{JAMMY}/{OLD}/lxd_combined.tar.gz": 400_000_000,
}


def come(*filters: str, keep: int | None = None) -> set[str]:
    files = {parse_key(key): size for key, size in SIZES.items()}
    return {image.key for image in chosen(files, [parse_filter(one) for one in filters], keep)}


def of(*starts: str) -> set[str]:
    return {key for key in SIZES if key.startswith(starts)}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("all", of("images")),
        (" all ", of("images")),
        ("ubuntu", of("images")),
        ("*", of("images")),
        ("ubuntu:noble", of(NOBLE)),
        ("ubuntu:*:arm64", of(JAMMY)),
        ("ubuntu:noble|jammy:a*:cloud|default", of("images")),
        ("*:*:*:cloud", of(NOBLE)),
        ("debian", set()),
        ("Ubuntu", set()),
        ("os=ubuntu,arch=arm64|riscv64", of(JAMMY)),
        ("ubuntu:noble,version=202611*", of(NOBLE)),
        ("version=20261102*", of(f"{NOBLE}/{NEW}")),
        ("variant=[cd]?o*", of(NOBLE)),
        ("size<=400MB", of(NOBLE, JAMMY) - {f"{NOBLE}/{NEW}/disk.qcow2", f"{NOBLE}/{NEW}/disk.{OLD}.qcow2.vcdiff"}),
        ("size<=399999999", of(NOBLE) - {f"{NOBLE}/{NEW}/disk.qcow2", f"{NOBLE}/{NEW}/disk.{OLD}.qcow2.vcdiff"}),
        ("size<=1KB", set()),
    ],
)
def test_a_filter_chooses_the_versions_it_describes(only: str, expected: set[str]) -> None:
    assert come(only) == expected


def test_a_filter_by_kind_of_root_takes_that_root_with_its_metadata_and_no_other_root() -> None:
    assert come("ubuntu,ftype=disk*") == {
        f"{NOBLE}/{NEW}/{file}"
        for file in ("lxd.tar.xz", "metadata.json", "SHA256SUMS", "disk.qcow2", f"disk.{OLD}.qcow2.vcdiff")
    }


def test_a_version_needs_to_match_only_one_of_several_filters() -> None:
    assert come("ftype=lxd_combined*", "ftype=disk*") == come("ftype=disk*") | of(JAMMY)


def test_each_product_keeps_its_newest_versions_that_a_filter_takes() -> None:
    assert come("all", keep=1) == of(f"{NOBLE}/{NEW}", JAMMY)
    assert come(f"version={OLD}", keep=1) == of(f"{NOBLE}/{OLD}", JAMMY)
    assert come("all", keep=2) == of("images")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", "the filter is empty; write `all` for everything"),
        (" ", "the filter is empty"),
        (",", "''"),
        ("ubuntu,", "''"),
        ("ubuntu,noble", "'noble'"),
        ("ubuntu:noble:amd64:cloud:x", "'ubuntu:noble:amd64:cloud:x'"),
        ("ubuntu::amd64", "release is ''"),
        ("os=", "os is ''"),
        ("os=a|", "os is 'a|'"),
        ("os=ubuntu/noble", "os is 'ubuntu/noble'"),
        ("os=a,os=b", "os appears twice"),
        ("ubuntu,os=b", "os appears twice"),
        ("size=5GB", "'size=5GB'"),
        ("size<=5GB,size<=6GB", "'size<=6GB'"),
        ("size<=much", "'much'"),
        ("arch<=amd64", "'arch<=amd64'"),
        ("colour=red", "'colour=red'"),
        ("os=\u00e9", "os is 'é'"),
        ("os=\x1b", r"os is '\x1b'"),
        ("os=\u202e", r"os is '\u202e'"),
    ],
)
def test_a_filter_that_cannot_be_read_is_quoted(text: str, quoted: str) -> None:
    with pytest.raises(InvalidFilter) as refusal:
        parse_filter(text)
    assert quoted in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("7", 7), ("7B", 7), ("1KB", 1000), ("1KiB", 1024), ("2M", 2_000_000), ("3GiB", 3 * 2**30), ("1T", 10**12)],
)
def test_a_size_has_decimal_or_binary_units(text: str, size_bytes: int) -> None:
    assert parse_filter(f"size<={text}").most_bytes == size_bytes
