"""The records of an import's source: what was withdrawn there is not listed again here.

The source may be an old bucket of this server, a copy of one (below a prefix, or in a folder), or another kind of
server, which has no records. A file without a record counts as not withdrawn.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from imageserver.errors import CatalogDamaged, InvalidUpload, NewerRecord
from imageserver.format.keys import RECORDS, ImageKey, VersionId, parse_record_key
from imageserver.format.wording import counted
from imageserver.storage.parallel import in_parallel
from imageserver.storage.s3 import S3Store
from imageserver.versions import records
from imageserver.versions.records import Record, Withdrawal
from imageserver.versions.withdrawal import applies_to


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A product, a version or a file that the source has withdrawn, and how many files it has."""

    path: str
    files: int
    withdrawal: Withdrawal

    @property
    def sentence(self) -> str:
        """When and why it was withdrawn."""
        about = f"{self.path} ({counted(self.files, 'file')})" if self.files > 1 else self.path
        gone = " and is being deleted there" if self.withdrawal.final else ""
        why = self.withdrawal.reason or "no reason was given"
        return f"{about} was withdrawn on the source at {self.withdrawal.since}{gone}: {why}"


@dataclass(slots=True)
class SourceRecords:
    """The records of a source; `unreadable` says why the others cannot be read."""

    known: dict[VersionId, Record] = field(default_factory=dict)
    unreadable: dict[VersionId, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the source has no records."""
        return not (self.known or self.unreadable)

    def withdrawal_of(self, image: ImageKey, size_bytes: int) -> Withdrawal | None:
        """Return the withdrawal of a file of this size on the source; None if it is not withdrawn."""
        record = self.known.get(image.version)
        return applies_to(record, image.file, size_bytes) if record else None

    def refusal_of(self, image: ImageKey, size_bytes: int) -> str:
        """Return why the source does not list a file of this size; empty if there is no reason."""
        record = self.known.get(image.version)
        facts = record.files.get(image.file) if record else None
        if record is None or facts is None or facts.size_bytes != size_bytes:
            return ""
        refused = (reason for reason in record.reasons if reason.kind == "error" and reason.file == image.file)
        return next((reason.sentence for reason in refused), "")


def read(documents: Iterable[tuple[str, bytes]]) -> SourceRecords:
    """Return the records among documents, given as key and body. Other keys are skipped."""
    found = SourceRecords()
    for key, body in documents:
        try:
            version = parse_record_key(key)
        except InvalidUpload:  # a file of another kind beside the records
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

    Raise StorageDenied or StorageUnavailable: an unreadable record never counts as absent.
    """
    store = S3Store(s3, bucket)
    keys = [info.key for info in store.list(f"{prefix}{RECORDS}")]
    found = zip(keys, in_parallel(store.read, keys), strict=True)
    return read((key.removeprefix(prefix), document.body) for key, document in found if document is not None)


def summed_up(withdrawn: Iterable[tuple[ImageKey, Withdrawal]], coming: Iterable[ImageKey]) -> Iterator[Withdrawn]:
    """Group withdrawn files into versions and products of which nothing else is imported."""
    of_products = {image.version.product for image in coming}
    of_versions = {image.version for image in coming}
    in_order = sorted(withdrawn, key=lambda found: (found[0].version.product, found[0].version.version, found[0].file))
    for product, files in groupby(in_order, key=lambda found: found[0].version.product):
        found = list(files)
        versions = {image.version for image, _ in found}
        if product not in of_products and len({withdrawal for _, withdrawal in found}) == 1 and len(versions) > 1:
            yield Withdrawn(product.path, len(found), found[0][1])
            continue
        for version, group in groupby(found, key=lambda found: found[0].version):
            of_version = list(group)
            if version not in of_versions and len({withdrawal for _, withdrawal in of_version}) == 1:
                yield Withdrawn(version.path, len(of_version), of_version[0][1])
            else:
                yield from (Withdrawn(image.key, 1, withdrawal) for image, withdrawal in of_version)
