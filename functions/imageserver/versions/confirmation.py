"""Compare a version with its SHA256SUMS: a pure function of its record's facts."""

from collections.abc import Iterable, Mapping

from imageserver.format.file_kinds import FileKind, Role
from imageserver.format.wording import quoted
from imageserver.versions.records import CHECKSUMS_FILE, FileFacts, Reason, Record


def applied_sums(record: Record, reasons: list[Reason]) -> FileFacts | None:
    """Return the SHA256SUMS, if there is one that applies.

    Append the reason if it is refused; it then has no effect. One that arrived after the version was published cannot
    take away what clients have: in that case the list is wrong, not the files.
    """
    facts = record.files.get(CHECKSUMS_FILE)
    if facts is None or facts.refusal:
        return None
    digests, unreadable = digests_by_name(facts), facts.unreadable or {}
    published = [file for file in sorted(record.files) if file != CHECKSUMS_FILE and record.is_published(file)]
    for file in published:
        sha256 = record.files[file].sha256
        if digests.get(file, sha256) == sha256 and file not in unreadable:
            continue
        found = unreadable.get(file) or f"it gives {file} the sha256 {digests[file]}"
        sentence = (
            f"{CHECKSUMS_FILE} is refused: {found}, and {record.version} was published with a {file} of sha256 "
            f"{sha256}; upload a correct {CHECKSUMS_FILE}, or other files as a new version"
        )
        reasons.append(Reason(CHECKSUMS_FILE, "error", sentence, "late"))
        return None
    if published and facts.sha256 and facts.unreadable is not None and digests.keys().isdisjoint(record.files):
        reasons.append(_covers_nothing(record, digests, published))
        return None
    return facts


def is_confirmed(record: Record, sums: FileFacts | None, listable: dict[str, FileKind], reasons: list[Reason]) -> bool:
    """Return whether a SHA256SUMS, where there is one, covers this version. Append reasons for what it leaves out.

    A list of digests that matches no file is a mistake: its publisher wanted a check, so the version is not confirmed.
    A refused list counts as none: the files that it would have confirmed are listed, with a warning.
    """
    if CHECKSUMS_FILE not in record.files:
        return True
    if sums and sums.sha256 and sums.unreadable is None:  # read by an older release, under its rules
        return True
    if sums and not sums.sha256:
        return any(record.is_published(file) for file in listable)
    digests = digests_by_name(sums)
    if sums:
        reasons.extend(
            Reason(CHECKSUMS_FILE, "warning", f"{CHECKSUMS_FILE}: {sentence}; the line is ignored")
            for file, sentence in (sums.unreadable or {}).items()
            if file == CHECKSUMS_FILE or file not in record.files
        )
        if digests.keys().isdisjoint(record.files):
            reasons.append(_covers_nothing(record, digests, listable))
            return False
    why = f"is not in {CHECKSUMS_FILE}" if sums else f"is not confirmed, as {CHECKSUMS_FILE} is refused"
    uncovered = [file for file, kind in listable.items() if file not in digests and kind.role is not Role.METADATA]
    reasons.extend(Reason(file, "warning", f"{file} {why}: its digest was not verified") for file in sorted(uncovered))
    return True


def digests_by_name(sums: FileFacts | None) -> dict[str, str]:
    """Return what SHA256SUMS declares, by the last part of each path.

    Its own line is left out, because no list can know its own digest: `sha256sum * >SHA256SUMS` writes that of an empty
    file.
    """
    declared = {path.rpartition("/")[2]: sha256 for path, sha256 in (sums.checksums if sums else {}).items()}
    return {file: sha256 for file, sha256 in declared.items() if file != CHECKSUMS_FILE}


def _covers_nothing(record: Record, digests: Mapping[str, str], wanted: Iterable[str]) -> Reason:
    names = sorted(digests)[:3]
    named = ", ".join(name if name.isascii() and name.isprintable() else quoted(name) for name in names) or "no file"
    sentence = (
        f"{CHECKSUMS_FILE} covers no file of {record.version}: it names {named}, expected "
        f"{', '.join(sorted(wanted))}; upload one with these names, or delete it"
    )
    return Reason(CHECKSUMS_FILE, "error", sentence, "digest")
