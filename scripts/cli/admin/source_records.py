"""What the records of an import's source say of its files: what was withdrawn there is not listed again here.

The source may be an old bucket of this server, a copy of one (below a prefix, or as a folder), or somebody else's
server, which has no records. Only what a record says is known: without one, a file counts as not withdrawn.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from imageserver.errors import CatalogDamaged, InvalidUpload, NewerRecord
from imageserver.format.keys import RECORDS, ImageKey, ProductId, VersionId, parse_record_key
from imageserver.storage.s3 import S3Store
from imageserver.versions import records
from imageserver.versions.records import Record, Withdrawal
from imageserver.versions.withdrawal import applies_to

READERS = 16


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What stays out: the path of a product, a version or a file of the source, and how many files that is."""

    path: str
    files: int
    withdrawal: Withdrawal

    @property
    def sentence(self) -> str:
        """Return when and why it was withdrawn."""
        about = f"{self.path} ({_counted(self.files, 'file')})" if self.files > 1 else self.path
        gone = " and is being deleted there" if self.withdrawal.final else ""
        why = self.withdrawal.reason or "no reason was given"
        return f"{about} was withdrawn on the source at {self.withdrawal.since}{gone}: {why}"


@dataclass(slots=True)
class SourceRecords:
    """The records of a source, as far as they can be read; `unreadable` says why the others cannot, by version."""

    known: dict[VersionId, Record] = field(default_factory=dict)
    unreadable: dict[VersionId, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the source has no record at all."""
        return not (self.known or self.unreadable)

    def withdrawal_of(self, image: ImageKey, size_bytes: int) -> Withdrawal | None:
        """Return the withdrawal that a file of this size is under on the source; None if it is under none."""
        record = self.known.get(image.version)
        return applies_to(record, image.file, size_bytes) if record else None

    def refusal_of(self, image: ImageKey, size_bytes: int) -> str:
        """Return why the source does not list a file of this size; empty if it says nothing against it."""
        record = self.known.get(image.version)
        facts = record.files.get(image.file) if record else None
        if record is None or facts is None or facts.size_bytes != size_bytes:
            return ""
        refused = (reason for reason in record.reasons if reason.kind == "error" and reason.file == image.file)
        return next((reason.sentence for reason in refused), "")


def read(documents: Iterable[tuple[str, bytes]]) -> SourceRecords:
    """Return the records among documents, given as key and body; a key that is no record's is passed over."""
    found = SourceRecords()
    for key, body in documents:
        try:
            version = parse_record_key(key)
        except InvalidUpload:  # somebody's own file beside the records
            continue
        try:
            found.known[version] = records.decode(body, key)
        except NewerRecord:
            found.unreadable[version] = "was written by a newer release: import with that one"
        except CatalogDamaged:
            found.unreadable[version] = "cannot be read: repair it there with admin rebuild records, then import again"
    return found


def of_folder(root: Path) -> SourceRecords:
    """Return the records of a folder, such as a copy of a whole bucket."""
    found = sorted(root.glob(f"{RECORDS}**/*.json"))
    return read((path.relative_to(root).as_posix(), path.read_bytes()) for path in found if path.is_file())


def of_bucket(s3: Any, bucket: str, prefix: str) -> SourceRecords:
    """Return the records of a bucket, below a prefix that ends in a slash or is empty.

    Raises StorageDenied and StorageUnavailable: what may not be read never counts as not being there.
    """
    store = S3Store(s3, bucket)
    keys = [info.key for info in store.list(f"{prefix}{RECORDS}")]
    with ThreadPoolExecutor(READERS) as pool:
        bodies = pool.map(store.read, keys)
        return read(
            (key.removeprefix(prefix), document.body)
            for key, document in zip(keys, bodies, strict=True)
            if document is not None
        )


def summed_up(withdrawn: Iterable[tuple[ImageKey, Withdrawal]], coming: Iterable[ImageKey]) -> Iterator[Withdrawn]:
    """Join what stays out into products and versions, where nothing else of them comes along."""
    of_products = {image.version.product for image in coming}
    of_versions = {image.version for image in coming}
    for product, files in groupby(sorted(withdrawn, key=_order), key=lambda found: found[0].version.product):
        found = list(files)
        if product not in of_products and len({w for _, w in found}) == 1 and len(_versions(found)) > 1:
            yield Withdrawn(product.path, len(found), found[0][1])
            continue
        for version, group in groupby(found, key=lambda found: found[0].version):
            yield from _of_version(version, list(group), version not in of_versions)


def _of_version(version: VersionId, found: list[tuple[ImageKey, Withdrawal]], is_whole: bool) -> Iterator[Withdrawn]:
    if is_whole and len({withdrawal for _, withdrawal in found}) == 1:
        yield Withdrawn(version.path, len(found), found[0][1])
        return
    for image, withdrawal in found:
        yield Withdrawn(image.key, 1, withdrawal)


def _versions(found: list[tuple[ImageKey, Withdrawal]]) -> set[VersionId]:
    return {image.version for image, _ in found}


def _order(found: tuple[ImageKey, Withdrawal]) -> tuple[ProductId, str, str]:
    image, _ = found
    return image.version.product, image.version.version, image.file


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"
