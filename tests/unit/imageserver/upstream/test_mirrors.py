"""The configuration of mirrors is read as written, or refused with the mirror's name."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogDamaged, InvalidMirror
from imageserver.upstream.mirrors import (
    CONFIGURATION_KEY,
    MAX_CONFIGURATION_BYTES,
    MOST_FILTERS,
    MOST_MIRRORS,
    HeldVersion,
    Mirror,
    MirrorState,
    MirrorStatus,
    SeenDocument,
    check,
    decode_mirrors,
    decode_state,
    decode_status,
    encode_document,
    encode_mirrors,
    state_key,
    status_key,
)

NOBLE = Mirror(address="https://images.example.org/server", stream="images-noble", only=("ubuntu:noble",), keep=2)


def test_a_configuration_is_read_as_it_was_written() -> None:
    mirrors = {
        "noble": NOBLE,
        "lab": Mirror(address="http://10.0.0.7/", stream="images", only=("all",), allow_private=True),
    }
    assert decode_mirrors(encode_mirrors(mirrors)) == mirrors
    assert encode_mirrors(mirrors) == encode_mirrors(dict(reversed(mirrors.items())))


@pytest.mark.parametrize(
    ("name", "change", "quoted"),
    [
        ("Noble", {}, "expected 1 to 63 of a-z"),
        ("../state", {}, "expected 1 to 63 of a-z"),
        ("", {}, "expected 1 to 63 of a-z"),
        ("n" * 64, {}, "expected 1 to 63 of a-z"),
        ("noble", {"address": ""}, "expected one such as https://"),
        ("noble", {"address": "https://"}, "expected one such as https://"),
        ("noble", {"address": "https://images.example.org:99999/"}, "expected one such as https://"),
        ("noble", {"address": "https://images.example.org/a b"}, "expected one such as https://"),
        ("noble", {"address": "https://[::1/"}, "expected one such as https://"),
        ("noble", {"address": "http://images.example.org/"}, "http only where private is allowed"),
        ("noble", {"address": "file://host/etc/passwd", "allow_private": True}, "of file, expected https"),
        ("noble", {"address": "https://user:secret@images.example.org/"}, "a user, a query or a fragment"),
        ("noble", {"address": "https://images.example.org/?token=secret"}, "a user, a query or a fragment"),
        ("noble", {"connections": 0}, "over 0 connections"),
        ("noble", {"connections": 9}, "over 9 connections"),
        ("noble", {"bytes_per_s": 99_999}, "99,999 bytes a second, expected at least 100,000"),
        ("noble", {"hosts": ("CDN.example.org",)}, "in lower case without a port"),
        ("noble", {"hosts": ("cdn.example.org:8443",)}, "in lower case without a port"),
        ("noble", {"hosts": ("cdn.example.org\n",)}, "in lower case without a port"),
        ("noble", {"hosts": ("cdn.example.org",) * 21}, "21 hosts for redirects"),
        ("noble", {"stream": "streams"}, "expected `images` or `images-`"),
        ("noble", {"stream": "images/ubuntu"}, "expected 5"),
        ("noble", {"only": ()}, "write `all` for everything"),
        ("noble", {"only": ("",)}, "the filter is empty"),
        ("noble", {"only": ("all",) * (MOST_FILTERS + 1)}, "101 filters"),
        ("noble", {"keep": 0}, "keeps 0 versions"),
        ("noble", {"keep": 1_001}, "keeps 1,001 versions"),
        ("noble", {"grace_days": -1}, "a grace of -1 days"),
        ("noble", {"grace_days": 366}, "a grace of 366 days"),
    ],
)
def test_a_mirror_that_cannot_be_followed_is_refused_by_name(name: str, change: dict[str, object], quoted: str) -> None:
    mirror = msgspec.structs.replace(NOBLE, **change)
    with pytest.raises(InvalidMirror, match=f"^the mirror '{name[:80]}' .*{quoted}") as refusal:
        check(name, mirror)
    assert "secret" not in str(refusal.value), "an address may hold a password"
    with pytest.raises(InvalidMirror):
        encode_mirrors({name: mirror})


def test_a_configuration_above_the_limits_of_reading_is_not_written() -> None:
    with pytest.raises(InvalidMirror, match=r"101 mirrors, expected at most 100"):
        encode_mirrors({f"m{number}": NOBLE for number in range(MOST_MIRRORS + 1)})
    long = msgspec.structs.replace(NOBLE, only=("os=" + "|".join(["a" * 200] * 60),) * MOST_FILTERS)
    with pytest.raises(InvalidMirror, match=r"bytes, expected at most 1,048,576"):
        encode_mirrors({"long": long})


@pytest.mark.parametrize(
    ("body", "quoted"),
    [
        (b"", "cannot be read"),
        (b"{}", "missing required field `mirrors`"),
        (b'{"mirrors": {"a": {}}}', "missing required field"),
        (b'{"mirrors": {}, "schema": 2}', "schema 2, expected 1"),
        (b"[" * 100_000, "cannot be read"),
        (b" " * (MAX_CONFIGURATION_BYTES + 1), "more than 1,048,576 bytes"),
        (encode_mirrors({"noble": NOBLE}).replace(b'"keep"', b'"kept"'), "unknown field `kept`"),
        (encode_mirrors({"noble": NOBLE}).replace(b"https", b"gopher"), "the mirror 'noble' has an address of gopher"),
    ],
)
def test_an_invalid_configuration_is_damaged_and_never_taken_for_empty(body: bytes, quoted: str) -> None:
    with pytest.raises(CatalogDamaged, match=quoted) as refusal:
        decode_mirrors(body)
    assert str(refusal.value).startswith(CONFIGURATION_KEY)


STATE = MirrorState(
    documents={"streams/v1/images.json": SeenDocument(3, "2026-11-27T00:00:00+00:00", '"e"')},
    held={
        "images/ubuntu/noble/amd64/cloud/20261101": HeldVersion(),
        "images/a/b/amd64/c/20261101": HeldVersion("2026-11-27T00:00:00Z"),
    },
)


def test_a_state_is_read_as_it_was_written() -> None:
    assert decode_state(encode_document(STATE), "noble") == STATE
    assert decode_state(encode_document(MirrorState()), "noble") == MirrorState()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"schema": 2}', encode_document(STATE).replace(b"00Z", b"00")])
def test_an_unreadable_state_is_not_taken_for_that_of_a_new_mirror(body: bytes) -> None:
    with pytest.raises(CatalogDamaged) as refusal:
        decode_state(body, "noble")
    assert str(refusal.value).startswith(state_key("noble"))


STATUS = MirrorStatus(began="2026-11-20T00:00:00+00:00", looked="2026-11-27T00:00:00+00:00", missing=2)


def test_a_status_is_read_as_it_was_written() -> None:
    assert decode_status(encode_document(STATUS), "noble") == STATUS
    assert decode_status(encode_document(MirrorStatus()), "noble") == MirrorStatus()


@pytest.mark.parametrize("body", [b"", b'{"schema": 2}', b'{"looked": "today"}', b'{"asked": {"k": "2026-11-27"}}'])
def test_an_unreadable_status_is_not_taken_for_that_of_a_new_mirror(body: bytes) -> None:
    with pytest.raises(CatalogDamaged) as refusal:
        decode_status(body, "noble")
    assert str(refusal.value).startswith(status_key("noble"))


def test_the_lag_counts_from_the_last_time_in_step_or_else_from_the_first_comparison() -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    assert MirrorStatus().lag_s(now) == 0
    assert STATUS.lag_s(now) == 7 * 86_400
    assert replace(STATUS, in_step="2026-11-26T00:00:00+00:00").lag_s(now) == 86_400


def test_no_mirror_name_makes_the_key_of_its_state_that_of_the_configuration() -> None:
    assert state_key("mirrors") != CONFIGURATION_KEY
