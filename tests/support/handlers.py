"""Functions as deployed: imported with the template's environment, and called as by Lambda."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import pytest

from tests.support.messages import s3_event


@dataclass
class Context:
    """The context that a handler gets."""

    function_name: str = "function"
    left_ms: int = 900_000
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:123456789012:function:function"
    aws_request_id: str = "1"

    def get_remaining_time_in_millis(self) -> int:
        return self.left_ms


@contextmanager
def imported(module: str, environment: Mapping[str, str]) -> Iterator[ModuleType]:
    """Yield a handler's module after a cold start with these variables; discard it afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"POWERTOOLS_METRICS_NAMESPACE": "Simplestreams", **environment}.items():
            patch.setenv(name, value)
        sys.modules.pop(module, None)
        app = importlib.import_module(module)
        # Powertools configures the logger of a process once. Since then pytest has put another stream in place, and a
        # simulation, which logs nothing, may have come first.
        level = app.logger._logger.level
        app.logger._logger.setLevel(environment.get("POWERTOOLS_LOG_LEVEL", "INFO"))
        for handler in app.logger._logger.handlers:
            handler.stream = sys.stdout
        try:
            yield app
        finally:
            app.logger._logger.setLevel(level)
            sys.modules.pop(module, None)


def sqs_event(bucket: str, *keys: str) -> dict[str, list[dict[str, object]]]:
    """Return a batch of one message from S3 for each key."""
    return sqs_batch(*(s3_event(key, bucket) for key in keys))


def sqs_batch(*bodies: str) -> dict[str, list[dict[str, object]]]:
    """Return a batch of messages with these bodies, as Lambda hands it to a function."""
    return {"Records": [sqs_record(str(number), f"handle {number}", body) for number, body in enumerate(bodies)]}


def sqs_record(name: str, receipt_handle: str, body: str, received: int = 1) -> dict[str, object]:
    """Return one message of a batch, received for the n-th time."""
    return {
        "messageId": name,
        "receiptHandle": receipt_handle,
        "body": body,
        "attributes": {"ApproximateReceiveCount": str(received)},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:queue",
        "awsRegion": "eu-central-1",
    }
