"""A server with views as its edge sees it: entries of the store, requests, and the right of each reader.

`right` says what a request may get by the rules of functions/decisions/0015-views.md. It shares nothing with the
function: it checks the key that the function chose, not how it got there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from urllib.parse import unquote

from edge.embed import FUNCTION
from local_stack.cloudfront_function import EdgeFunction

FILE: Final = "ubuntu/noble/amd64/default/20261123_10:00/rootfs.squashfs"
PUBLIC: Final = f"images/{FILE}"
PRIVATE: Final = f"images-staging/{FILE}"
HIDDEN: Final = ("images-staging", "images-lab")
"""The private streams."""
KEYS: Final[Mapping[str, bytes]] = {
    "staging": bytes(range(32)),
    "lab": bytes(range(32, 64)),
    "stable": bytes(range(64, 96)),
}
CHANNELS: Final = ("stable",)
"""The public views."""


def token(letter: str) -> str:
    return "sst_" + letter * 32


STAGING: Final = token("s")
LAB: Final = token("l")
STABLE: Final = token("p")
EXPIRED: Final = token("x")
REVOKED: Final = token("r")
ORPHAN: Final = token("o")
TOKENS: Final[Mapping[str, tuple[str, int]]] = {
    STAGING: ("staging", 0),
    LAB: ("lab", 4_000_000_000),
    STABLE: ("stable", 0),
    EXPIRED: ("staging", 1_000_000_000),
    ORPHAN: ("gone", 0),
}

LABELS: Final[Mapping[str, str]] = {STAGING: "ci"}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def mac(view: str, key: str) -> str:
    return base64url(hmac.digest(KEYS[view], f"{view}\n{key}".encode(), "sha256"))[:22]


def signed(view: str, key: str) -> str:
    return f"signed/{mac(view, key)}/{key}"


def basic(secret: str, label: str = "host1") -> str:
    return "Basic " + base64.b64encode(f"{label}:{secret}".encode()).decode()


def entries() -> dict[str, str]:
    """Return what `scripts/admin` would have written into the store."""
    store = {f"view:{name}": json.dumps({"key": base64url(key), "public": name in CHANNELS})
             for name, key in KEYS.items()}  # fmt: skip
    for secret, (view, until) in TOKENS.items():
        store[f"token:{hashlib.sha256(secret.encode()).hexdigest()}"] = json.dumps(
            {"label": LABELS.get(secret, "host1"), "view": view, "until": until}
        )
    return store | {"private": json.dumps(HIDDEN)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The key that is served, or the status of a refusal with its headers."""

    key: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


class Edge:
    """The deployed function over a store that a test may change."""

    def __init__(self) -> None:
        self.store = entries()
        self.reads: list[str] = []
        self.logged: list[str] = []
        self._function = EdgeFunction(FUNCTION.read_text(), self._read, self.logged.append)

    def ask(self, uri: str, *authorization: str) -> Answer:
        """Request a URI as a client spells it, with any number of Authorization headers."""
        self.reads.clear()
        self.logged.clear()
        return answer(self._function.run("GET", uri, [("Authorization", value) for value in authorization]))

    def _read(self, key: str) -> str | None:
        self.reads.append(key)
        return self.store.get(key)


@cache
def shared() -> Edge:
    """Return one edge for callers that leave its store alone."""
    return Edge()


def answer(result: Mapping[str, Any]) -> Answer:
    if "statusCode" in result:
        headers = {name: header["value"] for name, header in result["headers"].items()}
        return Answer(status=result["statusCode"], headers=headers)
    return Answer(key=result["uri"].removeprefix("/") or "index.html")


def secrets_of(uri: str, *authorization: str) -> set[str]:
    """Return every valid token anywhere in a request, read as leniently as possible."""
    texts = [unquote(uri), *authorization]
    for value in authorization:
        encoded = re.sub(r"[^A-Za-z0-9+/]", "", value.split(" ")[-1])
        texts += [_decoded(encoded), _decoded(encoded[:-1])]
    return {secret for secret in (STAGING, LAB, STABLE) if any(secret in text for text in texts)}


def _decoded(encoded: str) -> str:
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4)).decode("latin-1")
    except binascii.Error:
        return ""


def right(key: str, uri: str, *authorization: str) -> bool:
    """Return whether a request may get the object at this key."""
    views = {TOKENS[secret][0] for secret in secrets_of(uri, *authorization)} | set(CHANNELS)
    first, _, rest = key.partition("/")
    if first == "views":
        view, _, document = rest.partition("/")
        return view in views and document.startswith("streams/v1/")
    if first in ("versions", "leases", "maintain", "mirrors"):
        return False
    stream = rest.rsplit("/", 1)[-1].split(".")[0] if first == "streams" else first
    if stream not in HIDDEN:
        return True
    return first != "streams" and any(mac(view, key) in unquote(uri) for view in views)
