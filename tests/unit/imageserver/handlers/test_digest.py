"""A backlog of large versions: how often digest hands one on, and so why its function has RecursiveLoop: Allow.

The handler is the real one. Reading takes simulated time, at the 75 MB/s of one Lambda run.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import mean
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import pytest

from gates import stack as stacks
from imageserver.aws import events
from imageserver.errors import OutOfTime
from imageserver.format.keys import VersionId, version_of
from imageserver.operations.ingest import Ingested, IngestServices
from tests.support.handlers import Context, imported, sqs_event
from tests.support.sqs import QUEUE_URL, MemoryQueue

TIMEOUT_S: Final = 900
BATCH: Final = 10
BYTES_PER_S: Final = 75_000_000
LAMBDA_STOPS: Final = 16


@dataclass
class Queue:
    """Arrivals of versions of 25 to 50 GB, one message each, and the runs that take them: like SQS, in no order."""

    app: ModuleType
    runs: int
    rng: random.Random
    sizes: dict[str, float] = field(default_factory=dict)
    waiting: list[tuple[float, str]] = field(default_factory=list)  # from when it can be received
    hops: Counter[str] = field(default_factory=Counter)
    ingested: list[str] = field(default_factory=list)
    began: float = 0.0
    elapsed: float = 0.0

    def drain(self) -> None:
        free = [0.0] * self.runs
        while self.waiting:
            now = max(heapq.heappop(free), min(moment for moment, _ in self.waiting))
            ready = [message for message in self.waiting if message[0] <= now]
            batch = self.rng.sample(ready, min(BATCH, len(ready)))
            self.waiting = [message for message in self.waiting if message not in batch]
            before, left = len(self.ingested), len(self.waiting)
            self.run(now, [key for _, key in batch])
            assert len(self.ingested) > before, "each run ingests a version"
            assert len(self.waiting) - left < len(batch), "no run sends more messages than it got"
            heapq.heappush(free, now + self.elapsed)

    def run(self, now: float, keys: list[str]) -> None:
        self.began, self.elapsed = now, 0.0
        context = Context()
        # Time is simulated.
        context.get_remaining_time_in_millis = lambda: int((TIMEOUT_S - self.elapsed) * 1000)  # type: ignore[method-assign]
        assert self.app.handler(sqs_event("b", *keys), context) == {"batchItemFailures": []}

    def ingest(self, version: VersionId, services: IngestServices) -> Ingested:
        size = self.sizes[version.path]
        if services.budget_bytes is not None and size > services.budget_bytes:
            raise OutOfTime(version.path)
        self.elapsed += size / BYTES_PER_S
        assert self.elapsed < TIMEOUT_S, "a run that took it on reads it to its end"
        self.ingested.append(version.path)
        return Ingested(version)

    def send(self, _client: object, _url: str, body: str) -> None:
        assert self.elapsed > (1 - self.app.FRESH) * TIMEOUT_S, "handing on costs a run a tenth of its time"
        (key,) = events.keys(body)
        self.hops[version_of(key).path] += 1
        self.waiting.append((self.began + self.elapsed, key))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with imported(
        "imageserver.handlers.digest",
        {"BUCKET": "b", "QUEUE_URL": QUEUE_URL, "AWS_REGION": "eu-central-1"},
    ) as app:
        monkeypatch.setattr(app, "sqs_client", lambda: None)
        monkeypatch.setattr(app.batches, "sqs_client", MemoryQueue)
        yield app


def drained(app: ModuleType, monkeypatch: pytest.MonkeyPatch, versions: int, runs: int) -> Queue:
    queue = Queue(app, runs, random.Random(f"{versions} {runs}"))
    for number in range(versions):
        path = f"images/os/r{number}/amd64/default/20261123_10:00"
        queue.sizes[path] = queue.rng.uniform(25e9, 50e9)
        queue.waiting.append((0.0, f"{path}/disk.qcow2"))
    monkeypatch.setattr(app, "ingest", queue.ingest)
    monkeypatch.setattr(app, "queues", SimpleNamespace(send=queue.send))
    queue.drain()
    assert sorted(queue.ingested) == sorted(queue.sizes), "each is ingested once"
    return queue


def most_hops(versions: int, runs: int) -> float:
    """Compute as the template does: nine of ten are handed on until one batch for each run is left."""
    return math.log(versions / (BATCH * runs)) / math.log(BATCH / (BATCH - 1)) + BATCH - 1


@pytest.mark.parametrize(
    ("versions", "runs", "stopped"), [(40, 2, False), (100, 2, True), (120, 8, False), (400, 8, True)]
)
def test_a_long_backlog_is_handed_on_without_reaching_lambdas_loop_detection(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, versions: int, runs: int, stopped: bool
) -> None:
    queue = drained(app, monkeypatch, versions, runs)
    assert (max(queue.hops.values()) > LAMBDA_STOPS) == stopped
    assert max(queue.hops.values()) == pytest.approx(most_hops(versions, runs), abs=4)
    assert mean(queue.hops[path] for path in queue.sizes) < BATCH - 1


def test_the_template_states_the_same_arithmetic() -> None:
    comment = " ".join(
        stacks.TEMPLATE.read_text()
        .split("# A run that has too little time left for a version hands it on")[1]
        .split("#")[:9]
    )
    text = " ".join(comment.split())
    first = next(number for number in range(1, 1000) if most_hops(number, 1) > LAMBDA_STOPS)
    runs = f"{2 * first} with two runs, {8 * first} with eight"
    assert f"more than {LAMBDA_STOPS} from {first} versions a run on: {runs}; " in text
    assert f"100 with two take up to {most_hops(100, 2):.0f}" in text
    function: dict[str, Any] = dict(stacks.deployed().properties("DigestFunction"))
    assert function["RecursiveLoop"] == "Allow"
