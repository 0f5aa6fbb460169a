"""Whole catalogs, byte for byte, and the rules for conflicts between products."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import pytest

from imageserver.catalog import candidates, conflicts
from imageserver.catalog.fold import fold
from imageserver.format import documents
from imageserver.format.keys import parse_product
from tests.support import images
from tests.support.client_rules import Image, read_catalog
from tests.support.memory_store import System

NOBLE = "images/ubuntu/noble/amd64/default"
OLD, NEW = "20261122_10:00", "20261123_10:00"


def catalogs(system: System, client: str) -> list[Image]:
    streams = system.streams()
    return read_catalog(streams["streams/v1/index.json"], streams, client)


def unlisted(system: System) -> dict[str, dict[str, str]]:
    body = system.streams().get("streams/v1/images.unlisted.json")
    return json.loads(body)["products"] if body else {}


@pytest.fixture
def system() -> System:
    return System()


def test_every_form_of_image_in_one_catalog(system: System, golden: Callable[[str, bytes], None]) -> None:
    """The golden: split squashfs with a delta, split tar, virtual machine, unified tarball, two streams."""
    base = images.split_image(seed="1")
    system.upload(f"{NOBLE}/{OLD}", base)
    system.upload(
        f"{NOBLE}/{NEW}",
        images.split_image(seed="2")
        | {
            "disk.qcow2": images.qcow2("2"),
            f"rootfs.{OLD}.vcdiff": images.vcdiff("1 to 2"),
            "metadata.json": json.dumps(
                {
                    "os": "Ubuntu",
                    "release_title": "24.04 LTS",
                    "aliases": "ubuntu/24.04, ubuntu/lts",
                    "requirements": {"secureboot": False},
                    "support_eol": "2029-05-31",
                    "supported": True,
                    "label": "release",
                }
            ).encode(),
        },
    )
    system.upload("images/alpine/3.22/arm64/cloud/20261123", images.split_image("arm64", "3", "rootfs.tar.xz"))
    system.upload("images/void/current/amd64/default/202611231000", {"void.tar.gz": images.unified_tarball(marker="4")})
    system.upload("images-daily/ubuntu/noble/amd64/default/20261123_0900", images.split_image(seed="5"))
    system.catch_up()
    for key, body in system.streams().items():
        golden(key.rsplit("/", 1)[1], body)
    for client in ("lxd", "incus"):
        found = {image.fingerprint: image for image in catalogs(system, client)}
        new = images.split_image(seed="2")
        assert set(found) == {
            images.sha256_hex(base["lxd.tar.xz"], base["rootfs.squashfs"]),
            images.sha256_hex(new["lxd.tar.xz"], new["rootfs.squashfs"]),
            images.sha256_hex(new["lxd.tar.xz"], images.qcow2("2")),
            images.sha256_hex(*images.split_image("arm64", "3", "rootfs.tar.xz").values()),
            images.sha256_hex(images.unified_tarball(marker="4")),
            images.sha256_hex(*images.split_image(seed="5").values()),
        }
        delta = found[images.sha256_hex(new["lxd.tar.xz"], new["rootfs.squashfs"])].files
        assert f"root.delta-{images.sha256_hex(base['lxd.tar.xz'], base['rootfs.squashfs'])}" in delta


@pytest.mark.parametrize(("clients", "blind"), [(("lxd",), "incus"), (("incus",), "lxd")])
def test_a_catalog_for_one_client_lists_nothing_for_the_other(clients: tuple[str, ...], blind: str) -> None:
    system = System(clients=clients)
    system.upload(f"{NOBLE}/{NEW}", images.split_image())
    system.catch_up()
    assert len(catalogs(system, clients[0])) == 1
    assert catalogs(system, blind) == []


def test_each_client_gets_its_own_metadata_if_both_exist(system: System) -> None:
    lxd, incus = images.metadata_tarball(serial="lxd"), images.metadata_tarball(serial="incus")
    root = images.squashfs()
    system.upload(f"{NOBLE}/{NEW}", {"lxd.tar.xz": lxd, "incus.tar.xz": incus, "rootfs.squashfs": root})
    system.catch_up()
    assert [image.fingerprint for image in catalogs(system, "lxd")] == [images.sha256_hex(lxd, root)]
    assert [image.fingerprint for image in catalogs(system, "incus")] == [images.sha256_hex(incus, root)]
    assert system.store.bytes_read[f"{NOBLE}/{NEW}/rootfs.squashfs"] == len(root)  # once for all three digests


def test_incus_metadata_serves_lxd_too_if_it_is_the_only_one(system: System) -> None:
    metadata, root = images.metadata_tarball(), images.squashfs()
    system.upload(f"{NOBLE}/{NEW}", {"incus.tar.xz": metadata, "rootfs.squashfs": root})
    system.catch_up()
    for client in ("lxd", "incus"):
        assert [image.fingerprint for image in catalogs(system, client)] == [images.sha256_hex(metadata, root)]


def test_the_same_image_in_two_versions_is_listed_as_the_newest(system: System) -> None:
    for version in (OLD, NEW):
        system.upload(f"{NOBLE}/{version}", images.split_image(seed="same"))
    system.catch_up()
    assert system.listed() == {"ubuntu:noble:amd64:default": [NEW]}
    (withheld,) = system.products_document().withheld["ubuntu:noble:amd64:default"]
    assert (withheld.version, withheld.held_by) == (OLD, f"ubuntu:noble:amd64:default/{NEW}")


def test_an_image_of_two_products_stays_with_the_first_uploader(system: System) -> None:
    first, copy = f"images/b/r/amd64/default/{NEW}", f"images/a/r/amd64/default/{OLD}"
    system.upload(first, images.split_image(seed="same"))
    system.catch_up()
    system.upload(copy, images.split_image(seed="same"))
    system.catch_up()
    assert system.listed() == {"b:r:amd64:default": [NEW]}
    assert system.products_document().withheld["a:r:amd64:default"][0].held_by == "b:r:amd64:default"
    for file in ("lxd.tar.xz", "rootfs.squashfs"):
        system.store.remove(f"{first}/{file}")
    system.ingest(first)
    system.publish(parse_product("images/b/r/amd64/default"))  # only the product that changed is named
    assert system.listed() == {"a:r:amd64:default": [OLD]}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_first_uploader_does_not_depend_on_the_order_of_events(system: System, order: tuple[int, ...]) -> None:
    paths = [f"images/{os}/r/amd64/default/{NEW}" for os in ("m", "a", "z")]
    for path in paths:
        system.upload(path, images.split_image(seed="same"))
    for number in order:
        system.ingest(paths[number])
        system.publish(parse_product(paths[number].rpartition("/")[0]))
    assert system.listed() == {"m:r:amd64:default": [NEW]}
    held = {name: entries[0].held_by for name, entries in system.products_document().withheld.items()}
    assert held == dict.fromkeys(("a:r:amd64:default", "z:r:amd64:default"), "m:r:amd64:default")


def test_a_version_with_one_copied_root_lists_its_other_root(system: System) -> None:
    files = images.split_image(seed="same")
    system.upload(f"images/b/r/amd64/default/{NEW}", files)
    system.catch_up()
    system.upload(f"images/a/r/amd64/default/{NEW}", files | {"disk.qcow2": images.qcow2("own")})
    system.catch_up()
    (held,) = system.products_document().withheld["a:r:amd64:default"]
    assert (held.file, held.held_by) == ("rootfs.squashfs", "b:r:amd64:default")
    (own,) = [image for image in catalogs(system, "lxd") if image.type == "virtual-machine"]
    assert own.fingerprint == images.sha256_hex(files["lxd.tar.xz"], images.qcow2("own"))


def test_a_path_alias_wins_over_a_metadata_alias_which_returns_once_free(system: System) -> None:
    claim = {"metadata.json": json.dumps({"aliases": ["ubuntu/noble", "lts"]}).encode()}
    system.upload(f"images/aaa/x/amd64/default/{NEW}", images.split_image(seed="1") | claim)
    system.catch_up()
    assert system.products_document().products["aaa:x:amd64:default"].aliases.split(",") == [
        "aaa/x/amd64/default", "aaa/x/default", "aaa/x", "lts", "ubuntu/noble",
    ]  # fmt: skip
    system.upload(f"{NOBLE}/{NEW}", images.split_image(seed="2"))
    system.catch_up()
    products = system.products_document().products
    assert "ubuntu/noble" not in products["aaa:x:amd64:default"].aliases.split(",")
    assert "ubuntu/noble" in products["ubuntu:noble:amd64:default"].aliases.split(",")
    assert system.products_document().withheld["aaa:x:amd64:default"][0].alias == "ubuntu/noble"
    system.store.remove(f"{NOBLE}/{NEW}/lxd.tar.xz")
    system.ingest(f"{NOBLE}/{NEW}")
    system.publish(parse_product(NOBLE))
    assert "ubuntu/noble" in system.products_document().products["aaa:x:amd64:default"].aliases.split(",")


def test_a_default_image_cannot_take_the_name_of_a_variant_that_is_named_like_the_architecture(system: System) -> None:
    """Clients derive `a/r/amd64` from `a/r` as usual, but not `a/r/amd64/amd64` from `a/r/amd64`."""
    claim = {"metadata.json": json.dumps({"aliases": ["a/r/amd64"]}).encode()}
    system.upload(f"images/a/r/amd64/amd64/{NEW}", images.split_image(seed="1"))
    system.upload(f"images/a/r/amd64/default/{NEW}", images.split_image(seed="2") | claim)
    system.catch_up()
    document = system.products_document()
    assert document.products["a:r:amd64:amd64"].aliases == "a/r/amd64/amd64"
    assert document.products["a:r:amd64:default"].aliases == "a/r/amd64/default,a/r/default,a/r"
    assert [entry.alias for entry in document.withheld["a:r:amd64:default"]] == ["a/r/amd64"]


def test_a_product_keeps_its_aliases_when_another_product_lists_its_image(system: System) -> None:
    """Otherwise a product that uploaded the image before could take over the alias, and then change the image."""
    claim = {"metadata.json": json.dumps({"aliases": ["zzz/app"]}).encode()}
    files = images.split_image(seed="theirs")
    system.upload(f"images/aaa/x/amd64/default/{OLD}", files | claim)
    system.upload(f"images/zzz/app/amd64/default/{OLD}", files)
    system.upload(f"images/aaa/x/amd64/default/{NEW}", images.split_image(seed="another") | claim)
    system.catch_up()
    document = system.products_document()
    assert sorted(document.products) == ["aaa:x:amd64:default"]
    assert "zzz/app" not in document.products["aaa:x:amd64:default"].aliases.split(",")
    assert document.withheld["aaa:x:amd64:default"][0].held_by == "zzz:app:amd64:default"
    system.store.remove(f"images/aaa/x/amd64/default/{OLD}/rootfs.squashfs")
    system.ingest(f"images/aaa/x/amd64/default/{OLD}")
    system.publish(parse_product("images/aaa/x/amd64/default"))
    assert "zzz/app" in system.products_document().products["zzz:app:amd64:default"].aliases.split(",")


def test_one_alias_on_two_architectures_is_not_a_conflict(system: System) -> None:
    system.upload(f"{NOBLE}/{NEW}", images.split_image(seed="1"))
    system.upload(f"images/ubuntu/noble/arm64/default/{NEW}", images.split_image("arm64", "2"))
    system.catch_up()
    for name in ("ubuntu:noble:amd64:default", "ubuntu:noble:arm64:default"):
        assert "ubuntu/noble" in system.products_document().products[name].aliases.split(",")


def test_a_version_of_another_form_than_its_product_is_withheld_with_a_reason(system: System) -> None:
    for number, version in enumerate((OLD, NEW, "202611230900")):
        system.upload(f"{NOBLE}/{version}", images.split_image(seed=str(number)))
    system.catch_up()
    assert system.listed() == {"ubuntu:noble:amd64:default": [OLD, NEW]}
    (withheld,) = system.products_document().withheld["ubuntu:noble:amd64:default"]
    assert withheld.version == "202611230900"
    assert "YYYYMMDD_HH:MM" in withheld.reason


def test_the_newest_listed_version_decides_for_its_product(system: System) -> None:
    for version, title in ((OLD, "old title"), (NEW, "new title")):
        override = {"metadata.json": json.dumps({"release_title": title}).encode()}
        system.upload(f"{NOBLE}/{version}", images.split_image(seed=version) | override)
    system.catch_up()
    assert system.products_document().products["ubuntu:noble:amd64:default"].release_title == "new title"
    system.store.remove(f"{NOBLE}/{NEW}/rootfs.squashfs")
    system.catch_up()
    assert system.products_document().products["ubuntu:noble:amd64:default"].release_title == "old title"


def test_a_delta_is_listed_only_while_its_base_is(system: System) -> None:
    system.upload(f"{NOBLE}/{OLD}", images.split_image(seed="1"))
    system.upload(f"{NOBLE}/{NEW}", images.split_image(seed="2") | {f"rootfs.{OLD}.vcdiff": images.vcdiff()})
    system.catch_up()
    product = system.products_document().products["ubuntu:noble:amd64:default"]
    item = documents.decode_versions(product)[NEW].items[f"rootfs.{OLD}.vcdiff"]
    assert (item.ftype, item.delta_base) == ("squashfs.vcdiff", OLD)
    system.store.remove(f"{NOBLE}/{OLD}/lxd.tar.xz")
    system.catch_up()
    product = system.products_document().products["ubuntu:noble:amd64:default"]
    assert f"rootfs.{OLD}.vcdiff" not in documents.decode_versions(product)[NEW].items


THIRD = "20261124_10:00"


def deltas_of(system: System, version: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the deltas of a version of NOBLE that are listed, with their base, and why the others are not."""
    document, name = system.products_document(), "ubuntu:noble:amd64:default"
    items = documents.decode_versions(document.products[name])[version].items
    held = [entry for entry in document.withheld.get(name, ()) if entry.version == version]
    return {f: i.delta_base for f, i in items.items() if i.delta_base}, {e.file: e.reason for e in held}


def test_the_delta_with_the_newest_base_is_listed_for_each_root(system: System) -> None:
    for version in (OLD, NEW):
        system.upload(f"{NOBLE}/{version}", images.split_image(seed=version))
    deltas = {f"rootfs.{base}.vcdiff": images.vcdiff(base) for base in (OLD, NEW)}
    system.upload(f"{NOBLE}/{THIRD}", images.split_image(seed=THIRD) | deltas)
    system.catch_up()
    listed, withheld = deltas_of(system, THIRD)
    assert listed == {f"rootfs.{NEW}.vcdiff": NEW}
    assert "is a second delta beside" in withheld[f"rootfs.{OLD}.vcdiff"]
    for client in ("lxd", "incus"):
        (newest,) = [image for image in catalogs(system, client) if image.properties["serial"] == THIRD]
        assert len([role for role in newest.files if role.startswith("root.delta-")]) == 1
    system.store.remove(f"{NOBLE}/{NEW}/lxd.tar.xz")
    system.catch_up()
    listed, withheld = deltas_of(system, THIRD)
    assert listed == {f"rootfs.{OLD}.vcdiff": OLD}
    assert "which is not listed" in withheld[f"rootfs.{NEW}.vcdiff"]


@pytest.mark.parametrize("base_has_squashfs", [True, False])
def test_a_delta_of_a_disk_is_listed_if_no_client_takes_a_squashfs_as_its_base(
    system: System, base_has_squashfs: bool
) -> None:
    base = images.split_image(seed="1") | {"disk.qcow2": images.qcow2("1")}
    if not base_has_squashfs:
        del base["rootfs.squashfs"]
    system.upload(f"{NOBLE}/{OLD}", base)
    delta = f"disk.{OLD}.qcow2.vcdiff"
    files = images.split_image(seed="2") | {"disk.qcow2": images.qcow2("2"), delta: images.vcdiff()}
    system.upload(f"{NOBLE}/{NEW}", files)
    system.catch_up()
    listed, withheld = deltas_of(system, NEW)
    assert listed == ({} if base_has_squashfs else {delta: OLD})
    assert ("lists a squashfs too" in withheld.get(delta, "")) is base_has_squashfs


def test_a_delta_against_its_own_version_or_without_its_root_is_withheld(system: System) -> None:
    deltas = {f"rootfs.{NEW}.vcdiff": images.vcdiff(), f"disk.{OLD}.qcow2.vcdiff": images.vcdiff("2")}
    system.upload(f"{NOBLE}/{NEW}", images.split_image(seed="1") | deltas)
    system.catch_up()
    listed, withheld = deltas_of(system, NEW)
    assert listed == {}
    assert "which is not listed" in withheld[f"rootfs.{NEW}.vcdiff"]
    assert "has no disk-kvm.img beside it" in withheld[f"disk.{OLD}.qcow2.vcdiff"]


def test_a_version_with_a_refused_metadata_json_names_the_alias_lost_from_the_version_before(system: System) -> None:
    overrides = {"metadata.json": b'{"aliases": ["lts"]}'}
    sums = {"SHA256SUMS": f"{'a' * 64}  metadata.json\n".encode()}
    system.upload(f"{NOBLE}/{OLD}", images.split_image(seed="1") | overrides)
    system.upload(f"{NOBLE}/{NEW}", images.split_image(seed="2") | overrides | sums)
    system.catch_up()
    (entry,) = system.products_document().withheld["ubuntu:noble:amd64:default"]
    assert entry.reason.startswith(f"{NEW} comes with a refused metadata.json, so the alias lts that {OLD} gives no")
    assert "lts" not in system.products_document().products["ubuntu:noble:amd64:default"].aliases


@pytest.mark.parametrize(
    ("overrides", "dropped", "end"),
    [
        ({"aliases": ["lts"]}, "the alias lts", "applies; upload metadata.json with it"),
        ({"version": "24.04"}, "the field version", "applies; upload metadata.json with it"),
        ({"aliases": ["lts", "noble/lts"]}, "the aliases lts, noble/lts", "apply; upload metadata.json with them"),
        (
            {"aliases": ["lts"], "release_title": "24.04 LTS"},
            "the alias lts and the field release_title",
            "apply; upload metadata.json with them",
        ),
        (
            {"aliases": ["lts", "noble/lts"], "release_title": "24.04 LTS", "os": "Ubuntu"},
            "the aliases lts, noble/lts and the fields os, release_title",
            "apply; upload metadata.json with them",
        ),
    ],
)
def test_a_version_without_metadata_json_names_the_overrides_lost_from_the_version_before(
    system: System, overrides: dict[str, object], dropped: str, end: str
) -> None:
    overrides = {"label": "release"} | overrides
    system.upload(f"{NOBLE}/{OLD}", images.split_image(seed="1") | {"metadata.json": json.dumps(overrides).encode()})
    system.upload(f"{NOBLE}/{NEW}", images.split_image(seed="2"))
    system.catch_up()
    (entry,) = system.products_document().withheld["ubuntu:noble:amd64:default"]
    assert entry.version == NEW
    assert entry.reason == (
        f"{NEW} comes without metadata.json, so {dropped} that {OLD} gives no longer {end}, or with {{}} to agree"
    )
    system.upload(f"{NOBLE}/{NEW}", {"metadata.json": b"{}"})
    system.catch_up()
    assert system.products_document().withheld == {}


def test_incomplete_and_invalid_versions_are_distinguished_and_change_no_listing(system: System) -> None:
    system.upload(f"{NOBLE}/{OLD}", images.split_image())
    system.catch_up()
    before = system.streams()["streams/v1/images.json"]
    system.upload(f"{NOBLE}/{NEW}", {"rootfs.squashfs": images.squashfs("2")})
    system.upload("images/a/b/amd64/c/20261123", {"lxd.tar.xz": b"no tarball", "rootfs.squashfs": b"hsqs"})
    system.catch_up()
    assert system.streams()["streams/v1/images.json"] == before
    assert unlisted(system) == {
        "ubuntu:noble:amd64:default": {NEW: "incomplete"},
        "a:b:amd64:c": {"20261123": "invalid"},
    }


def test_removing_the_last_image_of_a_stream_removes_its_index_entry(system: System) -> None:
    system.upload(f"{NOBLE}/{NEW}", images.split_image())
    system.catch_up()
    for file in images.split_image():
        system.store.remove(f"{NOBLE}/{NEW}/{file}")
    system.catch_up()
    assert system.listed() == {}
    assert json.loads(system.streams()["streams/v1/index.json"]) == {"format": "index:1.0", "index": {}}


def test_rendering_again_changes_no_byte_and_a_rebuild_from_records_gives_the_same(system: System) -> None:
    system.upload(f"{NOBLE}/{OLD}", images.split_image(seed="1"))
    system.upload(f"images/b/r/amd64/default/{NEW}", images.split_image(seed="1"))
    system.catch_up()
    before = system.streams()
    system.publish(*system.products())
    assert system.streams() == before
    for key in before:
        system.store.remove(key)
    opened = [call for call in system.store.log if call[0] == "open"]
    system.publish(*system.products())
    assert system.streams() == before
    assert [call for call in system.store.log if call[0] == "open"] == opened  # no image was read


def test_rendering_keeps_the_bytes_of_other_products() -> None:
    """A field that a newer release put into a product survives in products that did not change."""
    body = b'{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{}}'
    document = documents.decode_products(body, "images")
    assert documents.encode(fold(document, {}).document) == body


class Text(bytes):
    """The raw JSON of versions; counts how often it is searched for a fingerprint."""

    searches = 0

    def __contains__(self, fingerprint: object) -> bool:
        Text.searches += 1
        return super().__contains__(fingerprint)  # type: ignore[operator]  # a set subclass that counts look-ups


def fingerprints(count: int, kind: str) -> list[str]:
    return [images.sha256_hex(f"{kind} {number}".encode()) for number in range(count)]


def test_new_versions_do_not_each_search_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """One search for each took half a minute for 3,000 of them."""
    raw_versions = documents.raw_versions
    monkeypatch.setattr(documents, "raw_versions", lambda products: Text(raw_versions(products)))
    others = {name: sorted(fingerprints(3, name)) for name in ("a:1:amd64:default", "b:1:amd64:default")}
    products = {
        name: documents.Product(
            aliases=name, arch="amd64", os="x", release="1", release_title="1", variant="default",
            versions={NEW: msgspec.Raw(json.dumps(prints).encode())},
        )
        for name, prints in others.items()
    }  # fmt: skip
    document = msgspec.structs.replace(documents.decode_products(None, "images"), products=products)
    for count in (5, 500):
        gained = [*fingerprints(count, "new"), others["b:1:amd64:default"][1]]
        image = {f: candidates.Image((fingerprint,), "") for f, fingerprint in enumerate(gained)}
        build = SimpleNamespace(images=image)
        Text.searches = 0
        # A separate build, as small as the rule needs.
        new = candidates.Candidate(parse_product("images/c/1/amd64/default"), (build,), ())  # type: ignore[arg-type]
        assert conflicts.entangled(document, {new.id.name: new}) == {"b:1:amd64:default"}
        assert Text.searches <= 2 * conflicts._FEW


def test_a_catalog_is_searched_in_chunks_and_only_chunks_with_a_match_by_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw_versions = documents.raw_versions
    monkeypatch.setattr(documents, "raw_versions", lambda products: Text(raw_versions(products)))
    names = [f"os:{number:03}:amd64:default" for number in range(3 * conflicts._AT_ONCE)]
    product = documents.Product(
        aliases="", arch="amd64", os="os", release="1", release_title="1", variant="", versions={}
    )
    (wanted,), (other,) = fingerprints(1, "wanted"), fingerprints(1, "other")
    products = {
        name: msgspec.structs.replace(product, versions={NEW: msgspec.Raw(json.dumps(print_).encode())})
        for name, print_ in ((name, wanted if name in (names[0], names[-1]) else other) for name in names)
    }
    Text.searches = 0
    assert list(conflicts._listing(products, {wanted.encode()})) == [names[0], names[-1]]
    assert Text.searches == 3 + 2 * conflicts._AT_ONCE
