"""The redact function as deployed, over a bucket in memory: S3's message in, a log without tokens out."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.edge_logs import ROOT, line, log
from tests.support.handlers import Context, imported, sqs_batch
from tests.support.memory_store import MemoryStore

KEY = "edge/E1.2026-11-28-01.0a1b2c3d.gz"
TOKEN = f"sst_{'x' * 32}"


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.put(KEY, log([line(cs_uri_stem=f"/{TOKEN}/{ROOT}")]))
    return made


@pytest.fixture
def redact(store: MemoryStore) -> Iterator[Any]:
    environment = {"BUCKET": "b", "LOGS_BUCKET": "logs", "POWERTOOLS_SERVICE_NAME": "redact"}
    with imported("imageserver.handlers.redact", environment) as module:
        app: Any = module
        app.store = store
        yield app


def run(app: Any, *bodies: str) -> list[str]:
    """Call the function, with its log in this test's output; return the messages that stay in the queue."""
    for handler in app.logger._logger.handlers:
        handler.stream = sys.stdout
    failed = app.handler(sqs_batch(*bodies), Context())["batchItemFailures"]
    return [entry["itemIdentifier"] for entry in failed]


def message(store: MemoryStore, key: str = KEY) -> str:
    """Return S3's message about an upload, where its ETag has no quotes."""
    (found,) = store.list(key)
    one = {"key": key.replace(" ", "+"), "eTag": found.etag.strip('"')}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": one}}]})


def test_a_new_log_is_redacted_and_no_line_shows_a_token(
    redact: Any, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(redact, message(store)) == []
    assert TOKEN not in gzip.decompress(store.objects[KEY].body).decode()
    out = capsys.readouterr().out
    assert TOKEN not in out
    assert json.loads(out.splitlines()[0])["key"] == KEY


def test_an_unreadable_log_stays_in_the_queue_and_its_neighbour_is_redacted(
    redact: Any, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = "edge/E1.2026-11-28-02.9f.gz"
    store.put(damaged, b"no gzip")
    test_event = json.dumps({"Event": "s3:TestEvent"})
    deep = "[" * 100_000
    assert run(redact, message(store, damaged), "{}", message(store), test_event, deep) == ["0", "1", "4"]
    assert TOKEN not in gzip.decompress(store.objects[KEY].body).decode()
    assert "it may hold tokens" in capsys.readouterr().out.lower()
