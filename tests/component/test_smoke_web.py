"""How the smoke test reads the answers of a web server."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler

import pytest

from cli.smoke.web import Web
from tests.support.servers.http import served


class Odd(BaseHTTPRequestHandler):
    """Answers as the name of the page says."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        packed = gzip.compress(b"packed")
        status, headers, content = {
            "/moved": (301, {"Location": "https://elsewhere.example.org/"}, b""),
            "/missing": (404, {}, b"no"),
            "/packed": (200, {"Content-Encoding": "gzip"}, packed),
            "/cut": (200, {"Content-Length": "100"}, b"cut"),
        }[self.path.partition("?")[0]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def test_an_answer_is_passed_through_unchanged() -> None:
    with served(Odd) as port:
        base, client = f"http://127.0.0.1:{port}", Web()
        moved = client.ask(f"{base}/moved")
        assert (moved.status, moved.headers["location"]) == (301, "https://elsewhere.example.org/")
        assert (client.ask(f"{base}/missing").status, client.ask(f"{base}/missing").body) == (404, b"no")
        packed = client.ask(f"{base}/packed")
        assert (packed.body[:2], packed.document) == (b"\x1f\x8b", b"packed")
        with pytest.raises(ConnectionError, match="/cut does not answer: IncompleteRead") as raised:
            client.ask(f"{base}/cut?X-Amz-Signature=secret")
        assert "secret" not in str(raised.value)
    with pytest.raises(ConnectionError, match="does not answer"):
        client.ask(base)
