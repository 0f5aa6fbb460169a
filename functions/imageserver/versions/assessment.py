"""Decide which files of a version clients can use, with a reason for all others: pure, from its record's facts."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final, Literal

import msgspec

from imageserver.errors import InvalidUpload
from imageserver.format import architectures, file_kinds
from imageserver.format.file_kinds import FileKind, Role
from imageserver.format.keys import VersionId, check_file, is_ahead
from imageserver.format.wording import quoted
from imageserver.inspection.digests import EMPTY_SHA256
from imageserver.inspection.overrides import Overrides
from imageserver.versions.confirmation import applied_sums, digests_by_name, is_confirmed
from imageserver.versions.records import FileFacts, Reason, Record, Withdrawal, kind_of, once
from imageserver.versions.selection import being_read, metadata_by_ftype, roots_by_ftype, unified_tarball
from imageserver.versions.state import State, recorded_state

UNKNOWN_FILE: Final = "is no image file that clients know: it is not listed"
_NO_ROOT: Final = (
    "is a metadata tarball: it holds a metadata.yaml, and neither rootfs/ with something in it nor rootfs.img; upload "
    "its root beside it (rootfs.squashfs, rootfs.tar.xz or disk.qcow2), or a tarball that holds both"
)
_NO_METADATA: Final = (
    "is not read: there is no metadata tarball to go with it; upload lxd.tar.xz or incus.tar.xz beside it"
)
_GIVEN_UP: Final = (
    "has bytes that were refused, and a URL to replace them was given out: they are never listed, even if nothing "
    "refuses them now; send other bytes, the same in parts (`multipart`), or these under the name of another version"
)
"""Each completes "<file> …"."""


class Assessment(msgspec.Struct, frozen=True):
    """The files of a version that may be listed. The values are file names; `roots` and `deltas` are keyed by ftype.

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


@once
def assess(record: Record) -> Assessment:
    """Decide which files of a version may be listed, and give a reason for all others.

    A version is complete when a metadata file and at least one root, or a unified tarball, are there and were
    accepted. A refused file does not affect the rest of its version, and files that arrive after a version was complete
    do not change what it was published with.
    """
    kept = msgspec.structs.replace(record, files=_present(record))
    kinds = {file: kind_of(file, facts) for file, facts in kept.files.items()}
    reasons = _warnings(record)
    sums = applied_sums(kept, reasons)
    accepted = _accepted_files(kept, kinds, sums, reasons)
    metadata = metadata_by_ftype(kept, kinds, accepted, reasons)
    roots = roots_by_ftype(kept, kinds, accepted, metadata, reasons)
    unified, unified_type = unified_tarball(kept, kinds, accepted, roots, reasons)
    listable = {file: accepted[file] for file in (*metadata.values(), *roots.values(), *filter(None, [unified]))}
    usable = bool(unified or roots)
    if kept.files and not usable:
        reasons.extend(_missing(record.version, kinds, metadata))
    usable = usable and is_confirmed(kept, sums, listable, reasons)
    reasons.extend(_unpaired(kept, kinds, usable=usable))
    reasons.sort()
    withdrawals = [record.withdrawn] if record.withdrawn else [facts.withdrawn for facts in record.files.values()]
    state = recorded_state(
        present=bool(record.files),
        withdrawn=all(withdrawals),
        deleting=all(withdrawal and withdrawal.final for withdrawal in withdrawals),
        usable=usable,
        refused=any(reason.kind == "error" for reason in reasons),
    )
    published = _published(record, state, listable, accepted, being_read(reasons))
    return Assessment(state, tuple(reasons), metadata, roots, unified, unified_type, _deltas(accepted), published)


def _deltas(accepted: Mapping[str, FileKind]) -> dict[str, tuple[str, ...]]:
    """Return the deltas by ftype."""
    deltas: dict[str, tuple[str, ...]] = {}
    for ftype, file in sorted((kind.ftype, file) for file, kind in accepted.items() if kind.role is Role.DELTA):
        deltas[ftype] = (*deltas.get(ftype, ()), file)
    return deltas


def _published(
    record: Record, state: State, listable: Collection[str], accepted: Mapping[str, FileKind], unread: Collection[str]
) -> dict[str, str]:
    """Return what the record remembers as published from now on: file -> sha256.

    A complete version publishes what it lists and uses; a file of which new bytes are `unread` stays as it was. A
    withdrawn file keeps its place until another file has its ftype.
    """
    present = _present(record)
    published = {file: sha256 for file, sha256 in record.published.items() if file in present}
    if state is State.COMPLETE:
        used = [file for file, kind in accepted.items() if kind.role in (Role.DELTA, Role.OVERRIDES)]
        published = {file: sha256 for file, sha256 in published.items() if file in unread}
        published |= {file: present[file].sha256 for file in (*listable, *used)}
    taken = {file_kinds.classify(file).ftype for file in published}
    for file, sha256 in record.published.items():
        facts = record.files.get(file)
        is_same = facts is not None and facts.sha256 in ("", sha256)  # "": not read again yet
        if facts and facts.withdrawn and is_same and file_kinds.classify(file).ftype not in taken:
            published[file] = sha256
    return published


@once
def overrides(record: Record) -> Overrides:
    """Return what the publisher says about the product in this version; metadata.json takes precedence over image.yaml.

    A refused document is ignored.
    """
    kept = msgspec.structs.replace(record, files=_present(record))
    kinds = {file: kind for file in kept.files if (kind := file_kinds.classify(file)).role is Role.OVERRIDES}
    accepted = _accepted_files(kept, kinds, applied_sums(kept, []), []) if kinds else {}
    given = [kept.files[file].overrides for file in ("image.yaml", "metadata.json") if file in accepted]
    merged = Overrides()
    for stronger in filter(None, given):
        merged = stronger.over(merged)
    return merged


@once
def ahead_of_upload(record: Record) -> str:
    """Return why a version dated more than a day after its last upload is withheld; "" if it is not.

    The record has the time of each upload, so no clock decides: a rebuild withholds the same versions.
    """
    arrived = [datetime.fromisoformat(facts.uploaded) for facts in _present(record).values() if facts.uploaded]
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
    """Return warnings: what was ignored in each file, which files are withdrawn, and what may be unexpected."""
    version, reasons, hints = record.id, [], []
    for file, facts in record.files.items():
        if facts.withdrawn:
            sentence = f"{file} was withdrawn; it is deleted after {facts.withdrawn.delete_after}"
            reasons.append(Reason(file, "warning", sentence))
        else:
            reasons += [Reason(file, "warning", f"{file}: {note}") for note in facts.warnings]
    uploads = [facts.modified for facts in record.files.values() if not facts.withdrawn]
    if uploads and (clients := architectures.SKIPPED_BY.get(version.product.arch)):
        hints.append(f"{clients} skip this product: they do not know the architecture {version.product.arch}")
    day, _, number = version.version.partition(".")
    if len(number) > 1 and not number.startswith("0"):
        hints.append(
            f"clients order versions as texts: {version.version} comes before {day}.9 and is not the newest beside it; "
            "name it after another day, or give all respins the same number of digits (.01 to .10)"
        )
    return reasons + [Reason("", "warning", sentence) for sentence in hints]


def _accepted_files(
    record: Record, kinds: Mapping[str, FileKind], sums: FileFacts | None, reasons: list[Reason]
) -> dict[str, FileKind]:
    """Return the files among `kinds` that were read and are what their names say, in order of preference."""
    digests, unreadable = digests_by_name(sums), (sums.unreadable if sums else None) or {}
    accepted: dict[str, FileKind] = {}
    for file in sorted(kinds, key=lambda file: (file not in file_kinds.USUAL_NAMES, file)):
        facts, kind = record.files[file], kinds[file]
        declared = digests.get(file, facts.sha256)
        if facts.refusal:
            reasons.append(Reason(file, "error", f"{file} {facts.refusal}", facts.fault))
        elif file in unreadable and kind.role not in (Role.CHECKSUMS, Role.OTHER):
            sentence = f"{file} is not confirmed by SHA256SUMS: {unreadable[file]}; upload a correct SHA256SUMS"
            reasons.append(Reason(file, "error", sentence, "digest"))
        elif facts.sha256 and declared != facts.sha256:
            what = "is empty" if facts.sha256 == EMPTY_SHA256 else f"has sha256 {facts.sha256}"
            sentence = (
                f"{file} in {record.version} {what}, expected {declared} as SHA256SUMS says; "
                "upload the file again, or a correct SHA256SUMS"
            )
            reasons.append(Reason(file, "error", sentence, "digest"))
        elif kind.role is Role.OTHER:
            reasons.append(_unknown(file))
        elif facts.etag in record.replaceable.get(file, ()):
            reasons.append(Reason(file, "error", f"{file} {_GIVEN_UP}", "replaced"))
        elif facts.sha256:
            accepted[file] = kind
        elif kind.role is not Role.ROOT:
            reasons.append(Reason(file, "waiting", f"{file} is being read"))
    return accepted


def _unknown(file: str) -> Reason:
    """Return why a file is not listed: its name is unknown, or is that of an image but cannot be served."""
    if file_kinds.kind_by_name(file).role is not Role.OTHER:
        try:
            check_file(file)
        except InvalidUpload as refusal:
            return Reason(file, "error", str(refusal), "name")
    shown = file if file.isprintable() else quoted(file)
    return Reason(file, "warning", f"{shown} {file_kinds.conversion(file) or UNKNOWN_FILE}")


def _unpaired(record: Record, kinds: Mapping[str, FileKind], *, usable: bool) -> list[Reason]:
    """Report each tarball that can only be metadata without a root, and each root unread for lack of metadata."""
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
        elif lone := next((file for file, kind in kinds.items() if kind.ftype == file_kinds.ROOT_TAR), ""):
            sentence += f". If {lone} is a whole image, with metadata.yaml in it, upload it as lxd_combined.tar.gz"
        missing.append(sentence)
    if Role.ROOT not in roles and Role.UNIFIED not in roles:
        missing.append(f"{version} waits for a root: upload rootfs.squashfs, rootfs.tar.xz or disk.qcow2")
    return [Reason("", "waiting", sentence) for sentence in missing]
