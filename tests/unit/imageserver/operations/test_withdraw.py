"""Withdrawals and restores: of a product, a version and a file, and their races."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogBusy
from imageserver.format.keys import parse_key, parse_target, path_of
from imageserver.operations import withdraw
from imageserver.versions import records
from imageserver.versions.assessment import assessed
from tests.support import images
from tests.support.memory_store import START, System
from tests.support.two_versions import OTHER, PATH, VERSION, status_of, two_versions


def pause(_: float) -> None:
    """Do not wait."""


@pytest.fixture
def system() -> System:
    return two_versions()


def test_a_withdrawn_version_is_delisted_and_its_files_stay(system: System) -> None:
    done = withdraw.withdraw(system.store, VERSION, START, 24, pause)
    assert (done.versions, done.delete_after) == ([PATH], "2026-11-24T10:00:00+00:00")
    system.catch_up()
    assert system.listed() == {VERSION.product.name: ["20261122_10:00"]}
    assert f"{PATH}/rootfs.squashfs" in system.store.objects
    assert (status_of(system).status, status_of(system).delete_after) == ("withdrawn", "2026-11-24T10:00:00+00:00")
    assert "can be restored until 2026-11-24T10:00:00+00:00" in status_of(system).reasons[0].sentence


@pytest.mark.parametrize("hours", [10**8, 10**20])
def test_a_grace_time_that_ends_behind_any_date_keeps_the_files(system: System, hours: int) -> None:
    assert withdraw.withdraw(system.store, VERSION, START, hours, pause).delete_after == "9999-12-31T23:59:59+00:00"
    system.catch_up()
    assert (status_of(system).status, status_of(system).delete_after) == ("withdrawn", "9999-12-31T23:59:59+00:00")


def test_a_second_withdrawal_keeps_the_first_date_and_reason_and_reports_it(system: System) -> None:
    first = withdraw.withdraw(system.store, VERSION, START, 24, pause, "broken")
    again = withdraw.withdraw(system.store, VERSION, START + timedelta(hours=5), 24, pause, "broken again")
    assert again.delete_after == "2026-11-24T10:00:00+00:00"
    assert first.already == {}
    assert {path: withdrawal.reason for path, withdrawal in again.already.items()} == {PATH: "broken"}


def withdrawal_of(system: System) -> records.Withdrawal | None:
    return records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key).withdrawn


def test_a_manual_withdrawal_replaces_an_automatic_one_but_not_the_reverse(
    system: System,
) -> None:
    later = START + timedelta(hours=5)
    withdraw.withdraw(system.store, VERSION, START, 24, pause, "too many", automatic=True)
    done = withdraw.withdraw(system.store, VERSION, later, 24, pause, "leaks a key")
    assert (done.already, done.delete_after) == ({}, "2026-11-24T15:00:00+00:00")
    again = withdraw.withdraw(system.store, VERSION, later, 24, pause, "too many", automatic=True)
    assert {path: one.reason for path, one in again.already.items()} == {PATH: "leaks a key"}
    withdraw.undo_withdrawal(system.store, VERSION, "too many", pause)
    found = withdrawal_of(system)
    assert found is not None
    assert (found.reason, found.automatic) == ("leaks a key", False)


def test_an_automatic_withdrawal_under_deletion_is_neither_replaced_nor_undone(system: System) -> None:
    withdraw.withdraw(system.store, VERSION, START, 24, pause, "too many", automatic=True)
    seen = system.store.objects[VERSION.record_key]
    record = records.decode(seen.body, VERSION.record_key)
    assert record.withdrawn is not None
    final = assessed(replace(record, withdrawn=replace(record.withdrawn, final=True)))
    system.store.put(VERSION.record_key, records.encode(final))
    assert withdraw.withdraw(system.store, VERSION, START, 24, pause, "leaks a key").deleting.keys() == {PATH}
    withdraw.undo_withdrawal(system.store, VERSION, "too many", pause)
    assert withdrawal_of(system) == final.withdrawn


def test_a_withdrawal_of_a_product_names_the_versions_that_were_already_withdrawn(system: System) -> None:
    withdraw.withdraw(system.store, VERSION, START, 24, pause)
    done = withdraw.withdraw(system.store, VERSION.product, START, 24, pause)
    assert (sorted(done.already), done.versions) == ([PATH], [OTHER, PATH])
    file = parse_key(f"{OTHER}/rootfs.squashfs")
    withdraw.restore(system.store, VERSION.product, pause)
    withdraw.withdraw(system.store, file, START, 24, pause)
    assert sorted(withdraw.withdraw(system.store, file, START, 24, pause).already) == [file.key]


def test_a_restored_version_is_listed_again_without_reading_an_image(system: System) -> None:
    before = system.streams()
    withdraw.withdraw(system.store, VERSION, START, 24, pause)
    system.catch_up()
    read = dict(system.store.bytes_read)
    assert withdraw.restore(system.store, VERSION, pause).versions == [PATH]
    system.catch_up()
    assert system.streams() == before
    assert system.store.bytes_read == read


def test_a_product_is_withdrawn_with_all_its_versions_recorded_or_not(system: System) -> None:
    system.upload(f"{VERSION.product.path}/20261124_10:00", {"lxd.tar.xz": b"not looked at yet"})
    done = withdraw.withdraw(system.store, VERSION.product, START, 24, pause)
    assert done.versions == [f"{VERSION.product.path}/{day}_10:00" for day in ("20261122", "20261123", "20261124")]
    system.catch_up()
    assert system.listed() == {}
    assert status_of(system, f"{VERSION.product.path}/20261124_10:00").status == "withdrawn"


def test_a_withdrawn_file_leaves_the_rest_of_its_version_listed(system: System) -> None:
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.catch_up()
    assert len(status_of(system).fingerprints) == 2
    done = withdraw.withdraw(system.store, parse_key(f"{PATH}/disk.qcow2"), START, 24, pause)
    assert (done.versions, done.files) == ([], [f"{PATH}/disk.qcow2"])
    system.catch_up()
    found = status_of(system)
    assert (found.status, len(found.fingerprints)) == ("listed", 1)
    assert "disk.qcow2 was withdrawn; it is deleted after 2026-11-24T10:00:00+00:00" in found.reasons[0].sentence
    withdraw.restore(system.store, parse_key(f"{PATH}/disk.qcow2"), pause)
    system.catch_up()
    assert len(status_of(system).fingerprints) == 2


def test_another_upload_under_the_name_of_a_withdrawn_file_is_listed(system: System) -> None:
    withdraw.withdraw(system.store, parse_key(f"{PATH}/rootfs.squashfs"), START, 24, pause)
    system.catch_up()
    assert status_of(system).status == "incomplete"
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("another")})
    system.catch_up()
    assert status_of(system).status == "listed"


@pytest.mark.parametrize("seed", ["another", None], ids=["other bytes", "the same bytes"])
def test_a_withdrawal_after_an_upload_that_digest_has_not_seen_covers_that_upload(
    system: System, seed: str | None
) -> None:
    file = parse_key(f"{PATH}/rootfs.squashfs")
    body = images.squashfs(seed) if seed else system.store.objects[file.key].body
    system.store.clock += timedelta(hours=1)
    system.upload(PATH, {file.file: body})
    done = withdraw.withdraw(system.store, file, system.store.clock, 24, pause)
    assert done.files == [file.key]
    system.catch_up()
    assert system.listed() == {VERSION.product.name: ["20261122_10:00"]}
    restored = withdraw.restore(system.store, file, pause)
    assert restored.files == [file.key]
    system.catch_up()
    assert PATH.rpartition("/")[2] in system.listed()[VERSION.product.name]


@pytest.mark.parametrize("file", ["lxd.tar.xz", "incus.tar.xz", "rootfs.squashfs", "disk.qcow2"])
def test_a_restored_file_of_a_listed_version_is_listed_as_before(file: str) -> None:
    system = System()
    files = {"incus.tar.xz": images.metadata_tarball(serial="i"), "disk.qcow2": images.qcow2()}
    system.upload(PATH, images.split_image() | files)
    system.catch_up()
    before = system.streams()["streams/v1/images.json"]
    withdraw.withdraw(system.store, parse_key(f"{PATH}/{file}"), START, 24, pause)
    system.catch_up()
    assert system.streams()["streams/v1/images.json"] != before
    withdraw.restore(system.store, parse_key(f"{PATH}/{file}"), pause)
    system.catch_up()
    assert system.streams()["streams/v1/images.json"] == before


def test_withdrawing_an_unknown_version_is_refused(system: System) -> None:
    nothing = withdraw.Changed()
    for path in ("images/ubuntu/none/amd64/default", f"{VERSION.product.path}/20200101_00:00", f"{PATH}/none.qcow2"):
        target = parse_target(path)
        assert path_of(target) == path
        assert withdraw.withdraw(system.store, target, START, 24, pause) == nothing
        assert withdraw.restore(system.store, target, pause) == nothing


def test_a_withdrawal_that_loses_a_race_restarts_from_fresh_reads(system: System) -> None:
    raced: list[str] = []

    def digest_is_faster(method: str, key: str) -> None:
        if method == "replace" and not raced:
            raced.append(key)
            system.upload(PATH, {"disk.qcow2": images.qcow2()})
            system.ingest(PATH)

    system.store.on = digest_is_faster
    withdraw.withdraw(system.store, VERSION, START, 24, pause)
    record = records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key)
    assert record.withdrawn
    assert "disk.qcow2" in record.files


def test_a_withdrawal_that_loses_every_race_raises_catalog_busy(system: System) -> None:
    system.store.replace = lambda *_: None  # type: ignore[method-assign]  # each race is lost
    with pytest.raises(CatalogBusy):
        withdraw.withdraw(system.store, VERSION, START, 24, pause)


def test_an_ingest_that_lost_to_a_withdrawal_does_not_undo_it(system: System) -> None:
    """Its digests stay valid; the withdrawal of the file is newer."""
    raced: list[str] = []

    def withdrawn_meanwhile(method: str, key: str) -> None:
        if method == "replace" and key == VERSION.record_key and not raced:
            raced.append(key)
            withdraw.withdraw(system.store, parse_key(f"{PATH}/rootfs.squashfs"), START, 24, pause)

    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.store.on = withdrawn_meanwhile
    system.ingest(PATH)
    record = records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key)
    assert record.files["rootfs.squashfs"].withdrawn
    assert record.files["disk.qcow2"].sha256


def test_restoring_a_file_of_a_withdrawn_version_is_refused_with_the_reason(system: System) -> None:
    withdraw.withdraw(system.store, VERSION, START, 24, pause, "as a whole")
    before = dict(system.store.objects)
    done = withdraw.restore(system.store, parse_key(f"{PATH}/rootfs.squashfs"), pause)
    assert (done.versions, done.files) == ([], [])
    assert [(path, held.reason) for path, held in done.held.items()] == [(PATH, "as a whole")]
    assert system.store.objects == before


@pytest.mark.parametrize("path", [PATH, f"{PATH}/rootfs.squashfs", VERSION.product.path])
@pytest.mark.parametrize("ask", ["withdraw", "restore"])
def test_an_interrupted_deletion_is_reported_as_such(system: System, ask: str, path: str) -> None:
    """prune was killed after it had written `final`: every file is still there."""
    withdraw.withdraw(system.store, VERSION, START, 24, pause)
    found = records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key)
    assert found.withdrawn
    final = replace(found, withdrawn=replace(found.withdrawn, final=True))
    system.store.put(VERSION.record_key, records.encode(assessed(final)))
    target = parse_target(path)
    if ask == "restore":
        done = withdraw.restore(system.store, target, pause)
    else:
        done = withdraw.withdraw(system.store, target, START, 24, pause)
    assert (done.versions, done.files) == ([OTHER] if path == VERSION.product.path else [], [])
    assert done.deleting.keys() == {path if path.endswith("squashfs") else PATH}
