"""A connection to S3 and SQS with every possible fault. Functions take this proxy for the service.

The name of each fault, and what it does to one request:

before the service sees it: `503`, `500`, `409`, `403` are answered, `cut` closes the connection;
after it took effect: `500 after`, `reply lost` (the connection closes without an answer), `late` (the same, when the
caller's own time has run out), `body cut` (the answer ends early).
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.support.servers.http import served

RATES: Mapping[str, float] = {
    "503": 0.03,
    "500": 0.02,
    "409": 0.05,  # of conditional writes
    "403": 0.003,
    "cut": 0.02,
    "500 after": 0.02,
    "reply lost": 0.03,
    "late": 0.002,
    "body cut": 0.03,  # of reads
}
LATE_S = 6.0
"""Longer than a function with a timeout of five seconds may run."""
_ERRORS = {
    "503": ("SlowDown", 503),
    "500": ("InternalError", 500),
    "500 after": ("InternalError", 500),
    "409": ("ConditionalRequestConflict", 409),
    "403": ("AccessDenied", 403),
}


@dataclass
class Wire:
    """The proxy. `injected` counts faults. Without `rates` there are none."""

    url: str
    target: str
    chance: random.Random
    rates: Mapping[str, float] = field(default_factory=lambda: RATES)
    injected: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, conditional: bool) -> str:
        """Return the fault for one request, or an empty text."""
        with self.lock:
            self.requests += 1
            for fault, rate in self.rates.items():
                possible = {"409": conditional and method in ("PUT", "DELETE"), "body cut": method == "GET"}.get(
                    fault, True
                )
                if possible and self.chance.random() < rate:
                    self.injected[fault] += 1
                    return fault
        return ""


@contextmanager
def faulty_wire(port: int, target: str, seed: int) -> Iterator[Wire]:
    """Serve on `port`. `target` is the address of the service, which need not run yet."""
    wire = Wire(f"http://127.0.0.1:{port}", target, random.Random(seed))
    with served(type("Handler", (_Handler,), {"wire": wire}), port):
        yield wire


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wire: Wire

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        conditional = "If-Match" in self.headers or "If-None-Match" in self.headers
        fault = self.wire.fault(self.command, conditional)
        if fault == "cut":
            self._hang_up()
        elif fault in ("503", "500", "409", "403"):
            self._refuse(fault)
        else:
            self._answer(fault, *self._asked(body))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def _asked(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        """Return the service's own answer. The Host header is kept, since signatures cover it."""
        connection = http.client.HTTPConnection(urlsplit(self.wire.target).netloc, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def _answer(self, fault: str, response: http.client.HTTPResponse, body: bytes) -> None:
        if fault == "500 after":
            self._refuse(fault)
            return
        if fault == "late":
            time.sleep(LATE_S)
        if fault in ("reply lost", "late"):
            self._hang_up()
            return
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        if length is not None and response.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if fault == "body cut" else body)
        if fault == "body cut":
            self._hang_up()

    def _refuse(self, fault: str) -> None:
        code, status = _ERRORS[fault]
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
