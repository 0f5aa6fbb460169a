"""Promotions and results of checks through the API: rights, refusals, who sees what, and repetition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from imageserver.format.keys import parse_target, parse_version
from imageserver.operations.view_documents import view_of
from imageserver.operations.withdraw import withdraw
from tests.support import images
from tests.support.handlers import Context, imported
from tests.support.memory_store import Sent, System
from tests.support.views import channel, fingerprints, private, system
from tests.unit.imageserver.handlers.test_uploads import ask

NOBLE = "images/ubuntu/noble/amd64/default"
OLD, NEW = f"{NOBLE}/20261122_1000", f"{NOBLE}/20261123_1000"
DEBIAN = "images/debian/13/amd64/default/20261123_1000"
USER = "arn:aws:iam::123456789012:user"
ANN, BOB, BOOT, RELEASE = (f"{USER}/{name}" for name in ("ann", "bob", "boot", "release"))
PUBLISHERS = {
    ANN: ["ubuntu/", "promote:stable", "check:boots"],
    BOB: ["ubuntu/"],
    BOOT: ["check:boots:images/ubuntu/"],
    RELEASE: ["promote:stable:*", "promote:tested:*", "promote:none:*", "promote:staging:*"],
}


@pytest.fixture
def server() -> System:
    made = system(channel(), channel("tested", requires=("boots",)), private())
    for version in (OLD, NEW, DEBIAN):
        made.upload(version, images.split_image(seed=version))
        made.ingest(version)
    return made


@pytest.fixture
def sent() -> Sent:
    return Sent()


def app_of(server: System, sent: Sent, **environment: str) -> Iterator[ModuleType]:
    about = {"BUCKET": "images", "PUBLISHERS": json.dumps(PUBLISHERS), **environment}
    with imported("imageserver.handlers.uploads", about) as app, pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "store", server.store)
        patch.setattr(app, "cache", app.DocumentCache(server.store))
        patch.setattr(app, "_notifier", lambda: sent)
        yield app


@pytest.fixture
def app(server: System, sent: Sent) -> Iterator[ModuleType]:
    yield from app_of(server, sent, VIEWS="true")


def promote(app: ModuleType, caller: str, path: str, to: str = "stable", **more: object) -> tuple[int, Any]:
    return ask(app, "POST /promotions", caller, "", {"path": path, "channel": to, **more})


def post(
    app: ModuleType, server: System, caller: str, path: str, check: str = "boots", **more: object
) -> tuple[int, Any]:
    result = {"check": check, "passed": True, "fingerprints": sorted(fingerprints(server, path)), **more}
    return ask(app, "POST /checks", caller, "", {"path": path, **result})


def promotions(server: System, name: str = "stable") -> list[tuple[str, str, str]]:
    view = view_of(server.store, name)
    assert view
    return [(one.version, one.by, one.back_by) for one in (view.channel or {}).get(NOBLE, ())]


def test_a_publisher_with_the_right_promotes_and_reverts_and_both_are_recorded(
    app: ModuleType, server: System, sent: Sent
) -> None:
    first = {"channel": "stable", "product": NOBLE, "before": "", "after": "20261122_1000"}
    assert promote(app, ANN, OLD) == (200, first)
    assert promote(app, ANN, NEW) == (200, first | {"before": "20261122_1000", "after": "20261123_1000"})
    assert promote(app, RELEASE, NEW, back=True)[1]["after"] == "20261122_1000"
    assert promotions(server) == [("20261122_1000", ANN, ""), ("20261123_1000", ANN, RELEASE)]
    assert [product.path for product in sent.products] == [NOBLE] * 3


def test_repeating_a_promotion_or_its_reversal_changes_nothing(app: ModuleType, server: System) -> None:
    for path in (OLD, OLD, NEW, NEW):
        assert promote(app, ANN, path)[0] == 200
    for _ in range(2):
        assert promote(app, ANN, NEW, back=True)[1]["after"] == "20261122_1000"
    assert promotions(server) == [("20261122_1000", ANN, ""), ("20261123_1000", ANN, ANN)]


def test_a_channel_shows_the_same_bytes_and_fingerprint_as_the_public_catalog(
    app: ModuleType, server: System, sent: Sent
) -> None:
    before = {key: one.body for key, one in server.store.objects.items() if key.startswith("images/")}
    promote(app, ANN, NEW)
    server.publish(*sent.products)
    assert server.listed(view="stable") == {"ubuntu:noble:amd64:default": ["20261123_1000"]}
    assert {key: one.body for key, one in server.store.objects.items() if key.startswith("images/")} == before
    (fingerprint,) = fingerprints(server, NEW)
    assert fingerprint.encode() in server.store.objects["views/stable/streams/v1/images.json"].body


@pytest.mark.parametrize(
    ("caller", "path", "to", "lacking"),
    [
        (BOB, NEW, "stable", "promote:stable"),
        (ANN, NEW, "tested", "promote:tested"),
        (ANN, DEBIAN, "stable", "promote:stable"),
        (BOOT, NEW, "stable", "promote:stable"),
        ("", NEW, "stable", "promote:stable"),
    ],
)
def test_a_refusal_names_the_right_that_is_missing_and_writes_nothing(
    app: ModuleType, server: System, caller: str, path: str, to: str, lacking: str
) -> None:
    before = dict(server.store.objects)
    status, problem = promote(app, caller, path, to)
    assert (status, problem["type"]) == (403, "urn:simplestreams:problem:forbidden")
    assert f"may not promote {path} to the channel {to}; the operator grants {lacking}," in problem["detail"]
    assert server.store.objects == before


@pytest.mark.parametrize(("caller", "check"), [(BOB, "boots"), (ANN, "scan"), (RELEASE, "boots"), ("", "boots")])
def test_a_result_is_accepted_only_from_callers_with_the_right_for_that_check(
    app: ModuleType, server: System, caller: str, check: str
) -> None:
    before = dict(server.store.objects)
    status, problem = post(app, server, caller, NEW, check)
    assert (status, f"the operator grants check:{check}" in problem["detail"]) == (403, True), problem
    assert server.store.objects == before


@pytest.mark.parametrize(
    ("path", "to", "more", "status", "detail"),
    [
        (f"{NOBLE}/20261101_1000", "stable", {}, 404, "there is no images/ubuntu/noble/amd64/default/20261101_1000"),
        (NEW, "none", {}, 404, "there is no channel none"),
        (NEW, "staging", {}, 422, "the view staging is not a channel"),
        (NOBLE, "stable", {}, 422, ""),
        (NEW, "stable", {"back": True}, 409, "the channel stable shows nothing"),
        (NEW, "stable", {"back": True, "require": ["boots"]}, 400, "goes back without checks"),
        (NEW, "Stable", {}, 400, "the body of the request is not what is expected"),
        (NEW, "stable", {"unknown": 1}, 400, "the body of the request is not what is expected"),
    ],
)
def test_an_impossible_promotion_is_a_problem_with_a_reason(
    app: ModuleType, server: System, path: str, to: str, more: dict[str, object], status: int, detail: str
) -> None:
    before = dict(server.store.objects)
    found, problem = promote(app, RELEASE, path, to, **more)
    assert (found, detail in problem["detail"]) == (status, True), problem
    assert server.store.objects == before


def test_a_channel_goes_back_only_from_the_version_that_was_named(app: ModuleType) -> None:
    promote(app, ANN, OLD)
    status, problem = promote(app, ANN, NEW, back=True)
    assert status == 409
    assert "shows 20261122_1000" in problem["detail"]
    assert "expected 20261123_1000; nothing was taken back" in problem["detail"]


def test_a_withdrawn_version_is_not_promoted(app: ModuleType, server: System) -> None:
    withdraw(server.store, parse_target(NEW), server.store.clock, 24, lambda _: None)
    status, problem = promote(app, ANN, NEW)
    assert (status, "it is withdrawn, expected complete" in problem["detail"]) == (409, True), problem


def test_a_required_check_is_asked_for_by_name_and_passes_with_its_result(app: ModuleType, server: System) -> None:
    status, problem = promote(app, RELEASE, NEW, "tested")
    assert (status, problem["missing"]) == (409, {"boots": "has no result"})
    assert "A job with the right check:boots posts a result to POST /checks" in problem["detail"]
    status, answer = post(app, server, BOOT, NEW, url="https://ci/1")
    assert (status, answer["result"]["by"], answer["result"]["counts"]) == (200, BOOT, True)
    assert promote(app, RELEASE, NEW, "tested")[1]["after"] == "20261123_1000"
    assert promote(app, RELEASE, NEW, "tested", require=["scan"])[1]["missing"] == {"scan": "has no result"}
    post(app, server, BOOT, NEW, passed=False)
    assert "failed on" in promote(app, RELEASE, NEW, "tested")[1]["missing"]["boots"]


def test_a_result_for_bytes_that_are_not_those_of_the_version_is_refused(app: ModuleType, server: System) -> None:
    status, problem = post(app, server, BOOT, NEW, fingerprints=["0" * 64])
    assert (status, problem["type"]) == (409, "urn:simplestreams:problem:other-state")
    assert f"{NEW} does not have the fingerprint" in problem["detail"]
    status, problem = post(app, server, BOOT, NEW, url="javascript:x")
    assert (status, "expected http:// or https://" in problem["detail"]) == (422, True)


def status_of(app: ModuleType, caller: str, path: str) -> Any:
    code, answer = ask(app, "GET /versions/{path+}", caller, path, None)
    assert code == 200, answer
    return answer


def test_results_and_promotions_are_shown_only_to_callers_with_a_right_there(app: ModuleType, server: System) -> None:
    post(app, server, BOOT, NEW, url="https://ci/1")
    promote(app, ANN, NEW)
    server.publish(parse_version(NEW).product)
    answer = status_of(app, ANN, NEW)
    (boots,) = answer["checks"].values()
    assert (boots["passed"], boots["by"], boots["url"], boots["counts"]) == (True, BOOT, "https://ci/1", True)
    assert boots["fingerprints"] == answer["fingerprints"]
    assert [one["by"] for one in answer["channels"]["stable"]] == [ANN]
    assert status_of(app, BOOT, NEW)["channels"] == {}
    assert status_of(app, RELEASE, DEBIAN)["checks"] == {}
    assert not {"checks", "channels"} & status_of(app, BOB, NEW).keys()
    assert ask(app, "GET /versions/{path+}", BOOT, DEBIAN, None)[0] == 403
    assert ask(app, "GET /versions/{path+}", BOOT, NOBLE, None)[0] == 200


def test_a_result_about_other_bytes_is_shown_and_does_not_count(app: ModuleType, server: System) -> None:
    post(app, server, BOOT, NEW)
    server.upload(NEW, images.split_image(seed="other bytes"))
    server.ingest(NEW)
    assert status_of(app, BOOT, NEW)["checks"]["boots"]["counts"] is False


def test_the_text_form_shows_the_same_checks_and_promotions(app: ModuleType, server: System) -> None:
    post(app, server, BOOT, NEW)
    promote(app, ANN, NEW)
    event = {
        "routeKey": "GET /versions/{path+}",
        "headers": {"accept": "text/plain"},
        "requestContext": {"authorizer": {"iam": {"userArn": ANN}}},
        "pathParameters": {"path": NEW},
        "body": "",
    }
    lines = app.handler(event, Context())["body"].splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["check", "boots"], ["promoted", "stable"]]
    assert [line.rpartition(" ")[2] for line in lines[-2:]] == [BOOT, ANN]
    event |= {"routeKey": "POST /promotions", "body": json.dumps({"path": NEW, "channel": "stable"})}
    assert app.handler(event, Context())["body"].splitlines() == [
        "channel stable", f"product {NOBLE}", "before 20261123_1000", "after 20261123_1000",
    ]  # fmt: skip


def test_checks_and_promotions_in_a_status_do_not_end_a_held_request_early(
    app: ModuleType, server: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ETag covers the whole status, but the request waits for another change."""
    post(app, server, BOOT, NEW)
    pauses: list[float] = []
    monkeypatch.setattr(app.time, "sleep", pauses.append)
    event: dict[str, Any] = {
        "routeKey": "GET /versions/{path+}",
        "headers": {},
        "requestContext": {"authorizer": {"iam": {"userArn": ANN}}},
        "pathParameters": {"path": NEW},
    }
    etag = app.handler(event, Context())["headers"]["etag"]
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(app.time, "monotonic", lambda: float(next(clock)))
    again = event | {"headers": {"if-none-match": etag}, "queryStringParameters": {"wait": "9"}}
    assert app.handler(again, Context())["statusCode"] == 304
    assert pauses


def test_without_channels_promotion_is_refused_and_a_status_has_no_extra_fields(server: System, sent: Sent) -> None:
    for app in app_of(server, sent):
        status, problem = promote(app, ANN, NEW)
        assert (status, "Views=true" in problem["detail"]) == (404, True), problem
        server.store.log.clear()
        assert not {"checks", "channels"} & status_of(app, ANN, NEW).keys()
        assert not [key for _, key in server.store.log if key.startswith("private/")]


def test_a_publisher_without_a_right_by_name_causes_no_request_about_views(app: ModuleType, server: System) -> None:
    server.store.log.clear()
    status_of(app, BOB, NEW)
    assert not [key for _, key in server.store.log if key.startswith("private/")]


def test_a_version_that_is_withdrawn_while_it_is_promoted_is_refused(app: ModuleType, server: System) -> None:
    promote(app, ANN, OLD)

    def withdrawn(method: str, key: str) -> None:
        if (method, key) == ("replace", "private/views/stable.json"):
            server.store.on = lambda *_: None
            withdraw(server.store, parse_version(NEW), server.store.clock, 24, lambda _: None)

    server.store.on = withdrawn
    assert promote(app, ANN, NEW)[0] == 409
    server.publish(parse_version(NEW).product)
    assert server.listed(view="stable") == {"ubuntu:noble:amd64:default": ["20261122_1000"]}


def test_two_concurrent_promotions_through_the_api_are_both_kept(app: ModuleType, server: System) -> None:
    def other(method: str, key: str) -> None:
        if (method, key) == ("replace", "private/views/stable.json"):
            server.store.on = lambda *_: None
            assert promote(app, RELEASE, OLD)[0] == 200

    server.store.on = other
    assert promote(app, ANN, NEW)[1]["before"] == "20261122_1000"
    assert promotions(server) == [("20261122_1000", RELEASE, ""), ("20261123_1000", ANN, "")]
