"""A small web site for the page's tests. It serves the built page and a catalog that a test can change or break."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from page.build import API_ARTEFACT, ARTEFACT, blocks, policy
from tests.support.servers.http import served

Json = dict[str, Any]

INDEX = "/streams/v1/index.json"
IMAGES = "/streams/v1/images.json"
UNLISTED = "/streams/v1/images.unlisted.json"
HEADER = f"{policy(*blocks())}; frame-ancestors 'none'"
TYPES = {"html": "text/html; charset=utf-8", "json": "application/json", "js": "text/javascript"}


@dataclass
class Site:
    """The served `files` by path. A path in `broken` gets that status, or a dropped connection for 0."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    answers: list[tuple[str, int]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    def publish(self, **documents: Json) -> None:
        """Serve these products documents, one keyword per stream ("_" for "-"), and an index of those with products.

        What a document holds as `unlisted` goes into the stream's second document, as the server has it.
        """
        entries = {}
        for name, given in documents.items():
            stream = name.replace("_", "-")
            path = f"streams/v1/{stream}.json"
            document = {key: value for key, value in given.items() if key != "unlisted"}
            self.files[f"/{path}"] = json.dumps(document).encode()
            self.files[f"/streams/v1/{stream}.unlisted.json"] = json.dumps(
                {"content_id": stream, "format": "unlisted:1.0", "products": given.get("unlisted", {})}
            ).encode()
            if not document["products"]:
                continue
            entries[stream] = {
                "datatype": "image-downloads",
                "format": "products:1.0",
                "path": path,
                "products": sorted(document["products"]),
            }
        self.files[INDEX] = json.dumps({"format": "index:1.0", "index": entries}).encode()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = "/index.html" if self.path.split("?")[0] == "/" else self.path.split("?")[0]
            broken = site.broken.get(path)
            if broken == 0:
                self.close_connection = True
                return
            body = site.files.get(path, b"")
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            status = broken or (200 if path in site.files else 404)
            if status == 200 and self.headers.get("If-None-Match") == etag:
                status = 304
            site.answers.append((path, status))
            self.send_response(status)
            self.send_header("ETag", etag)
            self.send_header("Content-Type", TYPES.get(path.rsplit(".", 1)[-1], "application/octet-stream"))
            self.send_header("Content-Length", str(len(body) if status == 200 else 0))
            if path in ("/index.html", "/api.html"):
                self.send_header("Content-Security-Policy", HEADER)
            self.end_headers()
            if status == 200:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing: requests are in site.answers."""

    return Handler


@contextmanager
def serving() -> Iterator[Site]:
    """Yield a running site with the page and no catalog."""
    pages = {"/index.html": ARTEFACT.read_bytes(), "/api.html": API_ARTEFACT.read_bytes()}
    site = Site(files={**pages, "/openapi.json": b"{}"})
    with served(_handler(site)) as site.port:
        yield site
