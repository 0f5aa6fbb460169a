"""One object served by ranged, conditional GETs, with faults on demand, for tests of the reader."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.servers.http import served

ETAG = '"5f0c5e7b9d1a4c3e8b2f6a7d9e0c1b2a"'


@dataclass
class Fault:
    """What happens to one request: a status, a body cut after some bytes, a wrong header."""

    status: int = 206
    cut_after: int | None = None
    content_range: str | None = None
    stall: threading.Event | None = None


@dataclass
class ObjectServer:
    """`requests` are the requested ranges. Requests from byte `faults_from` on take the faults in order."""

    content: bytes
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    faults_from: int = 0
    requests: list[tuple[int, int]] = field(default_factory=list)
    etag: str = ETAG
    open_connections: int = 0

    def generate_presigned_url(self, ClientMethod: str, Params: dict[str, str], ExpiresIn: int) -> str:
        assert (ClientMethod, Params["IfMatch"]) == ("get_object", ETAG)
        assert ExpiresIn > 900
        return f"{self.url}/{Params['Bucket']}/{Params['Key']}?X-Amz-Signature=0"


@contextmanager
def serving(content: bytes) -> Iterator[ObjectServer]:
    """Yield a server of `content` on its own port, with the presigning half of an S3 client."""
    source = ObjectServer(content)
    with served(type("Handler", (_Handler,), {"served": source})) as port:
        source.url = f"http://127.0.0.1:{port}"
        yield source


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: ObjectServer

    def setup(self) -> None:
        super().setup()
        self.served.open_connections += 1

    def finish(self) -> None:
        self.served.open_connections -= 1

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        served = self.served
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert wanted
        first, last = int(wanted[1]), int(wanted[2])
        served.requests.append((first, last))
        fault = served.faults.pop(0) if served.faults and first >= served.faults_from else Fault()
        body = memoryview(served.content)[first : last + 1]  # no copy: tests measure the memory of this process
        status = 412 if self.headers["If-Match"] != served.etag else fault.status
        if status >= 400:
            body = memoryview(b"<Error/>")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", fault.content_range or f"bytes {first}-{last}/{len(served.content)}")
        self.end_headers()
        self.wfile.write(body[: fault.cut_after])
        if fault.stall:
            fault.stall.wait(30)
        if fault.cut_after is not None:
            self.close_connection = True
            self.connection.shutdown(2)
