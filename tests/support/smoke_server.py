"""A whole server in memory for `scripts/smoke`: S3's PUT, the edge and the API. A fault changes one answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from cli.admin.deployment import Deployment
from cli.smoke import __main__ as smoke
from cli.smoke import server
from cli.smoke.web import Answer
from imageserver.api.schema import BatchRequest, Single
from imageserver.storage.port import KeyHistory, ObjectInfo, Opened, Store, StoredObject
from tests.support.memory_store import MemoryStore, System

EDGE, API, S3 = "https://images.example.org", "https://api.example.org", "https://s3.example.org"


FOREIGN = "images/ubuntu/noble/amd64/default/20261123_10:00"
OWN = ("images-smoke/smoke-test/deployment/amd64/check", "versions/images-smoke/smoke-test/deployment/amd64/check")
NOW = datetime(2026, 11, 25, 18, 6, tzinfo=UTC)


Change = Callable[[Answer], Answer]


@dataclass
class Recorder(Store):
    """A store that records each call. `refuse` raises in place of some."""

    inner: MemoryStore
    calls: list[tuple[str, str]] = field(default_factory=list)
    refuse: Callable[[str, str], None] = lambda *_: None

    def _note(self, method: str, key: str) -> None:
        self.calls.append((method, key))
        self.refuse(method, key)

    def read(self, key: str) -> StoredObject | None:
        self._note("read", key)
        return self.inner.read(key)

    def create(self, key: str, body: bytes) -> str | None:
        self._note("create", key)
        return self.inner.create(key, body)

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        self._note("replace", key)
        return self.inner.replace(key, body, revision)

    def delete(self, key: str, revision: str) -> bool:
        self._note("delete", key)
        return self.inner.delete(key, revision)

    def history(self, key: str) -> KeyHistory:
        self._note("history", key)
        return self.inner.history(key)

    def bring_back(self, upload: ObjectInfo) -> bool:
        self._note("bring_back", upload.key)
        return self.inner.bring_back(upload)

    def tag_listed(self, key: str, version_id: str) -> bool:
        self._note("tag_listed", key)
        return self.inner.tag_listed(key, version_id)

    def is_tagged(self, key: str) -> bool:
        self._note("is_tagged", key)
        return self.inner.is_tagged(key)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self._note("list", prefix)
        return self.inner.list(prefix, after)

    def earlier(self, key: str) -> Iterator[bytes]:
        self._note("earlier", key)
        return self.inner.earlier(key)

    def open(self, key: str, etag: str) -> Opened:
        self._note("open", key)
        return self.inner.open(key, etag)


@dataclass
class FakeServer:
    """`faults`: pattern of "METHOD address" -> a change of the answer. `events` handles what was uploaded."""

    system: System = field(default_factory=System)
    faults: dict[str, Change] = field(default_factory=dict)
    events: Callable[[FakeServer], None] = lambda fake: fake.system.catch_up()
    publisher: bool = True
    invalidated: list[str] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda _: None
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.system.store.clock = datetime.now(UTC)  # the smoke test names its version after this moment
        self.recorder = Recorder(self.system.store)

    def pause(self, _seconds: float) -> None:
        """Let time pass."""
        self.events(self)

    def ask(self, url: str, method: str = "GET", headers: Any = None, body: bytes | None = None) -> Answer:
        self.on_request(f"{method} {url}")
        answer = self._answer(url, method, dict(headers or {}), body or b"")
        for pattern, change in self.faults.items():
            if fnmatchcase(f"{method} {url}", pattern):
                answer = change(answer)
        return answer

    def _answer(self, url: str, method: str, headers: dict[str, str], body: bytes) -> Answer:
        if url.startswith(S3):
            assert method == "PUT"
            self.system.store.put(url.removeprefix(f"{S3}/"), body)
            return Answer(200, {}, b"")
        if url.startswith(API):
            return self._api(url.removeprefix(f"{API}/"), method, headers, body)
        if url.startswith("http://"):
            return Answer(301, {"location": f"https://{url.removeprefix('http://')}"}, b"")
        return self._edge(url.removeprefix(f"{EDGE}/"))

    def _edge(self, key: str) -> Answer:
        if key == "":
            return Answer(200, {"content-type": "text/html; charset=utf-8"}, b"<!doctype html><html></html>")
        found = self.system.store.objects.get(key)
        if found is None:
            return Answer(404, {"content-type": "application/xml"}, b"<Error/>")
        if key.startswith("streams/"):
            return Answer(200, {"content-type": "application/json", "cache-control": "public, max-age=30"}, found.body)
        about = {"content-type": "application/octet-stream", "cache-control": "public, max-age=31536000, immutable"}
        return Answer(200, about, found.body)

    def _api(self, path: str, method: str, headers: dict[str, str], body: bytes) -> Answer:
        if path == "openapi.json":
            return Answer(200, {}, b'{"openapi": "3.1.0"}')
        if not headers.get("X-Local-Caller"):
            return Answer(403, {}, b'{"message":"Forbidden"}')
        if not self.publisher:
            return Answer(403, {}, b'{"type": "x", "detail": "you may not write there"}')
        if method == "POST":
            return Answer(201, {}, self._signed(msgspec.json.decode(body, type=BatchRequest)))
        return Answer(200, {}, self._status(path.removeprefix("versions/").replace("~", ":")))

    def _signed(self, request: BatchRequest) -> bytes:
        paths = ((f"{request.version}/{file.file}", file.size) for file in request.files)
        signed = [
            Single(path=path, size=size, url=f"{S3}/{path}", headers={"Content-Length": str(size)}, expires_at="later")
            for path, size in paths
        ]
        return json.dumps({"version": request.version, "uploads": msgspec.to_builtins(signed)}).encode()

    def _status(self, version: str) -> bytes:
        body = self.system.store.objects[f"{version}/lxd.tar.xz"].body
        body += self.system.store.objects[f"{version}/rootfs.tar.xz"].body
        fingerprints = [hashlib.sha256(body).hexdigest()]
        return json.dumps({"path": version, "status": "listed", "fingerprints": fingerprints}).encode()

    def left(self) -> list[str]:
        """Return the keys that a smoke test must not leave behind."""
        return [key for key in self.system.store.objects if "smoke" in key and not key.startswith("streams/")]


class FakeDeployment(Deployment):
    """A server whose edge records what it is asked to invalidate."""

    def invalidate(self, keys: Any) -> None:
        self.session.invalidated.extend(keys)


def found(fake: FakeServer) -> server.Server:
    deployment = FakeDeployment(fake, "images-1", endpoint="memory", deployed_for=fake.system.clients)
    deployment.__dict__["store"] = fake.recorder
    # `fake` stands in for the web session.
    return server.Server(deployment, EDGE, API, fake, fake.pause)  # type: ignore[arg-type]


def smoked(*arguments: str, code: int = 0) -> Result:
    """Run the command without real clients, since this server is not on the network."""
    done = CliRunner().invoke(smoke.main, ["--skip", "lxc", "--skip", "incus", "--wait", "1", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def steps_of(done: Result) -> dict[str, tuple[str, str]]:
    """Return step -> its result and detail."""
    return {step["step"]: (step["result"], step["detail"]) for step in json.loads(done.stdout)["steps"]}
