"""Tokens and the edge's entries: no token is stored in clear, and expired or revoked ones have no entry."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from imageserver.errors import InvalidView
from imageserver.views.tokens import (
    RANDOM_BYTES,
    differences,
    entries,
    token_hash,
    token_text,
    with_token,
    without_token,
)
from imageserver.views.view import Token, View
from tests.support.views import channel, private, view

NOW = datetime(2026, 11, 27, tzinfo=UTC)
UNTIL = int(NOW.timestamp())
TEXT = token_text(bytes(range(RANDOM_BYTES)))
HASH = token_hash(TEXT)


def token(label: str = "ann", until: int = 0) -> Token:
    return Token(label=label, created="2026-11-27T00:00:00+00:00", until=until)


def test_a_token_is_random_bytes_in_base64url_after_a_prefix() -> None:
    assert TEXT == "sst_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
    assert token_text(b"\xff" * RANDOM_BYTES) == "sst_" + "_" * 32


def test_a_token_is_known_by_its_sha256() -> None:
    # printf sst_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX | sha256sum
    assert HASH == "590abaee3741dfd40812e321db6f4baf7e8434fc1b072eac7d8db58fe3c8c3a0"
    assert TEXT not in str(with_token(private(), HASH, token()))


def test_several_tokens_are_valid_at_once_and_each_can_be_revoked() -> None:
    both = with_token(with_token(private(), HASH, token("ann")), "1" * 64, token("bob"))
    assert {one.label for one in both.tokens.values()} == {"ann", "bob"}
    assert without_token(both, "ann").tokens == {"1" * 64: token("bob")}


@pytest.mark.parametrize("label", ["", "Ann", "a b", "a:b", "-a", "a" * 64, "ä"])
def test_a_label_that_cannot_be_a_user_name_in_an_address_is_refused(label: str) -> None:
    with pytest.raises(InvalidView, match=r"the label .* has other characters"):
        with_token(private(), HASH, token(label))


def test_a_second_token_of_a_label_and_one_of_a_public_view_are_refused() -> None:
    once = with_token(private(), HASH, token())
    with pytest.raises(InvalidView, match="has a token ann; choose another label"):
        with_token(once, "1" * 64, token())
    with pytest.raises(InvalidView, match="stable can be read by everybody: it needs no token"):
        with_token(channel(), HASH, token())
    with pytest.raises(InvalidView, match="has no token 'bob'"):
        without_token(once, "bob")


def test_a_token_that_is_added_again_because_an_answer_was_lost_is_the_same_one() -> None:
    once = with_token(private(), HASH, token())
    assert with_token(once, HASH, token()) == once


def test_the_edge_knows_each_view_each_valid_token_and_the_private_streams() -> None:
    staging = with_token(private(), HASH, token(until=UNTIL + 1))
    found = {key: json.loads(value) for key, value in entries([staging, channel()], NOW).items()}
    assert found == {
        "view:staging": {"key": staging.secret, "public": False},
        "view:stable": {"key": channel().secret, "public": True},
        f"token:{HASH}": {"label": "ann", "view": "staging", "until": UNTIL + 1},
        "private": ["images-staging"],
    }


@pytest.mark.parametrize(("until", "known"), [(0, True), (UNTIL - 1, False), (UNTIL, False), (UNTIL + 1, True)])
def test_an_expired_token_has_no_entry(until: int, known: bool) -> None:
    assert (f"token:{HASH}" in entries([with_token(private(), HASH, token(until=until))], NOW)) is known


def test_a_server_without_private_streams_has_no_entry_about_them() -> None:
    assert entries([channel()], NOW).keys() == {"view:stable"}
    assert entries([], NOW) == {}


def many(streams: int) -> list[View]:
    names = [f"images-{n:03}" for n in range(streams)]
    return [private(f"v{n}", tuple(names[n : n + 20])) for n in range(0, streams, 20)]


def test_more_private_streams_than_the_edge_can_hold_are_refused() -> None:
    assert len(entries(many(71), NOW)["private"]) <= 1000
    with pytest.raises(InvalidView, match="make fewer streams private"):
        entries(many(80), NOW)


def test_a_token_is_stored_as_its_sha256() -> None:
    assert token_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_entries_that_differ_are_put_or_deleted_and_those_of_other_programs_kept() -> None:
    found = {"view:a": "1", "view:b": "1", "token:c": "1", "private": "[]", "other": "1"}
    assert differences(found, {"view:a": "2", "view:b": "1", "token:d": "1"}) == (
        {"view:a": "2", "token:d": "1"},
        ["private", "token:c"],
    )
    assert differences(found, {}) == ({}, ["private", "token:c", "view:a", "view:b"])
    assert differences(found, {key: value for key, value in found.items() if key != "other"}) == ({}, [])


def test_the_same_views_in_another_order_are_the_same_entries() -> None:
    views = [view("b", ("images",)), private(), channel()]
    assert entries(views, NOW) == entries(views[::-1], NOW)
    assert entries([replace(views[0])], NOW) == entries([views[0]], NOW)
