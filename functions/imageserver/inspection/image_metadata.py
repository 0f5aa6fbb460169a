"""Check metadata.yaml as the LXD and Incus daemons decode it: `ImageMetadata`, `ImageMetadataTemplate` of shared/api.

A daemon takes the properties of a simplestreams image from the catalog, and reads this file to fill in the templates
when it first starts an instance. If the file does not decode or a template is missing, every launch fails, so both are
refused here. What only Incus 7.0 and later refuse is a warning.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from imageserver.errors import InvalidUpload
from imageserver.format import architectures
from imageserver.format.wording import quoted
from imageserver.inspection import go_yaml
from imageserver.inspection.go_yaml import Node, Reader

_TRIGGERS: Final = frozenset(("create", "copy", "start", "rename"))
"""Events on which a daemon applies a template. A template with none of these is never read."""
_MOST_SHOWN: Final = 5
_WHOLE_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_MODE: Final = re.compile(r"[0-7]{3}|0[0-7]*|0[oO][0-7]+|0[xX][0-9a-fA-F]+|0[bB][01]+|[1-9][0-9]*", re.ASCII)
_SECONDS: Final = "a whole number without quotes (seconds since 1970)"


def check_metadata_yaml(body: bytes, arch: str, templates: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Check the metadata.yaml of an image against the architecture of its folder; return warnings.

    `templates` maps the names below `templates/` in the same tarball to why a daemon cannot apply that one, empty if it
    can; None if the tarball was not searched. Raise InvalidUpload (completing "holds a metadata.yaml that …") if a
    client could not decode it, could not apply one of its templates, or would start an image of another architecture.
    """
    document = go_yaml.load(body)
    if document.root is None or document.root.kind != "mapping":
        found = "is empty" if document.root is None else f"is {go_yaml.shown(document.root)}"
        raise InvalidUpload(f"{found}, expected a mapping with `architecture`")
    reader = Reader()
    fields = reader.entries(document.root, "")
    _check_types(reader, fields)
    if reader.mismatches:
        more = len(reader.mismatches) - _MOST_SHOWN
        several = "; ".join(reader.mismatches[:_MOST_SHOWN]) + (f"; and {more:,} more" if more > 0 else "")
        raise InvalidUpload(f"has {several}: LXD and Incus cannot read it and start no instance")
    if document.has_more:
        reader.newer.append("more follows its first document, which all other clients ignore")
    warnings = _check_architecture(reader, fields, arch)
    for target, node, entries in _applied_templates(reader, fields):
        below = go_yaml.joined("templates", target)
        names = ("template", "uid", "gid", "mode")
        texts = {name: reader.text(entries.get(name), f"{below}.{name}") or "" for name in names}
        if problem := _template_problem(target, texts, templates):
            raise InvalidUpload(f"{problem} (`{below}` in line {node.line}): every launch would fail; build it again")
    newer = dict.fromkeys([*reader.newer, *reader.twice])
    newest = [f"Incus 7.0 and later start no instance of it, since in its metadata.yaml {what}" for what in newer]
    return (*warnings, *newest[:_MOST_SHOWN])


def needed_templates(body: bytes) -> frozenset[str]:
    """Return the names below `templates/` that a daemon reads when it starts an instance.

    An unreadable metadata.yaml has none; check_metadata_yaml reports it.
    """
    reader = Reader()
    with suppress(InvalidUpload):
        root = go_yaml.load(body).root
        return frozenset(
            reader.text(entries["template"], "template") or ""
            for _, _, entries in _applied_templates(reader, reader.entries(root, ""))
            if "template" in entries
        )
    return frozenset()


def _check_types(reader: Reader, fields: Mapping[str, Node]) -> None:
    """Decode every field that clients decode, used here or not."""
    for name in ("creation_date", "expiry_date"):
        reader.number(fields.get(name), name, _SECONDS)
    reader.text(fields.get("architecture"), "architecture")
    reader.text_map(fields.get("properties"), "properties")
    templates = fields.get("templates")
    for every in templates.given() if templates else ():
        for path, template in reader.entries(every, "templates").items():
            *_, last = given = template.given()  # each in a struct of its own: nothing of an earlier one stays
            below = go_yaml.joined("templates", path)
            for one in given:
                _check_template(reader, one, below)
            if last.type == "null":  # a nil pointer in Go: the daemon panics
                reader.mismatches.append(f"{go_yaml.shown(last)} at `{below}` in line {last.line}, expected a mapping")


def _check_template(reader: Reader, template: Node, below: str) -> None:
    entries = reader.entries(template, below)
    for name in ("template", "uid", "gid", "mode"):
        reader.text(entries.get(name), f"{below}.{name}")
    reader.texts(entries.get("when"), f"{below}.when")
    reader.flag(entries.get("create_only"), f"{below}.create_only")
    reader.text_map(entries.get("properties"), f"{below}.properties")


def _check_architecture(reader: Reader, fields: Mapping[str, Node], arch: str) -> tuple[str, ...]:
    """Raise InvalidUpload if the image is for another machine than its folder says; return warnings."""
    wanted = architectures.canonical(arch)
    found = reader.text(fields.get("architecture"), "architecture")
    line = f" in line {fields['architecture'].line}" if found else ""
    if not found:
        raise InvalidUpload(f"says no `architecture`, expected {wanted} as the folder `{arch}` says")
    if architectures.canonical(found) is None:
        raise InvalidUpload(
            f"says `architecture: {_text(found)}`{line}, expected one that clients know, such as {wanted}"
        )
    if architectures.canonical(found) != wanted:
        raise InvalidUpload(
            f"says `architecture: {found}`{line}, expected {wanted} as the folder `{arch}` says; upload it under "
            "its own architecture or build it again"
        )
    properties = reader.entries(fields.get("properties"), "properties")
    own = reader.text(properties.get("architecture"), "properties.architecture")
    if not own:
        return ()
    if architectures.canonical(own) is None:
        found = f"its metadata.yaml says `properties.architecture: {_text(own)}`"
        return (f"{found}, which no client knows; the folder says {arch}",)
    if architectures.canonical(own) != wanted:
        raise InvalidUpload(
            f"says `properties.architecture: {own}` and `architecture: {found}`, expected one machine: `incus image "
            "list` and a copied image show the first; build it again"
        )
    return ()


def _applied_templates(reader: Reader, fields: Mapping[str, Node]) -> Iterator[tuple[str, Node, Mapping[str, Node]]]:
    """Yield target, node and entries of each template that some event makes a daemon apply."""
    for path, node in reader.entries(fields.get("templates"), "templates").items():
        below = go_yaml.joined("templates", path)
        entries = reader.entries(node.given()[-1], below)
        if _TRIGGERS.intersection(reader.texts(entries.get("when"), f"{below}.when")):
            yield path, node, entries


def _template_problem(target: str, texts: Mapping[str, str], files: Mapping[str, str] | None) -> str:
    """Return what a daemon would fail on, completing "metadata.yaml …"; empty if nothing.

    `target` is the path of the file that the template becomes. A current daemon opens it within the root and fails
    where it leads out. An older one joins the two, and would write to its own host.
    """
    within = posixpath.normpath(target.lstrip("/"))
    if within == "." or within.split("/")[0] == "..":
        expected = "the path of a file" if within == "." else "a path inside the root"
        return f"makes a file {_text(target)} of a template, expected {expected}"
    name = texts["template"]
    if not name or "/" in name or name in (".", ".."):
        return f"names the template {_text(name)}, expected the name of a file in templates/"
    if files is not None and name not in files:
        return f"names the template {_text(name)}, expected a file templates/{name} in the same tarball, which has none"
    if files is not None and files[name]:
        return f"names the template {_text(name)}, which {files[name]}"
    for owner in ("uid", "gid"):
        if texts[owner] and not _WHOLE_NUMBER.fullmatch(texts[owner]):
            return f"gives a template the {owner} {_text(texts[owner])}, expected a number"
    if texts["mode"] and not _MODE.fullmatch(texts["mode"]):
        return f"gives a template the mode {_text(texts['mode'])}, expected octal digits such as 0644"
    return ""


def _text(value: str) -> str:
    return quoted(value, 80)
