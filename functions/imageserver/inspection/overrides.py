"""Read what a publisher says about a product beyond its path: metadata.json, or lxd-imagebuilder's image.yaml.

Both come from strangers and are read whole, so their size is limited. A value that does not fit is reported and
ignored.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final

import msgspec

from imageserver.errors import InvalidUpload
from imageserver.format.keys import ProductId, takes_fingerprint
from imageserver.format.wording import escaped, quoted
from imageserver.inspection import go_yaml
from imageserver.inspection.go_yaml import Node, Reader

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""Largest metadata.json, image.yaml or SHA256SUMS that is read."""
MAX_OVERRIDES_BYTES: Final = 4096
"""Bytes that one file may add, for each product, to the catalog that every client downloads."""
MOST_DELTAS: Final = 3
"""Deltas that the server makes for one root. One is listed; the others replace it when its base is gone."""
_MAX_TEXT: Final = 200
_MOST_WHOLE: Final = 1 << 63
_MOST: Final = 100
"""Aliases, or requirements, of one file. Every client downloads all of them with the catalog."""
_MOST_NOTICES: Final = 20
# No `.` or `..` between slashes: a rule of prefixes takes `mine/../ubuntu` to be below `mine`.
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]*(?:/(?!\.\.?(?:/|$))[A-Za-z0-9._~-]+)*")
LIKE_A_FINGERPRINT: Final = "clients would take it for the fingerprint of another image"
_REQUIREMENTS: Final = ("secureboot", "cgroup", "nesting", "privileged", "cdrom_agent", "cdrom_cloud_init")
"""What LXD or Incus read of an image (`image.requirements.…` in their drivers); any other name is passed on unread."""
_REQUIREMENT_OF_A_WORD: Final = "cgroup"  # `v1`; each other one is true or false
_FLAG_WORDS: Final = frozenset(("true", "1", "yes", "on", "false", "0", "no", "off"))
"""What IsTrue and IsFalse of both accept, in upper or lower case."""
_DEFINITION: Final = (
    "simplestream", "image", "source", "targets", "files", "packages", "actions", "mappings", "environment"
)  # fmt: skip
"""The sections of an image.yaml, as lxd-imagebuilder and distrobuilder define them."""
_SIMPLESTREAM: Final = ("distro_name", "release_aliases", "requirements")


class Overrides(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a publisher overrides of the values from the path. Empty or None means not given."""

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
    deltas: int | None = None

    def over(self, weaker: "Overrides") -> "Overrides":
        """Return these overrides, filled up from `weaker`, with the aliases of both."""
        mine = {f: v for f in self.__struct_fields__ if (v := getattr(self, f)) not in ("", (), {}, None)}
        mine["aliases"] = tuple(dict.fromkeys((*self.aliases, *weaker.aliases)))
        return msgspec.structs.replace(weaker, **mine)


class Parsed(msgspec.Struct, frozen=True):
    """Overrides, and a sentence about each ignored part of the file."""

    overrides: Overrides
    ignored: tuple[str, ...]


def parse_metadata_json(body: bytes) -> Parsed:
    """Read a metadata.json. Never raise: `ignored` reports what does not parse, and the rest applies.

    A number in place of a text is taken as written, so `24.10` stays `24.10`.
    """
    twice: list[str] = []

    def in_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counted = Counter(key for key, _ in pairs)
        twice.extend(f"{_short(key)} appears twice: the last one counts" for key in counted if counted[key] > 1)
        return dict(pairs)

    try:
        document = json.loads(body, parse_float=str, object_pairs_hook=in_order)
    except (ValueError, RecursionError) as error:
        problem = str(error).partition(";")[0]  # what follows is advice for Python programmers
        return Parsed(Overrides(), (f"it is not JSON ({problem}): all of it is ignored",))
    if not isinstance(document, dict):
        kind = {list: "list", str: "text", type(None): "null"}.get(type(document), type(document).__name__)
        return Parsed(Overrides(), (f"it holds a {kind}, expected an object: all of it is ignored",))
    parsed = _overrides(document)
    return Parsed(parsed.overrides, _first([*twice, *parsed.ignored]))


def parse_image_yaml(body: bytes, product: ProductId) -> Parsed:
    """Read the `simplestream` section of an image.yaml as lxd-imagebuilder writes it. Never raise.

    `distro_name` is the os; `release_aliases` maps a release to its other names, comma-joined; each item of
    `requirements` may have the filters `releases`, `architectures` and `variants`. Every value is a text as written, so
    `noble: 24.04` needs no quotes.
    """
    reader = Reader()
    ignored: list[str] = []
    try:
        document = go_yaml.load(body)
        if document.root is None:
            return Parsed(Overrides(), ("it holds nothing, expected a mapping with `simplestream`: it is ignored",))
        parsed = _overrides(_read_simplestream(reader, document.root, product, ignored))
    except InvalidUpload as refusal:
        return Parsed(Overrides(), (f"it {refusal}: all of it is ignored",))
    if document.has_more:
        ignored.append("more follows its first document, expected one: the rest is ignored")
    mismatched = [f"it has {mismatch}: ignored" for mismatch in reader.mismatches]
    twice = [f"{what}: the last one counts" for what in reader.twice]
    return Parsed(parsed.overrides, _first([*mismatched, *twice, *ignored, *parsed.ignored]))


def _overrides(document: dict[str, Any]) -> Parsed:
    """Parse each known key by its own rule. A value that does not fit loses only its own key."""
    fields: dict[str, Any] = {}
    ignored: list[str] = []
    for key, value in document.items():
        read = _FIELDS.get(key)
        if read is None:
            close = difflib.get_close_matches(key.lower(), _FIELDS, 1, 0.7)
            ignored.append(
                f"the key {_short(key)} has no meaning here{f', expected `{close[0]}`' if close else ''}: ignored"
            )
            continue
        try:
            fields[key] = read(value, ignored)
        except ValueError as error:
            ignored.append(f"{key} is {_short(value)}, expected {error}: ignored")
    overrides = Overrides(**fields)
    size_bytes = len(msgspec.json.encode(overrides))
    if size_bytes > MAX_OVERRIDES_BYTES:
        what = f"what it says about the product takes {size_bytes:,} bytes, expected at most {MAX_OVERRIDES_BYTES:,}"
        what = f"{what}, since every client downloads it: all of it is ignored"
        return Parsed(Overrides(), (what, *ignored))
    return Parsed(overrides, tuple(ignored))


def _first(ignored: list[str]) -> tuple[str, ...]:
    """Return as many sentences as a person would read: a record must not hold a million of them.

    Aliases that look like a fingerprint come first, so that noise cannot hide them.
    """
    ignored = sorted(ignored, key=lambda sentence: LIKE_A_FINGERPRINT not in sentence)
    more = len(ignored) - _MOST_NOTICES
    return (*ignored[:_MOST_NOTICES], f"{more:,} more things in it are ignored") if more > 0 else tuple(ignored)


def _text(value: object, _ignored: list[str]) -> str:
    text = _as_text(value)
    if not text.isprintable() or not 0 < len(text.strip()) <= _MAX_TEXT:
        raise ValueError(f"a text of 1 to {_MAX_TEXT} printable characters")
    return text.strip()


def _as_text(value: object) -> str:
    """Return a text, or a whole number as text; "" for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST_WHOLE
    return value if isinstance(value, str) else str(value) if whole else ""


def _aliases(value: object, ignored: list[str]) -> tuple[str, ...]:
    """Return the aliases of a list or a comma-joined string, without those that no client could use."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("a list or a comma-joined string of aliases")
    taken: dict[str, None] = {}
    for part in parts:
        alias = _as_text(part).strip()
        if takes_fingerprint(alias):
            ignored.append(f"the alias {alias} is ignored: {LIKE_A_FINGERPRINT}")
        elif _ALIAS.fullmatch(alias) and len(alias) <= _MAX_TEXT:
            taken[alias] = None
        else:
            ignored.append(
                f"the alias {_short(part)} is ignored: expected letters, digits, '.', '_', '-', '~', and '/' between"
            )
    if len(taken) > _MOST:
        ignored.append(f"it has {len(taken):,} aliases, expected at most {_MOST}: the others are ignored")
    return tuple(taken)[:_MOST]


def _requirements(value: object, ignored: list[str]) -> dict[str, str]:
    """Return the requirements as texts, which clients insist on; a boolean or a number is written out (`false`)."""
    if not isinstance(value, dict):
        raise ValueError("an object of texts")
    taken: dict[str, str] = {}
    for name, wish in value.items():
        text = str(wish).lower() if isinstance(wish, bool) else _written(wish)
        whole = isinstance(wish, int) and abs(wish) < _MOST_WHOLE
        fits = (isinstance(wish, str) or whole) and text.isprintable() and len(text) <= _MAX_TEXT
        if isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MAX_TEXT and fits:
            taken[name] = text
            if name not in _REQUIREMENTS:
                ignored.append(_unread_requirement(name))
            elif name != _REQUIREMENT_OF_A_WORD and text.lower() not in _FLAG_WORDS:
                ignored.append(
                    f"the requirement {name} is {_short(text)}, expected true or false: no client takes it for either, "
                    "it is listed and has no effect"
                )
        else:
            ignored.append(f"the requirement {_short(name)} is {_short(wish)}, expected a text: ignored")
    if len(taken) > _MOST:
        ignored.append(f"it has {len(taken):,} requirements, expected at most {_MOST}: the others are ignored")
    return dict(list(taken.items())[:_MOST])


def _unread_requirement(name: str) -> str:
    """Report that clients do not read a requirement, and suggest the closest name that they do."""
    plain = re.sub(r"[^a-z]", "", name.lower().removeprefix("requirements."))
    close = difflib.get_close_matches(plain, {known.replace("_", ""): known for known in _REQUIREMENTS}, 1, 0.7)
    meant = next((known for known in _REQUIREMENTS if close and known.replace("_", "") == close[0]), "")
    right = meant if name.lower().startswith("requirements.") else f"requirements.{meant}"
    expected = f"`{right}`" if meant else f"one of {', '.join(_REQUIREMENTS)}"
    return f"no client reads the requirement {_short(name)}, expected {expected}: it is listed and has no effect"


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


def _delta_count(value: object, _ignored: list[str]) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_DELTAS:
        raise ValueError(f"a whole number from 0 (none) to {MOST_DELTAS}")
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
    "deltas": _delta_count,
}


def _read_simplestream(reader: Reader, root: Node, product: ProductId, ignored: list[str]) -> dict[str, Any]:
    """Return the section of an image.yaml under the keys of a metadata.json."""
    top = reader.entries(root, "")
    _tell_unknown(top, _DEFINITION, "", ignored)
    section = reader.entries(top.get("simplestream"), "simplestream")
    _tell_unknown(section, _SIMPLESTREAM, "simplestream.", ignored)
    wanted: dict[str, Any] = {}
    if name := reader.text(section.get("distro_name"), "simplestream.distro_name"):
        wanted["os"] = name
    if "release_aliases" in section:
        names = reader.text_map(section["release_aliases"], "simplestream.release_aliases").get(product.release, "")
        others = filter(None, (part.strip() for part in names.split(",")))
        wanted["aliases"] = [alias for other in others for alias in product.release_aliases(other)]
    if "requirements" in section:
        wanted["requirements"] = _imagebuilder_requirements(reader, section["requirements"], product, ignored)
    return wanted


def _imagebuilder_requirements(reader: Reader, node: Node, product: ProductId, ignored: list[str]) -> dict[str, str]:
    """Return the requirements whose filters match the product. A plain mapping has no filters."""
    path = "simplestream.requirements"
    if node.kind == "mapping":
        return reader.text_map(node, path)
    wanted: dict[str, str] = {}
    filters = {"releases": product.release, "architectures": product.arch, "variants": product.variant}
    for place, item in enumerate(reader.items(node, path, "a list of mappings")):
        below = f"{path}[{place}]"
        entries = reader.entries(item, below)
        _tell_unknown(entries, (*filters, "types", "requirements"), f"{below}.", ignored)
        fits = all(
            not (only := _filter(reader, entries[name], f"{below}.{name}")) or ours in only
            for name, ours in filters.items()
            if name in entries
        )
        requirements = reader.text_map(entries.get("requirements"), f"{below}.requirements")
        if "types" in entries and _filter(reader, entries["types"], f"{below}.types"):
            ignored.append(
                f"{below}.types in line {entries['types'].line}: lxd-imagebuilder applies requirements with this "
                "filter to no product, expected none: ignored"
            )
        elif "requirements" not in entries and item.kind == "mapping":
            ignored.append(f"{below} in line {item.line} has no `requirements`, expected a mapping of texts: ignored")
        elif fits:
            wanted |= requirements
    return wanted


def _filter(reader: Reader, node: Node, path: str) -> list[str]:
    """Return a list of texts; a single text counts as a list of one."""
    if node.kind != "scalar":
        return reader.texts(node, path)
    text = reader.text(node, path)
    return [text] if text else []


def _tell_unknown(entries: Mapping[str, Node], known: Sequence[str], path: str, ignored: list[str]) -> None:
    for name, node in entries.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.7)
            expected = f"`{close[0]}`" if close else f"one of {', '.join(known)}"
            ignored.append(
                f"`{path}{escaped(name, 79)}` in line {node.line} has no meaning, expected {expected}: ignored"
            )


def _short(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(json.dumps(value))  # as it is written
    text = _written(value, repr) if not isinstance(value, str) else quoted(value, _MAX_TEXT)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _written(value: object, write: Callable[[object], str] = str) -> str:
    try:
        return write(value)
    except ValueError:  # Python writes no number of more than 4,300 digits; YAML reads one from hexadecimal ones
        return "a number of thousands of digits"
