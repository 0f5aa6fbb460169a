"""Version names: respins, the clients' order, dates ahead of their upload, and which product keeps an alias."""

from datetime import UTC, datetime

import pytest

from imageserver.api import status
from imageserver.format import documents
from imageserver.format.keys import parse_product, parse_version, version_form
from imageserver.storage.document_cache import DocumentCache
from imageserver.versions import records
from imageserver.versions.assessment import ahead_of_upload, new_record
from imageserver.versions.records import FileFacts, Record
from imageserver.versions.retention import Rule, expired
from tests.support import images
from tests.support.memory_store import System

NOBLE = "images/ubuntu/noble/amd64/default"
RESPINS = ("20261101", "20261101.1", "20261101.10", "20261101.2", "20261102", "20261102.1")
"""In the order in which clients sort them: as texts."""


@pytest.fixture
def system() -> System:
    return System()


def listed(system: System, product: str = NOBLE) -> list[str]:
    found = status.of_product(DocumentCache(system.store), parse_product(product))
    return found.versions if found else []


def record_of(system: System, path: str) -> Record:
    key = f"versions/{path}.json"
    return records.decode(system.store.objects[key].body, key)


def hints(version: str, uploaded: str = "2026-11-23T10:00:00+00:00") -> list[str]:
    facts = FileFacts(etag="e", size_bytes=1, modified=uploaded)
    record = new_record(parse_version(f"{NOBLE}/{version}"), {"lxd.tar.xz": facts}, None)
    return [reason.sentence for reason in record.reasons if reason.kind == "warning"]


def test_a_respin_has_the_form_of_its_day() -> None:
    assert {version_form(version) for version in RESPINS} == {"YYYYMMDD"}


def test_respins_are_listed_together_and_ordered_as_clients_order_them(system: System) -> None:
    for number, version in enumerate(RESPINS):
        system.upload(f"{NOBLE}/{version}", images.split_image(seed=str(number)))
    system.catch_up()
    assert listed(system) == sorted(RESPINS, reverse=True)
    product = system.products_document().products["ubuntu:noble:amd64:default"]
    assert max(documents.decode_versions(product)) == "20261102.1"


def test_retention_keeps_the_newest_in_the_order_of_clients(system: System) -> None:
    for number, version in enumerate(RESPINS):
        system.upload(f"{NOBLE}/{version}", images.split_image(seed=str(number)))
    system.catch_up()
    known = [record_of(system, f"{NOBLE}/{version}") for version in RESPINS]
    plan = expired(known, RESPINS, Rule(versions=3), datetime(2026, 11, 23, tzinfo=UTC))
    assert [version.version for version, _ in plan] == ["20261101", "20261101.1", "20261101.10"]


@pytest.mark.parametrize(
    ("version", "is_hinted"),
    [("20261101.9", False), ("20261101.10", True), ("20261101.123", True), ("20261101.01", False), ("20261101", False)],
)
def test_a_hint_names_a_respin_that_clients_sort_before_an_earlier_one(version: str, is_hinted: bool) -> None:
    assert any("clients order versions as texts" in hint for hint in hints(version)) == is_hinted


@pytest.mark.parametrize(
    ("version", "is_withheld"),
    [
        ("20991231_0000", True),
        ("20261124_1001", True),
        ("20261124_10:00", False),  # within a day: clocks and time zones differ
        ("20261123_1000", False),
        ("20261124", False),
        ("20261125", True),
        ("20261125.1", True),
        ("20200101", False),
    ],
)
def test_a_version_dated_ahead_of_its_upload_is_withheld_with_the_reason(version: str, is_withheld: bool) -> None:
    facts = FileFacts(etag="e", size_bytes=1, modified="2026-11-23T10:00:00+00:00")
    record = new_record(parse_version(f"{NOBLE}/{version}"), {"lxd_combined.tar.gz": facts}, None)
    assert ("is dated ahead of its upload on 2026-11-23" in ahead_of_upload(record)) == is_withheld


def test_the_date_of_a_version_is_compared_with_its_latest_upload() -> None:
    facts = {
        "lxd.tar.xz": FileFacts(etag="a", size_bytes=1, modified="2026-11-01T00:00:00+00:00"),
        "rootfs.squashfs": FileFacts(etag="b", size_bytes=1, modified="2026-11-23T10:00:00+00:00"),
    }
    record = new_record(parse_version(f"{NOBLE}/20261123_1000"), facts, None)
    assert ahead_of_upload(record) == ""


@pytest.mark.parametrize("ahead", ["99991231_2359", "20991231", "20271123_10:00"])
def test_a_version_dated_ahead_does_not_hide_a_real_one(system: System, ahead: str) -> None:
    """It does not decide the form of the names, take an image from a real version, or end an override either."""
    system.upload(f"{NOBLE}/{ahead}", images.split_image(seed="real") | {"metadata.json": b'{"os": "Later"}'})
    for older in ("20261122_1000", "20261123_1000"):
        system.upload(f"{NOBLE}/{older}", images.split_image(seed=older if older < "20261123" else "real"))
        system.catch_up()
    assert listed(system) == ["20261123_1000", "20261122_1000"]
    assert system.products_document().products["ubuntu:noble:amd64:default"].os == "ubuntu"
    found = status.look(system.store, DocumentCache(system.store), parse_version(f"{NOBLE}/{ahead}"))
    assert found
    assert found.status == "withheld"
    assert [r.kind for r in found.reasons if f"{ahead} is dated ahead of its upload" in r.sentence] == ["error"]


def test_a_version_dated_ahead_is_listed_when_a_file_of_it_is_uploaded_on_its_day(system: System) -> None:
    path = f"{NOBLE}/20261126_1000"
    system.upload(path, images.split_image())
    system.catch_up()
    assert listed(system) == []
    system.store.clock = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)
    system.upload(path, {"metadata.json": b"{}"})
    system.catch_up()
    assert listed(system) == ["20261126_1000"]


def test_a_product_without_a_listed_version_has_no_versions(system: System) -> None:
    assert status.of_product(DocumentCache(system.store), parse_product(NOBLE)) is None


@pytest.mark.parametrize(("plain", "level"), [("amd64", "amd64v3"), ("x86_64", "amd64v3"), ("x86_64", "x86_64_v2")])
def test_the_plain_architecture_keeps_an_alias_that_a_level_asks_for_too(
    system: System, plain: str, level: str
) -> None:
    for arch in (level, plain):
        system.upload(f"images/ubuntu/noble/{arch}/default/20261123_1000", images.split_image("amd64", seed=arch))
    system.catch_up()
    products = system.products_document().products
    assert "ubuntu/noble" in products[f"ubuntu:noble:{plain}:default"].aliases.split(",")
    assert products[f"ubuntu:noble:{level}:default"].aliases == f"ubuntu/noble/{level}/default"


def test_an_alias_without_a_release_belongs_to_the_product_of_that_path_first(system: System) -> None:
    """lxd-imagebuilder gives `ubuntu/cloud` to the release `current`; it is also the path of a release named cloud."""
    system.upload("images/ubuntu/current/amd64/cloud/20261123_1000", images.split_image(seed="1"))
    system.catch_up()
    assert system.products_document().products["ubuntu:current:amd64:cloud"].aliases.split(",")[-1] == "ubuntu/cloud"
    system.upload("images/ubuntu/cloud/amd64/default/20261123_1000", images.split_image(seed="2"))
    system.catch_up()
    products = system.products_document().products
    assert "ubuntu/cloud" not in products["ubuntu:current:amd64:cloud"].aliases.split(",")
    assert "ubuntu/cloud" in products["ubuntu:cloud:amd64:default"].aliases.split(",")
