"""Versions that kill their worker, and random deaths of workers, do not delay other versions for long.

The deployed handler of digest runs with a test's queue, bucket and clock. A death is an exception that no
handler catches. After it the process has no effect: no lease is released and no message hidden.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Final

import pytest

from imageserver.aws import events
from imageserver.format.keys import VersionId, parse_version, version_of
from imageserver.handlers import batches
from tests.support import images
from tests.support.handlers import Context, imported
from tests.support.memory_store import START, System
from tests.support.messages import s3_event
from tests.support.sqs import QUEUE_URL, MemoryQueue

BATCH: Final = 10
SOON_S: Final = 300
"""The time after its last file within which each version is recorded, however often others kill their worker."""
DEAD_AFTER_S: Final = 6 * 3600


class Killed(BaseException):
    """The process is gone."""


class World:
    """One digest function with one run at a time, so that deaths affect other versions as often as possible."""

    def __init__(self, app: ModuleType, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = random.Random(seed)
        self.app, self.system, self.queue = app, System(), MemoryQueue()
        self.deadly: set[str] = set()
        self.deaths = 0
        self.chance_of_death = 0.0
        self._is_dead = False
        self.system.store.on = self._called
        monkeypatch.setattr(app, "store", self.system.store)
        for module in (app, batches):
            monkeypatch.setattr(module, "sqs_client", lambda: self.queue)
        monkeypatch.setattr(app, "datetime", self)

    def now(self, _zone: object) -> object:
        return START + timedelta(seconds=self.queue.clock)

    def upload(self, path: str, *, deadly: bool) -> None:
        files = images.split_image(seed=path)
        if self.rng.random() < 0.5:  # only small files: reading them needs no lease
            del files["rootfs.squashfs"]
        self.system.upload(path, files)
        if deadly:
            self.deadly.add(f"{path}/{self.rng.choice(sorted(files) if len(files) > 1 else ['lxd.tar.xz'])}")
        for file in files:
            self.queue.send(*[s3_event(f"{path}/{file}")] * self.rng.choice((1, 1, 2)))

    def run(self) -> None:
        """Let some time pass, then run a batch of visible messages."""
        self.queue.clock += self.rng.choice((1, 2, 10, 40))
        self.system.store.clock = max(self.system.store.clock, START + timedelta(seconds=self.queue.clock))
        visible = self.queue.visible()
        event = self.queue.receive(self.rng.sample(visible, min(len(visible), self.rng.randint(1, BATCH))))
        if not event["Records"]:
            return
        self._is_dead = False
        try:
            self.queue.handled(event, self.app.handler(event, Context()))
        except Killed:
            self.deaths += 1

    def recorded(self) -> set[str]:
        return {v.path for v in self.system.versions() if v.record_key in self.system.store.objects}

    def _called(self, method: str, key: str) -> None:
        dies = method == "chunk" and (key in self.deadly or self.rng.random() < self.chance_of_death)
        if self._is_dead or dies:
            self._is_dead = True
            raise Killed


@pytest.fixture
def app() -> Iterator[ModuleType]:
    with imported("imageserver.handlers.digest", {"BUCKET": "images", "QUEUE_URL": QUEUE_URL}) as app:
        yield app


def dead_versions(queue: MemoryQueue) -> set[VersionId]:
    return {version_of(key) for message in queue.dead for key in events.keys(message.body)}


@pytest.mark.parametrize("seed", range(30))
def test_a_version_that_kills_its_worker_delays_no_other_and_ends_as_a_dead_letter(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    world = World(app, seed, monkeypatch)
    paths = [f"images/os/r{number}/amd64/default/20261123_10:00" for number in range(world.rng.randint(2, 12))]
    deadly = set(world.rng.sample(paths, world.rng.randint(1, 2) if len(paths) > 3 else 1))
    for path in paths:
        world.upload(path, deadly=path in deadly)
    while world.queue.clock < SOON_S:
        world.run()
    assert world.recorded() >= set(paths) - deadly, "the others do not wait"
    assert world.deaths
    while world.queue.messages and world.queue.clock < DEAD_AFTER_S:
        world.queue.clock += 60
        world.run()
    assert dead_versions(world.queue) == {parse_version(path) for path in deadly}, "an alarm names what kills"


@pytest.mark.parametrize("seed", range(30))
def test_workers_that_die_at_random_lose_nothing(app: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    world = World(app, seed, monkeypatch)
    world.chance_of_death = 0.03
    paths = [f"images/os/r{number}/amd64/default/20261123_10:00" for number in range(12)]
    for path in paths:
        world.upload(path, deadly=False)
    while world.queue.messages and world.queue.clock < DEAD_AFTER_S:
        world.run()
    dead = {version.path for version in dead_versions(world.queue)}
    assert world.recorded() | dead == set(paths)
    assert len(dead) <= 1, "five deaths in a row of one version are bad luck"
