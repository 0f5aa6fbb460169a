"""The independent reader with handwritten catalogs: what it finds, skips and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import PROJECT, client_rules
from tests.support.client_rules import SERVED, ClientError, find_image, read_catalog, resolve_alias

SOURCES = PROJECT / "tests/unit/imageserver/format/client_sources"

PATH = "streams/v1/images.json"
PRODUCT = "alpine:3.22:amd64:default"
META, ROOT, COMBINED = "1" * 64, "2" * 64, "3" * 64


def item(ftype: str, name: str, sha256: str, size: int, **more: Any) -> dict[str, Any]:
    return {"ftype": ftype, "path": f"images/x/{name}", "sha256": sha256, "size": size, **more}


def version(**more: Any) -> dict[str, Any]:
    return {
        "items": {
            "lxd.tar.xz": item("lxd.tar.xz", "lxd.tar.xz", META, 10, combined_squashfs_sha256=COMBINED),
            "root.squashfs": item("squashfs", "rootfs.squashfs", ROOT, 20),
            **more,
        }
    }


def product(**more: Any) -> dict[str, Any]:
    return {
        "aliases": "alpine/3.22/default,alpine/3.22",
        "arch": "amd64",
        "os": "Alpine",
        "release": "3.22",
        "release_title": "3.22",
        "variant": "default",
        "versions": {"20261123_10:00": version()},
        **more,
    }


def index(*paths: str, **more: Any) -> bytes:
    entries = {path: {"datatype": "image-downloads", "path": path, "products": [PRODUCT], **more} for path in paths}
    return json.dumps({"format": "index:1.0", "index": entries}).encode()


def document(products: dict[str, Any]) -> bytes:
    return json.dumps({"datatype": "image-downloads", "format": "products:1.0", "products": products}).encode()


def read(products: dict[str, Any], client: str = "lxd", **options: Any) -> Any:
    return read_catalog(index(PATH), {PATH: document(products)}, client, **options)


def test_a_split_image_is_listed_with_its_combined_digest_and_both_files() -> None:
    (image,) = read({PRODUCT: product(lxd_requirements={"secureboot": "false"}, support_eol="2027-01-02")})
    assert image.fingerprint == COMBINED
    assert (image.type, image.architecture, image.size_bytes) == ("container", "x86_64", 30)
    assert {role: (f.path, f.sha256, f.size_bytes) for role, f in image.files.items()} == {
        "meta": ("images/x/lxd.tar.xz", META, 10),
        "root": ("images/x/rootfs.squashfs", ROOT, 20),
    }
    assert image.properties == {
        "os": "Alpine",
        "release": "3.22",
        "architecture": "amd64",
        "serial": "20261123_10:00",
        "description": "Alpine 3.22 amd64 (20261123_10:00)",
        "requirements.secureboot": "false",
        "variant": "default",
        "type": "squashfs",
    }
    assert (image.created, image.expires) == ("2026-11-23", "2027-01-02")
    assert image.aliases == [
        "alpine/3.22/default",
        "alpine/3.22/default/amd64",
        "alpine/3.22",
        "alpine/3.22/amd64",
    ]


@pytest.mark.parametrize(
    ("ftype", "fields", "image_type"),
    [
        ("squashfs", {"combined_squashfs_sha256": COMBINED}, "container"),
        ("root.tar.xz", {"combined_rootxz_sha256": COMBINED, "combined_sha256": "f" * 64}, "container"),
        ("root.tar.xz", {"combined_sha256": COMBINED}, "container"),
        ("disk-kvm.img", {"combined_disk-kvm-img_sha256": COMBINED}, "virtual-machine"),
        ("disk1.img", {"combined_disk1-img_sha256": COMBINED}, "virtual-machine"),
        ("uefi1.img", {"combined_uefi1-img_sha256": COMBINED}, "virtual-machine"),
    ],
)
def test_each_kind_of_root_has_its_own_combined_digest(ftype: str, fields: dict[str, str], image_type: str) -> None:
    items = {
        "meta": item("lxd.tar.xz", "lxd.tar.xz", META, 1, **fields),
        "root": item(ftype, "root", ROOT, 2),
    }
    (image,) = read({PRODUCT: product(versions={"20261123_10:00": {"items": items}})})
    assert (image.fingerprint, image.type, image.properties["type"]) == (COMBINED, image_type, ftype)


def test_a_unified_tarball_is_its_own_fingerprint() -> None:
    items = {"u": item("lxd_combined.tar.gz", "lxd_combined.tar.gz", META, 7)}
    (image,) = read({PRODUCT: product(versions={"20261123": {"items": items}})})
    assert (image.fingerprint, list(image.files), image.properties["type"]) == (META, ["meta"], "tar.gz")


@pytest.mark.parametrize("client", [*SERVED, "lxd-5.20"])
@pytest.mark.parametrize("combined_type", ["virtual-machine", "container", ""])
def test_only_incus_from_7_1_on_reads_a_unified_tarball_as_a_virtual_machine(client: str, combined_type: str) -> None:
    items = {
        name: item(f"{name}_combined.tar.gz", "u.tar.gz", META, 7, combined_type=combined_type)
        for name in ("lxd", "incus")
    }
    products = {PRODUCT: product(versions={"20261123": {"items": items}})}
    is_machine = (client, combined_type) == ("incus-7.3", "virtual-machine")
    assert {image.type for image in read(products, client)} == {"virtual-machine" if is_machine else "container"}


def test_a_combined_type_does_not_affect_a_split_image() -> None:
    items = version()["items"]
    for part in items.values():
        part |= {"combined_type": "virtual-machine", "ftype": part["ftype"].replace("lxd", "incus")}
    products = {PRODUCT: product(versions={"20261123": {"items": items}})}
    assert [image.type for image in read(products, "incus-7.3")] == ["container"]


def test_a_combined_type_that_is_not_a_string_fails_the_whole_catalog() -> None:
    items = {"u": item("incus_combined.tar.gz", "u.tar.gz", META, 7, combined_type=1)}
    with pytest.raises(ClientError, match="cannot unmarshal"):
        read({PRODUCT: product(versions={"20261123": {"items": items}})}, "incus-7.3")


def test_each_client_reads_its_own_items_and_old_lxd_the_first_of_both() -> None:
    twin = item("incus.tar.xz", "lxd.tar.xz", META, 10, combined_squashfs_sha256="9" * 64)
    products = {PRODUCT: product(versions={"20261123_10:00": version(**{"incus.tar.xz": twin})})}
    found = {client: [image.fingerprint[0] for image in read(products, client)] for client in (*SERVED, "lxd-5.20")}
    assert found == {client: ["9" if "incus" in client else "3"] for client in found}
    assert read({PRODUCT: product()}, "incus") == []
    assert [image.fingerprint for image in read({PRODUCT: product()}, "lxd-5.20")] == [COMBINED]


def test_a_fingerprint_that_is_listed_twice_matches_no_image() -> None:
    images = read({PRODUCT: product(), "a:1:amd64:default": product()})
    with pytest.raises(ClientError, match="More than one match"):
        find_image(images, COMBINED[:12])


def test_each_client_reads_requirements_under_its_own_name() -> None:
    twin = item("incus.tar.xz", "lxd.tar.xz", META, 10, combined_squashfs_sha256=COMBINED)
    products = {
        PRODUCT: product(
            versions={"20261123_10:00": version(**{"incus.tar.xz": twin})},
            lxd_requirements={"nesting": "lxd"},
            requirements={"nesting": "incus"},
        )
    }
    assert read(products, "lxd")[0].properties["requirements.nesting"] == "lxd"
    assert read(products, "incus")[0].properties["requirements.nesting"] == "incus"


@pytest.mark.parametrize(
    "change",
    [
        {"arch": "amd46"},
        {"versions": {"2026112": version()}},
        {"versions": {"20261323_10:00": version()}},
        {"versions": {"v20261123": version()}},
        {"versions": {"20261123": {"items": {"root": item("squashfs", "r", ROOT, 1)}}}},
        {"versions": {"20261123": version(**{"lxd.tar.xz": item("lxd.tar.xz", "l", META, 1)})}},
        {
            "versions": {
                "20261123": version(
                    **{"lxd.tar.xz": item("lxd.tar.xz", "l", META, 1, **{"combined_disk-kvm-img_sha256": COMBINED})}
                )
            }
        },
        {
            "versions": {
                "20261123": version(
                    **{
                        "lxd.tar.xz": {
                            **item("lxd.tar.xz", "", META, 1, combined_squashfs_sha256=COMBINED),
                            "path": "",
                        }
                    }
                )
            }
        },
        {"versions": None},
    ],
)
def test_only_the_entry_that_clients_skip_is_skipped_silently(change: dict[str, Any]) -> None:
    other = product(aliases="other", versions={"20261122_10:00": version()})
    images = read({PRODUCT: product(**change), "other:1:amd64:default": other})
    assert [image.names[0] for image in images] == ["other"]


@pytest.mark.parametrize(
    "broken",
    [
        product(aliases=["a", "b"]),
        product(release=3.22),
        product(lxd_requirements={"secureboot": False}),
        product(supported="true"),
        product(versions=[]),
        # A size that Go refuses.
        product(versions={"20261123": version(**{"root.squashfs": item("squashfs", "r", ROOT, 1.0)})}),  # type: ignore[arg-type]
        product(versions={"20261123": version(**{"root.squashfs": item("squashfs", "r", ROOT, True)})}),
        product(versions={"20261123": version(**{"root.squashfs": item("squashfs", "r", ROOT, 2**63)})}),
        product(versions={"20261123": version(**{"x": {"sha256": 5}})}),
        product(arch=None, os=7),
    ],
)
def test_one_wrong_type_fails_the_whole_catalog(broken: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="cannot unmarshal"):
        read({PRODUCT: product(), "zzz": broken})


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff"])
def test_invalid_json_fails_the_whole_catalog(body: bytes) -> None:
    with pytest.raises(ClientError):
        read_catalog(index(PATH), {PATH: body})
    with pytest.raises(ClientError):
        read_catalog(body, {})


def test_a_document_named_by_the_index_must_exist() -> None:
    with pytest.raises(ClientError, match="404"):
        read_catalog(index(PATH, "streams/v1/gone.json"), {PATH: document({})})


@pytest.mark.parametrize("entry", [{"products": []}, {"datatype": "image-ids"}, {"datatype": ""}, {"products": None}])
def test_an_index_entry_can_hide_its_stream(entry: dict[str, Any]) -> None:
    assert read_catalog(index(PATH, **entry), {PATH: document({PRODUCT: product()})}) == []


def test_nulls_unknown_keys_and_key_case_are_not_errors() -> None:
    odd = product(support_eol=None, surprise={"deep": [1]}, ALIASES="upper")
    del odd["aliases"]
    (image,) = read({PRODUCT: odd})
    assert image.names[0] == "upper"
    assert image.expires == "1970-01-01"


def test_aliases_are_not_trimmed() -> None:
    (image,) = read({PRODUCT: product(aliases="a, b")})
    assert image.aliases == ["a", "a/amd64", " b", " b/amd64"]


def test_the_newest_version_takes_the_alias_by_string_order() -> None:
    versions = {}
    for serial, digest in (
        ("20261123_09:00", "a" * 64),
        ("20261123_1000", "b" * 64),
        ("20261122_23:59", "c" * 64),
    ):
        meta = item("lxd.tar.xz", "l", META, 1, combined_squashfs_sha256=digest)
        versions[serial] = version(**{"lxd.tar.xz": meta})
    images = read({PRODUCT: product(versions=versions)})
    assert [image.properties["serial"] for image in images] == [
        "20261123_1000",
        "20261123_09:00",
        "20261122_23:59",
    ]
    assert [bool(image.aliases) for image in images] == [True, False, False]
    assert resolve_alias(images, "alpine/3.22").fingerprint == "b" * 64


def test_an_alias_of_two_products_goes_to_the_one_that_sorts_first() -> None:
    first = product(aliases="shared", os="Alpine")
    meta = item("lxd.tar.xz", "l", META, 1, combined_squashfs_sha256="9" * 64)
    second = product(aliases="shared,own", os="Debian", versions={"20261123": version(**{"lxd.tar.xz": meta})})
    images = read({"z": first, "a": second})
    assert resolve_alias(images, "shared").properties["os"] == "Alpine"
    assert resolve_alias(images, "own").properties["os"] == "Debian"


def test_the_squashfs_gets_the_container_alias_and_the_disk_the_other() -> None:
    meta = item(
        "lxd.tar.xz",
        "l",
        META,
        1,
        combined_squashfs_sha256="a" * 64,
        combined_rootxz_sha256="b" * 64,
        **{"combined_disk-kvm-img_sha256": "c" * 64},
    )
    items = {
        "d": item("disk-kvm.img", "d", ROOT, 1),
        "l": meta,
        "r": item("root.tar.xz", "r", ROOT, 1),
        "s": item("squashfs", "s", ROOT, 1),
    }
    images = read({PRODUCT: product(versions={"20261123": {"items": items}})})
    assert [image.fingerprint[0] for image in images] == ["a", "b", "c"]
    assert resolve_alias(images, "alpine/3.22", "container").fingerprint[0] == "a"
    assert resolve_alias(images, "alpine/3.22", "virtual-machine").fingerprint[0] == "c"
    with pytest.raises(ClientError, match="More than one match for alias"):
        resolve_alias(images, "alpine/3.22")


def test_a_short_alias_is_shown_for_the_native_architecture_only() -> None:
    arm = product(arch="arm64")
    images = read({"amd": product(), "arm": arm})
    assert [image.aliases for image in images] == [
        ["alpine/3.22/default", "alpine/3.22/default/amd64", "alpine/3.22", "alpine/3.22/amd64"],
        ["alpine/3.22/default/arm64", "alpine/3.22/arm64"],
    ]
    assert resolve_alias(images, "alpine/3.22").architecture == "x86_64"
    assert resolve_alias(images, "alpine/3.22", native="aarch64").architecture == "aarch64"


@pytest.mark.parametrize(
    ("name", "means", "known_by"),
    [
        ("armel", "armv6l", SERVED),
        ("ppc64", "ppc64", SERVED),
        ("loong64", "loongarch64", SERVED[1:]),
        ("mipsle", "mips", SERVED[1:]),
        ("amd64v3", "x86_64", ("lxd-6.7", "lxd-6.9")),
        ("x86_64_v2", "x86_64", ("incus-7.0", "incus-7.3")),
        ("z80", "", ()),
    ],
)
def test_the_generations_differ_about_architectures(name: str, means: str, known_by: tuple[str, ...]) -> None:
    found: dict[str, str] = {}
    for client in SERVED:
        meta = item(f"{client.split('-')[0]}.tar.xz", "l", META, 1, combined_squashfs_sha256=COMBINED)
        images = read({PRODUCT: product(arch=name, versions={"20261123": version(**{"lxd.tar.xz": meta})})}, client)
        found |= dict.fromkeys([client] * len(images), images[0].architecture if images else "")
    assert found == dict.fromkeys(known_by, means)


def test_the_architectures_match_the_clients_sources() -> None:
    for client in ("lxd", "incus"):
        lines = (SOURCES / f"{client}_architectures.txt").read_text().splitlines()
        rows = [line.split() for line in lines if not line.startswith("#")]
        newest = {"lxd": "lxd-6.9", "incus": "incus-7.3"}[client]
        assert client_rules._DIALECTS[newest].arch_aliases == {name: row[0] for row in rows for name in row}


def delta_versions(meta: str, root: str, base: str) -> dict[str, Any]:
    old = item(meta, "l", META, 1, combined_squashfs_sha256="a" * 64, **{"combined_disk-kvm-img_sha256": "d" * 64})
    new = {**old, "combined_squashfs_sha256": "b" * 64, "combined_disk-kvm-img_sha256": "e" * 64}
    delta = item(f"{root}.vcdiff", "delta", "4" * 64, 3, delta_base=base)
    return {
        "20261122": {"items": {"m": old, "r": item(root, "r", ROOT, 1)}},
        "20261123": {"items": {"m": new, "r": item(root, "r", ROOT, 2), "v": delta}},
    }


@pytest.mark.parametrize(
    ("meta", "root", "base", "roles"),
    [
        ("lxd.tar.xz", "squashfs", "20261122", ["meta", "root", f"root.delta-{'a' * 64}"]),
        ("incus.tar.xz", "squashfs", "20261122", ["meta", "root", f"root.delta-{'a' * 64}"]),
        ("lxd.tar.xz", "squashfs", "20261121", ["meta", "root"]),  # the base is no longer listed
        ("lxd.tar.xz", "disk-kvm.img", "20261122", ["meta", "root"]),
        # Incus names the base of a disk's delta by the squashfs fingerprint of that version.
        ("incus.tar.xz", "disk-kvm.img", "20261122", ["meta", "root", f"root.delta-{'a' * 64}"]),
    ],
)
def test_a_delta_is_offered_when_its_base_is_listed(meta: str, root: str, base: str, roles: list[str]) -> None:
    client = meta.partition(".")[0]
    images = read({PRODUCT: product(versions=delta_versions(meta, root, base))}, client)
    assert list(images[0].files) == roles


@pytest.mark.parametrize(
    ("client", "base"), [("lxd-5.0.9", "d"), ("lxd-6.9", "d"), ("incus-7.3", "a"), ("lxd-5.0.2", "")]
)
def test_the_generations_differ_about_the_source_of_a_disks_delta(client: str, base: str) -> None:
    versions = delta_versions(f"{client.split('-', maxsplit=1)[0]}.tar.xz", "disk-kvm.img", "20261122")
    found = read({PRODUCT: product(versions=versions)}, client)[0].files
    assert [role for role in found if "delta" in role] == ([f"root.delta-{base * 64}"] if base else [])


@pytest.mark.parametrize(
    ("serial", "created"),
    [("20261123_1730", "2026-11-23T17:30"), ("20261123_17:30", "2026-11-23"), ("20261123_2460", "2026-11-23")],
)
def test_newer_lxd_reads_the_time_of_day(serial: str, created: str) -> None:
    products = {PRODUCT: product(versions={serial: version()})}
    assert [read(products, client)[0].created for client in ("lxd-6.9", "lxd-5.0.9")] == [created, "2026-11-23"]


@pytest.mark.parametrize("client", SERVED)
def test_newer_lxd_reads_requirements_of_either_name(client: str) -> None:
    twin = item("incus.tar.xz", "lxd.tar.xz", META, 10, combined_squashfs_sha256=COMBINED)
    both = product(requirements={"nesting": "x"}, versions={"20261123": version(**{"incus.tar.xz": twin})})
    (image,) = read({PRODUCT: both}, client)
    assert ("requirements.nesting" in image.properties) == (client != "lxd-5.0.2")
