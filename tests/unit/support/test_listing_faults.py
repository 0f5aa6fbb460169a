"""The reader of whole listings finds each kind of fault for the clients that have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import images
from tests.support.client_rules import INDEX_PATH, SERVED
from tests.support.listing_faults import faults
from tests.support.memory_store import System

PATH = "streams/v1/images.json"
NAME = "a:r:amd64:default"
OLD, NEW = "20261122_1000", "20261123_1000"
LXD = [client for client in SERVED if client.startswith("lxd")]
INCUS = [client for client in SERVED if client.startswith("incus")]
Products = dict[str, Any]


def listing() -> System:
    """Return two versions with a container and a disk each, and with deltas."""
    system = System()
    for version in (OLD, NEW):
        files = images.split_image(seed=version) | {"disk.qcow2": images.qcow2(version)}
        delta = {f"rootfs.{OLD}.vcdiff": images.vcdiff(version)} if version == NEW else {}
        system.upload(f"images/a/r/amd64/default/{version}", files | delta)
    system.catch_up()
    return system


def found(change: Callable[[Products], object], bodies: dict[str, bytes] | None = None) -> dict[str, str]:
    """Return client -> faults found after a change of the products and of some files."""
    system = listing()
    served = {key: body for key, body in system.streams().items() if not key.endswith("unlisted.json")}
    document = json.loads(served[PATH])
    change(document["products"])
    served[PATH] = json.dumps(document).encode()
    objects = {key: stored.body for key, stored in system.store.objects.items()} | (bodies or {})
    by_client: dict[str, str] = {}
    for sentence in faults(served, objects.get):
        client, _, fault = sentence.partition(": ")
        by_client[client] = by_client.get(client, "") + fault + "\n"
    return by_client


def items(products: Products, version: str = NEW) -> Any:
    return products[NAME]["versions"][version]["items"]


def changed(file: str, **fields: Any) -> Callable[[Products], object]:
    return lambda products: items(products)[file].update(fields)


def copied(name: str, **fields: Any) -> Callable[[Products], object]:
    """Add a product like the first one, with its own version and other fields."""

    def change(products: Products) -> None:
        other = json.loads(json.dumps(products[NAME])) | fields
        products[name] = other

    return change


def second_delta(products: Products) -> None:
    items(products)["other.vcdiff"] = items(products)[f"rootfs.{OLD}.vcdiff"] | {"delta_base": "20261121_1000"}
    products[NAME]["versions"]["20261121_1000"] = json.loads(json.dumps(products[NAME]["versions"][OLD]))
    older = products[NAME]["versions"]["20261121_1000"]["items"]
    for client in ("lxd", "incus"):
        older[f"{client}.tar.xz"]["combined_squashfs_sha256"] = "9" * 64


def disk_delta(products: Products) -> None:
    items(products)["d.vcdiff"] = items(products)[f"rootfs.{OLD}.vcdiff"] | {"ftype": "disk-kvm.img.vcdiff"}


def test_a_listing_of_this_server_has_no_faults() -> None:
    assert found(lambda _: None) == {}


FILE = f"images/a/r/amd64/default/{NEW}/rootfs.squashfs"
CASES: dict[str, tuple[Callable[[Products], object], dict[str, bytes], str, list[str]]] = {
    "a wrong type": (changed("lxd.tar.xz", size="5"), {}, "cannot read the catalog", list(SERVED)),
    "no combined digest": (changed("lxd.tar.xz", combined_squashfs_sha256=""), {}, "is in no image", LXD),
    "a wrong combined digest": (
        changed("incus.tar.xz", combined_squashfs_sha256="8" * 64), {}, "the fingerprint is not that of its", INCUS,
    ),
    "one image twice": (copied("b:r:amd64:default", aliases="b"), {}, "is listed 2 times", list(SERVED)),
    "one alias twice": (copied("0:r:amd64:default", os="0"), {}, f"leads to 0:r:amd64:default/{NEW}", list(SERVED)),
    "a date that is none": (
        lambda products: products[NAME]["versions"].update({"20261331": products[NAME]["versions"].pop(NEW)}),
        {}, "is in no image", list(SERVED),
    ),
    "a version without a root": (
        lambda products: [items(products).pop(name) for name in ("rootfs.squashfs", "disk.qcow2")],
        {}, "has no root", list(SERVED),
    ),
    "two deltas": (second_delta, {}, "has 2 deltas", ["lxd-5.0.2", "lxd-6.7", *INCUS]),
    "a delta of a disk beside a squashfs": (disk_delta, {}, "would be applied to a squashfs", INCUS),
    "a path for no URL": (changed("rootfs.squashfs", path="images/a b"), {}, "cannot stand in a URL", list(SERVED)),
    "a file that is gone": (changed("rootfs.squashfs", path="images/x"), {}, "images/x is not there", list(SERVED)),
    "a file that changed": (lambda _: None, {FILE: b"x"}, "another size or sha256", list(SERVED)),
    "a root that is none": (lambda _: None, {FILE: b"x"}, "the root is no whole squashfs", list(SERVED)),
    "a root that is an image": (
        lambda _: None, {FILE: images.squashfs_of("metadata.yaml", "rootfs")},
        "is an image in squashfs form", list(SERVED),
    ),
    "metadata of another machine": (
        lambda products: products[NAME].update(arch="arm64"), {}, "would start x86_64 as aarch64", list(SERVED),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "bodies", "sentence", "clients"), CASES.values(), ids=CASES.keys())
def test_each_kind_of_fault_is_found_for_the_clients_that_have_it(
    change: Callable[[Products], object], bodies: dict[str, bytes], sentence: str, clients: list[str]
) -> None:
    by_client = found(change, bodies)
    assert {client for client, sentences in by_client.items() if sentence in sentences} == set(clients), by_client


def unified(files: dict[str, bytes], **fields: str) -> dict[str, str]:
    """Return client -> faults found in a listing of one unified tarball with these members."""
    body = images.tarball({"metadata.yaml": images.metadata_yaml()} | files)
    item = {"path": "images/u.tar", "sha256": images.sha256_hex(body), "size": len(body), **fields}
    versions = {NEW: {"items": {c: item | {"ftype": f"{c}_combined.tar.gz"} for c in ("lxd", "incus")}}}
    product = {"aliases": "a", "arch": "amd64", "os": "a", "release": "r", "versions": versions}
    entry = {"datatype": "image-downloads", "path": PATH, "products": [NAME]}
    served = {INDEX_PATH: {"index": {"images": entry}}, PATH: {"products": {NAME: product}}}
    sentences = faults({key: json.dumps(body).encode() for key, body in served.items()}, {"images/u.tar": body}.get)
    return dict(sentence.split(": ", 1) for sentence in sentences)


def test_a_unified_tarball_without_a_root_is_found() -> None:
    assert unified({"rootfs/x": b""}) == {}
    assert unified({}).keys() == set(SERVED)


def test_a_machine_that_only_newer_incus_accepts_is_not_a_fault() -> None:
    assert unified({"rootfs.img": images.qcow2()}, combined_type="virtual-machine") == {}
    assert unified({"rootfs.img": bytes(100)}, combined_type="virtual-machine").keys() == {"incus-7.3"}
