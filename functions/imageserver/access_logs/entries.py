"""Lines of CloudFront's access logs -> what was asked and answered.

Legacy standard logs, and standard logs of version 2 in W3C form, are read by the names in `#Fields:`, so an operator
may choose the fields. Nothing that identifies the requester is kept: no address, token, query or cookie, and of the
headers only the kind of client.
"""

import re
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec

from imageserver.access_logs.clients import Client, client_of
from imageserver.errors import InvalidUpload
from imageserver.format.file_kinds import Role, classify, is_metadata_name
from imageserver.format.keys import parse_key
from imageserver.format.signed_paths import SIGNED

NEEDED: Final = ("cs-method", "cs-uri-stem", "sc-status", "sc-bytes")
"""A log without one of these fields cannot be counted."""
_FIELDS: Final = (
    *NEEDED, "date", "time", "cs(User-Agent)", "x-edge-result-type", "x-edge-location", "c-country",
    "sc-content-len", "sc-range-start",
)  # fmt: skip
"""In the order in which `Parser._entry` takes them."""
HITS: Final = frozenset({b"Hit", b"RefreshHit", b"OriginShieldHit"})
_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_KEY_PARTS: Final = 7
_MOST_REMEMBERED: Final = 32_768
"""Parsed paths and User-Agents that a parser remembers: 20 MB at most."""
_AGENT_BYTES: Final = 32
"""Characters of a User-Agent that are read, escapes included. What follows the version differs with each kernel."""
_COUNTRY_LETTERS: Final = 2
_AIRPORT_LETTERS: Final = 3
_STATUS_DIGITS: Final = 3
_MOST_DIGITS: Final = 18
_STARTS: Final = (b"0", b"-")
_V = TypeVar("_V")


class UnreadableLine(Exception):
    """A line that CloudFront does not write. The message quotes none of it."""


class File(NamedTuple):
    """A file of a version. `root` is the ftype of the root that a download of it brings, "" for any other file.

    `is_delta`: it brings that root as a delta.
    """

    version: str
    root: str
    is_delta: bool


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One request. `file` is None unless it fetched at least a part of a version's file.

    `is_hit` is None where the edge looked nothing up, as for an error. `moment` is ISO 8601 in UTC, "" if the log has
    none or `file` is None. `is_start`: whole files and first ranges, so that a file in many ranges counts once.
    `is_cut`: the client left before the end. `country` and `location` (three letters, of the airport) are empty where
    unknown.
    """

    file: File | None
    status: int
    size_bytes: int
    is_hit: bool | None
    client: Client
    moment: str
    is_start: bool
    is_cut: bool
    country: str
    location: str


class Parser:
    """Reads the lines of one file after another. Each file begins with its own `#Fields:`."""

    def __init__(self) -> None:
        self._count = 0
        self._places: tuple[int, ...] = ()
        self._lacks = ""
        self._files: dict[bytes, File | None] = {}
        self._clients: dict[bytes, Client] = {}

    def begin(self) -> None:
        """Forget the fields of the file before."""
        self._places = ()

    def parse(self, line: bytes) -> Entry | None:
        """Return the request in a line; None for a comment. Raise UnreadableLine."""
        if line.startswith(b"#"):
            if line.startswith(b"#Fields:"):
                self._read_fields(line[8:].decode("ascii", "replace").split())
            return None
        if not line:
            return None
        if not self._places:
            raise UnreadableLine("comes before any known #Fields")
        values = line.rstrip(b"\r").split(b"\t")
        if len(values) == 1:  # version 2 lets the delimiter be chosen; a space within a value is always escaped
            values = line.split()
        if len(values) != self._count:
            raise UnreadableLine("has more or fewer values than #Fields names")
        if self._lacks:
            raise UnreadableLine(f"is in a log without the field {self._lacks}")
        values.append(b"-")
        return self._entry(values)

    def _read_fields(self, names: list[str]) -> None:
        """Note the position of each field. A missing one gets the position after the last, where `parse` puts `-`."""
        self._count = len(names)
        places = {name: place for place, name in enumerate(names)}
        self._lacks = next((name for name in NEEDED if name not in places), "")
        known = tuple(places.get(name, -1) for name in _FIELDS)
        self._places = known if max(known) >= 0 else ()

    def _entry(self, values: list[bytes]) -> Entry:
        (method, path, status_at, size_at, day, hour, agent, result_at, place, country_at, length_at, start_at) = (
            self._places
        )
        status, size = values[status_at], values[size_at]
        if not (status.isdigit() and len(status) == _STATUS_DIGITS):
            raise UnreadableLine("has something other than a number as sc-status")
        if not (size.isdigit() and len(size) <= _MOST_DIGITS):
            raise UnreadableLine("has something other than a number as sc-bytes")
        size_bytes = int(size)
        is_whole = status == b"200"
        file, moment = None, ""
        if (is_whole or status == b"206") and values[method] == b"GET":
            file = self._file(values[path])
            moment = f"{values[day].decode('ascii', 'replace')}T{values[hour].decode('ascii', 'replace')}Z"
            moment = moment if _MOMENT.fullmatch(moment) else ""
        result, length, country, location = values[result_at], values[length_at], values[country_at], values[place][:3]
        return Entry(
            file,
            int(status),
            size_bytes,
            True if result in HITS else False if result == b"Miss" else None,
            self._client(values[agent][:_AGENT_BYTES]),
            moment,
            is_whole or values[start_at] in _STARTS,
            length.isdigit() and len(length) <= _MOST_DIGITS and size_bytes < int(length),
            country.decode() if len(country) == _COUNTRY_LETTERS and country.isalpha() and country.isupper() else "",
            location.decode()
            if len(location) == _AIRPORT_LETTERS and location.isalpha() and location.isupper()
            else "",
        )

    def _file(self, raw: bytes) -> File | None:
        try:
            return self._files[raw]
        except KeyError:
            return _remember(self._files, raw, _file_of(_decoded(raw)))

    def _client(self, raw: bytes) -> Client:
        try:
            return self._clients[raw]
        except KeyError:
            return _remember(self._clients, raw, client_of(_decoded(raw)))


def _remember(known: dict[bytes, _V], raw: bytes, value: _V) -> _V:
    """Cache what a value means, because the same values come again and again."""
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[raw] = value
    return value


def _decoded(raw: bytes) -> str:
    """Undo the escapes. Anything the client had escaped, and each space in older logs, is escaped twice."""
    return unquote(unquote(raw.decode("ascii", "replace")))


def _file_of(path: str) -> File | None:
    """Return the file that a path names, in the catalog of everybody or of a view.

    A view's path begins with a token or a channel's name, or with `signed/` and the proof, or with both.
    """
    parts = path.removeprefix("/").split("/")
    before, key = parts[:-_KEY_PARTS], "/".join(parts[-_KEY_PARTS:])
    if len(before) >= 2 and f"{before[-2]}/" == SIGNED:
        before = before[:-2]
    if len(before) > 1:
        return None
    try:
        found = parse_key(key)
    except InvalidUpload:
        return None
    kind = classify(found.file)
    if kind.role is Role.UNIFIED and is_metadata_name(found.file):
        return File(found.version.path, "", is_delta=False)
    if kind.role in (Role.ROOT, Role.UNIFIED, Role.DELTA):
        return File(found.version.path, kind.ftype.removesuffix(".vcdiff"), kind.role is Role.DELTA)
    return File(found.version.path, "", is_delta=False)
