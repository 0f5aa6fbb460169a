"""The mirrors of a server: which other servers it follows, and what it last saw and brought of each.

Both documents are private and written conditionally. `mirrors/mirrors.json` is what the operator wants. The state of
a mirror, `mirrors/<name>.state.json`, is what a comparison leaves for the next one.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from imageserver.errors import CatalogDamaged, InvalidFilter, InvalidMirror, InvalidUpload
from imageserver.format.keys import parse_product
from imageserver.upstream.filters import parse_filter

MIRRORS: Final = "mirrors/"
CONFIGURATION_KEY: Final = f"{MIRRORS}mirrors.json"
SCHEMA: Final = 1
MAX_CONFIGURATION_BYTES: Final = 1 << 20
MOST_MIRRORS: Final = 100
MOST_FILTERS: Final = 100
MOST_VERSIONS: Final = 1_000
MOST_GRACE_DAYS: Final = 365
MOST_HOSTS: Final = 20
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")


class Mirror(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One server to follow: what comes from `address` into `stream`.

    `keep` is how many versions come of each product, the newest; None for all. A version that no longer comes stays
    listed for `grace_days`. `allow_private` lets the address be one of a private network, and plain http. Redirects
    may lead to the host of the address and to `hosts`, in lower case and without a port.
    """

    address: str
    stream: str
    only: tuple[str, ...]
    keep: int | None = None
    grace_days: int = 7
    allow_private: bool = False
    hosts: tuple[str, ...] = ()


class _Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mirrors: dict[str, Mirror]
    schema: int = SCHEMA


class SeenDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an accepted products document was: how many versions could come, and upstream's date (ISO 8601, UTC)."""

    versions: int
    updated: str = ""
    etag: str = ""


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version that this mirror brings.

    `gone_since`: when it no longer came (ISO 8601, UTC); empty while it does. `delisted`: this mirror took it off the
    list, so this mirror may put it back. `refused`: an operator or retention withdrew it, so it is not copied again
    once its files are deleted.
    """

    gone_since: str = ""
    delisted: bool = False
    refused: bool = False


class MirrorState(msgspec.Struct, frozen=True, kw_only=True):
    """What the last accepted comparison saw, by the path of each document, and the versions it holds, by their path."""

    documents: dict[str, SeenDocument] = {}
    held: dict[str, Held] = {}
    schema: int = SCHEMA


_encoder = msgspec.json.Encoder(order="sorted")
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
_T = TypeVar("_T", _Configuration, MirrorState)


def state_key(name: str) -> str:
    """Return the key of a mirror's state."""
    return f"{MIRRORS}{name}.state.json"


def check(name: str, mirror: Mirror) -> None:
    """Raise InvalidMirror, which says what is wrong and what is expected."""
    try:
        for problem in _problems(name, mirror):
            raise InvalidMirror(f"the mirror {name[:80]!a} {problem}")
        parse_product(f"{mirror.stream}/os/release/amd64/default")
        for only in mirror.only:
            parse_filter(only)
    except (InvalidUpload, InvalidFilter) as error:
        raise InvalidMirror(f"the mirror {name[:80]!a} cannot be followed: {error}") from error


def _problems(name: str, mirror: Mirror) -> Iterable[str]:
    if not _NAME.fullmatch(name):
        yield "has a name of other characters, expected 1 to 63 of a-z, 0-9 and `-`, not `-` first"
    yield from _address_problems(mirror)
    if not 0 < len(mirror.only) <= MOST_FILTERS:
        yield f"has {len(mirror.only):,} filters, expected 1 to {MOST_FILTERS}; write `all` for everything"
    if mirror.keep is not None and not 0 < mirror.keep <= MOST_VERSIONS:
        yield f"keeps {mirror.keep:,} versions of each product, expected 1 to {MOST_VERSIONS:,}, or none given for all"
    if not 0 <= mirror.grace_days <= MOST_GRACE_DAYS:
        yield f"has a grace of {mirror.grace_days:,} days, expected 0 to {MOST_GRACE_DAYS}"
    if len(mirror.hosts) > MOST_HOSTS:
        yield f"has {len(mirror.hosts):,} hosts for redirects, expected at most {MOST_HOSTS}"
    for host in mirror.hosts:
        if not _HOST.match(host):
            yield f"has the host {host[:80]!a}, expected a name in lower case without a port, such as cdn.example.org"


def _address_problems(mirror: Mirror) -> Iterable[str]:
    """Say what is wrong with an address without quoting it: it may hold a password or a token."""
    address = _split(mirror.address)
    if not address or not address.hostname or not mirror.address.isprintable() or any(map(str.isspace, mirror.address)):
        yield "has an address that is none, expected such as https://images.example.org/"
    elif address.scheme != "https" and not (address.scheme == "http" and mirror.allow_private):
        yield f"has an address of {address.scheme or 'no scheme'}, expected https; http only where private is allowed"
    elif "@" in address.netloc or address.query or address.fragment:
        yield "has a user, a query or a fragment in its address, expected a host and a path alone"


def _split(address: str) -> SplitResult | None:
    try:
        split = urlsplit(address)
        _ = split.port  # read here, as it raises only when it is read
    except ValueError:
        return None
    return split


def encode_mirrors(mirrors: Mapping[str, Mirror]) -> bytes:
    """Return the bytes of the configuration. Raise InvalidMirror for what `decode_mirrors` would not take back."""
    if len(mirrors) > MOST_MIRRORS:
        raise InvalidMirror(f"there are {len(mirrors):,} mirrors, expected at most {MOST_MIRRORS}: remove one first")
    for name, mirror in mirrors.items():
        check(name, mirror)
    body = _encoder.encode(_Configuration(mirrors=dict(mirrors)))
    if len(body) > MAX_CONFIGURATION_BYTES:
        raise InvalidMirror(f"the mirrors take {len(body):,} bytes, expected at most {MAX_CONFIGURATION_BYTES:,}")
    return body


def decode_mirrors(body: bytes) -> dict[str, Mirror]:
    """Read the configuration. Raise CatalogDamaged, which names the mirror that nobody can follow."""
    if len(body) > MAX_CONFIGURATION_BYTES:
        raise CatalogDamaged(
            f"{CONFIGURATION_KEY} has more than {MAX_CONFIGURATION_BYTES:,} bytes; write a smaller one"
        )
    mirrors = _decoded(body, CONFIGURATION_KEY, _Configuration).mirrors
    try:
        encode_mirrors(mirrors)
    except InvalidMirror as error:
        raise CatalogDamaged(f"{CONFIGURATION_KEY} cannot be used: {error}") from error
    return mirrors


def encode_state(state: MirrorState) -> bytes:
    """Return the bytes of a state; equal states give equal bytes."""
    return _encoder.encode(state)


def decode_state(body: bytes, name: str) -> MirrorState:
    """Read a mirror's state. Raise CatalogDamaged: an unreadable one never reads as that of a new mirror."""
    state = _decoded(body, state_key(name), MirrorState)
    times = [seen.updated for seen in state.documents.values()] + [held.gone_since for held in state.held.values()]
    for time in filter(None, times):
        try:
            aware = datetime.fromisoformat(time).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            raise CatalogDamaged(f"{state_key(name)} has the time {time[:80]!a}, expected ISO 8601 with a time zone")
    return state


def _decoded(body: bytes, key: str, type_: type[_T]) -> _T:
    try:
        document = msgspec.json.decode(body, type=type_)
    except _UNREADABLE as error:
        raise CatalogDamaged(f"{key} cannot be read ({error}); put back its previous version") from error
    if document.schema != SCHEMA:
        raise CatalogDamaged(f"{key} is of schema {document.schema}, expected {SCHEMA}; deploy the newer release again")
    return document
