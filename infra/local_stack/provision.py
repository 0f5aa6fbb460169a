"""Creates the resources of the wiring in moto: queues with their dead letters, buckets with their notifications."""

import json
from typing import Any

from local_stack.wiring import Bucket, Queue, Wiring


def provision(wiring: Wiring, s3: Any, sqs: Any) -> None:
    """Make queues first, since a bucket's notifications name them; `s3` and `sqs` are boto3 clients."""
    for queue in sorted(wiring.queues, key=lambda q: bool(q.dead_letters_arn)):  # dead letters first
        _make_queue(queue, sqs)
    for bucket in wiring.buckets:
        _make_bucket(bucket, wiring.region, s3)


def _make_queue(queue: Queue, sqs: Any) -> None:
    attributes = {"VisibilityTimeout": str(queue.visibility_s)}
    if queue.dead_letters_arn:
        policy = {"deadLetterTargetArn": queue.dead_letters_arn, "maxReceiveCount": queue.max_receive_count}
        attributes["RedrivePolicy"] = json.dumps(policy)
    sqs.create_queue(QueueName=queue.name, Attributes=attributes)


def _make_bucket(bucket: Bucket, region: str, s3: Any) -> None:
    # us-east-1 is the only region that S3 does not accept as a constraint.
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket.name, **where)
    if bucket.versioned:
        s3.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    if bucket.notifications:
        configurations = [
            {
                "QueueArn": n.queue_arn,
                "Events": list(n.events),
                "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": n.prefix}]}},
            }
            for n in bucket.notifications
        ]
        s3.put_bucket_notification_configuration(
            Bucket=bucket.name, NotificationConfiguration={"QueueConfigurations": configurations}
        )
