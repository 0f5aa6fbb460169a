"""Select the accepted files that make a version's images: one for each place in the catalog, published ones first."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from imageserver.format import file_kinds
from imageserver.format.file_kinds import FileKind, Role
from imageserver.versions.records import Reason, Record

_WHOLE_VM: Final = (
    "is a virtual machine in one tarball: only Incus 7.1 and newer can launch it, LXD is not shown it, and older Incus "
    "shows it as a container that cannot start; upload metadata and disk as two files for all clients "
    "(scripts/upload splits it)"
)


def metadata_by_ftype(
    record: Record, kinds: Mapping[str, FileKind], accepted: dict[str, FileKind], reasons: list[Reason]
) -> dict[str, str]:
    """Return the metadata file of each client, by ftype. A client whose own file is missing reads the other's.

    A client's own file that arrives after the version was published is left out: it would give each image another
    fingerprint.
    """
    metadata = _one_per_ftype(record, kinds, accepted, Role.METADATA, reasons)
    there = accepted.keys() | being_read(reasons)
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


def roots_by_ftype(
    record: Record,
    kinds: Mapping[str, FileKind],
    accepted: dict[str, FileKind],
    metadata: dict[str, str],
    reasons: list[Reason],
) -> dict[str, str]:
    """Return the root of each ftype; none without metadata.

    Roots that have not been read together with the current metadata are taken out of `accepted`.
    """
    needed = {record.files[file].sha256 for file in metadata.values()}
    for file, facts in record.files.items():
        if kinds[file].role is not Role.ROOT or facts.refusal:
            continue
        if facts.sha256 and needed <= facts.combined.keys():
            continue
        accepted.pop(file, None)
        if metadata:
            reasons.append(Reason(file, "waiting", f"{file} is being read"))
    roots = _one_per_ftype(record, kinds, accepted, Role.ROOT, reasons)
    return roots if metadata else {}


def unified_tarball(
    record: Record,
    kinds: Mapping[str, FileKind],
    accepted: dict[str, FileKind],
    roots: dict[str, str],
    reasons: list[Reason],
) -> tuple[str, Literal["", "virtual-machine"]]:
    """Return the unified tarball that may be listed and its type; "" when roots make an image of the same type.

    A virtual machine counts as both types, because Incus before 7.1 takes every unified tarball for a container. Roots
    that came after the tarball was published are taken out of `roots` instead.
    """
    unified = next(iter(_one_per_ftype(record, kinds, accepted, Role.UNIFIED, reasons).values()), "")
    if not unified:
        return "", ""
    is_vm = record.files[unified].content == "virtual-machine"
    again = [file for file in record.published if file in being_read(reasons) and kinds[file].role is Role.ROOT]
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
            "take one of them at random; delete one, or upload it as a separate product"
        )
        reasons.append(Reason(unified, "warning", sentence))
        return "", ""
    if is_vm:
        reasons.append(Reason(unified, "warning", f"{unified} {_WHOLE_VM}"))
    return unified, "virtual-machine" if is_vm else ""


def _one_per_ftype(
    record: Record, kinds: Mapping[str, FileKind], accepted: dict[str, FileKind], role: Role, reasons: list[Reason]
) -> dict[str, str]:
    """Return one file of a role for each ftype: the catalog has no place for a second.

    It is the one that was published, even while new bytes of it are being read; otherwise the preferred one.
    """
    again = [file for file in record.published if file in being_read(reasons) and file in kinds]
    chosen: dict[str, str] = {}
    for file in sorted([*accepted, *again], key=lambda file: file not in record.published):
        kind = kinds[file]
        slot = "unified tarball" if role is Role.UNIFIED else kind.ftype
        if kind.role is role and (first := chosen.setdefault(slot, file)) != file:
            what = "metadata tarball" if role is Role.METADATA else slot
            sentence = f"{file} is a second {what} beside {first}, expected one in a version; delete one of them"
            reasons.append(Reason(file, "error", sentence, "second"))
    return {slot: file for slot, file in chosen.items() if file in accepted}


def being_read(reasons: Iterable[Reason]) -> set[str]:
    return {reason.file for reason in reasons if reason.kind == "waiting" and reason.file}


def _late(record: Record, file: str, first: str, why: str) -> Reason:
    sentence = (
        f"{file} came after {record.version} was published with {first}, and {why}: it is not listed; delete it, or "
        "upload all files as a new version, roots last"
    )
    return Reason(file, "error", sentence, "late")
