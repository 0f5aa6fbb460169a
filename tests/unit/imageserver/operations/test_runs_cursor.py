"""A run of maintain resumes where the last one stopped, and reads each catalog once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from imageserver.operations.prune import Rules, prune
from imageserver.operations.reconcile import reconcile
from imageserver.operations.runs import Run, remember, resume
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.memory_store import MemoryStore, Sent, System

PRODUCT = "images/ubuntu/noble/amd64/default"


NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


KEEP_ALL = Rules(Rule(), grace_hours=24, stale_days=7)


def no_pause(_seconds: float) -> None:
    """Nobody else is there to wait for."""


DAYS = [f"202611{day:02d}" for day in (1, 5, 10, 15, 20)]


@pytest.fixture
def system() -> System:
    system = System()
    for day in DAYS:
        system.upload(f"{PRODUCT}/{day}", images.split_image(seed=day))
    system.catch_up()
    return system


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
