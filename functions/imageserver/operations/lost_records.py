"""Find what a lost or unreadable record said of its version and the images cannot say again.

Digests can be read from the images. Only the record knows that a version was withdrawn, with which files it was
published, and that a key has held other bytes before. The bucket keeps earlier generations of it for a while.
"""

from msgspec.structs import replace

from imageserver.errors import CatalogDamaged
from imageserver.format.keys import VersionId
from imageserver.storage.port import Store
from imageserver.versions import records
from imageserver.versions.assessment import assess, assessed
from imageserver.versions.records import FileFacts, Record


def recalled(store: Store, version: VersionId) -> Record | None:
    """Return what the last readable record of a version before its present one said; None if the bucket keeps none.

    It has no digests, so nothing is listed from it until its files are read again. Raises StorageUnavailable,
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
    """Return a sentence about the withdrawals that are kept; None is for a version without a readable record."""
    if record is None:
        return "the bucket keeps no earlier one that can be read: if it was withdrawn, withdraw it again"
    if record.withdrawn:
        return f"as an earlier one says, it stays withdrawn since {record.withdrawn.since}"
    files = sorted(file for file, facts in record.files.items() if facts.withdrawn)
    return f"as an earlier one says, {', '.join(files) or 'nothing of it'} is withdrawn"
