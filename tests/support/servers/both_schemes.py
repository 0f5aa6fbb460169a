"""A server that answers http and https on one port, as CloudFront does on two, and records every request.

Clients first try each file over http on the port of their remote. Over https this server forwards to another; over
http it redirects, or refuses as a behaviour with `https-only` does.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import trustme

_TLS: int = 0x16
"""The first byte of a TLS handshake."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request. `clear` is true if it came over http."""

    clear: bool
    path: str
    authorization: str
    status: int


@dataclass
class BothSchemes:
    """The requests so far. `refuses`: whether http is refused (403) rather than redirected."""

    address: str
    ca_file: Path
    refuses: bool = False
    requests: list[RecordedRequest] = field(default_factory=list)

    def clear(self) -> list[RecordedRequest]:
        return [request for request in self.requests if request.clear]

    def leaks(self, secret: str, *logins: str) -> list[RecordedRequest]:
        """Return the requests over http that show a token, in the path or as one of these headers."""
        return [request for request in self.clear() if secret in request.path or request.authorization in logins]


def outside_address() -> str:
    """Return an address of this machine other than loopback, which no client reaches through a proxy; "" for none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("198.51.100.1", 9))  # no packet is sent
        return str(probe.getsockname()[0])
    return ""


@contextlib.contextmanager
def both_schemes(host: str, behind: str, behind_ca: str, folder: Path) -> Iterator[BothSchemes]:
    """Yield a server in front of `behind` (https://…) at a free port of `host`."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    ca_file = folder / "both-schemes.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    server = _Server((host, 0), context)
    server.both = BothSchemes(f"{host}:{server.server_address[1]}", ca_file)
    server.behind, server.trust = urlsplit(behind), ssl.create_default_context(cafile=behind_ca)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.both
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        super().__init__(address, _Handler)
        self.context = context
        self.both: BothSchemes
        self.behind: SplitResult
        self.trust: ssl.SSLContext

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a client that disconnects is normal."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        first = self.request.recv(1, socket.MSG_PEEK)
        self.is_clear = first != bytes([_TLS])
        if not self.is_clear:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self) -> None:
        if self.is_clear:
            self._answer_clear()
        else:
            self._pass_on()

    do_HEAD = do_GET

    def do_CONNECT(self) -> None:
        """Connect a daemon only to this server, which is configured as its proxy for https."""
        if self.path != self.server.both.address:
            self.send_error(403, f"there is no way to {self.path}")
            return
        self.send_response_only(200)
        self.end_headers()
        self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.is_clear, self.close_connection = False, False

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _note(self, status: int) -> None:
        login = self.headers.get("Authorization", "")
        self.server.both.requests.append(RecordedRequest(self.is_clear, self.path, login, status))

    def _answer_clear(self) -> None:
        status = 403 if self.server.both.refuses else 301
        self._note(status)
        self.send_response(status)
        if status == 301:
            self.send_header("Location", f"https://{self.server.both.address}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _pass_on(self) -> None:
        behind = self.server.behind
        connection = http.client.HTTPSConnection(
            behind.hostname or "", behind.port, context=self.server.trust, timeout=30
        )
        with contextlib.closing(connection):
            connection.request(self.command, self.path, headers=dict(self.headers) | {"Host": behind.netloc})
            answer = connection.getresponse()
            body = answer.read()
            self._note(answer.status)
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
