"""Find what a product loses because its newest version says nothing about it."""

from imageserver.catalog.candidates import Build, Candidate
from imageserver.format.documents import Withheld
from imageserver.inspection.overrides import Overrides
from imageserver.versions.assessment import overrides
from imageserver.versions.records import Record

_FILES = ("metadata.json", "image.yaml")
_FIELDS = (
    "os", "release_title", "release_codename", "variant", "version", "requirements", "supported", "support_eol",
    "retain_versions", "retain_days", "deltas",
)  # fmt: skip
"""Fields of a product; the label belongs to one version."""


def dropped_overrides(candidate: Candidate) -> tuple[Withheld, ...]:
    """Warn about aliases and fields of the previous version that the newest one has no file to repeat.

    The newest listed version describes its product. Fields are not inherited: they would vanish on the day when
    retention deletes the older version, long after anybody looks. A newest version with a file of overrides, even an
    empty one, has stated what it wants.
    """
    if len(candidate.builds) < 2:
        return ()
    newest, before = candidate.builds[:2]
    missing = [file for file in _FILES if _has(before.record, file) and not _has(newest.record, file)]
    lost = _lost(newest, before)
    if not missing or not lost:
        return ()
    how = "with a refused" if any(file in newest.record.files for file in missing) else "without"
    applies, them = ("apply", "them") if len(lost) > 1 else ("applies", "it")
    reason = (
        f"{newest.name} comes {how} {' and '.join(missing)}, so {_named(lost)} that {before.name} gives no longer "
        f"{applies}; upload {missing[0]} with {them}, or with {{}} to agree"
    )
    return (Withheld(version=newest.name, reason=reason),)


def _lost(newest: Build, before: Build) -> list[tuple[str, str]]:
    """Return the aliases, then the fields, that only the previous version gives, each with its kind."""
    now, then = overrides(newest.record), overrides(before.record)
    aliases = [("alias", alias) for alias in sorted(set(then.aliases) - set(now.aliases))]
    return aliases + [("field", field) for field in _FIELDS if _given(then, field) and not _given(now, field)]


def _named(lost: list[tuple[str, str]]) -> str:
    """Return the lost names in words, such as `the aliases lts, noble/lts and the field os`."""
    groups = []
    for kind, several in (("alias", "aliases"), ("field", "fields")):
        names = [name for its_kind, name in lost if its_kind == kind]
        if names:
            groups.append(f"the {several if len(names) > 1 else kind} {', '.join(names)}")
    return " and ".join(groups)


def _given(overrides: Overrides, field: str) -> bool:
    return getattr(overrides, field) not in ("", {}, None)


def _has(record: Record, file: str) -> bool:
    """Return whether a version has this file. A refused one counts as missing."""
    if file not in record.files or record.files[file].withdrawn:
        return False
    return not any(reason.file == file and reason.kind == "error" for reason in record.reasons)
