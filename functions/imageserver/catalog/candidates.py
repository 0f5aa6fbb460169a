"""Read a product from its own records: the versions that could be listed, newest first, and why others are not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from imageserver.format import file_kinds
from imageserver.format.documents import Withheld
from imageserver.format.keys import ProductId, version_form, version_moment
from imageserver.versions.assessment import Assessment, ahead_of_upload, assess
from imageserver.versions.records import Record
from imageserver.versions.state import State


@dataclass(frozen=True, slots=True)
class Image:
    """One image as clients list it: a root of a version with its metadata, or its unified tarball.

    `fingerprints` has one for each metadata file that the clients served read; `uploaded` is when the last of its
    files arrived for the first time (ISO 8601, UTC).
    """

    fingerprints: tuple[str, ...]
    uploaded: str


@dataclass(frozen=True, slots=True)
class Build:
    """A complete version on its way into the catalog.

    `images` is keyed by the file of the root. `deltas` are those that are listed: file -> version of the base.
    """

    name: str
    record: Record
    assessment: Assessment
    images: dict[str, Image]
    deltas: Mapping[str, str] = field(default_factory=dict)

    def without(self, file: str) -> "Build":
        """Return the version without one of its roots."""
        roots = {ftype: f for ftype, f in self.assessment.roots.items() if f != file}
        unified = "" if self.assessment.unified == file else self.assessment.unified
        assessment = msgspec.structs.replace(self.assessment, roots=roots, unified=unified)
        return replace(self, assessment=assessment, images={f: i for f, i in self.images.items() if f != file})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A product with the builds that could be listed, newest first, and its withheld entries."""

    id: ProductId
    builds: tuple[Build, ...]
    withheld: tuple[Withheld, ...]

    @property
    def fingerprints(self) -> frozenset[str]:
        """Every fingerprint that the product could list."""
        images = (image for build in self.builds for image in build.images.values())
        return frozenset(fingerprint for image in images for fingerprint in image.fingerprints)


def candidate(product: ProductId, versions: Sequence[Record], clients: Sequence[str]) -> Candidate:
    """Return the candidate that follows from all records of a product.

    Versions dated ahead of their upload are withheld. So are versions whose name has another form than most of the
    rest, or in a tie than the oldest.
    """
    assessments = {record.id.version: (record, assess(record)) for record in versions}
    complete = {name: pair for name, pair in assessments.items() if pair[1].state is State.COMPLETE}
    ahead = {name: why for name, (record, _) in complete.items() if (why := ahead_of_upload(record))}
    complete = {name: pair for name, pair in complete.items() if name not in ahead}
    # Clients order versions as texts, so two forms in one product would be out of order.
    forms = Counter(version_form(name) for name in sorted(complete, key=version_moment))
    form = max(forms, key=lambda form: forms[form], default="")  # in a tie the first, which the oldest version has
    listed = [assessment for name, (_, assessment) in complete.items() if version_form(name) == form]
    has_container = any(
        ftype in assessment.roots for assessment in listed for ftype in file_kinds.CONTAINER_FTYPES
    ) or any(assessment.unified and not assessment.unified_type for assessment in listed)
    builds = []
    withheld = [Withheld(version=name, reason=why) for name, why in sorted(ahead.items())]
    for name in sorted(complete, key=lambda name: (version_moment(name), name), reverse=True):
        record, assessment = complete[name]
        if version_form(name) == form:
            build = Build(name, record, assessment, _images(record, assessment, clients))
            if why := _unusable_unified(assessment, clients, has_container=has_container):
                withheld.append(Withheld(version=name, file=assessment.unified, reason=why))
                build = build.without(assessment.unified)
            builds.append(build)
        else:
            withheld.append(Withheld(version=name, reason=_wrong_form(name, form)))
    return Candidate(product, tuple(builds), tuple(withheld))


def unified_clients(assessment: Assessment, clients: Sequence[str]) -> list[str]:
    """Return the clients that can use the unified tarball of a version."""
    able = file_kinds.UNIFIED_VM_CLIENTS if assessment.unified_type else file_kinds.ALL_CLIENTS
    return [client for client in clients if client in able]


def _unusable_unified(assessment: Assessment, clients: Sequence[str], *, has_container: bool) -> str:
    """Return why the unified tarball of a version is not listed; empty when it is, or when there is none.

    Incus before 7.1 takes every unified tarball for a container, and the newest container for the product's.
    """
    if not assessment.unified_type:
        return ""
    if not unified_clients(assessment, clients):
        why = "which LXD cannot launch, and this server serves only LXD"
    elif has_container:
        why = "which Incus before 7.1 would launch as a container, in place of those that this product lists"
    else:
        return ""
    how = "upload its metadata and its disk as two files (scripts/upload splits it)"
    return f"{assessment.unified} is a virtual machine in one tarball, {why}: {how}"


def _wrong_form(name: str, form: str) -> str:
    return (
        f"the version {name} is named {version_form(name)}, expected {form} as most versions of this product are: "
        "clients order versions as texts; upload it again under a name of that form"
    )


def _images(record: Record, assessment: Assessment, clients: Sequence[str]) -> dict[str, Image]:
    """Map the file of each root to its image, which has two fingerprints where each client has its own metadata."""
    files = record.files
    metadata = {assessment.metadata[file_kinds.METADATA_FTYPES[client]] for client in clients if assessment.metadata}
    images = {
        root: Image(
            tuple(sorted({files[root].combined[files[file].sha256] for file in metadata})),
            max(files[file].first_uploaded for file in (root, *metadata)),
        )
        for root in assessment.roots.values()
    }
    if unified := assessment.unified:
        images[unified] = Image((files[unified].sha256,), files[unified].first_uploaded)
    return images
