"""How LXD and Incus read a simplestreams catalog, restated so that tests can read one back without either.

Written from both projects' `shared/simplestreams` (products.go, simplestreams.go, sort.go), `shared/osarch` and
`client/simplestreams_images.go`, at the tags of the generations in `SERVED` and between them, and from nothing in this
repository: it must not share a mistake with the code that it checks. The end-to-end tests hold it against the real
clients. Descriptions are those of LXD before 6.2 and Incus up to 7.3.

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
ROOT_FTYPES = frozenset(_ROOT_COMBINED)
_VM_ROOTS = {"disk-kvm.img", "disk1.img", "uefi1.img"}
_TYPE_PREFERENCE = ("squashfs", "root.tar.xz", "disk-kvm.img", "uefi1.img", "disk1.img")


@dataclass(frozen=True)
class _Dialect:
    """What differs between the generations of the clients.

    `requirements` are fields of a product; the first one present counts. `delta_roots` are the roots whose deltas are
    read; `own_delta_source` says whether the base of a disk's delta is a disk rather than a squashfs.
    `applies_every_delta`: two deltas with available bases are applied one after the other. `stops_at_first`: of the
    metadata and unified items of a version only the first one met is read, and Go's order is random.
    """

    metadata: frozenset[str]
    unified: frozenset[str]
    requirements: tuple[str, ...]
    delta_roots: frozenset[str]
    arch_aliases: Mapping[str, str]
    applies_every_delta: bool
    own_delta_source: bool = False
    reads_combined_type: bool = False
    reads_time_of_day: bool = False
    stops_at_first: bool = False


_ARCH_NAMES = {
    "i686": "i386 i586 386 x86 generic_32",
    "x86_64": "amd64 generic_64",
    "armv6l": "armel arm",
    "armv7l": "armhf armhfp armv7a_hardfp armv7 armv7a_vfpv3_hardfp",
    "aarch64": "arm64 arm64_generic",
    "ppc": "powerpc",
    "ppc64": "powerpc64",
    "ppc64le": "ppc64el",
    "mips": "mipsel",
    "mips64": "mips64el",
} | dict.fromkeys(("armv8l", "s390x", "riscv32", "riscv64"), "")


def _known_as(**more: str) -> dict[str, str]:
    """Return every accepted name of an architecture with the kernel's own name for it. `more` has later names."""
    names = {kernel: [kernel, *aliases.split()] for kernel, aliases in _ARCH_NAMES.items()}
    for kernel, aliases in more.items():
        names[kernel] = [*names.get(kernel, [kernel]), *aliases.split()]
    return {alias: kernel for kernel, aliases in names.items() for alias in aliases}


_LOONGARCH = {"mips": "mipsle", "mips64": "mips64le", "loongarch64": "loong64"}
_PERSONALITIES = {"x86_64": {"i686"}, "aarch64": {"armv7l"}, "ppc64": {"ppc"}}
_SQUASHFS_DELTAS, _ALL_DELTAS = frozenset({"squashfs"}), frozenset({"squashfs", "disk-kvm.img"})

_LXD_5_0_2 = _Dialect(
    metadata=frozenset({"lxd.tar.xz"}),
    unified=frozenset({"lxd_combined.tar.gz"}),
    requirements=("lxd_requirements",),
    delta_roots=_SQUASHFS_DELTAS,
    arch_aliases=_known_as(),
    applies_every_delta=True,
)
_LXD_5_0_9 = replace(
    _LXD_5_0_2,
    requirements=("lxd_requirements", "requirements"),
    delta_roots=_ALL_DELTAS,
    arch_aliases=_known_as(**_LOONGARCH),
    applies_every_delta=False,
    own_delta_source=True,
)
_LXD_6_9 = replace(_LXD_5_0_9, arch_aliases=_known_as(x86_64="amd64v3", **_LOONGARCH), reads_time_of_day=True)
_LXD_5_20 = replace(
    _LXD_5_0_9,
    metadata=frozenset({"lxd.tar.xz", "incus.tar.xz"}),
    unified=frozenset({"lxd_combined.tar.gz", "incus_combined.tar.gz"}),
    applies_every_delta=True,
    own_delta_source=False,
    stops_at_first=True,
)
_INCUS_6_0_4 = _Dialect(
    metadata=frozenset({"incus.tar.xz"}),
    unified=frozenset({"incus_combined.tar.gz"}),
    requirements=("requirements",),
    delta_roots=_ALL_DELTAS,
    arch_aliases=_known_as(**_LOONGARCH),
    applies_every_delta=True,
)
_INCUS_7_0 = replace(
    _INCUS_6_0_4, arch_aliases=_known_as(x86_64="x86_64_v1 x86_64_v2 x86_64_v3 x86_64_v4", **_LOONGARCH)
)
_INCUS_7_3 = replace(_INCUS_7_0, reads_combined_type=True)

_DIALECTS = {
    "lxd-5.0.2": _LXD_5_0_2,
    "lxd-5.0.9": _LXD_5_0_9,  # source of a disk's delta from 5.0.4 and 5.21.2 on, one delta from 5.0.7 and 5.21.5 on
    "lxd-6.7": replace(_LXD_6_9, applies_every_delta=True),
    "lxd-6.9": _LXD_6_9,  # time of day from 5.21.3 and 6.2 on, amd64v3 from 5.21.5 and 6.7 on
    "lxd-5.20": _LXD_5_20,  # 5.0.3 and 5.18 to 5.20
    "incus-6.0.4": _INCUS_6_0_4,
    "incus-7.0": _INCUS_7_0,  # from 6.0.6 and 6.18 on
    "incus-7.3": _INCUS_7_3,  # from 7.1 on
} | {"lxd": _LXD_5_0_2, "incus": _INCUS_6_0_4}  # as Debian has them

SERVED = ("lxd-5.0.2", "lxd-5.0.9", "lxd-6.7", "lxd-6.9", "incus-6.0.4", "incus-7.0", "incus-7.3")
"""Every generation that a catalog for both kinds of client must suit. LXD 5.20 is out of support."""


def dialect(client: str) -> _Dialect:
    """Return what a generation reads, by its name."""
    return _DIALECTS[client]


class ClientError(Exception):
    """The client would fail here for the whole remote, not just for one image."""


@dataclass(frozen=True)
class Download:
    """One file that the client fetches: its path below the remote's URL, and the digest it must have."""

    path: str
    sha256: str
    size_bytes: int


@dataclass
class Image:
    """One image as the client lists it.

    `product` is the name of its product in the catalog. `files` maps the client's own role (`meta`, `root`,
    `root.delta-<fingerprint of the base>`) to a download. `aliases` is what `image list` shows; `names` has every alias
    that leads here, including the short ones of architectures other than the reader's.
    """

    product: str
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

    def asks_for(self, name: str) -> bool:
        """Return whether its product claims the alias, as it stands or followed by the architecture."""
        return any(name in (wanted, f"{wanted}/{self.properties['architecture']}") for wanted in self.wanted_aliases)


def read_catalog(
    index: bytes, documents: Mapping[str, bytes], client: str = "lxd", native: str = "x86_64"
) -> list[Image]:
    """Return every image that `client` (one of `SERVED`, `lxd`, `incus`, `lxd-5.20`) finds, in its own order.

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
    """Return the one image whose fingerprint starts with this text; raise ClientError for none or several."""
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
    """Return `value` with exactly the shape's keys; raise ClientError at the first wrong type."""
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
    """Return the paths of the documents that the client fetches.

    An entry without `datatype` or with an empty list of products hides its stream.
    """
    return [
        entry["path"]
        for entry in index["index"].values()
        if entry["datatype"] == "image-downloads" and entry["products"]
    ]


def _images(document: Any, dialect: _Dialect) -> Iterator[Image]:
    for name, product in document["products"].items():
        if product["arch"] not in dialect.arch_aliases:
            continue
        for serial, version in product["versions"].items():
            if (created := _created(serial, dialect)) is not None:
                yield from _version_images(name, product, serial, version, created, dialect)


def _created(serial: str, dialect: _Dialect) -> str | None:
    """Return when a version was made, as the client reads its name; None if it skips the version."""
    day = _date(serial[:8], "")
    time = re.fullmatch(r"[0-9]{8}_([01][0-9]|2[0-3])([0-5][0-9])", serial)
    return f"{day}T{time[1]}:{time[2]}" if day and time and dialect.reads_time_of_day else day


def _date(text: str, separator: str) -> str | None:
    """Return the ISO date in `text`, or None. It has four, two and two ASCII digits that form a real date."""
    match = re.fullmatch(rf"([0-9]{{4}}){separator}([0-9]{{2}}){separator}([0-9]{{2}})", text)
    try:
        return datetime.date(*map(int, match.groups())).isoformat() if match else None
    except ValueError:
        return None


def _version_images(
    name: str, product: Any, serial: str, version: Any, created: str, dialect: _Dialect
) -> Iterator[Image]:
    for meta in version["items"].values():
        roots: list[Any] = [None] if meta["ftype"] in dialect.unified else []
        if meta["ftype"] in dialect.metadata:
            roots = [root for root in version["items"].values() if root["ftype"] in _ROOT_COMBINED]
        for root in roots:
            yield from (replace(image, product=name) for image in _image(product, serial, created, meta, root, dialect))
        if dialect.stops_at_first and meta["ftype"] in dialect.metadata | dialect.unified:
            return


def _image(product: Any, serial: str, created: str, meta: Any, root: Any | None, dialect: _Dialect) -> Iterator[Image]:
    """Yield the image made of these items; nothing if its fingerprint or path is missing."""
    fingerprint = _fingerprint(meta, root)
    if not fingerprint or not meta["path"]:
        return
    parts = {"meta": meta} if root is None else {"meta": meta, "root": root}
    files = {role: Download(item["path"], item["sha256"], item["size"]) for role, item in parts.items()}
    if root is not None and root["ftype"] in dialect.delta_roots:
        files |= _deltas(product, serial, root, dialect)
    yield Image(
        product="",
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
    """Return the deltas whose base version is still listed with the fingerprint that clients take as source."""
    own = dialect.own_delta_source and root["ftype"] != "squashfs"
    source = _ROOT_COMBINED[root["ftype"] if own else "squashfs"][0]
    deltas = {}
    for item in product["versions"][serial]["items"].values():
        base = product["versions"].get(item["delta_base"])
        if item["ftype"] != f"{root['ftype']}.vcdiff" or base is None:
            continue
        metas = [meta for meta in base["items"].values() if meta["ftype"] in dialect.metadata]
        if metas and metas[0][source]:
            deltas[f"root.delta-{metas[0][source]}"] = Download(item["path"], item["sha256"], item["size"])
    return deltas


def _properties(product: Any, serial: str, kind: str, dialect: _Dialect) -> dict[str, str]:
    label = product["versions"][serial]["label"]
    description = f"{product['os']} {product['release_title']} {product['arch']}" + (f" ({label})" if label else "")
    requirements: dict[str, str] = next((product[name] for name in dialect.requirements if product[name]), {})
    properties = {
        "os": product["os"],
        "release": product["release"],
        "version": product["version"],
        "architecture": product["arch"],
        "label": label,
        "serial": serial,
        "description": f"{description} ({serial})",
        **{f"requirements.{key}": value for key, value in requirements.items()},
        "variant": product["variant"],
        "type": kind,
    }
    return {key: value for key, value in properties.items() if value}


def _compare(left: Image, right: Image) -> int:
    return -1 if is_before(left, right) else int(is_before(right, left))


def is_before(left: Image, right: Image) -> bool:
    """Return whether the client always sorts one image before the other. If neither is, their order is random."""
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
