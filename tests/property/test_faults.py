"""Whatever fails, nothing is lost and the catalog never says what is not so.

What holds, and what cannot:

- At every moment each file that the catalog names was, with that size and sha256, at that key.
- It still is, unless a publisher has since overwritten or deleted it there himself. No server can prevent
  that window: the bytes are gone before anybody is told. While it lasts, a notice of that version or of its
  product is queued, in flight, or was lost; so it ends when that is handled, or with the next sweep.
- Files that no publisher touched again are always there as named: nothing that this server does, or fails to
  do, makes an entry wrong.
- When nothing is owed the catalog is what the objects say, byte for byte. Without lost events that needs no
  sweep; with them, one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import clients as client_rules
import images
import publish.commit
from model import Content, canonical, expected_catalog
from operations.retain import Rules, retain
from operations.sweep import sweep
from operations.withdrawals import restore, withdraw
from operations.work import Work
from simplestreams import catalog, records
from simplestreams.errors import SimplestreamsError
from simplestreams.fold import fold, fold_index, fold_unlisted
from simplestreams.keys import ProductId, parse_record_key, parse_version, version_of
from simplestreams.retention import Rule
from simulation import FaultyStore, InTurnPool, Rates, World

STREAMS = ("images", "images-daily")
PRODUCTS = ("alma/9/amd64/default", "alma/9/amd64/cloud", "alpine/3.22/amd64/default", "alpine/3.22/arm64/default")
GRACE_HOURS = 1
PHASES = 15
RULES = Rules(Rule(versions=3), GRACE_HOURS, stale_days=1)
VERSIONS = ("20261101_10:00", "20261102_10:00", "20261103_10:00", "202611041000")


def sums(*named: tuple[str, bytes]) -> bytes:
    return b"".join(f"{images.sha256_hex(body)}  {file}\n".encode() for file, body in named)


def plain_metadata(arch: str, serial: str) -> bytes:
    return images.metadata_tarball(arch, "plain", serial=serial)


ROOT_A, ROOT_B = images.squashfs("a", 700), images.squashfs("b", 900)
OVERRIDES: tuple[dict[str, Any], ...] = (
    {"aliases": ["stable", "alpine/3.22/cloud"]},
    {"aliases": ["stable", "alma/9"], "os": "AlmaLinux"},
    {"release_title": "Nine", "requirements": {"secureboot": "false"}, "aliases": ["latest"]},
)
METADATA = [
    Content(f"metadata {arch}", plain_metadata(arch, serial)) for arch in ("amd64", "arm64") for serial in ("1", "2")
]
CONTENTS: dict[str, list[Content]] = {
    "lxd.tar.xz": [*METADATA, Content("garbage", b"not a tarball")],
    "incus.tar.xz": METADATA,
    "rootfs.squashfs": [Content("squashfs", ROOT_A), Content("squashfs", ROOT_B), Content("garbage", b"<html>")],
    "root.squashfs": [Content("squashfs", ROOT_A)],
    "disk.qcow2": [Content("qcow2", images.qcow2("c", 800)), Content("empty", b"")],
    "lxd_combined.tar.gz": [
        Content("unified amd64", images.unified_tarball("amd64", "gz", "u")),
        Content("unified arm64", images.unified_tarball("arm64", "gz", "u")),
    ],
    "rootfs.20261101_10:00.vcdiff": [Content("vcdiff", images.vcdiff("d", 300))],
    "metadata.json": [Content("overrides", json.dumps(o).encode(), o) for o in OVERRIDES],
    "SHA256SUMS": [Content("sums", sums(("rootfs.squashfs", ROOT_A))), Content("sums", sums(("disk.qcow2", b"other")))],
    "notes.txt": [Content("other", b"hello")],
}
WEIGHTS = {"lxd.tar.xz": 5, "rootfs.squashfs": 5, "metadata.json": 3}
BY_BODY = {content.body: content for contents in CONTENTS.values() for content in contents}


class Story:
    """A random run over a World: publishers, deliveries, kills, and the checks after each change."""

    def __init__(self, seed: int, rates: Rates, sweeps: bool = True) -> None:
        self.sweeps = sweeps
        self.world = World(seed, rates)
        self.rng = random.Random(f"publishers {seed}")  # noqa: S311  (a seed must replay)
        # In a small world everybody meets everybody; in a large one products share fingerprints and aliases.
        self.streams = STREAMS[: self.rng.choice((1, 2))]
        self.products = self.rng.sample(PRODUCTS, self.rng.choice((1, 2, 4)))
        self.versions = self.rng.sample(VERSIONS, self.rng.choice((1, 2, 4)))
        self.world.check = self.check_truth
        self.world.on_delete = self.check_not_named
        self.parsed: dict[str, list[tuple[str, int, str]]] = {}

    def play(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        world, rng = self.world, self.world.rng
        choice = rng.random()
        if world.actors and rng.random() < world.rates.killed:
            world.kill(rng.choice(world.actors))
        elif choice < 0.06:
            self.publisher_acts()
        elif choice < 0.16:
            world.wait(rng.choices((0, 1, 5, 100, 500, 30_000), (70, 20, 5, 2, 1.5, 0.3))[0])
        elif choice < 0.26 and sum(a.name.startswith("digest") for a in world.actors) < 4:
            if batch := world.arrivals.receive(rng.randint(1, 3), world.clock, rng):
                world.start_digest(batch)
        elif choice < 0.36 and sum(a.name.startswith("publish") for a in world.actors) < 3:
            if batch := world.changes.receive(rng.randint(1, 4), world.clock, rng):
                world.start_publish(batch)
        elif choice < 0.375 and not any(a.name.startswith("maintain") for a in world.actors):
            self.maintain_acts()
        elif world.actors:
            world.advance(world.somebody())

    def maintain_acts(self) -> None:
        """Withdraw or restore something, or have maintain keep order, each with faults."""
        version = parse_version(self.somewhere())
        now = self.world.now
        jobs: dict[str, Callable[[FaultyStore], object]] = {
            "withdraw": lambda store: withdraw(store, version, now, GRACE_HOURS, _no_pause, "a test"),
            "restore": lambda store: restore(store, version, _no_pause),
            "retain": lambda store: retain(store, RULES, now, _no_pause, Work()),
            "sweep": lambda store: sweep(store, self.world.send, self.world.clients, Work()),
        }
        task = self.rng.choice([job for job in sorted(jobs) if self.sweeps or job != "sweep"])
        self.world.counted[f"{task} runs"] += 1

        def run(store: FaultyStore) -> None:
            with suppress(SimplestreamsError):  # the next run of the schedule, or the operator, tries again
                jobs[task](store)

        self.world.start(f"maintain {task}", run)

    def somewhere(self) -> str:
        """The path of a version of this story's world."""
        return f"{self.rng.choice(self.streams)}/{self.rng.choice(self.products)}/{self.rng.choice(self.versions)}"

    def publisher_acts(self) -> None:
        """Upload, overwrite or delete one file, or a whole version at once."""
        version = self.somewhere()
        present = sorted(key for key in self.world.objects if key.startswith(f"{version}/"))
        choice = self.rng.random()
        self.world.counted["publisher actions"] += 1
        if choice < 0.2 and present:
            self.world.remove(self.rng.choice(present))
        elif choice < 0.27:
            for key in present:
                self.world.remove(key)
        elif choice < 0.3:
            self.world.put(f"images/{self.rng.choice(('a b', 'ubuntu', '..'))}/x", b"no upload of ours")
        else:
            file = self.rng.choices(list(CONTENTS), [WEIGHTS.get(file, 1) for file in CONTENTS])[0]
            content = self.rng.choice(CONTENTS[file])
            self.world.put(f"{version}/{file}", content.body, parts=self.rng.choice((1, 1, 1, 2)))

    # ── what must hold at every step ────────────────────────────────────────────────────────────────────────────

    def named(self) -> list[tuple[str, int, str]]:
        """(path, size, sha256) of every item of every stream, as a client reads it."""
        found: list[tuple[str, int, str]] = []
        for stream in STREAMS:
            document = self.world.objects.get(f"streams/v1/{stream}.json")
            if document is None:
                continue
            if document.etag not in self.parsed:
                self.parsed[document.etag] = _items(document.body)
                self.check_readable()
            found += self.parsed[document.etag]
        return found

    def check_truth(self) -> None:
        for path, size_bytes, sha256 in self.named():
            assert (size_bytes, sha256) in self.world.history[path], f"{path} never was what the catalog says"
            now = self.world.objects.get(path)
            if now is None or (len(now.body), now.sha256) != (size_bytes, sha256):
                assert self.world.owed(version_of(path)), f"{path} is listed wrongly and nobody will look again"
        self.world.counted["checks"] += 1

    def check_not_named(self, key: str) -> None:
        """Off the list first, deleted later: whatever this server deletes, no catalog names at that moment."""
        if key.startswith("images"):
            self.world.counted["files deleted"] += 1
            assert key not in {path for path, _, _ in self.named()}, f"{key} is deleted while it is listed"

    def check_readable(self) -> None:
        """Both clients can read the documents at any moment, whatever the index says of them just then."""
        documents = {key: stored.body for key, stored in self.world.objects.items() if key.startswith("streams/")}
        entries = {
            stream: {"datatype": "image-downloads", "path": f"streams/v1/{stream}.json", "products": ["any"]}
            for stream in STREAMS
            if f"streams/v1/{stream}.json" in documents
        }
        for client in ("lxd", "incus"):
            client_rules.read_catalog(canonical({"index": entries}), documents, client)

    # ── what must hold in the end ───────────────────────────────────────────────────────────────────────────────

    def sweep(self) -> Work:
        work = Work()
        self.world.run("sweep", lambda store: sweep(store, self.world.send, self.world.clients, work))
        return work

    def check_settled(self) -> None:
        """Nothing is owed: the catalog is the model's and a rebuild's, byte for byte."""
        served = {key: o.body for key, o in self.world.objects.items() if key.startswith("streams/")}
        rebuilt = rebuild(self.world)
        for key in served.keys() | rebuilt.keys():
            assert _said(served.get(key)) == _said(rebuilt.get(key)), key
        model = self.model()
        for key in (catalog.INDEX_KEY, *map(catalog.products_key, STREAMS)):
            assert _said(_without_withheld(served.get(key))) == _said(model.get(key)), key
        self.check_fingerprints_once(served)
        self.check_truth()

    def model(self) -> dict[str, bytes]:
        objects = {
            key: BY_BODY[stored.body]
            for key, stored in self.world.objects.items()
            if key.startswith("images") and stored.body in BY_BODY
        }
        known = {k: records.decode(o.body, k) for k, o in self.world.objects.items() if k.startswith("versions/")}
        return expected_catalog(objects, {record.version for record in known.values() if record.withdrawn})

    def check_fingerprints_once(self, served: dict[str, bytes]) -> None:
        for stream in STREAMS:
            for client in ("lxd", "incus"):
                path = f"streams/v1/{stream}.json"
                if path not in served:
                    continue
                entry = {"datatype": "image-downloads", "path": path, "products": ["any"]}
                found = client_rules.read_catalog(canonical({"index": {stream: entry}}), served, client)
                prints = [image.fingerprint for image in found]
                assert len(prints) == len(set(prints)), f"{stream}: an image is listed twice for {client}"


def _no_pause(_seconds: float) -> None:
    """Time passes only as the driver says."""


def _items(body: bytes) -> list[tuple[str, int, str]]:
    return [
        (item["path"], item["size"], item["sha256"])
        for product in json.loads(body)["products"].values()
        for version in product["versions"].values()
        for item in version["items"].values()
    ]


def _said(body: bytes | None) -> bytes | None:
    """A document about nothing stays where one was, and is not made where none was: both say nothing."""
    if body is None:
        return None
    document = json.loads(body)
    says_something = document.get("products") or document.get("withheld") or document.get("index")
    return body if says_something else None


def _without_withheld(body: bytes | None) -> bytes | None:
    if body is None:
        return None
    document = json.loads(body)
    document.pop("withheld", None)
    return canonical(document)


def rebuild(world: World) -> dict[str, bytes]:
    """Served key -> bytes, folded at once from all records, with no document to start from."""
    changed: dict[str, dict[ProductId, list[records.Record]]] = {}
    for key, stored in world.objects.items():
        if key.startswith("versions/"):
            product = parse_record_key(key).product
            changed.setdefault(product.stream, {}).setdefault(product, []).append(records.decode(stored.body, key))
    index, served = catalog.decode_index(None), {}
    for stream, products in changed.items():
        folded = fold(catalog.decode_products(None, stream), products, world.clients).document
        served[catalog.products_key(stream)] = catalog.encode(folded)
        unlisted = fold_unlisted(catalog.decode_unlisted(None, stream), products)
        served[catalog.unlisted_key(stream)] = catalog.encode(unlisted)
        index = fold_index(index, folded)
    return served | {catalog.INDEX_KEY: catalog.encode(index)}


@pytest.fixture(autouse=True)
def _in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish.commit, "ThreadPoolExecutor", InTurnPool)
    monkeypatch.setattr("operations.look.ThreadPoolExecutor", InTurnPool)


def seeds(request: pytest.FixtureRequest) -> range:
    first = int(request.config.getoption("--fault-seed"))
    return range(first, first + int(request.config.getoption("--fault-runs")))


def tell(record: Callable[[str, object], None], stories: list[Story]) -> None:
    """What was run goes into the summary: a figure without its count is no evidence."""
    for name in ("injected", "counted"):
        total: dict[str, int] = {}
        for story in stories:
            for what, number in getattr(story.world, name).items():
                total[what] = total.get(what, 0) + number
        record(name, ", ".join(f"{what} {number:,}" for what, number in sorted(total.items())))


def test_after_faults_and_one_sweep_the_catalog_is_what_the_objects_say(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    steps = int(request.config.getoption("--fault-steps"))
    stories = []
    for seed in seeds(request):
        story = Story(seed, Rates())
        stories.append(story)
        try:
            story.play(steps)
            story.world.settle_down()
            story.sweep()
            story.world.settle_down()
            assert not story.sweep().tasks, "a second sweep finds something"
            story.check_settled()
        except BaseException as error:
            error.add_note(f"replay with: pytest tests/property/test_faults.py --fault-seed {seed} --fault-runs 1")
            raise
    tell(record_property, stories)


def test_without_lost_events_no_sweep_is_needed(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    steps = int(request.config.getoption("--fault-steps"))
    stories = []
    for seed in seeds(request):
        story = Story(seed, Rates(event_dropped=0), sweeps=False)
        stories.append(story)
        try:
            for _ in range(PHASES):
                story.play(steps // PHASES)
                rates = story.world.rates
                story.world.settle_down()
                story.check_settled()
                story.world.rates = rates
        except BaseException as error:
            error.add_note(f"replay with: pytest tests/property/test_faults.py --fault-seed {seed} --fault-runs 1")
            raise
    tell(record_property, stories)
