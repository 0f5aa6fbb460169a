"""The tokens of private views, and what the edge must know about views to answer a request.

A token is shown once and stored as its sha256: 192 random bits need no slow hash. The edge's entries follow from the
documents of all views, so they can be written again at any time.
"""

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from imageserver.errors import InvalidView
from imageserver.views.catalogs import private_streams
from imageserver.views.view import Token, View

PREFIX: Final = "sst_"
"""The start of each token, by which people and secret scanners recognise one."""
RANDOM_BYTES: Final = 24
PRIVATE: Final = "private"
MOST_VALUE_BYTES: Final = 1000
"""A value of CloudFront's store has 1 KB at most."""
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_encoder = msgspec.json.Encoder(order="sorted")


def token_text(random: bytes) -> str:
    """Return the token that RANDOM_BYTES random bytes make: `sst_` and 32 characters of base64url."""
    return PREFIX + urlsafe_b64encode(random).decode()


def token_hash(text: str) -> str:
    """Return what is stored of a token: its sha256, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def with_token(view: View, hashed: str, token: Token) -> View:
    """Return the view with one more token, unchanged if it has just this one. Raise InvalidView."""
    if not view.is_private:
        raise InvalidView(f"the view {view.name} can be read by everybody: it needs no token")
    if not _LABEL.fullmatch(token.label):
        raise InvalidView(
            f"the label {token.label[:80]!r} has other characters, expected 1 to 63 of a-z, 0-9 and `-`, not `-` "
            "first: it is the user name in the remote's address"
        )
    if view.tokens.get(hashed) == token:
        return view  # the answer to an earlier attempt was lost
    if any(one.label == token.label for one in view.tokens.values()):
        raise InvalidView(
            f"the view {view.name} has a token {token.label}; choose another label, move its hosts to the new token, "
            f"then revoke {token.label}"
        )
    return replace(view, tokens={**view.tokens, hashed: token})


def without_token(view: View, label: str) -> View:
    """Return the view without the token of that label. Raise InvalidView if there is none."""
    left = {hashed: token for hashed, token in view.tokens.items() if token.label != label}
    if len(left) == len(view.tokens):
        raise InvalidView(f"the view {view.name} has no token {label[:80]!r}; `admin view token list` names them")
    return replace(view, tokens=left)


def token_keys(view: View) -> set[str]:
    """Return the keys of the edge's entries about a view's tokens."""
    return {f"token:{hashed}" for hashed in view.tokens}


def entries(views: Iterable[View], now: datetime) -> dict[str, str]:
    """Return all that the edge must know: each view, the tokens that are valid, and which streams are private.

    Raise InvalidView if there are more private streams than the edge can hold.
    """
    found: dict[str, str] = {}
    views = list(views)
    for view in views:
        found[f"view:{view.name}"] = _json({"key": view.secret, "public": not view.is_private})
        for hashed, token in view.tokens.items():
            if not token.until or token.until > now.timestamp():
                found[f"token:{hashed}"] = _json({"label": token.label, "view": view.name, "until": token.until})
    if streams := sorted(private_streams(views)):
        found[PRIVATE] = _json(streams)
    for key, value in found.items():
        if len(value.encode()) > MOST_VALUE_BYTES:
            raise InvalidView(
                f"the edge's entry {key} would have {len(value.encode()):,} bytes, expected at most "
                f"{MOST_VALUE_BYTES:,}: make fewer streams private, or give them shorter names"
            )
    return found


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return what to put into the edge's store and what to delete from it; only entries about views."""
    put = {key: value for key, value in wanted.items() if found.get(key) != value}
    ours = (key for key in found if key == PRIVATE or key.startswith(("view:", "token:")))
    return put, sorted(key for key in ours if key not in wanted)


def _json(value: object) -> str:
    return _encoder.encode(value).decode()
