"""Publishers, readers and the schedule with the deployed handlers, and an AWS that loses answers.

What must hold at every moment:

- A file that maintain deletes is not in the catalog, and was withdrawn by a call that was not undone, long enough ago
  that no client uses a catalog that names it, however far the clocks of two hosts are apart. An upload that a delete
  hides by mistake, because it has the same bytes, is restored.
- A reader who asks the edge for a file that the catalog names gets those bytes or an error, no matter who asked for
  that key before, and when.

And once nobody acts:

- The catalog names each version that has its files and is not withdrawn, with the right digests, and no other.
- Each file that it names is there, and the edge serves it.
- A version or file withdrawn by an answered call is not listed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.support import images
from tests.support.simulated_functions import run_quietly
from tests.support.wire_simulation import HOUR, NO_FAULTS, FaultRates, OneByOne, Run, S3Client, World, read_pinned

pytestmark = pytest.mark.filterwarnings("ignore:No application metrics to publish")

GRACE_HOURS: Final = 24
SKEW_S: Final = 6 * HOUR
PUBLISHER: Final = "publisher"
PRODUCTS: Final = ("images/alma/9/amd64/default", "images/alma/9/arm64/cloud", "images-daily/void/1/amd64/default")
VERSIONS: Final = ("20261101_10:00", "20261102_10:00")
METADATA: Final = ("lxd.tar.xz", "incus.tar.xz")
ROOTS: Final = ("rootfs.squashfs", "disk.qcow2")
BAD: Final = b"<html>no image of ours</html>"


def sha256(*bodies: bytes) -> str:
    return hashlib.sha256(b"".join(bodies)).hexdigest()


def good(path: str, file: str, build: int) -> bytes:
    """Return the bytes of a file of one build, unique to its version."""
    seed = f"{path} {build}"
    if file in METADATA:
        return images.metadata_tarball(path.split("/")[3], "plain", serial=str(build))
    return images.squashfs(seed, 600) if file.endswith(".squashfs") else images.qcow2(seed, 2400)


@dataclass(eq=False)
class Call:
    """A withdrawal or restore. `answered` has the paths in its answer, None without an answer."""

    path: str
    withdraws: bool
    sent: float
    ended: float | None = None
    answered: frozenset[str] | None = None


@dataclass
class RandomRun:
    """A random run. Everything random is drawn from one generator, so that its seed replays it."""

    seed: int
    rates: FaultRates
    overwrites: bool = False
    calls: list[Call] = field(default_factory=list)
    hidden: list[tuple[str, Any]] = field(default_factory=list)  # key, and the upload that a delete hid by mistake
    bodies: dict[bytes, tuple[str, str]] = field(default_factory=dict)  # the path and file of good bytes
    steps: int = 0
    next_reconcile: float = HOUR
    next_prune: float = 12 * HOUR

    def __post_init__(self) -> None:
        variables = {
            "ALLOW_DELETES": "true",
            "ALLOW_OVERWRITES": str(self.overwrites).lower(),
            "PUBLISHERS": json.dumps({PUBLISHER: ["images*"]}),
            "GRACE_HOURS": str(GRACE_HOURS),
            "STALE_DAYS": "0",
            "DISTRIBUTION_ID": "E123",
        }
        random.seed(self.seed)  # source of the pauses of conditional writes
        self.world = World(self.seed, self.rates, variables, SKEW_S)
        self.random = random.Random(f"people {self.seed}")
        self.paths = [f"{product}/{version}" for product in PRODUCTS for version in VERSIONS]
        self.world.on_delete = self.check_deletion

    # ── who does what ───────────────────────────────────────────────────────────────────────────────────────────

    def take_steps(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.steps += 1
        world, choice = self.world, self.random.random()
        world.pass_time(self.random.uniform(0, 0.1))
        if choice < 0.03:
            self.somebody_acts()
        elif choice < 0.06:
            self.somebody_reads()
        elif choice < 0.12:
            self.deliver()
        elif choice < 0.125:
            world.pass_time(self.random.choice((10, 60, 600, 2 * HOUR, 9 * HOUR)))
        else:
            self.go_on()

    def go_on(self) -> None:
        """Resume one run. If all sleep or have nothing to do, advance time until one can continue."""
        world = self.world
        if world.now >= self.next_reconcile:
            self.next_reconcile = world.now + HOUR
            self.maintain("reconcile")
        if world.now >= self.next_prune:
            self.next_prune = world.now + 24 * HOUR
            self.maintain("prune")
        awake = [run for run in world.runs if run.rests_until <= world.now or run.ends <= world.now]
        if awake:
            world.step(self.random.choice(awake))
        elif world.runs:
            world.pass_time(1)
        else:
            world.pass_time(self.random.choice((1, 5, 30)))

    def deliver(self) -> bool:
        world = self.world
        running = Counter(run.title for run in world.runs)
        return any(
            world.deliver(queue)
            for queue, most in ((world.arrivals, 4), (world.changes, 3))
            if running[queue.function] < most
        )

    def maintain(self, task: str) -> None:
        def job(run: Run) -> None:
            with _failing():
                self.world.invoke(run, "maintain", {"task": task})

        self.world.start(f"maintain {task}", 900, job)

    def somebody_acts(self) -> None:
        path, choice = self.random.choice(self.paths), self.random.random()
        if len(self.world.runs) > 8:
            return
        if choice < 0.7:
            self.upload(path)
        else:
            file = f"/{self.random.choice((*METADATA, *ROOTS))}" if self.random.random() < 0.3 else ""
            self.change(path + file, withdraws=choice < 0.88)

    def upload(self, path: str) -> None:
        """Send some files like scripts/upload: ask, then PUT what the answer signs."""
        build = self.random.choice((1, 1, 1, 2))
        names = self.random.sample((*METADATA, *ROOTS), self.random.choice((1, 2, 2, 3)))
        files = {name: BAD if self.random.random() < 0.1 else good(path, name, build) for name in names}
        self.bodies |= {body: (path, name) for name, body in files.items() if body != BAD}
        about = [{"file": name, "size": len(body), "sha256": sha256(body)} for name, body in files.items()]

        def job(run: Run) -> None:
            answer = self.ask(run, "POST /uploads/batch", "", {"version": path, "files": about})
            client = S3Client(run)
            for upload in answer.get("uploads", ()):
                self.world.counted[f"upload: {upload['kind']}"] += 1
                if upload["kind"] == "single":
                    signed = {k: v for k, v in json.loads(upload["url"]).items() if k in SIGNED}
                    with _failing():
                        client.put_object(Body=files[upload["path"].rpartition("/")[2]], **signed)

        self.world.start("upload", 3600, job)

    def change(self, path: str, *, withdraws: bool) -> None:
        call = Call(path, withdraws, self.world.now)
        self.calls.append(call)

        def job(run: Run) -> None:
            route = "DELETE /{path+}" if withdraws else "PATCH /versions/{path+}"
            answer = self.ask(run, route, path, None if withdraws else {"withdrawn": False})
            if "versions" in answer:
                call.answered = frozenset({*answer["versions"], *answer["files"]})
                self.world.counted["withdrawals" if withdraws else "restores"] += bool(call.answered)

        def ended(run: Run) -> None:
            try:
                job(run)
            finally:
                call.ended = self.world.now

        self.world.start("withdraw" if withdraws else "restore", 30, ended)

    def ask(self, run: Run, route: str, path: str, body: object) -> dict[str, Any]:
        """Return the document in the API's answer; empty for a refusal."""
        event = {
            "routeKey": route,
            "requestContext": {"authorizer": {"jwt": {"claims": {"sub": PUBLISHER}}}},
            "pathParameters": {"path": path},
            "body": json.dumps(body) if body else "",
        }
        answer = self.world.invoke(run, "uploads", event)
        run.wait()  # on its way back
        self.world.counted[f"{route.split(maxsplit=1)[0]} {answer['statusCode']}"] += 1
        return json.loads(answer["body"]) if answer["statusCode"] < 300 else {}

    def somebody_reads(self) -> None:
        """Read files that the catalog names, or request any key from the edge that may exist later."""
        if self.random.random() < 0.5:
            self.world.fetch(f"{self.random.choice(self.paths)}/{self.random.choice((*METADATA, *ROOTS))}")
        elif named := sorted(self.named().items()):
            key, digest = self.random.choice(named)
            status, body = self.world.fetch(key)
            self.world.counted[f"reads {status}"] += 1
            right = status != 200 or sha256(body) == digest
            assert right, f"the edge serves other bytes than are listed: {key}"

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────────

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, history in self.world.keys.items():
            name = key.removeprefix("streams/v1/").removesuffix(".json")
            body = history[-1].body
            if body and key.startswith("streams/v1/images") and key.endswith(".json") and "." not in name:
                yield name, json.loads(body)

    def named(self) -> dict[str, str]:
        """Return key -> sha256 of each file that the catalog names."""
        return {
            item["path"]: item["sha256"]
            for _, document in self.documents()
            for product in document["products"].values()
            for version in product["versions"].values()
            for item in version["items"].values()
        }

    def check_deletion(self, key: str, gone: Any) -> None:
        if not key.startswith("images"):
            return
        self.world.counted["files deleted"] += 1
        assert key not in self.named(), f"{key} is deleted while it is listed"
        if self.may_go(key, gone):
            return
        # The delete was for the same bytes before: it arrives late, or again after its answer was lost.
        earlier = self.world.keys[key][: self.world.keys[key].index(gone)]
        assert any(one.etag == gone.etag and self.may_go(key, one) for one in earlier), (
            f"{key} is deleted, and nobody withdrew it, or not long enough ago"
        )
        self.world.counted["uploads hidden"] += 1
        self.hidden.append((key, gone))

    def may_go(self, key: str, gone: Any) -> bool:
        waited = self.world.now - GRACE_HOURS * HOUR + 2 * SKEW_S
        return any(self.covers(call, key, gone.modified) and call.sent <= waited for call in self.calls)

    def covers(self, call: Call, key: str, modified: float) -> bool:
        """Return whether a call may have withdrawn this file, and no later one restored it."""
        version = key.rpartition("/")[0]
        if not call.withdraws or call.path not in (key, version):
            return False
        ended = self.world.now if call.answered is None or call.ended is None else call.ended
        if ended < int(modified) and (call.path == key or not self.has_record(version, modified)):
            return False  # it covers what existed before this upload
        undone = {key, version} if call.path == key else {version}
        return not any(
            not other.withdraws and other.path in undone and other.answered and other.sent > ended
            for other in self.calls
        )

    def has_record(self, path: str, moment: float) -> bool:
        """Return whether a version had a record then: its withdrawals end with its last record."""
        known = [g for g in self.world.keys.get(f"versions/{path}.json", []) if g.modified <= moment]
        return bool(known) and known[-1].body is not None

    def finish(self) -> None:
        """Run four rounds of the schedule, hours apart, without other actions or faults."""
        rates, self.world.rates = self.world.rates, NO_FAULTS
        for _ in range(4):
            self.drain()
            self.maintain("reconcile")
            self.maintain("prune")
            self.drain()
            self.world.pass_time(8 * HOUR)
        self.next_reconcile = self.world.now + HOUR
        self.check_final_state()
        self.world.rates = rates

    def drain(self) -> None:
        world = self.world
        for _ in range(100_000):
            self.steps += 1
            self.deliver()
            if world.runs:
                self.go_on_calmly()
            elif waiting := [m.visible for queue in (world.arrivals, world.changes) for m in queue.messages]:
                world.pass_time(max(0.0, min(waiting) - world.now))
            else:
                return
        raise AssertionError(f"it never ends: {[run.title for run in world.runs]}")

    def go_on_calmly(self) -> None:
        awake = [run for run in self.world.runs if run.rests_until <= self.world.now]
        if awake:
            self.world.pass_time(0.01)
            self.world.step(self.random.choice(awake))
        else:
            self.world.pass_time(1)

    def check_final_state(self) -> None:
        named = self.named()
        for key, upload in self.hidden:
            later = self.world.keys[key][self.world.keys[key].index(upload) + 1 :]
            assert any(one.body is not None for one in later), f"{key} was hidden by mistake and did not come back"
        expected: dict[str, str] = {}
        for path in self.paths:
            files = self.files_of(path)
            withdrawn = self.withdrawn(path)
            refused = withdrawn | self.late(path)
            usable = {
                f: body
                for f, body in files.items()
                if body in self.bodies and refused.isdisjoint({path, f"{path}/{f}"})
            }
            metadata = [f for f in METADATA if f in usable]
            roots = [f for f in ROOTS if f in usable]
            if metadata and roots:
                expected |= {f"{path}/{f}": sha256(usable[f]) for f in (*metadata, *roots)}
        assert named == expected
        self.world.counted["files listed in the end"] += len(named)
        self.check_answers(named)
        self.world.pass_time(60)
        for key, digest in named.items():
            status, body = self.world.fetch(key)
            right = (status, sha256(body)) == (200, digest)
            assert right, f"the edge does not serve {key}"

    def files_of(self, path: str) -> dict[str, bytes]:
        found = {key: self.world.current(key) for key in self.world.keys if key.startswith(f"{path}/")}
        return {key.rpartition("/")[2]: one.body for key, one in found.items() if one and one.body}

    def withdrawn(self, path: str) -> set[str]:
        """Return the paths that the record of a version calls withdrawn."""
        stored = self.world.current(f"versions/{path}.json")
        record = json.loads(stored.body or b"{}") if stored else {}
        files = {f"{path}/{file}" for file, facts in record.get("files", {}).items() if facts.get("withdrawn")}
        return files | ({path} if record.get("withdrawn") else set())

    def late(self, path: str) -> set[str]:
        """Return the files that a record refuses because of its past: late ones, and those that may still be replaced.

        A late one arrived when the record was complete without these bytes, or while they were withdrawn.
        """
        records = [json.loads(g.body) for g in self.world.keys.get(f"versions/{path}.json", []) if g.body]
        reasons = records[-1]["reasons"] if records and self.world.current(f"versions/{path}.json") else ()
        found = {reason["file"]: reason["fault"] for reason in reasons if reason.get("fault") in ("late", "replaced")}
        for file, fault in found.items():
            etag = records[-1]["files"][file]["etag"]
            if fault == "replaced":
                assert etag in records[-1]["replaceable"][file], f"nobody may replace {path}/{file}"
                continue
            complete = (record["files"] for record in records if record["state"] == "complete")
            without = (
                file not in files or files[file]["etag"] != etag or files[file].get("withdrawn") for files in complete
            )
            assert any(without), f"{path}/{file} is not late"
        self.world.counted["late or replaced files"] += len(found)
        return {f"{path}/{file}" for file in found}

    def check_answers(self, named: dict[str, str]) -> None:
        """Check that each answer still holds, unless a later event may have changed it."""
        for number, call in enumerate(self.calls):
            version = "/".join(call.path.split("/", 6)[:6])
            later = (c.path in (call.path, version) for c in self.calls if c is not call and self.after(c, call))
            if not call.answered or call.path not in call.answered or any(later) or not call.withdraws:
                continue
            reach = [key for key in named if key == call.path or key.startswith(f"{call.path}/")]
            for key in reach:
                current = self.world.current(key)
                assert current is not None
                came_later = any(g.modified >= call.sent - 1 for g in self.world.keys[key])
                assert came_later, f"{key} is listed, and call {number} was told that {call.path} is withdrawn"
                self.world.counted["listed again after a later upload"] += 1

    def after(self, one: Call, other: Call) -> bool:
        return one.ended is None or one.answered is None or one.ended >= other.sent


SIGNED: Final = ("Bucket", "Key", "IfMatch", "IfNoneMatch", "CacheControl", "ContentType")


@contextmanager
def _failing() -> Iterator[None]:
    """Ignore failures: the next run of the schedule retries, and a publisher does not."""
    from botocore.exceptions import BotoCoreError, ClientError

    from imageserver.errors import SimplestreamsError

    with suppress(SimplestreamsError, ClientError, BotoCoreError):
        yield


@pytest.fixture(autouse=True)
def _wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageserver.storage.s3.read_object", read_pinned)
    monkeypatch.setattr("imageserver.storage.parallel.ThreadPoolExecutor", OneByOne)
    run_quietly(monkeypatch)


def run_random(request: pytest.FixtureRequest, record: Callable[[str, object], None], overwrites: bool) -> None:
    first, runs = int(request.config.getoption("--wire-seed")), int(request.config.getoption("--wire-runs"))
    steps, total = int(request.config.getoption("--wire-steps")), Counter[str]()
    for seed in range(first, first + runs):
        random_run = RandomRun(seed, FaultRates(), overwrites)
        try:
            for _ in range(3):
                random_run.take_steps(steps // 3)
                random_run.finish()
        except BaseException as error:
            error.add_note(f"replay with: pytest {request.node.nodeid} --wire-seed {seed} --wire-runs 1")
            raise
        total += random_run.world.counted
        total["steps"] += random_run.steps
    record("counted", ", ".join(f"{what} {number:,}" for what, number in sorted(total.items())))


@pytest.mark.parametrize("overwrites", [False, True], ids=["no overwrites", "overwrites"])
def test_lost_answers_skewed_clocks_and_a_greedy_edge_change_nothing(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None], overwrites: bool
) -> None:
    run_random(request, record_property, overwrites)
