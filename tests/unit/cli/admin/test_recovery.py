"""Rebuilt records and catalogs keep withdrawals, and a failed step is not reported as done."""

from __future__ import annotations

import pytest

from cli.admin import recovery
from cli.admin.deployment import Deployment
from cli.admin.recovery import StepFailed
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import parse_version
from imageserver.operations.withdraw import withdraw
from imageserver.versions import records
from tests.support import images
from tests.support.memory_store import START, System

NOBLE = parse_version("images/ubuntu/noble/amd64/default/20261123_1000")
TRIXIE = parse_version("images/debian/trixie/amd64/default/20261123_1000")
DAILY = parse_version("images-daily/debian/trixie/amd64/default/20261123_1000")
CLIENTS = ("incus", "lxd")


@pytest.fixture
def system() -> System:
    system = System()
    for version in (NOBLE, TRIXIE, DAILY):
        system.upload(version.path, images.split_image(seed=version.path))
    system.catch_up()
    return system


def deployment(system: System) -> Deployment:
    found = Deployment(None, "images-1", endpoint="memory")
    found.__dict__["store"] = system.store
    return found


def carry_out(steps: list[recovery.Step]) -> list[str]:
    """Carry out the steps; return why some were not done."""
    return [outcome.why for step in steps if isinstance(outcome := step.do(), StepFailed)]


def rebuilt(system: System) -> tuple[list[str], list[str]]:
    """Rebuild the records; return the planned steps, and those that were not done."""
    again = recovery.plan_records(system.store, "", 1 << 40)
    return [step.what for step in again.steps], carry_out(again.steps)


@pytest.mark.parametrize("damage", [b"{torn", b""])
def test_a_rebuilt_record_keeps_the_withdrawal_of_the_last_readable_one(system: System, damage: bytes) -> None:
    withdraw(system.store, NOBLE, START, 24, lambda _: None, "a leak")
    before = system.store.objects[NOBLE.record_key].body
    if damage:
        system.store.put(NOBLE.record_key, damage)
    else:
        del system.store.objects[NOBLE.record_key]
    states: set[str] = set()

    def look(method: str, key: str) -> None:
        found = system.store.objects.get(NOBLE.record_key)
        if (method, key.startswith(NOBLE.path)) == ("chunk", True) and found:
            states.add(records.decode(found.body, NOBLE.record_key).state)

    system.store.on = look
    what, left = rebuilt(system)
    assert left == []
    assert [sentence for sentence in what if "it stays withdrawn since" in sentence]
    assert system.store.objects[NOBLE.record_key].body == before
    assert states == {"withdrawn"}, "it was never listed meanwhile"


def test_a_rebuild_reports_that_no_earlier_record_is_readable(system: System) -> None:
    system.store.put(NOBLE.record_key, b"{torn")
    system.store.generations.clear()
    what, left = rebuilt(system)
    assert left == []
    assert what == [
        f"delete {NOBLE.record_key}, which cannot be read",
        f"read {NOBLE.path} again: its record cannot be read; the bucket keeps no earlier one that can be read: "
        "if it was withdrawn, withdraw it again",
    ]
    assert records.decode(system.store.objects[NOBLE.record_key].body, NOBLE.record_key).state == "complete"


def test_a_version_that_fails_does_not_end_the_rebuild_of_the_records(system: System) -> None:
    for version in (NOBLE, TRIXIE):
        del system.store.objects[version.record_key]

    def fails(method: str, key: str) -> None:
        if method == "open" and key.startswith(TRIXIE.path):
            raise StorageUnavailable("slow down")

    system.store.on = fails
    _, left = rebuilt(system)
    assert left == [f"{TRIXIE.path}: slow down"]
    assert records.decode(system.store.objects[NOBLE.record_key].body, NOBLE.record_key).state == "complete"


def test_a_product_that_cannot_be_read_is_not_counted_as_folded(system: System) -> None:
    system.store.put(NOBLE.record_key, b"{torn")
    left = carry_out(list(recovery.plan_catalog(deployment(system), CLIENTS)))
    (why,) = left
    assert why.startswith("1 product of images cannot be listed as the records say, the others are: ubuntu:noble")


def test_a_stream_that_fails_does_not_end_the_rebuild_of_the_catalog(system: System) -> None:
    catalog = system.streams()
    for key in catalog:
        del system.store.objects[key]

    def fails(method: str, key: str) -> None:
        if method == "read" and key == TRIXIE.record_key:
            raise StorageUnavailable("slow down")

    steps = list(recovery.plan_catalog(deployment(system), CLIENTS))
    system.store.on = fails
    assert carry_out(steps) == ["images: slow down"]
    assert system.listed("images-daily") == {DAILY.product.name: [DAILY.version]}
