"""Buckets with their notifications, and queues."""

from collections.abc import Mapping
from typing import Any

from local_stack.errors import TemplateError
from local_stack.resources.properties import take
from local_stack.template import ACCOUNT_ID, Resource
from local_stack.wiring import Bucket, Notification, Queue


def read_bucket(resource: Resource, stack_name: str) -> Bucket:
    """Return a bucket under its name from Names, and the queues that it notifies of its objects."""
    p = take(
        resource.logical_id, resource.properties,
        ["BucketName", "VersioningConfiguration", "NotificationConfiguration"],
        # Access is limited to loopback, and no object lives long enough to expire.
        ["PublicAccessBlockConfiguration", "OwnershipControls", "BucketEncryption", "LoggingConfiguration",
         "LifecycleConfiguration", "Tags"],
    )  # fmt: skip
    config = take(resource.logical_id, p.get("NotificationConfiguration", {}), ["QueueConfigurations"])
    notifications = tuple(_notification(resource.logical_id, c) for c in config.get("QueueConfigurations", []))
    versioned = p.get("VersioningConfiguration", {}).get("Status") == "Enabled"
    name = p.get("BucketName") or f"{stack_name}-{resource.logical_id.lower()}-{ACCOUNT_ID}"
    return Bucket(resource.logical_id, name, versioned, notifications)


def _notification(where: str, config: Mapping[str, Any]) -> Notification:
    take(f"{where}.NotificationConfiguration", config, ["Event", "Queue", "Filter"])
    prefix = ""
    for rule in config.get("Filter", {}).get("S3Key", {}).get("Rules", []):
        if rule["Name"] != "prefix":
            raise TemplateError(f"{where}: the local stack does not know the notification filter {rule['Name']}")
        prefix = rule["Value"]
    return Notification(config["Queue"], (config["Event"],), prefix)


def read_queue(resource: Resource) -> Queue:
    """Return a queue, and its dead-letter queue."""
    p = take(
        resource.logical_id, resource.properties, ["VisibilityTimeout", "RedrivePolicy"],
        # Retention is days; the pollers set their own wait times; nothing is encrypted here.
        ["MessageRetentionPeriod", "ReceiveMessageWaitTimeSeconds", "SqsManagedSseEnabled", "KmsMasterKeyId",
         "RedriveAllowPolicy", "Tags"],
    )  # fmt: skip
    redrive = p.get("RedrivePolicy", {})
    return Queue(
        resource.logical_id,
        resource.logical_id,
        int(p.get("VisibilityTimeout", 30)),
        redrive.get("deadLetterTargetArn", ""),
        int(redrive.get("maxReceiveCount", 0)),
    )
