"""Every route of the upload API asks for the caller's rights, and changes nothing without them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from imageserver.api.openapi import document
from imageserver.format.keys import parse_target, parse_version
from imageserver.operations.promotion import promote
from imageserver.operations.view_documents import create_view
from imageserver.operations.withdraw import withdraw
from tests.support import images
from tests.support.handlers import Context, imported
from tests.support.memory_store import START, MemoryStore, System
from tests.support.views import channel

VERSION = "images/ubuntu/noble/amd64/default/20261123_10:00"
TEAM_A = "arn:aws:iam::123456789012:user/team-a"
EVERYBODY = "arn:aws:iam::123456789012:user/all"
FILE = {"path": f"{VERSION}/disk.qcow2", "size": 10}
BATCH = {"version": VERSION, "files": [{"file": "disk.qcow2", "size": 10}]}
REQUESTS: dict[str, tuple[str, object]] = {
    "POST /uploads": ("", FILE),
    "POST /uploads/batch": ("", BATCH),
    "GET /versions/{path+}": (VERSION, None),
    "PATCH /versions/{path+}": (VERSION, {"withdrawn": False}),
    "DELETE /{path+}": (VERSION, None),
    "POST /promotions": ("", {"path": VERSION, "channel": "stable"}),
    "POST /checks": ("", {"path": VERSION, "check": "boots", "passed": True, "fingerprints": ["0" * 64]}),
}
ABOUT_VIEWS = ("POST /promotions", "POST /checks")


class Uploads(MemoryStore):
    """imageserver.storage.presigned.S3Uploads over memory. A URL names its purpose."""

    def sign(self, operation: str, key: str, _headers: object, _lifetime_s: int, **_: Any) -> str:
        return f"https://s3/{operation}/{key}"


@pytest.fixture
def system() -> System:
    system = System(Uploads())
    system.upload(VERSION, images.split_image())
    system.catch_up()
    return system


@pytest.fixture
def app(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    publishers = json.dumps({TEAM_A: ["team-a/"], EVERYBODY: ["images*"]})
    environment = {"BUCKET": "images", "ALLOW_DELETES": "true", "PUBLISHERS": publishers}
    with imported("imageserver.handlers.uploads", environment) as app:
        monkeypatch.setattr(app, "store", system.store)
        monkeypatch.setattr(app, "cache", app.DocumentCache(system.store))
        yield app


def ask(app: ModuleType, route: str, caller: str, path: str, body: object) -> tuple[int, Any]:
    """Send a request; return the status and the document of the answer."""
    event = {
        "routeKey": route,
        "headers": {"content-type": "application/json"},
        "requestContext": {"authorizer": {"iam": {"userArn": caller}} if caller else None},
        "pathParameters": {"path": path},
        "body": json.dumps(body) if body else "",
    }
    answer = app.handler(event, Context())
    return answer["statusCode"], json.loads(answer["body"])


def test_every_route_of_the_api_has_a_request_here(app: ModuleType) -> None:
    assert REQUESTS.keys() == app.ROUTES.keys()


@pytest.mark.parametrize("caller", ["", TEAM_A, "arn:aws:iam::123456789012:user/stranger"])
@pytest.mark.parametrize("withdrawn", [False, True])
@pytest.mark.parametrize("route", REQUESTS)
def test_a_caller_without_rights_is_refused_and_changes_nothing(
    app: ModuleType, system: System, route: str, withdrawn: bool, caller: str
) -> None:
    if withdrawn:
        withdraw(system.store, parse_target(VERSION), START, 24, lambda _: None)
    before = {key: found.body for key, found in system.store.objects.items()}
    status, problem = ask(app, route, caller, *REQUESTS[route])
    assert status == 403, problem
    assert re.search("may not (write to|promote|post results of)", problem["detail"])
    assert {key: found.body for key, found in system.store.objects.items()} == before


@pytest.mark.parametrize("route", [route for route in REQUESTS if route not in ABOUT_VIEWS])
def test_a_caller_with_rights_is_answered(app: ModuleType, system: System, route: str) -> None:
    if route.startswith("PATCH"):
        withdraw(system.store, parse_target(VERSION), START, 24, lambda _: None)
    status, answer = ask(app, route, EVERYBODY, *REQUESTS[route])
    assert status < 300, answer


def batch_of(*files: tuple[str, bytes]) -> dict[str, object]:
    about = [{"file": name, "size": len(body), "sha256": images.sha256_hex(body)} for name, body in files]
    return {"version": VERSION, "files": about}


@pytest.mark.parametrize("path", [f"{VERSION}/", f"/{VERSION}", "ubuntu/noble/", "imagesmith/1"])
def test_a_status_is_found_with_a_slash_at_an_end_and_by_an_alias_that_begins_as_a_stream_does(
    app: ModuleType, system: System, path: str
) -> None:
    other = "images/imagesmith/1/amd64/default/20261123_1000"
    system.upload(other, images.split_image(seed="imagesmith"))
    system.catch_up()
    status, answer = ask(app, "GET /versions/{path+}", EVERYBODY, path, None)
    assert (status, answer.get("path")) == (200, other if "smith" in path else VERSION), answer


def test_the_status_of_a_product_takes_a_slash_at_its_end(app: ModuleType) -> None:
    product, _, version = VERSION.rpartition("/")
    status, answer = ask(app, "GET /versions/{path+}", EVERYBODY, f"{product}/", None)
    assert (status, answer) == (200, {"path": product, "versions": [version]})


def test_a_file_is_present_only_with_the_digest_that_it_has(app: ModuleType, system: System) -> None:
    root = system.store.objects[f"{VERSION}/rootfs.squashfs"].body
    other = bytes([root[0] ^ 1]) + root[1:]
    status, answer = ask(app, "POST /uploads/batch", EVERYBODY, "", batch_of(("rootfs.squashfs", root)))
    assert (status, [upload["kind"] for upload in answer["uploads"]]) == (201, ["present"])
    status, problem = ask(app, "POST /uploads/batch", EVERYBODY, "", batch_of(("rootfs.squashfs", other)))
    assert (status, "exists already" in problem["detail"]) == (409, True), problem


def test_a_withdrawn_file_is_not_called_present_but_withdrawn(app: ModuleType, system: System) -> None:
    """If it were, nothing would be sent, and the file would be deleted at the end of its grace time."""
    path = f"{VERSION}/rootfs.squashfs"
    root = system.store.objects[path].body
    withdraw(system.store, parse_target(path), START, 24, lambda _: None)
    for route, body in (
        ("POST /uploads/batch", batch_of(("rootfs.squashfs", root))),
        ("POST /uploads", {"path": path, "size": len(root), "sha256": images.sha256_hex(root)}),
        ("POST /uploads", {"path": path, "size": len(root) + 1}),
    ):
        status, problem = ask(app, route, EVERYBODY, "", body)
        assert (status, problem["type"].rpartition(":")[2]) == (409, "withdrawn")
        assert f"{path} is withdrawn and will be deleted after" in problem["detail"]
    assert ask(app, "PATCH /versions/{path+}", EVERYBODY, path, {"withdrawn": False})[0] == 200
    status, answer = ask(app, "POST /uploads/batch", EVERYBODY, "", batch_of(("rootfs.squashfs", root)))
    assert (status, answer["uploads"][0]["kind"]) == (201, "present")


def test_a_withdrawn_file_is_sent_again_if_overwrites_are_allowed(
    app: ModuleType, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "settings", msgspec.structs.replace(app.settings, allow_overwrites=True))
    path = f"{VERSION}/rootfs.squashfs"
    root = system.store.objects[path].body
    withdraw(system.store, parse_target(path), START, 24, lambda _: None)
    status, answer = ask(app, "POST /uploads/batch", EVERYBODY, "", batch_of(("rootfs.squashfs", root)))
    assert (status, answer["uploads"][0]["kind"]) == (201, "single")
    system.store.put(path, root)
    system.catch_up()
    assert system.listed() == {"ubuntu:noble:amd64:default": ["20261123_10:00"]}


def test_a_file_of_a_withdrawn_version_is_not_reported_as_restored(app: ModuleType, system: System) -> None:
    withdraw(system.store, parse_target(VERSION), START, 24, lambda _: None)
    path = f"{VERSION}/rootfs.squashfs"
    status, problem = ask(app, "PATCH /versions/{path+}", EVERYBODY, path, {"withdrawn": False})
    assert status == 409
    assert f"{VERSION} is withdrawn as a whole, until" in problem["detail"]


@pytest.mark.parametrize("route", ["PATCH /versions/{path+}", "DELETE /{path+}"])
def test_a_version_that_is_being_deleted_is_not_called_missing(app: ModuleType, system: System, route: str) -> None:
    withdraw(system.store, parse_target(VERSION), START, 24, lambda _: None)
    key = f"versions/{VERSION}.json"
    body = system.store.objects[key].body.replace(b'"since":', b'"final":true,"since":')
    system.store.put(key, body.replace(b'"state":"withdrawn"', b'"state":"deleting"'))
    status, problem = ask(app, route, EVERYBODY, VERSION, {"withdrawn": False} if route.startswith("PATCH") else None)
    assert status == 409
    assert "its files are being deleted" in problem["detail"]
    verb, path = route.replace("{path+}", "{path}").split()
    assert "409" in document()["paths"][path][verb.lower()]["responses"]


BELOW_A = "images/team-a/1/amd64/default"


def limited_app(system: System, monkeypatch: pytest.MonkeyPatch, **limits: str) -> Iterator[ModuleType]:
    publishers = json.dumps({TEAM_A: ["team-a/"], EVERYBODY: ["images*"]})
    with imported("imageserver.handlers.uploads", {"BUCKET": "images", "PUBLISHERS": publishers, **limits}) as app:
        monkeypatch.setattr(app, "store", system.store)
        yield app


def sign(app: ModuleType, caller: str, version: str, *files: str, size: int = 10) -> tuple[int, str]:
    """Ask for URLs; return the status and the sentence of a refusal."""
    body = {"version": version, "files": [{"file": file, "size": size} for file in files]}
    status, answer = ask(app, "POST /uploads/batch", caller, "", body)
    one = ask(app, "POST /uploads", caller, "", {"path": f"{version}/{files[-1]}", "size": size})
    assert len(files) > 1 or one[0] == status, "both routes know the same limits"
    return status, answer.get("detail", "")


@pytest.mark.parametrize(
    ("limits", "version", "files", "expected"),
    [
        ({"MAX_FILES": "2"}, f"{BELOW_A}/20261101", ("disk.qcow2",), "the version has 2 files, which is the most"),
        ({"MAX_VERSIONS": "1"}, f"{BELOW_A}/20261102", ("lxd.tar.xz",), "the product has 1 versions"),
        (
            {"MAX_PRODUCTS": "1"}, "images/team-a/2/amd64/default/20261101", ("lxd.tar.xz",),
            f"{TEAM_A} has 1 products, which is the most that a publisher may have",
        ),
        ({"MAX_STORED_BYTES": "9000"}, f"{BELOW_A}/20261102", ("lxd.tar.xz",), "MaxStoredBytes"),
    ],
)  # fmt: skip
def test_a_limit_refuses_an_upload_before_anything_is_signed(
    system: System,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, str],
    version: str,
    files: tuple[str, ...],
    expected: str,
) -> None:
    system.upload(f"{BELOW_A}/20261101", images.split_image(seed="a"))
    system.catch_up()
    for app in limited_app(system, monkeypatch, **limits):
        status, sentence = sign(app, TEAM_A, version, *files, size=9000)
        assert (status, expected in sentence) == (422, True), sentence
        if "MAX_FILES" not in limits:
            assert sign(app, TEAM_A, f"{BELOW_A}/20261101", "rootfs.squashfs")[0] != 422, "what is there is no more"
    for app in limited_app(system, monkeypatch):
        assert sign(app, TEAM_A, version, *files, size=9000)[0] == 201, "the defaults are generous"


def test_a_caller_with_rights_to_every_stream_is_an_operator_and_has_no_quota(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    for app in limited_app(system, monkeypatch, MAX_PRODUCTS="1", MAX_STORED_BYTES="1"):
        assert sign(app, EVERYBODY, "images/new/1/amd64/default/20261101", "lxd.tar.xz")[0] == 201


def test_a_signed_upload_counts_before_it_arrives(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for app in limited_app(system, monkeypatch, MAX_PRODUCTS="2"):
        found = [sign(app, TEAM_A, f"images/team-a/{n}/amd64/default/20261101", "lxd.tar.xz")[0] for n in range(3)]
        assert found == [201, 201, 422]


def test_a_publisher_is_counted_once_in_five_minutes(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for app in limited_app(system, monkeypatch):
        system.store.log.clear()
        for seconds in (0.0, 299.0, 301.0):
            monkeypatch.setattr(app.quotas, "clock", lambda now=seconds: now)
            sign(app, TEAM_A, f"{BELOW_A}/20261105", "lxd.tar.xz")
        assert system.store.log.count(("list", "images/team-a/")) == 2


def test_a_publisher_above_its_rate_gets_retry_after(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for app in limited_app(system, monkeypatch, MAX_REQUESTS="40"):
        monkeypatch.setattr(app.rates, "clock", lambda: 0.0)
        event = {
            "routeKey": "GET /versions/{path+}",
            "headers": {},
            "requestContext": {"authorizer": {"iam": {"userArn": TEAM_A}}},
            "pathParameters": {"path": f"{BELOW_A}/20261101"},
        }
        answers = [app.handler(event, Context()) for _ in range(60)]
        refused = [answer for answer in answers if answer["statusCode"] == 429]
        assert {answer["statusCode"] for answer in answers} == {404, 429}
        assert 10 < len(refused) <= 20
        problem = json.loads(refused[-1]["body"])
        assert problem["type"] == "urn:simplestreams:problem:too-many-requests"
        assert "the operator sets MaxRequests" in problem["detail"]
        assert refused[-1]["headers"]["retry-after"] == str(problem["retry_after"])
        assert ask(app, "GET /versions/{path+}", EVERYBODY, f"{BELOW_A}/20261101", None)[0] == 404, (
            "others are answered"
        )


def test_a_caller_has_two_requests_held_at_once_and_further_ones_are_answered_at_once(
    app: ModuleType, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{BELOW_A}/20261101_10:00"
    inner: list[tuple[int, float]] = []
    clock = SimpleNamespace(now=0.0)

    def waiting() -> tuple[int, float]:
        """Return the status of an answer, and how long it took."""
        began = clock.now
        event = {
            "routeKey": "GET /versions/{path+}",
            "headers": {},
            "requestContext": {"authorizer": {"iam": {"userArn": TEAM_A}}},
            "pathParameters": {"path": path},
            "queryStringParameters": {"wait": "20"},
        }
        answer = app.handler(event, Context())
        assert answer["headers"]["retry-after"] == "1"
        return answer["statusCode"], clock.now - began

    def sleep(seconds: float) -> None:
        """Send a second request while the first is held, and a third while the second is held."""
        clock.now += seconds
        if clock.now in (1.0, 2.0):
            inner.append(waiting())

    monkeypatch.setattr(app, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock.now))
    system.upload(path, {"rootfs.squashfs": images.squashfs("x")})
    system.store.objects[f"{path}/rootfs.squashfs"].modified = datetime.now(UTC)
    system.ingest(path)
    first = waiting()
    third, second = inner
    assert (third, second[0], first[0]) == ((200, 0.0), 200, 200)
    assert min(first[1], second[1]) >= 19
    assert not any(key.startswith("leases/waits/") for key in system.store.objects), "each place was given back"


NEWER = "images/ubuntu/noble/amd64/default/20261124_10:00"


@pytest.mark.parametrize("path", [NEWER, f"{NEWER}/rootfs.squashfs"])
def test_a_withdrawal_names_each_channel_that_moved(
    app: ModuleType, system: System, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, Any]] = []
    monkeypatch.setattr(app.logger, "info", lambda message, **about: logged.append((message, about.get("channel"))))
    monkeypatch.setattr(app, "settings", replace(app.settings, views=True))
    for one in (channel(), channel("fresh", follows_newest=True), channel("beta")):
        create_view(system.store, one)
    system.upload(NEWER, images.split_image(seed="newer"))
    system.catch_up()
    for version in (VERSION, NEWER):
        promote(system.store, "stable", parse_version(version), START, "ann", lambda _: None)
    _, answer = ask(app, "DELETE /{path+}", EVERYBODY, path, None)
    moved = {"product": NEWER.rpartition("/")[0], "before": "20261124_10:00", "after": "20261123_10:00"}
    assert answer["channels"] == [{"channel": "fresh", **moved}, {"channel": "stable", **moved}]
    assert logged[:2] == [("channel moved", "fresh"), ("channel moved", "stable")]
    _, again = ask(app, "DELETE /{path+}", EVERYBODY, path, None)
    assert "channels" not in again


def test_a_withdrawal_of_a_version_in_no_channel_answers_as_without_views(
    app: ModuleType, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_view(system.store, channel())
    monkeypatch.setattr(app, "settings", replace(app.settings, views=True))
    _, answer = ask(app, "DELETE /{path+}", EVERYBODY, VERSION, None)
    assert answer.keys() == {"path", "versions", "files", "delete_after"}


def test_a_withdrawal_on_a_server_without_views_reads_none(app: ModuleType, system: System) -> None:
    ask(app, "DELETE /{path+}", EVERYBODY, VERSION, None)
    assert not [key for _, key in system.store.log if "views" in key]
