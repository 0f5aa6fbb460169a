"""The status of a version in the API, and how long the API waits for a change."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from imageserver.api import status
from imageserver.api.schema import FileStatus, VersionStatus
from imageserver.storage.document_cache import DocumentCache
from imageserver.versions.state import State
from tests.support import images
from tests.support.client_rules import read_catalog
from tests.support.memory_store import MemoryStore, System
from tests.support.two_versions import PATH, VERSION, status_of, two_versions


@pytest.fixture
def system() -> System:
    return two_versions()


@pytest.mark.parametrize("clients", [("incus", "lxd"), ("lxd",), ("incus",)])
def test_the_status_of_a_listed_version_names_the_clients_that_see_it(clients: tuple[str, ...]) -> None:
    system = System(clients=clients)
    system.upload(PATH, images.split_image())
    system.catch_up()
    assert status_of(system).clients == list(clients)


def test_an_unknown_version_has_no_status() -> None:
    store = MemoryStore()
    assert status.look(store, DocumentCache(store), VERSION) is None


def test_files_without_a_record_are_incomplete() -> None:
    system = System()
    system.upload(PATH, {"lxd.tar.xz": b"x"})
    assert status_of(system).status == "incomplete"
    assert status_of(system).files == {"lxd.tar.xz": FileStatus(size=1, uploaded_at=system.store.clock.isoformat())}
    assert "has arrived and is about to be read" in status_of(system).reasons[0].sentence


def test_a_multipart_file_is_awaited_like_a_fresh_one_however_early_its_upload_began(system: System) -> None:
    key = f"{PATH}/disk.qcow2"
    system.store.put(key, images.qcow2())
    stored = system.store.objects[key]
    stored.etag, stored.modified = '"0123456789abcdef0123456789abcdef-7"', stored.modified - timedelta(hours=5)
    found = status_of(system)
    assert found.files["disk.qcow2"].uploaded_at == ""
    assert status.hold_s(found, system.store.clock) == status.LONGEST_HOLD_S
    seen = system.store.clock
    system.ingest(PATH)
    assert status_of(system).files["disk.qcow2"].uploaded_at == seen.isoformat()


def test_an_invalid_version_with_a_new_upload_is_incomplete_again(system: System) -> None:
    path = f"{VERSION.product.path}/20261123_11:00"
    system.upload(path, {"lxd.tar.xz": b"nonsense"})
    system.catch_up()
    assert (status_of(system, path).status, status.is_terminal(status_of(system, path))) == ("invalid", True)
    system.upload(path, images.split_image(seed="mended"))
    assert (status_of(system, path).status, status.is_terminal(status_of(system, path))) == ("incomplete", False)
    system.catch_up()
    assert status_of(system, path).status == "listed"


def test_a_published_version_with_a_new_file_is_published_and_not_terminal(system: System) -> None:
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    assert (status_of(system).status, status.is_terminal(status_of(system))) == ("listed", False)
    assert status_of(system).reasons[-1].sentence == "disk.qcow2 has arrived and is about to be read"


def test_a_version_is_complete_until_it_is_listed() -> None:
    system = System()
    system.upload(PATH, images.split_image())
    system.ingest(PATH)
    assert status_of(system).status == "complete"
    assert "is complete and about to be listed" in status_of(system).reasons[0].sentence
    system.publish(VERSION.product)
    assert status_of(system).status == "listed"
    assert status_of(system).aliases == ["ubuntu/noble/amd64/default", "ubuntu/noble/default", "ubuntu/noble"]


def test_a_new_file_of_a_listed_version_waits_until_the_catalog_has_it(system: System) -> None:
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.ingest(PATH)
    assert (status_of(system).status, status.is_terminal(status_of(system))) == ("listed", False)
    assert status_of(system).reasons[-1].sentence == "disk.qcow2 is complete and about to be listed"
    system.publish(VERSION.product)
    assert status.is_terminal(status_of(system))


def test_new_content_of_a_listed_file_waits_until_the_catalog_has_its_digest(system: System) -> None:
    """This holds whatever publish has processed meanwhile: here nothing."""
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("another")})
    system.ingest(PATH)
    assert status_of(system).reasons[-1].sentence == "rootfs.squashfs is complete and about to be listed"
    system.publish(VERSION.product)
    assert status.is_terminal(status_of(system))


def test_a_delta_is_awaited_until_the_catalog_lists_it_or_gives_a_reason(system: System) -> None:
    base = "20261101_10:00"
    system.upload(PATH, {f"rootfs.{base}.vcdiff": images.vcdiff("x")})
    system.ingest(PATH)
    assert (status_of(system).status, status.is_terminal(status_of(system))) == ("listed", False)
    assert status_of(system).reasons[-1].sentence == f"rootfs.{base}.vcdiff is complete and about to be listed"
    system.publish(VERSION.product)
    assert status.is_terminal(status_of(system))
    assert "which is not listed: clients download the whole root" in status_of(system).reasons[-1].sentence


def test_a_root_listed_by_another_product_is_not_awaited(system: System) -> None:
    first = "images/alpine/edge/amd64/default/20261123_10:00"
    metadata = system.store.objects[f"{PATH}/lxd.tar.xz"].body
    system.upload(first, {"lxd.tar.xz": metadata, "disk.qcow2": images.qcow2("shared")})
    system.upload(PATH, {"disk.qcow2": images.qcow2("shared")})
    system.catch_up()
    assert (status_of(system).status, status.is_terminal(status_of(system))) == ("listed", True)
    assert any(
        "the same image as one that alpine:edge:amd64:default lists" in r.sentence for r in status_of(system).reasons
    )


def test_a_version_without_a_root_names_the_file_to_upload() -> None:
    system = System()
    system.upload(PATH, {"lxd.tar.xz": images.metadata_tarball()})
    system.catch_up()
    assert status_of(system).status == "incomplete"
    assert "waits for a root: upload rootfs.squashfs" in status_of(system).reasons[0].sentence


def test_a_complete_version_that_the_catalog_cannot_list_is_withheld_with_the_reason(system: System) -> None:
    wrong_form = f"{VERSION.product.path}/20261121"
    system.upload(wrong_form, images.split_image(seed="third"))
    system.catch_up()
    assert status_of(system, wrong_form).status == "withheld"
    assert "is named YYYYMMDD, expected YYYYMMDD_HH:MM" in status_of(system, wrong_form).reasons[-1].sentence


def test_the_same_image_twice_is_withheld_and_names_the_product_that_lists_it(system: System) -> None:
    again = "images/ubuntu/zesty/amd64/default/20261123_10:00"
    system.upload(again, images.split_image(seed="new"))
    system.catch_up()
    assert status_of(system, again).status == "withheld"
    assert "the same image as one that ubuntu:noble:amd64:default lists" in status_of(system, again).reasons[0].sentence
    (reason,) = status_of(system).reasons
    assert (reason.kind, status_of(system).status) == ("warning", "listed")
    assert reason.sentence.startswith(
        "ubuntu:zesty:amd64:default/20261123_10:00/rootfs.squashfs is a copy of this image"
    )


def test_a_listed_version_names_the_root_and_the_alias_that_others_have_as_errors(system: System) -> None:
    part = "images/ubuntu/zesty/amd64/default/20261123_10:00"
    claim = {"metadata.json": b'{"aliases": "ubuntu/noble"}'}
    files = images.split_image(seed="new") | claim | {"disk.qcow2": images.qcow2("own")}
    system.upload(part, files)
    system.catch_up()
    found = status_of(system, part)
    assert found.status == "listed"
    assert [(reason.kind, reason.file) for reason in found.reasons] == [("error", "rootfs.squashfs"), ("error", "")]
    assert "ubuntu:noble:amd64:default" in found.reasons[0].sentence
    assert found.reasons[1].sentence == "the alias ubuntu/noble is taken by ubuntu:noble:amd64:default"
    (alias, copy) = [reason.sentence for reason in status_of(system).reasons]
    assert alias == (
        "ubuntu:zesty:amd64:default asks for the alias ubuntu/noble too; it stays with ubuntu:noble:amd64:default"
    )
    assert "is a copy of this image" in copy


def test_the_catalog_is_reread_only_when_it_changed(system: System) -> None:
    cache = DocumentCache(system.store)
    status.look(system.store, cache, VERSION)
    system.store.log.clear()
    status.look(system.store, cache, VERSION)
    assert ("read", "streams/v1/images.json") not in system.store.log
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.catch_up()
    found = status.look(system.store, cache, VERSION)
    assert found
    assert len(found.fingerprints) == 2


def test_waiting_ends_with_a_change_or_at_the_requested_time() -> None:
    passed = 0.0
    looks = 0

    def tick(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    def look() -> VersionStatus:
        nonlocal looks
        looks += 1
        return VersionStatus(path=PATH, status=State.LISTED if looks == 4 else State.INCOMPLETE, reasons=[], files={})

    found = status.wait(look, lambda s: s.status == "incomplete", lambda: passed, lambda _: 20, tick)
    assert found
    assert (found.status, looks) == ("listed", 4)
    looks = 10
    passed = 0.0
    found = status.wait(look, lambda s: s.status == "incomplete", lambda: passed, lambda _: 20, tick)
    assert found
    assert found.status == "incomplete"
    assert 19 <= passed <= 20


@pytest.mark.parametrize(
    ("age_s", "hold_s", "again_s"),
    [(0, 25, 1), (59, 25, 1), (60, 5, 30), (90, 5, 45), (120, 5, 60), (86_400, 5, 60)],
)
def test_a_long_wait_is_held_shorter_and_retried_later(age_s: int, hold_s: float, again_s: int) -> None:
    system = System()
    system.upload(PATH, {"lxd.tar.xz": b"x"})
    now = system.store.clock + timedelta(seconds=age_s)
    assert (status.hold_s(status_of(system), now), status.ask_again_s(status_of(system), now)) == (hold_s, again_s)


def test_a_new_file_restarts_the_wait_and_a_terminal_version_is_held_as_requested(system: System) -> None:
    later = system.store.clock + timedelta(days=1)
    assert (status.hold_s(status_of(system), later), status.ask_again_s(status_of(system), later)) == (25, 0)
    assert status.hold_s(None, later) == 25
    system.store.clock = later
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    assert (status.hold_s(status_of(system), later), status.ask_again_s(status_of(system), later)) == (25, 1)


def test_publishers_behind_a_long_queue_occupy_few_concurrent_executions() -> None:
    """Each asks as scripts/upload does, for 300 s, and nothing is listed; infra/SCALE.md has the figures."""
    system = System()
    system.upload(PATH, {"lxd.tar.xz": b"x"})
    waiting, now = status_of(system), system.store.clock
    end, held_s, requests = now + timedelta(seconds=300), 0.0, 0

    def tick(seconds: float) -> None:
        nonlocal now
        now += timedelta(seconds=seconds)

    def ask(wait_s: float) -> float:
        began = now

        def passed_s() -> float:
            return (now - began).total_seconds()

        def longest(found: VersionStatus | None) -> float:
            return min(wait_s, status.hold_s(found, now))

        status.wait(lambda: waiting, lambda _: True, passed_s, longest, tick)
        return passed_s()

    while now < end:
        held_s, requests = held_s + ask(min(20, (end - now).total_seconds())), requests + 1
        tick(min(status.ask_again_s(waiting, now), (end - now).total_seconds()))
    requests += 1  # the last look
    a_second = 1.4
    assert (round(held_s * a_second), round(requests * a_second)) == (106, 11)


def contents(kind: str, seed: str) -> dict[str, bytes]:
    """Return the files of a version that holds a container, a virtual machine, or both, split or in one tarball."""
    whole = {"lxd_combined.tar.gz": images.unified_tarball(marker=seed)}
    disk = {"disk.qcow2": images.qcow2(seed)}
    split = images.split_image(seed=seed)
    return {
        "container": split,
        "machine": {"lxd.tar.xz": split["lxd.tar.xz"], **disk},
        "both": {**split, **disk},
        "whole": whole,
    }[kind]


KINDS = ("container", "machine", "both", "whole")


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)), ids="-".join)
def test_a_status_has_the_aliases_that_lead_clients_to_each_image_of_the_version(kinds: tuple[str, str]) -> None:
    system = System()
    paths = [f"{VERSION.product.path}/{day}" for day in ("20261121", "20261122")]
    for path, kind in zip(paths, kinds, strict=True):
        system.upload(path, contents(kind, path))
    system.catch_up()
    streams = system.streams()
    seen = [
        image for client in system.clients for image in read_catalog(streams["streams/v1/index.json"], streams, client)
    ]
    for path in paths:
        found = status_of(system, path)
        mine = [image for image in seen if image.fingerprint in found.fingerprints]
        assert mine
        assert bool(found.aliases) == all(image.names for image in mine), path
