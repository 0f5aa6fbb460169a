"""Versions with one of the faults that were found with real clients, and the check of what a server makes of them.

Each row is uploaded, ingested and published as usual, and the served documents are read by
`listing_faults`. `listed` names the files in the catalog, metadata apart; `reason` is in a sentence to the publisher.
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
    reason: str = ""
    clients: tuple[str, ...] = ("incus", "lxd")
    aliases: Mapping[str, str] = field(default_factory=dict)


def row(files: Mapping[str, bytes], *listed: str, reason: str = "", path: str = PATH, **more: Any) -> Row:
    return Row({path: files}, frozenset(f"{path}/{file}" for file in listed), reason, **more)


def rows(versions: Mapping[str, Mapping[str, bytes]], *listed: str, reason: str = "", **more: Any) -> Row:
    return Row(versions, frozenset(listed), reason, **more)


def packed(members: Mapping[str, bytes], how: str = "xz") -> bytes:
    return compressed(images.tarball(members), how)


def compressed(body: bytes, how: str) -> bytes:
    if how == "bz2":
        return bz2.compress(body)
    return lzma.compress(body, format=lzma.FORMAT_ALONE) if how == "lzma" else images.compress(body, how)


def with_links(*members: tuple[str, bytes, str]) -> bytes:
    """Return a metadata tarball with members of other types: name, type, target."""
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


def fewest(table: Mapping[str, Row], *kinds: int) -> int:
    """Return how many cases the rarest kind of fault has. The table has these kinds, by the first word of a name."""
    found = Counter(name.split()[0] for name in table)
    assert set(found) == set(map(str, kinds))
    return min(found.values())


def sentences(system: System, document: Any) -> str:
    """Return every sentence for a publisher: the reasons in the records, and those of withheld entries."""
    keys = [key for key in system.store.objects if key.startswith("versions/")]
    told = [reason.sentence for key in keys for reason in records.decode(system.store.objects[key].body, key).reasons]
    return "\n".join(told + [entry["reason"] for entries in document["withheld"].values() for entry in entries])


def assert_listed_or_explained(case: Row) -> None:
    """Publish the versions of a case: what is listed works, and what is not has a reason."""
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
    assert case.reason in sentences(system, document)
    for alias, product in case.aliases.items():
        assert alias in products[product.replace("/", ":")]["aliases"].split(",")
    if served:
        clients = [client for client in SERVED if client.split("-")[0] in case.clients]
        objects = system.store.objects
        assert faults(served, lambda key: objects[key].body if key in objects else None, clients) == []
