"""Choose what to copy from another server: filters of products and files, and the number of versions of a product.

A filter uses the names in our layout, after the mapping:

    all                                   everything; an empty filter is refused, so none selects it by accident
    ubuntu:noble:*:cloud                  products, as in the catalog; parts left out at the end match everything
    os=ubuntu,arch=amd64|arm64            fields of the path: os, release, arch, variant, version
    ubuntu,ftype=squashfs,size<=2GB       kinds and sizes of roots: `ftype` as in the catalog, decimal or binary units

All terms of a filter must hold; of several filters, one is enough. Values are shell patterns (`*`, `?`, `[…]`), with
`|` between alternatives. A filter takes roots and unified tarballs. A root brings along the metadata without which it
cannot launch, its deltas, overrides and checksums.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from imageserver.errors import InvalidFilter
from imageserver.format import file_kinds
from imageserver.format.file_kinds import Role
from imageserver.format.keys import ImageKey, ProductId, VersionId

ALL: Final = "all"
_PARTS: Final = ("os", "release", "arch", "variant")
_TERM: Final = re.compile(r"([a-z]+)(<?=)(.*)", re.DOTALL)
_PATTERN: Final = re.compile(r"[A-Za-z0-9._~:*?!\[\]-]{1,200}")
_SIZE: Final = re.compile(r"(\d{1,15})(?:([KMGT])(i?))?B?", re.ASCII)
_EXAMPLES: Final = f"`{ALL}`, `ubuntu:noble:*:cloud`, `os=ubuntu,arch=amd64|arm64` or `ubuntu,ftype=squashfs,size<=2GB`"


@dataclass(frozen=True, slots=True)
class Filter:
    """Patterns by field, at least one of which must match in each field, and the largest size of a root."""

    patterns: Mapping[str, tuple[str, ...]]
    most_bytes: int | None = None

    def takes(self, image: ImageKey, ftype: str, size_bytes: int) -> bool:
        """Return whether the filter takes a root or unified tarball of this ftype."""
        if self.most_bytes is not None and size_bytes > self.most_bytes:
            return False
        return self._match({**_fields(image.version.product), "version": image.version.version, "ftype": ftype})

    def takes_of(self, product: ProductId) -> bool:
        """Return whether the filter may take any file of a product."""
        return self._match(_fields(product))

    def _match(self, values: Mapping[str, str]) -> bool:
        """Return whether each field that has both patterns and a value here matches."""
        return all(
            any(fnmatchcase(values[field], pattern) for pattern in patterns)
            for field, patterns in self.patterns.items()
            if field in values
        )


def _fields(product: ProductId) -> dict[str, str]:
    return {part: getattr(product, part) for part in _PARTS}


def parse_filter(text: str) -> Filter:
    """Parse a filter. Raise InvalidFilter, which quotes the part that cannot be read."""
    if text.strip() == ALL:
        return Filter({})
    if not text.strip():
        raise InvalidFilter(f"the filter is empty; write `{ALL}` for everything, or one as in {_EXAMPLES}")
    patterns: dict[str, tuple[str, ...]] = {}
    most_bytes = None
    for number, term in enumerate(term.strip() for term in text.split(",")):
        given: dict[str, str] = {}
        match _TERM.fullmatch(term):
            case None if number == 0 and 0 < len(parts := term.split(":")) <= len(_PARTS):
                given = dict(zip(_PARTS, parts, strict=False))
            case re.Match() as found if found[1] == "size" and found[2] == "<=" and most_bytes is None:
                most_bytes = _bytes(text, found[3])
            case re.Match() as found if found[1] in (*_PARTS, "version", "ftype") and found[2] == "=":
                given = {found[1]: found[3]}
            case _:
                raise InvalidFilter(f"the filter {text!r} has the term {term!r}, expected one as in {_EXAMPLES}")
        for field, value in given.items():
            alternatives = tuple(value.split("|"))
            if field in patterns or not all(map(_PATTERN.fullmatch, alternatives)):
                wrong = "appears twice" if field in patterns else f"is {value!r}, expected a pattern"
                raise InvalidFilter(f"in the filter {text!r} {field} {wrong}; write it as in {_EXAMPLES}")
            patterns[field] = alternatives
    return Filter(patterns, most_bytes)


def _bytes(text: str, size: str) -> int:
    found = _SIZE.fullmatch(size)
    if not found:
        raise InvalidFilter(f"in the filter {text!r} the size is {size!r}, expected one such as 500MB or 2GiB")
    base, power = 1024 if found[3] else 1000, " KMGT".index(found[2] or " ")
    return int(found[1]) * int(base**power)


def chosen(files: Mapping[ImageKey, int], filters: Sequence[Filter], keep: int | None = None) -> set[ImageKey]:
    """Return the files to take out of these, which have their sizes in bytes.

    A version is taken when a filter takes one of its roots or its unified tarball. `keep` limits each product to the
    newest of those versions, in the order of clients.
    """
    kinds = {image: file_kinds.classify(image.file) for image in files}
    taken: dict[VersionId, set[ImageKey]] = defaultdict(set)
    for image, kind in kinds.items():
        is_image = kind.role in (Role.ROOT, Role.UNIFIED)
        if is_image and any(one.takes(image, kind.ftype, files[image]) for one in filters):
            taken[image.version].add(image)
    names: dict[ProductId, list[str]] = defaultdict(list)
    for version in taken:
        names[version.product].append(version.version)
    newest = {VersionId(product, name) for product in names for name in sorted(names[product], reverse=True)[:keep]}
    come = set()
    for image, kind in kinds.items():
        roots = taken[image.version] if image.version in newest else set()
        ftypes = {kinds[root].ftype for root in roots}
        if kind.role is Role.DELTA:
            belongs = kind.ftype.removesuffix(".vcdiff") in ftypes
        else:
            belongs = image in roots if kind.role in (Role.ROOT, Role.UNIFIED) else bool(roots)
        if belongs:
            come.add(image)
    return come
