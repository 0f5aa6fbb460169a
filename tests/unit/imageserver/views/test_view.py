"""The document of a view: its selection, refused values, and unreadable documents."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogDamaged, InvalidView
from imageserver.format.keys import parse_product
from imageserver.views.view import (
    LONGEST_EXPIRY_S,
    MOST_CHECKS,
    MOST_FILTERS,
    MOST_STREAMS,
    MOST_TOKENS,
    Promotion,
    Token,
    View,
    check,
    decode_view,
    encode_view,
    secret_text,
    served_prefix,
    view_key,
    view_name,
)
from tests.support.views import channel, private, view

NOBLE = parse_product("images/ubuntu/noble/amd64/default")
YESTERDAY = Promotion(version="20261123", at="yesterday", by="ann")
TOKEN = Token(label="ann", created="2026-11-27T10:00:00+00:00")


@pytest.mark.parametrize(
    "made",
    [
        *(view(), private(), channel(), channel(follows_newest=True)),
        channel(expire_after_s=3600, expired_at="2026-11-27T10:00:00+00:00"),
        view(only=("ubuntu:noble", "os=debian,arch=amd64|arm64")),
        view(clients="incus"),
        channel(requires=("boots",)),
    ],
)
def test_a_view_is_read_back_as_it_was_written(made: View) -> None:
    body = encode_view(made)
    assert decode_view(body, made.name) == made
    assert encode_view(decode_view(body, made.name)) == body


def test_a_view_takes_products_of_its_streams_that_match_one_of_its_filters() -> None:
    assert view(streams=("images",)).takes(NOBLE)
    assert not view(streams=("images-x",)).takes(NOBLE)
    assert view(streams=("images-x", "images"), only=("debian", "os=ubuntu")).takes(NOBLE)
    assert view(streams=("images",), only=("all",)).takes(NOBLE)
    assert not view(streams=("images",), only=("debian", "ubuntu:jammy")).takes(NOBLE)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "Stable"}, "has a name of other characters"),
        ({"name": "-stable"}, "has a name of other characters"),
        ({"name": "a" * 64}, "has a name of other characters"),
        ({"name": "streams"}, "means something else in an address"),
        ({"name": "images-daily"}, "means something else in an address"),
        ({"streams": ()}, f"has 0 streams, expected 1 to {MOST_STREAMS}"),
        ({"streams": tuple(f"images-{n}" for n in range(MOST_STREAMS + 1))}, f"has {MOST_STREAMS + 1} streams"),
        ({"streams": ("images", "images")}, "names a stream twice"),
        ({"streams": ("staging",)}, "the first folder is 'staging'"),
        ({"private_streams": ("images",), "is_private": True}, "makes 'images' private and does not show it"),
        ({"private_streams": ("images-staging",)}, "can be read by everybody; make the view private"),
        ({"tokens": {"0" * 64: TOKEN}}, "has tokens and can be read by everybody"),
        ({"is_private": True, "tokens": {"sst_x": TOKEN}}, "not known by its sha256"),
        (
            {"is_private": True, "tokens": {f"{n:064}": TOKEN for n in range(MOST_TOKENS + 1)}},
            "has 1,001 tokens, expected at most 1,000",
        ),
        ({"requires": ("boots",)}, "requires checks and is not a channel"),
        ({"requires": ("Boots",), "channel": {}}, "requires the check 'Boots', expected 1 to 63"),
        (
            {"requires": tuple(f"c{n}" for n in range(MOST_CHECKS + 1)), "channel": {}},
            f"requires {MOST_CHECKS + 1} checks, expected at most {MOST_CHECKS}",
        ),
        ({"secret": secret_text(bytes(31))}, "has a secret that is not 32 bytes"),
        ({"secret": secret_text(bytes(32)) + "="}, "has a secret that is not 32 bytes"),
        ({"clients": "both"}, "is for the clients 'both', expected incus or lxd, or none for both"),
        ({"only": ("ubuntu,",)}, "has the term ''"),
        ({"only": ("ubuntu,size<=2GB",)}, "a view selects products"),
        ({"only": ("version=2026*",)}, "a view selects products"),
        ({"follows_newest": True}, "follows the newest version and is not a channel"),
        ({"expire_after_s": 3600}, "has an expiry and is not a channel"),
        ({"channel": {}, "expire_after_s": LONGEST_EXPIRY_S + 1}, "has an expiry of 315,360,001 s, expected at most"),
        ({"expired_at": "2026-11-27T10:00:00"}, "has the time '2026-11-27T10:00:00', expected ISO 8601 with a time"),
        ({"channel": {NOBLE.path: (YESTERDAY,)}, "expire_after_s": 3600}, "has the time 'yesterday'"),
        ({"only": ("ubuntu",) * (MOST_FILTERS + 1)}, f"has {MOST_FILTERS + 1} filters"),
    ],
)
def test_an_invalid_view_is_refused_with_the_reason(change: dict[str, Any], sentence: str) -> None:
    wrong = replace(view(), **change)
    with pytest.raises(InvalidView, match=sentence):
        check(wrong)
    with pytest.raises(InvalidView, match=sentence):
        encode_view(wrong)


@pytest.mark.parametrize(
    "most",
    [
        view("a" * 63),
        view(streams=tuple(f"images-{n}" for n in range(MOST_STREAMS))),
        view(only=("ubuntu",) * MOST_FILTERS),
        view(is_private=True, tokens={f"{n:064}": TOKEN for n in range(MOST_TOKENS)}),
    ],
)
def test_values_at_their_limits_are_accepted(most: View) -> None:
    check(most)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"not json",
        encode_view(view())[:-1],
        msgspec.json.encode({**msgspec.to_builtins(view()), "unknown": 1}),
        msgspec.json.encode({**msgspec.to_builtins(view()), "streams": []}),
        msgspec.json.encode({**msgspec.to_builtins(view()), "schema": 2}),
        encode_view(view("other")),
    ],
)
def test_a_document_that_is_not_a_view_of_that_name_is_damaged(body: bytes) -> None:
    with pytest.raises(CatalogDamaged, match=r"private/views/staging\.json"):
        decode_view(body, "staging")


def test_the_key_of_a_view_names_it_and_no_other_key_does() -> None:
    assert view_name(view_key("staging")) == "staging"
    assert served_prefix("staging") == "views/staging/"
    for key in ("private/views/", "private/views/a/b.json", "private/views/staging", "views/staging.json", "staging"):
        assert view_name(key) == ""


def test_a_secret_is_32_bytes_and_its_text_has_43_characters() -> None:
    made = view()
    assert len(made.secret_bytes) == 32
    assert len(made.secret) == 43
    assert secret_text(made.secret_bytes) == made.secret
