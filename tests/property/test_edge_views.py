"""No spelling of a request gets anything without a right to it, however the edge's function reads it."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.edge_views import (
    CHANNELS,
    EXPIRED,
    KEYS,
    LAB,
    ORPHAN,
    PRIVATE,
    PUBLIC,
    REVOKED,
    STABLE,
    STAGING,
    TOKENS,
    Edge,
    base64url,
    basic,
    right,
    secrets_of,
    signed,
)

EDGE = Edge()
SECRETS = (STAGING, LAB, STABLE, EXPIRED, REVOKED, ORPHAN)
PIECES = (
    *SECRETS,
    *KEYS,
    *(signed(view, key) for view in KEYS for key in (PUBLIC, PRIVATE)),
    *("streams/v1/index.json", "streams/v1/images-staging.json", "views/lab/streams/v1/index.json", "views/lab.json"),
    *(PUBLIC, PRIVATE, "index.html", "signed", "streams", "v1", "views", "images", "images-lab", "versions", "nobody"),
    *(".", "..", "", "%2e", "%2F", "%25", "%00", "~", ":", "+", "?", "\\", "a"),
)


@st.composite
def uris(draw: st.DrawFn) -> str:
    """Draw parts with a meaning for the function, in any order, with some characters escaped or replaced."""
    uri = "/" + draw(st.sampled_from(("/", "//", "%2f", ""))).join(draw(st.lists(st.sampled_from(PIECES), max_size=5)))
    letters = list(uri)
    for position in draw(st.lists(st.integers(0, len(letters) - 1), max_size=4)):
        letters[position] = draw(
            st.sampled_from((f"%{ord(uri[position]):02x}", f"%{ord(uri[position]):02X}", uri[position].swapcase(), ""))
        )
    return "".join(letters)


logins = st.lists(
    st.sampled_from(SECRETS).map(basic)
    | st.builds(lambda secret, label: basic(secret, label).lower(), st.sampled_from(SECRETS), st.text(max_size=3))
    | st.text(st.characters(codec="latin-1"), max_size=60)
    | st.binary(max_size=60).map(lambda raw: f"Basic {base64url(raw)}"),
    max_size=2,
)


@settings(max_examples=1500, deadline=None)
@given(uris() | st.text(max_size=80), logins)
@example(f"/%76iews/lab/{PRIVATE}", [basic(STAGING)])
@example("/streams/v1/index.json", [basic(STAGING)])
def test_no_request_without_a_right_gets_anything_private(uri: str, authorization: list[str]) -> None:
    found = EDGE.ask(uri, *authorization)
    for line in EDGE.logged:
        opened = {TOKENS[secret][0] for secret in secrets_of(uri, *authorization)}
        assert json.loads(line) in [{"view": view, "label": label} for view in opened for label in ("ci", "host1")]
    if found.status:
        assert found.status in (302, 401, 404)
        assert found.status != 302 or found.headers["location"].strip("/") in {*TOKENS, *CHANNELS}
    else:
        assert right(found.key, uri, *authorization), found.key
        assert "//" not in found.key
        assert ".." not in found.key.split("/")


keys = st.from_regex(r"images(-[a-z0-9]{1,8}){0,2}(/[A-Za-z0-9][A-Za-z0-9._~:-]{0,20}){1,6}", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(keys, st.sampled_from(sorted(KEYS)))
def test_the_edge_signs_like_python(key: str, view: str) -> None:
    secret = next(secret for secret, (opened, _) in TOKENS.items() if opened == view and secret != EXPIRED)
    assert EDGE.ask(f"/{signed(view, key)}", basic(secret)).key == key
    assert EDGE.ask(f"/{secret}/{signed(view, key)}x").status == 404


@settings(max_examples=300, deadline=None)
@given(uris(), st.sampled_from((EXPIRED, REVOKED, ORPHAN)))
def test_every_token_without_a_right_gets_the_same_answer(uri: str, secret: str) -> None:
    unknown = "sst_" + "u" * 32
    assert EDGE.ask(uri.replace(secret, unknown), basic(unknown)) == EDGE.ask(uri, basic(secret))
    assert EDGE.ask(f"/{secret}{uri}") == EDGE.ask(f"/{unknown}{uri}")
