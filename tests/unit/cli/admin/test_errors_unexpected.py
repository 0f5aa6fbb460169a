"""Whatever AWS answers, `scripts/admin` ends with a sentence: each request of each command is broken in each way.

The requests are recorded from a clean run, so a new check is covered automatically.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from botocore.parsers import ResponseParserError
from click.testing import CliRunner, Result

from cli import aws
from cli.admin import checks, dead_letters
from cli.admin.__main__ import main
from cli.admin.errors import FOUND, NO_CREDENTIALS, STORAGE
from imageserver.format.keys import parse_version
from imageserver.operations.withdraw import withdraw
from imageserver.storage import s3
from tests.support import images
from tests.support.fake_aws import (
    API,
    BUCKET,
    DEAD,
    EDGE,
    STACK,
    Break,
    FakeAws,
    Session,
    error,
    put,
    value_paths,
    without,
)
from tests.support.memory_store import START, System

PRODUCT = "images/ubuntu/noble/amd64/default"
SOURCE = f"s3://{BUCKET}"


def letter(key: str) -> dict[str, Any]:
    event = {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}}]}
    about = {"SentTimestamp": "1795428000000", "ApproximateReceiveCount": "5"}
    return {"MessageId": key, "ReceiptHandle": key, "Body": json.dumps(event), "Attributes": about}


@dataclass
class World:
    """A server without faults, and the answer to each request over http. `broken` changes answers of any kind."""

    monkeypatch: pytest.MonkeyPatch
    session: Session
    system: System = field(default_factory=System)
    dead: bool = False

    def __post_init__(self) -> None:
        for day in (1, 2, 3):
            self.system.upload(f"{PRODUCT}/2026110{day}", images.split_image(seed=str(day)))
        self.system.catch_up()
        self.system.store.put("index.html", b"<html>")
        self.monkeypatch.setattr(dead_letters, "WAIT_S", 0)
        self.monkeypatch.setattr(s3, "read_object", self._read_object)
        self.monkeypatch.setenv("AWS_REGION", "eu-central-1")

    def withdrawn(self) -> None:
        """Withdraw a version long enough ago that it is due for deletion."""
        withdraw(self.system.store, parse_version(f"{PRODUCT}/20261101"), START.replace(year=2020), 1, lambda _: None)
        self.system.catch_up()

    def run(self, line: str, broken: Break = lambda _, answer: answer) -> tuple[Result, list[str]]:
        """Return what a command printed and requested. Each run begins with the same server."""
        store = self.system.store
        kept = dict(store.objects)
        fake = FakeAws(store, broken=broken)
        if self.dead:
            fake.letters = {queue: [letter(f"{PRODUCT}/20261101/lxd.tar.xz")] for queue in DEAD.values()}
        self.monkeypatch.setattr(aws, "_session", lambda _: self.session.over(fake))
        self.monkeypatch.setattr(aws, "_region_of", lambda *_: "eu-central-1")
        self.monkeypatch.setattr(urllib.request, "urlopen", lambda address, **_: self._get(fake, address))
        try:
            return CliRunner().invoke(main, ["--stack", STACK, *line.split()], prog_name="admin"), fake.asked
        finally:
            store.objects.clear()
            store.objects.update(kept)

    def _read_object(self, _client: Any, _bucket: str, key: str, *_: Any) -> Any:
        yield self.system.store.objects[key].body

    def _get(self, fake: FakeAws, address: str) -> Any:
        """Answer as urllib does."""
        fake.asked.append(f"http {address}")
        path = address.removeprefix(EDGE).removeprefix(API).removeprefix("/")
        found = self.system.store.objects.get(path or "index.html")
        status, body = (200, found.body) if found else (404, b"")
        if address.startswith(API):
            status, body = (200, b'{"openapi": "3.1.0"}') if path == "openapi.json" else (401, b"")
        answer = fake.broken(f"http {address}", {"status": status, "body": body})
        if isinstance(answer, dict) and "Error" in answer:
            answer = {"status": answer["Status!"], "body": b""}
        if isinstance(answer, dict) and answer.get("status") not in (200, None):
            raise urllib.error.HTTPError(address, answer["status"], "no", Message(), None)
        return contextlib.nullcontext(SimpleNamespace(status=answer["status"], read=lambda: answer["body"]))


@pytest.fixture(scope="module")
def session() -> Session:
    return Session()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, session: Session) -> World:
    return World(monkeypatch, session)


ERRORS: dict[str, Callable[[], Any]] = {
    "denied": lambda: error("AccessDenied", 403),
    "throttled": lambda: error("Throttling", 429),
    "slow down": lambda: error("SlowDown", 503),
    "unknown": lambda: error("SomethingNew"),
    "no code": lambda: {"Error": {}, "Status!": 500},
    "expired": lambda: error("ExpiredToken"),
    "timeout": lambda: ReadTimeoutError(endpoint_url="https://x"),
    "no connection": lambda: EndpointConnectionError(endpoint_url="https://x"),
    "connect timeout": lambda: ConnectTimeoutError(endpoint_url="https://x"),
    "not JSON, not XML": lambda: ResponseParserError("Unable to parse response (syntax error: line 1, column 0)"),
    "nothing": lambda: {},
    "None": lambda: None,
    "a list": lambda: [],
    "a program's mistake": lambda: ZeroDivisionError("division by zero"),
}
GARBAGE = "<html>\x1b[31m{torn"
VALUES: dict[str, Any] = {"None": None, "a text": GARBAGE, "a number": 7, "a list": [], "an object": {}}


def failing(operation: str, way: str) -> Break:
    """Return an AWS that fails one operation in one way."""

    def broken(name: str, answer: Any) -> Any:
        if name != operation:
            return answer
        found = ERRORS[way]()
        if isinstance(found, Exception):
            raise found
        return found

    return broken


def mangled(operation: str, where: tuple[Any, ...], way: str) -> Break:
    """Return an AWS that leaves something out of one answer, or replaces it."""

    def broken(name: str, answer: Any) -> Any:
        if name != operation or where not in set(value_paths(answer)):
            return answer
        return without(answer, where) if way == "missing" else put(answer, where, VALUES[way])

    return broken


def seen_answers(world: World, line: str) -> dict[str, list[Any]]:
    """Return every operation of a clean run, with its different answers."""
    found: dict[str, list[Any]] = {}

    def watch(name: str, answer: Any) -> Any:
        found.setdefault(name, []).append(answer)
        return answer

    done, asked = world.run(line, watch)
    assert done.exit_code == 0, (line, done.output, done.exception)
    assert set(found) == set(asked)
    return found


def ended_with_a_sentence(done: Result) -> str:
    """Return what is wrong with how a command ended; empty if nothing is."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"traceback: {done.exception!r}"
    if done.exit_code not in (0, FOUND, STORAGE, NO_CREDENTIALS, 4):
        return f"exit code {done.exit_code}"
    return "Traceback" if "Traceback" in done.output else ""


def checked(done: Result) -> list[Any]:
    found: list[Any] = json.loads(done.stdout)
    return found


# ── doctor ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_doctor_finds_nothing_on_a_working_server(world: World) -> None:
    done, asked = world.run("--json doctor")
    assert (done.exit_code, checked(done)) == (0, []), done.output
    assert {name.split()[0] for name in asked} == {"s3", "sqs", "cloudformation", "cloudwatch", "http"}


@pytest.mark.parametrize("way", ERRORS)
def test_a_request_that_fails_is_a_finding_and_the_other_checks_are_made(world: World, way: str) -> None:
    wrong = []
    for operation in seen_answers(world, "doctor"):
        if (operation, way) == (f"http {API}/versions/images/a/b/amd64/c/20260101", "denied"):
            continue  # as expected
        done, _ = world.run("doctor", after_opening(failing(operation, way)))
        names = [line.split(":")[0] for line in done.stdout.splitlines() if line[0] != " "]
        if (sentence := ended_with_a_sentence(done)) or done.exit_code != FOUND or names != list(checks.CHECKS):
            wrong.append((operation, sentence, done.stdout))
        elif way != "nothing" and not is_about(operation, done.stdout):  # an empty answer is allowed: there may be none
            wrong.append((operation, "is not named", done.stdout))
    assert wrong == []


def after_opening(broken: Break) -> Break:
    """Apply a fault from the second DescribeStacks on: the first opens the server, and without it there is none."""
    count = [0]

    def later(name: str, answer: Any) -> Any:
        count[0] += name == "cloudformation DescribeStacks"
        first = name == "cloudformation DescribeStacks" and count[0] == 1
        return answer if first else broken(name, answer)

    return later


def is_about(operation: str, sentence: str) -> bool:
    """Return whether a finding names the request, by AWS's name or by its address."""
    return operation.partition(" ")[2] in sentence


NOT_READ = {
    ("cloudformation DescribeStackResource", "ResourceStatus"),
    ("cloudformation DescribeStacks", "StackName"),
    ("cloudwatch DescribeAlarms", "CompositeAlarms"),
    ("cloudwatch GetMetricStatistics", "Label"),
    ("s3 GetBucketNotificationConfiguration", "Id"),
    ("s3 GetObject", "Message"),
    ("s3 GetObject", "ETag"),  # the doctor writes nothing
    ("s3 ListObjectsV2", "KeyCount"),
    ("s3 ListObjectsV2", "ETag"),  # records and documents are read; images are listed with their versions
    ("s3 ListObjectsV2", "Size"),
    ("s3 ListObjectsV2", "IsTruncated"),
    ("s3 ListObjectVersions", "IsTruncated"),
    ("s3 ListObjectVersions", "DeleteMarkers"),
    ("sqs GetQueueAttributes", "QueueArn"),
    (f"http {EDGE}/streams/v1/no-such-document.json", "body"),
    (f"http {API}/versions/images/a/b/amd64/c/20260101", "body"),
}
"""Parts of an answer that may be missing or different: no code depends on them."""
AN_ANSWER_TOO = {
    ("missing", "cloudformation DescribeStacks", "Outputs"),
    ("missing", "cloudformation DescribeStacks", "Parameters"),
    ("missing", "cloudformation DescribeStacks", 0),  # the first output, or parameter
    ("missing", "cloudwatch GetMetricStatistics", 0),
    ("a text", "s3 ListObjectVersions", "IsLatest"),  # whatever is there means yes
    ("a number", "s3 ListObjectVersions", "IsLatest"),
    ("a text", "cloudformation DescribeStackResource", "PhysicalResourceId"),
    ("a text", "cloudformation DescribeStacks", "OutputKey"),
    ("a text", "cloudformation DescribeStacks", "OutputValue"),
    ("a text", "cloudformation DescribeStacks", "ParameterKey"),
    ("a text", "cloudformation DescribeStacks", "ParameterValue"),
    ("a number", "cloudwatch GetMetricStatistics", "Maximum"),
    ("a list", "cloudwatch DescribeAlarms", "MetricAlarms"),
    ("a list", "cloudwatch GetMetricStatistics", "Datapoints"),
    ("a list", "cloudformation DescribeStacks", "Outputs"),
    ("a list", "cloudformation DescribeStacks", "Parameters"),
}
"""Changes after which the answer is still one of a server without faults."""


@pytest.mark.parametrize("way", ["missing", *VALUES])
def test_an_unexpected_answer_never_ends_the_doctor(world: World, way: str) -> None:
    wrong, unnoticed = [], set()
    for operation, answers in seen_answers(world, "doctor").items():
        for where in sorted({where for answer in answers for where in value_paths(answer)}, key=repr):
            done, _ = world.run("--json doctor", after_opening(mangled(operation, where, way)))
            if sentence := ended_with_a_sentence(done):
                wrong.append((operation, where, sentence))
            elif done.exit_code == 0 and (operation, where[-1]) not in NOT_READ:
                unnoticed.add((way, operation, where[-1]))
    assert wrong == []
    assert unnoticed - AN_ANSWER_TOO == set(), "it says that all is well"


# ── the other commands ───────────────────────────────────────────────────────────────────────────────────────────

LINES = (
    "list",
    f"show {PRODUCT}",
    "verify",
    "verify --sample 1",
    "redrive",
    "redrive --yes",
    "prune",
    "prune --yes",
    "reconcile",
    "rebuild catalog",
    "rebuild records --yes",
    f"withdraw {PRODUCT} --yes",
    f"restore {PRODUCT}",
    f"import {SOURCE}",
)


@pytest.mark.parametrize("line", LINES)
def test_a_failed_request_ends_a_command_with_one_sentence_and_its_exit_code(world: World, line: str) -> None:
    prepare(world, line)
    wrong = []
    for operation in seen_answers(world, line):
        for way in ERRORS:
            done, _ = world.run(line, failing(operation, way))
            sentence = ended_with_a_sentence(done)
            if sentence or (done.exit_code and not gives_reason(done)):
                wrong.append((operation, way, sentence, done.output[:200]))
            elif done.exit_code == 0 and (operation, way) not in NOT_NEEDED:
                wrong.append((operation, way, "all is well", done.output[:200]))
    assert wrong == []


def gives_reason(done: Result) -> bool:
    """Return whether there is a sentence about the command or about a finding."""
    if done.exit_code == FOUND and done.stdout.strip():
        return True
    if any(line.startswith("failed: ") for line in done.stdout.splitlines()):
        return True
    return any(line.startswith(("admin: ", "Error: ")) for line in done.stderr.splitlines())


NOT_NEEDED = {
    ("s3 ListObjectsV2", "nothing"),  # an empty bucket
    ("s3 ListObjectVersions", "nothing"),
    ("s3 DeleteObject", "nothing"),
    ("s3 DeleteObject", "None"),
    ("s3 DeleteObject", "a list"),
    ("s3 PutObject", "None"),  # a lost race: it reads again and finds what it wanted to write
    ("sqs ReceiveMessage", "nothing"),  # an empty queue
    ("sqs DeleteMessage", "nothing"),
    # a message that was only shown comes back by itself soon
    *{("sqs ChangeMessageVisibility", way)
      for way in ("denied", "throttled", "slow down", "unknown", "no code", "expired", "nothing")},
}  # fmt: skip
"""Failures, real or apparent, that do not affect a command."""


def prepare(world: World, line: str) -> None:
    """Prepare something for a command to do."""
    world.dead = line.startswith("redrive")
    if line.startswith("prune"):
        world.withdrawn()


@pytest.mark.parametrize("line", ["list", "redrive --yes", "prune --yes"])
@pytest.mark.parametrize("way", ["missing", "None", "a text"])
def test_an_unexpected_answer_ends_a_command_with_one_sentence_and_its_exit_code(
    world: World, line: str, way: str
) -> None:
    prepare(world, line)
    wrong = []
    for operation, answers in seen_answers(world, line).items():
        for where in sorted({where for answer in answers for where in value_paths(answer)}, key=repr):
            done, _ = world.run(line, mangled(operation, where, way))
            if sentence := ended_with_a_sentence(done):
                wrong.append((operation, where, sentence))
    assert wrong == []


def test_an_error_names_the_request_and_the_answer_and_debug_shows_the_location(world: World) -> None:
    broken = mangled("s3 ListObjectsV2", ("Contents", 0, "ETag"), "missing")
    done, _ = world.run("list", broken)
    (line,) = done.stderr.splitlines()
    assert line.startswith("admin: an answer was not as expected (KeyError: 'ETag' in s3.py, line ")
    assert "; asked: s3 ListObjectsV2 {'Bucket': 'images-1', 'Prefix': " in line
    assert "; answered: {'IsTruncated': False, 'KeyCount': " in line
    assert line.endswith("; try again; if it persists, report it with what --debug prints")
    debugged, _ = world.run("list --debug", broken)
    assert debugged.exit_code == done.exit_code == STORAGE
    assert line in debugged.stderr
    assert "Traceback (most recent call last):" in debugged.stderr
    assert "KeyError: 'ETag'" in debugged.stderr


def test_debug_shows_the_error_behind_a_finding_of_the_doctor(world: World) -> None:
    done, _ = world.run("doctor --debug", after_opening(failing("sqs GetQueueUrl", "a program's mistake")))
    assert done.exit_code == FOUND
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback (most recent call last):" in done.stderr
    assert "wiring: 1 finding" in done.stdout


def test_an_aborted_run_reports_what_it_did_before(world: World) -> None:
    world.dead = True
    count = [0]

    def second_fails(name: str, answer: Any) -> Any:
        count[0] += name == "sqs DeleteMessage"
        return error("SomethingNew") if name == "sqs DeleteMessage" and count[0] == 2 else answer

    done, _ = world.run("redrive --yes", second_fails)
    assert done.exit_code == STORAGE
    assert f"arrivals: {PRODUCT}/20261101/lxd.tar.xz  sent 2026-11-23T" in done.stderr
