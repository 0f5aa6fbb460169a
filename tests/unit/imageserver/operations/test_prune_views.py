"""What maintain leaves to views: versions that a channel points to, and files that the catalog of a view names."""

from __future__ import annotations

from datetime import timedelta

import pytest

from imageserver.format.keys import parse_product, parse_version
from imageserver.operations.promotion import promote
from imageserver.operations.prune import Rules, prune
from imageserver.operations.reconcile import reconcile
from imageserver.operations.runs import Run
from imageserver.operations.view_documents import configured, create_view
from imageserver.operations.withdraw import withdraw
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.memory_store import Sent, System
from tests.support.views import channel, private, system, view

NOBLE = "images/ubuntu/noble/amd64/default"
NAME = "ubuntu:noble:amd64:default"
VERSIONS = [f"202611{day}_1000" for day in (18, 19, 20, 21, 22)]
KEEP_ONE = Rules(Rule(versions=1), 24, 7)


def pause(_seconds: float) -> None:
    """Nobody waits."""


@pytest.fixture
def server() -> System:
    """A channel that was pointed to the first three of five versions, one after the other."""
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


def test_retention_leaves_what_a_channel_points_to_and_the_version_before_it(server: System) -> None:
    assert pruned(server) == [("withdraw", VERSIONS[0]), ("withdraw", VERSIONS[3])]
    server.publish(parse_product(NOBLE))
    assert server.listed() == {NAME: [VERSIONS[1], VERSIONS[2], VERSIONS[4]]}
    assert server.listed(view="stable") == {NAME: [VERSIONS[2]]}


def test_retention_asks_for_views_only_when_it_would_withdraw(server: System) -> None:
    asked: list[int] = []

    def views() -> dict[str, object]:
        asked.append(1)
        return {}

    prune(server.store, Sent(), Rules(Rule(), 24, 7), server.store.clock, pause, Run(), views=views)  # type: ignore[arg-type]
    assert len(asked) == 1  # which catalogs there are


def test_nothing_is_deleted_that_the_catalog_of_a_view_still_names(server: System) -> None:
    """The run that took it off the catalog that everybody reads died before it wrote the other one."""
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


def compared(server: System) -> list[str]:
    run, sent = Run(), Sent()
    reconcile(server.store, sent, server.clients, run, views=lambda: configured(server.store))
    run.check()
    server.publish(*sent.products)
    return [task.why for task in run.tasks]


def test_reconcile_finds_nothing_in_catalogs_that_are_as_they_should_be(server: System) -> None:
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


def test_reconcile_takes_a_stream_off_the_index_that_became_private_and_lists_a_new_view(server: System) -> None:
    create_view(server.store, private(streams=("images",)))
    create_view(server.store, view("noble", ("images",), only=("ubuntu:noble",)))
    assert len(compared(server)) == 3
    assert compared(server) == []
    assert b'"index":{}' in server.streams()["streams/v1/index.json"]
    assert server.listed(view="staging") == server.listed(view="noble") == {NAME: VERSIONS}
