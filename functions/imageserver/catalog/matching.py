"""Find images by the names that clients show: a fingerprint, the start of one, or an alias."""

from collections.abc import Iterator
from dataclasses import dataclass

from imageserver.format import documents
from imageserver.format.documents import Products, product_id
from imageserver.format.file_kinds import Role
from imageserver.format.keys import VersionId
from imageserver.versions.records import Record, kind_of


@dataclass(frozen=True, slots=True, order=True)
class Image:
    """One image: the file of its root or unified tarball, and the number of images in its version."""

    version: VersionId
    file: str
    fingerprint: str
    of_images: int = 1


def by_fingerprint(document: Products, start: str) -> Iterator[Image]:
    """Yield the listed images whose fingerprint begins with `start`."""
    wanted = b'"' + start.encode()
    for name, product in document.products.items():
        if wanted not in documents.raw_versions([product]):
            continue
        for version, entry in documents.decode_versions(product).items():
            yield from _matching(
                VersionId(product_id(document.content_id, name), version), documents.images(entry), start
            )


def by_alias(document: Products, alias: str) -> Iterator[Image]:
    """Yield the images of the newest version of each product with this alias: one product for each architecture."""
    for name, product in document.products.items():
        if alias in product.aliases.split(","):
            versions = documents.decode_versions(product)
            newest = VersionId(product_id(document.content_id, name), max(versions))
            yield from _matching(newest, documents.images(versions[newest.version]), "")


def in_record(record: Record, start: str) -> Iterator[Image]:
    """Yield the images of a version, listed or not, whose fingerprint begins with `start`."""
    found: dict[str, str] = {}
    for file, facts in record.files.items():
        role = kind_of(file, facts).role
        if role is Role.ROOT:
            found |= dict.fromkeys(facts.combined.values(), file)
        elif role is Role.UNIFIED and facts.sha256:
            found[facts.sha256] = file
    yield from _matching(record.id, found, start)


def _matching(version: VersionId, images: dict[str, str], start: str) -> Iterator[Image]:
    count = len(set(images.values()))
    for fingerprint, file in sorted(images.items()):
        if fingerprint.startswith(start):
            yield Image(version, file, fingerprint, count)
