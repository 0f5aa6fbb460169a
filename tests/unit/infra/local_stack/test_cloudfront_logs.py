"""The access logs of the local edge: as set in the template, a line for each request, without delaying it."""

from __future__ import annotations

import contextlib
import gzip
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from local_stack.cloudfront_logs import FIELDS, EdgeLogs, Logged
from local_stack.interpreter import read_wiring
from local_stack.stack import TEMPLATE
from local_stack.template import StackIdentity


class Bucket:
    """A stand-in for S3 that stores logs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self._error = error

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:
        assert Bucket == "logs"
        if self._error:
            raise self._error
        self.objects[Key] = Body

    def rows(self) -> list[dict[str, str]]:
        lines = [line for body in self.objects.values() for line in gzip.decompress(body).decode().splitlines()]
        return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in lines if not line.startswith("#")]


class Broken(Exception):
    """A fault of the application."""


async def answer(request: Request) -> Response:
    if request.url.path == "/broken":
        raise Broken
    return Response(b"0123456789", 206, {"Content-Range": "bytes 5-14/100"})


def asked(bucket: Bucket, *paths: str) -> list[int]:
    """Request each path in turn; return the statuses that the client gets."""
    logs = EdgeLogs(bucket, "logs", "edge/")
    logs.start()
    application = Logged(Starlette(routes=[Route("/{path:path}", answer)]), logs)
    codes: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])

    for raw in paths:
        path, _, query = raw.partition("?")
        scope: dict[str, Any] = {
            "type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "scheme": "https",
            "query_string": query.encode(), "http_version": "1.1", "server": ("localhost", 443), "client": ("::1", 9),
            "headers": [(b"user-agent", b"LXD 5.0.2 (Linux)\t"), (b"host", b"localhost")],
        }  # fmt: skip
        # In another thread: tests in a browser leave a running event loop in this one.
        with contextlib.suppress(Broken), ThreadPoolExecutor(1) as pool:
            pool.submit(anyio.run, application, scope, receive, send).result()
    logs.stop()
    return codes


@pytest.mark.parametrize(("value", "logs"), [("true", ("local-logsbucket-123456789012", "edge/")), ("false", None)])
def test_the_template_sets_whether_and_where_the_edge_logs(value: str, logs: tuple[str, str] | None) -> None:
    wiring = read_wiring(TEMPLATE, {"EdgeLogs": value}, StackIdentity("local", "us-east-1"), "http://s3")
    assert wiring.edge.logs == logs
    assert not logs or logs[0] in {bucket.name for bucket in wiring.buckets}


def test_a_line_has_request_and_answer_with_each_value_escaped() -> None:
    bucket = Bucket()
    assert asked(bucket, "/images/a%3Ab?x=1") == [206]
    (key,) = bucket.objects
    assert (key.startswith("edge/ELOCAL.2"), key.endswith(".gz")) == (True, True)
    (row,) = bucket.rows()
    assert {name: row[name] for name in ("cs-method", "cs-uri-stem", "cs-uri-query", "sc-status")} == {
        "cs-method": "GET", "cs-uri-stem": "/images/a%3Ab", "cs-uri-query": "x=1", "sc-status": "206",
    }  # fmt: skip
    assert (row["sc-range-start"], row["sc-range-end"], row["sc-content-len"]) == ("5", "14", "10")
    assert row["cs(User-Agent)"].startswith("LXD%205.0.2%20(Linux)")
    assert int(row["sc-bytes"]) > 10


def test_an_error_of_the_edge_is_a_line_too() -> None:
    bucket = Bucket()
    assert asked(bucket, "/broken", "/x") == [500, 206]
    assert [row["x-edge-result-type"] for row in bucket.rows()] == ["Error", "Miss"]


def test_a_bucket_that_refuses_logs_fails_no_request() -> None:
    assert asked(Bucket(SimpleError("no bucket")), "/x") == [206]


class SimpleError(Exception):
    """An error of S3."""
