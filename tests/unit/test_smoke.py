"""`scripts/smoke` over a bucket in memory: what it finds, what it says, and that nothing of it is left.

`FakeServer` is a whole server: S3's PUT, the edge, the API. A fault is one change to what it answers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from click.testing import CliRunner, Result

from cli.admin.deployment import Deployment
from cli.smoke import __main__ as smoke
from cli.smoke import checks, image, lease, reader, report, server, uploading
from cli.smoke.clients import usable
from cli.smoke.failed import Skipped
from cli.smoke.run import Done, Step
from cli.smoke.web import Answer, Web
from imageserver.api.schema import BatchAnswer, BatchRequest, Single
from imageserver.errors import StorageDenied
from imageserver.operations.withdraw import withdraw
from imageserver.storage.port import Document, ObjectInfo, Opened, Store
from tests.support import client_rules as clients
from tests.support import images
from tests.support.memory_store import MemoryStore, System
from tests.support.servers.http import served

EDGE, API, S3 = "https://images.example.org", "https://api.example.org", "https://s3.example.org"
FOREIGN = "images/ubuntu/noble/amd64/default/20261123_10:00"
OWN = ("images-smoke/smoke-test/deployment/amd64/check", "versions/images-smoke/smoke-test/deployment/amd64/check")
NOW = datetime(2026, 11, 25, 18, 6, tzinfo=UTC)

Change = Callable[[Answer], Answer]


@dataclass
class Recorder(Store):
    """A store that notes each call; `refuse` raises in place of some."""

    inner: MemoryStore
    calls: list[tuple[str, str]] = field(default_factory=list)
    refuse: Callable[[str, str], None] = lambda *_: None

    def _note(self, method: str, key: str) -> None:
        self.calls.append((method, key))
        self.refuse(method, key)

    def read(self, key: str) -> Document | None:
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

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self._note("list", prefix)
        return self.inner.list(prefix, after)

    def open(self, key: str, etag: str) -> Opened:
        self._note("open", key)
        return self.inner.open(key, etag)


@dataclass
class FakeServer:
    """`faults`: pattern of "METHOD address" -> what becomes of the answer. `events` sees to what has happened."""

    system: System = field(default_factory=System)
    faults: dict[str, Change] = field(default_factory=dict)
    events: Callable[[FakeServer], None] = lambda fake: fake.system.catch_up()
    publisher: bool = True
    invalidated: list[str] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda _: None
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.system.store)

    def pause(self, _seconds: float) -> None:
        """Time passes."""
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
        """The keys that a smoke test must not leave behind."""
        return [key for key in self.system.store.objects if "smoke" in key and not key.startswith("streams/")]


class FakeDeployment(Deployment):
    """A server whose edge writes down what it was told to invalidate."""

    def invalidate(self, keys: Any) -> None:
        self.session.invalidated.extend(keys)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server that lists one image of somebody else."""
    made = FakeServer()
    made.system.upload(FOREIGN, images.split_image(seed="foreign"))
    made.system.catch_up()
    monkeypatch.setattr(server, "find", lambda *_: found(made))
    return made


def found(fake: FakeServer) -> server.Server:
    deployment = FakeDeployment(fake, "images-1", endpoint="memory", deployed_for=fake.system.clients)
    deployment.__dict__["store"] = fake.recorder
    return server.Server(deployment, EDGE, API, fake, fake.pause)  # type: ignore[arg-type]


def smoked(*arguments: str, code: int = 0) -> Result:
    """Run the command; without real clients, since nothing of this server is on the network."""
    done = CliRunner().invoke(smoke.main, ["--skip", "lxc", "--skip", "incus", "--wait", "1", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def steps_of(done: Result) -> dict[str, tuple[str, str]]:
    """Step -> how it ended, with its detail."""
    return {step["step"]: (step["result"], step["detail"]) for step in json.loads(done.stdout)["steps"]}


# ── the journey ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_working_server_passes_the_smoke_test_and_nothing_is_left_behind(fake: FakeServer) -> None:
    before = fake.system.streams()["streams/v1/images.json"]
    done = smoked("--json")
    printed = json.loads(done.stdout)
    assert (printed["ok"], printed["left"]) == (True, False)
    assert {name for name, (result, _) in steps_of(done).items() if result == "skipped"} == {"lxc", "incus"}
    assert fake.left() == []
    assert fake.system.listed("images-smoke") == {}
    assert clients.read_catalog(fake.system.streams()["streams/v1/index.json"], fake.system.streams())
    assert fake.system.streams()["streams/v1/images.json"] == before
    assert set(fake.invalidated) == {f"{printed['version']}/lxd.tar.xz", f"{printed['version']}/rootfs.tar.xz"}


def test_the_smoke_test_changes_nothing_outside_its_product(fake: FakeServer) -> None:
    smoked()
    changed = {key for method, key in fake.recorder.calls if method in ("create", "replace", "delete")}
    assert changed
    assert {key for key in changed if not key.startswith(OWN)} == {image.LEASE_KEY}
    seen = {key for method, key in fake.recorder.calls if method in ("read", "list", "open")}
    own = (*OWN, image.LEASE_KEY, "streams/v1/images-smoke.")
    assert {key for key in seen if not key.startswith(own)} == set()


def test_the_version_is_listed_for_clients_while_the_test_runs(fake: FakeServer) -> None:
    smoked("--keep")
    names = {name for found in clients.read_catalog(*_served(fake)) for name in found.aliases}
    assert set(image.ALIASES) <= names


def _served(fake: FakeServer) -> tuple[bytes, Mapping[str, bytes]]:
    return fake.system.streams()["streams/v1/index.json"], fake.system.streams()


def test_keep_leaves_the_image_for_the_next_run_to_remove(fake: FakeServer) -> None:
    done = steps_of(smoked("--keep", "--json"))
    assert {done[name] for name in ("withdraw", "delisted", "remove", "gone")} == {("skipped", "--keep")}
    assert fake.left()
    printed = json.loads(smoked("--keep", "--json").stdout)
    assert (printed["kept"], printed["left"]) == (True, False)
    result, detail = steps_of(smoked("--json"))["tidy"]
    assert (result, detail[:8]) == ("ok", "removed ")
    assert fake.left() == []


def test_a_version_withdrawn_by_hand_is_removed_before_its_grace_time_ends(fake: FakeServer) -> None:
    smoked("--keep")
    withdraw(fake.recorder, image.PRODUCT, NOW, 24 * 365 * 100, lambda _: None, "by hand")
    smoked()
    assert fake.left() == []


def test_a_caller_that_is_no_publisher_signs_with_its_own_credentials(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.publisher = False

    def signed(_: object, made: image.Image) -> Any:
        body = fake._signed(uploading.request_of(made))
        return msgspec.json.decode(body, type=BatchAnswer)

    monkeypatch.setattr(uploading, "with_own_credentials", signed)
    done = steps_of(smoked("--json"))
    assert done["upload"] == (
        "ok", "signed with your own credentials: the API answers 403: you may not write there"
    )  # fmt: skip
    assert done["status"] == ("skipped", "the caller is no publisher")


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────


def header(**changed: str) -> Change:
    """Other headers; an empty one is taken away. Words are joined by _ here."""
    names = {name.replace("_", "-"): value for name, value in changed.items()}
    return lambda answer: replace(
        answer, headers={name: value for name, value in {**answer.headers, **names}.items() if value}
    )


def body(change: Callable[[bytes], bytes]) -> Change:
    return lambda answer: replace(answer, body=change(answer.body)) if answer.status == 200 else answer


def code(status: int) -> Change:
    return lambda answer: replace(answer, status=status)


def no_answer(_: Answer) -> Answer:
    raise ConnectionError("refused")


FILES = f"GET {EDGE}/{OWN[0]}/2*"
INDEX = f"GET {EDGE}/streams/v1/index.json"
DOCUMENT = f"GET {EDGE}/streams/v1/images-smoke.json"


@pytest.mark.parametrize(
    ("where", "fault", "step", "words"),
    [
        (FILES, body(lambda b: b[:-1] + bytes([b[-1] ^ 1])), "download", "has sha256"),
        (FILES, body(lambda b: b[:-1]), "download", "bytes, expected"),
        (FILES, header(content_encoding="gzip"), "download", "which breaks its sha256"),
        (FILES, header(content_type="text/html"), "download", "expected application/octet-stream"),
        (FILES, header(cache_control=""), "download", "expected immutable and a long max-age"),
        (FILES, code(403), "missing", "answers 403, expected 404"),
        (FILES, header(cache_control="public, max-age=31536000, immutable"), "missing", "would outlive an upload"),
        (f"GET {EDGE}/streams/v1/no-such*", code(200), "missing", "answers 200, expected 404"),
        (f"GET {EDGE}/streams/v1/images.json", code(503), "catalog", "images.json answers 503, expected 200"),
        (f"GET {EDGE}/streams/v1/images.json", body(lambda b: b.replace(b'"size":', b'"size":"1","s":')), "catalog",
         "no client can read it"),
        (INDEX, header(content_type="text/plain"), "catalog", "expected application/json"),
        (INDEX, header(cache_control="max-age=31536000, immutable"), "catalog", "expected at most 300 s"),
        (INDEX, header(content_encoding="br"), "catalog", "Content-Encoding br"),
        (INDEX, header(content_encoding="gzip"), "catalog", "says that it is gzip, and is not"),
        (DOCUMENT, body(lambda b: b.replace(b'"sha256":"', b'"sha256":"0')), "entry", "other files, sizes or digests"),
        (DOCUMENT, body(lambda b: b.replace(b'rootxz_sha256":"', b'rootxz_sha256":"0')), "entry", "the fingerprint 0"),
        (DOCUMENT, body(lambda b: b.replace(b'"ftype":"incus.tar.xz"', b'"ftype":"other"')), "entry",
         "listed for lxd, expected once for each of incus, lxd"),
        (DOCUMENT, body(lambda b: b.replace(b"smoke-test/deployment/check", b"smoke-test/other")), "entry", "aliases"),
        (f"GET {EDGE}/", code(404), "page", "answers 404, expected the page"),
        (f"GET {EDGE}/", body(lambda _: b"{}"), "page", "is no HTML document"),
        (f"GET {API}/openapi.json", code(500), "api", "answers 500, expected 200"),
        (f"GET {API}/openapi.json", body(lambda _: b"[]"), "api", "is no OpenAPI document"),
        (f"GET {API}/versions/*", code(200), "stranger", "expected 401 or 403"),
        (f"GET {API}/versions/*", body(lambda b: b.replace(b"listed", b"incomplete")), "status", "says incomplete"),
        (f"POST {API}/*", code(500), "upload", "the API answers 500 for an upload"),
        (f"PUT {S3}/*", code(403), "upload", "S3 answers 403 for the PUT of images-smoke/"),
        ("GET http://*", code(200), "redirect", "answers 200"),
        ("GET http://*", header(location=f"{EDGE}/elsewhere"), "redirect", "expected a redirect to https"),
        ("GET http://*", no_answer, "redirect", "so port 80 must answer"),
    ],
)  # fmt: skip
def test_each_fault_fails_its_step_and_the_image_is_still_removed(
    fake: FakeServer, where: str, fault: Change, step: str, words: str
) -> None:
    fake.faults[where] = fault
    done = smoked("--json", code=1)
    result, detail = steps_of(done)[step]
    assert (result, words in detail) == ("failed", True), detail
    assert json.loads(done.stdout)["left"] is False
    assert fake.left() == []


def test_another_product_with_an_alias_of_the_image_is_named_and_nothing_is_uploaded(fake: FakeServer) -> None:
    taken = json.dumps({"aliases": [image.ALIASES[1]]}).encode()
    fake.system.upload(FOREIGN, {"metadata.json": taken})
    fake.system.catch_up()
    done = smoked("--json", code=1)
    result, detail = steps_of(done)["upload"]
    assert (result, f"has the alias {image.ALIASES[1]}" in detail) == ("failed", True)
    assert steps_of(done)["withdraw"] == ("skipped", "nothing was uploaded")
    assert fake.left() == []


def test_an_empty_server_without_an_index_fails_the_catalog_alone(fake: FakeServer) -> None:
    fake.system.store.objects.clear()
    done = steps_of(smoked("--json", code=1))
    assert {name for name, (result, _) in done.items() if result == "failed"} == {"catalog"}
    assert "`admin reconcile` lays it out" in done["catalog"][1]


def nobody_reads(_: FakeServer) -> None:
    pass


def digest_reads(fake: FakeServer) -> None:
    for version in fake.system.versions():
        fake.system.ingest(version.path)


def digest_refuses(fake: FakeServer) -> None:
    for key in [key for key in fake.left() if key.endswith("rootfs.tar.xz")]:
        fake.system.store.put(key, b"no tarball")
    digest_reads(fake)


def edge_is_old(fake: FakeServer) -> None:
    fake.system.catch_up()
    fake.faults[INDEX] = body(lambda _: b'{"format":"index:1.0","index":{}}')


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (nobody_reads, "no record was written: digest has not read the files"),
        (digest_refuses, "its record says invalid: rootfs.tar.xz"),
        (digest_reads, "the catalog in the bucket does not list it (the queue changes, publish)"),
        (edge_is_old, f"the catalog in the bucket lists it, and {EDGE} does not (the edge)"),
    ],
)
def test_a_version_not_listed_in_time_is_reported_with_its_current_state(
    fake: FakeServer, happens: Callable[[FakeServer], None], words: str
) -> None:
    usual, fake.events = fake.events, happens

    def request(line: str) -> None:
        if line.startswith("GET http://"):  # the step after `listed`: all is well again
            fake.events = usual
            fake.faults.clear()

    fake.on_request = request
    done = smoked("--json", code=1)
    result, detail = steps_of(done)["listed"]
    assert (result, words in detail) == ("failed", True), detail
    assert steps_of(done)["entry"] == ("skipped", "needs listed")
    assert fake.left() == []


# ── cleaning up ──────────────────────────────────────────────────────────────────────────────────────────────────


def refuse_records(method: str, key: str) -> None:
    if method in ("create", "replace") and key.startswith("versions/"):
        raise StorageDenied(f"{method} of {key}: AccessDenied")


def test_a_refused_withdrawal_is_reported_with_the_command_that_helps(fake: FakeServer) -> None:
    fake.recorder.refuse = refuse_records
    done = smoked("--json", code=smoke.LEFT)
    printed = steps_of(done)
    assert (printed["withdraw"][0], "AccessDenied" in printed["withdraw"][1]) == ("failed", True)
    assert printed["remove"] == ("skipped", "needs withdraw")
    assert json.loads(done.stdout)["left"] is True
    assert f"./scripts/admin withdraw {OWN[0]} --yes" in done.stderr
    assert fake.left()
    fake.recorder.refuse = lambda *_: None
    smoked()
    assert fake.left() == []


def test_a_failed_cleanup_blocks_the_next_upload(fake: FakeServer) -> None:
    smoked("--keep")
    before = fake.left()
    fake.recorder.refuse = refuse_records
    done = steps_of(smoked("--json", code=smoke.LEFT))
    assert (done["tidy"][0], done["upload"]) == ("failed", ("skipped", "needs tidy"))
    assert fake.left() == before


def test_no_file_is_deleted_while_the_catalog_lists_it(fake: FakeServer) -> None:
    fake.recorder.refuse = lambda method, key: stop_events(fake, method, key)
    done = steps_of(smoked("--json", code=smoke.LEFT))
    assert (done["withdraw"][0], done["delisted"][0], done["remove"][0]) == ("ok", "failed", "failed")
    assert "may still name it (publish)" in done["remove"][1]
    assert len([key for key in fake.left() if key.startswith("images-smoke/")]) == 2


def stop_events(fake: FakeServer, method: str, key: str) -> None:
    """Once a record is withdrawn, nobody publishes any more."""
    if (method, key[:9]) == ("replace", "versions/"):
        fake.events = nobody_reads


def test_a_distribution_that_still_serves_deleted_files_is_found(fake: FakeServer) -> None:
    kept: list[Answer] = []

    def keep(answer: Answer) -> Answer:
        if answer.status == 200:
            kept.append(answer)
        return kept[0]

    fake.faults[f"{FILES}.tar.xz"] = keep
    done = smoked("--json", code=1)
    result, detail = steps_of(done)["gone"]
    assert (result, "the edge still has it" in detail) == ("failed", True)


def test_a_server_that_answers_403_for_missing_keys_passes_with_that_check_skipped(fake: FakeServer) -> None:
    fake.faults[f"GET {EDGE}/*"] = lambda answer: replace(answer, status=403) if answer.status == 404 else answer
    assert "expected 404" in steps_of(smoked("--json", code=1))["gone"][1]
    smoked("--skip", "missing")


def interrupt(fake: FakeServer, *places: str) -> None:
    """Press Ctrl-C at the first request that matches each pattern, one after the other."""
    left = list(places)

    def request(line: str) -> None:
        if left and fnmatchcase(line, left[0]):
            left.pop(0)
            raise KeyboardInterrupt

    fake.on_request = request


@pytest.mark.parametrize(
    ("where", "step"),
    [(f"PUT {S3}/*lxd.tar.xz", "upload"), (DOCUMENT, "listed"), (FILES, "download"), ("GET http://*", "redirect")],
)
def test_an_interrupted_run_cleans_up_at_once(fake: FakeServer, where: str, step: str) -> None:
    interrupt(fake, where)
    done = smoked("--json", code=smoke.INTERRUPTED)
    printed = steps_of(done)
    assert printed[step] == ("interrupted", "")
    assert {printed[name][0] for name in ("withdraw", "delisted", "remove", "gone")} == {"ok"}
    assert printed["page"] == ("skipped", "interrupted")
    assert "press Ctrl-C again to stop at once" in done.stderr
    assert fake.left() == []


def test_a_second_interrupt_stops_the_smoke_test_at_once_and_the_next_run_cleans_up(fake: FakeServer) -> None:
    interrupt(fake, FILES, INDEX)
    done = smoked("--json", code=smoke.INTERRUPTED)
    assert [steps_of(done)[name][0] for name in ("delisted", "remove", "gone")] == ["interrupted", "skipped", "skipped"]
    assert "may be left: run it again" in done.stderr
    assert fake.left()
    assert steps_of(smoked("--json"))["tidy"][1].startswith("removed ")
    assert fake.left() == []


def test_an_error_of_the_smoke_test_is_reported_in_full_and_the_image_is_still_removed(
    fake: FakeServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Answer) -> Answer:
        raise ZeroDivisionError("by design")

    fake.faults[FILES] = broken
    done = steps_of(smoked("--json", code=1))
    assert done["download"] == ("failed", "a fault of the smoke test itself: ZeroDivisionError('by design')")
    assert fake.left() == []


# ── one at a time ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_running_smoke_test_excludes_others_until_its_lease_is_taken_over(fake: FakeServer) -> None:
    with lease.held(fake.recorder, 600, take_over=False):
        done = smoked(code=smoke.RUNNING)
        assert f"process {os.getpid()} on {socket.gethostname()}" in done.stderr
        assert "add --take-over" in done.stderr
        smoked("--take-over")
    assert fake.left() == []


def test_the_lease_of_a_killed_process_of_this_machine_is_no_obstacle(fake: FakeServer) -> None:
    gone = json.dumps({"until": "2126-01-01T00:00:00+00:00", "token": f"{socket.gethostname()} 4194305 x"})
    fake.system.store.put(image.LEASE_KEY, gone.encode())
    smoked()


def test_the_lease_of_a_process_of_another_machine_is_an_obstacle(fake: FakeServer) -> None:
    other = json.dumps({"until": "2126-01-01T00:00:00+00:00", "token": f"not-{socket.gethostname()} 1 x"})
    fake.system.store.put(image.LEASE_KEY, other.encode())
    assert "2126-01-01" in smoked(code=smoke.RUNNING).stderr


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_version_is_named_after_the_first_free_minute() -> None:
    assert image.build(NOW, (), "x").version.version == "20261125_1806"
    assert image.build(NOW, {"20261125_1806", "20261125_1807"}, "x").version.version == "20261125_1808"
    assert image.build(NOW, {"20261125_18:06"}, "x").version.version == "20261125_18:07"


def test_two_images_of_one_minute_have_two_fingerprints() -> None:
    assert image.build(NOW, (), "x").fingerprint != image.build(NOW, (), "y").fingerprint


def test_the_reader_sees_what_the_clients_see() -> None:
    """Held against the other reader, which tests hold against the real clients."""
    goldens = Path(__file__).parent / "goldens"
    documents = {f"streams/v1/{file.name}": file.read_bytes() for file in goldens.glob("*.json")}
    found = reader.read_catalog(lambda path: documents[path])
    assert found
    for client in reader.CLIENTS:
        theirs = clients.read_catalog(documents[reader.INDEX], documents, client)
        expected = {
            (
                one.fingerprint,
                frozenset((f.path, f.size_bytes, f.sha256) for r, f in one.files.items() if "delta" not in r),
            )
            for one in theirs
        }
        ours = [one for one in found if one.client == client]
        assert {(one.fingerprint, frozenset((i.path, i.size, i.sha256) for i in one.items)) for one in ours} == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"size":', '"size":"1","x":', 1),
        lambda text: text.replace('"aliases":"', '"aliases":[],"x":"', 1),
        lambda text: text[:-1],
    ],
)
def test_the_reader_fails_where_clients_fail(damage: Callable[[str], str]) -> None:
    golden = (Path(__file__).parent / "goldens/images.json").read_text()
    with pytest.raises(reader.NotReadable, match=r"images\.json: no client can read it"):
        reader.read_products(damage(golden).encode(), "streams/v1/images.json")


def test_the_table_is_aligned_and_a_detail_stays_in_its_row() -> None:
    done = [Done("tidy", "ok", 0.5, ""), Done("page", "failed", 12.25, "two\nlines"), Done("lxc", "skipped", 0, "no")]
    assert report.table(done).splitlines() == [
        "STEP  RESULT   SECONDS",
        "tidy  ok           0.5",
        "page  failed      12.2  two lines",
        "lxc   skipped           no",
    ]
    assert report.summary(done) == "1 of 2 steps not ok: page (13 s)"
    assert report.summary(done[:1]) == "1 steps ok (0 s)"


def test_long_steps_are_reported_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "QUIET_S", 0.01)
    with report.watch(Step("listed", "waiting for it", lambda _: "")):
        time.sleep(0.2)
    assert capsys.readouterr().err == "smoke: listed: waiting for it\n"
    monkeypatch.setattr(report, "QUIET_S", 60)
    with report.watch(Step("listed", "waiting for it", lambda _: "")):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [("public, max-age=31536000, immutable", 31536000), ("s-maxage=9,max-age=30", 30), ("no-store", 0), ("", 0)],
)
def test_each_kind_of_answer_has_its_lifetime(cache_control: str, seconds: int) -> None:
    assert checks.max_age_s({"cache-control": cache_control}) == seconds


@pytest.mark.parametrize(
    "line",
    [
        "--stack images --state-dir /tmp",
        "--address images.example.org",
        "--api ftp://example.org",
        "--skip upload",
        "--wait 0",
    ],
)
def test_wrong_usage_exits_with_2(line: str) -> None:
    assert CliRunner().invoke(smoke.main, line.split()).exit_code == 2


def test_every_exit_code_is_explained() -> None:
    printed = smoke.EXIT_CODES
    for number in (0, smoke.FAILED, 2, smoke.LEFT, 4, 5, 6, 7, smoke.RUNNING, smoke.INTERRUPTED):
        assert f" {number} " in printed


def test_without_a_local_stack_each_script_reports_that_under_its_own_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(smoke.main, ["--state-dir", str(tmp_path)], prog_name="smoke")
    assert done.exit_code == 6
    assert done.stderr.startswith("smoke: no local stack is running")


def test_a_snap_or_a_script_is_not_mistaken_for_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skipped, match="not installed"):
        usable("lxc")
    (tmp_path / "snap").write_bytes(b"\x7fELF")
    (tmp_path / "lxc").symlink_to(tmp_path / "snap")
    (tmp_path / "incus").write_text("#!/bin/sh\n")
    for program in ("lxc", "incus"):
        (tmp_path / program).chmod(0o755)
        with pytest.raises(Skipped, match="a snap or a script"):
            usable(program)


def test_a_busy_api_is_retried(fake: FakeServer) -> None:
    answers = iter([503, 429, 200])
    fake.faults[f"GET {API}/*"] = lambda answer: replace(answer, status=next(answers))
    assert found(fake).call("GET", "openapi.json").status == 200


def test_an_s3_error_is_reported_without_the_signature() -> None:
    xml = b"<Error><Code>AccessDenied</Code><Message>Request has\nexpired</Message><Token>secret</Token></Error>"
    assert uploading.said(Answer(403, {}, xml)) == "AccessDenied: Request has expired"
    assert uploading.said(Answer(500, {}, b"")) == "nothing"


def test_a_caller_in_aws_is_identified_by_a_signature_or_a_token(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, str]] = []

    def ask(_url: str, _method: str, headers: dict[str, str], _body: bytes | None) -> Answer:
        heard.append(headers)
        return Answer(200, {}, b"")

    monkeypatch.setattr(fake, "ask", ask)
    session = boto3.Session("AKIAEXAMPLE", "secret", "token", region_name="eu-central-1")
    caller = replace(found(fake), deployment=Deployment(session, "images-1"))
    caller.call("POST", "uploads/batch", b"{}")
    monkeypatch.setenv("SIMPLESTREAMS_TOKEN", "abc")
    caller.call("GET", "versions/x")
    signed, bearer = heard
    assert "/eu-central-1/execute-api/aws4_request" in signed["Authorization"]
    assert signed["X-Amz-Security-Token"] == "token"
    assert bearer == {"Authorization": "Bearer abc"}


class Odd(BaseHTTPRequestHandler):
    """Answers as a page's name says."""

    def log_message(self, *_: object) -> None:
        """Quiet."""

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
