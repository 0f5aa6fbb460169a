"""A run of maintain resumes where the last one stopped, and reads each catalog once."""

from __future__ import annotations

import pytest

from imageserver.operations.prune import prune
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run, remember, resume
from tests.support import images
from tests.support.maintained import KEEP_ALL, NOW, no_pause
from tests.support.memory_store import MemoryStore, Sent, System


def test_a_stopped_run_resumes_where_it_stopped_but_a_finished_one_starts_over() -> None:
    system = System()
    paths = [f"images/os{n}/1/amd64/default/20261101" for n in range(4)]
    for path in paths:
        system.upload(path, images.split_image(seed=path))
    seen: list[list[str]] = []
    for _ in range(3):
        sent, run = Sent(), Run(after=resume(system.store, "reconcile"), limit=2)
        reconcile(ReconcileServices(system.store, sent, ("lxd",)), run)
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
        reconcile(ReconcileServices(system.store, Sent(), system.clients), Run())
    reads = [key for method, key in system.store.log if method == "read"]
    assert len([key for key in reads if key.startswith("versions/")]) == 6
    assert reads.count("streams/v1/images.json") == 1
