"""Whatever is listed works: files of a version that describe the others, by digest or by name."""

from __future__ import annotations

import pytest

from tests.support import images
from tests.support.listed_cases import (
    GOOD_SUMS,
    NOBLE,
    OTHER_VERSION,
    PATH,
    SIGNATURE,
    SQUASHFS,
    WRONG,
    Row,
    assert_listed_or_explained,
    fewest,
    row,
    rows,
    split,
    sums,
)

TABLE: dict[str, Row] = {
    # 5: image.yaml in every form
    **{
        f"5 {text}": row(
            split() | {"image.yaml": f"simplestream: {text}".encode()},
            "rootfs.squashfs",
            reason=reason,
            aliases={alias: NOBLE} if alias else {},
        )
        for text, alias, reason in (
            ("{release_aliases: {noble: 24.04}}", "ubuntu/24.04", ""),
            ("{release_aliases: {noble: 20.10}}", "ubuntu/20.10", ""),
            ("{release_aliases: {noble: 0o17}}", "ubuntu/0o17", ""),
            ("{release_aliases: {noble: 0x1F}}", "ubuntu/0x1F", ""),
            ("{release_aliases: {noble: 1_000}}", "ubuntu/1_000", ""),
            ("{release_aliases: {noble: 2026-04-01}}", "ubuntu/2026-04-01", ""),
            ("{release_aliases: {noble: on}}", "ubuntu/on", ""),
            ("\r\n  release_aliases:\r\n    noble: 24.10\r\n", "ubuntu/24.10", ""),
            ("\n\trelease_aliases: {noble: 24.04}", "", "it is not YAML"),
            ("{release_aliases: {noble: 1e3}}", "ubuntu/1e3", ""),
            ("{release_aliases: &a {noble: 24.04}}", "ubuntu/24.04", ""),
            ("{release_aliases: {<<: {noble: 24.04}}}", "ubuntu/24.04", ""),
            ("{release_aliases: {noble: !!str 24.04}}", "ubuntu/24.04", ""),
            (
                "{release_aliases: {noble: 24.04}}\n---\nother: 5",
                "ubuntu/24.04",
                "more follows its first document",
            ),
            ("{release_aliases: {noble: [24.04]}}", "", "a list at `simplestream.release_aliases.noble`"),
            ("{release_alias: {noble: 24.04}}", "", "expected `release_aliases`"),
        )
    },
    # 6: SHA256SUMS never fails open
    "6 CRLF and capitals": row(
        sums(
            GOOD_SUMS.upper()
            .replace("LXD.TAR.XZ", "lxd.tar.xz")
            .replace("ROOTFS.SQUASHFS", "rootfs.squashfs")
            .replace("\n", "\r\n")
        ),
        "rootfs.squashfs",
    ),
    "6 tagged lines that end in NUL": row(
        sums(f"SHA256 (rootfs.squashfs) = {images.sha256_hex(SQUASHFS)}\0"), "rootfs.squashfs"
    ),
    **{
        f"6 a wrong digest, {what}": row(sums(line.format(WRONG)), reason=f"expected {WRONG} as SHA256SUMS says")
        for what, line in (
            ("a folder", "{}  out/rootfs.squashfs"),
            ("binary", "{} *rootfs.squashfs"),
            ("escaped", "\\{}  a\\\\b/rootfs.squashfs"),
            ("a folder of Windows", "{}  out\\rootfs.squashfs"),
            ("tagged", "SHA256 (./rootfs.squashfs) = {}"),
            ("openssl", "SHA2-256(rootfs.squashfs)= {}"),
            ("a byte order mark", "\ufeff{}  rootfs.squashfs"),
            (
                "signed",
                f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{{}}  rootfs.squashfs\n{SIGNATURE}",
            ),
        )
    },
    **{
        f"6 a line that cannot be read, {what}": row(
            sums(GOOD_SUMS.splitlines()[0] + "\n" + line), reason="is not confirmed by SHA256SUMS"
        )
        for what, line in (
            ("base64", "SHA256 (rootfs.squashfs) = RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="),
            ("no digest", "TODO  rootfs.squashfs"),
            ("the other way round", f"rootfs.squashfs: {images.sha256_hex(SQUASHFS)}"),
            ("cut short", f"{WRONG[:60]}  rootfs.squashfs"),
            ("quotes", f'{WRONG}  "rootfs.squashfs"'),
            ("a size between", f"{WRONG}  4096  rootfs.squashfs"),
            ("a comment behind", f"{WRONG}  rootfs.squashfs  # the root"),
            ("JSON", f'{{"rootfs.squashfs": "{WRONG}"}}'),
            ("certutil", f"SHA256 hash of rootfs.squashfs:\n{WRONG}\nCertUtil: completed."),
            ("PowerShell", f"SHA256          {WRONG}       C:\\out\\rootfs.squashfs"),
            ("two digests", f"{images.sha256_hex(SQUASHFS)}  rootfs.squashfs\n{WRONG}  ./rootfs.squashfs"),
            ("two folders", f"{images.sha256_hex(SQUASHFS)}  out/rootfs.squashfs\n{WRONG}  vm/rootfs.squashfs"),
        )
    },
    "6 a line with a folder beside one without": row(
        sums(f"{GOOD_SUMS}\n{WRONG}  vm/rootfs.squashfs\n"), "rootfs.squashfs"
    ),
    "6 it covers another name": row(sums(f"{WRONG}  noble.squashfs"), reason="covers no file of"),
    "6 a root that it leaves out": row(
        sums(GOOD_SUMS.splitlines()[0]), "rootfs.squashfs", reason="is not in SHA256SUMS"
    ),
    **{
        f"6 a list named {name}": row(split() | {name: b"x"}, "rootfs.squashfs", reason="name it SHA256SUMS")
        for name in ("SHA256SUMS.txt", "sha256sums", "rootfs.squashfs.sha256")
    },
    # 12: overrides that the next version does not repeat
    **{
        f"12 {what}": rows(
            {OTHER_VERSION: split("1") | before, PATH: split("2") | after},
            f"{OTHER_VERSION}/rootfs.squashfs",
            f"{PATH}/rootfs.squashfs",
            reason=reason,
        )
        for what, before, after, reason in (
            (
                "no metadata.json",
                {"metadata.json": b'{"aliases": ["lts"], "version": "24.04"}'},
                {},
                "the alias lts and the field version that",
            ),
            (
                "no image.yaml",
                {"image.yaml": b"simplestream: {distro_name: Ubuntu}"},
                {},
                "comes without image.yaml, so the field os that",
            ),
            ("another metadata.json", {"metadata.json": b'{"aliases": ["lts"]}'}, {"metadata.json": b"{}"}, ""),
            (
                "aliases of null",
                {"metadata.json": b'{"aliases": ["lts"]}'},
                {"metadata.json": b'{"aliases": null}'},
                "aliases is null, expected a list",
            ),
            (
                "a metadata.json that is none",
                {"metadata.json": b'{"aliases": ["lts"]}'},
                {"metadata.json": b"noise"},
                "it is not JSON",
            ),
        )
    },
}


def test_each_kind_of_fault_has_at_least_three_cases() -> None:
    assert fewest(TABLE, 5, 6, 12) >= 3


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_a_listed_version_works_and_an_unlisted_one_has_a_reason(case: Row) -> None:
    assert_listed_or_explained(case)
