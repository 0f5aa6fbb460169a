"""Promotions: races with a withdrawal and with another operator, and what a promotion reports."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from imageserver.errors import InvalidView, NotPassed, OtherState
from imageserver.format.keys import parse_product, parse_version
from imageserver.operations.check_results import post_result, results_of
from imageserver.operations.promotion import Moved, moved, promote, shown_by_channels, take_back
from imageserver.operations.view_documents import change_view, configured, view_of
from imageserver.operations.withdraw import withdraw
from tests.support import images
from tests.support.memory_store import System
from tests.support.views import channel, post, private, system

NOBLE = parse_product("images/ubuntu/noble/amd64/default")
OLD, NEW = "20261122_1000", "20261123_1000"


def pause(_seconds: float) -> None:
    """Do not wait."""


@pytest.fixture
def server() -> System:
    made = system(channel(), channel("beta"), private())
    for version in (OLD, NEW):
        made.upload(f"{NOBLE.path}/{version}", images.split_image(seed=version))
        made.ingest(f"{NOBLE.path}/{version}")
    return made


def to_stable(server: System, version: str, by: str = "ann") -> Moved:
    return promote(server.store, "stable", parse_version(f"{NOBLE.path}/{version}"), server.store.clock, by, pause)


def test_a_promotion_returns_the_versions_shown_before_and_after(server: System) -> None:
    assert to_stable(server, OLD) == Moved("stable", NOBLE, "", OLD)
    assert to_stable(server, NEW) == Moved("stable", NOBLE, OLD, NEW)
    back = take_back(server.store, "stable", NOBLE, server.store.clock, "bob", pause)
    assert back == Moved("stable", NOBLE, NEW, OLD)
    found = view_of(server.store, "stable")
    assert found
    assert found.channel
    assert [(one.version, one.by, one.back_by) for one in found.channel[NOBLE.path]] == [
        (OLD, "ann", ""),
        (NEW, "ann", "bob"),
    ]


def test_going_back_once_goes_back_once_though_the_answer_was_lost(server: System) -> None:
    for version in (OLD, NEW):
        to_stable(server, version)
    document = "private/views/stable.json"

    def arrives_and_its_answer_is_lost() -> None:
        take_back(server.store, "stable", NOBLE, server.store.clock, "bob", pause)

    server.store.meanwhile("replace", document, arrives_and_its_answer_is_lost)
    back = take_back(server.store, "stable", NOBLE, server.store.clock, "bob", pause)
    assert back == Moved("stable", NOBLE, NEW, OLD)


def test_going_back_leaves_what_another_operator_promoted_meanwhile(server: System) -> None:
    to_stable(server, OLD)
    server.store.meanwhile("replace", "private/views/stable.json", lambda: to_stable(server, NEW, by="eve"))
    with pytest.raises(OtherState, match=f"shows {NEW} of {NOBLE.path}, expected {OLD}; nothing was taken back"):
        take_back(server.store, "stable", NOBLE, server.store.clock, "bob", pause)


def test_two_concurrent_promotions_are_both_kept(server: System) -> None:
    server.store.meanwhile("replace", "private/views/stable.json", lambda: to_stable(server, OLD, by="bob"))
    assert to_stable(server, NEW) == Moved("stable", NOBLE, OLD, NEW)
    found = view_of(server.store, "stable")
    assert found
    assert found.channel
    assert [one.by for one in found.channel[NOBLE.path]] == ["bob", "ann"]


def test_a_version_that_is_withdrawn_at_the_same_moment_is_named(server: System) -> None:
    to_stable(server, OLD)

    server.store.meanwhile(
        "replace",
        "private/views/stable.json",
        lambda: withdraw(server.store, parse_version(f"{NOBLE.path}/{NEW}"), server.store.clock, 24, pause),
    )
    with pytest.raises(InvalidView, match="it is withdrawn, expected complete"):
        to_stable(server, NEW)
    shown = shown_by_channels(server.store, configured(server.store).values(), NOBLE)
    assert shown == {"stable": OLD}


@pytest.mark.parametrize(
    ("version", "to", "message"),
    [
        ("20261101_1000", "stable", "there is no images/ubuntu/noble/amd64/default/20261101_1000"),
        (NEW, "none", "there is no view 'none'"),
        (NEW, "staging", "is not a channel"),
    ],
)
def test_an_impossible_promotion_is_refused_by_name_and_writes_nothing(
    server: System, version: str, to: str, message: str
) -> None:
    before = configured(server.store)
    with pytest.raises(InvalidView, match=message):
        promote(server.store, to, parse_version(f"{NOBLE.path}/{version}"), server.store.clock, "ann", pause)
    assert configured(server.store) == before


def test_a_channel_has_moved_if_it_shows_another_version() -> None:
    before = {"stable": NEW, "beta": NEW, "next": OLD}
    assert moved(NOBLE, before, {"stable": OLD, "beta": NEW}) == [
        Moved("next", NOBLE, OLD, ""),
        Moved("stable", NOBLE, NEW, OLD),
    ]


def test_a_server_without_a_pointer_to_a_product_reads_no_record_of_it(server: System) -> None:
    views = configured(server.store).values()
    server.store.log.clear()
    assert shown_by_channels(server.store, views, NOBLE) == {}
    assert server.store.log == []


def channel_that_requires() -> System:
    made = system(channel("stable", requires=("boots",)))
    made.upload(f"{NOBLE.path}/{NEW}", images.split_image(seed=NEW))
    made.ingest(f"{NOBLE.path}/{NEW}")
    return made


def test_a_channel_that_requires_a_check_takes_a_version_once_it_has_passed() -> None:
    server = channel_that_requires()
    with pytest.raises(NotPassed, match="the check boots has no result") as refused:
        to_stable(server, NEW)
    assert refused.value.missing == {"boots": "has no result"}
    assert "right check:boots" in str(refused.value)
    post(server, f"{NOBLE.path}/{NEW}", "boots", passed=False)
    with pytest.raises(NotPassed, match="the check boots failed on"):
        to_stable(server, NEW)
    post(server, f"{NOBLE.path}/{NEW}", "boots")
    assert to_stable(server, NEW).after == NEW


def test_a_promotion_may_require_more_than_its_channel() -> None:
    server = channel_that_requires()
    post(server, f"{NOBLE.path}/{NEW}", "boots")
    one = parse_version(f"{NOBLE.path}/{NEW}")
    with pytest.raises(NotPassed) as refused:
        promote(server.store, "stable", one, server.store.clock, "ann", pause, require=("scan", "boots"))
    assert list(refused.value.missing) == ["scan"]
    found = view_of(server.store, "stable")
    assert found
    assert found.channel == {}


def test_a_result_does_not_count_for_bytes_that_were_uploaded_over_those_tested() -> None:
    server = channel_that_requires()
    post(server, f"{NOBLE.path}/{NEW}", "boots")
    server.upload(f"{NOBLE.path}/{NEW}", images.split_image(seed="other bytes"))
    server.ingest(f"{NOBLE.path}/{NEW}")
    with pytest.raises(NotPassed, match="about other bytes"):
        to_stable(server, NEW)


def test_a_promotion_that_lost_its_race_asks_for_the_checks_again() -> None:
    """The check fails, and another operator promotes, between the look and the write."""
    server = channel_that_requires()
    post(server, f"{NOBLE.path}/{NEW}", "boots")

    def other(method: str, key: str) -> None:
        if (method, key) == ("replace", "private/views/stable.json"):
            server.store.on = lambda *_: None
            change_view(server.store, "stable", lambda view: replace(view, created="meanwhile"), pause)
            post(server, f"{NOBLE.path}/{NEW}", "boots", passed=False)

    server.store.on = other
    with pytest.raises(NotPassed, match="the check boots failed on"):
        to_stable(server, NEW)


def test_two_checks_that_post_at_once_are_both_kept() -> None:
    server = channel_that_requires()

    def other(method: str, key: str) -> None:
        if (method, key) == ("create", f"private/checks/{NOBLE.path}/{NEW}.json"):
            server.store.on = lambda *_: None
            post(server, f"{NOBLE.path}/{NEW}", "scan", passed=False)

    server.store.on = other
    post(server, f"{NOBLE.path}/{NEW}", "boots")
    found = results_of(server.store, parse_version(f"{NOBLE.path}/{NEW}"))
    assert found
    assert {name: one.passed for name, one in found.results.items()} == {"boots": True, "scan": False}


def test_a_result_about_an_unknown_version_or_other_bytes_is_not_kept() -> None:
    server = channel_that_requires()
    before = dict(server.store.objects)
    for version, message in (("20261101_1000", "there is no"), (NEW, "does not have the fingerprint")):
        with pytest.raises(InvalidView, match=message):
            post_result(
                server.store, parse_version(f"{NOBLE.path}/{version}"), "boots", passed=True, tested={"0" * 64}, url="",
                now=server.store.clock, by="ci", pause=pause,
            )  # fmt: skip
    assert server.store.objects == before


def test_a_promotion_without_a_required_check_reads_no_results(server: System) -> None:
    server.store.log.clear()
    to_stable(server, NEW)
    assert not [key for _, key in server.store.log if key.startswith("private/checks/")]
