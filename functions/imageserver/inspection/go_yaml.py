"""YAML as LXD, Incus and lxd-imagebuilder read it: Go's yaml packages decoding into typed fields.

The field, not the look of a value, decides what the value may be: a text field takes `24.04`, `on` or `0x10` as
written, and a number field takes no quoted number. Nothing is converted before a field asks for it. The rules are those
of gopkg.in/yaml.v2, which every LXD and Incus before 7.0 use. What only go.yaml.in/yaml/v4 of Incus 7.0 refuses is
reported separately (`Reader.newer`). Aliases and merge keys are followed, within limits.
"""

import base64
import binascii
import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from imageserver.errors import InvalidUpload
from imageserver.format.wording import escaped, quoted

MAX_BYTES: Final = 1024 * 1024
"""Largest document: Incus and LXD read no more than this of a metadata.yaml."""
MAX_VALUES: Final = 50_000
"""Values of one document; those of an alias count each time it is used. One value takes some 300 bytes of memory."""
MAX_DEPTH: Final = 32
_LONGEST_NUMBER: Final = 64
_LARGEST: Final = (1 << 63) - 1
_TAG: Final = "tag:yaml.org,2002:"
_SHOWN: Final = 60

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE: Final = frozenset(("true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON"))
_FALSE: Final = frozenset(("false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF"))
_INTEGER: Final = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CLOCK: Final = r"(?:[01]?[0-9]|2[0-3]):[0-5]?[0-9]:[0-5]?[0-9](?:[.,][0-9]+)?"
_ZONE: Final = r"(?:Z|[-+](?:[01][0-9]|2[0-4]):(?:[0-5][0-9]|60))"
_DATE: Final = re.compile(
    rf"([0-9]{{4}})-(0?[1-9]|1[0-2])-(0?[1-9]|[12][0-9]|3[01])(?:[Tt]{_CLOCK}{_ZONE}| +{_CLOCK})?", re.ASCII
)
_YEARS_ALIKE: Final = 400  # the calendar repeats

Type = Literal["mapping", "list", "text", "number", "fraction", "true or false", "date", "null"]


@dataclass(slots=True, eq=False)
class Node:
    """One value as written.

    Keys and values alternate in the children of a mapping; an alias is replaced by its target. `earlier` is the value
    that the same key had before, where it appears twice or is merged too.
    """

    kind: Literal["mapping", "list", "scalar"]
    line: int
    tag: str = ""
    text: str = ""
    quoted: bool = False
    children: list["Node"] = field(default_factory=list)
    values: int = 1
    is_open: bool = False
    earlier: "Node | None" = None

    def given(self) -> list["Node"]:
        """Return each value that the key has, the last one last. yaml.v2 decodes all of them, one over the other."""
        values: list[Node] = []
        node: Node | None = self
        while node:
            values.append(replace(node, earlier=None) if node.earlier else node)
            node = node.earlier
        return values[::-1]

    @property
    def type(self) -> Type:
        """The type that Go sees. Raise InvalidUpload if its tag says another type, because no field takes that."""
        if self.kind != "scalar":
            return self.kind
        tag = self.tag.removeprefix(_TAG) if self.tag.startswith(_TAG) else ""
        if tag in ("str", "binary") or (self.tag and not tag) or (self.quoted and not tag):
            return "text"
        found = _plain_type(self.text)
        allowed = {"int": ("number",), "float": ("number", "fraction"), "bool": ("true or false",), "null": ("null",)}
        wanted = allowed.get(tag, ("date",) if tag == "timestamp" else (found,))
        if found not in wanted:
            raise InvalidUpload(
                f"gives {quoted(self.text, _SHOWN)} in line {self.line} the tag !!{tag}, which it is not"
            )
        return found


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """The first document of a file, and whether anything follows it, which most clients ignore."""

    root: Node | None
    has_more: bool


@dataclass(slots=True)
class Reader:
    """Decodes nodes into fields, and collects a sentence for each mismatch instead of stopping at it.

    A field that is not there (None) counts as null. `mismatches` are values that no client takes. `newer`, and
    duplicate keys in `twice`, are what only Incus 7.0 and later refuse. Of several values of a key, the last one
    counts, but each must have the right type. Paths are written for people: `templates./etc/hostname.when`.
    """

    mismatches: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    def text(self, node: Node | None, path: str) -> str | None:
        """Return the text of a scalar as written, empty for null; None for a list or a mapping."""
        return [self._text(one, path) for one in node.given()][-1] if node else ""

    def _text(self, node: Node, path: str) -> str | None:
        if node.kind != "scalar":
            self._mismatch(node, path, "a text")
            return None
        found = node.type
        if found == "null":
            return ""
        if found == "date":
            self.newer.append(f"the date {escaped(node.text, _SHOWN)} at `{path}` in line {node.line} is not in quotes")
        self._note_old_word(node, path)
        if node.tag != f"{_TAG}binary":
            return node.text
        try:
            return base64.b64decode("".join(node.text.split()), validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError) as error:
            raise InvalidUpload(f"has !!binary data in line {node.line} that is not base64") from error

    def number(self, node: Node | None, path: str, expected: str) -> int | None:
        """Return a whole number of 64 bits; 0 for null."""
        return [self._number(one, path, expected) for one in node.given()][-1] if node else 0

    def _number(self, node: Node, path: str, expected: str) -> int | None:
        if (found := node.type) == "null":
            return 0
        value = _number(node.text) if found in ("number", "fraction") else None
        if value is None or not -_LARGEST - 1 <= value <= _LARGEST:
            self._mismatch(node, path, expected)
            return None
        if value != int(value):
            self.newer.append(f"{escaped(node.text, _SHOWN)} at `{path}` in line {node.line} is no whole number")
        return int(value)

    def flag(self, node: Node | None, path: str) -> bool | None:
        """Return true or false, in any of the words of YAML 1.1; False for null."""
        return [self._flag(one, path) for one in node.given()][-1] if node else False

    def _flag(self, node: Node, path: str) -> bool | None:
        if node.type not in ("true or false", "null"):
            self._mismatch(node, path, "true or false without quotes")
            return None
        self._note_old_word(node, path)
        return node.text in _TRUE

    def items(self, node: Node | None, path: str, what: str) -> list[Node]:
        """Return the values of a list; none for null."""
        if node is None or node.type == "null":
            return []
        if node.kind != "list":
            self._mismatch(node, path, what)
            return []
        return node.children

    def texts(self, node: Node | None, path: str) -> list[str]:
        """Return a list of texts."""
        read: list[str | None] = []
        for one in node.given() if node else ():
            items = self.items(one, path, "a list of texts")
            read = [self.text(item, f"{path}[{place}]") for place, item in enumerate(items)]
        return [text for text in read if text is not None]

    def entries(self, node: Node | None, path: str, what: str = "a mapping") -> dict[str, Node]:
        """Return key -> value of a mapping, merge keys included; none for null. Keys are texts as written.

        The entries of an earlier mapping under the same key stay, as in yaml.v2, until null removes them.
        """
        entries: dict[str, Node] = {}
        for one in node.given() if node else ():
            if one.type == "null":
                entries = {}
            elif one.kind != "mapping":
                self._mismatch(one, path, what)
            else:
                for name, value in self._pairs(one, path):
                    earlier = entries.get(name)
                    entries[name] = replace(value, earlier=earlier) if earlier and earlier is not value else value
        return entries

    def text_map(self, node: Node | None, path: str) -> dict[str, str]:
        """Return a mapping of texts to texts."""
        read: dict[str, str | None] = {}
        for one in node.given() if node else ():
            entries = self.entries(one, path, "a mapping of texts")
            new = {name: self.text(value, joined(path, name)) for name, value in entries.items()}
            read = {} if one.type == "null" else read | new
        return {name: text for name, text in read.items() if text is not None}

    def _pairs(self, node: Node, path: str) -> Iterator[tuple[str, Node]]:
        """Return name and value of each entry, merged entries first.

        Raise InvalidUpload for a merge key after a value of the same name: yaml.v2 takes the merged value, later
        versions the other.
        """
        own: list[tuple[str, Node]] = []
        before: dict[str, Node] = {}
        merges = 0
        for key, value in zip(node.children[::2], node.children[1::2], strict=True):
            if key.kind == "scalar" and key.text == "<<" and not key.quoted and not key.tag:
                merges += 1
                if merges == 2:
                    self._note_twice("<<", path, key)
                for merged in _merged(value):
                    for inner, below in self._pairs(merged, path):
                        if (other := before.get(inner, below)) is not below and not _are_equal_scalars(other, below):
                            raise InvalidUpload(
                                f"gives `{joined(path, inner)}` in line {other.line} and merges another behind it in "
                                f"line {key.line}, of which clients take different ones; move `<<` to the front"
                            )
                        yield inner, below
            elif (name := self.text(key, f"a key of {path}" if path else "a key")) is not None:
                if name in before:
                    self._note_twice(name, path, value)
                own.append((name, value))
                before[name] = value
        yield from own

    def _note_twice(self, name: str, path: str, again: Node) -> None:
        self.twice.append(f"`{joined(path, name)}` appears twice, again in line {again.line}")

    def _note_old_word(self, node: Node, path: str) -> None:
        if node.tag == f"{_TAG}bool" and node.text.lower() not in ("true", "false"):
            self.newer.append(f"{node.text} at `{path}` in line {node.line} has the tag !!bool")

    def _mismatch(self, node: Node, path: str, expected: str) -> None:
        self.mismatches.append(f"{shown(node)} at `{path or 'the top'}` in line {node.line}, expected {expected}")


def load(body: bytes) -> YamlDocument:
    """Parse the first document. Raise InvalidUpload (completing "the file …") if it is not YAML or exceeds a limit."""
    import yaml  # imported here: most functions never need it, and all would start later

    if len(body) > MAX_BYTES:
        raise InvalidUpload(f"has {len(body):,} bytes, expected at most {MAX_BYTES:,}")
    # A megabyte of YAML takes the parser in C two seconds, the one in Python twenty.
    events = yaml.parse(body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        root = _compose(events)
        try:
            has_more = not isinstance(next(events, None), (yaml.StreamEndEvent, type(None)))
        except yaml.YAMLError:  # something follows that is not valid
            has_more = True
        return YamlDocument(root, has_more)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidUpload(f"is not YAML ({error.problem or error.context}{place})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidUpload(f"is not YAML ({' '.join(str(error).split())[:200]})") from error


def shown(node: Node) -> str:
    """Describe a value in a sentence: `the text 'never'`, `a list`."""
    found = node.type
    if node.kind != "scalar" or found == "null":
        return f"a {found}" if found != "null" else "nothing (null)"
    text = quoted(node.text, _SHOWN)
    return f"the {'number' if found == 'fraction' else found if found != 'true or false' else 'word'} {text}"


def _compose(events: Iterator[Any]) -> Node | None:
    """Build the first document from the parser's events; None if the file has none."""
    import yaml

    anchors: dict[str, Node] = {}
    open_nodes: list[Node] = []
    values = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if event.version not in (None, (1, 1)):
                version = ".".join(map(str, event.version))
                raise InvalidUpload(f"has the directive `%YAML {version}`, expected 1.1 or none: clients refuse it")
            continue
        if isinstance(event, (yaml.StreamStartEvent, yaml.StreamEndEvent)):
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            node = open_nodes.pop()
            node.is_open = False
        else:
            node = _begun(event, anchors)
            values += node.values
            if values > MAX_VALUES:
                raise InvalidUpload(f"holds more than {MAX_VALUES:,} values, those behind its aliases included")
        if node.is_open:
            open_nodes.append(node)
            if len(open_nodes) > MAX_DEPTH:
                raise InvalidUpload(f"nests deeper than {MAX_DEPTH} levels")
        elif open_nodes:
            open_nodes[-1].children.append(node)
            open_nodes[-1].values += node.values
        else:
            next(events)  # the end of the document
            return node
    return None


def _begun(event: Any, anchors: dict[str, Node]) -> Node:
    """Return a node of a scalar, of a collection that is still open, or behind an alias. Note its anchor."""
    import yaml

    line, anchor = event.start_mark.line + 1, event.anchor
    if isinstance(event, yaml.AliasEvent):
        target = anchors.get(anchor)
        if target is None or target.is_open:
            why = " inside itself, which never ends" if target else ", which nothing before it defines"
            raise InvalidUpload(f"uses the alias *{escaped(anchor, _SHOWN)} in line {line}{why}")
        return target
    tag = event.tag or ""
    if isinstance(event, yaml.ScalarEvent):
        node = Node("scalar", line, f"{_TAG}str" if tag == "!" else tag, event.value, quoted=bool(event.style))
    else:
        node = Node("mapping" if isinstance(event, yaml.MappingStartEvent) else "list", line, tag, is_open=True)
    if anchor:
        anchors[anchor] = node
    return node


def _merged(value: Node) -> list[Node]:
    """Return the mappings that a merge key names, the strongest last."""
    merged = [value] if value.kind == "mapping" else value.children[::-1]
    if value.kind == "scalar" or any(node.kind != "mapping" for node in merged):
        raise InvalidUpload(f"merges {shown(value)} in line {value.line}, expected a mapping or a list of mappings")
    return merged


def _are_equal_scalars(one: Node, other: Node) -> bool:
    return one.kind == other.kind == "scalar" and (one.tag, one.quoted, one.text) == (
        other.tag,
        other.quoted,
        other.text,
    )


def _plain_type(text: str) -> Type:
    """Return the type of a scalar without quotes and tag. A date is a real one, in a form that Go's packages parse."""
    if text in _NULL:
        return "null"
    if text in _TRUE or text in _FALSE:
        return "true or false"
    digits = text.replace("_", "") if text[0] in "+-.0123456789" else ""
    if _INTEGER.fullmatch(digits):
        return "number"
    if _FLOAT.fullmatch(digits) or _NOT_FINITE.fullmatch(text):
        return "fraction"
    if not (found := _DATE.fullmatch(text)):
        return "text"
    year, month, day = map(int, found.groups())
    return "date" if day <= calendar.monthrange(year % _YEARS_ALIKE + _YEARS_ALIKE, month)[1] else "text"


def _number(text: str) -> float | int | None:
    """Return the value of a recognised number; None if it is not finite or longer than any that fits."""
    digits = text.replace("_", "")
    if len(digits) > _LONGEST_NUMBER or _NOT_FINITE.fullmatch(text):
        return None
    if not _INTEGER.fullmatch(digits):
        value = float(digits)
        return int(value) if value == value // 1 and abs(value) <= _LARGEST else value
    sign, bare = (-1, digits[1:]) if digits[0] == "-" else (1, digits.lstrip("+"))
    octal = bare[0] == "0" and bare[1:].isdigit()
    return sign * (int(bare, 8) if octal else int(bare, 0))


def joined(path: str, name: str) -> str:
    """Return the path of an entry for people. Its name is the uploader's: it is truncated, and escaped."""
    shown_name = escaped(name, _SHOWN)
    return f"{path}.{shown_name}" if path else shown_name
