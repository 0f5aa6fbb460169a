"""Compare two generations of a products document: what changes for clients and for the edge."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imageserver.format import documents
from imageserver.format.documents import Products, Version
from imageserver.format.keys import ProductId, VersionId
from imageserver.format.signed_paths import key_of
from imageserver.versions.records import Record


class StaleKey(NamedTuple):
    """A key of which the edge may hold other bytes than the catalog lists from now on.

    `sha256` and `uploaded` (ISO 8601, UTC) are of the file that is listed; empty where none is. `is_recorded` tells
    whether the record remembers that the key held other bytes. Of any other key only the catalog before knows it.
    """

    version: VersionId
    key: str
    sha256: str = ""
    uploaded: str = ""
    is_recorded: bool = False


@dataclass(slots=True)
class Changes:
    """Versions that are listed from now on, those that no longer are with the bytes of their files, and stale keys."""

    listed: list[Record] = field(default_factory=list)
    delisted: dict[VersionId, int] = field(default_factory=dict)
    stale: set[StaleKey] = field(default_factory=set)


class Mark(NamedTuple):
    """One upload that the edge may serve."""

    key: str
    version_id: str


@dataclass(slots=True)
class Marks:
    """The uploads that the edge may serve: `first`, before the catalog is written, and `then`, after it.

    A file that is listed with a key that held other bytes comes after its catalog, and so after the invalidation that
    went before: the next catalog, of other bytes still, must know that the edge may hold these. `uncertain` are
    products of which a run that dies in between would leave something unmarked, since it was not asked about it.
    """

    first: set[Mark] = field(default_factory=set)
    then: set[Mark] = field(default_factory=set)
    uncertain: set[ProductId] = field(default_factory=set)


def marks(
    before: Products,
    after: Products,
    changed: Mapping[ProductId, Sequence[Record]],
    asked: Collection[ProductId | VersionId],
) -> Marks:
    """Return what to mark in the products that were folded: what changes, and all that is listed of what is `asked`.

    A record of an older release does not say which upload it is about: digest completes it.
    """
    found = Marks()
    for product, versions in changed.items():
        was, now = documents.versions_of(before, product.name), documents.versions_of(after, product.name)
        for record in (record for record in versions if record.id.version in now):
            old, new = _digests(was.get(record.id.version)), _digests(now[record.id.version])
            is_asked = product in asked or record.id in asked
            for key, file in ((key, key.removeprefix(record.id.prefix)) for key in new):
                mark, is_new = Mark(key, record.files[file].version_id), old.get(key) != new[key]
                if not mark.version_id or not (is_new or is_asked):
                    continue
                is_first = key not in old and file not in record.replaced
                (found.first if is_first else found.then).add(mark)
                if not (is_first or is_asked):
                    found.uncertain.add(product)
    return found


def _digests(version: Version | None) -> dict[str, str]:
    """Return the sha256 of each key that a version names; a file may be two items."""
    return {key_of(item.path): item.sha256 for item in version.items.values()} if version else {}


def compare(
    before: Products, after: Products, changed: Mapping[ProductId, Sequence[Record]], held: Collection[VersionId]
) -> Changes:
    """Return what changes in the products that were folded. Of `held` versions no key counts as deleted."""
    changes = Changes()
    for product, versions in changed.items():
        was, now = documents.versions_of(before, product.name), documents.versions_of(after, product.name)
        known = {record.id.version: record for record in versions}
        changes.listed += [record for name, record in known.items() if name in now.keys() - was.keys()]
        for name in sorted(was.keys() - now.keys()):
            sizes = {key_of(item.path): item.size for item in was[name].items.values()}  # a file may be two items
            changes.delisted[VersionId(product, name)] = sum(sizes.values())
        for name in was.keys() | now.keys():
            version = VersionId(product, name)
            stale = _stale(version, was.get(name), now.get(name), known.get(name))
            changes.stale |= {key for key in stale if key.sha256 or version not in held}
    return changes


def _stale(version: VersionId, was: Version | None, now: Version | None, record: Record | None) -> set[StaleKey]:
    """Return the keys of one version that get another digest, and those that lost their file."""
    old, new = _digests(was), _digests(now)
    files = {version.prefix + file: facts for file, facts in record.files.items()} if record else {}
    replaced = {version.prefix + file for file in record.replaced} if record else set()
    gone = old.keys() - new.keys()
    if now and not was:  # it may have lost a file while it was held back
        gone |= replaced
    stale = {StaleKey(version, key, is_recorded=key in replaced) for key in gone - files.keys()}
    return stale | {
        StaleKey(version, key, sha256, files[key].modified, is_recorded=key in replaced)
        for key, sha256 in new.items()
        if old.get(key) != sha256 and (key in old or key in replaced)
    }
