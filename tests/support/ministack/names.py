"""A proxy in place of DNS: names that AWS gives out lead to the emulator, and any other name is refused.

A stack's address is `https://….cloudfront.net` on the emulator too, and a resolver would lead it to Amazon. Every
client here (curl, LXD, Incus, Python) reads `https_proxy` and `http_proxy`; TLS still ends in the emulator. A request
that was meant for somewhere else is refused, and kept for a test to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

EDGE = (".cloudfront.net", ".example.org")
"""The host name of a distribution, and the names that the documentation gives one."""
LOOPBACK = (".localhost", "localhost", "127.0.0.1")


@dataclass
class Names:
    """The emulator's ports, and the hosts that clients were refused."""

    tls_port: int
    plain_port: int
    port: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def leads_to(self, host: str, port: int, *, tls: bool) -> int | None:
        """Return the port of this machine that a name leads to; None if it is refused."""
        if host.endswith(EDGE):
            return self.tls_port if tls else self.plain_port
        return port if host.endswith(LOOPBACK) else None


@contextlib.contextmanager
def served(names: Names) -> Iterator[Names]:
    """Run the proxy in its own thread, on a free port that `names` then holds."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def run(stop: asyncio.Event) -> None:
        server = await asyncio.start_server(lambda r, w: _serve(names, r, w), "127.0.0.1", 0)
        names.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(stop),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield names
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _serve(names: Names, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
    """Serve one connection: a tunnel for CONNECT, else one request passed on without its host."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # either side may leave at any time
        head = await client.readuntil(b"\r\n\r\n")
        method, target, version = head.split(b"\r\n", 1)[0].decode().split()
        tls = method == "CONNECT"
        url = urlsplit(f"//{target}" if tls else target)
        host, port = url.hostname or "", url.port or (443 if tls else 80)
        leads_to = names.leads_to(host, port, tls=tls)
        if leads_to is None:
            names.refused.append(host)
            answer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            origin, request = await asyncio.open_connection("127.0.0.1", leads_to)
            if tls:
                answer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = url._replace(scheme="", netloc="").geturl() or "/"
                rest = head.split(b"\r\n", 1)[1]
                request.write(f"{method} {path} {version}\r\nConnection: close\r\n".encode() + rest)
            await asyncio.gather(_pass_on(client, request), _pass_on(origin, answer))
    answer.close()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError, RuntimeError):
        sink.close()
