"""A message that failed comes back soon, and later each time."""

from __future__ import annotations

import time
from typing import Any

import boto3
import pytest

from imageserver.aws import queues
from imageserver.aws.queues import Hold, pause_s
from tests.support.stubs import stubbed

URL = "https://sqs.us-east-1.amazonaws.com/111122223333/arrivals"


def record(message_id: str, receive_count: int) -> dict[str, Any]:
    attributes = {"ApproximateReceiveCount": str(receive_count)}
    return {"messageId": message_id, "receiptHandle": f"handle of {message_id}", "attributes": attributes}


@pytest.mark.parametrize(("count", "seconds"), [(0, 20), (1, 20), (2, 80), (3, 320), (4, 1280), (5, 3600), (90, 3600)])
def test_retry_delays_grow_to_an_hour(count: int, seconds: int) -> None:
    assert pause_s(count) == seconds


class Sqs:
    """The SQS client. `calls` are (seconds or "delete", receipt); each of `answers` is given to one call."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.calls: list[tuple[int | str, str]] = []
        self.sizes: list[int] = []
        self._answers = iter(answers)

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        assert (QueueUrl, len({entry["Id"] for entry in Entries})) == (URL, len(Entries))
        self.calls += [(entry["VisibilityTimeout"], entry["ReceiptHandle"]) for entry in Entries]
        self.sizes.append(len(Entries))
        return next(self._answers, {})

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        assert QueueUrl == URL
        self.calls += [("delete", entry["ReceiptHandle"]) for entry in Entries]
        return next(self._answers, {})


def hold(client: Any, *records: dict[str, Any]) -> Hold:
    return Hold(client, URL, records)


def test_messages_are_hidden_for_a_minute_from_the_start_and_failed_ones_for_longer() -> None:
    a, b, sqs = record("a", 1), record("b", 2), Sqs()
    with hold(sqs, a, b) as held:
        assert sqs.calls == [(60, "handle of a"), (60, "handle of b")]
        held.rest([b])
    assert sqs.calls[2:] == [(80, "handle of b")]
    assert held.problem == ""


def test_messages_stay_hidden_during_the_work_and_handled_ones_are_deleted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queues, "RENEW_S", 0.01)
    a, b, sqs = record("a", 1), record("b", 1), Sqs()
    with hold(sqs, a, b) as held:
        held.delete([a])
        held.delete([a])
        since = len(sqs.calls)
        ends = time.monotonic() + 5
        while len(sqs.calls) < since + 3 and time.monotonic() < ends:
            time.sleep(0.005)
    assert sqs.calls.count(("delete", "handle of a")) == 1
    assert set(sqs.calls[since:]) == {(60, "handle of b")}
    after = len(sqs.calls)
    time.sleep(0.05)
    assert len(sqs.calls) == after, "nothing is renewed after the run"


def test_ten_messages_go_into_one_call() -> None:
    sqs = Sqs()
    with hold(sqs, *(record(str(number), 1) for number in range(23))):
        pass
    assert sqs.sizes == [10, 10, 3]


def test_an_unresponsive_queue_is_reported_and_the_work_goes_on() -> None:
    client = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with stubbed(client) as stub:
        stub.add_client_error("change_message_visibility_batch", "AccessDenied", "no")
        with hold(client, record("a", 1)) as held:
            pass
    assert "AccessDenied" in held.problem


def test_a_message_that_the_queue_refuses_to_hide_is_reported() -> None:
    failed = {"Failed": [{"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid", "Message": "expired"}]}
    with hold(Sqs(failed), record("a", 1)) as held:
        pass
    assert held.problem == "ReceiptHandleIsInvalid expired"
