"""Kept seeds, each with the fault that it finds once the code that prevents it is removed.

They show that a random run without findings means something. A change of the code may change what a seed does;
then the seeds from 1 on are tried until one finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pytest

from imageserver.catalog.changes import UploadsToTag, uploads_to_tag
from imageserver.format.documents import Products
from imageserver.format.keys import ProductId, VersionId
from imageserver.storage.port import Store, StoredObject
from imageserver.storage.s3 import S3Store
from imageserver.versions.records import Record
from tests.property import test_wire_faults
from tests.property.test_faults import NARROW, RandomRun, in_phases
from tests.support.simulated_functions import run_quietly
from tests.support.simulation import NO_FAULTS, InTurnPool, Rates
from tests.support.wire_simulation import FaultRates, OneByOne, read_pinned

STEPS: Final = 1500
MOST_SEEDS: Final = 120


def anywhere(seed: int) -> RandomRun:
    return RandomRun(seed, Rates(event_dropped=0), reconciles=False)


def narrow(seed: int) -> RandomRun:
    rates = replace(NO_FAULTS, event_doubled=0.5, event_delayed=0.2, stalled=0.3)
    return RandomRun(seed, rates, reconciles=False, workload=NARROW)


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
    """`seed` of `random_run` finds the fault when `name` is replaced by `by`."""

    seed: int
    random_run: Callable[[int], RandomRun]
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
        in_phases(kept.random_run(seed), STEPS)
    except (AssertionError, ExceptionGroup):
        return True
    return False


@pytest.mark.parametrize("what", SEEDS)
def test_a_kept_seed_finds_a_fault_once_its_prevention_is_removed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SEEDS[what]
    monkeypatch.setattr("imageserver.storage.parallel.ThreadPoolExecutor", InTurnPool)
    run_quietly(monkeypatch)
    assert not finds(kept, kept.seed), "with the code as it is the seed finds nothing"
    monkeypatch.setattr(kept.name, kept.by)
    found = next((seed for seed in (kept.seed, *range(1, MOST_SEEDS)) if finds(kept, seed)), None)
    assert found is not None, f"no seed up to {MOST_SEEDS} notices that {kept.name} is gone"


# The rules of decisions/0010-listed-uploads.md need an edge that caches every request.

_tag_listed = S3Store.tag_listed
Changed = Mapping[ProductId, Sequence[Record]]


def tag_all_before_the_catalog(
    before: Products, after: Products, changed: Changed, asked: Collection[ProductId | VersionId]
) -> UploadsToTag:
    found = uploads_to_tag(before, after, changed, asked)
    return UploadsToTag(first=found.first | found.then, uncertain=found.uncertain)


def tag_what_changes_alone(
    before: Products, after: Products, changed: Changed, _asked: Collection[ProductId | VersionId]
) -> UploadsToTag:
    return uploads_to_tag(before, after, changed, ())


def tag_the_newest_upload(store: S3Store, key: str, _version_id: str) -> bool:
    uploads = store.history(key).uploads
    return bool(uploads) and _tag_listed(store, key, uploads[0].version_id)


TAG_SEEDS: Final = {
    "the edge keeps bytes that were tagged before a catalog which lost its race": (
        45, "imageserver.operations.publish.uploads_to_tag", tag_all_before_the_catalog
    ),
    "a listed file is served to nobody, as a run died and the next one did not tag it": (
        14, "imageserver.operations.publish.uploads_to_tag", tag_what_changes_alone
    ),
    "the edge keeps bytes that came behind those listed, as the newest upload was tagged": (
        8, "imageserver.storage.s3.S3Store.tag_listed", tag_the_newest_upload
    ),
}  # fmt: skip


def finds_at_the_edge(seed: int) -> bool:
    random_run = test_wire_faults.RandomRun(seed, FaultRates(), overwrites=True)
    try:
        for _ in range(3):
            random_run.take_steps(STEPS // 3)
            random_run.finish()
    except (AssertionError, ExceptionGroup):
        return True
    return False


@pytest.mark.filterwarnings("ignore:No application metrics to publish")
@pytest.mark.parametrize("what", TAG_SEEDS)
def test_a_kept_seed_finds_that_a_rule_on_tags_is_gone(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, name, by = TAG_SEEDS[what]
    monkeypatch.setattr("imageserver.storage.s3.read_object", read_pinned)
    monkeypatch.setattr("imageserver.storage.parallel.ThreadPoolExecutor", OneByOne)
    run_quietly(monkeypatch)
    assert not finds_at_the_edge(kept), "with the code as it is the seed finds nothing"
    monkeypatch.setattr(name, by)
    found = next((seed for seed in (kept, *range(1, MOST_SEEDS)) if finds_at_the_edge(seed)), None)
    assert found is not None, f"no seed up to {MOST_SEEDS} notices that {name} is gone"
