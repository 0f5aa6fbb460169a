"""Event source mappings over the local SQS: batches, partial failures, visibility, dead letters."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local_stack.event_source_mappings import Poller, failed_ids
from local_stack.lambda_pool import Outcome
from local_stack.wiring import SourceMapping
from tests.support.servers.s3 import S3Server, running_s3

# One worker starts the process for all of them.
pytestmark = pytest.mark.xdist_group("local-stack-mappings")

PATIENCE_S = 20
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


class Function:
    """A stand-in for a function. It records its batches (message bodies) and answers with `answer` of the event."""

    def __init__(self, answer: Callable[[dict[str, Any]], Outcome]) -> None:
        self.batches: list[list[str]] = []
        self._answer = answer
        self._lock = threading.Lock()
        self.running = self.most_at_once = 0

    def __call__(self, _name: str, event: dict[str, Any]) -> Outcome:
        with self._lock:
            self.batches.append([record["body"] for record in event["Records"]])
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        try:
            return self._answer(event)
        finally:
            with self._lock:
                self.running -= 1

    @property
    def bodies(self) -> list[str]:
        return [body for batch in self.batches for body in batch]


class PolledQueue:
    """A queue with a dead-letter queue, and its poller."""

    def __init__(self, server: S3Server, name: str, visibility_s: int, tries: int) -> None:
        self.sqs = server.client("sqs")
        self.dead_url, dead_arn = server.make_queue(f"{name}-dead")
        policy = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": tries})
        self.url, self.arn = server.make_queue(name, VisibilityTimeout=str(visibility_s), RedrivePolicy=policy)
        self.failures: list[str] = []
        self.poller: Poller | None = None

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def poll(self, function: Function, **settings: Any) -> None:
        defaults = {"batch_size": 10, "window_s": 0.0, "max_concurrency": 2, "partial_failures": True}
        mapping = SourceMapping("M", self.arn, "F", **{**defaults, **settings})
        self.poller = Poller(
            mapping, self.sqs, function, lambda _name, reason: self.failures.append(reason), mapping.max_concurrency
        )
        self.poller.start()

    def left(self, url: str) -> int:
        """Return the number of messages in a queue, visible or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(attributes[name]) for name in names)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up, f"not seen: {what}"
            time.sleep(0.05)


@pytest.fixture
def make_queue(server: S3Server) -> Iterator[Callable[..., PolledQueue]]:
    made: list[PolledQueue] = []

    def make(visibility_s: int = 60, tries: int = 3) -> PolledQueue:
        made.append(PolledQueue(server, f"queue-{next(NUMBERS)}", visibility_s, tries))
        return made[-1]

    yield make
    for queue in made:
        if queue.poller:
            queue.poller.stop()


def succeed(_event: dict[str, Any]) -> Outcome:
    return Outcome({"batchItemFailures": []})


def test_processed_messages_are_deleted(make_queue: Callable[..., PolledQueue]) -> None:
    queue, function = make_queue(), Function(succeed)
    queue.send("a", "b", "c")
    queue.poll(function)
    queue.wait(lambda: queue.left(queue.url) == 0, "an empty queue")
    assert sorted(function.bodies) == ["a", "b", "c"]


def test_a_batch_is_no_larger_than_declared_and_a_window_collects_messages(
    make_queue: Callable[..., PolledQueue],
) -> None:
    queue, function = make_queue(), Function(succeed)
    queue.send(*(str(number) for number in range(25)))
    queue.poll(function, batch_size=12, window_s=2.0)
    queue.wait(lambda: queue.left(queue.url) == 0, "an empty queue")
    assert [len(batch) for batch in function.batches] == [12, 12, 1]


def test_only_messages_reported_as_failed_are_redelivered(make_queue: Callable[..., PolledQueue]) -> None:
    def fail_bad(event: dict[str, Any]) -> Outcome:
        bad = [r["messageId"] for r in event["Records"] if r["body"] == "bad"]
        return Outcome({"batchItemFailures": [{"itemIdentifier": message_id} for message_id in bad]})

    queue, function = make_queue(visibility_s=1, tries=2), Function(fail_bad)
    queue.send("good", "bad")
    queue.poll(function, window_s=0.5)
    queue.wait(lambda: queue.left(queue.dead_url) == 1, "a dead letter")
    assert sorted(function.bodies) == ["bad", "bad", "good"]
    assert queue.left(queue.url) == 0
    assert "1 of" in queue.failures[0]


@pytest.mark.parametrize("outcome", [Outcome(None, "ValueError: why"), Outcome("nonsense")])
def test_a_failing_batch_is_redelivered_until_it_is_a_dead_letter(
    make_queue: Callable[..., PolledQueue], outcome: Outcome
) -> None:
    queue, function = make_queue(visibility_s=1, tries=2), Function(lambda _event: outcome)
    queue.send("a", "b")
    queue.poll(function, window_s=0.5)
    queue.wait(lambda: queue.left(queue.dead_url) == 2, "two dead letters")
    assert sorted(function.bodies) == ["a", "a", "b", "b"]


def test_a_failed_message_is_invisible_for_the_visibility_timeout(make_queue: Callable[..., PolledQueue]) -> None:
    queue, function = make_queue(visibility_s=60), Function(lambda _event: Outcome(None, "E: x"))
    queue.send("a")
    queue.poll(function)
    queue.wait(lambda: bool(queue.failures), "a failure")
    queue.send("b")
    queue.wait(lambda: len(queue.failures) == 2, "another failure")
    assert function.bodies == ["a", "b"]
    assert queue.left(queue.url) == 2


def test_concurrency_is_bounded(make_queue: Callable[..., PolledQueue]) -> None:
    def slowly(event: dict[str, Any]) -> Outcome:
        time.sleep(0.2)
        return succeed(event)

    queue, function = make_queue(), Function(slowly)
    queue.send(*"abcdefgh")
    queue.poll(function, batch_size=1, max_concurrency=3)
    queue.wait(lambda: queue.left(queue.url) == 0, "an empty queue")
    assert (function.most_at_once, len(function.batches)) == (3, 8)


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        (None, set()),
        ({}, set()),
        ({"batchItemFailures": None}, set()),
        ({"batchItemFailures": []}, set()),
        ({"batchItemFailures": [{"itemIdentifier": "1"}]}, {"1"}),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, {"1", "2"}),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, {"1", "2"}),
        ({"batchItemFailures": [{"itemIdentifier": "unknown"}]}, {"1", "2"}),
        ({"batchItemFailures": [{"id": "1"}]}, {"1", "2"}),
        ({"batchItemFailures": "1"}, {"1", "2"}),
        ("text", {"1", "2"}),
        ([], {"1", "2"}),
    ],
)
def test_answers_are_read_as_lambda_reads_them(result: Any, failed: set[str]) -> None:
    assert failed_ids(Outcome(result), ["1", "2"], partial_failures=True)[0] == failed


def test_without_partial_failures_the_answer_does_not_matter() -> None:
    answer = Outcome({"batchItemFailures": [{"itemIdentifier": "1"}]})
    assert failed_ids(answer, ["1"], partial_failures=False)[0] == frozenset()
    assert failed_ids(Outcome(None, "E: x"), ["1"], partial_failures=False)[0] == {"1"}
