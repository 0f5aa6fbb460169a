"""A product with five listed versions, and a run of prune over it."""

from __future__ import annotations

from datetime import UTC, datetime

from imageserver.format.keys import parse_product
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run, Task
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.memory_store import Sent, System

PRODUCT = "images/ubuntu/noble/amd64/default"
ID = parse_product(PRODUCT)
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
KEEP_ALL = Rules(Rule(), grace_hours=24, stale_days=7)
DAYS = [f"202611{day:02d}" for day in (1, 5, 10, 15, 20)]


def no_pause(_seconds: float) -> None:
    """Do not wait."""


def five_versions() -> System:
    """Return a server that lists a version for each of DAYS."""
    system = System()
    for day in DAYS:
        system.upload(f"{PRODUCT}/{day}", images.split_image(seed=day))
    system.catch_up()
    return system


def tidy(
    system: System, now: datetime, rules: Rules = KEEP_ALL, dry_run: bool = False, notifier: Sent | None = None
) -> list[Task]:
    """Run prune to its end and return what it did."""
    run = Run(dry_run=dry_run)
    prune(system.store, notifier or Sent(), rules, now, no_pause, run)
    assert run.ended
    return run.tasks
