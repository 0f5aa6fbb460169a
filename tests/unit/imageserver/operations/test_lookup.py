"""Images are found by the names and fingerprints that clients show."""

import pytest

from imageserver.catalog.matching import by_fingerprint
from imageserver.format import documents
from imageserver.format.keys import parse_version
from imageserver.operations.lookup import find_listed, find_recorded
from imageserver.operations.withdraw import withdraw
from imageserver.storage.document_cache import DocumentCache
from tests.support import images
from tests.support.memory_store import System

OLD, NEW = (f"images/ubuntu/noble/amd64/default/{version}" for version in ("20261122_1000", "20261123_1000"))
ARM = "images/ubuntu/noble/arm64/default/20261121_1000"
OTHER = "images-lab/alpine/edge/amd64/default/20261123_1000"


@pytest.fixture
def system() -> System:
    system = System()
    system.upload(OLD, images.split_image(seed="old"))
    system.upload(NEW, {**images.split_image(seed="new"), "disk.qcow2": images.qcow2("new")})
    system.upload(ARM, images.split_image(arch="arm64", seed="arm"))
    system.upload(OTHER, {"image.tar.gz": images.unified_tarball(marker="other")})
    system.catch_up()
    return system


def found(system: System, name: str) -> list[tuple[str, str]]:
    return [(i.version.path, i.file) for i in find_listed(DocumentCache(system.store), name)]


def fingerprints(system: System, path: str) -> dict[str, str]:
    """File of the root -> fingerprint, as the catalog has it."""
    version = parse_version(path)
    product = system.products_document(version.product.stream).products[version.product.name]
    listed = documents.images(documents.decode_versions(product)[version.version])
    return {file: fingerprint for fingerprint, file in listed.items()}


def test_the_fingerprint_of_a_split_image_covers_metadata_and_root(system: System) -> None:
    files = images.split_image(seed="old")
    assert fingerprints(system, OLD) == {
        "rootfs.squashfs": images.sha256_hex(files["lxd.tar.xz"], files["rootfs.squashfs"])
    }


@pytest.mark.parametrize("digits", [6, 12, 64])
@pytest.mark.parametrize("path", [OLD, NEW, ARM, OTHER])
def test_a_fingerprint_or_its_start_finds_the_one_image_in_any_stream(system: System, path: str, digits: int) -> None:
    for file, fingerprint in fingerprints(system, path).items():
        assert found(system, fingerprint[:digits]) == [(path, file)]


def test_a_found_image_knows_whether_its_version_has_other_images(system: System) -> None:
    by_file = fingerprints(system, NEW)
    document = system.products_document()
    (disk,) = by_fingerprint(document, by_file["disk.qcow2"])
    (only,) = by_fingerprint(document, fingerprints(system, OLD)["rootfs.squashfs"])
    assert (disk.of_images, only.of_images) == (2, 1)


def test_an_alias_finds_the_newest_version_for_each_architecture(system: System) -> None:
    assert sorted({path for path, _ in found(system, "ubuntu/noble")}) == [NEW, ARM]
    assert [path for path, _ in found(system, "alpine/edge/default")] == [OTHER]


def test_a_fingerprint_in_upper_case_and_a_remote_in_front_find_the_same(system: System) -> None:
    fingerprint = fingerprints(system, OLD)["rootfs.squashfs"]
    for name in (
        fingerprint.upper(),
        fingerprint[:12].upper(),
        f"mine:{fingerprint[:12]}",
        f"mine:{fingerprint.upper()}",
    ):
        assert found(system, name) == [(OLD, "rootfs.squashfs")]
    assert found(system, "mine:ubuntu/noble") == found(system, "ubuntu/noble") != []
    assert found(system, "mine:yours:ubuntu/noble") == found(system, "mine:") == []


def test_an_alias_of_few_digits_is_not_a_fingerprint(system: System) -> None:
    system.upload(NEW, {"metadata.json": b'{"aliases": ["20261123", "cafe12"]}'})
    system.catch_up()
    assert {path for name in ("20261123", "cafe12") for path, _ in found(system, name)} == {NEW}


@pytest.mark.parametrize("name", ["ubuntu", "ubuntu/nobl", "0123456789ab", "f" * 64, "f" * 65, "", "abc"])
def test_an_unknown_name_finds_nothing(system: System, name: str) -> None:
    assert found(system, name) == []


def test_a_withdrawn_image_is_found_in_the_records_and_not_in_the_catalog(system: System) -> None:
    fingerprint = fingerprints(system, NEW)["disk.qcow2"]
    withdraw(system.store, parse_version(NEW), system.store.clock, 24, lambda _: None)
    system.catch_up()
    assert found(system, fingerprint[:12]) == []
    system.store.put("versions/images/ubuntu/noble/amd64/default/20261124_1000.json", b"no record")
    system.store.put("versions/somebody's own", b"")
    (image,) = find_recorded(system.store, fingerprint[:12])
    assert (image.version.path, image.file, image.fingerprint) == (NEW, "disk.qcow2", fingerprint)
