"""Two publishers and eight digest workers, killed at random while somebody uploads and somebody else reads.

No upload is lost, nothing is listed twice, and no reader ever sees a torn document or a
catalog with a wrong entry of an untouched file. `--kill-seconds` sets the duration (60 by default).
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from tests.support import PROJECT, images
from tests.support.client_rules import read_catalog
from tests.support.oracle import Content, expected_catalog
from tests.support.processes import free_port, run
from tests.support.servers.fault_proxy import faulty_wire
from tests.support.stack import Stack, local_stack

# The heavy tests are two groups that take about equally long, this one and `lxd`.
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900), pytest.mark.xdist_group("kill")]
"""Next to another of them a two-core machine is never far enough behind to need every worker."""

HANDLERS = {"imageserver.handlers.digest.handler": 8, "imageserver.handlers.publish.handler": 2}
"""The number of each. Workers start on demand, so all run once a batch waits for each."""
PRODUCTS = [f"images{s}/os{n}{s}/1/amd64/default" for n in range(4) for s in ("", "-daily")]
"""No name is in both streams: which product keeps one depends on when each was first published."""


@dataclass
class Reader:
    """Polls the catalog over https like clients. `listed` has the versions that it saw listed."""

    stack: Stack
    polls: int = 0
    listed: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def look(self, uploaded: dict[str, bytes], deleted: set[str]) -> None:
        index, documents = self.stack.catalog()
        for client in ("lxd", "incus"):
            prints = [image.fingerprint for image in read_catalog(index, documents, client)]
            # Two streams are two documents, read at different moments. Within one, an image is listed once.
            assert len(prints) == len(set(prints)), "an image is listed twice"
        now = set()
        for document in documents.values():
            for product in json.loads(document)["products"].values():
                for version in product["versions"].values():
                    for item in version["items"].values():
                        now.add(item["path"].rpartition("/")[0])
                        body = uploaded[item["path"]]
                        assert (item["size"], item["sha256"]) == (len(body), images.sha256_hex(body)), item["path"]
        lost = {path for path in self.listed - now if path not in deleted}
        assert not lost, f"listed before, and not any more: {lost}"
        self.listed |= now
        self.polls += 1


class Publisher:
    """Uploads versions, a few of them in pieces with pauses, and deletes some of its older ones."""

    def __init__(self, stack: Stack) -> None:
        self._s3 = stack.s3()
        self._bucket = stack.bucket
        self._chance = random.Random(7)
        self.files: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self._number = 0

    def act(self) -> None:
        number, path, files = self._version()
        for name in self._chance.sample(sorted(files), len(files)):
            self._put(f"{path}/{name}", files[name])
        if number % 7 == 6:
            self._delete(self._chance.choice(sorted({key.rpartition("/")[0] for key in self.files} - self.deleted)))

    def all_at_once(self, count: int) -> None:
        """Upload roots, which are not read without metadata, then all metadata: a batch for each possible worker."""
        versions = [self._version() for _ in range(count)]
        for name in ("rootfs.squashfs", "lxd.tar.xz"):
            for _, path, files in versions:
                self._put(f"{path}/{name}", files[name])

    def _version(self) -> tuple[int, str, dict[str, bytes]]:
        number = self._number
        self._number += 1
        path = f"{self._chance.choice(PRODUCTS)}/20261101_{number // 60:02d}:{number % 60:02d}"
        files = images.split_image(seed=str(number))
        if number % 5 == 0:  # takes long enough to read to be killed midway
            files["rootfs.squashfs"] = images.squashfs(str(number), 6 << 20)
        return number, path, files

    def _put(self, key: str, body: bytes) -> None:
        self.files[key] = body
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)

    def _delete(self, path: str) -> None:
        self.deleted.add(path)
        for key in [key for key in self.files if key.startswith(f"{path}/")]:
            self._s3.delete_object(Bucket=self._bucket, Key=key)

    @property
    def present(self) -> dict[str, bytes]:
        return {key: body for key, body in self.files.items() if key.rpartition("/")[0] not in self.deleted}


@dataclass
class KillRun:
    """A stack with an uploader, a reader and a killer, and their results."""

    stack: Stack
    publisher: Publisher
    reader: Reader
    kills: Counter[str]
    verified: int = 0

    def kill_for(self, seconds: float, kill_pause_s: tuple[float, float]) -> None:
        """Run all of them for a while; raise any fault that one of them found."""
        ending, failures = threading.Event(), list[BaseException]()
        self._start_all_workers()
        threads = [
            threading.Thread(target=_guarded, args=(failures, ending, work))
            for work in (
                lambda: _upload(self.publisher, ending),
                lambda: _read(self.reader, self.publisher, ending),
                lambda: _kill(self, ending, kill_pause_s),
            )
        ]
        for thread in threads:
            thread.start()
        ending.wait(seconds)
        ending.set()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _start_all_workers(self) -> None:
        """Upload in bursts until the backlog needs every worker at once."""
        for _ in range(16):  # a busy machine starts a worker in seconds
            self.publisher.all_at_once(80)
            ends = time.monotonic() + 20
            while time.monotonic() < ends:
                if Counter(handler for _, handler in self.stack.workers(*HANDLERS)) == HANDLERS:
                    return
                time.sleep(0.2)
        raise AssertionError(f"not all workers were ever at work at once, expected {HANDLERS}")


@contextmanager
def killed_stack(*options: str, s3_port: int = 0) -> Iterator[KillRun]:
    """Yield eight digest workers and two publishers that soon restart after a kill."""
    digests, publishers = map(str, HANDLERS.values())
    workers = ("--empty", "--digest-workers", digests, "--publish-workers", publishers)
    given = ("DigestTimeout=5", "PublishTimeout=5", f"DigestConcurrency={digests}", f"PublishConcurrency={publishers}")
    short = [word for parameter in given for word in ("--parameter", parameter)]
    with local_stack(*workers, *short, *options, s3_port=s3_port) as stack:
        yield KillRun(stack, Publisher(stack), Reader(stack), Counter())


def record_figures(kill_run: KillRun, seconds: float, record_property: Callable[[str, object], None]) -> None:
    record_property("kills", f"{dict(kill_run.kills)} in {seconds:.0f} s, {kill_run.reader.polls} polls")
    about = f"{len(kill_run.publisher.deleted)} versions deleted, {kill_run.verified} read again and right"
    record_property("uploaded", f"{len(kill_run.publisher.files)} files, {about}")
    # Ten kills in a minute and a poll every two seconds: even a busy machine manages that.
    assert all(kill_run.kills[handler] >= seconds / 12 for handler in HANDLERS), "hardly anybody was killed"
    assert kill_run.kills.total() >= seconds / 6, "hardly anybody was killed"
    assert kill_run.reader.polls >= seconds / 2, "hardly anybody looked"
    assert kill_run.publisher.deleted
    assert kill_run.verified


def test_nothing_is_lost_doubled_or_torn_while_workers_are_killed(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    seconds = float(request.config.getoption("--kill-seconds"))
    with killed_stack() as kill_run:
        kill_run.kill_for(seconds, (0.05, 0.7))
        _recovered(kill_run)
        record_figures(kill_run, seconds, record_property)


def test_a_version_that_kills_each_worker_delays_no_other(record_property: Callable[[str, object], None]) -> None:
    """With the timeouts of a deployment, where the queue itself would hide received messages for an hour and a half."""
    paths = [f"images/os{number}/1/amd64/default/20261101_10:00" for number in range(10)]
    deadly, others = paths[4], {f"os{number}:1:amd64:default" for number in range(10) if number != 4}
    with local_stack("--empty", "--digest-workers", "1") as stack:
        s3, ending, killed = stack.s3(), threading.Event(), Counter[str]()

        def kill_whoever_reads_it() -> None:
            while not ending.wait(0.01):
                with suppress(s3.exceptions.NoSuchKey):
                    lease = json.load(s3.get_object(Bucket=stack.bucket, Key=f"leases/{deadly}.json")["Body"])
                    if lease["token"] not in killed:
                        for pid, _ in stack.workers("imageserver.handlers.digest.handler"):
                            os.kill(pid, signal.SIGKILL)
                        killed[lease["token"]] += 1

        killer = threading.Thread(target=kill_whoever_reads_it)
        killer.start()
        try:
            for name in ("rootfs.squashfs", "lxd.tar.xz"):
                for path in paths:
                    files = images.split_image(seed=path)
                    if path == deadly:  # takes long enough to read to be killed midway
                        files["rootfs.squashfs"] = images.squashfs(path, 200 << 20)
                    s3.put_object(Bucket=stack.bucket, Key=f"{path}/{name}", Body=files[name])
            began = time.monotonic()

            def listed() -> bool | None:
                found = json.loads(stack.catalog()[1].get("streams/v1/images.json", b'{"products": {}}'))
                return True if found["products"].keys() >= others else None

            stack.wait_until(listed, "the nine others to be listed", patience=240)
        finally:
            ending.set()
            killer.join()
        record_property("nine others", f"listed after {time.monotonic() - began:.0f} s, {killed.total()} kills")
        assert killed, "nobody was killed"


def test_nothing_is_lost_doubled_or_torn_while_storage_connections_break_too(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    """S3 and SQS refuse, hang up before and after, and truncate answers: the real adapter over real connections."""
    seconds = float(request.config.getoption("--kill-seconds"))
    s3_port = free_port()
    with faulty_wire(free_port(), f"http://127.0.0.1:{s3_port}", seed=3) as wire:
        rates, wire.rates = wire.rates, {}  # until the stack is laid out
        with killed_stack("--functions-endpoint", wire.url, s3_port=s3_port) as kill_run:
            assert kill_run.stack.facts["s3_endpoint"] == wire.target, "another process took the port"
            wire.rates = rates
            kill_run.kill_for(seconds, (1.0, 4.0))
            wire.rates = {}
            _recovered(kill_run)
        record_figures(kill_run, seconds, record_property)
        record_property("on the wire", f"{dict(sorted(wire.injected.items()))} in {wire.requests:,} requests")
        assert wire.injected.keys() == rates.keys(), "some fault never happened"


def _guarded(failures: list[BaseException], ending: threading.Event, work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001  (raised again in the test's own thread)
        failures.append(error)
        ending.set()


def _upload(publisher: Publisher, ending: threading.Event) -> None:
    while not ending.wait(0.3):
        publisher.act()


def _read(reader: Reader, publisher: Publisher, ending: threading.Event) -> None:
    while not ending.wait(0.1):
        reader.look(publisher.files, publisher.deleted)  # live: what is marked before it is deleted


def _kill(kill_run: KillRun, ending: threading.Event, pause_s: tuple[float, float]) -> None:
    chance = random.Random(11)
    while not ending.wait(chance.uniform(*pause_s)):
        wanted = chance.choice(sorted(HANDLERS))  # there are fewer publishers, and they should die as often
        if alive := [pid for pid, handler in kill_run.stack.workers(*HANDLERS) if handler == wanted]:
            pid = chance.choice(alive)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kill_run.kills[wanted] += 1


def admin(stack: Stack, *arguments: str) -> str:
    """Return what `scripts/admin` prints about this stack."""
    return run(str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), *arguments).stdout


def _recovered(kill_run: KillRun) -> None:
    """Redrive dead letters and reconcile once; then the catalog must match the objects."""
    stack, publisher, reader = kill_run.stack, kill_run.publisher, kill_run.reader
    kinds = {"lxd.tar.xz": "metadata amd64", "rootfs.squashfs": "squashfs"}
    objects = {key: Content(kinds[key.rpartition("/")[2]], body) for key, body in publisher.present.items()}
    expected = expected_catalog(objects, set(), dict.fromkeys(objects, ""), {})

    def right() -> bool | None:
        reader.look(publisher.files, publisher.deleted)
        index, documents = stack.catalog()
        return True if {"streams/v1/index.json": index, **documents} == expected else None

    time.sleep(35)  # messages of killed workers are visible again
    admin(stack, "redrive", "--yes")
    admin(stack, "reconcile")
    stack.wait_until(right, "the catalog to be what the objects say", patience=240)
    verified = json.loads(admin(stack, "--json", "verify"))
    assert verified["mismatches"] == []
    kill_run.verified = verified["versions"]
