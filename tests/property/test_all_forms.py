"""Versions of all forms at once, sound and bad, through ingest and publish: whatever clients get is usable.

The reader (`listing_faults`) knows nothing of the code under test. It reads each catalog as the generations of LXD and
Incus do, and then the files that it names.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Iterable
from datetime import timedelta
from functools import cache

from hypothesis import event, given, settings
from hypothesis import strategies as st

from imageserver.api import status
from imageserver.api.schema import VersionStatus
from imageserver.format.documents import raw_versions
from imageserver.format.keys import parse_target
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import restore, withdraw
from imageserver.storage.document_cache import DocumentCache
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.client_rules import SERVED
from tests.support.listing_faults import faults
from tests.support.memory_store import Sent, System

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PRODUCTS = (
    "a/r/amd64/default", "a/r/amd64/amd64", "a/r/x86_64/default", "a/r/amd64v3/default", "a/r/x86_64_v2/default",
    "a/current/amd64/default", "a/r/arm64/cloud",
)  # fmt: skip
VERSIONS = ("20261120", "20261120.2", "20261120.10", "20261121", "20261122_1000", "202611231000", "20261124_10:00")
DELTAS = ("rootfs.{}.vcdiff", "disk.{}.qcow2.vcdiff")
Step = tuple[str, str, tuple[str, ...], int]
RULES = Rules(Rule(versions=3, days=0), grace_hours=24, stale_days=7)


def vcdiff(made_bytes: int, base_bytes: int = 700) -> bytes:
    return images.vcdiff(str(made_bytes), 300, made_bytes, base_bytes)


@cache
def bodies(arch: str) -> dict[str, tuple[bytes, ...]]:
    """Return file name -> possible uploads under it: first sound ones, then bad ones."""
    yaml = images.metadata_yaml(arch)
    other = "arm64" if arch != "arm64" else "amd64"
    root, tar = images.squashfs("a", 700), images.tarball({"bin/x": b"x", "etc/y": b"y"})
    metadata = images.metadata_tarball(arch, "plain", serial="1")
    unified = images.tarball({"metadata.yaml": yaml, "rootfs/etc/x": b"x"})
    checksum: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    packed = zstd.compress(tar + images.filler("x", 2000), options=checksum)
    damaged = packed[:-900] + bytes([packed[-900] ^ 1]) + packed[-899:]
    machine = images.tarball({"rootfs.img": images.qcow2("m", 2400), "metadata.yaml": yaml})
    template = b"\ntemplates: {/a: {when: [create], template: a.tpl}}\n"
    whole = {"metadata.yaml": yaml + template, "rootfs/etc/x": b"x"}
    bad_metadata = (
        images.metadata_tarball(other, "plain"), b"noise", unified, metadata[:600],
        images.tarball({"metadata.yaml": yaml + template}),
        images.tarball({"metadata.yaml": yaml + b"\nproperties: []"}),
    )  # fmt: skip
    return {
        "lxd.tar.xz": (metadata, images.metadata_tarball(arch, "xz", serial="2"), *bad_metadata),
        "incus.tar.xz": (metadata, images.metadata_tarball(arch, "zst", serial="3"), *bad_metadata),
        "meta-1.tar.lzma": (lzma.compress(metadata, format=lzma.FORMAT_ALONE), *bad_metadata),
        "rootfs.squashfs": (
            root, images.squashfs("b", 900), root[:-50], b"<html>", images.squashfs_of("etc", "metadata.yaml"),
            images.squashfs_of("metadata.yaml", "rootfs"), images.squashfs_of("metadata.yaml", "rootfs", pack=None),
        ),
        "other.squashfs": (images.squashfs("c", 700),),
        "rootfs.tar.xz": (images.compress(tar, "xz"), bz2.compress(tar), images.compress(tar, "gz")[:-9], metadata),
        "root.tar.lzma": (lzma.compress(tar, format=lzma.FORMAT_ALONE), tar[:700]),
        "rootfs.tar.zst": (images.compress(tar, "zst"), damaged, damaged[:-7]),
        "disk.qcow2": (
            images.qcow2("a", 2400), images.qcow2("b", 2400), images.qcow2("a", 2400)[:1500],
            images.qcow2_header(backing=300, backing_bytes=5) + bytes(4096),
        ),
        "disk1.img": (images.qcow2("c", 2400), bytes(600)),
        "uefi1.img": (images.qcow2("d", 2400),),
        "u.tar.gz": (images.compress(unified, "gz"), machine, images.compress(machine, "xz")[:-70], metadata,
                     images.tarball(whole), images.tarball({**whole, "templates/a.tpl": b"x"})),
        "lxd_combined.tar.gz": (images.compress(machine, "zst"), unified, metadata, tar),
        "metadata.json": (
            b'{"aliases": ["a/r", "x", "x/amd64", "a/r/amd64"], "os": "Z", "variant": "default"}',
            b'{"aliases": "a, b, x", "requirements": {"secureboot": false}, "support_eol": "2030-01-01"}',
            b'{"aliases": 5, "os": ""}', b"noise", b"{}",
        ),
        "image.yaml": (b"simplestream: {distro_name: Q, release_aliases: {r: '24.04,x'}}", b"simplestream: [", b"a: b"),
        "SHA256SUMS": (
            f"{images.sha256_hex(root)} *out/rootfs.squashfs\n".encode(),
            f"SHA256 (disk.qcow2) = {images.sha256_hex(root)}\n".encode(), b"noise", b"",
        ),
        "notes.txt": (b"hello",),
        **{DELTAS[0].format(base): (vcdiff(700), vcdiff(900), vcdiff(700, 2000), b"?") for base in VERSIONS},
        **{DELTAS[1].format(base): (vcdiff(2400), vcdiff(2401), vcdiff(2400)[:-1]) for base in VERSIONS},
    }  # fmt: skip


WHOLE = (
    ("lxd.tar.xz", "rootfs.squashfs"), ("incus.tar.xz", "rootfs.tar.xz"), ("meta-1.tar.lzma", "disk.qcow2"),
    ("lxd.tar.xz", "rootfs.squashfs", "disk.qcow2", "disk1.img"), ("u.tar.gz",), ("lxd_combined.tar.gz",),
    ("lxd.tar.xz", "incus.tar.xz", "root.tar.lzma", "uefi1.img"),
)  # fmt: skip
"""Files that form a version together."""
FILES = st.sampled_from(sorted(bodies("amd64")))
ROOTS = st.sampled_from(["rootfs.squashfs", "disk.qcow2"])
CHOICES = st.integers(0, 7)


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Draw steps in a few versions of a few products, so that they interact."""
    products = draw(st.lists(st.sampled_from(PRODUCTS), min_size=1, max_size=3, unique=True))
    versions = draw(st.lists(st.sampled_from(VERSIONS), min_size=1, max_size=3, unique=True))
    paths = st.builds("images/{}/{}".format, st.sampled_from(products), st.sampled_from(versions))
    deltas = st.sampled_from([name.format(base) for base in versions for name in DELTAS])
    doing = st.sampled_from(["remove", "withdraw", "restore", "ingest", "publish", "prune"])
    step = st.one_of(
        st.tuples(st.just("upload"), paths, st.sampled_from(WHOLE), st.integers(0, 1)),
        st.tuples(st.just("upload"), paths, st.sampled_from(WHOLE), st.just(0)),
        st.tuples(st.just("upload"), paths, st.tuples(st.just("lxd.tar.xz"), ROOTS, deltas), st.integers(0, 1)),
        st.tuples(st.just("upload"), paths, st.lists(FILES, min_size=1, max_size=3).map(tuple), CHOICES),
        st.tuples(doing, paths, st.tuples(FILES), CHOICES),
    )
    return draw(st.lists(step, min_size=1, max_size=20))


def act(system: System, step: Step) -> None:
    doing, path, files, choice = step
    target = parse_target(path if choice % 2 else f"{path}/{files[0]}")
    match doing:
        case "upload":
            arch = path.split("/")[3]
            choices = {file: bodies(arch)[file] for file in files}
            system.upload(path, {file: known[choice % len(known)] for file, known in choices.items()})
        case "remove":
            for key in [key for key in system.store.objects if key.startswith(f"{path}/")][: choice + 1]:
                system.store.remove(key)
        case "withdraw":
            withdraw(system.store, target, system.store.clock, 24, lambda _: None)
        case "restore":
            restore(system.store, target, lambda _: None)
        case "ingest":
            system.ingest(path)
        case "publish":
            system.publish(*system.products())
        case "prune":
            system.store.clock += timedelta(days=2)
            prune(system.store, Sent(), RULES, system.store.clock, lambda _: None, Run())


def found_in(system: System) -> list[str]:
    """Return every fault of the served documents, for each of the server's clients."""
    served = system.streams()
    if "streams/v1/index.json" not in served:
        return []
    documents = {key: body for key, body in served.items() if not key.endswith((".unlisted.json", ".atom"))}
    clients = [client for client in SERVED if client.split("-")[0] in system.clients]
    objects = system.store.objects
    return faults(documents, lambda key: objects[key].body if key in objects else None, clients)


def statuses(system: System) -> list[VersionStatus]:
    """Return the API's status of every version."""
    cache = DocumentCache(system.store)
    return [found for version in system.versions() if (found := status.look(system.store, cache, version))]


def ftypes(system: System) -> Iterable[str]:
    for name, product in system.products_document().products.items():
        yield f"listed: {name}"
        yield from (f"listed: {ftype}" for ftype in raw_versions([product]).decode().split('"ftype":"')[1:])


@settings(max_examples=150, deadline=None)
@given(histories(), st.sampled_from([("incus", "lxd"), ("incus",), ("lxd",)]))
def test_every_client_can_use_every_listed_image(steps: list[Step], clients: tuple[str, ...]) -> None:
    system = System(clients=clients)
    for step in steps:
        act(system, step)
    system.catch_up()
    for ftype in {found.partition('"')[0] for found in ftypes(system)}:
        event(ftype)
    assert found_in(system) == []
    assert [found for found in statuses(system) if not status.is_terminal(found) and found.status != "incomplete"] == []


@settings(max_examples=60, deadline=None)
@given(histories())
def test_the_order_of_arrival_does_not_change_what_is_served(steps: list[Step]) -> None:
    """The first uploader keeps an image, so both servers get the same files at the same times."""
    systems = [System(), System()]
    for system in systems:
        for step in steps:
            if step[0] in ("upload", "remove"):
                act(system, step)
    for version in systems[0].versions():
        systems[0].ingest(version.path)
        systems[0].publish(version.product)
    for version in reversed(systems[1].versions()):
        systems[1].ingest(version.path)
    systems[1].publish(*systems[1].products())
    assert systems[0].streams() == systems[1].streams()
