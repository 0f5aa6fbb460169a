"""Documents of other image servers, in every known layout, are mapped to this one with their fingerprints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imageserver.errors import UpstreamRefused
from imageserver.format.keys import parse_key
from imageserver.inspection.overrides import parse_metadata_json
from imageserver.upstream import simplestreams
from imageserver.upstream.mapping import LeftOut, UpstreamVersion, mapped, metadata_json

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
NOBLE = "ubuntu:noble:amd64:cloud"
DAY = "20261123_07:42"


def item(ftype: str, path: str, sha256: str = A, size: int = 7, **more: Any) -> dict[str, Any]:
    return {"ftype": ftype, "path": path, "sha256": sha256, "size": size, **more}


def product(versions: dict[str, dict[str, Any]], **fields: Any) -> dict[str, Any]:
    about = {"arch": "amd64", "os": "Ubuntu", "release": "noble", "release_title": "noble", "aliases": ""}
    return {**about, **fields, "versions": {name: {"items": items} for name, items in versions.items()}}


def document(products: dict[str, Any]) -> bytes:
    return json.dumps({"content_id": "images", "format": "products:1.0", "products": products}).encode()


def split(folder: str) -> dict[str, Any]:
    return {
        "lxd.tar.xz": item("lxd.tar.xz", f"{folder}/lxd.tar.xz", A),
        "root.squashfs": item("squashfs", f"{folder}/rootfs.squashfs", B),
    }


def keys_by_path(body: bytes, stream: str = "images") -> dict[str, str]:
    """Return path at upstream -> key here."""
    found = [one for one in mapped(body, stream) if isinstance(one, UpstreamVersion)]
    return {file.path: file.key for version in found for file in version.files}


def left_out(body: bytes) -> dict[str, str]:
    return {one.name: one.reason for one in mapped(body, "images") if isinstance(one, LeftOut)}


def only(body: bytes) -> UpstreamVersion:
    (found,) = [one for one in mapped(body, "images") if isinstance(one, UpstreamVersion)]
    return found


def test_a_server_of_this_layout_is_mapped_without_changes() -> None:
    folder = f"images/ubuntu/noble/amd64/cloud/{DAY}"
    body = document({NOBLE: product({DAY: split(folder)}, aliases="ubuntu/noble/cloud,ubuntu/noble/amd64/cloud")})
    assert keys_by_path(body) == {
        f"{folder}/lxd.tar.xz": f"{folder}/lxd.tar.xz",
        f"{folder}/rootfs.squashfs": f"{folder}/rootfs.squashfs",
    }
    assert only(body).overrides.aliases == ()
    assert metadata_json(only(body).overrides) == b'{"os":"Ubuntu"}'


UBUNTU = {
    "lxd.tar.xz": item("lxd.tar.xz", "server/releases/noble/release-20261120/ubuntu-lxd.tar.xz", A),
    "squashfs": item("squashfs", "server/releases/noble/release-20261120/ubuntu.squashfs", B),
    "disk1.img": item("disk1.img", "server/releases/noble/release-20261120/ubuntu.img", C),
    "vmdk": item("vmdk", "server/releases/noble/release-20261120/ubuntu.vmdk", D),
    "manifest": item("manifest", "server/releases/noble/release-20261120/ubuntu.manifest", D),
    "20261110.squashfs.vcdiff": item(
        "squashfs.vcdiff", "server/releases/noble/release-20261120/ubuntu.20261110.vcdiff", D, delta_base="20261110"
    ),
}


def test_a_server_of_ubuntus_layout_is_mapped_by_its_fields() -> None:
    body = document(
        {
            "com.ubuntu.cloud:server:24.04:amd64": product(
                {"20261120": UBUNTU, "20261120.1": UBUNTU},
                os="ubuntu", release_title="24.04 LTS", release_codename="Noble Numbat", version="24.04",
                aliases="24.04,n,noble,default,lts", supported=True, support_eol="2029-05-31",
            ),
            "com.ubuntu.cloud:minimal:24.04:amd64": product({"20261120": UBUNTU}, os="ubuntu"),
        }
    )  # fmt: skip
    keys = [file.key for one in mapped(body, "images-ubuntu") if isinstance(one, UpstreamVersion) for file in one.files]
    assert [key.removeprefix("images-ubuntu/ubuntu/noble/amd64/") for key in keys] == [
        f"{version}/{file}"
        for version in ("minimal/20261120", "default/20261120", "default/20261120.1")
        for file in ("disk1.img", "lxd.tar.xz", "rootfs.20261110.vcdiff", "rootfs.squashfs")
    ]
    assert all(parse_key(key) for key in keys)
    assert left_out(body) == {}
    overrides = [one.overrides for one in mapped(body, "images") if isinstance(one, UpstreamVersion)][-1]
    assert json.loads(metadata_json(overrides)) == {
        "aliases": ["24.04", "n", "noble", "default", "lts"],
        "release_title": "24.04 LTS",
        "release_codename": "Noble Numbat",
        "version": "24.04",
        "supported": True,
        "support_eol": "2029-05-31",
    }


@pytest.mark.parametrize(
    ("name", "fields", "folders"),
    [
        ("ubuntu:noble:amd64:default", {}, "ubuntu/noble/amd64/default"),
        ("com.ubuntu.cloud:server:24.04:arm64", {"arch": "arm64"}, "ubuntu/noble/arm64/default"),
        ("com.ubuntu.cloud.daily:server:26.04:amd64", {"release": "resolute"}, "ubuntu/resolute/amd64/default"),
        (
            "Alpine Linux:3.20:amd64:default",
            {"os": "Alpine Linux", "release": "3.20"},
            "alpine-linux/3.20/amd64/default",
        ),
        ("whatever", {"variant": "Cloud"}, "ubuntu/noble/amd64/cloud"),
        ("a:b:c:d:e", {}, "ubuntu/noble/amd64/default"),
    ],
)
def test_a_product_finds_its_folders(name: str, fields: dict[str, str], folders: str) -> None:
    body = document({name: product({"20261120": split("flat")}, **fields)})
    assert only(body).id.path == f"images/{folders}/20261120"


def test_a_flat_layout_is_mapped_with_each_kind_of_tarball_once() -> None:
    items = {
        "1": item("incus_combined.tar.gz", f"images/{A}.tar.gz", A),
        "2": item("lxd_combined.tar.gz", f"images/{A}.tar.gz", A),
    }
    assert keys_by_path(document({NOBLE: product({DAY: items})})) == {
        f"images/{A}.tar.gz": f"images/ubuntu/noble/amd64/cloud/{DAY}/incus_combined.tar.gz"
    }
    items = {
        "meta": item("incus.tar.xz", f"images/{A}.tar.xz", A),
        "other meta": item("lxd.tar.xz", f"images/{B}.tar.xz", B),
        "root": item("root.tar.xz", f"/images/{C}", C),
        "disk": item("disk-kvm.img", f"images/{D}", D),
    }
    found = keys_by_path(document({NOBLE: product({DAY: items})}))
    assert sorted(key.rpartition("/")[2] for key in found.values()) == [
        "disk.qcow2", "incus.tar.xz", "lxd.tar.xz", "rootfs.tar.xz"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({"sha256": ""}, "/root.squashfs", "has no sha256 in upstream's catalog"),
        ({"sha256": "A" * 64}, "/root.squashfs", "has no sha256"),
        ({"path": "../../etc/shadow"}, "/root.squashfs", "is not a path below upstream's address"),
        ({"path": "images//x"}, "/root.squashfs", "is not a path below upstream's address"),
        ({"path": ""}, "/root.squashfs", "is not a path below upstream's address"),
        ({"path": "a/" * 512 + "x"}, "/root.squashfs", "lies at a path of 1,025 characters, expected at most 1,024"),
        ({"path": "images/x\n"}, "/root.squashfs", "is not a path below upstream's address"),
        ({"ftype": "squashfs.vcdiff", "delta_base": "../x"}, "/root.squashfs", "has no place here"),
        ({"size": "large"}, "", "cannot be read"),
        ({"size": -1}, "", "cannot be read: Expected `int` >= 0"),
        ({"size": 1 << 63}, "", "cannot be read"),
        ({"path": 7}, "", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_mirrored_is_reported(change: dict[str, Any], name: str, reason: str) -> None:
    items = split("flat")
    items["root.squashfs"] |= change
    reasons = left_out(document({NOBLE: product({DAY: items})}))
    assert reason in reasons[f"{NOBLE}/{DAY}{name}"], reasons


def test_a_root_with_more_combined_sha256s_than_its_message_can_hold_is_reported() -> None:
    items = split("flat")
    for n in range(9):
        items[f"lxd{n}"] = item("lxd.tar.xz", f"flat/{n}", f"{n:064x}", combined_squashfs_sha256=f"{n:064x}")
    reasons = left_out(document({NOBLE: product({DAY: items})}))
    assert "combined sha256s in upstream's catalog, expected at most 8" in reasons[f"{NOBLE}/{DAY}/root.squashfs"], (
        reasons
    )


@pytest.mark.parametrize(
    "field", ["size", "delta_base", "combined_sha256", "combined_squashfs_sha256", "combined_disk-kvm-img_sha256"]
)
def test_a_field_of_a_file_that_is_null_is_read_as_an_absent_one(field: str) -> None:
    items = split("flat")
    for one in items.values():
        one[field] = None
    found = only(document({NOBLE: product({DAY: items})}))
    assert [file.key.rpartition("/")[2] for file in found.files] == ["lxd.tar.xz", "rootfs.squashfs"]
    assert {file.size_bytes for file in found.files} == {0 if field == "size" else 7}


@pytest.mark.parametrize("field", ["ftype", "path", "sha256"])
def test_a_file_without_what_it_needs_is_left_out_whether_the_field_is_null_or_absent(field: str) -> None:
    def reasons(change: dict[str, Any]) -> dict[str, str]:
        items = {**split("flat"), "disk": {**item("disk-kvm.img", "flat/disk", C), **change}}
        if not change:
            del items["disk"][field]
        return left_out(document({NOBLE: product({DAY: items})}))

    assert reasons({field: None}) == reasons({})


@pytest.mark.parametrize(
    ("products", "names"),
    [
        ({"x": None}, []),
        ({"x": {**product({}), "versions": None}}, []),
        ({"x": product({DAY: split("x")}) | {"versions": {DAY: None}}}, [f"x/{DAY}"]),
        ({"x": product({DAY: split("x")}) | {"versions": {DAY: {"items": None}}}}, [f"x/{DAY}"]),
        ({"x": product({DAY: {"null": None}})}, [f"x/{DAY}"]),
    ],
)
def test_what_is_null_in_a_document_lists_nothing_and_leaves_its_neighbours(
    products: dict[str, Any], names: list[str]
) -> None:
    body = document({**products, NOBLE: product({DAY: {**split("flat"), "null": None}})})
    assert len(keys_by_path(body)) == 2
    about_x = [one for one in mapped(body, "images") if isinstance(one, LeftOut) and one.name != "x"]
    assert [(one.name, one.reason, one.is_broken) for one in about_x] == [
        (name, "lists no image that LXD or Incus reads", False) for name in names
    ]


def test_null_fields_of_a_product_and_a_version_override_nothing() -> None:
    nothing = dict.fromkeys(("aliases", "release_title", "variant", "version", "requirements", "supported"))
    body = document({NOBLE: {**product({}), **nothing, "versions": {DAY: {"label": None, "items": split("flat")}}}})
    assert metadata_json(only(body).overrides) == b'{"os":"Ubuntu"}'
    body = document({NOBLE: product({DAY: split("flat")}, os=None, requirements={"secureboot": None, "x": "y"})})
    assert metadata_json(only(body).overrides) == b'{"requirements":{"x":"y"}}'


@pytest.mark.parametrize(
    ("products", "name", "reason"),
    [
        (
            {NOBLE: product({"latest": split("x")})},
            f"{NOBLE}/latest",
            "the version is 'latest', expected YYYYMMDD",
        ),
        ({NOBLE: product({DAY: {"m": item("manifest", "x")}})}, f"{NOBLE}/{DAY}", "lists no image that LXD or Incus"),
        ({NOBLE: product({DAY: {"m": item("lxd.tar.xz", "x")}})}, f"{NOBLE}/{DAY}", "lists no image that LXD or Incus"),
        ({NOBLE: [1]}, NOBLE, "cannot be read"),
        ({NOBLE: {**product({}), "versions": {DAY: 7}}}, f"{NOBLE}/{DAY}", "cannot be read"),
        ({"x": product({DAY: split("x")}, arch="z80")}, "x", "no client knows the architecture 'z80'"),
        ({"x": product({DAY: split("x")}, os=None)}, "x", "has an empty os"),
        (
            {"ubuntu:noble:amd64:default": product({DAY: split("x")}), "x": product({DAY: split("x")})},
            "x",
            "would become images/ubuntu/noble/amd64/default, as ubuntu:noble:amd64:default does",
        ),
    ],
)
def test_a_product_or_version_that_cannot_be_mirrored_is_reported(
    products: dict[str, Any], name: str, reason: str
) -> None:
    assert reason in left_out(document(products)).get(name, ""), left_out(document(products))


def test_an_entry_that_cannot_be_mirrored_does_not_affect_its_neighbours() -> None:
    body = document({"broken": [1], NOBLE: product({DAY: split("x"), "latest": split("x")})})
    assert len(keys_by_path(body)) == 2
    assert sorted(left_out(body)) == ["broken", f"{NOBLE}/latest"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"products": []}', b'{"products"', b"[" * 100_000])
def test_an_unreadable_product_document_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamRefused, match="cannot be read"):
        list(mapped(body, "images"))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"index": []}', b'{"index"', b"[" * 100_000])
def test_an_unreadable_index_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamRefused, match="cannot be read"):
        simplestreams.products_paths(body)


def test_an_empty_index_lists_nothing() -> None:
    assert simplestreams.products_paths(b"{}") == simplestreams.products_paths(b'{"index": null}') == []


def test_an_index_gives_the_documents_that_clients_read() -> None:
    index = {
        "index": {
            "com.ubuntu.cloud:released:aws": {"datatype": "image-ids", "path": "streams/v1/aws.json"},
            "images": {"datatype": "image-downloads", "path": "streams/v1/images.json", "products": []},
            "again": {"datatype": "image-downloads", "path": "streams/v1/images.json"},
            "nowhere": {"datatype": "image-downloads"},
            "null path": {"datatype": "image-downloads", "path": None},
            "null datatype": {"datatype": None, "path": "streams/v1/null.json"},
            "null": None,
        }
    }
    assert simplestreams.products_paths(json.dumps(index).encode()) == ["streams/v1/images.json"]


def test_the_overrides_made_for_a_product_are_read_back_without_warnings() -> None:
    body = document(
        {NOBLE: product({DAY: split("x")}, aliases="noble, ubuntu/lts", requirements={"secureboot": "false"},
                        lxd_requirements={"nesting": "true"})}
    )  # fmt: skip
    parsed = parse_metadata_json(metadata_json(only(body).overrides))
    assert parsed.ignored == ()
    assert parsed.overrides.aliases == ("noble", "ubuntu/lts")
    assert parsed.overrides.requirements == {"secureboot": "false", "nesting": "true"}


def test_the_combined_sha256s_of_a_root_are_kept_with_the_metadata_that_states_them() -> None:
    folder = f"images/ubuntu/noble/amd64/cloud/{DAY}"
    items = {
        "lxd.tar.xz": item("lxd.tar.xz", f"{folder}/lxd.tar.xz", A) | {"combined_disk-kvm-img_sha256": C},
        "incus.tar.xz": item("incus.tar.xz", f"{folder}/incus.tar.xz", B, combined_squashfs_sha256=D),
        "root": item("squashfs", f"{folder}/rootfs.squashfs", C),
        "disk": item("disk-kvm.img", f"{folder}/disk.qcow2", D),
    }
    found = only(document({NOBLE: product({DAY: items})}))
    stated = {file.key.rpartition("/")[2]: file.combined for file in found.files}
    assert stated == {
        "incus.tar.xz": (), "lxd.tar.xz": (), "rootfs.squashfs": ((B, D),), "disk.qcow2": ((A, C),),
    }  # fmt: skip


def test_two_names_of_one_combined_sha256_count_once_unless_they_differ() -> None:
    folder = f"images/ubuntu/noble/amd64/cloud/{DAY}"
    for old, stated in ((C, ((A, C),)), (D, ((A, C), (A, D))), ("nonsense", ((A, C),))):
        both = {"combined_rootxz_sha256": C, "combined_sha256": old}
        items = {
            "lxd.tar.xz": item("lxd.tar.xz", f"{folder}/lxd.tar.xz", A) | both,
            "root": item("root.tar.xz", f"{folder}/rootfs.tar.xz", B),
        }
        found = only(document({NOBLE: product({DAY: items})}))
        assert {file.combined for file in found.files} == {(), stated}


def test_each_file_knows_the_signer_of_its_document() -> None:
    body = document({NOBLE: product({DAY: split(f"images/ubuntu/noble/amd64/cloud/{DAY}")})})
    (found,) = mapped(body, "images", "ab" * 20)
    assert isinstance(found, UpstreamVersion)
    assert {file.signed_by for file in found.files} == {"ab" * 20}
    assert {file.signed_by for file in only(body).files} == {""}
