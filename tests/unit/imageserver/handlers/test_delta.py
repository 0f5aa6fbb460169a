"""The delta function, and publish, which asks for deltas: both as deployed, over a bucket in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from imageserver.aws import events
from imageserver.format import documents
from imageserver.format.keys import parse_product
from imageserver.programs.xdelta3 import Xdelta3
from tests.support import images, trees
from tests.support.handlers import Context, imported, sqs_batch
from tests.support.memory_store import START, System

PRODUCT = parse_product("images/alpine/3.22/amd64/default")
OLD, NEW = "20261121_1000", "20261122_1000"
QUEUE = "https://sqs.example.org/deltas"
CHANGED = events.changed(PRODUCT.records_prefix)


@dataclass
class Queue:
    """Accepts messages, or refuses all."""

    sent: list[tuple[str, str]] = field(default_factory=list)
    refuses: bool = False
    kills: bool = False

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:
        if self.kills:
            raise Killed
        if self.refuses:
            return {"Failed": [{"Id": entry["Id"], "Code": "Busy"} for entry in Entries]}
        self.sent += [(QueueUrl, entry["MessageBody"]) for entry in Entries]
        return {}

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> None:
        self.sent.append((QueueUrl, MessageBody))


class Killed(BaseException):
    """The process ends here. Nothing catches it."""


def upload(system: System, version: str, root: bytes) -> None:
    files = {"lxd.tar.xz": images.metadata_tarball(), "rootfs.squashfs": root}
    system.upload(f"{PRODUCT.path}/{version}", files)


@pytest.fixture(name="system")
def two_versions(tmp_path: Path) -> System:
    """Return a system with two versions of real roots, ingested and not yet published."""
    system = System()
    for version, root in zip((OLD, NEW), trees.pair(tmp_path), strict=True):
        upload(system, version, root)
    for one in system.versions():
        system.ingest(one.path)
    return system


def function(name: str, system: System, **settings: str) -> Iterator[Any]:
    environment = {"BUCKET": "b", "POWERTOOLS_SERVICE_NAME": name, "AWS_DEFAULT_REGION": "eu-central-1", **settings}
    with imported(f"imageserver.handlers.{name}", environment) as module:
        app: Any = module  # so that its variables can be set
        app.store = system.store
        yield app


@pytest.fixture
def delta(system: System) -> Iterator[ModuleType]:
    yield from function("delta", system, DELTAS="1")


def run(app: ModuleType, event: dict[str, Any], context: Context) -> Any:
    """Call a function, with its log in this test's output."""
    for handler in app.logger._logger.handlers:
        handler.stream = sys.stdout
    app.metrics.clear_metrics()
    return app.handler(event, context)


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@trees.needs_real_pairs
def test_a_product_gets_its_delta_and_log_and_metrics_show_it(
    delta: ModuleType, system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    system.publish(PRODUCT)
    assert run(delta, sqs_batch(CHANGED), Context()) == {"batchItemFailures": []}
    lines = logged(capsys)
    (line,) = (one for one in lines if one.get("message") == "delta made")
    stored = system.store.objects[f"{PRODUCT.path}/{NEW}/rootfs.{OLD}.vcdiff"].body
    assert (line["product"], line["version"], line["base"], line["bytes"]) == (PRODUCT.name, NEW, OLD, len(stored))
    (counts,) = (one for one in lines if "_aws" in one)
    assert (counts["DeltasMade"], counts["DeltasDropped"]) == ([1], [0])
    assert counts["DeltaBytesSaved"] == [line["saved_bytes"]]


@trees.needs_real_pairs
def test_a_dropped_delta_is_acknowledged_and_counted(
    delta: ModuleType, system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    system.publish(PRODUCT)
    assert run(delta, sqs_batch(CHANGED), Context(left_ms=60_000)) == {"batchItemFailures": []}
    lines = logged(capsys)
    (line,) = (one for one in lines if one.get("message") == "delta dropped")
    assert line["reason"].endswith("and a run has 0 s for them")
    (counts,) = (one for one in lines if "_aws" in one)
    assert (counts["DeltasMade"], counts["DeltasDropped"], counts["DeltaBytesSaved"]) == ([0], [1], [0])


@trees.needs_real_pairs
def test_without_xdelta3_the_log_names_the_remedy(
    delta: Any, system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    system.publish(PRODUCT)
    delta.encoder = None
    assert run(delta, sqs_batch(CHANGED), Context()) == {"batchItemFailures": []}
    (line,) = (one for one in logged(capsys) if one.get("level") == "WARNING")
    assert line["reason"].startswith("there is no xdelta3: apt install xdelta3 on your own machine; in AWS, sam build")
    assert not [key for key in system.store.objects if key.endswith(".vcdiff")]


@trees.needs_real_pairs
def test_a_program_that_cannot_be_started_leaves_the_message_in_the_queue(delta: Any, system: System) -> None:
    system.publish(PRODUCT)
    delta.encoder = Xdelta3("/nowhere/xdelta3")
    assert run(delta, sqs_batch(CHANGED), Context()) == {"batchItemFailures": [{"itemIdentifier": "0"}]}


@trees.needs_real_pairs
def test_an_unreadable_message_is_left_and_one_about_no_product_is_acknowledged(
    delta: ModuleType, system: System
) -> None:
    answer = run(delta, sqs_batch("nonsense", events.changed("versions/no/product/")), Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": "0"}]}


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture(params=[QUEUE, ""], ids=["deltas on", "deltas off"])
def publish(request: pytest.FixtureRequest, queue: Queue) -> Iterator[tuple[ModuleType, System, str]]:
    """Yield publish, a system that has a version to publish, and the queue of delta."""
    system = System()
    upload(system, OLD, images.squashfs("old"))
    system.ingest(f"{PRODUCT.path}/{OLD}")
    for app in function("publish", system, DELTAS_QUEUE_URL=request.param):
        app.sqs_client = lambda: queue
        yield app, system, request.param


def test_publish_asks_once_for_deltas_of_a_newly_listed_version(
    publish: tuple[ModuleType, System, str], queue: Queue
) -> None:
    app, system, url = publish
    for _ in range(2):
        assert run(app, sqs_batch(CHANGED), Context()) == {"batchItemFailures": []}
    assert system.listed() == {PRODUCT.name: [OLD]}
    assert queue.sent == ([(url, CHANGED)] if url else [])


def test_a_queue_that_refuses_messages_does_not_delay_listing(
    publish: tuple[ModuleType, System, str], queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    app, system, url = publish
    queue.refuses = True
    assert run(app, sqs_batch(CHANGED), Context()) == {"batchItemFailures": []}
    assert list(documents.versions_of(system.products_document(), PRODUCT.name)) == [OLD]
    warnings = [line["message"] for line in logged(capsys) if line.get("level") == "WARNING"]
    assert warnings == (["no deltas are asked for"] if url else [])


@trees.needs_real_pairs
def test_a_kill_between_listing_and_asking_costs_no_delta(system: System, delta: ModuleType) -> None:
    """The message comes back when nothing is left to list, so only reconcile can ask before the next version."""
    killing, calm = Queue(kills=True), Queue()
    for publish in function("publish", system, DELTAS_QUEUE_URL=QUEUE):
        publish.sqs_client = lambda: killing
        with pytest.raises(Killed):
            run(publish, sqs_batch(CHANGED), Context())
        publish.sqs_client = lambda: calm
        assert run(publish, sqs_batch(CHANGED), Context()) == {"batchItemFailures": []}
    assert system.listed() == {PRODUCT.name: [OLD, NEW]}
    assert calm.sent == []

    for maintain in function("maintain", system, DELTAS="1", DELTAS_QUEUE_URL=QUEUE):
        maintain.sqs_client = lambda: calm
        maintain.RECENT = datetime.now(UTC) - START
        run(maintain, {"task": "reconcile"}, Context())
        assert calm.sent == [(QUEUE, CHANGED)]
        assert run(delta, sqs_batch(CHANGED), Context()) == {"batchItemFailures": []}
        system.catch_up()
        assert f"rootfs.{OLD}.vcdiff" in [key.rpartition("/")[2] for key in system.store.objects]
        run(maintain, {"task": "reconcile"}, Context())
        assert calm.sent == [(QUEUE, CHANGED)], "what was made is not asked for again"
