"""What maintain plans and does: retention, withdrawal with grace, stale uploads, empty records, reconciles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from imageserver.format import documents
from imageserver.format.keys import VersionId, parse_product, parse_target, parse_version
from imageserver.inspection.metadata import Overrides
from imageserver.operations.prune import Rules, prune
from imageserver.operations.reconcile import reconcile
from imageserver.operations.runs import Run, Task, remember, resume
from imageserver.operations.withdraw import restore, withdraw
from imageserver.settings import BadSetting, Settings
from imageserver.site.layout import API_KEY, PAGES, lay_out
from imageserver.versions import records
from imageserver.versions.assessment import new_record
from imageserver.versions.records import FileFacts, Record
from imageserver.versions.retention import Rule, expired
from tests.support import images
from tests.support.memory_store import START, MemoryStore, Sent, System

PRODUCT = "images/ubuntu/noble/amd64/default"
ID = parse_product(PRODUCT)
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
KEEP_ALL = Rules(Rule(), grace_hours=24, stale_days=7)


def no_pause(_seconds: float) -> None:
    """Nobody else is there to wait for."""


def sound(name: str, overrides: Overrides | None = None) -> Record:
    """A record of a unified tarball, listed unless something else forbids it."""
    facts = FileFacts(etag="e", size_bytes=1, modified=NOW.isoformat(), sha256=images.sha256_hex(name.encode()))
    files = {"lxd_combined.tar.gz": facts}
    if overrides:
        files["metadata.json"] = FileFacts(
            etag="o", size_bytes=1, modified=NOW.isoformat(), sha256="0" * 64, overrides=overrides
        )
    return new_record(VersionId(ID, name), files, None)


DAYS = [f"202611{day:02d}" for day in (1, 5, 10, 15, 20)]


@pytest.mark.parametrize(
    ("rule", "listed", "gone"),
    [
        (Rule(), DAYS, []),
        (Rule(versions=2), DAYS, ["20261101", "20261105", "20261110"]),
        (Rule(versions=9), DAYS, []),
        (Rule(days=9), DAYS, ["20261101", "20261105", "20261110"]),
        (Rule(days=13), DAYS, ["20261101", "20261105", "20261110"]),
        (Rule(days=14), DAYS, ["20261101", "20261105"]),
        (Rule(versions=4, days=14), DAYS, ["20261101", "20261105"]),
        (Rule(versions=1, days=1), DAYS, ["20261101", "20261105", "20261110", "20261115"]),
        (Rule(versions=1), ["20261105"], ["20261101", "20261110", "20261115"]),
        (Rule(days=1), [], ["20261101", "20261105", "20261110", "20261115"]),
    ],
)
def test_retention_removes_the_oldest_and_never_the_newest_listed_version(
    rule: Rule, listed: Sequence[str], gone: list[str]
) -> None:
    plan = expired([sound(name) for name in reversed(DAYS)], listed, rule, NOW)
    assert [version.version for version, _ in plan] == gone
    assert all("are kept" in reason for _, reason in plan)


def test_a_product_can_override_its_retention() -> None:
    known = [sound("20261101"), sound("20261105"), sound("20261110", Overrides(retain_versions=2))]
    assert [v.version for v, _ in expired(known, DAYS, Rule(versions=1), NOW)] == ["20261101"]
    known[-1] = sound("20261110", Overrides(retain_versions=0, retain_days=0))
    assert expired(known, DAYS, Rule(versions=1, days=1), NOW) == []
    known[-1] = sound("20261110", Overrides(retain_days=15))
    assert [v.version for v, _ in expired(known, DAYS, Rule(), NOW)] == ["20261101", "20261105"]


def test_withdrawn_and_incomplete_versions_do_not_count_for_retention() -> None:
    half = new_record(VersionId(ID, "20261120"), {"rootfs.squashfs": FileFacts(
        etag="e", size_bytes=1, modified=NOW.isoformat())}, None)  # fmt: skip
    assert expired([sound("20261101"), half], ["20261101"], Rule(versions=1), NOW) == []


@pytest.fixture
def system() -> System:
    system = System()
    for day in DAYS:
        system.upload(f"{PRODUCT}/{day}", images.split_image(seed=day))
    system.catch_up()
    return system


def tidy(
    system: System, now: datetime, rules: Rules = KEEP_ALL, dry_run: bool = False, notifier: Sent | None = None
) -> list[Task]:
    run = Run(dry_run=dry_run)
    prune(system.store, notifier or Sent(), rules, now, no_pause, run)
    assert run.ended
    return run.tasks


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
        (b'{"retain_days": 0}', Rule(versions=3, days=1), DAYS[:2]),  # says nothing of their number
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


def test_an_interrupted_deletion_is_final_and_resumes(system: System) -> None:
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


def test_a_withdrawn_file_is_deleted_alone(system: System) -> None:
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
    """Also of the very bytes that are there: its record still has the time of the first upload."""
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
    """Also of the very bytes that are to be deleted; and whether or not maintain comes again before digest."""
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
    system.store.put(root, system.store.objects[root].body)  # nobody has looked at it yet
    tidy(system, NOW + timedelta(hours=2))
    assert root in system.store.objects


def test_a_root_that_was_withdrawn_before_its_metadata_came_is_listed_when_it_is_restored() -> None:
    system, path, files = System(), f"{PRODUCT}/20261101", images.split_image()
    root = parse_target(f"{path}/rootfs.squashfs")
    system.upload(path, {"rootfs.squashfs": files["rootfs.squashfs"]})
    system.ingest(path)
    withdraw(system.store, root, NOW, 24, no_pause)
    system.upload(path, {"lxd.tar.xz": files["lxd.tar.xz"]})
    system.ingest(path)
    restore(system.store, root, no_pause)  # sends no notice to anybody who would read it
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


# ── reconcile ────────────────────────────────────────────────────────────────────────────────────────────────────


def reconciled(store: MemoryStore, dry_run: bool = False) -> tuple[Sent, Run]:
    sent, run = Sent(), Run(dry_run=dry_run)
    reconcile(store, sent, ("incus", "lxd"), run)
    return sent, run


def test_reconcile_changes_nothing_on_a_consistent_server(system: System) -> None:
    assert reconciled(system.store) == (Sent(), Run(ended=True, looked_at=6))


def test_reconcile_gives_an_empty_server_an_index_and_a_page() -> None:
    store = MemoryStore()
    sent, run = reconciled(store)
    lay_out(store, run)
    assert (sent, [task.path for task in run.tasks]) == (Sent(), [documents.INDEX_KEY, *PAGES, API_KEY])
    assert store.objects[documents.INDEX_KEY].body == b'{"format":"index:1.0","index":{}}'
    again = Run()
    lay_out(store, again)
    assert again.tasks == []


def test_two_concurrent_first_reconciles_lay_out_one_server() -> None:
    """After a first deployment both the deployment's event and the schedule start one."""
    store = MemoryStore()

    def once(method: str, key: str) -> None:
        if method == "create":
            store.on = lambda *_: None
            lay_out(store, Run())
            reconciled(store)

    store.on = once
    lay_out(store, Run())
    store.on = once
    _, run = reconciled(store)
    remember(store, "reconcile", run)
    assert sorted(store.objects) == [
        "api.html",
        "index.html",
        "maintain/reconcile.json",
        "openapi.json",
        documents.INDEX_KEY,
    ]
    assert store.objects[documents.INDEX_KEY].body == b'{"format":"index:1.0","index":{}}'


def test_a_file_in_a_deeper_folder_is_part_of_its_version(system: System) -> None:
    path = f"{PRODUCT}/20261101"
    system.store.put(f"{path}/logs/build.log", b"x")
    assert reconciled(system.store)[0].paths == [path]
    system.ingest(path)
    assert reconciled(system.store)[0].paths == []


def test_a_product_is_withdrawn_despite_foreign_objects_among_its_records(system: System) -> None:
    system.store.put(f"versions/{PRODUCT}/README", b"somebody's")
    done = withdraw(system.store, ID, NOW, 1, no_pause)
    assert [path.rpartition("/")[2] for path in done.versions] == DAYS


def test_reconcile_resends_whatever_events_missed(system: System) -> None:
    new, changed, emptied, unrecorded = (f"{PRODUCT}/{day}" for day in ("20261122", *DAYS[:3]))
    system.upload(new, images.split_image(seed="new"))
    system.store.put(f"{changed}/rootfs.squashfs", images.squashfs("other"))
    for file in ("lxd.tar.xz", "rootfs.squashfs"):
        system.store.remove(f"{emptied}/{file}")
    system.store.remove(f"versions/{unrecorded}.json")
    sent, _ = reconciled(system.store)
    assert sent.paths == [changed, emptied, unrecorded, new]


def test_a_dry_reconcile_sends_nothing(system: System) -> None:
    system.upload(f"{PRODUCT}/20261122", images.split_image(seed="new"))
    sent, run = reconciled(system.store, dry_run=True)
    assert (sent, len(run.tasks)) == (Sent(), 1)


@pytest.mark.parametrize("damage", ["deleted", "of long ago", "without the product", "index deleted", "index emptied"])
def test_reconcile_renders_a_catalog_that_disagrees_with_its_records(system: System, damage: str) -> None:
    good = system.streams()
    key = documents.products_key("images")
    if damage == "deleted":
        system.store.remove(key)
    elif damage == "index deleted":
        system.store.remove(documents.INDEX_KEY)
    elif damage == "index emptied":
        system.store.put(documents.INDEX_KEY, b'{"format":"index:1.0","index":{}}')
    else:
        document = json.loads(good[key])
        versions = document["products"][ID.name]["versions"]
        versions.pop("20261120")
        if damage == "without the product":
            document["products"] = {}
        system.store.put(key, json.dumps(document).encode())
    sent, _ = reconciled(system.store)
    assert (sent.versions, sent.products) == ([], [ID])
    system.publish(*sent.products)
    assert system.streams() == good


@pytest.mark.parametrize("has_records", [True, False])
def test_reconcile_sends_a_message_and_writes_no_record(system: System, has_records: bool) -> None:
    if has_records:
        system.store.remove(documents.products_key("images"))
    else:
        for key in [key for key in system.store.objects if not key.startswith("streams/")]:
            system.store.remove(key)
    before = dict(system.store.objects)
    system.store.log.clear()
    sent, _ = reconciled(system.store)
    assert sent.products == [ID]
    assert {method for method, _ in system.store.log} <= {"read", "list"}, "a write is a new generation of an object"
    assert system.store.objects == before
    system.publish(*sent.products)
    assert list(system.listed()) == ([ID.name] if has_records else [])
    assert reconciled(system.store)[0] == Sent(), "what was sent has been done"


def test_reconcile_removes_a_product_that_only_the_catalog_lists(system: System) -> None:
    for key in [key for key in system.store.objects if not key.startswith("streams/")]:
        system.store.remove(key)
    sent, _ = reconciled(system.store)
    system.publish(*sent.products)
    assert system.listed() == {}
    assert not [key for key in system.store.objects if key.startswith("versions/")]
    assert tidy(system, NOW) == []


def test_an_upload_that_comes_while_its_product_is_looked_at_is_found_in_the_same_run(system: System) -> None:
    """Records are read before the folders are listed. The other way round it would wait for the next run."""
    late, listings = f"{PRODUCT}/20261121", []

    def upload_late(method: str, key: str) -> None:
        if method == "list" and key in (ID.records_prefix, f"{PRODUCT}/"):
            listings.append(key)
            if len(listings) == 2:
                system.upload(late, images.split_image(seed=late))

    system.store.on = upload_late
    assert reconciled(system.store)[0].paths == [late]
    assert len(listings) == 2


def test_reconcile_names_an_unreadable_record_and_processes_the_rest(system: System) -> None:
    system.store.put(f"versions/{PRODUCT}/20261101.json", b"{")
    other = "images/debian/12/amd64/default/20261101"
    system.upload(other, images.split_image(seed="debian"))
    sent, run = reconciled(system.store)
    assert sent.paths == [other]
    assert run.unreadable == [f"versions/{PRODUCT}/20261101.json"]


def test_a_stopped_run_resumes_where_it_was_and_a_finished_one_starts_over() -> None:
    system = System()
    paths = [f"images/os{n}/1/amd64/default/20261101" for n in range(4)]
    for path in paths:
        system.upload(path, images.split_image(seed=path))
    seen: list[list[str]] = []
    for _ in range(3):
        sent, run = Sent(), Run(after=resume(system.store, "reconcile"), limit=2)
        reconcile(system.store, sent, ("lxd",), run)
        remember(system.store, "reconcile", run)
        seen.append(sent.paths)
    assert seen == [paths[:2], paths[2:], paths[:2]]


def test_an_unreadable_cursor_starts_from_the_first_product() -> None:
    store = MemoryStore()
    store.put("maintain/reconcile.json", b"[")
    assert resume(store, "reconcile") == ""


def test_invalid_settings_of_maintain_are_refused_by_name() -> None:
    said = {"RETAIN_VERSIONS": "3", "RETAIN_DAYS": "30", "STALE_DAYS": "2"}
    settings = Settings.from_environment({"BUCKET": "b", **said})
    assert (settings.retain_versions, settings.retain_days, settings.stale_days) == (3, 30, 2)
    with pytest.raises(BadSetting, match="RETAIN_DAYS is 'x'"):
        Settings.from_environment({"BUCKET": "b", "RETAIN_DAYS": "x"})


@pytest.mark.parametrize("task", ["prune", "reconcile"])
def test_many_products_are_compared_with_one_read_of_their_catalog(task: str) -> None:
    system = System()
    for number in range(6):
        system.upload(f"images/os{number}/1/amd64/default/20261101", images.split_image(seed=str(number)))
    system.catch_up()
    system.store.log.clear()
    if task == "prune":
        prune(system.store, Sent(), KEEP_ALL, NOW, no_pause, Run())
    else:
        reconcile(system.store, Sent(), system.clients, Run())
    reads = [key for method, key in system.store.log if method == "read"]
    assert len([key for key in reads if key.startswith("versions/")]) == 6
    assert reads.count("streams/v1/images.json") == 1


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
