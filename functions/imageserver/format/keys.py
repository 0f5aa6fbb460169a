"""Object keys <-> stream, product, version and file.

    images/<os>/<release>/<arch>/<variant>/<version>/<file>

A key that parses here is safe in a URL, in a product name (which joins with ':') and in an alias list
(which joins with ','), and every client sees its product and version. A key that a client would silently skip is
refused with a reason.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from imageserver.errors import InvalidUpload
from imageserver.format import architectures
from imageserver.format.wording import counted, quoted

LAYOUT: Final = "images/<os>/<release>/<arch>/<variant>/<version>/<file>"
RECORDS: Final = "versions/"
LEASES: Final = "leases/"
REQUEST_COUNTS: Final = f"{LEASES}requests/"
FURTHEST_AHEAD: Final = timedelta(days=1)
"""How far a version's date may be ahead of the clock or of its upload: clocks and time zones differ."""
MAX_SEGMENT: Final = 100
"""Longest folder or file name. Seven of them and `versions/` stay below the 1,024 bytes of an S3 key."""

SHORTEST_FINGERPRINT: Final = 6
"""The fewest hex digits that are taken for the start of a fingerprint."""
SHOWN_DIGITS: Final = 12
"""Digits of a fingerprint that clients show."""
_FINGERPRINT = re.compile(rf"[0-9a-fA-F]{{{SHORTEST_FINGERPRINT},64}}")
_STREAM = re.compile(r"images(-[a-z0-9]+)*")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:-]*")
_FOLDERS: Final = ("os", "release", "architecture", "variant")

# The forms of a version name: as shown to people, as a regular expression, and for strptime. A respin (`YYYYMMDD.N`, as
# of cloud images) has the same form as its day, because the two sort correctly in one product.
_VERSION_FORMS: Final[tuple[tuple[str, re.Pattern[str], str], ...]] = (
    ("YYYYMMDD_HHMM", re.compile(r"\d{8}_\d{4}", re.ASCII), "%Y%m%d_%H%M"),
    ("YYYYMMDD_HH:MM", re.compile(r"\d{8}_\d{2}:\d{2}", re.ASCII), "%Y%m%d_%H:%M"),
    ("YYYYMMDDHHMM", re.compile(r"\d{12}", re.ASCII), "%Y%m%d%H%M"),
    ("YYYYMMDD", re.compile(r"\d{8}(\.\d{1,4})?", re.ASCII), "%Y%m%d"),
)
_EXPECTED_FORMS: Final = ", ".join(form for form, _, _ in _VERSION_FORMS) + " or YYYYMMDD.N"


def stream_lease_key(stream: str) -> str:
    """Return the key of the lease that the publisher of a stream holds while it writes the catalog."""
    return f"{LEASES}streams/{stream}.json"


@dataclass(frozen=True, slots=True, order=True)
class ProductId:
    """A product of one stream; the fields are the folders of its key."""

    stream: str
    os: str
    release: str
    arch: str
    variant: str

    @property
    def name(self) -> str:
        """The key of the product in the catalog: `ubuntu:xenial:amd64:default`."""
        return f"{self.os}:{self.release}:{self.arch}:{self.variant}"

    @property
    def path(self) -> str:
        """`images/ubuntu/xenial/amd64/default`."""
        return f"{self.stream}/{self.os}/{self.release}/{self.arch}/{self.variant}"

    @property
    def records_prefix(self) -> str:
        """The prefix of the records of all its versions, with the final slash."""
        return f"{RECORDS}{self.path}/"

    @property
    def path_aliases(self) -> tuple[str, ...]:
        """The aliases from its path, longest first; no other product of its arch has them."""
        named = (
            f"{self.os}/{self.release}/{self.arch}/{self.variant}",
            f"{self.os}/{self.release}/{self.variant}",
        )
        return (*named, f"{self.os}/{self.release}") if self.variant == "default" else named

    @property
    def current_aliases(self) -> tuple[str, ...]:
        """The aliases without a release, as lxd-imagebuilder gives them to a release named `current`; not exclusive."""
        return tuple(alias for alias in self.release_aliases(self.release) if alias not in self.path_aliases)

    def release_aliases(self, release: str) -> tuple[str, ...]:
        """Return the aliases that lxd-imagebuilder makes of another name for the release (its CreateAliases)."""
        current, default = release == "current", self.variant == "default"
        aliases = [f"{self.os}/{release}/{self.variant}"]
        if current:
            aliases.append(f"{self.os}/{self.variant}")
        if default:
            aliases.append(self.os if current else f"{self.os}/{release}")
        return tuple(aliases)


@dataclass(frozen=True, slots=True, order=True)
class VersionId:
    """One version of a product; `version` is its folder's name."""

    product: ProductId
    version: str

    @property
    def path(self) -> str:
        """`images/ubuntu/xenial/amd64/default/20261123_1000`."""
        return f"{self.product.path}/{self.version}"

    @property
    def prefix(self) -> str:
        """The path with the final slash, as a listing wants it."""
        return f"{self.path}/"

    @property
    def record_key(self) -> str:
        """The key of its record."""
        return f"{RECORDS}{self.path}.json"

    @property
    def lease_key(self) -> str:
        """The key of the lease that a worker holds while it reads the files."""
        return f"{LEASES}{self.path}.json"


@dataclass(frozen=True, slots=True, order=True)
class ImageKey:
    """One file that a publisher uploads."""

    version: VersionId
    file: str

    @property
    def key(self) -> str:
        """The object's key."""
        return self.version.prefix + self.file


Target = ImageKey | VersionId | ProductId
"""The things that can be withdrawn and restored."""


def parse_key(key: str) -> ImageKey:
    """Parse the key of an upload. Raise InvalidUpload, which names the wrong part and what is expected."""
    parts = key.split("/")
    if len(parts) != 7:
        raise InvalidUpload(f"{quoted(key)} has {counted(len(parts), 'part')} between slashes, expected 7: {LAYOUT}")
    version = parse_version("/".join(parts[:6]))
    return ImageKey(version, _checked(parts[6], "file name", key, _FILE))


def is_fingerprint(name: str) -> bool:
    """Return whether a name can be a fingerprint or the start of one, in lower or upper case."""
    return _FINGERPRINT.fullmatch(name) is not None


def without_remote(name: str) -> str:
    """Return `ubuntu/noble` for `mine:ubuntu/noble`, the way clients name an image; any other name as it is."""
    remote, _, image = name.partition(":")
    return name if not image or "/" in remote or ":" in image else image


def takes_fingerprint(alias: str) -> bool:
    """Return whether this alias could hide an image from a client that asks for a fingerprint, or the start of one.

    Clients show twelve digits. A shorter number, such as a date, is taken for an alias.
    """
    return is_fingerprint(alias) and (len(alias) >= SHOWN_DIGITS or not alias.isdecimal())


def check_file(file: str) -> None:
    """Raise InvalidUpload if a file's name contains a slash or cannot stand in a URL as it is."""
    _checked(file, "file name", file, _FILE)


def parse_version(path: str) -> VersionId:
    """Parse `images/<os>/<release>/<arch>/<variant>/<version>`. Raise InvalidUpload as parse_key does."""
    product_path, _, version = path.rpartition("/")
    product = parse_product(product_path)
    version_form(version, path)
    return VersionId(product, version)


def parse_product(path: str) -> ProductId:
    """Parse `images/<os>/<release>/<arch>/<variant>`. Raise InvalidUpload as parse_key does."""
    parts = path.split("/")
    if len(parts) != 5:
        raise InvalidUpload(
            f"{quoted(path)} has {counted(len(parts), 'folder')}, expected 5: <stream>/<os>/<release>/<arch>/<variant>"
        )
    stream = parts[0]
    if not _STREAM.fullmatch(stream) or len(stream) > MAX_SEGMENT:
        raise InvalidUpload(
            f"{quoted(path)}: the first folder is {quoted(stream)}, "
            "expected `images` or `images-` and lower-case letters or digits (it names the stream)"
        )
    folders = [_checked(part, what, path, _SEGMENT) for part, what in zip(parts[1:], _FOLDERS, strict=True)]
    product = ProductId(stream, *folders)
    if architectures.canonical(product.arch) is None:
        raise InvalidUpload(
            f"{quoted(path)}: no client knows the architecture {quoted(product.arch)}; "
            f"expected one of {', '.join(architectures.KNOWN)}"
        )
    return product


def parse_target(path: str) -> Target:
    """Return the product, version or file that a path names. Raise InvalidUpload if it names none."""
    parts = path.count("/") + 1
    if not 5 <= parts <= 7:
        raise InvalidUpload(
            f"{quoted(path)} has {counted(parts, 'part')} between slashes, expected 5 for a product, 6 for a version "
            f"or 7 for a file: {LAYOUT}"
        )
    if parts == 5:
        return parse_product(path)
    return parse_version(path) if parts == 6 else parse_key(path)


def path_of(target: Target) -> str:
    """Return the path `images/…` from which a target was parsed."""
    return target.key if isinstance(target, ImageKey) else target.path


def without_file(target: Target) -> VersionId | ProductId:
    """Return the version that a file belongs to; a version or a product as it is."""
    return target.version if isinstance(target, ImageKey) else target


def product_of(target: Target) -> ProductId:
    """Return the product that a target is or belongs to."""
    folder = without_file(target)
    return folder.product if isinstance(folder, VersionId) else folder


def parse_record_key(key: str) -> VersionId:
    """Return the version that a record's key belongs to. Raise InvalidUpload for any other key."""
    if not (key.startswith(RECORDS) and key.endswith(".json")):
        raise InvalidUpload(f"{quoted(key)} is not the key of a record: expected {RECORDS}….json")
    return parse_version(key[len(RECORDS) : -len(".json")])


def product_of_records(key: str) -> ProductId:
    """Return the product of a record's key or of a `records_prefix`. Raise InvalidUpload for any other key."""
    if key.startswith(RECORDS) and key.endswith("/"):
        return parse_product(key[len(RECORDS) : -1])
    return parse_record_key(key).product


def version_of(key: str) -> VersionId:
    """Return the version whose folder holds `key`, whatever the file is called.

    Raise InvalidUpload if there is none.
    """
    return parse_version("/".join(key.split("/")[:6]))


def version_form(version: str, where: str = "") -> str:
    """Return the form of a version's name: `YYYYMMDD_HHMM`, `YYYYMMDD_HH:MM`, `YYYYMMDDHHMM` or `YYYYMMDD`.

    A respin has the form of its day. Raise InvalidUpload for any other name, and for a date or time that does not
    exist: clients silently skip such a version (products.go parses the first eight characters).
    """
    form, moment = _parsed(version)
    if moment:
        return form
    prefix = f"{quoted(where)}: " if where else ""
    if form:
        raise InvalidUpload(
            f"{prefix}the version {quoted(version)} is not a real date and time; expected {form} in UTC"
        )
    raise InvalidUpload(f"{prefix}the version is {quoted(version)}, expected {_EXPECTED_FORMS} such as 20261123_1000")


def version_moment(version: str) -> datetime:
    """Return the date and time (UTC, naive) in a valid version name; for a respin, the start of the day."""
    _, moment = _parsed(version)
    if moment is None:
        raise InvalidUpload(f"the version {quoted(version)} is not a real date and time")
    return moment


def is_ahead(version: str, moment: datetime) -> bool:
    """Return whether a valid version name is dated more than FURTHEST_AHEAD after a moment (time-zone aware)."""
    return version_moment(version).replace(tzinfo=UTC) - moment > FURTHEST_AHEAD


def _parsed(version: str) -> tuple[str, datetime | None]:
    """Return the form of a version's name ("" for none) and its moment (None if no such moment exists)."""
    for form, pattern, layout in _VERSION_FORMS:
        if pattern.fullmatch(version):
            return form, _moment(version.partition(".")[0], layout)
    return "", None


@lru_cache(1024)
def _moment(text: str, layout: str) -> datetime | None:
    """Return the moment that the digits give, None if there is no such moment.

    Cached: many products share version names.
    """
    try:
        return datetime.strptime(text, layout)  # noqa: DTZ007  (no zone; UTC by rule)
    except ValueError:
        return None


def _checked(part: str, what: str, where: str, pattern: re.Pattern[str]) -> str:
    if not part:
        raise InvalidUpload(f"{quoted(where)} has an empty {what}, expected {LAYOUT}")
    if len(part) > MAX_SEGMENT:
        raise InvalidUpload(f"{quoted(where)}: the {what} has {len(part)} characters, expected at most {MAX_SEGMENT}")
    if not pattern.fullmatch(part):
        bad = next((c for c in part if not pattern.fullmatch(f"a{c}")), part[0])
        code = "" if bad.isascii() else f" (U+{ord(bad):04X})"
        place = "begins with" if bad == part[0] and pattern.fullmatch(f"a{bad}") else "contains"
        raise InvalidUpload(
            f"{quoted(where)}: the {what} {quoted(part)} {place} {quoted(bad)}{code}, expected a letter (a to z, in "
            "either case) or digit first and then letters, digits, '.', '_', '-', '~'"
            + (" or ':'" if pattern is _FILE else "")
        )
    return part
