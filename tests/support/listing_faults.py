"""Finds everything in a listing that a generation of LXD or Incus could not list, resolve, fetch, launch or update.

It reads the catalog with `client_rules` and then the files themselves, as a daemon would: their digests, what the
metadata says, what a tarball holds, how a disk begins. Nothing here comes from the code under test. Files are
read with other libraries (tarfile, PyYAML).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import struct
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from tests.support import client_rules
from tests.support.client_rules import INDEX_PATH, SERVED, ClientError, Image, read_catalog

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_UNPACKED_BY: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\xfd7zXZ", lambda body: lzma.decompress(body.rstrip(b"\0"))),  # Python's knows no padding
    (b"\x5d\x00\x00", lzma.decompress),
    (b"\x1f\x8b", gzip.decompress),  # nothing but zeros may be behind it
    (b"BZ", bz2.decompress),
    (b"\x28\xb5\x2f\xfd", zstd.decompress),
)
_SAFE_PATH = re.compile(r"[A-Za-z0-9._~:/-]+")


def faults(
    documents: Mapping[str, bytes], body: Callable[[str], bytes | None], clients: Sequence[str] = SERVED
) -> list[str]:
    """Return a sentence about each fault for each of the clients; none for a correct listing.

    `documents` are the served documents by path, the index among them; `body` gives the bytes of a file, or None.
    """
    found = []
    for client in clients:
        try:
            images = read_catalog(documents[INDEX_PATH], documents, client)
        except ClientError as error:
            found.append(f"{client}: cannot read the catalog: {error}")
            continue
        checks = (
            _skipped(documents, images, client),
            _listed_twice(images),
            _aliases_astray(documents, images, client),
            _updates(images, client),
            _machines_in_front(documents, images),
            (fault for image in images for fault in _unusable(image, body, client)),
        )
        found += [f"{client}: {fault}" for check in checks for fault in check]
    return found


def _products(documents: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    for entry in json.loads(documents[INDEX_PATH])["index"].values():
        yield from json.loads(documents[entry["path"]])["products"].items()


def _skipped(documents: Mapping[str, bytes], images: Sequence[Image], client: str) -> Iterator[str]:
    """Yield each item that is listed for this client but belongs to none of its images."""
    dialect = client_rules.dialect(client)
    seen = {download.path for image in images for download in image.files.values()}
    for name, product in _products(documents):
        if product["arch"] not in dialect.arch_aliases:
            continue
        if not product["versions"]:
            yield f"{name} has no version"
        for version, content in product["versions"].items():
            ftypes = {item["ftype"] for item in content["items"].values()}
            for item in content["items"].values():
                ours = item["ftype"] in dialect.metadata | dialect.unified
                is_root = item["ftype"] in client_rules.ROOT_FTYPES
                if (ours or (is_root and ftypes & dialect.metadata)) and item["path"] not in seen:
                    yield f"{name}/{version}: the {item['ftype']} {item['path']} is in no image"
            if not ftypes & (client_rules.ROOT_FTYPES | dialect.unified) and not _is_machine(content):
                yield f"{name}/{version} has no root"


def _is_machine(version: Any) -> bool:
    return any(item.get("combined_type") == "virtual-machine" for item in version["items"].values())


def _machines_in_front(documents: Mapping[str, bytes], images: Sequence[Image]) -> Iterator[str]:
    """Yield each product with a virtual machine that this client takes for one of the product's containers."""
    for name, product in _products(documents):
        machines = {version for version, content in product["versions"].items() if _is_machine(content)}
        kinds = {
            (image.properties["type"] == "tar.gz" and image.properties["serial"] in machines)
            for image in images
            if image.product == name and image.type == "container"
        }
        if len(kinds) > 1:
            yield f"{name} has containers, and a virtual machine that is taken for one"


def _listed_twice(images: Sequence[Image]) -> Iterator[str]:
    count = Counter(image.fingerprint for image in images)
    yield from (f"{fingerprint} is listed {times} times" for fingerprint, times in count.items() if times > 1)


def _aliases_astray(documents: Mapping[str, bytes], images: Sequence[Image], client: str) -> Iterator[str]:
    """Yield each alias that does not lead to the newest image of its product, or leads to one of two at random."""
    dialect = client_rules.dialect(client)
    for name, product in _products(documents):
        if product["arch"] not in dialect.arch_aliases:
            continue
        own = [image for image in images if image.product == name]
        for kind in sorted({image.type for image in own}):
            newest = max(image.properties["serial"] for image in own if image.type == kind)
            names = [(alias, f"{alias}/{product['arch']}") for alias in product["aliases"].split(",")]
            for alias in (alias for both in names for alias in both):
                asking = [
                    i for i in images if i.type == kind and i.asks_for(alias) and i.architecture == own[0].architecture
                ]
                first = asking[0]
                found = f"{first.product}/{first.properties['serial']}"
                if found != f"{name}/{newest}":
                    yield f"{alias} ({kind}) leads to {found}, not to {name}/{newest}"
                for other in asking[1:]:
                    if not client_rules.is_before(first, other):
                        yield f"{alias} ({kind}) leads to {first.filename} or {other.filename} by chance"


def _updates(images: Sequence[Image], client: str) -> Iterator[str]:
    """Yield each delta that would make an image other than the listed one."""
    dialect = client_rules.dialect(client)
    by_fingerprint = {image.fingerprint: image for image in images}
    for image in images:
        deltas = [role.removeprefix("root.delta-") for role in image.files if role.startswith("root.delta-")]
        if len(deltas) > 1 and dialect.applies_every_delta:
            yield f"{image.fingerprint} has {len(deltas)} deltas, which would be applied one after the other"
        for base in deltas:
            if base not in by_fingerprint:
                yield f"the delta of {image.fingerprint} is for {base}, which is not listed"
            elif by_fingerprint[base].properties["type"] != image.properties["type"]:
                kind = by_fingerprint[base].properties["type"]
                yield f"the delta of {image.fingerprint} would be applied to a {kind}"


def _unusable(image: Image, body: Callable[[str], bytes | None], client: str) -> Iterator[str]:
    """Yield what keeps an image from being fetched and launched."""
    bodies = {}
    for role, download in image.files.items():
        content = body(download.path)
        if not _SAFE_PATH.fullmatch(download.path):
            yield f"{download.path} cannot stand in a URL as it is"
        if content is None:
            yield f"{download.path} is not there"
            return
        if (len(content), hashlib.sha256(content).hexdigest()) != (download.size_bytes, download.sha256):
            yield f"{download.path} has another size or sha256 than is listed"
        bodies[role] = content
    parts = [bodies[role] for role in ("meta", "root") if role in bodies]
    if hashlib.sha256(b"".join(parts)).hexdigest() != image.fingerprint:
        yield f"{image.filename}: the fingerprint is not that of its files"
    try:
        members = _members(bodies["meta"])
        _check_metadata(members, image, client)
        if "root" in bodies:
            _check_root(bodies["root"], image.properties["type"])
        elif "rootfs.img" in members and image.type == "container":
            pass  # Incus before 7.1 takes it for one: `_machines_in_front` reports whether that does harm
        elif image.type == "virtual-machine":
            _check_disk(members["rootfs.img"])
        elif not any(name.startswith("rootfs/") for name in members):
            yield f"{image.filename} holds no rootfs/"
    except (KeyError, ValueError, EOFError, OSError, tarfile.TarError, lzma.LZMAError, zstd.ZstdError) as error:
        yield f"{image.filename}: {type(error).__name__}: {error}"


def _members(body: bytes) -> dict[str, bytes]:
    """Return the names in a tarball with their content. The last of two equal names counts, as when unpacking."""
    unpack = next((how for magic, how in _UNPACKED_BY if body.startswith(magic)), None)
    members = {}
    with tarfile.open(fileobj=io.BytesIO(unpack(body) if unpack else body)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            members["/".join(part for part in member.name.split("/") if part not in ("", "."))] = (
                content.read() if content else b""
            )
    return members


def _check_metadata(members: Mapping[str, bytes], image: Image, client: str) -> None:
    document = next(yaml.load_all(members["metadata.yaml"], Loader=yaml.SafeLoader))
    known = {**client_rules.dialect("lxd-6.9").arch_aliases, **client_rules.dialect("incus-7.3").arch_aliases}
    if known[str(document["architecture"])] != image.architecture:
        raise ValueError(f"{client} would start {document['architecture']} as {image.architecture}")
    if any(isinstance(value, (list, dict)) for value in (document.get("properties") or {}).values()):
        raise ValueError("a property is no scalar")
    for template in (document.get("templates") or {}).values():
        if template.get("when") and f"templates/{template['template']}" not in members:
            raise ValueError(f"there is no template {template['template']}")


def _check_root(body: bytes, ftype: str) -> None:
    if ftype == "root.tar.xz":
        if not _members(body):
            raise ValueError("the root is empty")
    elif ftype == "squashfs":
        if not body.startswith(b"hsqs") or struct.unpack_from("<Q", body, 40)[0] > len(body):
            raise ValueError("the root is no whole squashfs")
        if {b"metadata.yaml", b"rootfs"} <= _names_at_the_end(body) <= {b"metadata.yaml", b"rootfs", b"templates"}:
            raise ValueError("the root is an image in squashfs form")
    else:
        _check_disk(body)


def _names_at_the_end(body: bytes) -> set[bytes]:
    """Return the words of a squashfs's directory table. In files made by tests it is only that of the root folder."""
    (start,) = struct.unpack_from("<Q", body, 72)
    (head,) = struct.unpack_from("<H", body, start) if start + 2 < len(body) else (0,)
    block = body[start + 2 : start + 2 + (head & 0x7FFF)]
    try:
        listing = block if head & 0x8000 else zlib.decompress(block)
    except zlib.error:
        return set()
    return set(re.findall(rb"[a-z.]{3,}", listing))


def _check_disk(body: bytes) -> None:
    magic, version, backing, _, _, size, encryption = struct.unpack_from(">4sIQIIQI", body)
    if (magic, version in (2, 3), backing, encryption) != (b"QFI\xfb", True, 0, 0) or not size:
        raise ValueError("the disk is no qcow2 that stands alone")
