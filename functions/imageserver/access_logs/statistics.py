"""Entries of access logs -> counts, in memory that does not grow with the number of requests."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from imageserver.access_logs.clients import OTHER, Client
from imageserver.access_logs.compressed import DamagedLog, lines_of
from imageserver.access_logs.entries import Entry, File, Parser, UnreadableLine

MOST_VERSIONS: Final = 50_000
"""Versions that are counted separately, at less than 1 KB each."""
MOST_CLIENTS: Final = 1_000
"""Versions of LXD and Incus that are counted separately."""
MOST_PLACES: Final = 1_000
"""Countries, or edge locations, that are counted separately."""
MOST_DAMAGED: Final = 1_000
"""Damaged files that are named; more of them would have one cause."""
ELSEWHERE: Final = "other"

_CLASSES: Final = tuple(f"{first}xx" for first in range(10))
_K = TypeVar("_K")


class Count(msgspec.Struct, gc=False):
    """Downloads of images, and the bytes of all requests."""

    downloads: int = 0
    size_bytes: int = 0

    def add(self, downloads: int, size_bytes: int) -> None:
        self.downloads += downloads
        self.size_bytes += size_bytes


class Fetches(msgspec.Struct):
    """What was fetched of one version.

    `downloads` counts roots, deltas and unified tarballs, not the metadata beside them; `cut` are those that
    the client left before their end. `last_fetched` is ISO 8601 in UTC. `deltas`: by the ftype of the root that each
    brought.
    """

    downloads: int = 0
    cut: int = 0
    size_bytes: int = 0
    last_fetched: str = ""
    deltas: dict[str, Count] = msgspec.field(default_factory=dict)


class Savings(msgspec.Struct, frozen=True):
    """Bytes that deltas saved. `unknown`: downloads of deltas for a root of unknown size, which are left out.

    `replaced_bytes` is the size of the roots, `size_bytes` what was sent instead.
    """

    downloads: int = 0
    size_bytes: int = 0
    replaced_bytes: int = 0
    unknown: int = 0


class Statistics(msgspec.Struct):
    """Counts of the requests of some logs.

    `hits` and `misses` are requests, `hit_bytes` bytes. `statuses` are counted by their first digit. `uncounted` are
    fetches of versions beyond MOST_VERSIONS. `unreadable` counts lines by reason, `damaged` says for each file why it
    was not read to its end.
    """

    requests: int = 0
    size_bytes: int = 0
    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    uncounted: int = 0
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    versions: dict[str, Fetches] = msgspec.field(default_factory=dict)
    clients: dict[Client, Count] = msgspec.field(default_factory=dict)
    countries: dict[str, Count] = msgspec.field(default_factory=dict)
    locations: dict[str, Count] = msgspec.field(default_factory=dict)
    unreadable: dict[str, int] = msgspec.field(default_factory=dict)
    damaged: dict[str, str] = msgspec.field(default_factory=dict)

    def read(self, key: str, chunks: Iterable[bytes | memoryview], parser: Parser) -> None:
        """Count the requests of one file. Lines that cannot be read are counted as unreadable."""
        parser.begin()
        try:
            for line in lines_of(chunks):
                try:
                    entry = parser.parse(line)
                except UnreadableLine as error:
                    self.unreadable[str(error)] = self.unreadable.get(str(error), 0) + 1
                else:
                    if entry is not None:
                        self.add(entry)
        except DamagedLog as error:
            self.note_damaged(key, str(error))

    def note_damaged(self, key: str, why: str) -> None:
        """Note a file that was not read to its end; `why` completes "<key> …"."""
        if len(self.damaged) < MOST_DAMAGED:
            self.damaged[key] = why

    def add(self, entry: Entry) -> None:
        """Count one request."""
        size = entry.size_bytes
        self.requests += 1
        self.size_bytes += size
        if entry.is_hit:
            self.hits += 1
            self.hit_bytes += size
        elif entry.is_hit is False:
            self.misses += 1
        status = _CLASSES[entry.status // 100]
        self.statuses[status] = self.statuses.get(status, 0) + 1
        file = entry.file
        downloads = int(file is not None and file.root != "" and entry.is_start)
        if file is not None:
            self._fetched(file, entry, downloads)
        _count(self.clients, entry.client, OTHER, MOST_CLIENTS).add(downloads, size)
        if entry.country:
            _count(self.countries, entry.country, ELSEWHERE, MOST_PLACES).add(downloads, size)
        if entry.location:
            _count(self.locations, entry.location, ELSEWHERE, MOST_PLACES).add(downloads, size)

    def _fetched(self, file: File, entry: Entry, downloads: int) -> None:
        fetches = self.versions.get(file.version)
        if fetches is None:
            if len(self.versions) >= MOST_VERSIONS:
                self.uncounted += 1
                return
            self.versions[file.version] = fetches = Fetches()
        fetches.downloads += downloads
        fetches.cut += downloads and entry.is_cut
        fetches.size_bytes += entry.size_bytes
        fetches.last_fetched = max(fetches.last_fetched, entry.moment)
        if file.is_delta:
            fetches.deltas.setdefault(file.root, Count()).add(downloads, entry.size_bytes)


def savings(versions: Mapping[str, Fetches], sizes: Mapping[tuple[str, str], int]) -> Savings:
    """Return what deltas saved. `sizes` maps (path of a version, ftype of a root) to the size of that root."""
    downloads = size_bytes = replaced = unknown = 0
    for path, fetches in versions.items():
        for ftype, delta in fetches.deltas.items():
            size = sizes.get((path, ftype))
            if size is None:
                unknown += delta.downloads
                continue
            downloads += delta.downloads
            size_bytes += delta.size_bytes
            replaced += size * delta.downloads
    return Savings(downloads, size_bytes, replaced, unknown)


def _count(known: dict[_K, Count], key: _K, rest: _K, limit: int) -> Count:
    """Return the count of a key, or the count of the rest once `limit` keys have their own."""
    found = known.get(key)
    if found is None:
        if len(known) >= limit:
            return known.setdefault(rest, Count())
        known[key] = found = Count()
    return found
