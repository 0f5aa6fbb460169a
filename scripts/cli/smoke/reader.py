"""A client's reading of a catalog, by the clients' own rules and without any of the code that wrote it. Pure.

Restated from `shared/simplestreams` of LXD and Incus (products.go, simplestreams.go): which streams they read, which
items make an image, which field is its fingerprint. There, one value of the wrong type makes a
whole document unreadable, and so it does here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

INDEX: Final = "streams/v1/index.json"
CLIENTS: Final = ("lxd", "incus")
_FINGERPRINTS: Final = {
    "squashfs": ("combined_squashfs_sha256",),
    "root.tar.xz": ("combined_rootxz_sha256", "combined_sha256"),
    "disk-kvm.img": ("combined_disk_kvm",),
    "disk1.img": ("combined_disk1",),
    "uefi1.img": ("combined_uefi1",),
}
"""Ftype of a root -> the attributes of a metadata item that may hold the fingerprint, the first that is set."""


class NotReadable(Exception):
    """A client would fail here for the whole remote, not only for one image."""


class Item(msgspec.Struct, frozen=True):
    """One file of a version."""

    ftype: str = ""
    path: str = ""
    size: int = 0
    sha256: str = ""
    delta_base: str = ""
    combined_sha256: str = ""
    combined_rootxz_sha256: str = ""
    combined_squashfs_sha256: str = ""
    combined_disk_kvm: str = msgspec.field(default="", name="combined_disk-kvm-img_sha256")
    combined_disk1: str = msgspec.field(default="", name="combined_disk1-img_sha256")
    combined_uefi1: str = msgspec.field(default="", name="combined_uefi1-img_sha256")


class _Version(msgspec.Struct, frozen=True):
    items: dict[str, Item] = {}
    label: str = ""


class _Product(msgspec.Struct, frozen=True):
    aliases: str = ""
    arch: str = ""
    os: str = ""
    release: str = ""
    release_title: str = ""
    release_codename: str = ""
    variant: str = ""
    version: str = ""
    support_eol: str = ""
    supported: bool = False
    requirements: dict[str, str] = {}
    lxd_requirements: dict[str, str] = {}
    versions: dict[str, _Version] = {}


class _Products(msgspec.Struct, frozen=True):
    content_id: str = ""
    datatype: str = ""
    format: str = ""
    products: dict[str, _Product] = {}


class _IndexEntry(msgspec.Struct, frozen=True):
    datatype: str = ""
    path: str = ""
    format: str = ""
    products: list[str] = []


class _Index(msgspec.Struct, frozen=True):
    format: str = ""
    index: dict[str, _IndexEntry] = {}


@dataclass(frozen=True)
class Image:
    """One image as one client lists it: the product's aliases, the item of its metadata and, if split, of its root."""

    client: str
    product: str
    version: str
    aliases: tuple[str, ...]
    fingerprint: str
    items: tuple[Item, ...]


_T = TypeVar("_T")


def read_index(body: bytes) -> list[str]:
    """Return the paths of the products documents that clients fetch. Raise NotReadable as `read_products` does."""
    entries = _decode(body, _Index, INDEX).index.values()
    return [entry.path for entry in entries if entry.datatype == "image-downloads" and entry.products]


def read_products(body: bytes, path: str) -> list[Image]:
    """Return the images of one products document for each client. Raise NotReadable where a client would fail."""
    return [
        image
        for name, product in _decode(body, _Products, path).products.items()
        for version, entry in product.versions.items()
        for client in CLIENTS
        for image in _images(client, name, product, version, entry)
    ]


def read_catalog(get: Callable[[str], bytes]) -> list[Image]:
    """Return the images of all streams; `get` fetches a path below the address of the server."""
    return [image for path in read_index(get(INDEX)) for image in read_products(get(path), path)]


def _images(client: str, name: str, product: _Product, version: str, entry: _Version) -> Iterator[Image]:
    aliases = tuple(product.aliases.split(",")) if product.aliases else ()
    for meta in entry.items.values():
        if meta.ftype == f"{client}_combined.tar.gz" and meta.sha256:
            yield Image(client, name, version, aliases, meta.sha256, (meta,))
        if meta.ftype != f"{client}.tar.xz":
            continue
        for root in entry.items.values():
            fields = _FINGERPRINTS.get(root.ftype, ())
            if fingerprint := next(filter(None, (getattr(meta, field) for field in fields)), ""):
                yield Image(client, name, version, aliases, fingerprint, (meta, root))


def _decode(body: bytes, shape: type[_T], path: str) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NotReadable(f"{path}: no client can read it: {error}") from error
