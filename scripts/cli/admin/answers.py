"""The answers of AWS as far as this tool goes by them; what is missing or of another type is no answer.

A field with a default is one that AWS leaves out where there is nothing.
"""

from datetime import datetime
from typing import Any, TypeVar

import msgspec

Kind = TypeVar("Kind")


def read(answer: Any, kind: type[Kind]) -> Kind:
    """Return an answer of boto3 as one of these types; msgspec.ValidationError names the field that is not right."""
    return msgspec.convert(answer, kind)


class Answer(msgspec.Struct, frozen=True, rename="pascal"):
    """An answer of AWS, or a part of one."""


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


class StackResourceDetail(Answer, frozen=True):
    physical_resource_id: str = ""


class StackResource(Answer, frozen=True):
    """DescribeStackResource."""

    stack_resource_detail: StackResourceDetail


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
    """GetBucketVersioning; without a status where it was never asked for."""

    status: str = ""
