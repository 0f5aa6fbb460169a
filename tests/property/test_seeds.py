"""Seeds that are kept, each with what it finds once the code that prevents it is taken away.

So a random run that finds nothing says something: it would have. A change of the code may change what a seed plays;
then the seeds from 1 on are tried until one finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import pytest

from imageserver.storage.port import Store, StoredObject
from tests.property.test_faults import NARROW, Story, in_phases
from tests.support.simulated_functions import run_quietly
from tests.support.simulation import CALM, InTurnPool, Rates

STEPS: Final = 1500
MOST_SEEDS: Final = 120


def anywhere(seed: int) -> Story:
    return Story(seed, Rates(event_dropped=0), reconciles=False)


def narrow(seed: int) -> Story:
    rates = replace(CALM, event_doubled=0.5, event_delayed=0.2, stalled=0.3)
    return Story(seed, rates, reconciles=False, workload=NARROW)


def write_over_anything(store: Store, key: str, body: bytes, _seen: StoredObject | None) -> str | None:
    revision = None
    while revision is None:
        seen = store.read(key)
        revision = store.create(key, body) if seen is None else store.replace(key, body, seen.revision)
    return revision


def looks_unchanged(*_: object) -> bool:
    return True


@dataclass(frozen=True)
class Kept:
    """`seed` of `story` finds what happens when `name` is exchanged for `by`."""

    seed: int
    story: Callable[[int], Story]
    name: str
    by: Callable[..., object]


SEEDS: Final = {
    "the index lacks a stream, since a publisher did not look again after its writes": Kept(
        80, anywhere, "imageserver.operations.publish.is_unchanged", looks_unchanged
    ),
    "a document that went away and came back hides a version": Kept(
        8, narrow, "imageserver.operations.publish.is_unchanged", looks_unchanged
    ),
    "a worker that skipped a leased version leaves its last file unread": Kept(
        18, narrow, "imageserver.operations.ingest.is_unchanged", looks_unchanged
    ),
    "a publisher that was faster loses what it wrote": Kept(
        2, anywhere, "imageserver.operations.publish.write", write_over_anything
    ),
    "a record forgets what another worker read": Kept(
        1, anywhere, "imageserver.operations.ingest.write", write_over_anything
    ),
    "a withdrawal forgets files that arrived meanwhile": Kept(
        10, anywhere, "imageserver.operations.withdraw.write", write_over_anything
    ),
}


def finds(kept: Kept, seed: int) -> bool:
    try:
        in_phases(kept.story(seed), STEPS)
    except (AssertionError, ExceptionGroup):
        return True
    return False


@pytest.mark.parametrize("what", SEEDS)
def test_a_kept_seed_finds_what_is_no_longer_prevented(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SEEDS[what]
    monkeypatch.setattr("imageserver.storage.parallel.ThreadPoolExecutor", InTurnPool)
    run_quietly(monkeypatch)
    assert not finds(kept, kept.seed), "with the code as it is the seed finds nothing"
    monkeypatch.setattr(kept.name, kept.by)
    found = next((seed for seed in (kept.seed, *range(1, MOST_SEEDS)) if finds(kept, seed)), None)
    assert found is not None, f"no seed up to {MOST_SEEDS} notices that {kept.name} is gone"
