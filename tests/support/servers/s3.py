"""The local stack's S3 and SQS as a process, with a bucket and a queue, for tests of its rules."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from local_stack.s3_process import S3Process
from local_stack.servers import LOOPBACK, listen

BUCKET = "images-bucket"
REGION = "us-east-1"


@dataclass
class S3Server:
    """One versioned bucket. Its events under `images` go to the queue `arrivals`.

    `watched_events` has those that a watcher of the process got.
    """

    endpoint: str
    arrivals_url: str = ""
    watched_events: list[dict[str, Any]] = field(default_factory=list)

    def client(self, service: str) -> Any:
        config = Config(signature_version="s3v4", s3={"addressing_style": "path"}) if service == "s3" else Config()
        session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
        # The name of the service is known only at run time.
        return session.client(service, endpoint_url=self.endpoint, config=config)  # type: ignore[call-overload]

    def make_queue(self, name: str, **attributes: str) -> tuple[str, str]:
        """Make a queue; return its URL and ARN."""
        sqs = self.client("sqs")
        url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return url, arn

    def events(self) -> list[dict[str, Any]]:
        """Return the records of all S3 events in `arrivals`, and empty the queue."""
        sqs, records = self.client("sqs"), []
        while messages := sqs.receive_message(QueueUrl=self.arrivals_url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                records += json.loads(message["Body"]).get("Records", [])
                sqs.delete_message(QueueUrl=self.arrivals_url, ReceiptHandle=message["ReceiptHandle"])
        return records


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Yield a fresh server. `folder` gets its log."""
    with s3_process(folder) as process:
        server = S3Server(process.endpoint)
        process.watch(server.watched_events.append)
        server.arrivals_url, arn = server.make_queue("arrivals")
        _make_bucket(server.client("s3"), arn)
        yield server


@contextlib.contextmanager
def s3_process(folder: Path, port: int = 0) -> Iterator[S3Process]:
    """Yield a process that is ready and empty; port 0 is any. `folder` gets its log."""
    process = S3Process(listen(port, LOOPBACK[:1])[0], folder / "s3.log")
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


def _make_bucket(s3: Any, queue_arn: str) -> None:
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    rule = {"Key": {"FilterRules": [{"Name": "prefix", "Value": "images"}]}}
    configuration = {"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"], "Filter": rule}
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [configuration]}
    )


def empty(s3: Any, *buckets: str) -> None:
    """Delete every generation of every object, delete markers included."""
    for bucket in buckets:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                about = {} if one["VersionId"] == "null" else {"VersionId": one["VersionId"]}
                s3.delete_object(Bucket=bucket, Key=one["Key"], **about)


def at_once(number: int, work: Any) -> list[Any]:
    """Return the results of `work(0)` … `work(number - 1)`, started in threads at the same moment."""
    gate, results = threading.Barrier(number), [None] * number

    def run(index: int) -> None:
        gate.wait()
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
