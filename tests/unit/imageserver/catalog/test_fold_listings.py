"""Whatever is listed works: several cases of each kind of fault that was found with real clients.

Each row is uploaded, ingested and published as usual, and the served documents are read by
`listing_faults`. `listed` names the files in the catalog, metadata apart; `says` is in a sentence to the publisher.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from imageserver.format.keys import parse_version
from imageserver.operations.withdraw import withdraw
from imageserver.versions import records
from tests.support import images
from tests.support.client_rules import SERVED
from tests.support.listing_faults import faults
from tests.support.memory_store import System

NOBLE = "ubuntu/noble/amd64/default"
PATH = f"{NOBLE}/20261123_1000"
META = images.metadata_tarball()
SQUASHFS, ROOT, DISK = images.squashfs(), images.root_tarball(), images.qcow2()
COMPRESSIONS = ("plain", "gz", "xz", "zst", "bz2", "lzma")
METADATA_FTYPES = ("lxd.tar.xz", "incus.tar.xz")
SIGNATURE = "-----BEGIN PGP SIGNATURE-----\n"
WRONG = "0" * 63 + "1"


@dataclass(frozen=True)
class Row:
    """`versions`: path below the stream -> its files."""

    versions: Mapping[str, Mapping[str, bytes]]
    listed: frozenset[str]
    says: str = ""
    clients: tuple[str, ...] = ("incus", "lxd")
    aliases: Mapping[str, str] = field(default_factory=dict)


def row(files: Mapping[str, bytes], *listed: str, says: str = "", path: str = PATH, **more: Any) -> Row:
    return Row({path: files}, frozenset(f"{path}/{file}" for file in listed), says, **more)


def rows(versions: Mapping[str, Mapping[str, bytes]], *listed: str, says: str = "", **more: Any) -> Row:
    return Row(versions, frozenset(listed), says, **more)


def packed(members: Mapping[str, bytes], how: str = "xz") -> bytes:
    return compressed(images.tarball(members), how)


def compressed(body: bytes, how: str) -> bytes:
    if how == "bz2":
        return bz2.compress(body)
    return lzma.compress(body, format=lzma.FORMAT_ALONE) if how == "lzma" else images.compress(body, how)


def with_links(*members: tuple[str, bytes, str]) -> bytes:
    """A metadata tarball with members of other types: name, type, target."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        yaml = tarfile.TarInfo("metadata.yaml")
        yaml.size = len(YAML)
        tar.addfile(yaml, io.BytesIO(YAML))
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return images.compress(out.getvalue(), "xz")


def split(seed: str = "", root: str = "rootfs.squashfs", **more: bytes) -> dict[str, bytes]:
    return images.split_image("amd64", seed, root) | {name.replace("_", "."): body for name, body in more.items()}


def meta(yaml: str, **members: bytes) -> bytes:
    return packed({"metadata.yaml": yaml.encode(), **{f"templates/{name}": body for name, body in members.items()}})


def sums(text: str) -> dict[str, bytes]:
    return {"lxd.tar.xz": META, "rootfs.squashfs": SQUASHFS, "SHA256SUMS": text.encode()}


def disk3(**header: int) -> bytes:
    return images.qcow2_header(version=3, **header) + bytes(8192)


YAML = images.metadata_yaml()
OK = "architecture: x86_64\n"
APPLIES = YAML + b"\ntemplates: {/a: {when: [create], template: a.tpl}}\n"
MACHINE = {"metadata.yaml": YAML, "rootfs.img": DISK}
UNIFIED = {"metadata.yaml": YAML, "rootfs/etc/x": b"x"}
GOOD_SUMS = f"{images.sha256_hex(META)}  lxd.tar.xz\n{images.sha256_hex(SQUASHFS)}  rootfs.squashfs\n"
OTHER_VERSION = f"{NOBLE}/20261122_1000"
DELTA = f"rootfs.{OTHER_VERSION[-13:]}.vcdiff"
DISK_DELTA = f"disk.{OTHER_VERSION[-13:]}.qcow2.vcdiff"

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
    "1 metadata alone": row({"image.tar.gz": packed({"metadata.yaml": YAML}, "gz")}, says="upload its root beside it"),
    "1 metadata in a folder": row(
        {"image.tar.gz": packed({"image/metadata.yaml": YAML, "image/rootfs/x": b""}, "gz")},
        says="holds no metadata.yaml at its top level",
    ),
    "1 an empty rootfs": row(
        {"image.tar.xz": with_links(("rootfs", tarfile.DIRTYPE, ""))}, says="is a metadata tarball"
    ),
    "1 rootfs is a link": row(
        {"image.tar.xz": with_links(("rootfs", tarfile.SYMTYPE, "other"))}, says="is not a folder"
    ),
    "1 a hard link in rootfs": row(
        {"image.tar.xz": with_links(("rootfs/etc/a", tarfile.LNKTYPE, "metadata.yaml"))}, "image.tar.xz"
    ),
    "1 a root of another name": row(
        {"lxd.tar.xz": META, "noble-root.tar.xz": ROOT}, says="upload it as rootfs.tar.xz, however it is compressed"
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
            {f"vm.tar.{how}": packed(MACHINE, how)}, f"vm.tar.{how}", says="only Incus 7.1 and newer"
        )
        for how in COMPRESSIONS[1:]
    },
    "2 a machine under ./": row({"vm.tar": packed({f"./{n}": b for n, b in MACHINE.items()}, "plain")}, "vm.tar"),
    "2 a machine for LXD alone": row(
        {"vm.tar": packed(MACHINE, "plain")}, says="this server serves only LXD", clients=("lxd",)
    ),
    "2 a machine whose disk needs another file": row(
        {
            "vm.tar.gz": packed(
                MACHINE | {"rootfs.img": images.qcow2_header(backing=300, backing_bytes=9) + bytes(4096)}, "gz"
            )
        },
        says="holds a rootfs.img that needs a backing file",
    ),
    "2 a machine with a raw disk": row(
        {"vm.tar.gz": packed(MACHINE | {"rootfs.img": bytes(4096)}, "gz")},
        says="holds a rootfs.img that is not a qcow2",
    ),
    "2 an older machine hides no container": rows(
        {PATH: {"vm.tar.gz": packed(MACHINE, "gz")}, OTHER_VERSION: split()},
        f"{OTHER_VERSION}/rootfs.squashfs",
        says="would launch as a container",
    ),
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
        says="is a second delta beside",
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
        says="is a second delta beside",
    ),
    "3 a delta whose base is the same image": rows(
        {OTHER_VERSION: split("1"), PATH: split("1") | {DELTA: images.vcdiff("a")}},
        f"{PATH}/rootfs.squashfs",
        says="which is not listed",
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
        says="Incus would patch that one",
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
        says="Incus would patch that one",
    ),
    **{
        f"3 a delta {what}": rows(
            {OTHER_VERSION: split("1"), PATH: split("2") | {DELTA: body}},
            f"{OTHER_VERSION}/rootfs.squashfs",
            f"{PATH}/rootfs.squashfs",
            says=says,
        )
        for what, body, says in (
            ("cut short", images.vcdiff()[:-1], "is cut short"),
            ("that makes nothing", images.vcdiff()[:5], "is cut short"),
            ("of another file", images.vcdiff(made_bytes=4097), "it was made for another file"),
            ("as large as its root", images.vcdiff(size_bytes=4096), "not fewer than the squashfs beside it"),
            ("of a longer base", images.vcdiff(base_bytes=4097), "reads 4,097 bytes of a base"),
            ("of another version of the format", b"\xd6\xc3\xc4S\0" + bytes(9), "is a delta of version 83"),
        )
    },
    "3 a delta of a base that is gone": row(
        split() | {DELTA: images.vcdiff()}, "rootfs.squashfs", says="which is not listed"
    ),
    "3 a delta of a tar": rows(
        {OTHER_VERSION: split("1", "rootfs.tar.xz"), PATH: split("2", "rootfs.tar.xz") | {DELTA: images.vcdiff()}},
        f"{OTHER_VERSION}/rootfs.tar.xz",
        f"{PATH}/rootfs.tar.xz",
        says="has no squashfs beside it",
    ),
    # 4: one image of a type in a version
    **{
        f"4 a {kind} beside {root}": row(
            split(root=root) | {"u.tar.gz": packed(body, "gz")},
            *([root, "u.tar.gz"] if both else [root]),
            says="" if both else "u.tar.gz is not listed beside",
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
        {"a.tar.gz": packed(UNIFIED, "gz"), "b.tar.xz": packed(UNIFIED)}, "a.tar.gz", says="is a second unified tarball"
    ),
    "4 squashfs, tar and disk": row(
        split() | {"rootfs.tar.xz": ROOT, "disk.qcow2": DISK}, "rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2"
    ),
    # 5: image.yaml in every form
    **{
        f"5 {text}": row(
            split() | {"image.yaml": f"simplestream: {text}".encode()},
            "rootfs.squashfs",
            says=says,
            aliases={alias: NOBLE} if alias else {},
        )
        for text, alias, says in (
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
        f"6 a wrong digest, {what}": row(sums(line.format(WRONG)), says=f"expected {WRONG} as SHA256SUMS says")
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
            sums(GOOD_SUMS.splitlines()[0] + "\n" + line), says="is not confirmed by SHA256SUMS"
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
            ("two digests", f"{images.sha256_hex(SQUASHFS)}  rootfs.squashfs\n{WRONG}  out/rootfs.squashfs"),
        )
    },
    "6 it covers another name": row(sums(f"{WRONG}  noble.squashfs"), says="covers no file of"),
    "6 a root that it leaves out": row(sums(GOOD_SUMS.splitlines()[0]), "rootfs.squashfs", says="is not in SHA256SUMS"),
    **{
        f"6 a list named {name}": row(split() | {name: b"x"}, "rootfs.squashfs", says="name it SHA256SUMS")
        for name in ("SHA256SUMS.txt", "sha256sums", "rootfs.squashfs.sha256")
    },
    # 7: metadata.yaml as the daemons read it
    **{
        f"7 refused: {text}": row(split() | {"lxd.tar.xz": meta(OK + text, **{"b.tpl": b""})}, says=says)
        for text, says in (
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
            split() | {"lxd.tar.xz": meta(OK + text, **{"a.tpl": b"x"})}, "rootfs.squashfs", says=says
        )
        for text, says in (
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
            {"u.tar.xz": packed({"metadata.yaml": APPLIES, "rootfs/etc/x": b"x", **more})}, *listed, says=says
        )
        for where, more, listed, says in (
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
            says=says,
        )
        for file, members in (("lxd.tar.xz", {"metadata.yaml": YAML}), ("rootfs.tar.xz", {"bin/x": b"x"}))
        for what, how, behind, listed, says in (
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
            says="is cut short",
        )
        for how in COMPRESSIONS
    },
    **{
        f"8 a root {what}": row({"lxd.tar.xz": META, "rootfs.tar.xz": packed(members)}, *listed, says=says)
        for what, members, listed, says in (
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
        f"8 a disk {what}": row({"lxd.tar.xz": META, name: body}, says=says)
        for what, name, body, says in (
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
    "8 a squashfs cut short": row(split() | {"rootfs.squashfs": SQUASHFS[:-100]}, says="is cut short"),
    "8 a squashfs in no known compression": row(
        split() | {"rootfs.squashfs": images.superblock(4096, compression=9).ljust(4096)},
        says="its compression is number 9",
    ),
    **{
        f"8 metadata with {what}": row({"lxd.tar.xz": body, "rootfs.squashfs": SQUASHFS}, says=says)
        for what, body, says in (
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
    # 9: architectures
    **{
        f"9 {arch}": row(
            images.split_image(arch), "rootfs.squashfs", path=f"ubuntu/noble/{arch}/default/20261123_1000", says=says
        )
        for arch, says in (
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
        says="clients order versions as texts",
    ),
    "10 a respin beside a time of day": rows(
        {f"{NOBLE}/20240101.1": split("1"), f"{NOBLE}/20240102_0930": split("2"), f"{NOBLE}/20240103_0930": split("3")},
        f"{NOBLE}/20240102_0930/rootfs.squashfs",
        f"{NOBLE}/20240103_0930/rootfs.squashfs",
        says="expected YYYYMMDD_HHMM as most versions",
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
        says="is the same image as one that b:r:amd64:default lists",
    ),
    "11 the disk of another product": rows(
        {
            "b/r/amd64/v/20261123_1000": split("x", "disk.qcow2"),
            "a/r/amd64/v/20261123_1000": split("x", "disk.qcow2") | {"rootfs.squashfs": SQUASHFS},
        },
        "b/r/amd64/v/20261123_1000/disk.qcow2",
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        says="is the same image as one that b:r:amd64:v lists",
    ),
    "11 an alias of another product's path": rows(
        {
            "a/r/amd64/v/20261123_1000": split("1", metadata_json=b'{"aliases": ["b/r"]}'),
            "b/r/amd64/default/20261123_1000": split("2"),
        },
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        "b/r/amd64/default/20261123_1000/rootfs.squashfs",
        says="the alias b/r is taken by b:r:amd64:default",
        aliases={"b/r": "b/r/amd64/default"},
    ),
    "11 an alias that clients add to another product's": rows(
        {
            "a/r/amd64/v/20261123_1000": split("1", metadata_json=b'{"aliases": ["b/r/amd64"]}'),
            "b/r/amd64/default/20261123_1000": split("2"),
        },
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        "b/r/amd64/default/20261123_1000/rootfs.squashfs",
        says="the alias b/r/amd64 is taken by b:r:amd64:default",
    ),
    "11 an alias that two ask for": rows(
        {f"{name}/r/amd64/v/20261123_1000": split(name, metadata_json=b'{"aliases": "x, y"}') for name in "ab"},
        "a/r/amd64/v/20261123_1000/rootfs.squashfs",
        "b/r/amd64/v/20261123_1000/rootfs.squashfs",
        says="the alias y is taken by a:r:amd64:v",
        aliases={"x": "a/r/amd64/v"},
    ),
    # 12: overrides that the next version does not repeat
    **{
        f"12 {what}": rows(
            {OTHER_VERSION: split("1") | before, PATH: split("2") | after},
            f"{OTHER_VERSION}/rootfs.squashfs",
            f"{PATH}/rootfs.squashfs",
            says=says,
        )
        for what, before, after, says in (
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
    # 13: hints
    "13 a date far ahead": rows({f"{NOBLE}/20991231_0000": split("1")}, says="is dated ahead of its upload"),
    "13 a date two days ahead, beside a real one": rows(
        {f"{NOBLE}/20261125_1100": split("1"), PATH: split("2")},
        f"{PATH}/rootfs.squashfs",
        says="is dated ahead of its upload",
    ),
    "13 a delta whose base is dated ahead": rows(
        {
            f"{NOBLE}/20991231_0000": split("1"),
            PATH: split("2") | {"rootfs.20991231_0000.vcdiff": images.vcdiff("d", 300, 700)},
        },
        f"{PATH}/rootfs.squashfs",
        says="is dated ahead of its upload",
    ),
    "13 secure_boot": row(
        split(metadata_json=b'{"requirements": {"secure_boot": "false"}}'),
        "rootfs.squashfs",
        says="expected `requirements.secureboot`",
    ),
    "13 the release current": row(
        split(),
        "rootfs.squashfs",
        path="ubuntu/current/amd64/default/20261123_1000",
        aliases={"ubuntu": "ubuntu/current/amd64/default"},
    ),
    **{
        f"13 {name}": row({name: b"hsqs"}, says=says)
        for name, says in (
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
            *(["rootfs.squashfs"] if not says else []),
            says=says,
        )
        for what, names, says in (
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
    kinds = Counter(name.split()[0] for name in TABLE)
    assert set(kinds) == {str(number) for number in range(1, 14)}
    assert min(kinds.values()) >= 3


def sentences(system: System, document: Any) -> str:
    """Return every sentence for a publisher: the reasons in the records, and those of withheld entries."""
    keys = [key for key in system.store.objects if key.startswith("versions/")]
    told = [reason.sentence for key in keys for reason in records.decode(system.store.objects[key].body, key).reasons]
    return "\n".join(told + [entry["reason"] for entries in document["withheld"].values() for entry in entries])


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_a_listed_version_works_and_an_unlisted_one_has_a_reason(case: Row) -> None:
    system = System(clients=case.clients)
    for path, files in case.versions.items():
        system.upload(f"images/{path}", dict(files))
        system.ingest(f"images/{path}")
    system.publish(*system.products())
    served = system.streams()
    document = {"products": {}, "withheld": {}} | json.loads(served.get("streams/v1/images.json", b"{}"))
    products = document["products"]
    items = [item for p in products.values() for v in p["versions"].values() for item in v["items"].values()]
    found = [item["path"].removeprefix("images/") for item in items if item["ftype"] not in METADATA_FTYPES]
    assert set(found) == case.listed
    assert case.says in sentences(system, document)
    for alias, product in case.aliases.items():
        assert alias in products[product.replace("/", ":")]["aliases"].split(",")
    if served:
        clients = [client for client in SERVED if client.split("-")[0] in case.clients]
        objects = system.store.objects
        assert faults(served, lambda key: objects[key].body if key in objects else None, clients) == []


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
