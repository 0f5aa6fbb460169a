"""Which deltas a client can be shown.

A client that holds the base of a delta downloads the delta in place of the root. Three of its habits decide here
(shared/simplestreams/products.go, and the daemons' image download):

- Of several deltas of one root it applies one after the other, so that a client with both bases ends with a wrong
  image (seen with LXD 5.0.2 and every Incus up to 7.3): each root has one delta at most.
- Incus, and LXD before 5.21.1 and 6.1, take the squashfs of the base version as the source, also for the delta of a
  disk. Where the base lists a squashfs they would patch the container's file.
- A delta whose base is not listed is passed over.
"""

from collections.abc import Mapping
from dataclasses import replace

from imageserver.catalog.candidates import Build, Candidate
from imageserver.format import file_kinds
from imageserver.format.documents import Withheld
from imageserver.format.file_kinds import SQUASHFS


def with_deltas(candidate: Candidate) -> Candidate:
    """Choose the delta of each root, the one with the newest base; the others are withheld with a reason."""
    builds = {build.name: build for build in candidate.builds}  # newest first
    order = {name: number for number, name in enumerate(builds)}
    chosen, withheld = [], list(candidate.withheld)
    for build in candidate.builds:
        deltas: dict[str, str] = {}
        for ftype, files in build.assessment.deltas.items():
            root = ftype.removesuffix(".vcdiff")
            bases = {file: file_kinds.classify(file).delta_base for file in files}
            wrong = {file: _wrong(build, root, base, builds) for file, base in bases.items()}
            usable = sorted((file for file in files if not wrong[file]), key=lambda file: order[bases[file]])
            for file in usable[:1]:
                deltas[file] = bases[file]
            for file in usable[1:]:
                wrong[file] = f"is a second delta beside {usable[0]}, whose base is newer"
            withheld += [_withheld(build.name, file, why) for file, why in wrong.items() if why]
        chosen.append(replace(build, deltas=deltas))
    return replace(candidate, builds=tuple(chosen), withheld=tuple(sorted(withheld)))


def _wrong(build: Build, root: str, base: str, builds: Mapping[str, Build]) -> str:
    """Return why no client can be shown a delta of this root against this base; empty when all can."""
    if root not in build.assessment.roots:
        return f"has no {root} beside it that is listed"
    listed = builds[base].assessment.roots if base in builds and base != build.name else {}
    if root not in listed:
        return f"applies to the {root} of {base}, which is not listed"
    if root != SQUASHFS and SQUASHFS in listed:
        return f"applies to the disk of {base}, which lists a squashfs too: Incus would patch that one"
    return ""


def _withheld(version: str, file: str, why: str) -> Withheld:
    return Withheld(version=version, file=file, reason=f"{version}/{file} {why}: clients download the whole root")
