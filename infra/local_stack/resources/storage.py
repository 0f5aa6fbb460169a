"""Buckets with their notifications, and queues."""

from local_stack.errors import TemplateError
from local_stack.template import ACCOUNT_ID, Resource, take
from local_stack.wiring import Bucket, Notification, Queue


def read_bucket(resource: Resource, stack_name: str) -> Bucket:
    """Return a bucket under its name on this machine, and the queues that it notifies of its objects."""
    p = resource.take(
        ["BucketName", "VersioningConfiguration", "NotificationConfiguration"],
        # Access is limited to loopback, and no object lives long enough to expire.
        ["PublicAccessBlockConfiguration", "OwnershipControls", "BucketEncryption", "LoggingConfiguration",
         "LifecycleConfiguration", "Tags"],
    )  # fmt: skip
    where = f"{resource.logical_id}.NotificationConfiguration"
    configured = take(resource.logical_id, p.get("NotificationConfiguration", {}), ["QueueConfigurations"])
    notifications = []
    for config in configured.get("QueueConfigurations", []):
        take(where, config, ["Event", "Queue", "Filter"])
        prefix = ""
        for rule in config.get("Filter", {}).get("S3Key", {}).get("Rules", []):
            if rule["Name"] != "prefix":
                raise TemplateError(
                    f"{resource.logical_id}: the local stack does not know the notification filter {rule['Name']}"
                )
            prefix = rule["Value"]
        notifications.append(Notification(config["Queue"], config["Event"], prefix))
    versioned = p.get("VersioningConfiguration", {}).get("Status") == "Enabled"
    name = p.get("BucketName") or f"{stack_name}-{resource.logical_id.lower()}-{ACCOUNT_ID}"
    return Bucket(name, versioned, tuple(notifications))


def read_queue(resource: Resource) -> Queue:
    """Return a queue, and its dead-letter queue."""
    p = resource.take(
        ["VisibilityTimeout", "RedrivePolicy"],
        # Retention is days; the pollers set their own wait times; nothing is encrypted here.
        ["MessageRetentionPeriod", "ReceiveMessageWaitTimeSeconds", "SqsManagedSseEnabled", "KmsMasterKeyId",
         "RedriveAllowPolicy", "Tags"],
    )  # fmt: skip
    redrive = p.get("RedrivePolicy", {})
    return Queue(
        resource.logical_id,
        int(p.get("VisibilityTimeout", 30)),
        redrive.get("deadLetterTargetArn", ""),
        int(redrive.get("maxReceiveCount", 0)),
    )
