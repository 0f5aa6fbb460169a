"""How LXD and Incus read a simplestreams catalog, restated so that tests can read one back without either.

Written from the rules in both projects' `shared/simplestreams` (products.go, simplestreams.go, sort.go) and
`shared/osarch`, and from nothing in this repository: it must not share a mistake with the code that it
checks. The end-to-end tests hold it against the real clients.

What a client does silently is silent here as well (an unknown architecture, a version without a date, a
metadata item without the right combined sha256): such images are simply not in the answer. What makes the
client fail raises `ClientError`.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

INDEX_PATH = "streams/v1/index.json"

_ROOT_COMBINED = {
    "squashfs": ("combined_squashfs_sha256",),
    # The second is the older name, read when the first is empty.
    "root.tar.xz": ("combined_rootxz_sha256", "combined_sha256"),
    "disk-kvm.img": ("combined_disk-kvm-img_sha256",),
    "disk1.img": ("combined_disk1-img_sha256",),
    "uefi1.img": ("combined_uefi1-img_sha256",),
}
_VM_ROOTS = {"disk-kvm.img", "disk1.img", "uefi1.img"}
_TYPE_PREFERENCE = ("squashfs", "root.tar.xz", "disk-kvm.img", "uefi1.img", "disk1.img")


@dataclass(frozen=True)
class _Dialect:
    """What differs between the clients: the names they look for."""

    metadata: frozenset[str]
    unified: frozenset[str]
    requirements: str
    delta_roots: frozenset[str]
    arch_aliases: Mapping[str, str]
    reads_combined_type: bool = False


_ARCH_NAMES = {
    "i686": "i386 i586 386 x86 generic_32",
    "x86_64": "amd64 generic_64",
    "aarch64": "arm64 arm64_generic",
    "armv7l": "armhf armhfp armv7a_hardfp armv7 armv7a_vfpv3_hardfp",
    "ppc": "powerpc",
    "ppc64": "powerpc64",
    "ppc64le": "ppc64el",
} | dict.fromkeys(("s390x", "mips", "mips64", "riscv32", "riscv64"), "")
_LXD_ARCH_NAMES = _ARCH_NAMES | {"armv7l": _ARCH_NAMES["armv7l"] + " armel arm"}
_INCUS_ARCH_NAMES = _ARCH_NAMES | {"armv6l": "armel arm", "armv8l": "", "loongarch64": "loong64"}


def _known_as(names: Mapping[str, str]) -> dict[str, str]:
    """Every accepted name of an architecture with the kernel's own name for it."""
    return {alias: name for name, aliases in names.items() for alias in (name, *aliases.split())}


_PERSONALITIES = {"x86_64": {"i686"}, "aarch64": {"armv7l"}, "ppc64": {"ppc"}}

_LXD = _Dialect(
    metadata=frozenset({"lxd.tar.xz"}),
    unified=frozenset({"lxd_combined.tar.gz"}),
    requirements="lxd_requirements",
    delta_roots=frozenset({"squashfs"}),
    arch_aliases=_known_as(_LXD_ARCH_NAMES),
)
_INCUS = _Dialect(
    metadata=frozenset({"incus.tar.xz"}),
    unified=frozenset({"incus_combined.tar.gz"}),
    requirements="requirements",
    delta_roots=frozenset({"squashfs", "disk-kvm.img"}),
    arch_aliases=_known_as(_INCUS_ARCH_NAMES),
)
# From 7.1 on, `combined_type` says whether a unified tarball is a container or a virtual machine. Older Incus and every
# LXD ignore it and take each for a container.
_INCUS_7_1 = replace(_INCUS, reads_combined_type=True)
# LXD 5.0.3 and 5.18 to 5.20 accepted either project's item names, and so saw a version that carries both of
# them twice.
_LXD_5_20 = _Dialect(
    metadata=_LXD.metadata | _INCUS.metadata,
    unified=_LXD.unified | _INCUS.unified,
    requirements="lxd_requirements",
    delta_roots=frozenset({"squashfs"}),
    arch_aliases=_known_as(_LXD_ARCH_NAMES),
)
_DIALECTS = {"lxd": _LXD, "incus": _INCUS, "incus-7.1": _INCUS_7_1, "lxd-5.20": _LXD_5_20}


class ClientError(Exception):
    """The client would fail here, for the whole remote and not only for one image."""


@dataclass(frozen=True)
class Download:
    """One file that the client fetches: its path below the remote's URL, and what it checks it against."""

    path: str
    sha256: str
    size_bytes: int


@dataclass
class Image:
    """One image as the client lists it.

    `files` maps the client's own role (`meta`, `root`, `root.delta-<fingerprint of the base>`) to a
    download. `aliases` is what `image list` shows; `names` has every alias that leads here, including the
    short ones of architectures other than the reader's.
    """

    fingerprint: str
    type: str
    architecture: str
    size_bytes: int
    filename: str
    created: str
    expires: str
    properties: dict[str, str]
    files: dict[str, Download]
    aliases: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    wanted_aliases: list[str] = field(default_factory=list)


def read_catalog(
    index: bytes, documents: Mapping[str, bytes], client: str = "lxd", native: str = "x86_64"
) -> list[Image]:
    """Every image that `client` (`lxd`, `incus`, `incus-7.1`, `lxd-5.20`) finds, in its own order.

    `documents` maps a path from the index (`streams/v1/images.json`) to its bytes; a path that is not there
    is a 404. `native` is the architecture of the machine that the client runs on, as the kernel names it.
    Raises ClientError where the client fails: unreadable JSON, one value of a wrong type, a products
    document that is missing.
    """
    dialect = _DIALECTS[client]
    found: list[Image] = []
    for path in _product_paths(_decode(index, _INDEX, INDEX_PATH)):
        if path not in documents:
            raise ClientError(f"Unable to fetch {path}: 404 Not Found")
        found.extend(_images(_decode(documents[path], _PRODUCTS, path), dialect))
    found.sort(key=functools.cmp_to_key(_compare))
    _apply_aliases(found, native)
    return found


def find_image(images: Sequence[Image], fingerprint: str) -> Image:
    """The one image whose fingerprint starts so; ClientError when there is none, or more than one."""
    matches = [image for image in images if image.fingerprint.startswith(fingerprint)]
    if not matches:
        raise ClientError(f"The requested image couldn't be found: {fingerprint}")
    if len(matches) > 1:
        raise ClientError(f"More than one match for the provided partial fingerprint: {fingerprint}")
    return matches[0]


def resolve_alias(images: Sequence[Image], name: str, image_type: str = "", native: str = "x86_64") -> Image:
    """Return the image that `launch remote:name` takes.

    The native architecture comes first, then one that it can run, then any other.
    """

    def rank(image: Image) -> int:
        if image.architecture == native:
            return 0
        return 1 if image.architecture in _PERSONALITIES.get(native, set()) else 2

    named = [image for image in images if name in image.names and image_type in ("", image.type)]
    if not named:
        raise ClientError(f"Alias '{name}' doesn't exist")
    if len({image.type for image in named}) > 1:
        raise ClientError(f"More than one match for alias '{name}'")
    return min(named, key=rank)


# The shapes that Go decodes into. A key outside of them is ignored, null is "not given", and any other type
# is an error for the document.
_STRING, _BOOL, _INT = "string", "bool", "int64"
_ITEM = {
    **dict.fromkeys(
        [name for names in _ROOT_COMBINED.values() for name in names]
        + ["ftype", "md5", "path", "sha256", "delta_base", "combined_type"],
        _STRING,
    ),
    "size": _INT,
}
_VERSION = {"items": {"*": _ITEM}, "label": _STRING, "pubname": _STRING}
_PRODUCT = {
    **dict.fromkeys(("aliases", "arch", "os", "release", "release_codename", "release_title"), _STRING),
    **dict.fromkeys(("support_eol", "version", "variant"), _STRING),
    "supported": _BOOL,
    "requirements": {"*": _STRING},
    "lxd_requirements": {"*": _STRING},
    "versions": {"*": _VERSION},
}
_PRODUCTS = {
    **dict.fromkeys(("content_id", "datatype", "format", "license", "updated"), _STRING),
    "products": {"*": _PRODUCT},
}
_INDEX_ENTRY = {**dict.fromkeys(("datatype", "path", "updated", "format"), _STRING), "products": [_STRING]}
_INDEX = {"updated": _STRING, "format": _STRING, "index": {"*": _INDEX_ENTRY}}


def _decode(body: bytes, shape: Any, where: str) -> Any:
    if not body:
        raise ClientError(f"No content in download from {where}")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except ValueError as error:
        raise ClientError(f"{where}: not JSON: {error}") from error
    return _conform(value, shape, where)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Go takes the last of two equal keys.

    No catalog has a reason to make it choose, so that is an error here.
    """
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key twice in one object: {[key for key, _ in pairs]}")
    return value


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _conform(value: Any, shape: Any, where: str) -> Any:
    """`value` with all of the shape's keys and no others; ClientError at the first wrong type."""
    if isinstance(shape, list):
        return [_conform(entry, shape[0], f"{where}[]") for entry in _typed(value, list, [], where)]
    if isinstance(shape, dict):
        given = _typed(value, dict, {}, where)
        if "*" in shape:
            return {key: _conform(entry, shape["*"], f"{where}.{key}") for key, entry in given.items()}
        # Go matches the name of a field in any case.
        folded = {key.lower(): entry for key, entry in given.items()}
        return {key: _conform(folded.get(key), kind, f"{where}.{key}") for key, kind in shape.items()}
    if shape == _STRING:
        return _typed(value, str, "", where)
    if shape == _BOOL:
        return _typed(value, bool, False, where)
    number = _typed(value, int, 0, where)
    if isinstance(number, bool) or not -(2**63) <= number < 2**63:
        raise ClientError(f"{where}: cannot unmarshal {value!r} into int64")
    return number


def _typed(value: Any, kind: type, absent: Any, where: str) -> Any:
    if value is None:
        return absent
    if not isinstance(value, kind):
        raise ClientError(f"{where}: cannot unmarshal {type(value).__name__} into {kind.__name__}")
    return value


def _product_paths(index: Any) -> list[str]:
    """Paths of the documents that the client fetches.

    An entry without `datatype` or with an empty list of products hides its stream.
    """
    return [
        entry["path"]
        for entry in index["index"].values()
        if entry["datatype"] == "image-downloads" and entry["products"]
    ]


def _images(document: Any, dialect: _Dialect) -> Iterator[Image]:
    for product in document["products"].values():
        if product["arch"] not in dialect.arch_aliases:
            continue
        for serial, version in product["versions"].items():
            if (created := _date(serial[:8], "")) is not None:
                yield from _version_images(product, serial, version, created, dialect)


def _date(text: str, separator: str) -> str | None:
    """The ISO date in `text`, or None: four, two and two ASCII digits that are a day of the calendar."""
    match = re.fullmatch(rf"([0-9]{{4}}){separator}([0-9]{{2}}){separator}([0-9]{{2}})", text)
    try:
        return datetime.date(*map(int, match.groups())).isoformat() if match else None
    except ValueError:
        return None


def _version_images(product: Any, serial: str, version: Any, created: str, dialect: _Dialect) -> Iterator[Image]:
    for meta in version["items"].values():
        if meta["ftype"] in dialect.unified:
            yield from _image(product, serial, created, meta, None, dialect)
        if meta["ftype"] in dialect.metadata:
            for root in version["items"].values():
                if root["ftype"] in _ROOT_COMBINED:
                    yield from _image(product, serial, created, meta, root, dialect)


def _image(product: Any, serial: str, created: str, meta: Any, root: Any | None, dialect: _Dialect) -> Iterator[Image]:
    """The image made of these items, or nothing when its fingerprint or its path is missing."""
    fingerprint = _fingerprint(meta, root)
    if not fingerprint or not meta["path"]:
        return
    parts = {"meta": meta} if root is None else {"meta": meta, "root": root}
    files = {role: Download(item["path"], item["sha256"], item["size"]) for role, item in parts.items()}
    if root is not None and root["ftype"] in dialect.delta_roots:
        files |= _deltas(product, serial, root, dialect)
    yield Image(
        fingerprint=fingerprint,
        type=_type(meta, root, dialect),
        architecture=dialect.arch_aliases[product["arch"]],
        size_bytes=sum(item["size"] for item in parts.values()),
        filename=meta["path"].rsplit("/", 1)[-1],
        created=created,
        expires=_date(product["support_eol"], "-") or "1970-01-01",
        properties=_properties(product, serial, "tar.gz" if root is None else root["ftype"], dialect),
        files=files,
        wanted_aliases=product["aliases"].split(",") if product["aliases"] else [],
    )


def _type(meta: Any, root: Any | None, dialect: _Dialect) -> str:
    if root is not None:
        return "virtual-machine" if root["ftype"] in _VM_ROOTS else "container"
    is_machine = dialect.reads_combined_type and meta["combined_type"] == "virtual-machine"
    return "virtual-machine" if is_machine else "container"


def _fingerprint(meta: Any, root: Any | None) -> str:
    if root is None:
        return str(meta["sha256"])
    return next((str(meta[name]) for name in _ROOT_COMBINED[root["ftype"]] if meta[name]), "")


def _deltas(product: Any, serial: str, root: Any, dialect: _Dialect) -> dict[str, Download]:
    """Return the deltas whose base version is still listed with a squashfs fingerprint.

    Both clients look at that fingerprint even for the delta of a disk.
    """
    deltas = {}
    for item in product["versions"][serial]["items"].values():
        base = product["versions"].get(item["delta_base"])
        if item["ftype"] != f"{root['ftype']}.vcdiff" or base is None:
            continue
        metas = [meta for meta in base["items"].values() if meta["ftype"] in dialect.metadata]
        if metas and metas[0]["combined_squashfs_sha256"]:
            role = f"root.delta-{metas[0]['combined_squashfs_sha256']}"
            deltas[role] = Download(item["path"], item["sha256"], item["size"])
    return deltas


def _properties(product: Any, serial: str, kind: str, dialect: _Dialect) -> dict[str, str]:
    label = product["versions"][serial]["label"]
    description = f"{product['os']} {product['release_title']} {product['arch']}" + (f" ({label})" if label else "")
    properties = {
        "os": product["os"],
        "release": product["release"],
        "version": product["version"],
        "architecture": product["arch"],
        "label": label,
        "serial": serial,
        "description": f"{description} ({serial})",
        **{f"requirements.{key}": value for key, value in product[dialect.requirements].items()},
        "variant": product["variant"],
        "type": kind,
    }
    return {key: value for key, value in properties.items() if value}


def _compare(left: Image, right: Image) -> int:
    return -1 if _before(left, right) else int(_before(right, left))


def _before(left: Image, right: Image) -> bool:
    for name in ("os", "release", "variant", "serial", "architecture"):
        ours, theirs = left.properties.get(name, ""), right.properties.get(name, "")
        if ours == theirs:
            continue
        if not ours:  # the clients' own slip: an empty value is before nothing, and nothing is before it
            return False
        return ours > theirs if name == "serial" else ours < theirs

    def score(image: Image) -> int:
        kind = image.properties["type"]
        return _TYPE_PREFERENCE.index(kind) if kind in _TYPE_PREFERENCE else 0

    return score(left) < score(right)


def _apply_aliases(images: Sequence[Image], native: str) -> None:
    """Give each alias to the first image of its type and architecture that asks for it.

    Nothing is trimmed; later claims are dropped.
    """
    taken: set[tuple[str, str, str]] = set()
    for image in images:
        for wanted in image.wanted_aliases:
            for name, shown in (
                (wanted, image.architecture == native),
                (f"{wanted}/{image.properties.get('architecture', '')}", True),
            ):
                if (claim := (name, image.type, image.architecture)) in taken:
                    continue
                taken.add(claim)
                image.names.append(name)
                if shown:
                    image.aliases.append(name)
