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
    """A key for which the edge may hold other bytes than those that the new catalog lists.

    `sha256` and `uploaded` (ISO 8601, UTC) are of the listed file; empty if none is listed. `is_recorded`: the record
    remembers that the key held other bytes. For any other key only the previous catalog knows it.
    """

    version: VersionId
    key: str
    sha256: str = ""
    uploaded: str = ""
    is_recorded: bool = False


@dataclass(slots=True)
class Changes:
    """Versions that become listed, versions that no longer are (with the bytes of their files), and stale keys."""

    listed: list[Record] = field(default_factory=list)
    delisted: dict[VersionId, int] = field(default_factory=dict)
    stale: set[StaleKey] = field(default_factory=set)


class ListedUpload(NamedTuple):
    """One upload that the edge may serve."""

    key: str
    version_id: str


@dataclass(slots=True)
class UploadsToTag:
    """The uploads that the edge may serve: `first`, before the catalog is written, and `then`, after it.

    A file whose key held other bytes is tagged after its catalog is written, and so after the invalidation that
    precedes it: if yet other bytes follow, their catalog must know that the edge may hold these. `uncertain` are
    products that this run was not asked about, and that would keep an untagged file if the run died in between.
    """

    first: set[ListedUpload] = field(default_factory=set)
    then: set[ListedUpload] = field(default_factory=set)
    uncertain: set[ProductId] = field(default_factory=set)


def uploads_to_tag(
    before: Products,
    after: Products,
    changed: Mapping[ProductId, Sequence[Record]],
    asked: Collection[ProductId | VersionId],
) -> UploadsToTag:
    """Return what to tag in the folded products: the changes, and every listed file of the `asked` subjects.

    The record of an older release does not say which upload it is about, until digest has completed it.
    """
    found = UploadsToTag()
    for product, versions in changed.items():
        was, now = documents.versions_of(before, product.name), documents.versions_of(after, product.name)
        for record in (record for record in versions if record.id.version in now):
            old, new = _digests(was.get(record.id.version)), _digests(now[record.id.version])
            is_asked = product in asked or record.id in asked
            for key, file in ((key, key.removeprefix(record.id.prefix)) for key in new):
                upload, is_new = ListedUpload(key, record.files[file].version_id), old.get(key) != new[key]
                if not upload.version_id or not (is_new or is_asked):
                    continue
                is_first = key not in old and file not in record.replaced
                (found.first if is_first else found.then).add(upload)
                if not (is_first or is_asked):
                    found.uncertain.add(product)
    return found


def _digests(version: Version | None) -> dict[str, str]:
    """Return the sha256 of each key that a version names. One file may be two items."""
    return {key_of(item.path): item.sha256 for item in version.items.values()} if version else {}


def compare(
    before: Products, after: Products, changed: Mapping[ProductId, Sequence[Record]], held: Collection[VersionId]
) -> Changes:
    """Return what changes in the folded products. No key of a `held` version counts as deleted."""
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
    """Return the keys of one version that get another digest, and the keys whose file is gone."""
    old, new = _digests(was), _digests(now)
    files = {version.prefix + file: facts for file, facts in record.files.items()} if record else {}
    replaced = {version.prefix + file for file in record.replaced} if record else set()
    gone = old.keys() - new.keys()
    if now and not was:  # it may have lost a file while it was held back from the list
        gone |= replaced
    stale = {StaleKey(version, key, is_recorded=key in replaced) for key in gone - files.keys()}
    return stale | {
        StaleKey(version, key, sha256, files[key].modified, is_recorded=key in replaced)
        for key, sha256 in new.items()
        if old.get(key) != sha256 and (key in old or key in replaced)
    }
