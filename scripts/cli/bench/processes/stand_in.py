"""A stand-in for S3 with realistic speed: one object, ranged and conditional GETs, paced sockets.

Each accepted connection inherits `SO_MAX_PACING_RATE` from the listening socket, so the kernel spaces the
packets themselves and a small range is no faster than a large one (a server that limits its rate in user space
lets the first or last megabytes of each answer through undelayed). `--total-rate` limits all connections
together, as a network interface does. The object is a file, best on a tmpfs; with `--repeat` its bytes are
repeated to serve an object of that size.

`python -m cli.bench.processes.stand_in --file F --rate 80000000 --delay 0.025` prints its port.
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
import socket
import socketserver
import ssl
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path

ETAG = '"5f0c5e7b9d1a4c3e8b2f6a7d9e0c1b2a"'
# From asm-generic/socket.h; the socket module has no name for it before Python 3.14.
SO_MAX_PACING_RATE = 47
_SEND_BYTES = 1 << 20
_PACED_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Served:
    """The object and how it is served: `size_bytes` may exceed the file, whose bytes then repeat."""

    content: mmap.mmap
    file: int
    size_bytes: int
    delay_s: float
    interface: Interface | None = None


class Interface:
    """A limit that all connections share: `rate` bytes a second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, count: int) -> None:
        """Wait until `count` bytes can have passed, after all bytes that were asked for before."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._rate
            pause = self._free_at - now
        time.sleep(pause)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server with one thread per connection, in which TLS is set up if asked for."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, served: Served, rate: int, port: int, tls: ssl.SSLContext | None) -> None:
        self.served = served
        self.tls = tls
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        if rate:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
        self.server_bind()
        self.server_activate()

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        assert isinstance(request, socket.socket)  # noqa: S101 - a stream server never gets a datagram
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        Handler(request, client_address, self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that hangs up early, as the bench does when it stops; report anything else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed has bytes


class Handler(BaseHTTPRequestHandler):
    """A handler of GET with Range and If-Match, as S3 answers them."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Log nothing: a bench makes thousands of requests."""

    def do_GET(self) -> None:
        """Answer 206 (or 200 without a Range), or 412 if If-Match names another ETag."""
        served = self.server.served
        time.sleep(served.delay_s)
        if self.headers.get("If-Match", ETAG) != ETAG:
            self._head(HTTPStatus.PRECONDITION_FAILED, 0)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, served.size_bytes - 1)
        last = min(last, served.size_bytes - 1)
        status = HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK
        self._head(status, last + 1 - first, f"bytes {first}-{last}/{served.size_bytes}" if wanted else None)
        self._body(first, last + 1)

    def do_HEAD(self) -> None:
        """Answer with size and ETag."""
        time.sleep(self.server.served.delay_s)
        self._head(HTTPStatus.OK, self.server.served.size_bytes)

    def _head(self, status: HTTPStatus, length: int, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", ETAG)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _body(self, start: int, stop: int) -> None:
        """Send bytes [start, stop): by sendfile in the clear, from the mapped file under TLS."""
        content, interface = self.server.served.content, self.server.served.interface
        while start < stop:
            at = start % len(content)
            count = min(stop - start, len(content) - at)
            if interface:
                count = min(count, _PACED_BYTES)
                interface.wait(count)
            if self.server.tls is None:
                self.connection.setblocking(True)
                start += os.sendfile(self.connection.fileno(), self.server.served.file, at, count)
            else:
                count = min(count, _SEND_BYTES)
                with memoryview(content) as view, view[at : at + count] as piece:
                    self.connection.sendall(piece)
                start += count


def main() -> None:
    """Serve until killed, or until standard input closes (so that no server outlives its bench)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=0, help="size in bytes to serve by repeating the file")
    parser.add_argument("--rate", type=int, default=0, help="bytes per second and connection; 0 is unlimited")
    parser.add_argument("--total-rate", type=int, default=0, help="bytes per second of all connections together")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first byte of each answer")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert", type=Path, help="PEM with key and certificate: serve over TLS")
    options = parser.parse_args()
    tls = None
    if options.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.cert)
    with options.file.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        interface = Interface(options.total_rate) if options.total_rate else None
        served = Served(content, file.fileno(), options.repeat or len(content), options.delay, interface)
        with Server(served, options.rate, options.port, tls) as server:
            print(server.server_address[1], flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
