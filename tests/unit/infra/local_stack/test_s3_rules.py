"""How the local S3 serializes calls of moto, with a stand-in for moto that shows any overlap."""

import io
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest

from local_stack.s3_rules import S3Rules
from tests.support.servers.s3 import at_once

SIGNED = "AWS4-HMAC-SHA256 Credential=AK/20261123/us-east-1/s3/aws4_request, …"


class Moto:
    """Takes long enough for other requests to overlap, and records whether they did."""

    def __init__(self) -> None:
        self.inside = self.most_inside = self.calls = 0
        self.bodies: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            self.inside += 1
            self.calls += 1
            self.most_inside = max(self.most_inside, self.inside)
        time.sleep(0.02)
        self.bodies.append(environ["wsgi.input"].read())
        with self._lock:
            self.inside -= 1
        start_response("404 Not Found", [])
        return [b"{}"]


def ask(rules: S3Rules, method: str, body: Any = b"", **extra: str) -> str:
    """Return the status of one request."""
    seen: list[str] = []
    environ = {
        "REQUEST_METHOD": method,
        "REQUEST_URI": "/bucket/key",
        "QUERY_STRING": "",
        "HTTP_AUTHORIZATION": SIGNED,
        "CONTENT_LENGTH": str(len(body)) if isinstance(body, bytes) else "10",
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body,
        **extra,
    }
    b"".join(rules(environ, lambda status, _headers: seen.append(status)))
    return seen[0]


@pytest.mark.parametrize(
    "kinds",
    [
        ("PUT", "PUT"),
        ("PUT", "DELETE"),
        ("PUT", "GET"),
        ("POST", "POST AmazonSQS.DeleteMessage"),
        ("PUT", "POST AmazonSQS.SendMessage"),
    ],
)
def test_moto_handles_one_request_at_a_time(kinds: tuple[str, str]) -> None:
    moto = Moto()
    rules = S3Rules(moto, {}, lambda _event: None)

    def work(index: int) -> None:
        method, _, target = kinds[index % 2].partition(" ")
        ask(rules, method, b"{}", **({"HTTP_X_AMZ_TARGET": target} if target else {}))

    at_once(6, work)
    assert (moto.calls, moto.most_inside) == (6, 1)


class Slow(io.RawIOBase):
    """A body that arrives when a test releases it."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked = threading.Event()

    def read(self, size: int = -1) -> bytes:
        self.asked.set()
        assert self.may_end.wait(10)
        return b"x" * min(size, 10)


def test_a_slow_upload_blocks_no_other_request() -> None:
    moto, body = Moto(), Slow()
    rules = S3Rules(moto, {}, lambda _event: None)
    upload = threading.Thread(target=ask, args=(rules, "PUT", body))
    upload.start()
    assert body.asked.wait(10)
    assert ask(rules, "GET") == "404 Not Found"
    body.may_end.set()
    upload.join(10)
    assert moto.bodies == [b"", b"x" * 10]


def test_a_long_poll_is_bounded_by_its_own_wait_and_never_waits_inside_moto() -> None:
    moto = Moto()
    rules = S3Rules(moto, {}, lambda _event: None)
    ask(rules, "POST", b'{"WaitTimeSeconds": 20}', HTTP_X_AMZ_TARGET="AmazonSQS.ReceiveMessage")
    assert moto.bodies == [b'{"WaitTimeSeconds": 0}']


@pytest.mark.parametrize(
    "about",
    [
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_HOST": "rebound.evil.example:9000"},
        {"PATH_INFO": "/moto-api/reset"},
    ],
)
def test_a_page_of_another_site_changes_no_object_and_resets_nothing(about: dict[str, Any]) -> None:
    moto = Moto()
    rules = S3Rules(moto, {}, lambda _event: None)
    assert ask(rules, "POST", b"{}", **{"HTTP_HOST": "localhost:9000", **about}) == "403 AccessDenied"
    assert moto.calls == 0
