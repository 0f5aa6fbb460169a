"""What was found out about one version, and the assessment on it.

A record is private and complete: folding records gives the catalog back without reading an image. It
holds facts (sizes, digests, what a file's content turned out to be); the assessment is a pure function of
them, written beside the facts for people and for the API.
"""

from typing import Final, Literal

import msgspec

from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format import file_kinds
from imageserver.format.file_kinds import FileKind, Role
from imageserver.format.keys import VersionId, check_file, parse_version
from imageserver.inspection.digests import EMPTY_SHA256
from imageserver.inspection.metadata import Overrides

SCHEMA: Final = 1

UNKNOWN_FILE: Final = "is no image file that clients know: it is not listed"
"""Completes "<file> …"."""

State = Literal["complete", "incomplete", "refused", "withdrawn", "empty"]
"""sound: clients can use it; gone: its folder is empty, the record only says so."""


Fault = Literal["", "empty", "too-large", "encoded", "wrong-kind", "damaged", "metadata", "digest", "second", "name"]
"""What a refusal is about, in one word for counters and programs; empty where an older release refused.

encoded: it was stored with a Content-Encoding; metadata: its metadata.yaml is wrong; digest: it is not what was
declared; second: another file has its place in the version.
"""


class Withdrawal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody took a version or one file off the list; what it is about stays until `delete_after` (ISO 8601, UTC).

    `final`: its files are being deleted; from now on it cannot be restored.
    """

    since: str
    delete_after: str
    reason: str = ""
    final: bool = False


class FileFacts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is known of one object. `sha256` is empty until it was read.

    `etag` and `size_bytes` tell one generation of the object from the next. `combined` maps the sha256 of
    a metadata file to the combined sha256 with it. `refusal` completes "<file> …", `fault` says what it is about.
    `notices` are sentences about what was ignored in the file. `modified` is when it was uploaded (ISO 8601, UTC).
    `withdrawn` is about this generation of the object: another upload under the same name begins anew.
    """

    etag: str
    size_bytes: int
    modified: str
    sha256: str = ""
    combined: dict[str, str] = {}
    refusal: str = ""
    fault: Fault = ""
    warnings: tuple[str, ...] = ()
    overrides: Overrides | None = None
    checksums: dict[str, str] = {}
    withdrawn: Withdrawal | None = None


class Reason(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """A sentence for the publisher about one file, or about the version where `file` is empty.

    refused: wrong for good, upload something else, `fault` says why in a word; waiting: not there or not read yet;
    ignored: harmless.
    """

    file: str
    kind: Literal["refused", "waiting", "ignored"]
    sentence: str
    fault: Fault = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one version; `version` is its path, `images/<os>/…/<version>`.

    `replaced` names the files whose key has held other bytes since the record was made: a cache may still have those.
    """

    version: str
    files: dict[str, FileFacts] = {}
    withdrawn: Withdrawal | None = None
    replaced: tuple[str, ...] = ()
    state: State = "empty"
    reasons: tuple[Reason, ...] = ()
    schema: int = SCHEMA

    @property
    def id(self) -> VersionId:
        """The version this record is about."""
        return parse_version(self.version)

    @property
    def size_bytes(self) -> int:
        """What its files come to."""
        return sum(facts.size_bytes for facts in self.files.values())


class Assessment(msgspec.Struct, frozen=True):
    """What of a version may be listed. File names; `roots` and `deltas` by ftype."""

    state: State
    reasons: tuple[Reason, ...]
    metadata: dict[str, str] = {}
    roots: dict[str, str] = {}
    unified: str = ""
    deltas: dict[str, tuple[str, ...]] = {}


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """The bytes of a record; equal records give equal bytes."""
    return _encoder.encode(record)


def decode(body: bytes, key: str) -> Record:
    """Read a record; CatalogDamaged names the key when it is none of ours."""
    try:
        record = _decoder.decode(body)
        parse_version(record.version)
    except (msgspec.DecodeError, InvalidUpload, UnicodeError, RecursionError) as error:
        raise CatalogDamaged(
            f"{key} is not a record ({error}); delete it and reconcile, its images are intact"
        ) from error
    if record.schema > SCHEMA or record.id.record_key != key:
        raise CatalogDamaged(
            f"{key} is a record of schema {record.schema} for {record.version}, expected schema {SCHEMA} "
            "for its own path; delete it and reconcile, or deploy the newer release again"
        )
    return record


def new(version: VersionId, files: dict[str, FileFacts], withdrawn: Withdrawal | None) -> Record:
    """A new record of these facts, with the assessment on them."""
    return assessed(Record(version=version.path, files=files, withdrawn=withdrawn))


def assessed(record: Record) -> Record:
    """The record with the assessment on its facts."""
    assessment = assess(record)
    return msgspec.structs.replace(record, state=assessment.state, reasons=assessment.reasons)


def assess(record: Record) -> Assessment:
    """Decide what of a version may be listed and give a reason for everything else.

    A version is sound when a metadata file and at least one root, or a unified tarball, are there and
    sound. A refused file takes nothing else of its version away.
    """
    reasons = _withdrawn_files(record)
    record = msgspec.structs.replace(record, files=_present(record))
    reasons += [
        Reason(file, "ignored", f"{file}: {note}") for file, facts in record.files.items() for note in facts.warnings
    ]
    sound = _sound_files(record, reasons)
    metadata = _metadata(sound)
    _set_aside_half_read_roots(record, sound, metadata, reasons)
    roots = _one_per_ftype(sound, Role.ROOT, reasons)
    unified = _one_per_ftype(sound, Role.UNIFIED, reasons)
    usable = bool(unified or (metadata and roots))
    if record.files and not usable:
        reasons.extend(_missing(record, metadata))
    reasons.sort()
    state = _state(record, usable, reasons)
    deltas = {file: kind for file, kind in sound.items() if kind.role is Role.DELTA}
    return Assessment(
        state, tuple(reasons), metadata, roots if metadata else {}, next(iter(unified.values()), ""), _by_ftype(deltas)
    )


def overrides(record: Record) -> Overrides:
    """What the publisher says of the product in this version; metadata.json goes before image.yaml."""
    files = _present(record)
    given = [files[file].overrides for file in ("image.yaml", "metadata.json") if file in files]
    merged = Overrides()
    for stronger in filter(None, given):
        merged = stronger.over(merged)
    return merged


def _present(record: Record) -> dict[str, FileFacts]:
    return {file: facts for file, facts in record.files.items() if facts.withdrawn is None}


def _withdrawn_files(record: Record) -> list[Reason]:
    return [
        Reason(file, "ignored", f"{file} was withdrawn; it is deleted after {facts.withdrawn.delete_after}")
        for file, facts in record.files.items()
        if facts.withdrawn
    ]


def _sound_files(record: Record, reasons: list[Reason]) -> dict[str, FileKind]:
    """The files that were read and found to be what their name says, in order of preference."""
    sums = record.files["SHA256SUMS"].checksums if "SHA256SUMS" in record.files else {}
    sound: dict[str, FileKind] = {}
    for file in sorted(record.files, key=file_kinds.preference):
        facts, kind = record.files[file], file_kinds.classify(file)
        declared = sums.get(file, facts.sha256)
        if facts.refusal:
            reasons.append(Reason(file, "refused", f"{file} {facts.refusal}", facts.fault))
        elif facts.sha256 and declared != facts.sha256:
            reasons.append(Reason(file, "refused", _mismatch(record, file, facts.sha256, declared), "digest"))
        elif kind.role is Role.OTHER:
            reasons.append(_unknown(file))
        elif facts.sha256:
            sound[file] = kind
        elif kind.role is not Role.ROOT:
            reasons.append(Reason(file, "waiting", f"{file} is being read"))
    return sound


def _unknown(file: str) -> Reason:
    """Why a file is not listed whose name says nothing, or says an image but cannot be served."""
    if file_kinds.meant(file).role is not Role.OTHER:
        try:
            check_file(file)
        except InvalidUpload as refusal:
            return Reason(file, "refused", str(refusal), "name")
    return Reason(file, "ignored", f"{file if file.isprintable() else ascii(file)} {UNKNOWN_FILE}")


def _mismatch(record: Record, file: str, found: str, declared: str) -> str:
    what = "is empty" if found == EMPTY_SHA256 else f"has sha256 {found}"
    return (
        f"{file} in {record.version} {what}, expected {declared} as SHA256SUMS says; "
        "upload the file again, or a SHA256SUMS that is right"
    )


def _metadata(sound: dict[str, FileKind]) -> dict[str, str]:
    """Client's metadata ftype -> file; a client whose own file is missing reads the other's."""
    own = {kind.ftype: file for file, kind in sound.items() if kind.role is Role.METADATA}
    if not own:
        return {}
    return {ftype: own.get(ftype, next(iter(own.values()))) for ftype in file_kinds.METADATA_FTYPES.values()}


def _set_aside_half_read_roots(
    record: Record, sound: dict[str, FileKind], metadata: dict[str, str], reasons: list[Reason]
) -> None:
    """Take out the roots that were not read yet together with the metadata of today."""
    needed = {record.files[file].sha256 for file in metadata.values()}
    for file, facts in record.files.items():
        if file_kinds.classify(file).role is not Role.ROOT or facts.refusal:
            continue
        if facts.sha256 and needed <= facts.combined.keys():
            continue
        sound.pop(file, None)
        if metadata:
            reasons.append(Reason(file, "waiting", f"{file} is being read"))


def _one_per_ftype(sound: dict[str, FileKind], role: Role, reasons: list[Reason]) -> dict[str, str]:
    """One file of a role for each ftype: the preferred one; the catalog has no place for a second."""
    chosen: dict[str, str] = {}
    for file, kind in sound.items():
        slot = kind.ftype if role is Role.ROOT else "unified tarball"
        if kind.role is role and (first := chosen.setdefault(slot, file)) != file:
            sentence = f"{file} is a second {slot} beside {first}, expected one in a version; delete one of them"
            reasons.append(Reason(file, "refused", sentence, "second"))
    return chosen


def _by_ftype(files: dict[str, FileKind]) -> dict[str, tuple[str, ...]]:
    ftypes = sorted({kind.ftype for kind in files.values()})
    return {ftype: tuple(sorted(f for f, k in files.items() if k.ftype == ftype)) for ftype in ftypes}


def _state(record: Record, usable: bool, reasons: list[Reason]) -> State:
    if record.withdrawn and record.files:
        return "withdrawn"
    if not record.files:
        return "withdrawn" if reasons else "empty"  # without files, reasons can only be about withdrawn ones
    if usable:
        return "complete"
    return "refused" if any(reason.kind == "refused" for reason in reasons) else "incomplete"


def _missing(record: Record, metadata: dict[str, str]) -> list[Reason]:
    """What a version still needs before clients can use it."""
    roles = {file_kinds.classify(file).role for file in record.files}
    missing = []
    if not metadata and Role.METADATA not in roles and Role.UNIFIED not in roles:
        missing.append(f"{record.version} waits for its metadata: upload lxd.tar.xz or incus.tar.xz")
    if Role.ROOT not in roles and Role.UNIFIED not in roles:
        missing.append(f"{record.version} waits for a root: upload rootfs.squashfs, rootfs.tar.xz or disk.qcow2")
    return [Reason("", "waiting", sentence) for sentence in missing]
