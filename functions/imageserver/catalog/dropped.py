"""What a product loses because its newest version says nothing about it."""

from imageserver.catalog.candidates import Build, Candidate
from imageserver.format.documents import Withheld
from imageserver.inspection.overrides import Overrides
from imageserver.versions.assessment import overrides
from imageserver.versions.records import Record

_FILES = ("metadata.json", "image.yaml")
_FIELDS = (
    "os", "release_title", "release_codename", "variant", "version", "requirements", "supported", "support_eol",
    "retain_versions", "retain_days",
)  # fmt: skip
"""Of a product. The label belongs to one version."""


def dropped_overrides(candidate: Candidate) -> tuple[Withheld, ...]:
    """Tell of the aliases and fields that the version before gave and that the newest one has no file to repeat.

    The newest listed version describes its product. Fields are not inherited: what an older version said would end
    on the day when retention deletes that version, long after anybody looks. A newest version with a file of
    overrides, even an empty one, has said what it wants.
    """
    if len(candidate.builds) < 2:
        return ()
    newest, before = candidate.builds[:2]
    missing = [file for file in _FILES if _has(before.record, file) and not _has(newest.record, file)]
    lost = _lost(newest, before)
    if not missing or not lost:
        return ()
    how = "with a refused" if any(file in newest.record.files for file in missing) else "without"
    reason = (
        f"{newest.name} comes {how} {' and '.join(missing)}, so {', '.join(lost)}, as {before.name} says, no longer "
        f"apply; upload {missing[0]} with them, or an empty one to agree"
    )
    return (Withheld(version=newest.name, reason=reason),)


def _lost(newest: Build, before: Build) -> list[str]:
    """Return each field that only the version before gives, and the aliases."""
    now, then = overrides(newest.record), overrides(before.record)
    gone = sorted(set(then.aliases) - set(now.aliases))
    aliases = [f"the alias{'es' if len(gone) > 1 else ''} {', '.join(gone)}"] if gone else []
    return aliases + [field for field in _FIELDS if _given(then, field) and not _given(now, field)]


def _given(said: Overrides, field: str) -> bool:
    return getattr(said, field) not in ("", {}, None)


def _has(record: Record, file: str) -> bool:
    """Return whether a version says something in this file: one that was refused says nothing."""
    if file not in record.files or record.files[file].withdrawn:
        return False
    return not any(reason.file == file and reason.kind == "error" for reason in record.reasons)
