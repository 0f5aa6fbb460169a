"""The contents of a lost record are kept: withdrawals, published digests, and keys that held other bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imageserver.errors import StorageUnavailable
from imageserver.format.keys import parse_target, parse_version
from imageserver.operations.lost_records import describe, recalled
from imageserver.operations.publish import publish
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import withdraw
from imageserver.versions import records
from imageserver.versions.records import Record
from tests.support import images
from tests.support.memory_store import START, Sent, System

PATH = "images/ubuntu/noble/amd64/default/20261123_1000"
VERSION = parse_version(PATH)
ROOT = f"{PATH}/rootfs.squashfs"


@pytest.fixture
def system() -> System:
    system = System()
    system.upload(PATH, images.split_image())
    system.catch_up()
    return system


def reconciled(system: System) -> list[str]:
    """Reconcile, and return why versions are ingested again; then ingest them."""
    sent, run = Sent(), Run()
    reconcile(ReconcileServices(system.store, sent, ("incus", "lxd")), run)
    assert run.failed == []
    for version in sent.versions:
        system.ingest(version.path)
    system.publish(*system.products())
    return [task.why for task in run.tasks if task.what == "look again"]


def record(system: System) -> Record:
    return records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key)


@pytest.mark.parametrize("target", [PATH, ROOT])
def test_a_withdrawal_outlives_its_record(system: System, target: str) -> None:
    withdraw(system.store, parse_target(target), START, 24, lambda _: None, "a leak")
    before = record(system)
    del system.store.objects[VERSION.record_key]
    (why,) = reconciled(system)
    assert why.startswith("its record is lost; as an earlier one says")
    assert record(system) == before
    assert system.listed() == {}


def test_a_record_that_was_torn_before_it_was_lost_is_skipped(system: System) -> None:
    withdraw(system.store, VERSION, START, 24, lambda _: None)
    system.store.put(VERSION.record_key, b"{torn")
    system.store.put(VERSION.record_key, b"{torn again")
    found = recalled(system.store, VERSION)
    assert found
    assert found.withdrawn
    assert found.withdrawn.since == START.isoformat()
    assert found.state == "withdrawn"
    assert [facts.sha256 for facts in found.files.values()] == ["", ""], "digests come from the images alone"


def test_bytes_replaced_while_the_record_was_lost_are_invalidated(system: System) -> None:
    """The catalog is gone too, so only the earlier record knows that the key held other bytes."""
    for key in [VERSION.record_key, *system.streams()]:
        del system.store.objects[key]
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("other")})
    invalidated: list[str] = []
    sent, run = Sent(), Run()
    reconcile(ReconcileServices(system.store, sent, ("incus", "lxd"), invalidate=invalidated.extend), run)
    assert invalidated == [f"{PATH}/lxd.tar.xz", ROOT]
    invalidated.clear()
    system.ingest(PATH)
    services = replace(system.publish_services, invalidate=invalidated.extend)
    publish("images", [VERSION.product], services)
    assert invalidated == [ROOT]
    assert record(system).replaced == ("rootfs.squashfs",)


def test_bytes_replaced_before_the_record_was_lost_are_invalidated(system: System) -> None:
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("other")})
    system.ingest(PATH)
    for key in [VERSION.record_key, *system.streams()]:
        del system.store.objects[key]
    reconciled(system)
    assert record(system).replaced == ("rootfs.squashfs",)


def test_published_digests_outlive_the_record(system: System) -> None:
    del system.store.objects[VERSION.record_key]
    system.upload(PATH, {"SHA256SUMS": f"{'a' * 64}  rootfs.squashfs\n".encode()})
    catalog = system.streams()
    reconciled(system)
    assert record(system).state == "complete"
    assert system.streams() == catalog


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_version_whose_record_is_lost_for_good_is_found_through_the_catalog(system: System, dry_run: bool) -> None:
    del system.store.objects[VERSION.record_key]
    system.store.generations.clear()
    invalidated: list[str] = []
    sent, run = Sent(), Run(dry_run=dry_run)
    reconcile(ReconcileServices(system.store, sent, ("incus", "lxd"), invalidate=invalidated.extend), run)
    whys = [task.why for task in run.tasks if task.what == "look again"]
    assert whys == [
        "its record is lost; the bucket keeps no earlier one that can be read: if it was withdrawn, withdraw it again"
    ]
    assert (sent.paths, invalidated) == (([], []) if dry_run else ([PATH], [f"{PATH}/lxd.tar.xz", ROOT]))
    assert VERSION.record_key not in system.store.objects


def test_a_version_whose_invalidation_fails_is_left_to_the_next_run(system: System) -> None:
    del system.store.objects[VERSION.record_key]

    def away(_keys: object) -> None:
        raise StorageUnavailable("CloudFront is away")

    sent, run = Sent(), Run()
    reconcile(ReconcileServices(system.store, sent, ("incus", "lxd"), invalidate=away), run)
    assert [str(failure.error) for failure in run.failed] == ["CloudFront is away"]
    assert (sent.paths, VERSION.record_key in system.store.objects) == ([], False)


def test_a_version_that_never_had_a_record_is_ingested_as_usual() -> None:
    system = System()
    system.upload(PATH, images.split_image())
    assert recalled(system.store, VERSION) is None
    sent, run = Sent(), Run()
    invalidated: list[str] = []
    reconcile(ReconcileServices(system.store, sent, ("incus", "lxd"), invalidate=invalidated.extend), run)
    assert invalidated == [], "the edge keeps no 404 for longer than seconds"
    assert reconciled(system) == ["it has no record"]
    assert record(system).state == "complete"


def test_files_that_came_after_a_version_was_deleted_are_not_withdrawn_with_it(system: System) -> None:
    withdraw(system.store, VERSION, START, 0, lambda _: None)
    gone = record(system)
    assert gone.withdrawn
    final = records.encode(Record(version=PATH, files=gone.files, withdrawn=_final(gone.withdrawn), state=gone.state))
    system.store.put(VERSION.record_key, final)
    for key in list(system.store.objects):
        del system.store.objects[key]
    system.upload(PATH, images.split_image(seed="again"))
    reconciled(system)
    assert system.listed() == {VERSION.product.name: ["20261123_1000"]}


def _final(withdrawal: records.Withdrawal) -> records.Withdrawal:
    return records.Withdrawal(withdrawal.since, withdrawal.delete_after, final=True)


def test_a_record_written_meanwhile_is_not_overwritten(system: System) -> None:
    withdraw(system.store, VERSION, START, 24, lambda _: None)
    del system.store.objects[VERSION.record_key]
    other = System(store=system.store)

    def digest_is_faster(method: str, key: str) -> None:
        if (method, key) == ("create", VERSION.record_key):
            system.store.on = lambda *_: None
            other.ingest(PATH)

    system.store.on = digest_is_faster
    reconciled(system)
    assert record(system).withdrawn is None


@pytest.mark.parametrize(
    ("found", "description"),
    [
        (None, "the bucket keeps no earlier one that can be read: if it was withdrawn, withdraw it again"),
        (Record(version=PATH), "as an earlier one says, nothing of it is withdrawn"),
        (
            Record(version=PATH, withdrawn=records.Withdrawal("2026-11-23T10:00:00Z", "2026-11-24T10:00:00Z")),
            "as an earlier one says, it stays withdrawn since 2026-11-23T10:00:00Z",
        ),
    ],
)
def test_the_description_names_everything_kept_of_a_lost_record(found: Record | None, description: str) -> None:
    assert describe(found) == description
