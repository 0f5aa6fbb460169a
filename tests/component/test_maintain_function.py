"""The maintain function as deployed: its handler, over S3 and SQS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from imageserver.aws import events, queues
from imageserver.errors import StorageUnavailable, TasksFailed
from imageserver.format.keys import parse_product, parse_version
from tests.support import images
from tests.support.edge_logs import line, log
from tests.support.handlers import Context, imported, sqs_batch
from tests.support.memory_store import System

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

LAID_OUT = ["index.html", "api.html", "openapi.json", "streams/v1/index.json"]
PRODUCT = "images/ubuntu/noble/amd64/default"


@pytest.fixture
def queue_url(sqs: SQSClient, bucket: str) -> str:
    return sqs.create_queue(QueueName=f"arrivals-{bucket}")["QueueUrl"]


@pytest.fixture
def changes_url(sqs: SQSClient, bucket: str) -> str:
    return sqs.create_queue(QueueName=f"changes-{bucket}")["QueueUrl"]


@pytest.fixture
def environment(moto_endpoint: str, bucket: str, queue_url: str, changes_url: str) -> dict[str, str]:
    """Return the function's environment in the template."""
    return {
        "BUCKET": bucket,
        "AWS_ENDPOINT_URL": moto_endpoint,
        "ARRIVALS_QUEUE_URL": queue_url,
        "CHANGES_QUEUE_URL": changes_url,
        "RETAIN_VERSIONS": "1",
        "POWERTOOLS_SERVICE_NAME": "maintain",
    }


@pytest.fixture
def app(environment: dict[str, str]) -> Iterator[ModuleType]:
    """Yield imageserver.handlers.maintain, imported in its environment."""
    with imported("imageserver.handlers.maintain", environment) as module:
        yield module


def run(app: ModuleType, task: str, left_ms: int = 900_000, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = app.handler({"task": task, **more}, Context("maintain", left_ms))
    json.dumps(answer)  # Lambda must be able to send it
    return answer


def body(s3: S3Client, bucket: str, key: str) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_an_empty_bucket_gets_its_index_and_page_once(app: ModuleType, s3: S3Client, bucket: str) -> None:
    done = run(app, "all")
    assert [task["path"] for task in done["reconcile"]["tasks"]] == LAID_OUT
    assert body(s3, bucket, "streams/v1/index.json") == b'{"format":"index:1.0","index":{}}'
    page = s3.get_object(Bucket=bucket, Key="index.html")
    assert page["ContentType"] == "text/html; charset=utf-8"
    assert page["Body"].read().startswith(b"<!")
    assert run(app, "all")["reconcile"]["tasks"] == []


def test_a_dry_run_lists_its_changes_and_makes_none(app: ModuleType, s3: S3Client, bucket: str) -> None:
    done = run(app, "all", dry_run=True)
    assert [task["path"] for task in done["reconcile"]["tasks"]] == LAID_OUT
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_truncated_answer_states_how_much_it_omits(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(app, "reconcile", dry_run=True)["reconcile"]
    assert (whole["tasks_shown"], whole["tasks_total"]) == (len(LAID_OUT), len(LAID_OUT))
    monkeypatch.setattr(app, "MOST_SHOWN", 2)
    caplog.clear()
    cut = run(app, "reconcile", dry_run=True)["reconcile"]
    assert [task["path"] for task in cut["tasks"]] == LAID_OUT[:2]
    assert (cut["tasks_shown"], cut["tasks_total"]) == (2, len(LAID_OUT))
    assert [
        vars(line)["path"] for line in caplog.records if "path" in vars(line)
    ] == LAID_OUT  # the log leaves nothing out


def test_uploads_without_an_event_are_sent_to_the_arrivals_queue(
    app: ModuleType,
    s3: S3Client,
    sqs: SQSClient,
    bucket: str,
    queue_url: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, content in images.split_image().items():
        s3.put_object(Bucket=bucket, Key=f"{PRODUCT}/20261101/{name}", Body=content)
    run(app, "reconcile")
    (message,) = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    assert events.keys(message["Body"]) == [f"{PRODUCT}/20261101/"]
    (logged,) = [vars(record) for record in caplog.records if record.getMessage() == "look again"]
    assert (logged["path"], logged["why"]) == (f"{PRODUCT}/20261101", "it has no record")
    assert (logged["stream"], logged["product"], logged["version"]) == (
        "images",
        "ubuntu:noble:amd64:default",
        "20261101",
    )
    assert (logged["outcome"], logged["bytes"]) == ("done", sum(map(len, images.split_image().values())))
    assert 0 < logged["seconds"] < 60
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["MaintainTasks"] for line in lines if "MaintainTasks" in line] == [[len(LAID_OUT) + 1]]


def test_a_run_out_of_time_stops_and_the_next_one_resumes(
    app: ModuleType, s3: S3Client, sqs: SQSClient, bucket: str, queue_url: str
) -> None:
    s3.put_object(Bucket=bucket, Key=f"{PRODUCT}/20261101/x", Body=b"x")
    stopped = run(app, "reconcile", left_ms=1000)
    assert not stopped["reconcile"]["ended"]
    assert "Messages" not in sqs.receive_message(QueueUrl=queue_url)
    assert run(app, "reconcile")["reconcile"]["ended"]
    assert len(sqs.receive_message(QueueUrl=queue_url)["Messages"]) == 1


def test_retention_of_the_template_is_applied(app: ModuleType, s3: S3Client, bucket: str) -> None:
    system = System()
    for day in ("20261101", "20261102"):
        system.upload(f"{PRODUCT}/{day}", images.split_image(seed=day))
    system.catch_up()
    for key, stored in system.store.objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=stored.body)
    done = run(app, "prune")
    assert [(task["what"], task["path"]) for task in done["prune"]["tasks"]] == [("withdraw", f"{PRODUCT}/20261101")]
    record = json.loads(body(s3, bucket, f"versions/{PRODUCT}/20261101.json"))
    assert record["state"] == "withdrawn"
    assert "1 newer version is there, and 1 is kept" in record["withdrawn"]["reason"]


@pytest.fixture
def asking(environment: dict[str, str], bucket: str, s3: S3Client) -> Iterator[ModuleType]:
    """Yield the handler of a stack whose retention reads the access logs."""
    s3.create_bucket(Bucket=f"logs-{bucket}", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    environment |= {"KEEP_FETCHED_WITHIN_DAYS": "30", "LOGS_BUCKET": f"logs-{bucket}"}
    with imported("imageserver.handlers.maintain", environment) as module:
        yield module


def test_retention_keeps_versions_that_the_access_logs_show_as_fetched(
    asking: ModuleType, s3: S3Client, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    system = System()
    for day in ("20261101", "20261102", "20261103"):
        system.upload(f"{PRODUCT}/{day}", images.split_image(seed=day))
    system.catch_up()
    for key, stored in system.store.objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=stored.body)
    assert run(asking, "prune")["prune"]["tasks"] == []  # unknown without logs
    now = datetime.now(UTC)
    for ago in (timedelta(days=40), timedelta(hours=1)):
        key = f"edge/E1.{now - ago:%Y-%m-%d-%H}.0a.gz"
        s3.put_object(Bucket=f"logs-{bucket}", Key=key, Body=log([line(cs_uri_stem=f"/{PRODUCT}/20261101/disk.qcow2")]))
    done = run(asking, "prune")
    assert [(task["what"], task["path"]) for task in done["prune"]["tasks"]] == [("withdraw", f"{PRODUCT}/20261102")]
    logged = [vars(record) for record in caplog.records if record.getMessage() == "keep"]
    assert [(one["path"][-8:], one["outcome"]) for one in logged] == [
        ("20261101", "kept"), ("20261102", "kept"), ("20261101", "kept"),
    ]  # fmt: skip
    assert "there are no access logs below edge/" in logged[0]["why"]
    assert "it was last fetched at 2026-11-27T10:11:12Z" in logged[-1]["why"]


def test_a_run_with_a_failure_finishes_the_rest_and_fails_with_its_name(
    app: ModuleType,
    s3: S3Client,
    sqs: SQSClient,
    bucket: str,
    queue_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in (f"{PRODUCT}/20261101", "images/ubuntu/plucky/amd64/default/20261101"):
        s3.put_object(Bucket=bucket, Key=f"{path}/x", Body=b"x")
    send = queues.send

    def failing(client: SQSClient, url: str, message: str) -> None:
        if "noble" in message:
            raise StorageUnavailable("the queue took no message")
        send(client, url, message)

    monkeypatch.setattr(queues, "send", failing)
    with pytest.raises(TasksFailed, match=f"^1 failed, the rest was done: look again {PRODUCT}/20261101: the queue"):
        run(app, "reconcile")
    (message,) = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    assert events.keys(message["Body"]) == ["images/ubuntu/plucky/amd64/default/20261101/"]
    (logged,) = [vars(record) for record in caplog.records if record.getMessage() == "failed"]
    assert (logged["levelname"], logged["task"], logged["path"]) == ("ERROR", "reconcile", f"{PRODUCT}/20261101")
    assert (logged["product"], logged["error"]) == ("ubuntu:noble:amd64:default", "StorageUnavailable")
    assert json.loads(body(s3, bucket, "maintain/reconcile.json")) == {"after": ""}, "it came to its end"
    planned = run(app, "reconcile", dry_run=True)["reconcile"]
    assert (planned["failed"], planned["tasks_total"]) == ([], 2)


def test_a_queue_that_rejects_a_message_raises_an_error_of_the_server(app: ModuleType) -> None:
    notifier = queues.QueueNotifier(app.sqs_client(), "http://127.0.0.1:9/none", "http://127.0.0.1:9/none")
    with pytest.raises(StorageUnavailable, match=r"the queue http://127\.0\.0\.1:9/none took no message"):
        notifier.version_changed(parse_version(f"{PRODUCT}/20261101"))
    with pytest.raises(StorageUnavailable, match=r"the queue http://127\.0\.0\.1:9/none took no message"):
        notifier.product_changed(parse_product(PRODUCT))


@pytest.mark.parametrize("has_records", [True, False])
def test_a_product_that_differs_from_its_records_is_published_by_a_message(
    app: ModuleType,
    s3: S3Client,
    sqs: SQSClient,
    bucket: str,
    moto_endpoint: str,
    changes_url: str,
    has_records: bool,
) -> None:
    """This includes a product that is listed without any record: the message needs none."""
    system = System()
    system.upload(f"{PRODUCT}/20261101", images.split_image())
    system.catch_up()
    good = system.streams()
    lost = ("streams/v1/images.json",) if has_records else ("versions/", "images/")
    for key, stored in system.store.objects.items():
        if not key.startswith(lost):
            s3.put_object(Bucket=bucket, Key=key, Body=stored.body)
    run(app, "reconcile")
    (message,) = sqs.receive_message(QueueUrl=changes_url)["Messages"]
    assert json.loads(message["Body"]) == {"changed": f"versions/{PRODUCT}/"}
    generations = s3.list_object_versions(Bucket=bucket, Prefix="versions/").get("Versions", [])
    assert [one["Key"] for one in generations] == [f"versions/{PRODUCT}/20261101.json"] * has_records
    environment = {"BUCKET": bucket, "AWS_ENDPOINT_URL": moto_endpoint, "POWERTOOLS_SERVICE_NAME": "publish"}
    with imported("imageserver.handlers.publish", environment) as publish:
        assert publish.handler(sqs_batch(message["Body"]), Context("publish")) == {"batchItemFailures": []}
    if has_records:
        assert body(s3, bucket, "streams/v1/images.json") == good["streams/v1/images.json"]
    else:
        assert json.loads(body(s3, bucket, "streams/v1/images.json"))["products"] == {}
    planned = run(app, "reconcile", dry_run=True)["reconcile"]["tasks"]
    assert [task["path"] for task in planned if task["path"] == PRODUCT] == []


def test_an_unknown_task_is_refused(app: ModuleType) -> None:
    with pytest.raises(ValueError, match="expected one of reconcile, prune, all"):
        run(app, "tidy")
