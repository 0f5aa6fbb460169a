"""`bench scale`: events, batching windows and conditional writes in simulated time, with the real fold.

Publish functions share streams as they do in AWS: each gathers messages until its window closes, reads the revision
of a document, then the records, folds, and writes if the revision is still the one it read; otherwise it starts again.
They take turns by a lease on the stream, or race if a scenario says so. Some messages come twice, and some minutes
late, as S3 and SQS allow. A publisher that finds nothing new writes nothing; one that reads a product's records lists
all of them, whether their messages have come or not.
Only time is modelled (`Costs`). What they write is real, and at the end each document must equal the fold of all
records from scratch: an update that a race lost would show.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import click

from cli.bench.figures import Figure, figure
from cli.bench.processes.fold import record_of
from imageserver.catalog.fold import fold
from imageserver.format import documents
from imageserver.format.documents import Products, product_id
from imageserver.format.keys import ProductId
from imageserver.operations.publish import LEASE_S
from imageserver.storage.leases import POLL_S as LEASE_POLL_S
from imageserver.versions.records import Record

# Longest and first pause after a lost race, as imageserver.storage.retries has them.
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_POLL_S: Final = 0.05
_BATCH: Final = 200
LATE_S: Final = (60.0, 600.0)
"""How long a late message takes. Messages usually come within seconds, but sometimes after minutes."""
AGAIN_S: Final = 60.0
"""The longest time until the second copy of a duplicated message."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The model's costs: seconds to S3's first byte, a connection's bytes per second, seconds of a fold for each byte.

    The fold is what `bench fold` measured on a catalog of 100,000 versions.
    """

    request_s: float = 0.025
    bytes_per_s: float = 80e6
    fold_s_per_byte: float = 0.39 / 124e6

    @property
    def lease_s(self) -> float:
        """The seconds to look for a lease and to take one; removing it is a third request."""
        return 2 * self.request_s

    def reading(self, document_bytes: float, products: int, readers: int) -> float:
        """Return the time to read three documents, and to list and read 20 records per product, `readers` at once."""
        rounds = 3 + products * (1 + 20 / readers)
        return rounds * self.request_s + document_bytes / self.bytes_per_s

    def writing(self, document_bytes: float) -> float:
        """Return the time to fold, then to send the document; S3 checks the condition at the end."""
        return document_bytes * self.fold_s_per_byte + self.request_s + document_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated: `rate` versions a second for `seconds`, into `streams` documents of `document_bytes`.

    `leased`: a publisher waits while another holds the lease on the stream, for LEASE_S at most, instead of racing.
    `twice` and `late` are the shares of messages that come a second time, and that take LATE_S to come.
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
    leased: bool = True
    twice: float = 0.0
    late: float = 0.0


Name = tuple[ProductId, str]


@dataclass(slots=True)
class _World:
    """The bucket and the queue. `queue` is a heap of (when it can be received, product).

    `unlisted`: for each version that no document has yet, when its record was written. `listed_after`: for the others,
    the seconds from the record to the document.
    """

    scenario: Scenario
    costs: Costs
    now: float = 0.0
    queue: list[tuple[float, ProductId]] = field(default_factory=list)
    records: dict[ProductId, list[Record]] = field(default_factory=lambda: defaultdict(list))
    documents: dict[str, Products] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    attempts: int = 0
    lost: int = 0
    writes: int = 0
    idle: int = 0
    held: dict[str, float] = field(default_factory=dict)  # stream -> when its lease runs out
    unlisted: dict[Name, float] = field(default_factory=dict)
    listed_after: list[float] = field(default_factory=list)
    arrivals_left: int = 0
    uploaded_s: float = 0.0

    def receive(self, most: int) -> list[ProductId]:
        """Take up to `most` messages that are due off the queue."""
        taken: list[ProductId] = []
        while self.queue and self.queue[0][0] <= self.now and len(taken) < most:
            taken.append(heapq.heappop(self.queue)[1])
        return taken

    def note_listed(self, changed: dict[ProductId, list[Record]]) -> None:
        """Note that these records are in a document from now on."""
        for product, versions in changed.items():
            for record in versions:
                written = self.unlisted.pop((product, record.id.version), None)
                if written is not None:
                    self.listed_after.append(self.now - written)


Process = Generator[float, None, None]


def simulate(scenario: Scenario, costs: Costs | None = None, seed: int = 1) -> _World:
    """Run a scenario to its end. Raise AssertionError if the documents do not match the records."""
    world = _World(scenario, costs or Costs())
    chance = random.Random(seed)  # noqa: S311 - a simulation wants the same numbers each time
    order = itertools.count()
    processes = [_uploads(world, chance), *(_publisher(world, chance) for _ in range(scenario.publishers))]
    due = [(0.0, next(order), process) for process in processes]
    while due:  # step the process that is due next, until all have ended
        world.now, _, process = heapq.heappop(due)
        pause = next(process, None)
        if pause is not None:
            heapq.heappush(due, (world.now + pause, next(order), process))
    for stream, document in world.documents.items():
        ours = {product: made for product, made in world.records.items() if product.stream == stream}
        whole = fold(documents.decode_products(None, stream), ours).document
        if documents.encode(document) != documents.encode(whole):
            raise AssertionError(f"{scenario.name}: {stream} lost an update")
    return world


def _uploads(world: _World, chance: random.Random) -> Process:
    """Let versions arrive at random, each for a random product of a random stream."""
    scenario = world.scenario
    world.arrivals_left = int(scenario.rate * scenario.seconds)
    serials = itertools.count()
    for _ in range(world.arrivals_left):
        yield chance.expovariate(scenario.rate)
        serial = next(serials)
        record = record_of(serial % scenario.products, serial // scenario.products)
        stream = "images" if scenario.streams == 1 else f"images-{chance.randrange(scenario.streams)}"
        made = product_id(stream, record.id.product.name)
        world.records[made].append(record)
        world.unlisted[made, record.id.version] = world.now
        # The message about it: late, and a second time, as often as the scenario says.
        delay = chance.uniform(*LATE_S) if scenario.late and chance.random() < scenario.late else 0.0
        heapq.heappush(world.queue, (world.now + delay, made))
        if scenario.twice and chance.random() < scenario.twice:
            heapq.heappush(world.queue, (world.now + chance.uniform(0, AGAIN_S), made))
        world.arrivals_left -= 1
    world.uploaded_s = world.now


def _publisher(world: _World, chance: random.Random) -> Process:
    """Gather a batch, publish it stream by stream, and repeat. End when no more messages can come."""
    yield chance.uniform(0, world.scenario.window_s)
    while world.queue or world.arrivals_left:
        if not world.queue or world.queue[0][0] > world.now:
            yield _POLL_S
            continue
        batch: list[ProductId] = []
        closes = world.now + world.scenario.window_s
        while world.now < closes and len(batch) < _BATCH:
            batch += world.receive(_BATCH - len(batch))
            yield _POLL_S
        streams: dict[str, set[ProductId]] = defaultdict(set)
        for product in batch:
            streams[product.stream].add(product)
        for stream, products in sorted(streams.items()):
            yield from _publish(world, stream, products, chance)


def _publish(world: _World, stream: str, products: set[ProductId], chance: random.Random) -> Process:
    """Play the publish function: take the lease, attempt until no race is lost, remove the lease."""
    if world.scenario.leased:  # wait for the lease on the stream, as imageserver.storage.leases does, and take it
        patience = world.now + LEASE_S
        while world.held.get(stream, 0.0) > world.now and world.now < patience:
            yield LEASE_POLL_S
        world.held[stream] = world.now + LEASE_S
        yield world.costs.lease_s
    for attempt in itertools.count(1):
        world.attempts += 1
        won = yield from _attempt(world, stream, products)
        if won:
            break
        world.lost += 1
        yield chance.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt))
    if world.scenario.leased:
        world.held.pop(stream, None)
        yield world.costs.request_s


def _attempt(world: _World, stream: str, products: set[ProductId]) -> Generator[float, None, bool]:
    """Read the revision, then the records. Write any change on condition. Return False if the race was lost."""
    scenario, revision = world.scenario, world.revisions[stream]
    before = world.documents.get(stream) or documents.decode_products(None, stream)
    yield world.costs.reading(scenario.document_bytes, len(products), scenario.readers)
    changed = {product: list(world.records[product]) for product in products}
    after = fold(before, changed).document
    if after == before:
        world.idle += 1
        yield scenario.document_bytes * world.costs.fold_s_per_byte
        return True
    yield world.costs.writing(scenario.document_bytes)
    if world.revisions[stream] != revision:
        return False
    world.revisions[stream] += 1
    world.documents[stream] = after
    world.writes += 1
    world.note_listed(changed)
    return True


DAY_S: Final = 86_400.0
# 10,000 publishers, one version a day each: evenly, and half of a day's versions in one hour.
EVEN: Final = 10_000 / DAY_S
RUSH: Final = 5_000 / 3600
BURST: Final = 1000 / 60
SCENES: Final = (
    Scenario("10,000 versions a day, evenly", EVEN, 3, seconds=3600),
    Scenario("half of them in one hour", RUSH, 3),
    Scenario("half of them in one hour, window of 10 s", RUSH, 10),
    Scenario("half of them in one hour, window of 30 s", RUSH, 30),
    Scenario("half of them in one hour, 10 publishers", RUSH, 3, publishers=10),
    Scenario("half of them in one hour, 8 streams", RUSH, 3, streams=8),
    Scenario("half of them in one hour, a document of 1 MB", RUSH, 3, document_bytes=1e6),
    Scenario("half of them in one hour, a document of 100 MB", RUSH, 3, document_bytes=100e6),
    Scenario("1,000 versions in a minute", BURST, 3, seconds=60),
    Scenario("1,000 versions in a minute, window of 10 s", BURST, 10, seconds=60),
    Scenario("1,000 versions in a minute, 8 readers", BURST, 3, seconds=60, readers=8),
    Scenario("half of them in one hour, 1 % of messages twice", RUSH, 3, twice=0.01),
    Scenario("half of them in one hour, 1 % of messages late", RUSH, 3, late=0.01),
    Scenario("half of them in one hour, 1 % late, 500 products", RUSH, 3, late=0.01, products=500),
    Scenario("half of them in one hour, without the lease", RUSH, 3, leased=False),
    Scenario("half of them in one hour, 10 publishers, without the lease", RUSH, 3, publishers=10, leased=False),
    Scenario("1,000 versions in a minute, without the lease", BURST, 3, seconds=60, leased=False),
    Scenario(
        "1,000 in a minute, without the lease, 1 % twice, 1 % late", BURST, 3, 60, leased=False, twice=0.01, late=0.01
    ),
)


def scale_figures(rounds: int) -> list[Figure]:
    """Measure every scenario with as many seeds as rounds: lost races, writes, seconds from record to listed."""
    found: list[Figure] = []
    for scenario in SCENES:
        click.echo(f"  {scenario.name} …", err=True)
        found += figures_of(scenario, [simulate(scenario, seed=seed) for seed in range(rounds)])
    return found


def figures_of(scenario: Scenario, worlds: Sequence[_World]) -> list[Figure]:
    """Return the outcome of a scenario with several seeds; the seconds to the listing are those of all versions."""
    waits = [seconds for world in worlds for seconds in world.listed_after]
    found = [
        figure(f"{scenario.name}: races lost", "%", [100 * world.lost / world.attempts for world in worlds]),
        figure(f"{scenario.name}: writes", "a minute", [60 * world.writes / world.uploaded_s for world in worlds]),
        replace(figure(f"{scenario.name}: record to listed", "s", waits), runs=len(worlds)),
    ]
    if scenario.twice or scenario.late:
        slow = [
            100 * sum(seconds > 60 for seconds in world.listed_after) / max(1, len(world.listed_after))
            for world in worlds
        ]
        found.append(figure(f"{scenario.name}: listed after more than a minute", "%", slow))
        idle = [100 * world.idle / world.attempts for world in worlds]
        found.append(figure(f"{scenario.name}: attempts with nothing to write", "%", idle))
    return found
