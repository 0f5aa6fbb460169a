"""The mirrors of a server: which other servers it follows, and what it last saw on and took from each.

All documents but one are private and written conditionally. `mirrors/mirrors.json` is the operator's configuration.
`mirrors/<name>.state.json`, the state of a mirror, is what a comparison leaves for the next one: it holds every
version, and is not written while upstream does not change. `mirrors/<name>.status.json`, its status, says how the last
comparisons went: it is small, and each comparison writes it. `mirrors/<name>.refused.json` says what could not be
copied, and why.

The public one is `streams/mirrors.json`: the host of each server, and when it was last compared.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from imageserver.errors import CatalogDamaged, InvalidFilter, InvalidMirror, InvalidUpload
from imageserver.format.keys import parse_product
from imageserver.upstream.addresses import host_of
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
MOST_CONNECTIONS: Final = 8
MOST_KEYRING_BYTES: Final = 64 << 10
LEAST_BYTES_PER_S: Final = 100_000
"""Slower than this, a run of a function would not finish two parts of a file."""
MOST_REFUSALS: Final = 100
PUBLIC_KEY: Final = "streams/mirrors.json"
"""Where the page reads when each server was last compared. No stream's document has this name."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")


class Mirror(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One server to follow: what to take from `address` into `stream`.

    `keep` is how many versions of each product are taken, the newest ones; None for all. A version that is no longer
    taken stays listed for `grace_days`. `allow_private` lets the address be in a private network, and use plain http.
    Redirects may lead to the host of the address and to `hosts`, in lower case and without a port. Each file is read
    over at most `connections` connections, at `bytes_per_s` in total; None for no limit. With a `keyring` (OpenPGP
    keys, in base64), a document that none of its keys signed is refused.
    """

    address: str
    stream: str
    only: tuple[str, ...]
    keep: int | None = None
    grace_days: int = 7
    allow_private: bool = False
    hosts: tuple[str, ...] = ()
    connections: int = 4
    bytes_per_s: int | None = None
    keyring: str = ""


class _Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    mirrors: dict[str, Mirror]
    schema: int = SCHEMA


class SeenDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of an accepted products document: how many versions could be taken, and its date (ISO 8601, UTC)."""

    versions: int
    updated: str = ""
    etag: str = ""


class HeldVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version that this mirror holds.

    `gone_since`: since when it is no longer taken (ISO 8601, UTC); empty while it is. `delisted`: this mirror took it
    off the list, so this mirror may put it back. `refused`: an operator or retention withdrew it, so it is not copied
    again once its files are deleted. `needed`: its grace time is over, but at the last full comparison a channel
    pointed to it.
    """

    gone_since: str = ""
    delisted: bool = False
    refused: bool = False
    needed: bool = False


class MirrorState(msgspec.Struct, frozen=True, kw_only=True):
    """What the last accepted comparison saw, by the path of each document, and the versions it holds, by their path.

    `index_etag` is the ETag of the index that named the documents. `mirror` is the configuration that was compared, and
    `compared` the time of that comparison (ISO 8601, UTC).
    """

    documents: dict[str, SeenDocument] = {}
    held: dict[str, HeldVersion] = {}
    index_etag: str = ""
    mirror: Mirror | None = None
    compared: str = ""
    schema: int = SCHEMA


class MirrorStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How the comparisons went. Times are ISO 8601 in UTC; empty for never.

    `began`: the first comparison; `looked`: the last one. `compared`: the last one that read every document and was
    accepted. `in_step`: the last one that found nothing missing. `error`: why the last one was not accepted, or what
    it could not do. The rest is from the comparison at `compared`: how many products and versions are taken, the
    missing files and bytes, versions that left the list, sentences about what cannot be taken (the first of
    `left_out_total`), and since when the copy of each missing file has been requested, by its key.
    """

    began: str = ""
    looked: str = ""
    compared: str = ""
    in_step: str = ""
    error: str = ""
    products: int = 0
    versions: int = 0
    missing: int = 0
    missing_bytes: int = 0
    delisted: int = 0
    left_out: tuple[str, ...] = ()
    left_out_total: int = 0
    asked: dict[str, str] = {}
    schema: int = SCHEMA

    @property
    def last_compared(self) -> str:
        """When a comparison last succeeded, including one that found upstream unchanged; empty for never."""
        return max(self.compared, self.in_step) if self.error else self.looked

    def lag_s(self, now: datetime) -> float:
        """Return for how many seconds this server may lack something that upstream has; 0 before any comparison."""
        since = self.in_step or self.began
        return max(0.0, (now - datetime.fromisoformat(since)).total_seconds()) if since else 0.0


class Refusal(msgspec.Struct, frozen=True):
    """Why a file could not be copied, completing "<key> …", and when that was (ISO 8601, UTC)."""

    reason: str
    at: str


class MirrorRefusals(msgspec.Struct, frozen=True, kw_only=True):
    """The files that upstream lists and that could not be copied, by key: the last MOST_REFUSALS."""

    files: dict[str, Refusal] = {}
    schema: int = SCHEMA


class PublicMirror(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is public about a mirror; `compared` is when a comparison last succeeded (ISO 8601, UTC)."""

    host: str
    stream: str
    compared: str = ""


class PublicMirrors(msgspec.Struct, frozen=True, kw_only=True):
    """`streams/mirrors.json`: each server that is followed, sorted."""

    mirrors: tuple[PublicMirror, ...]
    format: str = "mirrors:1.0"


_encoder = msgspec.json.Encoder(order="sorted")
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
_T = TypeVar("_T", _Configuration, MirrorState, MirrorStatus, MirrorRefusals)


def refusals_key(name: str) -> str:
    """Return the key of a mirror's refusals."""
    return f"{MIRRORS}{name}.refused.json"


def status_key(name: str) -> str:
    """Return the key of a mirror's status."""
    return f"{MIRRORS}{name}.status.json"


def state_key(name: str) -> str:
    """Return the key of a mirror's state."""
    return f"{MIRRORS}{name}.state.json"


def check(name: str, mirror: Mirror) -> None:
    """Check a mirror. Raise InvalidMirror, which says what is wrong and what is expected."""
    try:
        for problem in _problems(name, mirror):
            raise InvalidMirror(f"the mirror {name[:80]!r} {problem}")
        parse_product(f"{mirror.stream}/os/release/amd64/default")
        for only in mirror.only:
            parse_filter(only)
    except (InvalidUpload, InvalidFilter) as error:
        raise InvalidMirror(f"the mirror {name[:80]!r} cannot be followed: {error}") from error


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
    if not 0 < mirror.connections <= MOST_CONNECTIONS:
        yield f"reads over {mirror.connections:,} connections, expected 1 to {MOST_CONNECTIONS}"
    if mirror.bytes_per_s is not None and mirror.bytes_per_s < LEAST_BYTES_PER_S:
        yield f"reads {mirror.bytes_per_s:,} bytes a second, expected at least {LEAST_BYTES_PER_S:,}, or no limit"
    if len(mirror.keyring) > MOST_KEYRING_BYTES * 4 // 3:
        yield f"has a keyring of more than {MOST_KEYRING_BYTES:,} bytes; export only the keys that sign its documents"
    if len(mirror.hosts) > MOST_HOSTS:
        yield f"has {len(mirror.hosts):,} hosts for redirects, expected at most {MOST_HOSTS}"
    for host in mirror.hosts:
        if not _HOST.match(host):
            yield f"has the host {host[:80]!r}, expected a name in lower case without a port, such as cdn.example.org"


def _address_problems(mirror: Mirror) -> Iterable[str]:
    """Say what is wrong with an address without quoting it: it may hold a password or a token."""
    address: SplitResult | None
    try:
        address = urlsplit(mirror.address)
        _ = address.port  # an invalid port raises only when it is read
    except ValueError:
        address = None
    if not address or not address.hostname or not mirror.address.isprintable() or any(map(str.isspace, mirror.address)):
        yield "has an address that is not a URL, expected one such as https://images.example.org/"
    elif address.scheme != "https" and not (address.scheme == "http" and mirror.allow_private):
        yield f"has an address of {address.scheme or 'no scheme'}, expected https; http only where private is allowed"
    elif "@" in address.netloc or address.query or address.fragment:
        yield "has a user, a query or a fragment in its address, expected only a host and a path"


def encode_mirrors(mirrors: Mapping[str, Mirror]) -> bytes:
    """Return the bytes of the configuration. Raise InvalidMirror for what `decode_mirrors` would refuse."""
    if len(mirrors) > MOST_MIRRORS:
        raise InvalidMirror(f"there are {len(mirrors):,} mirrors, expected at most {MOST_MIRRORS}: remove one first")
    for name, mirror in mirrors.items():
        check(name, mirror)
    body = _encoder.encode(_Configuration(mirrors=dict(mirrors)))
    if len(body) > MAX_CONFIGURATION_BYTES:
        raise InvalidMirror(f"the mirrors take {len(body):,} bytes, expected at most {MAX_CONFIGURATION_BYTES:,}")
    return body


def decode_mirrors(body: bytes) -> dict[str, Mirror]:
    """Read the configuration. Raise CatalogDamaged, which names the mirror that cannot be followed."""
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


def encode_document(document: MirrorState | MirrorStatus | MirrorRefusals) -> bytes:
    """Return the bytes of one of a mirror's documents; equal documents give equal bytes."""
    return _encoder.encode(document)


def decode_status(body: bytes, name: str) -> MirrorStatus:
    """Read a mirror's status. Raise CatalogDamaged."""
    status = _decoded(body, status_key(name), MirrorStatus)
    times = [status.began, status.looked, status.compared, status.in_step]
    _check_times(status_key(name), [*times, *status.asked.values()])
    return status


def encode_public(mirrors: Mapping[str, Mirror], statuses: Mapping[str, MirrorStatus]) -> bytes:
    """Return the bytes of the public document. It has hosts, but neither paths, which may hold a token, nor names."""
    public = [
        PublicMirror(host=host_of(mirror.address), stream=mirror.stream, compared=statuses[name].last_compared)
        for name, mirror in mirrors.items()
    ]
    public.sort(key=lambda one: (one.stream, one.host, one.compared))
    return _encoder.encode(PublicMirrors(mirrors=tuple(public)))


def decode_refusals(body: bytes, name: str) -> MirrorRefusals:
    """Read a mirror's refusals. Raise CatalogDamaged."""
    return _decoded(body, refusals_key(name), MirrorRefusals)


def decode_state(body: bytes, name: str) -> MirrorState:
    """Read a mirror's state. Raise CatalogDamaged: an unreadable state never passes for that of a new mirror."""
    state = _decoded(body, state_key(name), MirrorState)
    times = (
        [state.compared]
        + [seen.updated for seen in state.documents.values()]
        + [held.gone_since for held in state.held.values()]
    )
    _check_times(state_key(name), times)
    return state


def _check_times(key: str, times: Iterable[str]) -> None:
    for time in filter(None, times):
        try:
            aware = datetime.fromisoformat(time).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            raise CatalogDamaged(f"{key} has the time {time[:80]!r}, expected ISO 8601 with a time zone")


def _decoded(body: bytes, key: str, type_: type[_T]) -> _T:
    try:
        document = msgspec.json.decode(body, type=type_)
    except _UNREADABLE as error:
        raise CatalogDamaged(f"{key} cannot be read ({error}); put back its previous version") from error
    if document.schema != SCHEMA:
        raise CatalogDamaged(f"{key} is of schema {document.schema}, expected {SCHEMA}; deploy the newer release again")
    return document
