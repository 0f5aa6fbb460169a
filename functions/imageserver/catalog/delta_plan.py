"""Decide which deltas this server makes, which of them fit into a run, and which it keeps.

A delta costs CPU once and shortens the download of each client that holds its base. So only the newest listed version
of a product gets deltas, from the newest listed versions before it, and a delta that is not below half the size of its
root is not worth its storage. Only a squashfs root gets one: catalog.listed_deltas says what clients do with the delta
of a disk.

A publisher's own delta wins. The record of the version distinguishes the two: it notes each base that this server
tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imageserver.format import file_kinds
from imageserver.format.documents import Item, Version
from imageserver.format.file_kinds import SQUASHFS
from imageserver.format.keys import VersionId, version_moment
from imageserver.format.wording import counted
from imageserver.versions.assessment import overrides
from imageserver.versions.records import DeltaNote, FileFacts, Record

DELTA_FTYPE: Final = f"{SQUASHFS}.vcdiff"
_READ_S: Final = 40e6
"""Bytes a second that one run fetches and hashes; 75e6 were measured."""
_ENCODE_S: Final = 25e6
"""Bytes a second that xdelta3 encodes of a root; 40e6 to 95e6 were measured on one vCPU."""
_DECODE_S: Final = 80e6
"""Bytes a second that xdelta3 decodes; 200e6 and more were measured."""
NEEDED_MB: Final = 512
"""Memory for xdelta3 (at most 244 MiB measured, whatever the size), Python and the read-ahead."""


@dataclass(frozen=True, slots=True)
class Root:
    """The listed squashfs of one version."""

    version: VersionId
    file: str
    etag: str
    size_bytes: int
    sha256: str

    @property
    def key(self) -> str:
        """The object's key."""
        return self.version.prefix + self.file


@dataclass(frozen=True, slots=True)
class Pair:
    """A delta to make: what a client has, and what it wants."""

    base: Root
    target: Root

    @property
    def file(self) -> str:
        """The name of the delta, as a publisher would give it."""
        return f"rootfs.{self.base.version.version}.vcdiff"

    @property
    def key(self) -> str:
        """The key of the delta."""
        return self.target.version.prefix + self.file

    @property
    def most_bytes(self) -> int:
        """The largest delta that is kept: below half of the root."""
        return (self.target.size_bytes - 1) // 2

    @property
    def seconds(self) -> float:
        """The longest time it takes to fetch both roots, encode and decode."""
        return (self.base.size_bytes + self.target.size_bytes) / _READ_S + self.program_seconds

    @property
    def program_seconds(self) -> float:
        """The longest time it takes xdelta3 to encode and decode."""
        return self.target.size_bytes / _ENCODE_S + self.target.size_bytes / _DECODE_S

    @property
    def stored_bytes(self) -> int:
        """The disk space of both roots and the largest delta that is kept."""
        return self.base.size_bytes + self.target.size_bytes + self.most_bytes

    def note(self, reason: str = "") -> DeltaNote:
        """Return the note about it for the record; `reason` is empty for a delta that was made."""
        return DeltaNote(self.base.sha256, self.target.sha256, reason)


@dataclass(frozen=True, slots=True)
class RunCapacity:
    """What a run has: bytes on disk, memory in MB (0: not limited), seconds for the work."""

    disk_bytes: int
    memory_mb: int
    seconds: float


def newest(listed: Mapping[str, Version]) -> str:
    """Return the newest of a product's listed versions; empty if none is."""
    return max(listed, key=_order, default="")


def bases(listed: Mapping[str, Version], target: str, count: int) -> list[str]:
    """Return the versions that deltas of `target` are made from, newest first: at most `count` with a squashfs."""
    if target not in listed or _squashfs(listed[target]) is None:
        return []
    older = sorted((name for name in listed if _order(name) < _order(target)), key=_order, reverse=True)
    return [name for name in older if _squashfs(listed[name])][:count]


def wanted_count(target: Record, usual: int) -> int:
    """Return how many deltas a version gets: the number in its metadata.json, else the server's default."""
    own = overrides(target).deltas
    return usual if own is None else own


def pair_of(listed: Mapping[str, Version], target: Record, base: Record, *, again: bool = False) -> Pair | str:
    """Return the delta to make between two listed versions, or a sentence for the log saying why none is made.

    Nothing is tried twice for the same two roots, unless `again` is set.
    """
    new, old = (_root(listed, record) for record in (target, base))
    if new is None or old is None:
        return f"a listed squashfs of {target.version} or {base.version} is gone, or differs from its record"
    pair = Pair(old, new)
    there = {file: file_kinds.classify(file) for file in target.files}
    made_from = {kind.delta_base: file for file, kind in there.items() if kind.ftype == DELTA_FTYPE}
    if pair.base.version.version in made_from:
        return f"{made_from[pair.base.version.version]} is there already"
    if own := sorted(file for name, file in made_from.items() if not _is_ours(target, name)):
        return f"{own[0]} is the publisher's own delta, and wins"
    note = target.deltas.get(base.id.version)
    if note and note.reason and note == pair.note(note.reason) and not again:
        return f"it was tried: {note.reason}"
    return pair


def unexplained(listed: Mapping[str, Version], known: Mapping[str, Record], usual: int) -> list[Pair]:
    """Return the deltas that the newest listed version lacks although its record notes nothing about them.

    `known` maps versions to their records. A note about roots that have since changed counts as none.
    """
    target = known.get(newest(listed))
    if target is None:
        return []
    wanted = bases(listed, target.id.version, wanted_count(target, usual))
    pairs = {base: pair_of(listed, target, known[base]) for base in wanted if base in known}
    return [pair for base, pair in pairs.items() if isinstance(pair, Pair) and target.deltas.get(base) != pair.note()]


def beyond_capacity(pair: Pair, capacity: RunCapacity) -> str:
    """Return why no run with this capacity can make the delta; empty when one can."""
    if capacity.memory_mb and capacity.memory_mb < NEEDED_MB:
        return f"the function has {capacity.memory_mb:,} MB of memory, expected {NEEDED_MB:,} at least"
    if pair.stored_bytes > capacity.disk_bytes:
        return f"both roots and a delta take {pair.stored_bytes:,} bytes of disk, and a run has {capacity.disk_bytes:,}"
    if pair.seconds > capacity.seconds:
        return f"roots of these sizes may take {pair.seconds:,.0f} s, and a run has {capacity.seconds:,.0f} s for them"
    return ""


def too_large(pair: Pair) -> str:
    """Return the reason for a delta that is dropped because of its size."""
    size = counted(pair.target.size_bytes, "byte")
    return f"the delta is not below half of the {size} of {pair.target.file}: clients fetch the whole root"


def _order(version: str) -> tuple[object, str]:
    return version_moment(version), version


def _squashfs(version: Version) -> Item | None:
    return next((item for item in version.items.values() if item.ftype == SQUASHFS), None)


def _root(listed: Mapping[str, Version], record: Record) -> Root | None:
    """Return the listed squashfs with the record's facts about its object; None if the two disagree."""
    version = record.id
    item = _squashfs(listed[version.version]) if version.version in listed else None
    file = item.path.rpartition("/")[2] if item else ""
    facts: FileFacts | None = record.files.get(file)
    if item is None or facts is None or facts.sha256 != item.sha256:
        return None
    return Root(version, file, facts.etag, facts.size_bytes, facts.sha256)


def _is_ours(record: Record, base: str) -> bool:
    """Return whether this server made the delta from a base."""
    return base in record.deltas and not record.deltas[base].reason
