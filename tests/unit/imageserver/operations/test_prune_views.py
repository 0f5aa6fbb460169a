"""What maintain keeps for views: versions that a channel points to, and files that the catalog of a view names."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from imageserver.format.keys import parse_product, parse_version
from imageserver.operations.check_results import results_of
from imageserver.operations.promotion import promote
from imageserver.operations.prune import Rules, prune
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run
from imageserver.operations.view_documents import configured, create_view
from imageserver.operations.withdraw import withdraw
from imageserver.versions.retention import Rule
from imageserver.views.view import View
from tests.support import images
from tests.support.memory_store import Sent, System
from tests.support.views import channel, post, private, system, view

NOBLE = "images/ubuntu/noble/amd64/default"
NAME = "ubuntu:noble:amd64:default"
VERSIONS = [f"202611{day}_1000" for day in (18, 19, 20, 21, 22)]
KEEP_ONE = Rules(Rule(versions=1), 24, 7)


def pause(_seconds: float) -> None:
    """Do not wait."""


@pytest.fixture
def server() -> System:
    """Return a server with a channel that pointed to the first three of five versions in turn."""
    made = system(channel())
    for version in VERSIONS:
        made.upload(f"{NOBLE}/{version}", images.split_image(seed=version))
        made.ingest(f"{NOBLE}/{version}")
    for version in VERSIONS[:3]:
        promote(made.store, "stable", parse_version(f"{NOBLE}/{version}"), made.store.clock, "ann", pause)
    made.publish(parse_product(NOBLE))
    return made


def pruned(server: System, after: timedelta = timedelta(), *, dry_run: bool = False) -> list[tuple[str, str]]:
    run = Run(dry_run=dry_run)
    now = server.store.clock + after
    prune(server.store, Sent(), KEEP_ONE, now, pause, run, views=lambda: configured(server.store))
    run.check()
    return [(task.what, task.path.rpartition("/")[2]) for task in run.tasks]


def test_retention_keeps_the_version_of_a_channel_and_the_one_before_it(server: System) -> None:
    assert pruned(server) == [("withdraw", VERSIONS[0]), ("withdraw", VERSIONS[3])]
    server.publish(parse_product(NOBLE))
    assert server.listed() == {NAME: [VERSIONS[1], VERSIONS[2], VERSIONS[4]]}
    assert server.listed(view="stable") == {NAME: [VERSIONS[2]]}


def test_retention_asks_for_views_only_when_it_would_withdraw(server: System) -> None:
    asked: list[int] = []

    def views() -> dict[str, View]:
        asked.append(1)
        return {}

    prune(server.store, Sent(), Rules(Rule(), 24, 7), server.store.clock, pause, Run(), views=views)
    assert len(asked) == 1  # which catalogs there are


def test_a_file_that_the_catalog_of_a_view_still_names_is_not_deleted(server: System) -> None:
    """The run that delisted it in the public catalog died before it wrote that of the view."""
    version = parse_version(f"{NOBLE}/{VERSIONS[2]}")
    stale = server.store.objects["views/stable/streams/v1/images.json"]
    withdraw(server.store, version, server.store.clock, 1, pause)
    server.publish(version)
    server.store.objects["views/stable/streams/v1/images.json"] = stale
    after = timedelta(hours=2)
    assert ("wait", VERSIONS[2]) in pruned(server, after)
    assert f"{version.path}/rootfs.squashfs" in server.store.objects
    server.publish(version)
    assert ("delete", VERSIONS[2]) in pruned(server, after)
    assert f"{version.path}/rootfs.squashfs" not in server.store.objects


def test_posted_results_are_deleted_with_their_record(server: System) -> None:
    version = parse_version(f"{NOBLE}/{VERSIONS[4]}")
    post(server, version.path, "boots")
    withdraw(server.store, version, server.store.clock, 1, pause)
    server.publish(version)
    pruned(server)
    assert results_of(server.store, version)
    pruned(server, timedelta(hours=2))
    assert version.record_key not in server.store.objects
    assert results_of(server.store, version) is None


def compared(server: System, now: datetime | None = None, *, dry_run: bool = False) -> list[str]:
    run, sent = Run(dry_run=dry_run), Sent()
    reconcile(
        ReconcileServices(server.store, sent, server.clients, views=lambda: configured(server.store), now=now), run
    )
    run.check()
    server.publish(*sent.products)
    return [task.why for task in run.tasks]


def test_reconcile_finds_nothing_in_correct_catalogs(server: System) -> None:
    assert compared(server) == []


def test_reconcile_finds_nothing_in_the_catalog_of_a_view_for_one_kind_of_client(server: System) -> None:
    create_view(server.store, view("incus-only", ("images",), clients="incus"))
    server.publish(*server.products())
    assert set(server.listed(view="incus-only")) == {NAME}
    assert compared(server) == []


@pytest.mark.parametrize("document", ["images.json", "index.json"])
def test_reconcile_repairs_a_document_of_a_view_that_was_lost(server: System, document: str) -> None:
    key = f"views/stable/streams/v1/{document}"
    before = server.store.objects[key].body
    server.store.remove(key)
    assert compared(server) == ["its entry in the catalog of the view stable is not what its records say"]
    assert server.store.objects[key].body == before


def test_reconcile_publishes_a_promotion_whose_message_was_lost(server: System) -> None:
    promote(server.store, "stable", parse_version(f"{NOBLE}/{VERSIONS[4]}"), server.store.clock, "ann", pause)
    assert len(compared(server)) == 1
    assert server.listed(view="stable") == {NAME: [VERSIONS[4]]}


def test_reconcile_removes_a_newly_private_stream_from_the_index_and_lists_a_new_view(server: System) -> None:
    create_view(server.store, private(streams=("images",)))
    create_view(server.store, view("noble", ("images",), only=("ubuntu:noble",)))
    assert len(compared(server)) == 3
    assert compared(server) == []
    assert b'"index":{}' in server.streams()["streams/v1/index.json"]
    assert server.listed(view="staging") == server.listed(view="noble") == {NAME: VERSIONS}


def test_reconcile_marks_an_image_that_only_a_view_lists() -> None:
    """Another stream has the same image, so the public catalog does not list this one."""
    made = system(view("one", ("images-b",)))
    for stream in ("images", "images-b"):
        path = f"{stream}/ubuntu/noble/amd64/default/{VERSIONS[0]}"
        made.upload(path, images.split_image(seed="the same"))
        made.ingest(path)
        made.publish(parse_version(path))
    for stored in made.store.objects.values():
        stored.is_tagged = False
    run, sent = Run(), Sent()
    since = made.store.clock - timedelta(days=2)
    reconcile(
        ReconcileServices(made.store, sent, made.clients, tagged_since=since, views=lambda: configured(made.store)), run
    )
    made.publish(*sent.products)
    assert [task.what for task in run.tasks] == ["tag", "tag"]
    assert made.store.is_tagged(f"images-b/ubuntu/noble/amd64/default/{VERSIONS[0]}/rootfs.squashfs")


@pytest.fixture
def expiring() -> System:
    """Return two channels that expire after a week: one with two promotions a day apart, one following the newest."""
    week_s = int(timedelta(days=7).total_seconds())
    made = system(channel(expire_after_s=week_s), channel("testing", follows_newest=True, expire_after_s=week_s))
    for version in VERSIONS[:2]:
        made.upload(f"{NOBLE}/{version}", images.split_image(seed=version))
        made.ingest(f"{NOBLE}/{version}")
        promote(made.store, "stable", parse_version(f"{NOBLE}/{version}"), made.store.clock, "ann", pause)
        made.store.clock += timedelta(days=1)
    made.publish(parse_product(NOBLE))
    return made


def test_a_version_leaves_a_channel_at_the_first_reconcile_after_its_expiry(expiring: System) -> None:
    start = expiring.store.clock
    assert compared(expiring, start + timedelta(days=5, hours=1)) == []  # the first left; the second stays
    assert expiring.listed(view="stable") == expiring.listed(view="testing") == {NAME: [VERSIONS[1]]}
    before = dict(expiring.store.objects)
    due = start + timedelta(days=6)
    assert len(compared(expiring, due, dry_run=True)) == 4
    assert expiring.store.objects == before
    assert compared(expiring, due) == [
        f"{NOBLE}/{VERSIONS[1]} was in the channel stable for its full time, and leaves it",
        "its entry in the catalog of the view stable is not what its records say",
        f"{NOBLE}/{VERSIONS[1]} was in the channel testing for its full time, and leaves it",
        "its entry in the catalog of the view testing is not what its records say",
    ]
    assert expiring.listed(view="stable") == expiring.listed(view="testing") == {}
    assert expiring.listed() == {NAME: VERSIONS[:2]}
    assert compared(expiring, due + timedelta(hours=1)) == []


def test_retention_may_withdraw_a_version_that_left_a_channel(expiring: System) -> None:
    expiring.upload(f"{NOBLE}/{VERSIONS[3]}", images.split_image(seed="newer"))
    expiring.ingest(f"{NOBLE}/{VERSIONS[3]}")
    expiring.publish(parse_product(NOBLE))
    assert pruned(expiring) == []
    compared(expiring, expiring.store.clock + timedelta(days=6))
    assert pruned(expiring) == [("withdraw", VERSIONS[0])]  # testing would go back to the second


def test_a_run_killed_after_an_expiry_is_finished_by_the_next(expiring: System) -> None:
    due = expiring.store.clock + timedelta(days=6)
    reconcile(
        ReconcileServices(expiring.store, Sent(), expiring.clients, views=lambda: configured(expiring.store), now=due),
        Run(),
    )
    assert expiring.listed(view="stable") == {NAME: [VERSIONS[1]]}  # nothing that was sent arrived
    assert len(compared(expiring, due)) == 2
    assert expiring.listed(view="stable") == {}
