"""`bench scale`: events, batching windows and conditional writes in simulated time, with the real fold.

Publish functions share streams as they do in AWS: each gathers messages until its window closes, reads the revision
of a document, then the records, folds, and writes if the revision is still the one it read; otherwise it starts again.
They take turns by a mark on the stream, or race where a scene says so.
Only time is modelled (`Costs`). What they write is real, and at the end each document must equal the fold of all
records from scratch: an update that a race lost would show.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import click

from cli.bench.figures import Figure, figure
from cli.bench.folds import record_of
from publish.commit import TURN_S
from simplestreams import catalog
from simplestreams.catalog import Products
from simplestreams.fold import fold, product_id
from simplestreams.keys import ProductId
from simplestreams.records import Record
from storage.marks import POLL_S as MARK_POLL_S

# Longest and first pause after a lost race, as storage.attempts has them.
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_POLL_S: Final = 0.05
_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that things take: S3's first byte, a connection's bytes per second, the fold for each byte.

    The fold is what `bench fold` measured on a catalog of 100,000 versions.
    """

    request_s: float = 0.025
    bytes_per_s: float = 80e6
    fold_s_per_byte: float = 0.39 / 124e6

    @property
    def marking_s(self) -> float:
        """Look for a mark and leave one; removing it is a third request."""
        return 2 * self.request_s

    def reading(self, document_bytes: float, products: int, readers: int) -> float:
        """Read three documents, list each product's records and read the 20 of each, `readers` at once."""
        rounds = 3 + products * (1 + 20 / readers)
        return rounds * self.request_s + document_bytes / self.bytes_per_s

    def writing(self, document_bytes: float) -> float:
        """Fold, then send the document; S3 looks at the condition at the end."""
        return document_bytes * self.fold_s_per_byte + self.request_s + document_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Scene:
    """What is simulated: `rate` versions a second for `seconds`, into `streams` documents of `document_bytes`.

    `marked`: a publisher waits while another holds the mark on the stream, for TURN_S at most, instead of racing.
    """

    name: str
    rate: float
    window_s: float
    seconds: float = 600.0
    publishers: int = 2
    streams: int = 1
    document_bytes: float = 10e6
    products: int = 50
    readers: int = 16
    marked: bool = True


@dataclass(slots=True)
class _World:
    """The bucket and the queue. `waiting` holds (arrival, product); `listed_after` seconds of each version."""

    scene: Scene
    costs: Costs
    now: float = 0.0
    waiting: list[tuple[float, ProductId]] = field(default_factory=list)
    records: dict[ProductId, list[Record]] = field(default_factory=lambda: defaultdict(list))
    documents: dict[str, Products] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    attempts: int = 0
    lost: int = 0
    writes: int = 0
    held: dict[str, float] = field(default_factory=dict)  # stream -> when its mark runs out
    listed_after: list[float] = field(default_factory=list)
    arrivals_left: int = 0


Process = Generator[float, None, None]


def simulate(scene: Scene, costs: Costs | None = None, seed: int = 1) -> _World:
    """Run a scene to its end; AssertionError when what is listed is not what was recorded."""
    world = _World(scene, costs or Costs())
    chance = random.Random(seed)  # noqa: S311 - a simulation wants the same numbers each time
    _run(world, [_uploads(world, chance), *(_publisher(world, chance) for _ in range(scene.publishers))])
    for stream, document in world.documents.items():
        ours = {product: made for product, made in world.records.items() if product.stream == stream}
        whole = fold(catalog.decode_products(None, stream), ours).document
        if catalog.encode(document) != catalog.encode(whole):
            raise AssertionError(f"{scene.name}: {stream} lost an update")
    return world


def _run(world: _World, processes: Iterable[Process]) -> None:
    """Step the process that is due next, until all have ended."""
    order = itertools.count()
    due = [(0.0, next(order), process) for process in processes]
    heapq.heapify(due)
    while due:
        world.now, _, process = heapq.heappop(due)
        pause = next(process, None)
        if pause is not None:
            heapq.heappush(due, (world.now + pause, next(order), process))


def _uploads(world: _World, chance: random.Random) -> Process:
    """Versions arrive at random, each for a random product of a random stream."""
    scene = world.scene
    world.arrivals_left = int(scene.rate * scene.seconds)
    serials = itertools.count()
    for _ in range(world.arrivals_left):
        yield chance.expovariate(scene.rate)
        serial = next(serials)
        record = record_of(serial % scene.products, serial // scene.products)
        stream = "images" if scene.streams == 1 else f"images-{chance.randrange(scene.streams)}"
        made = product_id(stream, record.id.product.name)
        world.records[made].append(record)
        world.waiting.append((world.now, made))
        world.arrivals_left -= 1


def _publisher(world: _World, chance: random.Random) -> Process:
    """Gather a batch, publish it stream by stream, begin again; end when nothing can come any more."""
    yield chance.uniform(0, world.scene.window_s)
    while world.waiting or world.arrivals_left:
        if not world.waiting:
            yield _POLL_S
            continue
        batch: list[tuple[float, ProductId]] = []
        closes = world.now + world.scene.window_s
        while world.now < closes and len(batch) < _BATCH:
            taken = min(_BATCH - len(batch), len(world.waiting))
            batch += world.waiting[:taken]
            del world.waiting[:taken]
            yield _POLL_S
        for _, group in _by_stream(batch):
            yield from _publish(world, group, chance)


def _by_stream(batch: list[tuple[float, ProductId]]) -> Iterator[tuple[str, list[tuple[float, ProductId]]]]:
    streams: dict[str, list[tuple[float, ProductId]]] = defaultdict(list)
    for arrived, product in batch:
        streams[product.stream].append((arrived, product))
    yield from sorted(streams.items())


def _publish(world: _World, group: list[tuple[float, ProductId]], chance: random.Random) -> Process:
    """The publish function: revision first, then the records, then the conditional write; again if it was lost."""
    stream, products = group[0][1].stream, {product for _, product in group}
    if world.scene.marked:
        yield from _turn(world, stream)
    for attempt in itertools.count(1):
        world.attempts += 1
        revision = world.revisions[stream]
        before = world.documents.get(stream) or catalog.decode_products(None, stream)
        yield world.costs.reading(world.scene.document_bytes, len(products), world.scene.readers)
        changed = {product: list(world.records[product]) for product in products}
        after = fold(before, changed).document
        yield world.costs.writing(world.scene.document_bytes)
        if world.revisions[stream] == revision:
            world.revisions[stream] += 1
            world.documents[stream] = after
            world.writes += 1
            world.listed_after += [world.now - arrived for arrived, _ in group]
            if world.scene.marked:
                world.held.pop(stream, None)
                yield world.costs.request_s
            return
        world.lost += 1
        yield chance.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt))


def _turn(world: _World, stream: str) -> Process:
    """Wait for the mark on the stream, as storage.marks does, and take it."""
    patience = world.now + TURN_S
    while world.held.get(stream, 0.0) > world.now and world.now < patience:
        yield MARK_POLL_S
    world.held[stream] = world.now + TURN_S
    yield world.costs.marking_s


DAY_S: Final = 86_400.0
# 10,000 publishers, one version a day each: evenly, and half of a day's versions in one hour.
EVEN: Final = 10_000 / DAY_S
RUSH: Final = 5_000 / 3600
BURST: Final = 1000 / 60
SCENES: Final = (
    Scene("10,000 versions a day, evenly", EVEN, 3, seconds=3600),
    Scene("half of them in one hour", RUSH, 3),
    Scene("half of them in one hour, window of 10 s", RUSH, 10),
    Scene("half of them in one hour, window of 30 s", RUSH, 30),
    Scene("half of them in one hour, 10 publishers", RUSH, 3, publishers=10),
    Scene("half of them in one hour, 8 streams", RUSH, 3, streams=8),
    Scene("half of them in one hour, a document of 1 MB", RUSH, 3, document_bytes=1e6),
    Scene("half of them in one hour, a document of 100 MB", RUSH, 3, document_bytes=100e6),
    Scene("1,000 versions in a minute", BURST, 3, seconds=60),
    Scene("1,000 versions in a minute, window of 10 s", BURST, 10, seconds=60),
    Scene("1,000 versions in a minute, 8 readers", BURST, 3, seconds=60, readers=8),
    Scene("half of them in one hour, without the mark", RUSH, 3, marked=False),
    Scene("half of them in one hour, 10 publishers, without the mark", RUSH, 3, publishers=10, marked=False),
    Scene("1,000 versions in a minute, without the mark", BURST, 3, seconds=60, marked=False),
)


def scale_figures(rounds: int) -> list[Figure]:
    """Every scene with as many seeds as rounds: lost races, writes, seconds from record to listed."""
    found: list[Figure] = []
    for scene in SCENES:
        click.echo(f"  {scene.name} …", err=True)
        worlds = [simulate(scene, seed=seed) for seed in range(rounds)]
        lost = [100 * world.lost / max(1, world.attempts) for world in worlds]
        found.append(figure(f"{scene.name}: races lost", "%", lost))
        found.append(figure(f"{scene.name}: writes", "a minute", [60 * w.writes / w.now for w in worlds]))
        found.append(
            figure(f"{scene.name}: record to listed", "s", [s for world in worlds for s in world.listed_after])
        )
    return found
