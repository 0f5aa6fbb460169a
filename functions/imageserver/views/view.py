"""A view: what it selects, who may read it, and for a channel which version of each product it points to.

The document of a view, `private/views/<name>.json`, is private and written conditionally. Its catalog is served, below
`views/<name>/streams/v1/`: a pure function of this document and the records of the streams that it names.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Annotated, Final

import msgspec

from imageserver.errors import CatalogDamaged, InvalidFilter, InvalidUpload, InvalidView
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId, parse_product
from imageserver.upstream.filters import ALL, parse_filter

VIEWS: Final = "private/views/"
"""Where the documents of views are stored. Nothing below `private/` is ever served."""
SERVED: Final = "views/"
"""Where the catalogs of views are stored, each in a folder with the view's name."""
SCHEMA: Final = 1
SECRET_BYTES: Final = 32
MOST_STREAMS: Final = 20
MOST_FILTERS: Final = 100
MOST_CHECKS: Final = 20
MOST_TOKENS: Final = 1000
MOST_BYTES: Final = 16 << 20
LONGEST_EXPIRY_S: Final = 3650 * 24 * 3600
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TOKEN_HASH: Final = re.compile(r"[0-9a-f]{64}")
_TAKEN: Final = frozenset({"streams", "signed", "views", "private", "versions", "leases", "maintain", "mirrors", "api"})
"""First folders that mean something else in an address, or in the bucket."""
_PRODUCT_FIELDS: Final = frozenset({"os", "release", "arch", "variant"})

_Seconds = Annotated[int, msgspec.Meta(ge=0)]


class Promotion(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A version that a channel was pointed to: when (ISO 8601, UTC) and by whom.

    `back_at` and `back_by` say when and by whom it was taken back; empty if it was not.
    """

    version: str
    at: str
    by: str
    back_at: str = ""
    back_by: str = ""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token that opens a private view, known by its hash. `until` in Unix seconds; 0 for one that never expires."""

    label: str
    created: str
    until: _Seconds = 0


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A selection: the products of `streams` that a filter of `only` takes; all of them where there is none.

    `secret` signs the paths of its files, base64url. `is_private`: only a token of `tokens` (sha256 -> token) opens it.
    Its `private_streams` are served through views alone: they are left out of the catalog that everybody reads.
    `clients` is the one kind of client, lxd or incus, whose items it lists; empty: those of the server.
    `channel` maps the path of a product to its promotions, oldest first; None where the view is not a channel. One that
    `follows_newest` shows the newest version of a product without a promotion.
    A version leaves a channel `expire_after_s` after it entered; 0 keeps versions forever. A fold reads no clock: the
    versions that were due by `expired_at` (ISO 8601, UTC) have left. Reconcile advances that time. `requires` are the
    checks that a version must have passed before the channel is pointed to it.
    """

    name: str
    streams: tuple[str, ...]
    secret: str
    only: tuple[str, ...] = ()
    is_private: bool = False
    private_streams: tuple[str, ...] = ()
    tokens: dict[str, Token] = {}
    channel: dict[str, tuple[Promotion, ...]] | None = None
    clients: str = ""
    follows_newest: bool = False
    expire_after_s: _Seconds = 0
    expired_at: str = ""
    requires: tuple[str, ...] = ()
    created: str = ""
    schema: int = SCHEMA

    def takes(self, product: ProductId) -> bool:
        """Return whether the view selects a product."""
        return product.stream in self.streams and (
            not self.only or any(_filter(text).takes_of(product) for text in self.only)
        )

    @property
    def secret_bytes(self) -> bytes:
        """The key with which the paths of its files are signed."""
        return _decoded(self.secret)


_encoder = msgspec.json.Encoder(order="sorted")
_filter = cache(parse_filter)


def view_key(name: str) -> str:
    """Return the key of a view's document."""
    return f"{VIEWS}{name}.json"


def view_name(key: str) -> str:
    """Return the view whose document has a key; empty for any other key."""
    name = key.removeprefix(VIEWS).removesuffix(".json")
    return name if key == view_key(name) and _NAME.fullmatch(name) else ""


def served_prefix(name: str) -> str:
    """Return the prefix of the keys of a view's catalog: `views/<name>/`."""
    return f"{SERVED}{name}/"


def secret_text(secret: bytes) -> str:
    """Return a view's secret in the form that its document has."""
    return urlsafe_b64encode(secret).decode().rstrip("=")


def check(view: View) -> None:
    """Check a view. Raise InvalidView, which says what is wrong and what is expected."""
    try:
        for problem in _problems(view):
            raise InvalidView(f"the view {view.name[:80]!r} {problem}")
        for stream in view.streams:
            parse_product(f"{stream}/os/release/amd64/default")
    except (InvalidUpload, InvalidFilter) as error:
        raise InvalidView(f"the view {view.name[:80]!r} cannot be made: {error}") from error


def _problems(view: View) -> Iterable[str]:
    if not _NAME.fullmatch(view.name):
        yield "has a name of other characters, expected 1 to 63 of a-z, 0-9 and `-`, not `-` first"
    if view.name in _TAKEN or view.name.startswith("images"):
        yield "has a name that means something else in an address; choose another, such as `stable`"
    if not 0 < len(view.streams) <= MOST_STREAMS:
        yield f"has {len(view.streams)} streams, expected 1 to {MOST_STREAMS}"
    if len(set(view.streams)) < len(view.streams):
        yield "names a stream twice"
    if strangers := sorted(set(view.private_streams) - set(view.streams)):
        yield f"makes {strangers[0]!r} private and does not show it; add it to its streams"
    if view.private_streams and not view.is_private:
        yield "makes a stream private and can be read by everybody; make the view private"
    if view.tokens and not view.is_private:
        yield "has tokens and can be read by everybody"
    if len(view.tokens) > MOST_TOKENS:
        yield f"has {len(view.tokens):,} tokens, expected at most {MOST_TOKENS:,}; revoke some"
    if not all(map(_TOKEN_HASH.fullmatch, view.tokens)):
        yield "has a token that is not known by its sha256"
    if view.clients and view.clients not in ALL_CLIENTS:
        yield f"is for the clients {view.clients[:80]!r}, expected {' or '.join(ALL_CLIENTS)}, or none for both"
    if not _is_secret(view.secret):
        yield f"has a secret that is not {SECRET_BYTES} bytes in base64url"
    if view.requires and view.channel is None:
        yield "requires checks and is not a channel; only a promotion can ask for them"
    yield from _check_problems(view.requires)
    yield from _filter_problems(view.only)
    yield from _channel_problems(view)


def _channel_problems(view: View) -> Iterable[str]:
    if view.channel is None and view.follows_newest:
        yield "follows the newest version and is not a channel; make it a channel"
    if view.follows_newest and view.requires:
        yield "follows the newest version and requires checks; only a promotion can ask for them"
    if view.channel is None and view.expire_after_s:
        yield "has an expiry and is not a channel: only in a channel does a version expire"
    if view.expire_after_s > LONGEST_EXPIRY_S:
        yield f"has an expiry of {view.expire_after_s:,} s, expected at most {LONGEST_EXPIRY_S:,} s"
    promoted_at = (one.at for promotions in (view.channel or {}).values() for one in promotions)
    for time in (view.expired_at, *(promoted_at if view.expire_after_s else ())):
        if time and not _is_moment(time):
            yield f"has the time {time[:80]!r}, expected ISO 8601 with a time zone"


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _check_problems(requires: tuple[str, ...]) -> Iterable[str]:
    if len(requires) > MOST_CHECKS:
        yield f"requires {len(requires)} checks, expected at most {MOST_CHECKS}"
    for name in requires:
        if not _NAME.fullmatch(name):
            yield f"requires the check {name[:80]!r}, expected 1 to 63 of a-z, 0-9 and `-`, not `-` first"


def _filter_problems(only: tuple[str, ...]) -> Iterable[str]:
    if len(only) > MOST_FILTERS:
        yield f"has {len(only)} filters, expected at most {MOST_FILTERS}"
    for text in only:
        found = parse_filter(text)
        if text.strip() != ALL and (found.most_bytes is not None or not found.patterns.keys() <= _PRODUCT_FIELDS):
            yield f"has the filter {text!r}; a view selects products: expected only os, release, arch and variant"


def _is_secret(text: str) -> bool:
    try:
        return len(_decoded(text)) == SECRET_BYTES and secret_text(_decoded(text)) == text
    except (NotBase64, ValueError):
        return False


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode_view(view: View) -> bytes:
    """Return the bytes of a view's document. Raise InvalidView for what `decode_view` would refuse."""
    check(view)
    body = _encoder.encode(view)
    if len(body) > MOST_BYTES:
        raise InvalidView(f"the view {view.name} takes {len(body):,} bytes, expected at most {MOST_BYTES:,}")
    return body


def decode_view(body: bytes, name: str) -> View:
    """Read a view's document. Raise CatalogDamaged: an unreadable one never passes for a view that shows nothing."""
    key = view_key(name)
    try:
        view = msgspec.json.decode(body, type=View)
        check(view)
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidView) as error:
        raise CatalogDamaged(f"{key} cannot be read ({error}); put back its previous version") from error
    if view.schema != SCHEMA:
        raise CatalogDamaged(f"{key} is of schema {view.schema}, expected {SCHEMA}; deploy the newer release again")
    if view.name != name:
        raise CatalogDamaged(f"{key} is about the view {view.name[:80]!r}, expected {name}; put back the right one")
    return view
