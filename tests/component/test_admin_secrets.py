"""No secret is printed or logged: one stack, every kind of caller, and a search of everything it wrote."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROJECT, images
from tests.support.stack import Stack, local_stack
from tests.support.upload_api import Answer, send

pytestmark = pytest.mark.timeout(300)

CALLER = "repo:me/images:ref:refs/heads/main"
PRODUCT = "images/secret/1/amd64/default"
NEVER = ("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "AWS4-HMAC-SHA256", "Authorization:", "Bearer ",
         "aws_secret_access_key", "BEGIN PRIVATE KEY", "BEGIN RSA", "BEGIN EC PRIVATE")  # fmt: skip


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    given = {
        "JwtIssuer": "https://token.example.org",
        "JwtAudience": "images",
        "AllowDeletes": "true",
        "Publishers": json.dumps({CALLER: ["images/secret/"]}),
    }
    options = [word for name, value in given.items() for word in ("--parameter", f"{name}={value}")]
    with local_stack("--empty", *options) as running:
        yield running


class Publisher:
    """A caller with a bearer token. `secrets` has those it holds and those it received."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        claims = base64.urlsafe_b64encode(json.dumps({"sub": CALLER}).encode()).decode().rstrip("=")
        signature = secrets.token_urlsafe(32)
        self.token = f"eyJhbGciOiJub25lIn0.{claims}.{signature}"
        self.secrets = {self.token, signature, claims}

    def ask(self, method: str, path: str, body: object = None, token: str = "") -> Answer:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        data = None if body is None else json.dumps(body).encode()
        return send(method, f"{self._stack.facts['api_url']}{path}", data, headers, Path(self._stack.ca_file))

    def upload(self, path: str, body: bytes) -> None:
        signed = self.signed("/uploads", {"path": path, "size": len(body), "multipart": False})
        assert send("PUT", signed["url"], body, signed["headers"]).status == 200
        assert send("PUT", signed["url"], body, signed["headers"]).status == 412
        assert send("PUT", signed["url"] + "0", body, signed["headers"]).status == 403

    def has_status(self, version: str, status: str) -> bool | None:
        """Return True once the API reports this status, None until then."""
        return self.ask("GET", f"/versions/{version}").json.get("status") == status or None

    def signed(self, route: str, request: object) -> Any:
        answer = self.ask("POST", route, request)
        assert answer.status == 201, answer.body
        found = set(re.findall(r"X-Amz-Signature=([0-9a-f]{64})", answer.body.decode()))
        assert found, "the answer has signatures in it"
        self.secrets |= found
        return answer.json


def admin(stack: Stack, *arguments: str) -> str:
    """Return everything that a command printed."""
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout + done.stderr


def use_it_all(stack: Stack, publisher: Publisher) -> str:
    """Run uploads, refusals and a withdrawal by the API, and the admin tool; return everything printed."""
    sound, broken = (f"{PRODUCT}/2026110{day}" for day in (1, 2))
    for name, body in images.split_image().items():
        publisher.upload(f"{sound}/{name}", body)
    for name in ("lxd.tar.xz", "rootfs.squashfs"):
        publisher.upload(f"{broken}/{name}", b"nothing of that kind")
    publisher.signed("/uploads", {"path": f"{PRODUCT}/20261103/disk.qcow2", "size": 200 << 20})
    publisher.signed("/uploads/batch", {"version": f"{PRODUCT}/20261104", "files": [{"file": "lxd.tar.xz", "size": 9}]})
    assert publisher.ask("POST", "/uploads", {"path": "images/x/1/amd64/default/20261101/a", "size": 1}).status == 403
    assert publisher.ask("POST", "/uploads", {"path": f"{PRODUCT}/20261301/lxd.tar.xz", "size": 1}).status == 422
    assert publisher.ask("POST", "/uploads", {"path": 1}).status == 400
    assert publisher.ask("GET", f"/versions/{sound}", token="no.token").status == 401
    for path, state in ((sound, "listed"), (broken, "invalid")):
        stack.wait_until(
            partial(publisher.has_status, path, state),
            f"{path} {state}",
            60,
        )
    assert publisher.ask("DELETE", f"/{broken}").status == 202
    lines = (
        "list",
        "list --json",
        f"show {sound}",
        f"show {broken}",
        "doctor",
        "verify",
        "redrive changes",
        "reconcile --dry-run",
    )
    return "\n".join(admin(stack, *line.split()) for line in lines)


def test_no_output_and_no_log_holds_a_secret(stack: Stack) -> None:
    publisher = Publisher(stack)
    printed = use_it_all(stack, publisher)
    logs = {log.name: log.read_text(errors="replace") for log in (stack.folder / "state").rglob("*.log")}
    assert {f"{name}Function.log" for name in ("Digest", "Publish", "Uploads", "Maintain")} <= logs.keys()
    uploads = logs["UploadsFunction.log"].replace(" ", "")
    assert '"message":"answered"' in uploads
    assert '"message":"refused"' in uploads
    assert CALLER in uploads, "who called is told, and that is no secret"
    texts = {"what admin printed": printed, "what the stack printed": stack.log, **logs}
    assert '"message":"ingested"' in texts["DigestFunction.log"].replace(" ", "")
    held = {*publisher.secrets, str(stack.facts["secret_access_key"]), *NEVER}
    found = {(where, secret) for where, text in texts.items() for secret in held if secret.lower() in text.lower()}
    assert found == set()
