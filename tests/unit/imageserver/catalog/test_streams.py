"""Clients read all streams of a server as one list: an image is listed once, and a name leads to one product."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta

import pytest

from cli.admin import inventory
from imageserver.api import status
from imageserver.catalog.rights import Rights
from imageserver.format import documents
from imageserver.format.keys import parse_version
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run
from imageserver.storage.document_cache import DocumentCache
from imageserver.versions import records
from tests.support import client_rules, images
from tests.support.memory_store import Sent, System

NOBLE = "ubuntu/noble/amd64/default"
VERSION = "20261123_1000"


def upload(
    system: System, stream: str, seed: str, product: str = NOBLE, version: str = VERSION, **about: object
) -> str:
    path = f"{stream}/{product}/{version}"
    files = images.split_image(seed=seed) | ({"metadata.json": json.dumps(about).encode()} if about else {})
    system.upload(path, files)
    system.ingest(path)
    system.publish(parse_version(path).product)
    return path


def names(system: System, stream: str, product: str = NOBLE) -> list[str]:
    entry = system.products_document(stream).products.get(product.replace("/", ":"))
    return [alias for alias in entry.aliases.split(",") if alias] if entry else []


def state_and_errors(system: System, path: str) -> tuple[str, list[str]]:
    found = status.look(system.store, DocumentCache(system.store), parse_version(path))
    assert found
    return found.status, [reason.sentence for reason in found.reasons if reason.kind == "error"]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(["images", "images-a", "images-x"], 2)))
def test_the_first_uploader_keeps_the_names_of_a_path(first: str, second: str) -> None:
    system = System()
    upload(system, first, "victim", version="20261101_1000")
    path = upload(system, second, "attacker", version="20261124_0900")
    assert names(system, first) == ["ubuntu/noble/amd64/default", "ubuntu/noble/default", "ubuntu/noble"]
    assert names(system, second) == []
    state, errors = state_and_errors(system, path)
    assert state == "listed"
    assert any(f"the alias ubuntu/noble is taken by {first}/{NOBLE}, which was first" in error for error in errors)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("copy", ["images", "images-x"])
def test_sending_the_same_bytes_again_does_not_lose_an_image_to_its_copy(copy: str, times: int) -> None:
    system = System()
    path = upload(system, "images", "victim", version="20261101_1000")
    product = NOBLE if copy != "images" else "team/noble/amd64/default"
    copied = f"{copy}/{product}/20261102_1000"
    system.upload(copied, images.split_image(seed="victim"))
    system.catch_up()
    for _ in range(times):
        system.upload(path, images.split_image(seed="victim"))
        system.catch_up()
    assert system.listed("images")[NOBLE.replace("/", ":")] == ["20261101_1000"]
    assert names(system, "images") == ["ubuntu/noble/amd64/default", "ubuntu/noble/default", "ubuntu/noble"]
    assert state_and_errors(system, copied)[0] == "withheld"


def warnings(system: System, path: str) -> list[str]:
    found = status.look(system.store, DocumentCache(system.store), parse_version(path))
    assert found
    return [reason.sentence for reason in found.reasons if reason.kind == "warning"]


def test_the_holder_of_a_name_or_image_learns_of_each_claim_from_another_stream() -> None:
    system = System()
    held = upload(system, "images", "victim")
    upload(system, "images-x", "victim", version="20261124_0900")
    upload(system, "images-y", "own", version="20261124_0900")
    found = warnings(system, held)
    name = NOBLE.replace("/", ":")
    copy = f"images-x:{name}/20261124_0900/rootfs.squashfs is a copy of this image; it is listed here only"
    claim = f"images-y:{name} asks for the alias ubuntu/noble too; it stays with {name}"
    assert copy in found
    assert claim in found
    summary = inventory.read_catalog(system.store).shared[held]
    assert copy in summary
    assert claim in summary


def test_a_damaged_document_of_another_stream_hides_no_status() -> None:
    system = System()
    path = upload(system, "images", "mine")
    system.store.put("streams/v1/images-x.json", b"not JSON")
    assert state_and_errors(system, path) == ("listed", [])


def test_the_first_uploader_keeps_its_names_after_retention_deletes_its_first_versions() -> None:
    system = System()
    for number in range(1, 4):
        path = upload(system, "images", f"build {number}", version=f"2026110{number}_1000")
        if number == 1:
            upload(system, "images-x", "attacker", version="20261102_0900")
        else:
            delete(system, f"images/{NOBLE}/2026110{number - 1}_1000")
    assert system.listed() == {NOBLE.replace("/", ":"): ["20261103_1000"]}
    assert state_and_errors(system, path) == ("listed", [])
    assert names(system, "images") == ["ubuntu/noble/amd64/default", "ubuntu/noble/default", "ubuntu/noble"]
    assert names(system, "images-x") == []


@pytest.mark.parametrize("first", ["images", "images-x"])
@pytest.mark.parametrize("alias", ["ubuntu/noble/amd64", "ubuntu/noble/default/amd64"])
def test_an_alias_with_an_architecture_suffix_follows_the_alias_without_it(first: str, alias: str) -> None:
    system = System()

    def victim() -> None:
        upload(system, "images", "victim")

    def attacker() -> None:
        upload(system, "images-x", "attacker", product="evil/1/amd64/default", aliases=[alias, "evil"])

    for step in (victim, attacker) if first == "images" else (attacker, victim):
        step()
    assert names(system, "images-x", "evil/1/amd64/default")[-1] == "evil"
    assert alias not in names(system, "images-x", "evil/1/amd64/default")
    _, errors = state_and_errors(system, f"images-x/evil/1/amd64/default/{VERSION}")
    assert any(f"the alias {alias} is taken by images/{NOBLE}, which was first" in error for error in errors)
    served = system.streams()
    for client in ("lxd", "incus"):
        found = client_rules.read_catalog(served["streams/v1/index.json"], served, client)
        assert client_rules.resolve_alias(found, alias).properties["os"] == "ubuntu"


def test_a_granted_name_goes_to_its_grantee_even_if_another_uploaded_first() -> None:
    rights = Rights.parse('{"v": ["images/ubuntu/", "alias:ubuntu/*"], "x": ["images-x/"]}')
    system = System(rights=rights)
    upload(system, "images-x", "squatter", version="20261101_1000")
    upload(system, "images", "owner", version="20261124_0900")
    assert "ubuntu/noble" in names(system, "images")
    assert "ubuntu/noble" not in names(system, "images-x")


def test_a_wholly_deleted_product_loses_its_precedence() -> None:
    system = System()
    delete(system, upload(system, "images", "old", version="20261101_1000"))
    upload(system, "images-x", "other", version="20261102_0900")
    upload(system, "images", "new", version="20261103_1000")
    assert "ubuntu/noble" in names(system, "images-x")
    assert "ubuntu/noble" not in names(system, "images")


def test_a_damaged_record_of_its_product_stops_no_new_version() -> None:
    system = System()
    first = upload(system, "images", "old", version="20261101_1000")
    system.store.put(parse_version(first).record_key, b"{")
    path = f"images/{NOBLE}/20261102_1000"
    system.upload(path, images.split_image(seed="new"))
    assert system.ingest(path).outcome == "recorded"


def delete(system: System, path: str) -> None:
    """Delete the files and the record of a version, as prune finally does."""
    version = parse_version(path)
    for key in [key for key in system.store.objects if key.startswith(version.prefix)]:
        system.store.remove(key)
    system.store.remove(version.record_key)
    system.publish(version.product)


def in_parts(system: System, path: str, files: dict[str, bytes], begun: timedelta) -> None:
    """Upload files in parts. The upload of each began this long ago, and S3 dates it by its start."""
    for name, body in files.items():
        system.store.put(f"{path}/{name}", body)
        stored = system.store.objects[f"{path}/{name}"]
        stored.etag = f'"{stored.etag[1:-1]}-2"'
        stored.modified -= begun


def test_a_multipart_upload_counts_from_its_completion_not_its_start() -> None:
    system = System()
    own = upload(system, "images", "victim", version="20261101_1000")
    path = f"images-x/{NOBLE}/20261101_1000"
    in_parts(system, path, images.split_image(seed="victim"), timedelta(hours=6))
    system.ingest(path)
    system.publish(parse_version(path).product)
    assert state_and_errors(system, own) == ("listed", [])
    assert state_and_errors(system, path)[0] == "withheld"


def test_the_date_of_a_multipart_upload_stays_when_it_is_examined_again() -> None:
    system = System()
    path = f"images/{NOBLE}/20261101_1000"
    in_parts(system, path, images.split_image(), timedelta(hours=6))
    system.ingest(path)
    key = parse_version(path).record_key
    before = records.decode(system.store.objects[key].body, key)
    assert {facts.uploaded for facts in before.files.values()} == {before.files["lxd.tar.xz"].arrived}
    system.store.clock += timedelta(hours=9)
    system.upload(path, {"disk.qcow2": images.qcow2()})
    system.ingest(path)
    after = records.decode(system.store.objects[key].body, key)
    assert after.files["lxd.tar.xz"] == before.files["lxd.tar.xz"]
    assert after.files["disk.qcow2"].arrived == ""


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(["images", "images-x"], 2)))
@pytest.mark.parametrize("product", [NOBLE, "debian/trixie/amd64/default"])
def test_an_image_in_two_streams_is_listed_once_by_the_first_uploader(first: str, second: str, product: str) -> None:
    system = System()
    upload(system, first, "same")
    path = upload(system, second, "same", product, "20261124_0900")
    assert list(system.listed(first)) == ["ubuntu:noble:amd64:default"]
    assert system.listed(second) == {}
    state, errors = state_and_errors(system, path)
    assert state == "withheld"
    assert any(f"{first}:ubuntu:noble:amd64:default lists" in error for error in errors)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_version_withheld_for_another_stream_is_listed_once_that_releases_the_image(is_lost: bool) -> None:
    """Publish sends a message about it. If that is lost, the next reconcile sends one."""
    system = System()
    first = upload(system, "images", "same")
    upload(system, "images-x", "same", version="20261124_0900")
    for key in [key for key in system.store.objects if key.startswith(f"{first}/")]:
        system.store.remove(key)
    system.ingest(first)
    if is_lost:
        system.publish_once(parse_version(first).product)
        assert [product.path for product in system.outdated] == [f"images-x/{NOBLE}"]
        system.outdated.clear()
        sent = Sent()
        reconcile(ReconcileServices(system.store, sent, system.clients), Run())
        assert [product.path for product in sent.products] == [f"images-x/{NOBLE}"]
        system.publish(*sent.products)
    else:
        system.publish(parse_version(first).product)
    assert system.listed("images-x") == {"ubuntu:noble:amd64:default": ["20261124_0900"]}
    assert "ubuntu/noble" in names(system, "images-x")
    assert system.products_document("images-x").withheld == {}


def test_an_earlier_upload_takes_image_and_names_from_another_stream_even_if_ingested_later() -> None:
    """The order of events does not matter: the earlier upload is ingested after the later one is listed."""
    system = System()
    early = f"images-x/{NOBLE}/{VERSION}"
    system.upload(early, images.split_image(seed="same"))
    upload(system, "images", "same")
    assert names(system, "images")[-1] == "ubuntu/noble"
    system.ingest(early)
    system.publish(parse_version(early).product)
    assert system.listed("images") == {}
    assert names(system, "images-x")[-1] == "ubuntu/noble"


@pytest.mark.parametrize(("owner", "other"), list(itertools.permutations(["images", "images-x"], 2)))
@pytest.mark.parametrize("owner_is_first", [True, False])
def test_the_name_of_a_path_takes_precedence_over_a_claim_in_another_stream(
    owner: str, other: str, owner_is_first: bool
) -> None:
    system = System()
    if owner_is_first:
        upload(system, owner, "owner", "ubuntu/lts/amd64/default")
    upload(system, other, "other", "debian/x/amd64/default", aliases=["ubuntu/lts", "mine"])
    if not owner_is_first:
        upload(system, owner, "owner", "ubuntu/lts/amd64/default")
    assert "ubuntu/lts" in names(system, owner, "ubuntu/lts/amd64/default")
    assert "ubuntu/lts" not in names(system, other, "debian/x/amd64/default")
    assert "mine" in names(system, other, "debian/x/amd64/default")


@pytest.mark.parametrize("owner", ["images", "images-x"])
@pytest.mark.parametrize("owner_is_first", [True, False])
@pytest.mark.parametrize(
    ("product", "alias"),
    [
        ("a/r/amd64/amd64", "a/r"),  # clients derive a/r/amd64
        ("a/r/amd64/amd64", "a/r/amd64"),  # clients derive a/r/amd64/amd64
        ("ubuntu/amd64/amd64/default", "ubuntu"),  # clients derive ubuntu/amd64
    ],
)
def test_a_claim_is_withheld_if_clients_derive_the_name_of_a_path_from_it(
    owner: str, owner_is_first: bool, product: str, alias: str
) -> None:
    """Clients add the architecture to each alias, and a folder may be named like an architecture."""
    system = System()
    owner_os = product.partition("/")[0]
    if owner_is_first:
        upload(system, owner, "owner", product)
    upload(system, "images", "other", "debian/x/amd64/default", aliases=[alias, "mine"])
    if not owner_is_first:
        upload(system, owner, "owner", product)
    kept = names(system, "images", "debian/x/amd64/default")
    assert "mine" in kept
    assert alias not in kept
    assert f"{alias}/amd64" in names(system, owner, product)
    _, errors = state_and_errors(system, f"images/debian/x/amd64/default/{VERSION}")
    assert any(f"the alias {alias} is taken by" in error for error in errors)
    served = system.streams()
    for client in ("lxd", "incus"):
        found = client_rules.read_catalog(served["streams/v1/index.json"], served, client)
        assert client_rules.resolve_alias(found, f"{alias}/amd64").properties["os"].lower() == owner_os


def test_the_earlier_upload_wins_an_alias_claimed_in_two_streams() -> None:
    system = System()
    upload(system, "images-x", "1", "zeta/1/amd64/default", aliases=["lts"])
    upload(system, "images", "2", "alma/1/amd64/default", aliases=["lts"])
    assert "lts" in names(system, "images-x", "zeta/1/amd64/default")
    assert "lts" not in names(system, "images", "alma/1/amd64/default")
    upload(system, "images-x", "3", "beta/1/amd64/default", aliases=["lts"])  # within a stream the first by name wins
    assert "lts" in names(system, "images-x", "beta/1/amd64/default")
    assert "lts" not in names(system, "images", "alma/1/amd64/default")


@pytest.mark.parametrize("grant", ["alias:ubuntu/noble", "alias:ubuntu/*"])
def test_the_operator_can_grant_a_name_against_the_order_of_uploads(grant: str) -> None:
    rights = Rights.parse(json.dumps({"daily": ["images-daily/"], "stable": ["images/", grant]}))
    system = System(rights=rights)
    upload(system, "images-daily", "1")
    upload(system, "images", "2")
    assert "ubuntu/noble" in names(system, "images")
    assert "ubuntu/noble" not in names(system, "images-daily")


def test_another_architecture_may_share_the_name_across_streams() -> None:
    system = System()
    upload(system, "images", "1")
    path = f"images-x/ubuntu/noble/arm64/default/{VERSION}"
    system.upload(path, images.split_image("arm64", seed="2"))
    system.ingest(path)
    system.publish(parse_version(path).product)
    assert "ubuntu/noble" in names(system, "images")
    assert "ubuntu/noble" in names(system, "images-x", "ubuntu/noble/arm64/default")


def test_a_server_of_one_stream_reads_no_document_of_another() -> None:
    system = System()
    upload(system, "images", "1")
    system.store.log.clear()
    upload(system, "images", "2", "debian/trixie/amd64/default")
    read = {key for method, key in system.store.log if method == "read" and key.startswith("streams/")}
    assert read == {
        documents.INDEX_KEY,
        "streams/v1/images.json",
        "streams/v1/images.unlisted.json",
        "streams/v1/images.atom",
    }


EVENTS = [
    ("images", "same", NOBLE, {}),
    ("images-x", "same", NOBLE, {}),
    ("images-y", "same", "debian/trixie/amd64/default", {"aliases": ["ubuntu/noble", "lts"]}),
    ("images-x", "other", "alma/9/amd64/default", {"aliases": ["lts"]}),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(EVENTS)))))
def test_any_order_of_events_across_streams_ends_in_the_same_bytes(order: tuple[int, ...]) -> None:
    """The uploads and their times are the same; digest and publish see them in another order."""
    system = System()
    paths = []
    for stream, seed, product, about in EVENTS:
        paths.append(f"{stream}/{product}/{VERSION}")
        system.upload(paths[-1], images.split_image(seed=seed) | {"metadata.json": json.dumps(about).encode()})
    for index in order:
        system.ingest(paths[index])
        system.publish(parse_version(paths[index]).product)
    served = system.streams()
    system.publish(*system.products())
    assert system.streams() == served
    assert system.listed("images") == {"ubuntu:noble:amd64:default": [VERSION]}
    assert system.listed("images-x") == {"alma:9:amd64:default": [VERSION]}
    assert names(system, "images-x", "alma/9/amd64/default")[-1] == "lts"
    assert system.listed("images-y") == {}
    rebuilt = System(store=system.store)
    for key in served:
        rebuilt.store.remove(key)
    rebuilt.publish(*rebuilt.products())
    assert rebuilt.streams().keys() >= {f"streams/v1/{stream}.json" for stream in ("images", "images-x", "images-y")}
    for stream in ("images", "images-x", "images-y"):
        key = documents.products_key(stream)
        assert rebuilt.streams()[key] == served[key]
