"""Whatever fails, nothing is lost and the catalog is never wrong.

What holds, and what cannot hold:

- At every moment each file that the catalog names was, with that size and sha256, at that key.
- It still is, unless a publisher has since overwritten or deleted it. No server can prevent
  that window: the bytes are gone before any event is sent. While it lasts, an event of that version or of its
  product is queued, in flight or lost, so it ends when that is handled, or with the next reconcile.
- Files that no publisher changed again always exist as listed: nothing that this server does, or fails to
  do, makes an entry wrong.
- When no event is pending the catalog follows from the objects, byte for byte. Without lost events that needs no
  reconcile; with them, one.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import pytest

from imageserver.catalog.feeds import feed_key, render_feed
from imageserver.catalog.fold import fold, fold_index, fold_unlisted
from imageserver.errors import SimplestreamsError
from imageserver.format import documents
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId, parse_record_key, parse_version, version_of
from imageserver.operations.runs import Run, Task
from imageserver.operations.withdraw import Changed
from imageserver.versions import records
from tests.support import client_rules, images
from tests.support.ledger import Answer, Ledger
from tests.support.oracle import Content, canonical, expected_catalog, expected_unlisted
from tests.support.simulated_functions import run_quietly
from tests.support.simulation import BUCKET, NO_FAULTS, Actor, Call, InTurnPool, Rates, World, subject_of

pytestmark = pytest.mark.filterwarnings("ignore:No application metrics to publish")
STREAMS = ("images", "images-daily")
PRODUCTS = ("alma/9/amd64/default", "alma/9/amd64/cloud", "alpine/3.22/amd64/default", "alpine/3.22/arm64/default")
PHASES = 15
OPERATOR = "operator"
PARAMETERS = {
    "ALLOW_DELETES": "true",
    "PUBLISHERS": json.dumps({OPERATOR: ["images*"]}),
    "RETAIN_VERSIONS": "3",
    "STALE_DAYS": "1",
}
VERSIONS = ("20261101_10:00", "20261102_10:00", "20261103_10:00", "202611041000")


def sums(*named: tuple[str, bytes]) -> bytes:
    return b"".join(f"{images.sha256_hex(body)}  {file}\n".encode() for file, body in named)


def plain_metadata(arch: str, serial: str) -> bytes:
    return images.metadata_tarball(arch, "plain", serial=serial)


ROOT_A, ROOT_B = images.squashfs("a", 700), images.squashfs("b", 700)
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
    "disk.qcow2": [Content("qcow2", images.qcow2("c", 2400)), Content("empty", b"")],
    "lxd_combined.tar.gz": [
        Content("unified amd64", images.unified_tarball("amd64", "gz", "u")),
        Content("unified arm64", images.unified_tarball("arm64", "gz", "u")),
    ],
    "rootfs.20261101_10:00.vcdiff": [Content("vcdiff", images.vcdiff("d", 300, 700))],
    "rootfs.20261102_10:00.vcdiff": [Content("vcdiff", images.vcdiff("e", 300, 700))],
    "metadata.json": [Content("overrides", json.dumps(o).encode(), o) for o in OVERRIDES],
    "SHA256SUMS": [Content("sums", sums(("rootfs.squashfs", ROOT_A))), Content("sums", sums(("disk.qcow2", b"other")))],
    "notes.txt": [Content("other", b"hello")],
}
DOCUMENTS = ("metadata.json", "SHA256SUMS")  # are not listed themselves
WEIGHTS = {"lxd.tar.xz": 5, "rootfs.squashfs": 5, "metadata.json": 3}
EACH_FAULT = dict.fromkeys({rate.name for rate in fields(Rates)} - {"event_dropped"}, 10) | {
    "killed": 200,
    "truncated": 4,
    "withdraw ended well": 200,
    "restore ended well": 100,
    "prune ended well": 100,
    "quiet versions": 200,
    "quiet catalogs": 50,
}
"""The minimum counts of a run of the usual length: at most half of those when this was written."""
BY_BODY = {content.body: content for contents in CONTENTS.values() for content in contents}


@dataclass(frozen=True)
class Workload:
    """The world of a random run: the number of products and versions, and what publishers upload."""

    streams: tuple[int, ...] = (1, 2)
    products: tuple[int, ...] = (1, 2, 4)
    versions: tuple[int, ...] = (1, 2, 4)
    files: tuple[str, ...] = tuple(CONTENTS)
    deletes: float = 0.2
    deletes_all: float = 0.05
    operators: bool = True


ANYWHERE = Workload()
"""In a small world everything interacts; in a large one products share fingerprints and aliases."""
NARROW = Workload((1,), (1,), (1, 2), ("metadata.json", "notes.txt"), 0.55, 0.0, operators=False)
"""One product whose small files come and go all the time, so that records and catalogs return to earlier states."""


@dataclass
class RecordedRun(Run):
    """A run of maintain whose withdrawals and deletions are noted in the ledger."""

    ledger: Ledger = field(kw_only=True)

    def do(self, task: Task, action: Callable[[], object]) -> None:
        version, _, files = task.path.partition("/{")
        if task.what == "withdraw":
            with self.ledger.call([version], (), withdrawn=True) as answer:
                super().do(task, lambda: _take(answer, action()))
        elif task.what == "delete":
            keys = [f"{version}/{file}" for file in files.rstrip("}").split(",") if file]
            with self.ledger.deletion(version, keys, unfinished=task.why.startswith("incomplete")):
                super().do(task, action)
        else:
            super().do(task, action)


def recognized(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the published digests of a version, without files that cannot be known to be the same.

    A root that was uploaded again is not read until there is sound metadata, whatever its bytes are.
    """
    unread = {file for file, facts in record["files"].items() if not facts.get("sha256") and not facts.get("refusal")}
    return {file: sha256 for file, sha256 in record["published"].items() if file not in unread}


class RandomRun:
    """A random run over a World: publishers, deliveries, kills, and the checks after each change."""

    def __init__(self, seed: int, rates: Rates, reconciles: bool = True, workload: Workload = ANYWHERE) -> None:
        self.reconciles = reconciles
        self.workload = workload
        self.rng = random.Random(f"publishers {seed}")
        self.streams = STREAMS[: self.rng.choice(workload.streams)]
        self.products = self.rng.sample(PRODUCTS, self.rng.choice(workload.products))
        self.versions = self.rng.sample(VERSIONS, self.rng.choice(workload.versions))
        self.grace_hours = self.rng.choice((0, 0, 1))  # without any, only what the catalog still names is left alone
        self.world = World(seed, rates, {**PARAMETERS, "GRACE_HOURS": str(self.grace_hours)})
        self.ledger = Ledger(lambda version: self.world.quiet(parse_version(version)))
        self.world.check = self.check_truth
        self.world.on_change = self.note
        self.world.on_delete = self.check_deletion
        self.world.on_open = self.check_off_first
        self.world.on_done = self.check_done
        self.steps = 0
        self.due = False  # maintain follows a withdrawal at once, before it is published
        self.parsed: dict[str, list[tuple[str, int, str]]] = {}
        if workload is NARROW:
            self.world.publish_left_s = 0
            for path in (f"{self.streams[0]}/{self.products[0]}/{version}" for version in self.versions):
                self.world.put(f"{path}/rootfs.squashfs", ROOT_A)
                self.world.put(f"{path}/lxd.tar.xz", plain_metadata(path.split("/")[3], "1"))

    def take_steps(self, steps: int) -> None:
        self.steps += steps
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
            world.wait(rng.choices((0, 1, 5, 100, 500, 4_000, 90_000), (70, 20, 5, 2, 1.5, 1.5, 0.3))[0])
        elif choice < 0.26 and self.running("digest") < 4:
            if batch := world.receive(world.arrivals, 3):
                world.start_batch(world.arrivals, batch)
        elif choice < 0.36 and self.running("publish") < 3:
            if batch := world.receive(world.changes, 4):
                world.start_batch(world.changes, batch)
        elif (choice < 0.39 or self.due) and self.running("maintain") < 2:
            self.maintain_acts()
        elif (
            choice < (0.5 if self.ledger.deleting else 0.41)
            and self.running("operator") < 2
            and self.workload.operators
        ):
            self.operator_acts()
        elif world.actors:
            world.advance(world.somebody())

    def running(self, what: str) -> int:
        return sum(actor.name.startswith(what) for actor in self.world.actors)

    def start(self, who: str, function: str, what: str, job: Callable[[Call], None]) -> None:
        def run(call: Call) -> None:
            with suppress(SimplestreamsError):  # the next run of the schedule, or the operator, tries again
                job(call)
                self.world.counted[f"{what} ended well"] += 1

        self.world.counted[f"{what} runs"] += 1
        self.world.start(f"{who} {what}", function, run)

    def maintain_acts(self) -> None:
        """Run maintain, with faults."""
        self.due = False
        what = "reconcile" if self.reconciles and self.rng.random() < 0.3 else "prune"
        recorded = partial(RecordedRun, ledger=self.ledger)
        self.start("maintain", "maintain", what, lambda call: call({"task": what}, Run=recorded))

    def operator_acts(self) -> None:
        """Withdraw or restore a product, a version or a file, with faults; often the same one again."""
        withdraws = self.rng.random() < 0.6
        going = sorted(path for path, expectation in self.ledger.expectations.items() if expectation.withdrawn)
        if self.ledger.deleting:  # the last moment to restore it
            going, withdraws = self.ledger.deleting, False
        anywhere = [self.somewhere(), self.somewhere().rpartition("/")[0], *sorted(self.ledger.present)]
        path = self.rng.choice(going if going and self.rng.random() < 0.6 else anywhere)
        versions, files = self.reach(path, withdraws)
        request = {
            "routeKey": "DELETE /{path+}" if withdraws else "PATCH /versions/{path+}",
            "requestContext": {"authorizer": {"jwt": {"claims": {"sub": OPERATOR}}}},
            "pathParameters": {"path": path},
            "body": "" if withdraws else '{"withdrawn": false}',
        }

        def job(call: Call) -> None:
            with self.ledger.call(versions, files, withdraws) as answer:
                given = call(request)
                if given["statusCode"] >= 500:
                    raise SimplestreamsError(given["body"])
                if given["statusCode"] < 300:
                    accepted = json.loads(given["body"])
                    answer.acknowledged = {*accepted["versions"], *accepted["files"]}
                    self.due = withdraws and self.rng.random() < 0.5

        self.start("operator", "uploads", "withdraw" if withdraws else "restore", job)

    def reach(self, path: str, withdraws: bool) -> tuple[list[str], list[str]]:
        """Return the versions and files that a call affects. Restoring a version restores its files."""
        if path.count("/") == 6:
            return [], [path]
        versions = [path] if path.count("/") == 5 else [f"{path}/{version}" for version in self.versions]
        files = [] if withdraws else [key for key in self.ledger.present if key.rpartition("/")[0] in versions]
        return versions, files

    def somewhere(self) -> str:
        """Return the path of a version of this run's world."""
        return f"{self.rng.choice(self.streams)}/{self.rng.choice(self.products)}/{self.rng.choice(self.versions)}"

    def publisher_acts(self) -> None:
        """Upload, overwrite or delete one file, or a whole version at once."""
        version = self.somewhere()
        names = tuple(f"/{file}" for file in self.workload.files)
        present = sorted(k for k in self.world.objects if k.startswith(f"{version}/") and k.endswith(names))
        choice = self.rng.random()
        self.world.counted["publisher actions"] += 1
        if choice < self.workload.deletes and present:
            self.world.remove(self.rng.choice(present))
        elif choice < self.workload.deletes + self.workload.deletes_all:
            for key in present:
                self.world.remove(key)
        elif choice < self.workload.deletes + self.workload.deletes_all + 0.03:
            self.world.put(f"images/{self.rng.choice(('a b', 'ubuntu', '..'))}/x", b"no upload of ours")
        else:
            files = self.workload.files
            self.upload(version, self.rng.choices(files, [WEIGHTS.get(file, 1) for file in files])[0])

    def upload(self, version: str, file: str) -> None:
        content = self.rng.choice(CONTENTS[file])
        self.world.put(f"{version}/{file}", content.body, parts=self.rng.choice((1, 1, 1, 2)))

    def note(self, key: str) -> None:
        """Note uploads and deletions of files of versions in the ledger."""
        if key.count("/") != 6 or not key.startswith("images"):
            return
        if stored := self.world.objects.get(key):
            self.ledger.note_upload(key, (stored.etag, stored.modified.isoformat()))
        else:
            self.ledger.note_deletion(key)

    # ── what must hold at every step ────────────────────────────────────────────────────────────────────────────

    def named(self) -> list[tuple[str, int, str]]:
        """Return (path, size, sha256) of every item of every stream, as a client reads it."""
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
                excuse = self.world.owed(version_of(path))
                assert excuse, f"{path} is listed wrongly and nobody will look again"
                self.world.excused[excuse] += 1
        self.world.counted["checks"] += 1

    def check_deletion(self, key: str) -> None:
        """Check that a file is delisted before it is deleted: it was withdrawn, and no catalog names it."""
        if key.startswith("images"):
            self.world.counted["files deleted"] += 1
            assert key not in {path for path, _, _ in self.named()}, f"{key} is deleted while it is listed"
            assert self.ledger.may_go(key), f"{key} is deleted, and nobody had withdrawn it"

    def check_off_first(self, key: str, record: bytes | None) -> None:
        """Check that a file is delisted before it is read: no new bytes are read while the record lists old ones."""
        known = records.decode(record, f"versions/{key.rpartition('/')[0]}.json") if record else None
        facts = known.files.get(key.rpartition("/")[2]) if known and known.state == "complete" else None
        if facts and facts.sha256 and not key.endswith(DOCUMENTS):
            assert facts.etag == self.world.objects[key].etag, f"{key} is read while it is listed as it was before"

    def check_done(self, actor: Actor) -> None:
        """Check that, with no event pending, a record matches its folder, and the catalog matches the records.

        It runs all the time, since a later handler may repair an error of an earlier one.
        """
        for version in {version_of(key) for key in actor.keys if subject_of(True, key)}:
            if self.world.quiet(version):
                self.world.counted["quiet versions"] += 1
                stored = self.world.objects.get(version.record_key)
                known = records.decode(stored.body, version.record_key).files if stored else {}
                held = {key: o.etag for key, o in self.world.objects.items() if key.startswith(version.prefix)}
                assert {version.prefix + file: facts.etag for file, facts in known.items()} == held, version.path
        if actor.name.startswith("publish") and self.world.folded():
            self.world.counted["quiet catalogs"] += 1
            self.check_rebuilt()

    def check_rebuilt(self) -> dict[str, bytes]:
        """Check that the documents are those that all records give at once; return them."""
        served = {key: o.body for key, o in self.world.objects.items() if key.startswith("streams/")}
        rebuilt = rebuild(self.world)
        for key in served.keys() | rebuilt.keys():
            assert _with_content(served.get(key)) == _with_content(rebuilt.get(key)), key
        return served

    def check_readable(self) -> None:
        """Check that both clients can read the documents at any moment, whatever the index says."""
        documents = {key: stored.body for key, stored in self.world.objects.items() if key.startswith("streams/")}
        entries = {
            stream: {"datatype": "image-downloads", "path": f"streams/v1/{stream}.json", "products": ["any"]}
            for stream in STREAMS
            if f"streams/v1/{stream}.json" in documents
        }
        for client in ("lxd", "incus"):
            client_rules.read_catalog(canonical({"index": entries}), documents, client)

    # ── what must hold in the end ───────────────────────────────────────────────────────────────────────────────

    def reconcile(self) -> int:
        """Reconcile; return the number of tasks."""
        return int(self.world.run("maintain", {"task": "reconcile"})["reconcile"]["tasks_total"])

    def check_final_state(self) -> None:
        """Check, with no event pending, that the catalog is that of the model and of a rebuild, byte for byte."""
        served = self.check_rebuilt()
        self.check_answers()
        objects = {
            key: BY_BODY[stored.body]
            for key, stored in self.world.objects.items()
            if key.startswith("images") and stored.body in BY_BODY
        }
        withdrawn = {path for path, expectation in self.ledger.expectations.items() if expectation.withdrawn}
        uploaded = {key: self.arrival(key) for key in objects}
        known = {
            parse_record_key(key).path: json.loads(stored.body)
            for key, stored in self.world.objects.items()
            if key.startswith("versions/")
        }
        published = {path: recognized(record) for path, record in known.items()}
        since = {path: record["since"] for path, record in known.items()}
        model = expected_catalog(objects, withdrawn, uploaded, published, since)
        unlisted = expected_unlisted(objects, withdrawn, published)
        for key in (documents.INDEX_KEY, *map(documents.products_key, STREAMS)):
            assert _with_content(served.get(key)) == _with_content(model.get(key)), key
        for stream in STREAMS:
            document = json.loads(served.get(documents.unlisted_key(stream), b'{"products":{}}'))
            reported = {product: set(versions) for product, versions in document["products"].items()}
            assert reported == unlisted.get(stream, {}), f"{stream}: what is not listed"
        self.check_fingerprints_once(served)
        self.check_truth()

    def arrival(self, key: str) -> str:
        """Return when an object was first complete, which for some only the record knows.

        It has when a function first saw a multipart object, and when repeated bytes first arrived.
        """
        stored = self.world.objects[key]
        path, _, file = key.rpartition("/")
        record = self.world.objects.get(f"versions/{path}.json")
        known = json.loads(record.body)["files"].get(file, {}) if record else {}
        return str(known.get("since") or known.get("arrived") or stored.modified.isoformat())

    def check_answers(self) -> None:
        """Check that answers hold. Without an answer, either outcome in the records is right."""
        for path, expectation in self.ledger.expectations.items():
            if expectation.withdrawn is not False:
                known = "withdrawn, as was answered" if expectation.withdrawn else "withdrawn or not, nobody can tell"
                self.world.counted[known] += path in self.ledger.present or path.count("/") == 5
        self.ledger.resolve(self.is_withdrawn)

    def is_withdrawn(self, path: str) -> bool:
        """Return whether the records call a version or a file withdrawn."""
        version = version_of(f"{path}/")
        stored = self.world.objects.get(version.record_key)
        record = records.decode(stored.body, version.record_key) if stored else None
        if record is None or path == version.path:
            return bool(record and record.withdrawn)
        facts = record.files.get(path.rpartition("/")[2])
        return bool(facts and facts.withdrawn)

    def check_fingerprints_once(self, served: dict[str, bytes]) -> None:
        """Check fingerprints of all streams, which clients read as one list, and that an alias leads to one product."""
        entries = {
            stream: {"datatype": "image-downloads", "path": f"streams/v1/{stream}.json", "products": ["any"]}
            for stream in STREAMS
            if f"streams/v1/{stream}.json" in served
        }
        for client in ("lxd", "incus"):
            found = client_rules.read_catalog(canonical({"index": entries}), served, client)
            prints = [image.fingerprint for image in found]
            assert len(prints) == len(set(prints)), f"an image is listed twice for {client}"
        names = [
            (product["arch"], alias)
            for entry in entries.values()
            for product in json.loads(served[str(entry["path"])])["products"].values()
            for alias in filter(None, product["aliases"].split(","))
        ]
        assert len(names) == len(set(names)), "an alias leads to two products"


def _items(body: bytes) -> list[tuple[str, int, str]]:
    return [
        (item["path"], item["size"], item["sha256"])
        for product in json.loads(body)["products"].values()
        for version in product["versions"].values()
        for item in version["items"].values()
    ]


def _take(answer: Answer, changed: object) -> None:
    assert isinstance(changed, Changed)
    answer.acknowledged = {*changed.versions, *changed.files}


def _with_content(body: bytes | None) -> bytes | None:
    """Return the documents with content: an empty one is kept if it existed and not created otherwise."""
    if body is None:
        return None
    if body.startswith(b"<?xml"):
        return body if b"<entry>" in body else None
    document = json.loads(body)
    has_content = document.get("products") or document.get("withheld") or document.get("index")
    return body if has_content else None


def rebuild(world: World) -> dict[str, bytes]:
    """Return served key -> bytes, folded at once from all records, without earlier documents."""
    changed: dict[ProductId, list[records.Record]] = {}
    for key, stored in world.objects.items():
        if key.startswith("versions/"):
            product = parse_record_key(key).product
            changed.setdefault(product, []).append(records.decode(stored.body, key))
    index, served = documents.decode_index(None), {}
    for stream in {product.stream for product in changed}:
        folded = fold(documents.decode_products(None, stream), changed, ALL_CLIENTS).document
        products = {product: known for product, known in changed.items() if product.stream == stream}
        served[documents.products_key(stream)] = documents.encode(folded)
        unlisted = fold_unlisted(documents.decode_unlisted(None, stream), products)
        served[documents.unlisted_key(stream)] = documents.encode(unlisted)
        served[feed_key(stream)] = render_feed(folded, BUCKET)
        index = fold_index(index, folded)
    return served | {documents.INDEX_KEY: documents.encode(index)}


@pytest.fixture(autouse=True)
def _in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageserver.storage.parallel.ThreadPoolExecutor", InTurnPool)
    run_quietly(monkeypatch)


def seeds(request: pytest.FixtureRequest) -> range:
    first = int(request.config.getoption("--fault-seed"))
    return range(first, first + int(request.config.getoption("--fault-runs")))


def record_counts(
    request: pytest.FixtureRequest,
    record: Callable[[str, object], None],
    random_runs: list[RandomRun],
    least: Mapping[str, int],
) -> None:
    """Report the counts of a run, and assert them for one of the usual length: otherwise it might test nothing."""
    tried, steps = seeds(request), int(request.config.getoption("--fault-steps"))
    taken = sum(random_run.steps for random_run in random_runs)
    record("run", f"seeds {tried.start} to {tried.stop - 1}, {taken:,} steps in all")
    total: Counter[str] = Counter()
    for name in ("injected", "counted", "excused"):
        found = sum((getattr(random_run.world, name) for random_run in random_runs), Counter[str]())
        record(name, ", ".join(f"{what} {number:,}" for what, number in sorted(found.items())))
        total |= found
    if len(tried) * steps >= 30_000:
        assert {what: total[what] for what in least if total[what] < least[what]} == {}, "fewer than there must be"


@contextmanager
def replayed(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"replay with: pytest tests/property/test_faults.py --fault-seed {seed} --fault-runs 1")
        raise


def in_phases(random_run: RandomRun, steps: int) -> None:
    """Take steps, and drain the queues now and then. Without lost events that needs no reconcile."""
    for _ in range(PHASES):
        random_run.take_steps(steps // PHASES)
        rates = random_run.world.rates
        random_run.world.drain()
        random_run.check_final_state()
        random_run.world.rates = rates


def test_after_faults_one_reconcile_makes_the_catalog_agree_with_the_objects(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    steps = int(request.config.getoption("--fault-steps"))
    random_runs = [RandomRun(seed, Rates()) for seed in seeds(request)]
    for seed, random_run in zip(seeds(request), random_runs, strict=True):
        with replayed(seed):
            for _ in range(3):
                random_run.take_steps(steps // 3)
                rates = random_run.world.rates
                random_run.world.drain()
                random_run.reconcile()
                random_run.world.drain()
                assert not random_run.reconcile(), "a second reconcile finds something"
                random_run.check_final_state()
                random_run.world.rates = rates
    record_counts(request, record_property, random_runs, {**EACH_FAULT, "event_dropped": 20, "files deleted": 40})


def test_without_lost_events_the_catalog_needs_no_reconcile(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    steps = int(request.config.getoption("--fault-steps"))
    random_runs = [RandomRun(seed, Rates(event_dropped=0), reconciles=False) for seed in seeds(request)]
    for seed, random_run in zip(seeds(request), random_runs, strict=True):
        with replayed(seed):
            in_phases(random_run, 2 * steps)
    record_counts(
        request, record_property, random_runs, {**EACH_FAULT, "files deleted": 150, "withdrawn, as was answered": 40}
    )


def test_a_revision_that_returns_does_not_hide_a_change(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    """Equal bytes are an equal revision, so a conditional write succeeds if its document was deleted and restored."""
    steps = int(request.config.getoption("--fault-steps"))
    rates = replace(NO_FAULTS, event_doubled=0.5, event_delayed=0.2, stalled=0.3)
    random_runs = [RandomRun(seed, rates, reconciles=False, workload=NARROW) for seed in seeds(request)]
    for seed, random_run in zip(seeds(request), random_runs, strict=True):
        with replayed(seed):
            in_phases(random_run, 3 * steps)
    record_counts(request, record_property, random_runs, {"event_doubled": 500, "stalled": 500, "quiet versions": 500})
