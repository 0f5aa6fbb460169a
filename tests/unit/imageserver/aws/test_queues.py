"""A message that failed comes back soon, and later each time."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from imageserver.aws.queues import pause_s, try_again_soon

URL = "https://sqs.us-east-1.amazonaws.com/111122223333/arrivals"


def record(message_id: str, receive_count: int) -> dict[str, Any]:
    attributes = {"ApproximateReceiveCount": str(receive_count)}
    return {"messageId": message_id, "receiptHandle": f"handle of {message_id}", "attributes": attributes}


@pytest.mark.parametrize(("count", "seconds"), [(0, 20), (1, 20), (2, 80), (3, 320), (4, 1280), (5, 3600), (90, 3600)])
def test_retry_delays_grow_to_an_hour(count: int, seconds: int) -> None:
    assert pause_s(count) == seconds


def test_only_failed_messages_get_a_shorter_visibility_timeout() -> None:
    client = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        expected = {"QueueUrl": URL, "ReceiptHandle": "handle of b", "VisibilityTimeout": 80}
        stub.add_response("change_message_visibility", {}, expected)
        assert try_again_soon(client, URL, [record("a", 1), record("b", 2)], {"b"}) == ""
        stub.assert_no_pending_responses()


def test_a_queue_that_does_not_answer_is_logged_and_keeps_the_timeout() -> None:
    client = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        stub.add_client_error("change_message_visibility", "AccessDenied", "no")
        assert "AccessDenied" in try_again_soon(client, URL, [record("a", 1)], {"a"})
