"""Deltas whose request was lost: reconcile asks for them, but not forever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from imageserver.catalog.delta_plan import RunCapacity
from imageserver.format.keys import ProductId, parse_version
from imageserver.operations.delta_requests import DeltaRequests
from imageserver.operations.make_deltas import DeltaServices, Outcome, make_deltas
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import withdraw
from tests.support import images
from tests.support.maintained import DAYS, ID, PRODUCT, five_versions, no_pause
from tests.support.memory_store import START, Sent, System


@pytest.fixture
def system() -> System:
    return five_versions()


def asked(
    system: System, usual: int = 1, since: datetime = START, dry_run: bool = False
) -> tuple[list[ProductId], list[str]]:
    """Return the products for which reconcile asks delta, and why."""
    products: list[ProductId] = []
    run = Run(dry_run=dry_run)
    requests = DeltaRequests(usual, since, products.append)
    reconcile(ReconcileServices(system.store, Sent(), system.clients, deltas=requests), run)
    assert not run.failed
    return products, [task.why for task in run.tasks if task.what == "ask for deltas"]


def missing(base: str) -> str:
    return f"{DAYS[-1]} has no delta from {base}, and its record does not say why"


def test_reconcile_asks_once_for_the_deltas_of_a_product_that_lacks_them(system: System) -> None:
    assert asked(system) == ([ID], [missing(DAYS[-2])])
    assert asked(system, usual=3) == ([ID], [missing(DAYS[-2])])


def test_a_dry_run_reports_missing_deltas_and_sends_no_request(system: System) -> None:
    assert asked(system, dry_run=True) == ([], [missing(DAYS[-2])])


def test_a_product_that_wants_no_deltas_is_skipped(system: System) -> None:
    assert asked(system, usual=0) == ([], [])
    system.store.put(f"{PRODUCT}/{DAYS[-1]}/metadata.json", json.dumps({"deltas": 0}).encode())
    system.catch_up()
    assert asked(system) == ([], [])


def test_a_delta_that_was_dropped_with_a_reason_is_not_asked_for_again(system: System, tmp_path: Path) -> None:
    services = DeltaServices(system.store, Unused(), no_pause, lambda: RunCapacity(10**12, 1769, 0), tmp_path)
    assert [one.outcome for one in make_deltas(ID, services)] == [Outcome.DROPPED]
    assert asked(system) == ([], [])
    assert asked(system, usual=2) == ([ID], [missing(DAYS[-3])]), "of that base its record says nothing"


class Unused:
    """An encoder for runs without enough space, which end before they need it."""

    def encode(self, folder: Path, seconds: float) -> Iterator[bytes]:
        raise AssertionError(f"nothing is encoded without room, expected no look into {folder} for {seconds} s")

    decode = encode


def test_another_base_is_asked_about_although_the_first_was_dropped(system: System, tmp_path: Path) -> None:
    services = DeltaServices(system.store, Unused(), no_pause, lambda: RunCapacity(10**12, 1769, 0), tmp_path)
    make_deltas(ID, services)
    withdraw(system.store, parse_version(f"{PRODUCT}/{DAYS[-2]}"), system.store.clock, 24, no_pause, "replaced")
    system.catch_up()
    assert asked(system) == ([ID], [missing(DAYS[-3])])


def test_a_publishers_own_delta_wins(system: System) -> None:
    system.store.put(f"{PRODUCT}/{DAYS[-1]}/rootfs.{DAYS[0]}.vcdiff", images.vcdiff())
    system.catch_up()
    assert asked(system) == ([], [])


def test_a_version_uploaded_before_the_given_time_is_skipped_unless_its_base_came_after(system: System) -> None:
    later = system.store.clock + timedelta(hours=1)
    assert asked(system, since=later) == ([], [])
    system.store.clock = later
    system.upload(f"{PRODUCT}/20261119", images.split_image(seed="late"))
    system.catch_up()
    assert asked(system, since=later) == ([ID], [missing("20261119")])


def test_a_newest_version_whose_record_is_lost_is_not_asked_about(system: System) -> None:
    del system.store.objects[f"versions/{PRODUCT}/{DAYS[-1]}.json"]
    assert asked(system)[0] == []


def test_a_server_without_deltas_sends_no_request(system: System) -> None:
    run = Run()
    reconcile(ReconcileServices(system.store, Sent(), system.clients), run)
    assert run.tasks == []
