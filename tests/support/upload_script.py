"""Runs `scripts/upload`, with files and an API for it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support import PROJECT, images

SCRIPT = PROJECT / "scripts/upload"
FINGERPRINT = hashlib.sha256(b"an image").hexdigest()
XZ, SQUASHFS, QCOW2 = images.metadata_tarball(), images.squashfs(), images.qcow2()
UNIFIED = {kind: images.unified_tarball(compression=kind) for kind in ("gz", "xz", "zst", "plain")}


def run(*arguments: str | Path, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    """Run the script in a shell, and return its exit code and what it printed."""
    return subprocess.run((shell, SCRIPT, *arguments), capture_output=True, text=True, check=False, timeout=60)


def upload_image(folder: Path, api: str, **variables: str) -> tuple[int, str]:
    """Upload one file with these variables and no network settings of this machine; return exit code and messages."""
    image = folder / "image.tar.gz"
    image.write_bytes(UNIFIED["gz"])
    command = (SCRIPT, "--api", api, "--to", "a/b/amd64/d", "--version", "20261123", "--wait", "0")
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "SIMPLESTREAMS_TOKEN": "t", **variables}
    done = subprocess.run((*command, image), env=own, capture_output=True, text=True, check=False, timeout=20)
    return done.returncode, done.stderr


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a user whose home is this folder and who has no AWS credentials but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")} | variables


def programs(folder: Path, **scripts: str) -> str:
    """Return a PATH on which these one-line programs precede all others."""
    (folder / "programs").mkdir()
    for name, line in scripts.items():
        (folder / "programs" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "programs" / name).chmod(0o755)
    return f"{folder / 'programs'}:{os.environ['PATH']}"


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Write files into a folder, and return their paths in the same order."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


class Api(BaseHTTPRequestHandler):
    """An upload API that has all files already and knows no version. A subclass overrides an answer."""

    polls = 0

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post()

    def do_PUT(self) -> None:
        self.put()

    def get(self) -> None:
        self.answer(404, b"")

    def post(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201, b"# upload present 1 x\n# upload present 1 x\n")

    def put(self) -> None:
        self.answer(405, b"")

    def answer(self, code: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(code)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""
