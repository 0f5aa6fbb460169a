"""The last request to AWS, and the types of the answers that this tool reads.

A field has a default if AWS may leave it out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Self, TypeVar

import msgspec

MOST_SHOWN: Final = 240
"""Characters kept of a request, and of an answer."""
NO_ANSWER: Final = "; no answer came"


class RequestLog:
    """The last request of a session and its answer, which help to explain an unexpected error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.last = ""

    @classmethod
    def of(cls, session: Any) -> Self:
        """Return a log of every client that this boto3 session makes from now on."""
        log = cls()
        session.events.register_first("provide-client-params", log._sent)
        session.events.register("after-call", log._answered)
        return log

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Add the last request and its answer as a note to any exception from within."""
        try:
            yield
        except Exception as error:
            if self.last and not hasattr(error, "__notes__"):
                error.add_note(self.last)
            raise

    def add(self, request: str) -> None:
        """Log a request that is being sent, by boto3 or by others."""
        with self._lock:
            self.last = f"asked: {request}{NO_ANSWER}"

    def _sent(self, params: Mapping[str, Any], model: Any, **_: Any) -> None:
        self.add(f"{_name(model)} {_short(dict(params))}")

    def _answered(self, parsed: Any, model: Any, **_: Any) -> None:
        if isinstance(parsed, Mapping):
            parsed = {name: value for name, value in parsed.items() if name != "ResponseMetadata"}
        with self._lock:
            sent = self.last.partition(NO_ANSWER)[0]
            if _name(model) not in sent:  # another thread has sent a request since
                sent = f"asked: {_name(model)}"
            self.last = f"{sent}; answered: {_short(parsed)}"


def _name(model: Any) -> str:
    return f"{model.service_model.service_name} {model.name}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


Kind = TypeVar("Kind")


def read(answer: Any, kind: type[Kind]) -> Kind:
    """Convert an answer of boto3. Raise msgspec.ValidationError, which names the wrong field."""
    return msgspec.convert(answer, kind)


class Answer(msgspec.Struct, frozen=True, rename="pascal"):
    """An answer of AWS, or part of one."""


class Output(Answer, frozen=True):
    output_key: str
    output_value: str


class Parameter(Answer, frozen=True):
    parameter_key: str
    parameter_value: str


class Stack(Answer, frozen=True):
    stack_status: str
    outputs: list[Output] = []
    parameters: list[Parameter] = []


class Stacks(Answer, frozen=True):
    """DescribeStacks."""

    stacks: list[Stack]


class LoggingEnabled(Answer, frozen=True):
    target_bucket: str = ""


class BucketLogging(Answer, frozen=True):
    """GetBucketLogging."""

    logging_enabled: LoggingEnabled = LoggingEnabled()


class StackResourceDetail(Answer, frozen=True):
    physical_resource_id: str = ""


class StackResource(Answer, frozen=True):
    """DescribeStackResource."""

    stack_resource_detail: StackResourceDetail


class DescribedFunction(msgspec.Struct, frozen=True):
    """DescribeFunction of CloudFront."""

    etag: str = msgspec.field(name="ETag")


class FunctionTest(Answer, frozen=True):
    """The result of TestFunction: numbers come as text; `function_output` is a JSON document."""

    compute_utilization: str = ""
    function_error_message: str = ""
    function_output: str = ""


class TestedFunction(Answer, frozen=True):
    """TestFunction of CloudFront."""

    test_result: FunctionTest


class LogEvent(msgspec.Struct, frozen=True):
    """A line of a log; `timestamp` in milliseconds since 1970."""

    timestamp: int
    message: str


class LogEvents(msgspec.Struct, frozen=True, rename="camel"):
    """One page of FilterLogEvents."""

    events: list[LogEvent] = []
    next_token: str = ""


class CallerIdentity(Answer, frozen=True):
    """GetCallerIdentity."""

    arn: str


class Alarm(Answer, frozen=True):
    alarm_name: str
    state_reason: str


class Alarms(Answer, frozen=True):
    """One page of DescribeAlarms."""

    metric_alarms: list[Alarm]


class Datapoint(Answer, frozen=True):
    timestamp: datetime
    maximum: float


class Statistics(Answer, frozen=True):
    """GetMetricStatistics."""

    datapoints: list[Datapoint]


class FilterRule(Answer, frozen=True):
    name: str
    value: str


class KeyFilter(Answer, frozen=True):
    filter_rules: list[FilterRule] = []


class Filter(Answer, frozen=True):
    key: KeyFilter = KeyFilter()


class QueueConfiguration(Answer, frozen=True):
    queue_arn: str
    events: list[str]
    filter: Filter = Filter()


class Notifications(Answer, frozen=True):
    """GetBucketNotificationConfiguration."""

    queue_configurations: list[QueueConfiguration] = []


class QueueUrl(Answer, frozen=True):
    """GetQueueUrl."""

    queue_url: str


class QueueUrls(Answer, frozen=True):
    """ListQueues."""

    queue_urls: list[str] = []


class QueueAttributes(Answer, frozen=True):
    """GetQueueAttributes."""

    attributes: dict[str, str]


class RedrivePolicy(msgspec.Struct, frozen=True, rename="camel"):
    """The attribute RedrivePolicy of a queue."""

    dead_letter_target_arn: str


class SentMessage(Answer, frozen=True):
    """SendMessage."""

    message_id: str


class PolicyStatus(Answer, frozen=True):
    is_public: bool


class BucketPolicyStatus(Answer, frozen=True):
    """GetBucketPolicyStatus."""

    policy_status: PolicyStatus


class AccessBlock(Answer, frozen=True):
    block_public_acls: bool = False
    ignore_public_acls: bool = False
    block_public_policy: bool = False
    restrict_public_buckets: bool = False


class PublicAccessBlock(Answer, frozen=True):
    """GetPublicAccessBlock."""

    public_access_block_configuration: AccessBlock


class Versioning(Answer, frozen=True):
    """GetBucketVersioning; the status is empty if versioning was never enabled."""

    status: str = ""
