"""Another image server as a mirror sees it: files with ranges and ETags, and faults on demand."""

from __future__ import annotations

import gzip
import hashlib
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote

from tests.support.servers.http import served


@dataclass
class Fault:
    """What happens to one request: another status and headers, a body cut after some bytes, a pause before it.

    With `ignore_if_range` a range is served whatever If-Range says. `unpaced` is served at once, whatever the rate.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    pause_s: float = 0.0
    ignore_if_range: bool = False
    unpaced: bool = False


@dataclass
class Asked:
    """One request as it arrived, its path still escaped."""

    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


@dataclass
class UpstreamServer:
    """`files` by path below the server's address. The requests of a path take its `faults` in order.

    `bytes_sent` counts the bytes of bodies by path. Without `ranges`, `etags`, `dates` or `lengths` the server has
    none. `encoded` compresses answers to requests with `Accept-Encoding: gzip`. `bytes_per_s` is the rate of each
    answer.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    bytes_sent: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    dates: bool = True
    lengths: bool = True
    encoded: bool = False
    bytes_per_s: float = 0
    connections: int = 0
    most_connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _etags: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Return the address that a mirror follows."""
        return f"{self.url}/"

    def etag(self, path: str) -> str:
        body = self.files[path]
        if (known := self._etags.get(path)) and known[0] is body:
            return known[1]
        self._etags[path] = (body, f'"{hashlib.md5(body).hexdigest()}"')
        return self._etags[path][1]

    def fault(self, path: str) -> Fault:
        with self.lock:
            return self.faults[path].pop(0) if self.faults.get(path) else Fault()

    def asked_for(self, path: str) -> list[Asked]:
        return [one for one in self.requests if unquote(one.path) == f"/{path}"]


@contextmanager
def upstream(files: Mapping[str, bytes] | None = None, tls: ssl.SSLContext | None = None) -> Iterator[UpstreamServer]:
    """Yield a server of these files on its own port, over TLS with a context."""
    server = UpstreamServer(dict(files or {}))
    with served(type("Handler", (_Handler,), {"served": server}), tls=tls) as port:
        server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: UpstreamServer

    def setup(self) -> None:
        super().setup()
        with self.served.lock:
            self.served.connections += 1
            self.served.most_connections = max(self.served.most_connections, self.served.connections)

    def finish(self) -> None:
        with self.served.lock:
            self.served.connections -= 1

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        path = unquote(self.path).lstrip("/")
        with self.served.lock:
            self.served.requests.append(Asked(self.path, {name.lower(): text for name, text in self.headers.items()}))
        fault = self.served.fault(path)
        time.sleep(fault.pause_s)
        if fault.status:
            self._send(path, fault.status, dict(fault.headers), b"", Fault())
        elif path not in self.served.files:
            self._send(path, 404, {}, b"no such file", Fault())
        else:
            self._answer(path, self.served.files[path], fault)

    def _answer(self, path: str, body: bytes, fault: Fault) -> None:
        served, about = self.served, dict(fault.headers)
        if served.etags:
            about.setdefault("ETag", served.etag(path))
        if served.dates:
            about.setdefault("Last-Modified", "Mon, 23 Nov 2026 10:00:00 GMT")
        if served.etags and self.headers.get("If-None-Match") == about["ETag"]:
            self._send(path, 304, about, b"", fault)
            return
        if served.encoded and "gzip" in self.headers.get("Accept-Encoding", ""):
            about["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        pin = self.headers.get("If-Range")
        is_other = pin and pin not in (about.get("ETag"), about.get("Last-Modified")) and not fault.ignore_if_range
        if not wanted or not served.ranges or is_other:
            self._send(path, 200, about, body, fault)
            return
        first, last = int(wanted[1]), min(int(wanted[2]), len(body) - 1)
        if first >= len(body):
            self._send(path, 416, {"Content-Range": f"bytes */{len(body)}"}, b"", fault)
            return
        about.setdefault("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self._send(path, 206, about, memoryview(body)[first : last + 1], fault)

    def _send(self, path: str, status: int, headers: dict[str, str], body: bytes | memoryview, fault: Fault) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        if status != 304 and (self.served.lengths or status != 200):
            self.send_header("Content-Length", str(len(body)))
        elif status == 200:
            self.close_connection = True
        self.end_headers()
        whole = memoryview(body)[: fault.cut_after]
        for start in range(0, len(whole), 1 << 16):
            chunk = whole[start : start + (1 << 16)]
            with self.served.lock:  # first, so that a client that has every byte finds it counted
                self.served.bytes_sent[path] = self.served.bytes_sent.get(path, 0) + len(chunk)
            self.wfile.write(chunk)
            if self.served.bytes_per_s and not fault.unpaced:
                time.sleep((1 << 16) / self.served.bytes_per_s)
        if fault.cut_after is not None:
            self.close_connection = True
            with suppress(OSError):  # the other side may have hung up already
                self.connection.shutdown(2)
