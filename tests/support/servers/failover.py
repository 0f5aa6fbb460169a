"""A name that points at one of several servers, like a DNS record. Connections are passed on byte for byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

_CHUNK = 1 << 16


@dataclass
class Name:
    """One address. `target` is the port of this machine that it leads to now."""

    port: int
    target: int

    @property
    def base_url(self) -> str:
        """Return the address that users have as their remote."""
        return f"https://localhost:{self.port}"

    def point_at(self, base_url: str) -> None:
        """Fail over: change the DNS record."""
        self.target = urlsplit(base_url).port or 443


@contextmanager
def one_name(base_url: str) -> Iterator[Name]:
    """Yield an address that leads to the server at this one until it is pointed at another."""
    listener = socket.create_server(("127.0.0.1", 0))
    name = Name(listener.getsockname()[1], 0)
    name.point_at(base_url)
    threading.Thread(target=_accept, args=(listener, name), daemon=True).start()
    with closing(listener):
        yield name
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends `accept`, which closing does not


def _accept(listener: socket.socket, name: Name) -> None:
    while True:
        try:
            here, _ = listener.accept()
        except OSError:
            return
        try:
            there = socket.create_connection(("127.0.0.1", name.target), timeout=60)
        except OSError:
            here.close()
            continue
        for source, sink in ((here, there), (there, here)):
            threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(_CHUNK):
            sink.sendall(part)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
