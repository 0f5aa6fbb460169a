"""Choose the deltas that clients can be shown.

A client that holds the base of a delta downloads the delta in place of the root. Four client habits decide here
(shared/simplestreams/products.go, and the daemons' image download):

- Every Incus up to 7.3, and LXD before 5.0.7, 5.21.5 and 6.8, apply several deltas of one root one after the other,
  and a client with both bases ends up with a wrong image. So each root has one delta at most.
- Incus, and LXD before 5.0.4, 5.21.2 and 6.1, take the squashfs of the base version as the source, even for the delta
of a disk. If the base lists a squashfs, they would patch the container's file.
- All skip a delta whose base is not listed.
- A delta that xdelta3 cannot apply fails the download; the client does not fall back to the whole root.
"""

from collections.abc import Mapping
from dataclasses import replace

from imageserver.catalog.candidates import Build, Candidate
from imageserver.format import file_kinds
from imageserver.format.documents import Withheld
from imageserver.format.file_kinds import SQUASHFS


def with_deltas(candidate: Candidate) -> Candidate:
    """Choose for each root the delta with the newest base; withhold the others with a reason."""
    builds = {build.name: build for build in candidate.builds}  # newest first
    order = {name: number for number, name in enumerate(builds)}
    chosen, withheld = [], list(candidate.withheld)
    for build in candidate.builds:
        deltas: dict[str, str] = {}
        for ftype, files in build.assessment.deltas.items():
            root = ftype.removesuffix(".vcdiff")
            bases = {file: file_kinds.classify(file).delta_base for file in files}
            wrong = {file: _wrong(build, file, root, builds) for file in files}
            usable = sorted((file for file in files if not wrong[file]), key=lambda file: order[bases[file]])
            for file in usable[:1]:
                deltas[file] = bases[file]
            for file in usable[1:]:
                wrong[file] = f"is a second delta beside {usable[0]}, whose base is newer"
            withheld += [_withheld(build.name, file, why) for file, why in wrong.items() if why]
        chosen.append(replace(build, deltas=deltas))
    return replace(candidate, builds=tuple(chosen), withheld=tuple(sorted(withheld)))


def _wrong(build: Build, file: str, root: str, builds: Mapping[str, Build]) -> str:
    """Return why a delta of this kind of root cannot be listed; empty when it can."""
    base = file_kinds.classify(file).delta_base
    if root not in build.assessment.roots:
        return f"has no {root} beside it that is listed"
    listed = builds[base].assessment.roots if base in builds and base != build.name else {}
    if root not in listed:
        return f"applies to the {root} of {base}, which is not listed"
    if root != SQUASHFS and SQUASHFS in listed:
        return f"applies to the disk of {base}, which lists a squashfs too: Incus would patch that one"
    facts = build.record.files[file]
    made, wanted = facts.delta_made_bytes, build.record.files[build.assessment.roots[root]].size_bytes
    if made and made != wanted:
        return f"makes {made:,} bytes, and the {root} beside it has {wanted:,}: it was made for another file"
    if facts.size_bytes >= wanted:
        return f"has {facts.size_bytes:,} bytes, not fewer than the {root} beside it"
    there = builds[base].record.files[listed[root]].size_bytes
    if facts.delta_base_bytes > there:
        return f"reads {facts.delta_base_bytes:,} bytes of a base, and the {root} of {base} has {there:,}"
    if root == SQUASHFS and _is_outdated(build, builds[base]):
        return f"was made by this server before the {root} of {base}, or the one beside it, was overwritten"
    return ""


def _is_outdated(build: Build, base: Build) -> bool:
    """Return whether this server made a delta between two versions whose squashfs had other bytes then."""
    note = build.record.deltas.get(base.name)
    old, new = (one.record.files[one.assessment.roots[SQUASHFS]].sha256 for one in (base, build))
    return note is not None and not note.reason and (note.base_sha256, note.root_sha256) != (old, new)


def _withheld(version: str, file: str, why: str) -> Withheld:
    return Withheld(version=version, file=file, reason=f"{version}/{file} {why}: clients download the whole root")
