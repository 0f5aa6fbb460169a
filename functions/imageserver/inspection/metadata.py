"""The small files that say something about an image: metadata.json, image.yaml, metadata.yaml, SHA256SUMS.

All of them come from strangers. They are read whole, so each has a limit; YAML is refused when it uses
aliases or nests deeply, before anything is built from it.
"""

import json
import re
from collections.abc import Callable
from datetime import date
from typing import Any, Final

import msgspec

from imageserver.errors import InvalidUpload
from imageserver.format import architectures
from imageserver.format.keys import ProductId

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""Largest metadata.json, image.yaml, metadata.yaml or SHA256SUMS that is read."""
MAX_YAML_BYTES: Final = 256 * 1024
"""Of those, the largest that is YAML: each byte of it can cost 180 while it is parsed. Usual ones have some KiB."""
_MAX_DEPTH: Final = 32
_MAX_TEXT: Final = 200
_MAX_PLAIN: Final = 4096
"""Longest unquoted YAML value. One of digits and colons is read as a number to base 60, in quadratic time."""
_MOST_WHOLE: Final = 1 << 63
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_MOST: Final = 100
"""Aliases or requirements of one file; the catalog that every client fetches carries them all."""
_MOST_NOTICES: Final = 20
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/~-]*")
_SUM_LINE = re.compile(r"\\?([0-9A-Fa-f]{64}) [ *](?:\./)?(.+)")


class Overrides(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a publisher wants to be different from what the path says. Empty or None means not given."""

    os: str = ""
    release_title: str = ""
    release_codename: str = ""
    variant: str = ""
    version: str = ""
    label: str = ""
    aliases: tuple[str, ...] = ()
    requirements: dict[str, str] = {}
    supported: bool | None = None
    support_eol: str = ""
    retain_versions: int | None = None
    retain_days: int | None = None

    def over(self, weaker: "Overrides") -> "Overrides":
        """These overrides, and those of `weaker` where these say nothing; aliases of both."""
        mine = {f: v for f in self.__struct_fields__ if (v := getattr(self, f)) not in ("", (), {}, None)}
        mine["aliases"] = tuple(dict.fromkeys((*self.aliases, *weaker.aliases)))
        return msgspec.structs.replace(weaker, **mine)


class Parsed(msgspec.Struct, frozen=True):
    """Overrides, and a sentence about each thing in the file that was ignored."""

    overrides: Overrides
    ignored: tuple[str, ...]


def parse_metadata_json(body: bytes) -> Parsed:
    """Read a metadata.json. Never raises: what does not parse is reported in `ignored`, the rest applies."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Parsed(Overrides(), (f"it is not JSON ({error}): all of it is ignored",))
    if not isinstance(document, dict):
        return Parsed(Overrides(), (f"it holds a {_kind(document)}, expected an object: all of it is ignored",))
    return _overrides(document)


def parse_image_yaml(body: bytes, product: ProductId) -> Parsed:
    """Read the `simplestream` section of an image.yaml as lxd-imagebuilder writes it. Never raises.

    `distro_name` is the os; `release_aliases` maps a release to other names of it, comma-joined; each item
    of `requirements` may carry the filters `releases`, `architectures` and `variants`.
    """
    try:
        document = _load_yaml(body)
    except InvalidUpload as refusal:
        return Parsed(Overrides(), (f"it {refusal}: all of it is ignored",))
    section = document.get("simplestream") if isinstance(document, dict) else None
    if not isinstance(section, dict):
        return Parsed(Overrides(), ())
    wanted: dict[str, Any] = {}
    ignored: list[str] = []
    if "distro_name" in section:
        wanted["os"] = section["distro_name"]
    if "release_aliases" in section:
        wanted["aliases"] = _release_aliases(section["release_aliases"], product, ignored)
    if "requirements" in section:
        wanted["requirements"] = _imagebuilder_requirements(section["requirements"], product, ignored)
    parsed = _overrides(wanted)
    return Parsed(parsed.overrides, _first(ignored) + parsed.ignored)


def check_metadata_yaml(body: bytes, arch: str) -> tuple[str, ...]:
    """Check the metadata.yaml of an image against the architecture of its folder; returns warnings.

    InvalidUpload (the message completes "its metadata.yaml …") when it does not parse or is another
    architecture's: a client would list the image and then fail to start it.
    """
    document = _load_yaml(body)
    if not isinstance(document, dict):
        raise InvalidUpload(f"is a {_kind(document)}, expected a mapping with `architecture`")
    found = document.get("architecture")
    if not isinstance(found, str) or architectures.canonical(found) is None:
        raise InvalidUpload(f"says `architecture: {_short(found)}`, expected one that clients know, such as x86_64")
    if architectures.canonical(found) != architectures.canonical(arch):
        raise InvalidUpload(
            f"says `architecture: {found}`, expected {architectures.canonical(arch)} as the folder `{arch}` "
            "says; upload it under its own architecture or build it again"
        )
    created = document.get("creation_date")
    if not isinstance(created, int) or isinstance(created, bool) or created <= 0:
        return (f"its metadata.yaml says `creation_date: {_short(created)}`, expected seconds since 1970: "
                "LXD and Incus refuse to import such an image",)  # fmt: skip
    return ()


def parse_checksums(body: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read a SHA256SUMS as `sha256sum` writes it: file -> lower-case hex digest, and what was ignored."""
    sums: dict[str, str] = {}
    ignored: list[str] = []
    for number, line in enumerate(body.decode("utf-8", "replace").splitlines(), start=1):
        match = _SUM_LINE.fullmatch(line.strip())
        if match:
            sums[match[2]] = match[1].lower()
        elif line.strip() and len(ignored) < 10:
            ignored.append(f"line {number} is {_short(line)}, expected a sha256, two spaces and a file name")
    return sums, tuple(ignored)


def _load_yaml(body: bytes) -> Any:
    """Parse YAML without aliases and deep nesting; InvalidUpload completes "the file …"."""
    import yaml  # here, since most functions never need it and all of them would start later

    # A megabyte of YAML takes the loader in C two seconds, the one in Python twenty.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(body) > MAX_YAML_BYTES:
        raise InvalidUpload(f"has {len(body):,} bytes, expected at most {MAX_YAML_BYTES:,}")
    try:
        depth = 0
        for event in yaml.parse(body, Loader=loader):  # builds nothing yet
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.ScalarEvent) and not event.style and len(event.value) > _MAX_PLAIN:
                found = f"{len(event.value):,} characters, expected at most {_MAX_PLAIN:,}"
                raise InvalidUpload(f"has an unquoted value of {found}; put it in quotes")
            if isinstance(event, yaml.AliasEvent):
                raise InvalidUpload("uses YAML aliases, which can explode; write the values out")
            tag = getattr(event, "tag", None)
            if tag not in (None, _TEXT_TAG):
                raise InvalidUpload(f"uses the YAML tag {_short(tag)}; leave it out, values tell their kind")
            if depth > _MAX_DEPTH:
                raise InvalidUpload(f"nests deeper than {_MAX_DEPTH} levels")
        return yaml.load(body, Loader=loader)  # noqa: S506  (a safe loader, in C where there is one)
    except yaml.MarkedYAMLError as error:
        raise InvalidUpload(f"is not YAML ({_where(error)})") from error
    # What the loader lets through when a value is not what it looks like; a version must never get stuck on it.
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InvalidUpload(f"is not YAML ({_short(str(error))})") from error


def _where(error: Any) -> str:
    mark = error.problem_mark or error.context_mark
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{error.problem or error.context}{place}"


def _overrides(document: dict[str, Any]) -> Parsed:
    """Take each known key by its own rule; a key whose value does not fit is ignored alone."""
    fields: dict[str, Any] = {}
    ignored: list[str] = []
    for key, value in document.items():
        read = _FIELDS.get(key)
        if read is None:
            ignored.append(f"the key {_short(key)} has no meaning here: ignored")
            continue
        try:
            fields[key] = read(value, ignored)
        except ValueError as error:
            ignored.append(f"{key} is {_short(value)}, expected {error}: ignored")
    return Parsed(Overrides(**fields), _first(ignored))


def _first(ignored: list[str]) -> tuple[str, ...]:
    """As many of the sentences as anybody reads; a record is no place for a million of them."""
    more = len(ignored) - _MOST_NOTICES
    return (*ignored[:_MOST_NOTICES], f"{more:,} more things in it are ignored") if more > 0 else tuple(ignored)


def _text(value: object, _ignored: list[str]) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.strip()) <= _MAX_TEXT:
        raise ValueError(f"a text of 1 to {_MAX_TEXT} printable characters")
    return value.strip()


def _aliases(value: object, ignored: list[str]) -> tuple[str, ...]:
    """A list or a comma-joined string; an alias that no client could use is ignored alone."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("a list or a comma-joined string of aliases")
    taken: dict[str, None] = {}
    for part in parts:
        alias = part.strip() if isinstance(part, str) else ""
        if _ALIAS.fullmatch(alias) and len(alias) <= _MAX_TEXT:
            taken[alias] = None
        else:
            ignored.append(f"the alias {_short(part)} is ignored: expected letters, digits, '.', '_', '-', '~', '/'")
    if len(taken) > _MOST:
        ignored.append(f"it has {len(taken):,} aliases, expected at most {_MOST}: the others are ignored")
    return tuple(taken)[:_MOST]


def _requirements(value: object, ignored: list[str]) -> dict[str, str]:
    """Strings, as clients insist on; a boolean or a number is written out (`false`)."""
    if not isinstance(value, dict):
        raise ValueError("an object of texts")
    taken: dict[str, str] = {}
    for name, wish in value.items():
        text = str(wish).lower() if isinstance(wish, bool) else _written(wish)
        whole = isinstance(wish, int) and abs(wish) < _MOST_WHOLE
        fits = (isinstance(wish, str) or whole) and text.isprintable() and len(text) <= _MAX_TEXT
        if isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MAX_TEXT and fits:
            taken[name] = text
        else:
            ignored.append(f"the requirement {_short(name)} is {_short(wish)}, expected a text: ignored")
    if len(taken) > _MOST:
        ignored.append(f"it has {len(taken):,} requirements, expected at most {_MOST}: the others are ignored")
    return dict(list(taken.items())[:_MOST])


def _flag(value: object, _ignored: list[str]) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _day(value: object, _ignored: list[str]) -> str:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            pass
    raise ValueError("a real date as YYYY-MM-DD")


def _count(value: object, _ignored: list[str]) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise ValueError("a whole number from 0 (keep all) on")
    return value


_FIELDS: Final[dict[str, Callable[[object, list[str]], Any]]] = {
    "os": _text,
    "release_title": _text,
    "release_codename": _text,
    "variant": _text,
    "version": _text,
    "label": _text,
    "aliases": _aliases,
    "requirements": _requirements,
    "supported": _flag,
    "support_eol": _day,
    "retain_versions": _count,
    "retain_days": _count,
}


def _release_aliases(value: object, product: ProductId, ignored: list[str]) -> list[str]:
    if not isinstance(value, dict):
        ignored.append(f"release_aliases is {_short(value)}, expected a mapping: ignored")
        return []
    others = value.get(product.release, "")
    if not isinstance(others, str):
        ignored.append(f"release_aliases of {product.release} is {_short(others)}, expected a text: ignored")
        return []
    aliases = []
    for other in filter(None, (part.strip() for part in others.split(","))):
        aliases.append(f"{product.os}/{other}/{product.variant}")
        if product.variant == "default":
            aliases.append(f"{product.os}/{other}")
    return aliases


def _imagebuilder_requirements(value: object, product: ProductId, ignored: list[str]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        ignored.append(f"requirements is {_short(value)}, expected a list: ignored")
        return {}
    wanted: dict[str, Any] = {}
    filters = {"releases": product.release, "architectures": product.arch, "variants": product.variant}
    for item in value:
        requirements = item.get("requirements") if isinstance(item, dict) else None
        if not isinstance(requirements, dict):
            ignored.append(f"the requirement {_short(item)} has no mapping `requirements`: ignored")
        elif all(not item.get(name) or ours in _list(item[name]) for name, ours in filters.items()):
            wanted |= requirements
    return wanted


def _list(value: object) -> list[Any]:
    """A list, or the one thing that stands where a list should."""
    return value if isinstance(value, list) else [value]


def _kind(value: object) -> str:
    return {dict: "mapping", list: "list", str: "text", type(None): "null"}.get(type(value), type(value).__name__)


def _short(value: object) -> str:
    text = _written(value, ascii) if not isinstance(value, str) else ascii(value[:_MAX_TEXT])
    return text if len(text) <= 80 else f"{text[:79]}…"


def _written(value: object, write: Callable[[object], str] = str) -> str:
    try:
        return write(value)
    except ValueError:  # Python writes no number of more than 4,300 digits; YAML reads one from hexadecimal ones
        return "a number of thousands of digits"
