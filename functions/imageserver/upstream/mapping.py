"""Map the images of another server into our layout: where each file goes, or why it cannot be copied. Pure.

| upstream's product                      | becomes                                                          |
|-----------------------------------------|------------------------------------------------------------------|
| `ubuntu:noble:amd64:cloud`              | `images/ubuntu/noble/amd64/cloud`, word for word                 |
| `com.ubuntu.cloud:server:24.04:amd64`   | `images/ubuntu/noble/amd64/default`, by its os, release and arch |
| `com.ubuntu.cloud:minimal:24.04:amd64`  | `images/ubuntu/noble/amd64/minimal`                              |

Files keep their bytes, so each image keeps its fingerprint: metadata and root go into one version, under the names that
their ftypes have here. A file whose path follows our layout keeps its name.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from imageserver.errors import InvalidUpload
from imageserver.format import documents, file_kinds
from imageserver.format.keys import ProductId, VersionId, check_file, parse_key, parse_product, parse_version
from imageserver.inspection.overrides import Overrides
from imageserver.upstream import simplestreams
from imageserver.upstream.simplestreams import Item, Product, Version

_FILES: Final = {
    "lxd.tar.xz": "lxd.tar.xz",
    "incus.tar.xz": "incus.tar.xz",
    "lxd_combined.tar.gz": "lxd_combined.tar.gz",
    "incus_combined.tar.gz": "incus_combined.tar.gz",
    file_kinds.SQUASHFS: "rootfs.squashfs",
    file_kinds.ROOT_TAR: "rootfs.tar.xz",
    file_kinds.DISK_KVM: "disk.qcow2",
    "disk1.img": "disk1.img",
    "uefi1.img": "uefi1.img",
    "squashfs.vcdiff": "rootfs.{base}.vcdiff",
    "disk-kvm.img.vcdiff": "disk.{base}.qcow2.vcdiff",
}
"""Every ftype that LXD or Incus reads -> the file's name here."""
_METADATA: Final = frozenset({*file_kinds.METADATA_FTYPES.values(), *file_kinds.UNIFIED_FTYPES.values()})
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_Combined = tuple[tuple[str, str], ...]
_LONGEST_PATH: Final = 1024
_MOST_COMBINED: Final = 8
"""With so many of a root, its message and the metadata of its object stay within the limits of SQS and S3."""
_SERVER: Final = "server"
"""The second part of Ubuntu's product names that is a kind of image and not a variant."""


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """One file: `path` below upstream's address, `key` is where it goes.

    `combined` are upstream's combined sha256s of a root, each preceded by the sha256 of its metadata file. `signed_by`
    is the fingerprint of the key that signed upstream's document; empty where no signature was checked.
    """

    path: str
    key: str
    sha256: str
    size_bytes: int
    combined: tuple[tuple[str, str], ...] = ()
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamVersion:
    """One version to take; `name` is upstream's, `<product>/<version>`. `overrides` becomes its metadata.json."""

    name: str
    id: VersionId
    files: tuple[UpstreamFile, ...]
    overrides: Overrides


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A product, version or file that cannot be taken; `name` is upstream's, `reason` completes "<name> …".

    `product` is where it would have gone, if that is known. `is_broken`: it cannot be read, so nobody knows what
    upstream has of that `version`; without one, of that product.
    """

    name: str
    reason: str
    product: ProductId | None = None
    version: VersionId | None = None
    is_broken: bool = False


def mapped(document: bytes, stream: str, signed_by: str = "") -> Iterator[UpstreamVersion | LeftOut]:
    """Yield each version of a products document, mapped into `stream`, and what cannot be taken.

    `signed_by` is the fingerprint of the key that signed the document; empty where no signature was checked.
    Raise UpstreamRefused if the document as a whole cannot be read.
    """
    takers: dict[ProductId, str] = {}
    for name, product in simplestreams.products(document):
        if isinstance(product, str):
            try:  # its name alone may say which product it would be here
                by_name = product_of(name, Product(), stream)
            except InvalidUpload:
                by_name = None
            yield LeftOut(name, product, by_name, is_broken=True)
            continue
        try:
            target = product_of(name, product, stream)
        except InvalidUpload as refusal:
            yield LeftOut(name, f"has no place here: {refusal}")
            continue
        if takers.setdefault(target, name) != name:
            yield LeftOut(name, f"would become {target.path}, as {takers[target]} does", target)
            continue
        yield from _versions(name, product, target, signed_by)


def product_of(name: str, product: Product, stream: str) -> ProductId:
    """Return the product that one of upstream's becomes, from its name or else its fields. Raise InvalidUpload."""
    parts = name.split(":")
    if len(parts) == 4:
        try:
            return parse_product("/".join((stream, *parts)))
        except InvalidUpload:  # not in the order os, release, arch, variant: the fields say more
            pass
    kind = parts[1] if len(parts) == 4 and parts[1] not in (_SERVER, product.release, product.version) else ""
    variant = product.variant or kind or "default"
    folders = (_folder(product.os), _folder(product.release), product.arch or "", _folder(variant))
    return parse_product("/".join((stream, *folders)))


def _folder(text: str | None) -> str:
    """Return a text as a folder's name: `Alpine Linux` becomes `alpine-linux`."""
    return re.sub(r"[^a-z0-9._~-]+", "-", (text or "").lower()).strip("-._~")


def _versions(name: str, product: Product, target: ProductId, signed_by: str) -> Iterator[UpstreamVersion | LeftOut]:
    for version_name, version in simplestreams.versions(product):
        full = f"{name}/{version_name}"
        try:
            id_ = parse_version(f"{target.path}/{version_name}")
        except InvalidUpload as refusal:
            yield LeftOut(full, f"has no place here: {refusal}", target)
            continue
        if isinstance(version, str):
            yield LeftOut(full, version, target, id_, is_broken=True)
            continue
        items = {item_name: item for item_name, item in sorted((version.items or {}).items()) if item}
        files: dict[str, UpstreamFile] = {}
        for item_name, item in items.items():
            if item.ftype not in _FILES:
                continue  # manifests, checksums, disks of other clouds: neither LXD nor Incus reads them
            file = _file(item, id_, _combined(item.ftype, items.values()), signed_by)
            if isinstance(file, str):
                yield LeftOut(f"{full}/{item_name}", file, target)
            elif files.setdefault(file.key, file) != file:
                why = f"would become {file.key}, as another of its files does"
                yield LeftOut(f"{full}/{item_name}", why, target)
        kept = _once(files)
        if any(file_kinds.classify(file.key.rpartition("/")[2]).role in _IMAGE_ROLES for file in kept):
            yield UpstreamVersion(full, id_, kept, _overrides(product, version, target))
        else:
            yield LeftOut(full, "lists no image that LXD or Incus reads", target)


_IMAGE_ROLES: Final = (file_kinds.Role.ROOT, file_kinds.Role.UNIFIED)


def _file(item: Item, version: VersionId, combined: _Combined, signed_by: str) -> UpstreamFile | str:
    """Return a file and where it goes, or why it cannot be taken."""
    given, sha256 = item.path or "", item.sha256 or ""
    if not _SHA256.fullmatch(sha256):
        return "has no sha256 in upstream's catalog: a copy could not be verified"
    path = given.lstrip("/")
    if len(path) > _LONGEST_PATH:
        return f"lies at a path of {len(path):,} characters, expected at most {_LONGEST_PATH:,}"
    if len(combined) > _MOST_COMBINED:
        return f"has {len(combined):,} combined sha256s in upstream's catalog, expected at most {_MOST_COMBINED}"
    if not path or any(part in ("", ".", "..") for part in path.split("/")) or not path.isprintable():
        return f"has the path {given[:200]!r}, which is not a path below upstream's address"
    try:
        is_ours = parse_key(path).version == version
    except InvalidUpload:
        is_ours = False
    key = path
    if not is_ours:
        file = _FILES[item.ftype or ""].format(base=item.delta_base or "")
        try:
            check_file(file)
        except InvalidUpload as refusal:
            return f"has no place here: {refusal}"
        key = version.prefix + file
    return UpstreamFile(path, key, sha256, item.size or 0, combined, signed_by)


def _combined(ftype: str, items: Collection[Item]) -> _Combined:
    """Return upstream's combined sha256s of a root of this ftype, each preceded by the sha256 of its metadata file."""
    if ftype not in file_kinds.ROOT_FTYPES:
        return ()
    stated = (
        (item.sha256 or "", getattr(item, documents.COMBINED_ATTRIBUTES[field]) or "")
        for item in items
        if item.ftype in file_kinds.METADATA_FTYPES.values()
        for field in file_kinds.combined_fields(ftype)
    )
    return tuple(sorted({one for one in stated if all(map(_SHA256.fullmatch, one))}))


def _once(files: dict[str, UpstreamFile]) -> tuple[UpstreamFile, ...]:
    """Return the files without repeated metadata: here, both clients read one metadata file."""
    kept: dict[str, UpstreamFile] = {}
    for key in sorted(files):
        if files[key].key.rpartition("/")[2] in _METADATA:
            kept.setdefault(files[key].sha256, files[key])
    others = (file for file in files.values() if file.key.rpartition("/")[2] not in _METADATA)
    return tuple(sorted((*kept.values(), *others), key=lambda file: file.key))


def _overrides(product: Product, version: Version, target: ProductId) -> Overrides:
    """Return what upstream says about a product beyond what its path here says."""
    given = [alias.strip() for alias in (product.aliases or "").split(",")]
    own = {*target.path_aliases, *target.current_aliases, ""}
    return Overrides(
        aliases=tuple(alias for alias in given if alias not in own),
        os=_unless(product.os, target.os),
        release_title=_unless(product.release_title, target.release),
        release_codename=product.release_codename or "",
        variant=_unless(product.variant, target.variant),
        version=product.version or "",
        label=version.label or "",
        requirements={
            key: value
            for stated in (product.requirements, product.lxd_requirements)
            for key, value in (stated or {}).items()
            if value is not None
        },
        supported=product.supported,
        support_eol=product.support_eol or "",
    )


def _unless(text: str | None, same: str) -> str:
    return "" if not text or text == same else text


def metadata_json(overrides: Overrides) -> bytes:
    """Return overrides as a metadata.json; empty bytes if there are none."""
    body = msgspec.json.encode(overrides)
    return b"" if body == b"{}" else body
