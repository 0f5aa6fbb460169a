"""The functions' clients give up on an answer in time: boto3 alone would wait a minute for each try."""

from __future__ import annotations

from typing import Any

import pytest

from gates import stack
from imageserver.aws import clients
from imageserver.aws.queues import HIDDEN_S, RENEW_S
from tests.support.handlers import imported

BACKOFF_S = 1 + 2
"""The longest pauses between three tries of a call, in botocore's standard mode."""


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


def longest_s(client: Any) -> float:
    """Return how long one call takes if no answer comes."""
    config = client.meta.config
    assert config.connect_timeout <= config.read_timeout
    assert config.retries["mode"] == "standard"
    return float(config.retries["total_max_attempts"] * config.read_timeout + BACKOFF_S)


def test_messages_stay_hidden_while_the_queue_does_not_answer() -> None:
    assert longest_s(clients.sqs_client.__wrapped__()) < HIDDEN_S - RENEW_S


def test_the_api_reports_a_queue_that_does_not_answer() -> None:
    timeout_s = int(stack.deployed().properties("UploadsFunction")["Timeout"])
    assert longest_s(clients.sqs_client.__wrapped__()) < timeout_s


def test_publish_outlives_an_edge_that_does_not_answer() -> None:
    timeout_s = int(stack.deployed().properties("PublishFunction")["Timeout"])
    assert longest_s(clients.cloudfront_client.__wrapped__()) < timeout_s / 2


def test_the_api_asks_s3_again_in_time() -> None:
    timeout_s = int(stack.deployed().properties("UploadsFunction")["Timeout"])
    with imported("imageserver.handlers.uploads", {"BUCKET": "b", "POWERTOOLS_SERVICE_NAME": "uploads"}) as app:
        config = app.store._s3.meta.config
    assert 3 * config.read_timeout < timeout_s
    assert config.signature_version == "s3v4"
    assert config.s3["addressing_style"] == "virtual"
