"""One product as clients read it: its fields, its versions, and the items of each."""

from collections.abc import Iterable, Sequence

import msgspec

from imageserver.catalog.candidates import Build, Candidate, unified_clients
from imageserver.format import documents, file_kinds
from imageserver.format.documents import Item, Product, Version
from imageserver.versions.assessment import overrides


def render(candidate: Candidate, clients: Sequence[str], aliases: Iterable[str]) -> Product:
    """Return a product with its builds and aliases. The newest build decides the fields of the product."""
    product, newest = candidate.id, overrides(candidate.builds[0].record)
    versions = {build.name: _version(build, clients) for build in candidate.builds}
    return Product(
        aliases=",".join(aliases),
        arch=product.arch,
        os=newest.os or product.os,
        release=product.release,
        release_title=newest.release_title or product.release,
        release_codename=newest.release_codename,
        variant=newest.variant or product.variant,
        version=newest.version,
        requirements=newest.requirements,
        lxd_requirements=newest.requirements,
        supported=newest.supported,
        support_eol=newest.support_eol,
        versions=documents.encode_versions(versions),
    )


def _version(build: Build, clients: Sequence[str]) -> Version:
    assessment = build.assessment
    listed: dict[str, Item] = {}
    if assessment.roots:
        for client in clients:
            ftype = file_kinds.METADATA_FTYPES[client]
            item = _item(build, assessment.metadata[ftype], ftype)
            combined = {
                documents.COMBINED_ATTRIBUTES[field]: build.record.files[root].combined[item.sha256]
                for root_ftype, root in assessment.roots.items()
                for field in file_kinds.combined_fields(root_ftype)
            }
            listed[ftype] = msgspec.structs.replace(item, **combined)
    for ftype, file in assessment.roots.items():
        listed[file] = _item(build, file, ftype)
    if assessment.unified:
        for client in unified_clients(assessment, clients):
            ftype = file_kinds.UNIFIED_FTYPES[client]
            item = _item(build, assessment.unified, ftype)
            listed[ftype] = msgspec.structs.replace(item, combined_type=assessment.unified_type)
    for file, base in build.deltas.items():
        listed[file] = msgspec.structs.replace(_item(build, file, file_kinds.classify(file).ftype), delta_base=base)
    files = [build.record.files[item.path.rpartition("/")[2]].origin for item in listed.values()]
    hosts, keys = ({getattr(one, field, "") for one in files} for field in ("host", "signed_by"))
    return Version(
        items=listed,
        label=overrides(build.record).label,
        mirrored_from=_common(hosts),
        upstream_signed_by=_common(keys),
    )


def _common(found: set[str]) -> str:
    """Return the value that all files share; empty if they differ."""
    return found.pop() if len(found) == 1 else ""


def _item(build: Build, file: str, ftype: str) -> Item:
    facts = build.record.files[file]
    return Item(ftype=ftype, path=f"{build.record.version}/{file}", sha256=facts.sha256, size=facts.size_bytes)
