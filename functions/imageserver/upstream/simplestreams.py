"""The documents of another image server, read one product at a time and as leniently as clients read them.

Shapes are those of shared/simplestreams/products.go of LXD and Incus. What cannot be read is reported by name, and
its neighbours are still read. Each value may be null, which Go reads as an absent field: a size that upstream does not
state, or a product without versions.

A document is in memory once. Its products stay slices of it until each is read: 205 MB with 70,000 products took 10 MB
more, a million empty products in 59 MB took 174 MB more. A streaming parser would not keep the body in memory, but it
would be another package for Lambda, and it too has to read the whole document to know that it is complete.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated

import msgspec

from imageserver.errors import UpstreamRefused

DOWNLOADS = "image-downloads"
"""The datatype of the entries that clients look at."""
LARGEST_DOCUMENT_BYTES = 512 << 20


_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""Bytes, as many as clients can count; 0 where upstream does not say, since clients only show it."""


class Item(msgspec.Struct, frozen=True):
    """One file of a version."""

    ftype: str | None = None
    path: str | None = None
    sha256: str | None = None
    size: _Size | None = None
    delta_base: str | None = None
    combined_sha256: str | None = None
    combined_rootxz_sha256: str | None = None
    combined_squashfs_sha256: str | None = None
    combined_disk_kvm: str | None = msgspec.field(default=None, name="combined_disk-kvm-img_sha256")
    combined_disk1: str | None = msgspec.field(default=None, name="combined_disk1-img_sha256")
    combined_uefi1: str | None = msgspec.field(default=None, name="combined_uefi1-img_sha256")


class Version(msgspec.Struct, frozen=True):
    """One version of a product."""

    items: dict[str, Item | None] | None = None
    label: str | None = None


class Product(msgspec.Struct, frozen=True):
    """One product; each of its versions stays raw until it is read."""

    versions: dict[str, msgspec.Raw] | None = None
    aliases: str | None = None
    arch: str | None = None
    os: str | None = None
    release: str | None = None
    release_title: str | None = None
    release_codename: str | None = None
    variant: str | None = None
    version: str | None = None
    requirements: dict[str, str | None] | None = None
    lxd_requirements: dict[str, str | None] | None = None
    supported: bool | None = None
    support_eol: str | None = None


class _Entry(msgspec.Struct):
    datatype: str | None = None
    path: str | None = None


class _Index(msgspec.Struct):
    index: dict[str, _Entry | None] | None = None


class _Products(msgspec.Struct):
    products: dict[str, msgspec.Raw]


class _Dated(msgspec.Struct):
    updated: object = None


_index = msgspec.json.Decoder(_Index)
_products = msgspec.json.Decoder(_Products)
_dated = msgspec.json.Decoder(_Dated)
_product = msgspec.json.Decoder(Product | None)
_version = msgspec.json.Decoder(Version | None)
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def products_paths(index: bytes) -> list[str]:
    """Return the paths of the products documents that clients would read, sorted. Raise UpstreamRefused.

    A signed index names the signed form of a document, `.sjson`; the path returned is that of the unsigned form.
    """
    try:
        entries = (_index.decode(index).index or {}).values()
    except _UNREADABLE as error:
        raise UpstreamRefused(f"its index cannot be read ({error}), expected streams/v1/index.json") from error
    found = {entry.path for entry in entries if entry and entry.datatype == DOWNLOADS and entry.path}
    return sorted(f"{path.removesuffix('.sjson')}.json" if path.endswith(".sjson") else path for path in found)


def products(document: bytes) -> Iterator[tuple[str, Product | str]]:
    """Yield each product by its name, or why it cannot be read. Raise UpstreamRefused for the document as a whole."""
    try:
        raw = _products.decode(document).products
    except _UNREADABLE as error:
        raise UpstreamRefused(f"its products document cannot be read: {error}") from error
    for name in sorted(raw):
        try:
            yield name, _product.decode(raw[name]) or Product()
        except _UNREADABLE as error:
            yield name, f"cannot be read: {error}"


def updated(document: bytes) -> datetime | None:
    """Return the date that a document gives for itself, in UTC; None where it has none that can be read.

    Dates have the form of e-mail, as the simplestreams tools write them, or ISO 8601. Without a time zone they are UTC.
    """
    try:
        text = _dated.decode(document).updated
    except _UNREADABLE:
        return None
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text) if isinstance(text, str) else None
            return moment and (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            continue
    return None


def versions(product: Product) -> Iterator[tuple[str, Version | str]]:
    """Yield each version of a product by its name, oldest name first, or why it cannot be read."""
    raw = product.versions or {}
    for name in sorted(raw):
        try:
            yield name, _version.decode(raw[name]) or Version()
        except _UNREADABLE as error:
            yield name, f"cannot be read: {error}"
