"""Recover what only a lost or unreadable record knew of its version.

Digests can be read from the images again. Only the record knows that a version was withdrawn, which files it was
published with, and that a key has held other bytes. The bucket keeps earlier generations of the record for a while.
"""

from msgspec.structs import replace

from imageserver.errors import CatalogDamaged
from imageserver.format.keys import VersionId
from imageserver.storage.port import Store
from imageserver.versions import records
from imageserver.versions.assessment import assess, assessed
from imageserver.versions.records import FileFacts, Record


def recalled(store: Store, version: VersionId) -> Record | None:
    """Return the last readable record of a version before the present one; None if the bucket keeps none.

    Its digests are removed, so nothing is listed from it until its files are read again. Raises StorageUnavailable,
    StorageDenied.
    """
    for body in store.earlier(version.record_key):
        try:
            record = records.decode(body, version.record_key)
        except CatalogDamaged:
            continue
        files = {
            file: FileFacts(
                etag=facts.etag,
                size_bytes=facts.size_bytes,
                modified=facts.modified,
                arrived=facts.arrived,
                since=facts.since,
                withdrawn=facts.withdrawn,
            )
            for file, facts in record.files.items()
        }
        return assessed(replace(record, files=files, published=assess(record).published))
    return None


def describe(record: Record | None) -> str:
    """Return a sentence about the withdrawals that are kept. `record` is None if no earlier one can be read."""
    if record is None:
        return "the bucket keeps no earlier one that can be read: if it was withdrawn, withdraw it again"
    if record.withdrawn:
        return f"as an earlier one says, it stays withdrawn since {record.withdrawn.since}"
    files = sorted(file for file, facts in record.files.items() if facts.withdrawn)
    return f"as an earlier one says, {', '.join(files) or 'nothing of it'} is withdrawn"
