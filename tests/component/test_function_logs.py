"""What an operator can see: one log line for each version that a function ingests, and metrics."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from imageserver.aws import events
from imageserver.errors import InvalidationRefused, StorageUnavailable
from imageserver.format.keys import VersionId
from imageserver.format.signed_paths import signed_path
from imageserver.inspection import qcow2
from imageserver.views.view import encode_view, view_key
from tests.support import images
from tests.support.handlers import Context, imported, sqs_event
from tests.support.views import view

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

PRODUCT = "images/ubuntu/noble/amd64/default"
GOOD, BAD = f"{PRODUCT}/20261122_10:00", f"{PRODUCT}/20261123_10:00"
NAMED = {"stream": "images", "product": "ubuntu:noble:amd64:default"}
FIELDS = {"stream", "product", "version", "outcome", "bytes", "seconds"}


@dataclass
class LogOutput:
    """The log of a run, and its metrics: name -> values, and refusals by reason."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)

    def about(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("message") == message]


class Functions:
    """digest and publish over one bucket."""

    def __init__(self, bucket: str, s3: S3Client, capsys: pytest.CaptureFixture[str], endpoint: str) -> None:
        self._bucket, self._s3, self._capsys, self._endpoint = bucket, s3, capsys, endpoint

    def upload(self, path: str, files: dict[str, bytes]) -> None:
        for name, body in files.items():
            self._s3.put_object(Bucket=self._bucket, Key=f"{path}/{name}", Body=body)

    def put(self, key: str, body: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)

    def remove(self, path: str) -> None:
        for info in self._s3.list_objects_v2(Bucket=self._bucket, Prefix=f"{path}/")["Contents"]:
            self._s3.delete_object(Bucket=self._bucket, Key=info["Key"])

    def digest(self, *paths: str) -> LogOutput:
        return self._run("imageserver.handlers.digest", self.arrivals(*paths))

    def publish(self, *paths: str) -> LogOutput:
        return self._run("imageserver.handlers.publish", self.changes(*paths))

    def changes(self, *paths: str) -> dict[str, Any]:
        return sqs_event(self._bucket, *(f"versions/{path}.json" for path in paths))

    def arrivals(self, *paths: str) -> dict[str, Any]:
        return sqs_event(self._bucket, *(f"{path}/x" for path in paths))

    def loaded(self, module: str, **more: str) -> AbstractContextManager[ModuleType]:
        environment = {"BUCKET": self._bucket, "AWS_ENDPOINT_URL": self._endpoint, "POWERTOOLS_SERVICE_NAME": "images"}
        return imported(module, environment | more)

    def _run(self, module: str, event: dict[str, Any]) -> LogOutput:
        self._capsys.readouterr()
        with self.loaded(module) as app:
            app.metrics.clear_metrics()  # shared in a process, where a simulation may have killed a run before
            answer = app.handler(event, Context())
        assert answer == {"batchItemFailures": []}
        return parsed_log(self._capsys.readouterr().out)


def parsed_log(output: str) -> LogOutput:
    found = LogOutput()
    for line in map(json.loads, output.splitlines()):
        if "_aws" not in line:
            found.lines.append(line)
            continue
        for name in (m["Name"] for directive in line["_aws"]["CloudWatchMetrics"] for m in directive["Metrics"]):
            if name == "Refusals":
                found.refusals[line["reason"]] += int(sum(line[name]))
            found.metrics.setdefault(name, []).extend(line[name])
    return found


@pytest.fixture
def functions(moto_endpoint: str, bucket: str, s3: S3Client, capsys: pytest.CaptureFixture[str]) -> Functions:
    return Functions(bucket, s3, capsys, moto_endpoint)


def test_digest_logs_the_cost_and_outcome_of_each_version(functions: Functions) -> None:
    files = images.split_image()
    functions.upload(GOOD, files)
    functions.upload(BAD, {"lxd.tar.xz": b"no tarball", "incus.tar.xz": b""})
    first = functions.digest(GOOD, BAD, GOOD)
    ingested = {line["version"]: line for line in first.about("ingested")}
    assert len(first.about("ingested")) == len(ingested) == 2
    assert all(line.keys() >= FIELDS and line.items() >= NAMED.items() for line in ingested.values())
    good, bad = ingested["20261122_10:00"], ingested["20261123_10:00"]
    assert (good["outcome"], good["state"], good["bytes"]) == ("recorded", "complete", sum(map(len, files.values())))
    assert (bad["outcome"], bad["state"]) == ("recorded", "invalid")
    assert 0 < good["seconds"] < 60
    assert sum(first.metrics["BytesHashed"]) == good["bytes"] + bad["bytes"]
    assert first.refusals == {"damaged": 1, "empty": 1}
    again = functions.digest(BAD)
    assert [line["outcome"] for line in again.about("ingested")] == ["unchanged"]
    assert again.refusals == {}, "a refusal is counted when it is found, not whenever it is seen"


def test_digest_counts_keys_that_cannot_belong_to_a_version(functions: Functions) -> None:
    log = functions.digest("images/ubuntu/noble/amd65/default/20261123_10:00")
    assert "no client knows the architecture 'amd65'" in log.about("refused")[0]["reason"]
    assert log.refusals == {"path": 1}


def test_publish_logs_when_a_version_becomes_visible_and_when_it_is_delisted(functions: Functions) -> None:
    files = images.split_image()
    functions.upload(GOOD, files)
    functions.digest(GOOD)
    first = functions.publish(GOOD)
    (line,) = first.about("listed")
    assert line.items() >= {**NAMED, "version": "20261122_10:00", "outcome": "listed"}.items()
    assert line["bytes"] == sum(map(len, files.values()))
    assert first.metrics["UploadToListedSeconds"] == [line["seconds_since_upload"]]
    assert 0 <= line["seconds_since_upload"] < 60
    assert 0 < line["seconds"] < 60
    assert first.metrics["CatalogBytes"][0] > 500
    assert first.metrics["LostRaces"] == [0]
    assert functions.publish(GOOD).about("listed") == []
    functions.remove(GOOD)
    functions.digest(GOOD)
    (gone,) = functions.publish(GOOD).about("delisted")
    about = {"version": "20261122_10:00", "outcome": "delisted", "bytes": sum(map(len, files.values()))}
    assert gone.items() >= {**NAMED, **about}.items()
    assert 0 < gone["seconds"] < 60


def test_only_messages_of_products_with_a_failed_invalidation_stay_in_the_queue(
    functions: Functions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "images/ubuntu/plucky/amd64/default/20261122_10:00"
    functions.upload(GOOD, images.split_image())
    functions.digest(GOOD)
    functions.publish(GOOD)
    functions.upload(GOOD, {"rootfs.squashfs": images.squashfs("other")})
    functions.upload(other, images.split_image(seed="other"))
    functions.digest(GOOD, other)

    def refuse(*_: object) -> None:
        raise InvalidationRefused("InvalidArgument")

    with functions.loaded("imageserver.handlers.publish", DISTRIBUTION_ID="E1") as app:
        monkeypatch.setattr(app.cloudfront, "invalidate", refuse)
        capsys.readouterr()
        answer = app.handler(functions.changes(other, GOOD), Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "1"}]}
    log = parsed_log(capsys.readouterr().out)
    assert [line["product"] for line in log.about("listed")] == ["ubuntu:plucky:amd64:default"]
    (left,) = log.about("left in the queue")
    assert left.items() >= {**NAMED, "level": "ERROR", "error": "InvalidationRefused"}.items()


def test_a_file_of_a_view_is_invalidated_at_its_signed_path_too(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable, asked = view("stable", ("images",)), []
    functions.put(view_key("stable"), encode_view(stable))
    functions.upload(GOOD, images.split_image())
    functions.digest(GOOD)
    with functions.loaded("imageserver.handlers.publish", DISTRIBUTION_ID="E1", VIEWS="true") as app:
        monkeypatch.setattr(app, "cloudfront_client", lambda: None)
        monkeypatch.setattr(app.cloudfront, "invalidate", lambda _client, _id, keys, *_: asked.extend(keys))
        app.handler(functions.changes(GOOD), Context())
        functions.upload(GOOD, {"rootfs.squashfs": images.squashfs("other")})
        functions.digest(GOOD)
        app.handler(functions.changes(GOOD), Context())
    key = f"{GOOD}/rootfs.squashfs"
    assert asked == [key, f"stable/{signed_path('stable', stable.secret_bytes, key)}"]


def test_a_run_that_is_out_of_time_leaves_its_messages_to_the_next(
    functions: Functions, sqs: SQSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = sqs.create_queue(QueueName="arrivals-of-digest")["QueueUrl"]
    for path in (GOOD, BAD):
        functions.upload(path, images.split_image(seed=path))
    with functions.loaded("imageserver.handlers.digest", QUEUE_URL=queue) as app:
        monkeypatch.setattr(app, "SLOWEST_BYTES_PER_S", 1)
        left = iter([900_000, 900_000, 100_000])  # at the start, for the first version, for the second
        context = Context()
        monkeypatch.setattr(context, "get_remaining_time_in_millis", lambda: next(left))
        answer = app.handler(functions.arrivals(GOOD, BAD, BAD), context)
    assert answer == {"batchItemFailures": []}
    bodies = [m["Body"] for m in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]]
    assert [events.keys(body) for body in bodies] == [[f"{BAD}/"]], "one message for the two that it had"


def test_a_failing_version_is_tried_once_per_batch(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def ingest(version: VersionId, _: object) -> None:
        tried.append(version.path)
        raise StorageUnavailable("503")

    with functions.loaded("imageserver.handlers.digest") as app:
        monkeypatch.setattr(app, "ingest", ingest)
        answer = app.handler(functions.arrivals(GOOD, BAD, GOOD), Context())
    assert (len(answer["batchItemFailures"]), tried) == (3, [GOOD, BAD])


def test_a_parser_that_raises_is_logged_with_its_version_and_the_other_files_are_listed(
    functions: Functions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    functions.upload(GOOD, {**images.split_image(), "disk.qcow2": images.qcow2()})

    def fail(*_: object) -> None:
        raise IndexError("list index out of range")

    with functions.loaded("imageserver.handlers.digest") as app:
        monkeypatch.setattr(qcow2, "checked", fail)
        answer = app.handler(functions.arrivals(GOOD), Context())
    assert answer == {"batchItemFailures": []}
    log = parsed_log(capsys.readouterr().out)
    (line,) = log.about("refused what no parser could read")
    assert line.items() >= {**NAMED, "version": "20261122_10:00", "level": "ERROR", "error": "IndexError"}.items()
    assert "IndexError: list index out of range" in line["exception"]
    (ingested,) = log.about("ingested")
    assert (ingested["state"], log.refusals) == ("complete", {"damaged": 1})
    assert any("disk.qcow2 cannot be read as what its name says" in reason for reason in ingested["reasons"])
    assert [line["version"] for line in functions.publish(GOOD).about("listed")] == ["20261122_10:00"]


def test_log_lines_carry_the_timestamp_that_lambda_reads(functions: Functions) -> None:
    functions.upload(GOOD, images.split_image())
    (line,) = functions.digest(GOOD).about("ingested")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo
    assert "T" in line["timestamp"]
