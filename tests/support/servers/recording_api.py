"""An upload API that records what `scripts/upload` asks of it, and gives the answers that a test wants."""

from __future__ import annotations

import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.upload_script import SCRIPT, environment

VERSION = "images/signed/one/amd64/default/20261123_10:00"


class RecordingApi(BaseHTTPRequestHandler):
    """Records every request, and answers like a server that has everything already."""

    seen: list[tuple[str, str, dict[str, str], bytes]] = []  # noqa: RUF012  (the fixture sets it anew)
    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012  (as above)
    once: dict[str, tuple[int, str]] = {}  # noqa: RUF012  (as above)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, dict(self.headers), body))
        start = next(start for start in self.answers if self.path.startswith(start))
        status, text = self.once.pop(start) if start in self.once else self.answers[start]
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def upload(
    server: ThreadingHTTPServer, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Upload `image.tar.gz` of the folder as VERSION."""
    api = f"http://127.0.0.1:{server.server_address[1]}"
    return subprocess.run(
        (SCRIPT, "--api", api, "--to", "signed/one/amd64/default", "--version", "20261123_10:00",
         *arguments, folder / "image.tar.gz"),
        env=environment(folder, **variables), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
