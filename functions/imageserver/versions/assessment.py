"""What of a version clients can use, and a reason for everything else: a pure function of its record's facts."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, Literal

import msgspec

from imageserver.errors import InvalidUpload
from imageserver.format import architectures, file_kinds
from imageserver.format.file_kinds import FileKind, Role
from imageserver.format.keys import VersionId, check_file, is_ahead
from imageserver.inspection.digests import EMPTY_SHA256
from imageserver.inspection.metadata import Overrides
from imageserver.versions.records import CHECKSUMS_FILE, FileFacts, Reason, Record, Withdrawal, kind_of
from imageserver.versions.state import State, recorded_state

UNKNOWN_FILE: Final = "is no image file that clients know: it is not listed"
_NO_ROOT: Final = (
    "is a metadata tarball: it holds a metadata.yaml, and neither rootfs/ with something in it nor rootfs.img; upload "
    "its root beside it (rootfs.squashfs, rootfs.tar.xz or disk.qcow2), or a tarball that holds both"
)
_NO_METADATA: Final = (
    "is not read: there is no metadata tarball to go with it; upload lxd.tar.xz or incus.tar.xz beside it"
)
_WHOLE_VM: Final = (
    "is a virtual machine in one tarball: only Incus 7.1 and newer can launch it, LXD is not shown it, and older Incus "
    "shows it as a container that cannot start; upload metadata and disk as two files for all clients "
    "(scripts/upload splits it)"
)
_GIVEN_UP: Final = (
    "has bytes that were refused, and somebody was given a URL to replace them: they are not listed any more, whatever "
    "is said of them; send other bytes, the same in parts (`multipart`), or these under the name of another version"
)
"""Each completes "<file> …"."""


class Assessment(msgspec.Struct, frozen=True):
    """What of a version may be listed. The values are file names; `roots` and `deltas` go by ftype.

    `unified_type` is empty for a container. `published` is what the record remembers from now on.
    """

    state: State
    reasons: tuple[Reason, ...]
    metadata: dict[str, str] = {}
    roots: dict[str, str] = {}
    unified: str = ""
    unified_type: Literal["", "virtual-machine"] = ""
    deltas: dict[str, tuple[str, ...]] = {}
    published: dict[str, str] = {}


def new_record(version: VersionId, files: dict[str, FileFacts], withdrawn: Withdrawal | None) -> Record:
    """Return a record of these facts, with its state and reasons."""
    return assessed(Record(version=version.path, files=files, withdrawn=withdrawn))


def assessed(record: Record) -> Record:
    """Return the record with the state and reasons that follow from its facts."""
    assessment = assess(record)
    return msgspec.structs.replace(
        record, state=assessment.state, reasons=assessment.reasons, published=assessment.published
    )


def assess(record: Record) -> Assessment:
    """Decide what of a version may be listed and give a reason for everything else.

    A version is complete when a metadata file and at least one root, or a unified tarball, are there and were
    accepted. A refused file takes nothing else of its version away, and what comes after a version was complete
    changes nothing of what it was published with.
    """
    kept = msgspec.structs.replace(record, files=_present(record))
    kinds = {file: kind_of(file, facts) for file, facts in kept.files.items()}
    reasons = _warnings(record)
    sums = _applied_sums(kept, reasons)
    accepted = _accepted_files(kept, kinds, sums, reasons)
    metadata = _metadata(kept, kinds, accepted, reasons)
    _set_aside_half_read_roots(kept, kinds, accepted, metadata, reasons)
    roots = _one_per_ftype(kept, kinds, accepted, Role.ROOT, reasons)
    roots = roots if metadata else {}
    unified, unified_type = _unified(kept, kinds, accepted, roots, reasons)
    listable = {file: accepted[file] for file in (*metadata.values(), *roots.values(), *filter(None, [unified]))}
    usable = bool(unified or roots)
    if kept.files and not usable:
        reasons.extend(_missing(record.version, kinds, metadata))
    usable = usable and _is_confirmed(kept, sums, listable, reasons)
    reasons.extend(_unpaired(kept, kinds, usable=usable))
    reasons.sort()
    withdrawals = [record.withdrawn] if record.withdrawn else [facts.withdrawn for facts in record.files.values()]
    deltas: dict[str, tuple[str, ...]] = {}
    for ftype, file in sorted((kind.ftype, file) for file, kind in accepted.items() if kind.role is Role.DELTA):
        deltas[ftype] = (*deltas.get(ftype, ()), file)
    state = recorded_state(
        present=bool(record.files),
        withdrawn=all(withdrawals),
        deleting=all(withdrawal and withdrawal.final for withdrawal in withdrawals),
        usable=usable,
        refused=any(reason.kind == "error" for reason in reasons),
    )
    published = {file: sha256 for file, sha256 in record.published.items() if file in kept.files}
    if state is State.COMPLETE:
        used = {*listable, *(file for file, kind in accepted.items() if kind.role in (Role.DELTA, Role.OVERRIDES))}
        published = {file: published[file] for file in published if file in _being_read(reasons)}
        published |= {file: kept.files[file].sha256 for file in used}
    taken = {file_kinds.classify(file).ftype for file in published}
    for file, sha256 in record.published.items():  # a withdrawn one keeps its place until another file has it
        same = file in record.files and record.files[file].sha256 in ("", sha256)  # "": not read again yet
        if file not in kept.files and same and file_kinds.classify(file).ftype not in taken:
            published[file] = sha256
    return Assessment(state, tuple(reasons), metadata, roots, unified, unified_type, deltas, published)


def overrides(record: Record) -> Overrides:
    """Return what the publisher says of the product in this version; metadata.json goes before image.yaml.

    A document that was refused says nothing.
    """
    kept = msgspec.structs.replace(record, files=_present(record))
    kinds = {file: kind for file in kept.files if (kind := file_kinds.classify(file)).role is Role.OVERRIDES}
    accepted = _accepted_files(kept, kinds, _applied_sums(kept, []), []) if kinds else {}
    given = [kept.files[file].overrides for file in ("image.yaml", "metadata.json") if file in accepted]
    merged = Overrides()
    for stronger in filter(None, given):
        merged = stronger.over(merged)
    return merged


def ahead_of_upload(record: Record) -> str:
    """Return why a version is withheld that is dated more than a day after the last of its files arrived, or "".

    The record knows the time of each upload, so no clock decides: what is withheld today is withheld in a rebuild too.
    """
    arrived = [datetime.fromisoformat(facts.modified) for facts in _present(record).values() if facts.modified]
    if not arrived or not is_ahead(record.id.version, latest := max(arrived)):
        return ""
    return (
        f"{record.id.version} is dated ahead of its upload on {latest:%Y-%m-%d}, expected a day ahead at most: clients "
        "take the highest name for the newest, so it would hide every real version; withdraw it and upload it under "
        "its real date"
    )


def _present(record: Record) -> dict[str, FileFacts]:
    return {file: facts for file, facts in record.files.items() if facts.withdrawn is None}


def _warnings(record: Record) -> list[Reason]:
    """Return what was ignored in each file, which files are withdrawn, and what works otherwise than one may think."""
    version, reasons, hints = record.id, [], []
    for file, facts in record.files.items():
        if facts.withdrawn:
            sentence = f"{file} was withdrawn; it is deleted after {facts.withdrawn.delete_after}"
            reasons.append(Reason(file, "warning", sentence))
        else:
            reasons += [Reason(file, "warning", f"{file}: {note}") for note in facts.warnings]
    uploads = [facts.modified for facts in record.files.values() if not facts.withdrawn]
    if uploads and (clients := architectures.skipped_by(version.product.arch)):
        hints.append(f"{clients} skip this product: they do not know the architecture {version.product.arch}")
    day, _, number = version.version.partition(".")
    if len(number) > 1 and not number.startswith("0"):
        hints.append(
            f"clients order versions as texts: {version.version} comes before {day}.9 and is not the newest beside it; "
            "name it after another day, or give all respins as many digits (.01 to .10)"
        )
    return reasons + [Reason("", "warning", sentence) for sentence in hints]


def _applied_sums(record: Record, reasons: list[Reason]) -> FileFacts | None:
    """Return the SHA256SUMS, if there is one that applies. Append why one is refused: then it says nothing at all.

    One that came after the version was published cannot take away what clients have: it must be the list that is wrong.
    """
    facts = record.files.get(CHECKSUMS_FILE)
    if facts is None or facts.refusal:
        return None
    digests, unreadable = _digests_by_name(facts), facts.unreadable or {}
    published = [file for file in sorted(record.files) if file != CHECKSUMS_FILE and record.is_published(file)]
    for file in published:
        sha256 = record.files[file].sha256
        if digests.get(file, sha256) == sha256 and file not in unreadable:
            continue
        found = unreadable.get(file) or f"it gives {file} the sha256 {digests[file]}"
        sentence = (
            f"{CHECKSUMS_FILE} is refused: {found}, and {record.version} was published with a {file} of sha256 "
            f"{sha256}; upload a {CHECKSUMS_FILE} that is right, or other files as a new version"
        )
        reasons.append(Reason(CHECKSUMS_FILE, "error", sentence, "late"))
        return None
    if published and facts.sha256 and facts.unreadable is not None and not _covered(record, digests):
        reasons.append(_covers_nothing(record, digests, published))
        return None
    return facts


def _digests_by_name(sums: FileFacts | None) -> dict[str, str]:
    """Return what SHA256SUMS declares, by the last part of each path.

    Not what it says of itself, which no list can know: `sha256sum * >SHA256SUMS` writes the digest of an empty file.
    """
    declared = {path.rpartition("/")[2]: sha256 for path, sha256 in (sums.checksums if sums else {}).items()}
    return {file: sha256 for file, sha256 in declared.items() if file != CHECKSUMS_FILE}


def _covered(record: Record, digests: Mapping[str, str]) -> set[str]:
    return digests.keys() & record.files.keys()


def _covers_nothing(record: Record, digests: Mapping[str, str], wanted: Iterable[str]) -> Reason:
    named = ", ".join(sorted(digests)[:3]) or "no file"
    sentence = (
        f"{CHECKSUMS_FILE} covers no file of {record.version}: it names {named}, expected "
        f"{', '.join(sorted(wanted))}; upload one with these names, or delete it"
    )
    return Reason(CHECKSUMS_FILE, "error", sentence, "digest")


def _accepted_files(
    record: Record, kinds: Mapping[str, FileKind], sums: FileFacts | None, reasons: list[Reason]
) -> dict[str, FileKind]:
    """Return the files among `kinds` that were read and are what their names say, in order of preference."""
    digests, unreadable = _digests_by_name(sums), (sums.unreadable if sums else None) or {}
    accepted: dict[str, FileKind] = {}
    for file in sorted(kinds, key=file_kinds.preference):
        facts, kind = record.files[file], kinds[file]
        declared = digests.get(file, facts.sha256)
        if facts.refusal:
            reasons.append(Reason(file, "error", f"{file} {facts.refusal}", facts.fault))
        elif facts.sha256 and declared != facts.sha256:
            reasons.append(Reason(file, "error", _mismatch(record, file, facts.sha256, declared), "digest"))
        elif kind.role is Role.OTHER:
            reasons.append(_unknown(file))
        elif file in unreadable and kind.role is not Role.CHECKSUMS:
            sentence = f"{file} is not confirmed by SHA256SUMS: {unreadable[file]}; upload a SHA256SUMS that is right"
            reasons.append(Reason(file, "error", sentence, "digest"))
        elif facts.etag in record.replaceable.get(file, ()):
            reasons.append(Reason(file, "error", f"{file} {_GIVEN_UP}", "replaced"))
        elif facts.sha256:
            accepted[file] = kind
        elif kind.role is not Role.ROOT:
            reasons.append(Reason(file, "waiting", f"{file} is being read"))
    return accepted


def _is_confirmed(record: Record, sums: FileFacts | None, listable: dict[str, FileKind], reasons: list[Reason]) -> bool:
    """Return whether a SHA256SUMS, where there is one, covers this version. Append reasons for what it leaves out.

    A list of digests that matches nothing is a mistake of the publisher who wanted a check, so it never passes for one.
    A list that was refused is none: what it would have confirmed is listed and told.
    """
    if CHECKSUMS_FILE not in record.files:
        return True
    if sums and sums.sha256 and sums.unreadable is None:  # read by an older release, under its rules
        return True
    if sums and not sums.sha256:
        return any(record.is_published(file) for file in listable)
    digests = _digests_by_name(sums)
    if sums:
        reasons.extend(
            Reason(CHECKSUMS_FILE, "warning", f"{CHECKSUMS_FILE}: {sentence}; the line is ignored")
            for file, sentence in (sums.unreadable or {}).items()
            if file == CHECKSUMS_FILE or file not in record.files
        )
        if not _covered(record, digests):
            reasons.append(_covers_nothing(record, digests, listable))
            return False
    why = f"is not in {CHECKSUMS_FILE}" if sums else f"is not confirmed, as {CHECKSUMS_FILE} is refused"
    uncovered = [file for file, kind in listable.items() if file not in digests and kind.role is not Role.METADATA]
    reasons.extend(
        Reason(file, "warning", f"{file} {why}: its digest was compared with nothing") for file in sorted(uncovered)
    )
    return True


def _unknown(file: str) -> Reason:
    """Return why a file is not listed whose name says nothing, or says an image but cannot be served."""
    if file_kinds.meant(file).role is not Role.OTHER:
        try:
            check_file(file)
        except InvalidUpload as refusal:
            return Reason(file, "error", str(refusal), "name")
    shown = file if file.isprintable() else ascii(file)
    return Reason(file, "warning", f"{shown} {file_kinds.conversion(file) or UNKNOWN_FILE}")


def _mismatch(record: Record, file: str, found: str, declared: str) -> str:
    what = "is empty" if found == EMPTY_SHA256 else f"has sha256 {found}"
    return (
        f"{file} in {record.version} {what}, expected {declared} as SHA256SUMS says; "
        "upload the file again, or a SHA256SUMS that is right"
    )


def _set_aside_half_read_roots(
    record: Record,
    kinds: Mapping[str, FileKind],
    accepted: dict[str, FileKind],
    metadata: dict[str, str],
    reasons: list[Reason],
) -> None:
    """Take out the roots that were not read yet together with the metadata of today."""
    needed = {record.files[file].sha256 for file in metadata.values()}
    for file, facts in record.files.items():
        if kinds[file].role is not Role.ROOT or facts.refusal:
            continue
        if facts.sha256 and needed <= facts.combined.keys():
            continue
        accepted.pop(file, None)
        if metadata:
            reasons.append(Reason(file, "waiting", f"{file} is being read"))


def _being_read(reasons: Iterable[Reason]) -> set[str]:
    return {reason.file for reason in reasons if reason.kind == "waiting" and reason.file}


def _metadata(
    record: Record, kinds: Mapping[str, FileKind], accepted: dict[str, FileKind], reasons: list[Reason]
) -> dict[str, str]:
    """Return the metadata file of each client, by ftype. A client whose own file is missing reads the other's.

    So a client's own file that comes after the version was published would give each image another fingerprint.
    """
    metadata = _one_per_ftype(record, kinds, accepted, Role.METADATA, reasons)
    there = accepted.keys() | _being_read(reasons)
    first = [f for f, kind in kinds.items() if kind.role is Role.METADATA and f in record.published and f in there]
    same = {record.files[file].sha256 for file in first}
    for ftype, file in list(metadata.items()):
        if first and file not in first and record.files[file].sha256 not in same:
            del metadata[ftype], accepted[file]
            reasons.append(_late(record, file, first[0], "gives its images other fingerprints"))
    if metadata:
        lone = next(iter(metadata.values()))
        metadata = {ftype: metadata.get(ftype, lone) for ftype in file_kinds.METADATA_FTYPES.values()}
    return metadata


def _late(record: Record, file: str, first: str, why: str) -> Reason:
    sentence = (
        f"{file} came after {record.version} was published with {first}, and {why}: it is not listed; delete it, or "
        "upload all files as a new version, roots last"
    )
    return Reason(file, "error", sentence, "late")


def _one_per_ftype(
    record: Record, kinds: Mapping[str, FileKind], accepted: dict[str, FileKind], role: Role, reasons: list[Reason]
) -> dict[str, str]:
    """Return one file of a role for each ftype: the catalog has no place for a second.

    That is the one that was published, also while new bytes of it are being read; else the preferred one.
    """
    again = [file for file in record.published if file in _being_read(reasons) and file in kinds]
    chosen: dict[str, str] = {}
    for file in sorted([*accepted, *again], key=lambda file: file not in record.published):
        kind = kinds[file]
        slot = "unified tarball" if role is Role.UNIFIED else kind.ftype
        if kind.role is role and (first := chosen.setdefault(slot, file)) != file:
            what = "metadata tarball" if role is Role.METADATA else slot
            sentence = f"{file} is a second {what} beside {first}, expected one in a version; delete one of them"
            reasons.append(Reason(file, "error", sentence, "second"))
    return {slot: file for slot, file in chosen.items() if file in accepted}


def _unified(
    record: Record,
    kinds: Mapping[str, FileKind],
    accepted: dict[str, FileKind],
    roots: dict[str, str],
    reasons: list[Reason],
) -> tuple[str, Literal["", "virtual-machine"]]:
    """Return the unified tarball that may be listed and its type; "" when roots make an image of the same type.

    A virtual machine has two types: Incus before 7.1 takes every unified tarball for a container. Roots that came
    after the tarball was published are taken out of `roots` instead.
    """
    unified = next(iter(_one_per_ftype(record, kinds, accepted, Role.UNIFIED, reasons).values()), "")
    if not unified:
        return "", ""
    is_vm = record.files[unified].content == "virtual-machine"
    again = [file for file in record.published if file in _being_read(reasons) and kinds[file].role is Role.ROOT]
    is_container = {file: kinds[file].ftype in file_kinds.CONTAINER_FTYPES for file in (*roots.values(), *again)}
    beside = [file for file in is_container if is_vm or is_container[file]]
    if unified in record.published and not any(file in record.published for file in beside):
        for file in beside:
            del roots[kinds[file].ftype], accepted[file]
            reasons.append(_late(record, file, unified, "would take its place"))
    elif beside:
        clients = "Incus before 7.1" if is_vm and is_container[beside[0]] else "clients"
        kind = "container" if is_container[beside[0]] else "virtual-machine"
        sentence = (
            f"{unified} is not listed beside {beside[0]}: {clients} would see two {kind} images under one alias and "
            "take one of them at random; delete one, or upload it as a product of its own"
        )
        reasons.append(Reason(unified, "warning", sentence))
        return "", ""
    if is_vm:
        reasons.append(Reason(unified, "warning", f"{unified} {_WHOLE_VM}"))
    return unified, "virtual-machine" if is_vm else ""


def _unpaired(record: Record, kinds: Mapping[str, FileKind], *, usable: bool) -> list[Reason]:
    """Say what is missing in each tarball that could only be metadata, and why each root stays unread beside others."""
    roles = {file: kind.role for file, kind in kinds.items()}
    reasons = []
    if Role.ROOT not in roles.values():
        for file, facts in record.files.items():
            if facts.content != "metadata" or file_kinds.classify(file).role is not Role.UNIFIED:
                continue
            if usable or file_kinds.is_metadata_name(file):
                reasons.append(Reason(file if usable else "", "warning" if usable else "waiting", f"{file} {_NO_ROOT}"))
            else:
                reasons.append(Reason(file, "error", f"{file} {_NO_ROOT}", "wrong-kind"))
    serving = [(role, record.files[file]) for file, role in roles.items() if role in (Role.METADATA, Role.UNIFIED)]
    to_come = any(not facts.sha256 and not facts.refusal for _, facts in serving)
    if serving and not to_come and not any(role is Role.METADATA and facts.sha256 for role, facts in serving):
        reasons += [
            Reason(file, "warning", f"{file} {_NO_METADATA}")
            for file, role in roles.items()
            if role is Role.ROOT and not record.files[file].sha256 and not record.files[file].refusal
        ]
    return reasons


def _missing(version: str, kinds: Mapping[str, FileKind], metadata: dict[str, str]) -> list[Reason]:
    """Return what a version still needs before clients can use it."""
    roles = {kind.role for kind in kinds.values()}
    missing = []
    if not metadata and Role.METADATA not in roles and Role.UNIFIED not in roles:
        sentence = f"{version} waits for its metadata: upload lxd.tar.xz or incus.tar.xz"
        if lone := next((file for file, kind in kinds.items() if kind.ftype == file_kinds.SQUASHFS), ""):
            sentence += (
                f". If {lone} is a whole image (compression_algorithm=squashfs), with metadata.yaml in it: "
                f"sqfs2tar {lone} | xz > image.tar.xz, and upload that instead"
            )
        missing.append(sentence)
    if Role.ROOT not in roles and Role.UNIFIED not in roles:
        missing.append(f"{version} waits for a root: upload rootfs.squashfs, rootfs.tar.xz or disk.qcow2")
    return [Reason("", "waiting", sentence) for sentence in missing]
