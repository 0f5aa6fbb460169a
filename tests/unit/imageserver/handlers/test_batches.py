"""Which messages the deployed handlers of digest and publish acknowledge, over a bucket in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest

from imageserver.catalog import fold
from imageserver.catalog.candidates import Candidate, candidate
from imageserver.errors import CatalogDamaged, StorageDenied, StorageUnavailable
from imageserver.format.keys import ProductId, parse_version, version_of
from imageserver.handlers import batches
from imageserver.inspection import qcow2
from imageserver.operations.publish import Published, PublishServices, Subject
from imageserver.versions.records import Record
from tests.support import images
from tests.support.handlers import Context, imported, sqs_batch
from tests.support.memory_store import System
from tests.support.messages import s3_event
from tests.support.sqs import QUEUE_URL, MemoryQueue

NOBLE = "images/ubuntu/noble/amd64/default/20261123_10:00"
PLUCKY = "images/ubuntu/plucky/amd64/default/20261123_10:00"
DAILY = "images-daily/ubuntu/noble/amd64/default/20261123_10:00"
UNREADABLE = '{"neither": "an event of S3", "nor": "ours"}'


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> MemoryQueue:
    queue = MemoryQueue()
    monkeypatch.setattr(batches, "sqs_client", lambda: queue)
    return queue


@pytest.fixture
def system() -> System:
    system = System()
    for path in (NOBLE, PLUCKY, DAILY):
        system.upload(path, images.split_image(seed=path))
    return system


@pytest.fixture
def digest(system: System, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield from _over(system, "digest", monkeypatch)


@pytest.fixture
def publish(system: System, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for version in system.versions():
        system.ingest(version.path)
    for app in _over(system, "publish", monkeypatch):
        monkeypatch.setattr(app, "sqs_client", lambda: queue)
        yield app


def _over(system: System, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with imported(f"imageserver.handlers.{name}", {"BUCKET": "images", "QUEUE_URL": QUEUE_URL}) as app:
        monkeypatch.setattr(app, "store", system.store)
        yield app


def left(app: ModuleType, event: dict[str, Any]) -> list[str]:
    """Call the handler; return the ids of the messages that stay in the queue."""
    answer = app.handler(event, Context())
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def arrivals(*paths: str) -> dict[str, Any]:
    return sqs_batch(*(s3_event(f"{path}/lxd.tar.xz") for path in paths))


def changes(*paths: str) -> dict[str, Any]:
    return sqs_batch(*(s3_event(f"versions/{path}.json") for path in paths))


def break_store(system: System, part: str, error: Exception) -> None:
    """Fail each call of storage whose key contains this text."""

    def fail(_method: str, key: str) -> None:
        if part in key:
            raise error

    system.store.on = fail


@pytest.mark.parametrize("error", [StorageUnavailable("503"), StorageDenied("403")])
def test_digest_leaves_the_messages_of_a_version_that_failed_and_acknowledges_the_others(
    digest: ModuleType, system: System, queue: MemoryQueue, error: Exception
) -> None:
    break_store(system, "ubuntu/noble", error)
    assert left(digest, arrivals(NOBLE, PLUCKY, NOBLE)) == ["0", "2"]
    assert [version.path for version in system.versions() if version.record_key in system.store.objects] == [PLUCKY]
    assert queue.rests == {"handle 0": 20, "handle 1": 60, "handle 2": 20}


def test_digest_leaves_a_version_whose_lease_another_worker_holds(
    digest: ModuleType, system: System, queue: MemoryQueue
) -> None:
    lease = {"seconds": 900, "token": "of another worker"}
    system.store.put(version_of(f"{NOBLE}/").lease_key, json.dumps(lease).encode())
    assert left(digest, arrivals(NOBLE, PLUCKY)) == ["0"]
    assert parse_version(NOBLE).record_key not in system.store.objects
    assert queue.rests == {"handle 0": 20, "handle 1": 60}


def test_digest_leaves_a_version_with_a_damaged_record(digest: ModuleType, system: System) -> None:
    system.store.put(parse_version(NOBLE).record_key, b"{")
    assert left(digest, arrivals(NOBLE, PLUCKY)) == ["0"]
    assert system.store.objects[parse_version(NOBLE).record_key].body == b"{"


def test_publish_keeps_the_messages_of_a_damaged_product_and_acknowledges_the_others(
    publish: ModuleType, system: System, queue: MemoryQueue
) -> None:
    system.store.put(parse_version(NOBLE).record_key, b"{")
    assert left(publish, changes(PLUCKY, NOBLE, DAILY)) == ["1"]
    assert set(system.listed()) == {"ubuntu:plucky:amd64:default"}
    assert set(system.listed("images-daily")) == {"ubuntu:noble:amd64:default"}
    assert queue.rests == {"handle 0": 60, "handle 1": 20, "handle 2": 60}


@pytest.mark.parametrize("error", [StorageUnavailable("503"), StorageDenied("403"), CatalogDamaged("no catalog")])
def test_publish_leaves_all_messages_of_a_stream_that_failed_and_acknowledges_other_streams(
    publish: ModuleType, system: System, error: Exception
) -> None:
    break_store(system, "streams/v1/images.json", error)
    assert left(publish, changes(PLUCKY, DAILY, NOBLE)) == ["0", "2"]
    assert system.listed() == {}
    assert set(system.listed("images-daily")) == {"ubuntu:noble:amd64:default"}


@pytest.mark.parametrize("unreadable", [UNREADABLE, "[" * 100_000], ids=["stranger", "nested"])
@pytest.mark.parametrize("name", ["digest", "publish"])
def test_an_unreadable_message_stays_for_the_dead_letter_queue_and_its_neighbours_are_handled(
    name: str, unreadable: str, request: pytest.FixtureRequest
) -> None:
    app: ModuleType = request.getfixturevalue(name)
    good = changes(NOBLE) if name == "publish" else arrivals(NOBLE)
    body = good["Records"][0]["body"]
    assert left(app, sqs_batch(unreadable, body)) == ["0"]


@pytest.mark.parametrize("name", ["digest", "publish"])
def test_a_key_that_no_version_can_have_is_acknowledged(name: str, request: pytest.FixtureRequest) -> None:
    app: ModuleType = request.getfixturevalue(name)
    assert left(app, sqs_batch(s3_event("images/ubuntu/x"), s3_event("versions/images/x.json"))) == []


def test_a_message_is_hidden_longer_after_each_attempt(digest: ModuleType, system: System, queue: MemoryQueue) -> None:
    break_store(system, "ubuntu", StorageUnavailable("503"))
    event = arrivals(NOBLE, PLUCKY)
    event["Records"][1]["attributes"]["ApproximateReceiveCount"] = "3"
    assert left(digest, event) == ["0", "1"]
    assert queue.rests == {"handle 0": 20, "handle 1": 320}


def test_an_acknowledged_message_is_hidden_only_while_it_is_handled(digest: ModuleType, queue: MemoryQueue) -> None:
    assert left(digest, arrivals(NOBLE, PLUCKY)) == []
    assert queue.rests == {"handle 0": 60, "handle 1": 60}, "hidden while it is handled, and no longer"


def test_handled_messages_are_deleted_before_the_next_version_starts(
    digest: ModuleType, system: System, queue: MemoryQueue
) -> None:
    break_store(system, "ubuntu/plucky", StorageUnavailable("503"))
    assert left(digest, arrivals(NOBLE, NOBLE, PLUCKY, DAILY)) == ["2"]
    assert queue.deleted == ["handle 0", "handle 1"], "a batch about one version makes no call, the last makes none"


def test_a_message_that_was_received_before_is_handled_last(
    digest: ModuleType, system: System, queue: MemoryQueue
) -> None:
    event = arrivals(NOBLE, PLUCKY, DAILY, NOBLE)
    event["Records"][3]["attributes"]["ApproximateReceiveCount"] = "2"
    event["Records"][1]["attributes"]["ApproximateReceiveCount"] = "3"
    assert left(digest, event) == []
    order = [key for method, key in system.store.log if method == "create" and key.startswith("versions/")]
    assert order == [f"versions/{path}.json" for path in (DAILY, NOBLE, PLUCKY)]


def test_publish_handles_an_often_received_message_alone_after_all_others(
    publish: ModuleType, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[list[str]] = []
    operation = publish.publish

    def remember(stream: str, subjects: Sequence[Subject], services: PublishServices) -> Published:
        published.append(sorted(subject.path for subject in subjects))
        done: Published = operation(stream, subjects, services)
        return done

    monkeypatch.setattr(publish, "publish", remember)
    again = NOBLE.replace("20261123", "20261124")
    event = changes(NOBLE, PLUCKY, DAILY, again)
    for number, tries in enumerate("4315"):
        event["Records"][number]["attributes"]["ApproximateReceiveCount"] = tries
    assert left(publish, event) == []
    assert published == [[PLUCKY], [DAILY], [NOBLE, again]], "versions of one product are one call"


def captured_log(app: ModuleType) -> io.StringIO:
    """Return what the handler logs from now on."""
    lines = io.StringIO()
    for handler in app.logger._logger.handlers:
        handler.stream = lines
    return lines


def logged(lines: io.StringIO, message: str) -> list[dict[str, Any]]:
    """Return the lines that were logged with this message."""
    return [line for line in map(json.loads, lines.getvalue().splitlines()) if line["message"] == message]


def test_digest_logs_an_unexpected_exception_once_with_its_version_and_handles_the_others(
    digest: ModuleType, system: System, queue: MemoryQueue
) -> None:
    break_store(system, "ubuntu/noble", IndexError("list index out of range"))
    log = captured_log(digest)
    assert left(digest, arrivals(NOBLE, PLUCKY, NOBLE)) == ["0", "2"]
    (line,) = logged(log, "failed unexpectedly")
    named = {"stream": "images", "product": "ubuntu:noble:amd64:default", "version": "20261123_10:00"}
    assert line.items() >= {**named, "level": "ERROR", "error": "IndexError"}.items()
    assert "IndexError: list index out of range" in line["exception"], "a traceback tells where"
    assert parse_version(PLUCKY).record_key in system.store.objects
    assert queue.rests == {"handle 0": 20, "handle 1": 60, "handle 2": 20}


def test_digest_refuses_a_file_that_crashes_its_parser_alerts_the_operator_and_acknowledges(
    digest: ModuleType, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(qcow2, "checked", fail)
    system.upload(NOBLE, {"disk.qcow2": images.qcow2()})
    log = captured_log(digest)
    assert left(digest, arrivals(NOBLE, PLUCKY)) == []
    (line,) = logged(log, "refused what no parser could read")
    assert line.items() >= {"level": "ERROR", "version": "20261123_10:00", "key": f"{NOBLE}/disk.qcow2"}.items()
    assert "IndexError" in line["exception"]
    system.catch_up()
    assert "ubuntu:noble:amd64:default" in system.listed(), "its container is listed"


def test_a_message_about_several_keys_is_handled_to_its_end_although_one_fails(
    digest: ModuleType, system: System
) -> None:
    break_store(system, "ubuntu/noble", IndexError("list index out of range"))
    bodies = [json.loads(s3_event(f"{path}/lxd.tar.xz"))["Records"] for path in (NOBLE, PLUCKY)]
    assert left(digest, sqs_batch(json.dumps({"Records": [*bodies[0], *bodies[1]]}))) == ["0"]
    assert parse_version(PLUCKY).record_key in system.store.objects


def test_publish_leaves_only_the_product_that_raises_an_unexpected_error(
    publish: ModuleType, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [f"images/os{number}/1/amd64/default/20261123_10:00" for number in range(6)]
    for path in others:
        system.upload(path, images.split_image(seed=path))
        system.ingest(path)

    def fail_for_noble(product: ProductId, versions: Sequence[Record], clients: Sequence[str]) -> Candidate:
        if product.release == "noble":
            raise KeyError("combined")
        return candidate(product, versions, clients)

    monkeypatch.setattr(fold, "candidate", fail_for_noble)
    log = captured_log(publish)
    assert left(publish, changes(*others[:3], NOBLE, PLUCKY, *others[3:])) == ["3"]
    assert set(system.listed()) == {"ubuntu:plucky:amd64:default", *(f"os{n}:1:amd64:default" for n in range(6))}
    (line,) = logged(log, "failed unexpectedly")
    assert line.items() >= {"product": "ubuntu:noble:amd64:default", "error": "KeyError"}.items()
    assert "fail_for_noble" in line["exception"]
