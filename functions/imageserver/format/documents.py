"""The documents that clients read: their shapes, and how they are encoded and decoded.

Field names and types are the clients' (shared/simplestreams of LXD and Incus); one wrong type makes them
reject a whole document, so every field is typed here. Encoding is deterministic: sorted keys, no spaces, no time.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from imageserver.errors import CatalogDamaged
from imageserver.format.file_kinds import (
    ALL_CLIENTS,
    METADATA_FTYPES,
    ROOT_FTYPES,
    ROOT_TAR,
    SQUASHFS,
    UNIFIED_FTYPES,
    combined_fields,
)
from imageserver.format.keys import ProductId

FOLDER: Final = "streams/v1/"
INDEX_KEY: Final = f"{FOLDER}index.json"


def products_key(stream: str) -> str:
    """Return the key of a stream's products document.

    It never changes, because clients cache it under its base name.
    """
    return f"streams/v1/{stream}.json"


def unlisted_key(stream: str) -> str:
    """Return the key of the document that shows people (not clients) what was uploaded but is not listed."""
    return f"streams/v1/{stream}.unlisted.json"


def product_id(stream: str, name: str) -> ProductId:
    """Return the product that a name in a stream's catalog stands for.

    Raise CatalogDamaged if it is not a product's name.
    """
    parts = name.split(":")
    if len(parts) != 4:
        raise CatalogDamaged(
            f"the catalog of {stream} names a product {name!r}, expected os:release:arch:variant; "
            "delete the products document and rebuild the catalog from the records"
        )
    return ProductId(stream, *parts)


def named(product: ProductId, stream: str) -> str:
    """Return the name of a product in a stream's document, with its own stream in front if that is another one."""
    return product.name if product.stream == stream else f"{product.stream}:{product.name}"


def holder_elsewhere(held_by: str) -> ProductId | None:
    """Return the product of another stream that `Withheld.held_by` names; None for one of the same stream."""
    stream, _, name = held_by.partition(":")
    return product_id(stream, name) if held_by.count(":") == 4 and "/" not in held_by else None


class Item(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One file of a version. `path` is relative to the server's address, `size` in bytes."""

    ftype: str
    path: str
    sha256: str
    size: int
    delta_base: str = ""
    combined_type: str = ""
    combined_sha256: str = ""
    combined_rootxz_sha256: str = ""
    combined_squashfs_sha256: str = ""
    combined_disk_kvm: str = msgspec.field(default="", name="combined_disk-kvm-img_sha256")
    combined_disk1: str = msgspec.field(default="", name="combined_disk1-img_sha256")
    combined_uefi1: str = msgspec.field(default="", name="combined_uefi1-img_sha256")


class Version(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One version of a product; the names of the items mean nothing to clients.

    `mirrored_from` is ours: the host of the server that all its files were copied from. `upstream_signed_by` is the
    fingerprint of the key that signed that server's document. Clients ignore both.
    """

    items: dict[str, Item]
    label: str = ""
    mirrored_from: str = ""
    upstream_signed_by: str = ""


class Product(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One product. `aliases` is comma-joined. Each of its `versions` stays raw JSON until it is needed."""

    aliases: str
    arch: str
    os: str
    release: str
    release_title: str
    variant: str
    versions: dict[str, msgspec.Raw]
    release_codename: str = ""
    version: str = ""
    requirements: dict[str, str] = {}  # as Incus reads them
    lxd_requirements: dict[str, str] = {}  # as LXD reads them
    supported: bool | None = None
    support_eol: str = ""


class Withheld(msgspec.Struct, frozen=True, omit_defaults=True, order=True, kw_only=True):
    """Something complete that is not listed because something else is: an alias, a file or a whole version.

    `held_by` names what is listed instead: another product, or `<product>/<version>` of its own product. A product of
    another stream has the stream in front, `<stream>:<product>`. An alias without it is one that the product may not
    have. An image has a `fingerprint`. An entry with neither alias nor file, for a listed version, is about what its
    product lost. Clients ignore all of it.
    """

    alias: str = ""
    version: str = ""
    file: str = ""
    fingerprint: str = ""
    held_by: str = ""
    reason: str


class Products(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A stream's products document. `withheld` is our own field: product name -> what of it is not listed."""

    content_id: str
    datatype: str
    format: str
    products: dict[str, Product]
    withheld: dict[str, tuple[Withheld, ...]] = {}


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as the index shows it. Clients skip an entry without products."""

    datatype: str
    format: str
    path: str
    products: list[str]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """`streams/v1/index.json`: where the products documents are."""

    format: str
    index: dict[str, IndexEntry]


class Unlisted(msgspec.Struct, frozen=True, kw_only=True):
    """Uploads that are not listed: product name -> version -> `incomplete` or `invalid`."""

    content_id: str
    format: str
    products: dict[str, dict[str, str]]


Document = Products | Index | Unlisted
_D = TypeVar("_D", Products, Index, Unlisted)

COMBINED_ATTRIBUTES: Final = {
    field.encode_name: field.name for field in msgspec.structs.fields(Item) if field.encode_name.endswith("_sha256")
}
"""Field of a metadata item that carries a combined sha256 -> attribute of `Item`."""
_encoder = msgspec.json.Encoder(order="sorted")
_version = msgspec.json.Decoder(Version)


def encode(document: Document) -> bytes:
    """Return the bytes of a document; equal documents give equal bytes."""
    return _encoder.encode(document)


def decode_products(body: bytes | None, stream: str) -> Products:
    """Read a products document; None (there is none yet) gives an empty one.

    Raise CatalogDamaged if it cannot be read.
    """
    if body is None:
        return Products(content_id=stream, datatype="image-downloads", format="products:1.0", products={})
    return _decode(body, Products, products_key(stream))


def decode_index(body: bytes | None) -> Index:
    """Read the index; None gives an empty one. Raise CatalogDamaged if it cannot be read."""
    return Index(format="index:1.0", index={}) if body is None else _decode(body, Index, INDEX_KEY)


def decode_unlisted(body: bytes | None, stream: str) -> Unlisted:
    """Read the unlisted uploads; None gives an empty document. Raise CatalogDamaged if it cannot be read."""
    if body is None:
        return Unlisted(content_id=stream, format="unlisted:1.0", products={})
    return _decode(body, Unlisted, unlisted_key(stream))


def encode_versions(versions: dict[str, Version]) -> dict[str, msgspec.Raw]:
    """Return the versions of a product, encoded as it carries them."""
    return {name: msgspec.Raw(_encoder.encode(version)) for name, version in versions.items()}


def raw_versions(products: Iterable[Product]) -> bytes:
    """Return the raw JSON of all versions of some products, one after the other, to search in.

    Decoding them costs far more.
    """
    return b"".join(version for product in products for version in product.versions.values())


def decode_versions(product: Product) -> dict[str, Version]:
    """Return the versions of a product, decoded. Raise CatalogDamaged as `decode_version` does."""
    return {name: decode_version(product, name) for name in product.versions}


def decode_version(product: Product, version: str) -> Version:
    """Return one listed version of a product, decoded. Raise CatalogDamaged if it cannot be read."""
    try:
        return _version.decode(product.versions[version])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CatalogDamaged(
            f"the catalog's {version} of {product.os} {product.release} {product.arch} cannot be read ({error}); "
            "delete the products document and rebuild the catalog from the records"
        ) from error


def versions_of(document: Products, product: str) -> dict[str, Version]:
    """Return the listed versions of the product with this name. Raise CatalogDamaged as decode_versions does."""
    return decode_versions(document.products[product]) if product in document.products else {}


def images(version: Version) -> dict[str, str]:
    """Return the images of a version as clients see them: fingerprint -> file of the root or unified tarball."""
    files = {item.ftype: item.path.rpartition("/")[2] for item in version.items.values()}
    found: dict[str, str] = {}
    for item in version.items.values():
        if item.ftype in UNIFIED_FTYPES.values():
            found[item.sha256] = files[item.ftype]
        for ftype in files.keys() & set(ROOT_FTYPES) if item.ftype in METADATA_FTYPES.values() else ():
            fingerprints = (getattr(item, COMBINED_ATTRIBUTES[field]) for field in combined_fields(ftype))
            found |= {fingerprint: files[ftype] for fingerprint in fingerprints if fingerprint}
    return found


def clients(version: Version) -> list[str]:
    """Return the kinds of client that see a version: those whose metadata or unified tarball it has."""
    ftypes = {item.ftype for item in version.items.values()}
    return [client for client in ALL_CLIENTS if ftypes & {METADATA_FTYPES[client], UNIFIED_FTYPES[client]}]


def launched(version: Version) -> set[tuple[str, bool]]:
    """Return what clients can launch of a version: a kind of client, and whether it gets a virtual machine."""
    items = {item.ftype: item for item in version.items.values()}
    found = {
        (client, root not in (SQUASHFS, ROOT_TAR))
        for client in ALL_CLIENTS
        for root in items.keys() & set(ROOT_FTYPES)
        if METADATA_FTYPES[client] in items
    }
    unified = {client: items[ftype] for client, ftype in UNIFIED_FTYPES.items() if ftype in items}
    return found | {(client, item.combined_type == "virtual-machine") for client, item in unified.items()}


def _decode(body: bytes, kind: type[_D], key: str) -> _D:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CatalogDamaged(
            f"{key} is not a document of ours ({error}); delete it and rebuild the catalog from the records"
        ) from error
