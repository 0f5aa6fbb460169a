"""What prune plans and does: retention, withdrawal with grace, stale uploads, empty records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from imageserver.format.keys import parse_target, parse_version
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions import records
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.maintained import DAYS, ID, KEEP_ALL, NOW, PRODUCT, five_versions, no_pause, tidy
from tests.support.memory_store import START, Sent, System


@pytest.fixture
def system() -> System:
    return five_versions()


def test_prune_delists_at_once_and_deletes_after_the_grace_time(system: System) -> None:
    rules = Rules(Rule(versions=4), grace_hours=24, stale_days=7)
    old = f"{PRODUCT}/20261101"
    assert [(task.what, task.path) for task in tidy(system, NOW, rules)] == [("withdraw", old)]
    system.publish(ID)
    assert system.listed()[ID.name] == DAYS[1:]
    assert tidy(system, NOW + timedelta(hours=23), rules) == []
    assert f"{old}/rootfs.squashfs" in system.store.objects
    assert [(t.what, t.path) for t in tidy(system, NOW + timedelta(hours=25), rules)] == [("delete", old)]
    assert not [key for key in system.store.objects if old in key]


def test_a_dry_prune_reports_the_same_and_changes_nothing(system: System) -> None:
    rules = Rules(Rule(versions=2), grace_hours=24, stale_days=7)
    before = dict(system.store.objects)
    planned = tidy(system, NOW, rules, dry_run=True)
    assert system.store.objects == before
    assert planned == tidy(system, NOW, rules)
    assert [task.why for task in planned] == [
        f"{n} newer versions are there, and 2 are kept; its files are deleted 24 hours later" for n in (4, 3, 2)
    ]


@pytest.mark.parametrize(
    ("metadata_json", "rule", "gone"),
    [
        (b'{"retain_versions": 2}', Rule(), DAYS[:3]),
        (b'{"retain_days": 10}', Rule(), DAYS[:3]),
        (b'{"retain_versions": 4, "retain_days": 20}', Rule(versions=1), DAYS[:1]),
        (b'{"retain_versions": 0}', Rule(versions=1), []),
        (b'{"retain_days": 0}', Rule(versions=3, days=1), DAYS[:2]),  # sets no number of versions
        (b'{"retain_versions": 1, "retain_days": 1}', Rule(), DAYS[:4]),  # the newest is three days old, and stays
        (b'{"retain_versions": "2"}', Rule(versions=4), DAYS[:1]),  # ignored
        (b'{"retain_versions": 2', Rule(versions=4), DAYS[:1]),
    ],
)
def test_metadata_json_sets_the_retention_of_its_product(
    system: System, metadata_json: bytes, rule: Rule, gone: list[str]
) -> None:
    newest = f"{PRODUCT}/{DAYS[-1]}"
    system.upload(newest, {"metadata.json": metadata_json})
    system.catch_up()
    tasks = tidy(system, NOW, Rules(rule, grace_hours=24, stale_days=7))
    assert [(task.what, task.path) for task in tasks] == [("withdraw", f"{PRODUCT}/{day}") for day in gone]
    system.publish(ID)
    assert system.listed()[ID.name] == [day for day in DAYS if day not in gone]


def test_a_newer_unlisted_version_does_not_expire_the_newest_listed_one(system: System) -> None:
    newer = f"{PRODUCT}/20261122"
    system.upload(
        newer, {**images.split_image(seed="newer"), "metadata.json": b'{"retain_versions": 1, "retain_days": 1}'}
    )
    system.ingest(newer)  # and publish is late
    assert [task.path for task in tidy(system, NOW)] == [f"{PRODUCT}/{day}" for day in DAYS[:4]]
    system.publish(ID)
    assert system.listed()[ID.name] == [DAYS[-1], "20261122"]
    assert [task.path for task in tidy(system, NOW)] == [f"{PRODUCT}/{DAYS[-1]}"]


def test_a_withdrawn_version_that_is_still_listed_is_not_deleted(system: System) -> None:
    """Publish is late: the clients' catalog still names the files."""
    withdraw(system.store, parse_version(f"{PRODUCT}/20261101"), NOW, 1, no_pause, "broken")
    before, sent = dict(system.store.objects), Sent()
    tasks = tidy(system, NOW + timedelta(days=2), notifier=sent)
    assert [task.what for task in tasks] == ["wait"]
    assert system.store.objects == before, "not even its record is written"
    assert sent.products == [ID]
    system.publish(*sent.products)
    assert [task.what for task in tidy(system, NOW + timedelta(days=2))] == ["delete"]


def test_a_restored_version_is_listed_again_and_stays(system: System) -> None:
    version = parse_version(f"{PRODUCT}/20261101")
    withdraw(system.store, version, NOW, 1, no_pause)
    system.publish(ID)
    restore(system.store, version, no_pause)
    system.publish(ID)
    assert system.listed()[ID.name] == DAYS
    assert tidy(system, NOW + timedelta(days=2)) == []


def test_a_restore_during_prune_wins_or_fails_and_never_lists_a_deleted_version(
    system: System,
) -> None:
    version = parse_version(f"{PRODUCT}/20261101")
    withdraw(system.store, version, NOW, 1, no_pause)
    system.publish(ID)
    quiet = system.store.on

    def restore_now(method: str, key: str) -> None:
        if (method, key) == ("replace", version.record_key):
            system.store.on = quiet
            restore(system.store, version, no_pause)

    system.store.on = restore_now
    tidy(system, NOW + timedelta(days=2))
    assert f"{version.prefix}rootfs.squashfs" in system.store.objects
    system.publish(ID)
    assert system.listed()[ID.name] == DAYS


def test_an_interrupted_deletion_is_final_and_is_resumed(system: System) -> None:
    version = parse_version(f"{PRODUCT}/20261101")
    withdraw(system.store, version, NOW, 1, no_pause)
    system.publish(ID)
    quiet = system.store.on

    def die(method: str, key: str) -> None:
        if (method, key) == ("delete", f"{version.prefix}rootfs.squashfs"):
            system.store.on = quiet
            raise KeyboardInterrupt

    system.store.on = die
    with pytest.raises(KeyboardInterrupt):
        tidy(system, NOW + timedelta(days=2))
    system.ingest(version.path)
    assert restore(system.store, version, no_pause).versions == []  # as good as deleted
    system.publish(ID)
    assert system.listed()[ID.name] == DAYS[1:]
    assert [task.what for task in tidy(system, NOW + timedelta(days=2))] == ["delete"]
    assert not [key for key in system.store.objects if version.path in key]


def test_a_withdrawn_file_is_deleted_without_the_rest_of_its_version(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    system.upload(path, {"disk.qcow2": images.qcow2("extra")})
    system.ingest(path)
    system.publish(ID)
    withdraw(system.store, parse_target(f"{path}/disk.qcow2"), NOW, 1, no_pause)
    system.publish(ID)
    assert [task.path for task in tidy(system, NOW + timedelta(days=1))] == [f"{path}/{{disk.qcow2}}"]
    system.ingest(path)
    assert f"{path}/disk.qcow2" not in system.store.objects
    assert system.listed()[ID.name] == DAYS
    assert tidy(system, NOW + timedelta(days=1)) == []


def test_prune_removes_an_incomplete_version_after_days_without_uploads() -> None:
    system = System()
    path = f"{PRODUCT}/20261101"
    system.upload(path, {"rootfs.squashfs": images.squashfs()})
    system.catch_up()
    assert tidy(system, START + timedelta(days=6)) == []
    tasks = tidy(system, START + timedelta(days=8))
    assert [(task.what, task.path) for task in tasks] == [("delete", path)]
    assert "nothing was uploaded for 7 days" in tasks[0].why
    assert not [key for key in system.store.objects if path in key]


def test_a_listed_version_that_lost_a_file_is_kept_as_long_as_an_incomplete_one(system: System) -> None:
    path, lost = f"{PRODUCT}/20261101", START + timedelta(days=30)
    system.store.clock = lost
    system.store.remove(f"{path}/lxd.tar.xz")
    system.ingest(path)
    system.publish(ID)
    assert tidy(system, lost + timedelta(days=6)) == []
    assert [task.path for task in tidy(system, lost + timedelta(days=8))] == [path]


def test_withdrawing_a_file_keeps_the_others_and_the_grace_time(system: System) -> None:
    path, now = f"{PRODUCT}/20261101", START + timedelta(days=30)
    withdraw(system.store, parse_target(f"{path}/rootfs.squashfs"), now, 24, no_pause)
    system.publish(ID)
    system.store.clock = START  # the record looks as old as its files
    assert tidy(system, now + timedelta(hours=1)) == []
    assert restore(system.store, parse_target(f"{path}/rootfs.squashfs"), no_pause).files
    system.publish(ID)
    assert system.listed()[ID.name] == DAYS


@pytest.mark.parametrize("again", [images.squashfs("late"), images.squashfs()])
def test_an_upload_in_progress_keeps_an_incomplete_version(again: bytes) -> None:
    """This holds even for the same bytes again: the record still has the time of the first upload."""
    system, path = System(), f"{PRODUCT}/20261101"
    system.upload(path, {"rootfs.squashfs": images.squashfs()})
    system.catch_up()
    system.store.clock = START + timedelta(days=8)
    system.upload(path, {"rootfs.squashfs": again})
    assert tidy(system, START + timedelta(days=8, hours=1)) == []


def test_files_uploaded_during_a_deletion_start_a_new_version() -> None:
    system, path = System(), f"{PRODUCT}/20261101"
    system.upload(path, {"lxd.tar.xz": images.metadata_tarball()})
    system.catch_up()
    quiet = system.store.on

    def arrive(method: str, key: str) -> None:
        if (method, key) == ("delete", f"{path}/lxd.tar.xz"):
            system.store.on = quiet
            system.upload(path, {"rootfs.squashfs": images.squashfs()})
            system.ingest(path)

    system.store.on = arrive
    assert [task.path for task in tidy(system, START + timedelta(days=8))] == [path]
    system.upload(path, {"lxd.tar.xz": images.metadata_tarball()})
    system.ingest(path)
    system.publish(ID)
    assert system.listed() == {ID.name: ["20261101"]}
    assert tidy(system, START + timedelta(days=9)) == []


@pytest.mark.parametrize("serial", ["", "new"])
def test_a_new_upload_is_listed_after_maintain_was_killed_during_a_deletion(serial: str) -> None:
    """This holds even for the same bytes, and whether or not maintain runs again before digest."""
    for again in (False, True):
        system, path, later = System(), f"{PRODUCT}/20261101", START + timedelta(days=8)
        system.upload(path, {"lxd.tar.xz": images.metadata_tarball()})
        system.catch_up()
        _killed_while_deleting(system, later)
        system.store.clock = later
        system.upload(
            path, {"lxd.tar.xz": images.metadata_tarball(serial=serial), "rootfs.squashfs": images.squashfs()}
        )
        if again:
            tidy(system, later + timedelta(hours=1))
        system.ingest(path)
        system.publish(ID)
        tidy(system, later + timedelta(hours=2))
        assert system.listed() == {ID.name: ["20261101"]}
        assert {f"{path}/lxd.tar.xz", f"{path}/rootfs.squashfs"} <= system.store.objects.keys()


def _killed_while_deleting(system: System, now: datetime) -> None:
    quiet = system.store.on

    def die(method: str, _: str) -> None:
        if method == "delete":
            system.store.on = quiet
            raise KeyboardInterrupt

    system.store.on = die
    with pytest.raises(KeyboardInterrupt):
        tidy(system, now)


def test_reuploaded_bytes_are_not_deleted_with_the_withdrawn_ones(system: System) -> None:
    root = f"{PRODUCT}/20261101/rootfs.squashfs"
    withdraw(system.store, parse_target(root), NOW, 1, no_pause)
    system.catch_up()
    system.store.put(root, system.store.objects[root].body)  # not ingested yet
    tidy(system, NOW + timedelta(hours=2))
    assert root in system.store.objects


@pytest.mark.parametrize("moment", ["before the delete", "before it is sent again"])
def test_bytes_uploaded_again_during_their_deletion_are_kept(system: System, moment: str) -> None:
    """S3 compares only ETags, and an SDK repeats a delete whose answer was lost."""
    path = f"{PRODUCT}/20261101"
    root = f"{path}/rootfs.squashfs"
    withdraw(system.store, parse_version(path), NOW, 1, no_pause)
    system.publish(ID)
    body, quiet, sent = system.store.objects[root].body, system.store.on, Sent()

    def upload_again(method: str, key: str) -> None:
        if moment == "before the delete" and (method, key) == ("delete", root):
            system.store.on = quiet
            system.store.put(root, body)
        if moment != "before the delete" and (method, key) == ("history", root) and root not in system.store.objects:
            system.store.on = quiet
            system.store.put(root, body)
            system.store.remove(root)

    system.store.on = upload_again
    tidy(system, NOW + timedelta(days=2), notifier=sent)
    assert system.store.on is quiet, "nothing was uploaded"
    assert root in system.store.objects
    assert sent.paths == [path]
    system.upload(path, {"lxd.tar.xz": images.split_image(seed="20261101")["lxd.tar.xz"]})
    system.catch_up()
    assert system.listed()[ID.name] == DAYS
    assert tidy(system, NOW + timedelta(days=9)) == []


def test_a_deletion_killed_before_it_checked_for_hidden_uploads_is_repeated(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    root = f"{path}/rootfs.squashfs"
    withdraw(system.store, parse_version(path), NOW, 1, no_pause)
    system.publish(ID)
    body, quiet = system.store.objects[root].body, system.store.on

    def die(method: str, key: str) -> None:
        if (method, key) == ("delete", root):
            system.store.put(root, body)
        if (method, key) == ("history", root) and root not in system.store.objects:
            system.store.on = quiet
            raise KeyboardInterrupt

    system.store.on = die
    with pytest.raises(KeyboardInterrupt):
        tidy(system, NOW + timedelta(days=2))
    assert root not in system.store.objects
    tidy(system, NOW + timedelta(days=3))
    assert root in system.store.objects


def test_a_root_withdrawn_before_its_metadata_arrived_is_listed_once_restored() -> None:
    system, path, files = System(), f"{PRODUCT}/20261101", images.split_image()
    root = parse_target(f"{path}/rootfs.squashfs")
    system.upload(path, {"rootfs.squashfs": files["rootfs.squashfs"]})
    system.ingest(path)
    withdraw(system.store, root, NOW, 24, no_pause)
    system.upload(path, {"lxd.tar.xz": files["lxd.tar.xz"]})
    system.ingest(path)
    restore(system.store, root, no_pause)  # sends no event that would make digest read it
    system.publish(ID)
    assert system.listed() == {ID.name: ["20261101"]}


def test_deleted_files_are_invalidated_before_their_record_is_removed(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    withdraw(system.store, parse_version(path), NOW, 1, no_pause)
    system.publish(ID)
    invalidated: list[str] = []

    def invalidate(keys: Sequence[str]) -> None:
        assert f"versions/{path}.json" in system.store.objects
        assert not [key for key in keys if key in system.store.objects]
        invalidated.extend(keys)

    prune(system.store, Sent(), KEEP_ALL, NOW + timedelta(days=2), no_pause, Run(), invalidate)
    assert invalidated == [f"{path}/lxd.tar.xz", f"{path}/rootfs.squashfs"]
    assert f"versions/{path}.json" not in system.store.objects


def test_files_of_an_emptied_folder_are_invalidated_before_its_record_is_removed(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    for file in ("lxd.tar.xz", "rootfs.squashfs"):
        system.store.remove(f"{path}/{file}")
    system.ingest(path)
    system.publish(ID)
    invalidated: list[str] = []
    prune(system.store, Sent(), KEEP_ALL, NOW, no_pause, Run(), invalidated.extend)
    assert invalidated == [f"{path}/lxd.tar.xz", f"{path}/rootfs.squashfs"]


def test_a_withdrawal_of_reuploaded_bytes_stands(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    system.store.put(f"{path}/rootfs.squashfs", system.store.objects[f"{path}/rootfs.squashfs"].body)
    system.ingest(path)
    withdraw(system.store, parse_target(f"{path}/rootfs.squashfs"), NOW, 24, no_pause)
    system.ingest(path)
    system.publish(ID)
    assert system.listed()[ID.name] == DAYS[1:]


def test_withdraw_and_restore_keep_the_other_fields_of_a_record(system: System) -> None:
    version = parse_version(f"{PRODUCT}/20261101")
    system.upload(version.path, {"rootfs.squashfs": images.squashfs("replaced")})
    system.ingest(version.path)
    withdraw(system.store, version, NOW, 1, no_pause)
    restore(system.store, version, no_pause)
    found = records.decode(system.store.objects[version.record_key].body, version.record_key)
    assert found.replaced == ("rootfs.squashfs",)


def test_the_record_of_an_emptied_folder_is_removed_once_the_catalog_agrees(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    for file in ("lxd.tar.xz", "rootfs.squashfs"):
        system.store.remove(f"{path}/{file}")
    system.ingest(path)
    assert tidy(system, NOW) == []  # the catalog still lists it
    system.publish(ID)
    assert [task.what for task in tidy(system, NOW)] == ["invalidate"]
    assert f"versions/{path}.json" not in system.store.objects


def test_a_version_relisted_during_prune_is_not_deleted() -> None:
    """The catalog is compared after each product's records, not once for all of them."""
    system = System()
    for number in range(2):
        system.upload(f"images/os{number}/1/amd64/default/20261101", images.split_image(seed=str(number)))
    system.catch_up()
    later = parse_version("images/os1/1/amd64/default/20261101")
    withdraw(system.store, later, NOW - timedelta(hours=48), 24, no_pause)
    system.catch_up()
    assert list(system.listed()) == ["os0:1:amd64:default"]

    def list_again(method: str, key: str) -> None:
        if (method, key) == ("list", "versions/images/os1/1/amd64/default/"):
            system.store.on = lambda *_: None
            restore(system.store, later, no_pause)
            system.publish(later.product)
            withdraw(system.store, later, NOW - timedelta(hours=48), 24, no_pause)  # not yet folded

    system.store.on = list_again
    run = Run()
    prune(system.store, Sent(), KEEP_ALL, NOW, no_pause, run)
    assert [(task.what, task.path) for task in run.tasks] == [("wait", later.path)]
    assert f"{later.path}/rootfs.squashfs" in system.store.objects


def test_prune_removes_a_refused_version_after_days_without_uploads_and_never_lists_it() -> None:
    system = System()
    good, bad = f"{PRODUCT}/20261122_10:00", f"{PRODUCT}/20261123_10:00"
    system.upload(good, images.split_image())
    system.upload(bad, {"lxd.tar.xz": b"no tarball", "rootfs.squashfs": images.squashfs("x")})
    system.catch_up()
    rules = Rules(Rule(), grace_hours=24, stale_days=7, refused_days=30)
    assert tidy(system, system.store.clock + timedelta(days=29), rules) == []
    assert tidy(system, system.store.clock + timedelta(days=31), Rules(Rule(), 24, 7, refused_days=0)) == []
    (task,) = tidy(system, system.store.clock + timedelta(days=31), rules)
    assert (task.what, task.path, task.why) == ("delete", bad, "refused, and nothing was uploaded for 31 days")
    assert {key for key in system.store.objects if key.startswith("images/")} == {
        f"{good}/lxd.tar.xz", f"{good}/rootfs.squashfs"
    }  # fmt: skip
    system.catch_up()
    assert system.listed() == {ID.name: ["20261122_10:00"]}


def test_a_listed_version_is_not_removed_because_of_a_refused_file() -> None:
    system = System()
    system.upload(f"{PRODUCT}/20261122_10:00", {**images.split_image(), "disk.qcow2": b"no disk"})
    system.catch_up()
    assert tidy(system, system.store.clock + timedelta(days=99)) == []
