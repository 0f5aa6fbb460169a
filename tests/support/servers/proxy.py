"""A proxy of a company network: every host name leads to this machine, and it may require a login."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.support.servers.http import served


@contextmanager
def proxy(port: int, login: str = "", allowed: str = "") -> Iterator[tuple[str, list[str]]]:
    """Run a proxy to the server on `port`; yield its address, and its requests as `METHOD host`.

    With `login` (`user:password`) it answers 407 without it; with `allowed` it answers 403 for other hosts.
    """
    seen: list[str] = []
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""

    class Proxy(BaseHTTPRequestHandler):
        def admits(self, host: str) -> bool:
            seen.append(f"{self.command} {host}")
            if wanted and self.headers["Proxy-Authorization"] != wanted:
                self.send_response(407)
                self.send_header("Proxy-Authenticate", 'Basic realm="the network"')
            elif allowed and host != allowed:
                self.send_response(403)
            else:
                return True
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False

        def do_CONNECT(self) -> None:
            if not self.admits(self.path.partition(":")[0]):
                return
            self.send_response(200)
            self.end_headers()
            with socket.create_connection(("127.0.0.1", port)) as far:
                threading.Thread(target=_pump, args=(far, self.connection), daemon=True).start()
                _pump(self.connection, far)
            self.close_connection = True

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.admits(address.hostname or ""):
                return
            way = http.client.HTTPConnection("127.0.0.1", port)
            way.request(self.command, self.path[self.path.index("/", 8) :], body, dict(self.headers))
            answer = way.getresponse()
            got = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(got)))
            self.end_headers()
            self.wfile.write(got)

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with served(Proxy) as own:
        yield f"127.0.0.1:{own}", seen


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
