"""The fold: records of products -> a stream's products document, the index, and what is not listed.

Everything here is a pure function of the records. A product is rendered from its own records; what two
products may not share (a fingerprint, an alias of one architecture) is ingested over the whole document by
rules that do not depend on who came first:

- a fingerprint is listed once: by the first product by name, there by the newest version;
- an alias that a product's path gives it is its own, also while another product lists its image; any other goes to
  the first product by name.

The document remembers in `withheld` what lost, so folding one product finds every other product that is
touched by it: `fold` asks for their records instead of guessing (`Folded.needs`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from imageserver.errors import CatalogDamaged
from imageserver.format import architectures, documents, file_kinds
from imageserver.format.documents import Index, IndexEntry, Item, Product, Products, Unlisted, Version, Withheld
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId, version_form, version_moment
from imageserver.versions.assessment import Assessment, assess, overrides
from imageserver.versions.records import Record
from imageserver.versions.state import State

_ITEM_ATTRIBUTES: Final = {field.encode_name: field.name for field in msgspec.structs.fields(Item)}
_COMBINED_ATTRIBUTES: Final = [name for field, name in _ITEM_ATTRIBUTES.items() if field.startswith("combined_")]


UNLISTED: Final = frozenset({State.INCOMPLETE, State.INVALID})
"""States that `<stream>.unlisted.json` tells: something was uploaded, and clients see nothing of it."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded document, or the names of the products whose records are needed to fold at all."""

    document: Products
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Build:
    """A sound version on its way into the catalog. `fingerprints`: file of a root -> what clients compare."""

    name: str
    record: Record
    assessment: Assessment
    fingerprints: dict[str, tuple[str, ...]]

    def without(self, file: str) -> "_Build":
        """The same version without one of its roots."""
        left = {f: v for f, v in self.fingerprints.items() if f != file}
        roots = {ftype: f for ftype, f in self.assessment.roots.items() if f != file}
        unified = "" if self.assessment.unified == file else self.assessment.unified
        assessment = msgspec.structs.replace(self.assessment, roots=roots, unified=unified)
        return _Build(self.name, self.record, assessment, left)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A product as its own records have it; builds newest first."""

    id: ProductId
    builds: tuple[_Build, ...]
    withheld: tuple[Withheld, ...]

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(fp for build in self.builds for fps in build.fingerprints.values() for fp in fps)


def fold(
    document: Products, changed: Mapping[ProductId, Sequence[Record]], clients: Sequence[str] = ALL_CLIENTS
) -> Folded:
    """Put the products that changed, each with all of its records, into a stream's document.

    Returns `needs` when other products share a fingerprint with one of these now or did before: read
    their records too, and fold again with them. A product without a listed version leaves the document.
    """
    candidates = {product.name: _candidate(product, changed[product], clients) for product in sorted(changed)}
    if needs := _entangled(document, candidates):
        return Folded(document, needs)
    products = {name: product for name, product in document.products.items() if name not in candidates}
    withheld = {name: entries for name, entries in document.withheld.items() if name not in candidates}
    for name, candidate in _each_fingerprint_once(candidates).items():
        if candidate.builds:
            products[name] = _product(candidate, clients)
        if candidate.withheld:
            withheld[name] = candidate.withheld
    products, withheld = _each_alias_once(products, withheld, document.content_id)
    return Folded(msgspec.structs.replace(document, products=products, withheld=withheld))


def fold_index(index: Index, document: Products) -> Index:
    """The index with the entry of one stream as its products document wants it; without products, no entry."""
    stream = document.content_id
    entries = {name: entry for name, entry in index.index.items() if name != stream}
    if document.products:
        entries[stream] = IndexEntry(
            datatype=document.datatype,
            format=document.format,
            path=documents.products_key(stream),
            products=sorted(document.products),
        )
    return msgspec.structs.replace(index, index=entries)


def fold_unlisted(unlisted: Unlisted, changed: Mapping[ProductId, Sequence[Record]]) -> Unlisted:
    """What was uploaded and is not listed, with the products that changed brought up to date."""
    products = dict(unlisted.products)
    for product, versions in changed.items():
        assessed = {record.id.version: assess(record).state for record in versions}
        states = {version: state.value for version, state in assessed.items() if state in UNLISTED}
        if states:
            products[product.name] = states
        else:
            products.pop(product.name, None)
    return msgspec.structs.replace(unlisted, products=products)


def product_id(stream: str, name: str) -> ProductId:
    """The product that a name of the catalog means in a stream; CatalogDamaged when it is no product's name."""
    parts = name.split(":")
    if len(parts) != 4:
        raise CatalogDamaged(
            f"the catalog of {stream} names a product {name!r}, expected os:release:arch:variant; "
            "delete the products document and rebuild the catalog from the records"
        )
    return ProductId(stream, *parts)


def _candidate(product: ProductId, versions: Sequence[Record], clients: Sequence[str]) -> _Candidate:
    assessments = {record.id.version: (record, assess(record)) for record in versions}
    sound = {name: pair for name, pair in assessments.items() if pair[1].state is State.COMPLETE}
    form = _common_form(sound)
    builds = []
    withheld = []
    for name in sorted(sound, key=lambda name: (version_moment(name), name), reverse=True):
        record, assessment = sound[name]
        if version_form(name) == form:
            builds.append(_Build(name, record, assessment, _fingerprints(record, assessment, clients)))
        else:
            withheld.append(Withheld(version=name, reason=_wrong_form(name, form)))
    return _Candidate(product, tuple(builds), tuple(withheld))


def _common_form(names: Iterable[str]) -> str:
    """The form that most versions of a product have, and among equals that of the oldest.

    Clients order versions as texts, so two forms in one product would be out of order.
    """
    ordered = sorted(names, key=version_moment)
    count = Counter(version_form(name) for name in ordered)
    return max(count, key=lambda form: count[form], default="")  # max and Counter keep the order of first sight


def _wrong_form(name: str, form: str) -> str:
    return (
        f"the version {name} is named {version_form(name)}, expected {form} as most versions of this product are: "
        "clients order versions as texts; upload it again under a name of that form"
    )


def _fingerprints(record: Record, assessment: Assessment, clients: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """File of a root -> its fingerprint, or two when LXD and Incus have a metadata file each."""
    metadata = {assessment.metadata[file_kinds.METADATA_FTYPES[client]] for client in clients if assessment.metadata}
    prints = {
        file: tuple(sorted({record.files[file].combined[record.files[meta].sha256] for meta in metadata}))
        for file in assessment.roots.values()
    }
    if assessment.unified:
        prints[assessment.unified] = (record.files[assessment.unified].sha256,)
    return prints


def _entangled(document: Products, candidates: Mapping[str, _Candidate]) -> frozenset[str]:
    """Products outside of `candidates` that list, or wait for, a fingerprint of one of them."""
    gained: set[bytes] = set()
    for name, candidate in candidates.items():
        before = _listed_fingerprints(document.products[name]) if name in document.products else set()
        gained |= {fp.encode() for fp in candidate.fingerprints - before}
    others = {name: product for name, product in document.products.items() if name not in candidates}
    listing = (name for name, product in others.items() if gained and _mentions(product, gained))
    waiting = (
        name
        for name, entries in document.withheld.items()
        if name not in candidates
        for entry in entries
        if entry.fingerprint.encode() in gained or entry.held_by in candidates
    )
    return frozenset((*listing, *waiting))


def _listed_fingerprints(product: Product) -> set[str]:
    """What clients compare of a product, as the document has it."""
    found: set[str] = set()
    for version in documents.decode_versions(product).values():
        for item in version.items.values():
            unified = item.ftype in file_kinds.UNIFIED_FTYPES.values()
            found |= {item.sha256} if unified else {getattr(item, field) for field in _COMBINED_ATTRIBUTES}
    return found


def _mentions(product: Product, fingerprints: set[bytes]) -> bool:
    text = bytes(product.versions)  # a search in the raw JSON: decoding every product would cost far more
    return any(fingerprint in text for fingerprint in fingerprints)


def _each_fingerprint_once(candidates: Mapping[str, _Candidate]) -> dict[str, _Candidate]:
    seen: dict[str, tuple[str, str]] = {}
    return {name: _without_listed(candidates[name], seen) for name in sorted(candidates)}


def _without_listed(candidate: _Candidate, seen: dict[str, tuple[str, str]]) -> _Candidate:
    """Take the roots out whose fingerprint is `seen`; those of the others join it, with product and version."""
    builds = []
    withheld = list(candidate.withheld)
    for build in candidate.builds:
        kept = build
        for file, prints in build.fingerprints.items():
            taken = next((fp for fp in prints if fp in seen), "")
            if taken:
                kept = kept.without(file)
                withheld.append(_duplicate(candidate.id.name, build.name, file, taken, seen[taken]))
            else:
                seen.update(dict.fromkeys(prints, (candidate.id.name, build.name)))
        if kept.fingerprints:
            builds.append(kept)
    return _Candidate(candidate.id, tuple(builds), tuple(sorted(withheld)))


def _duplicate(product: str, version: str, file: str, fingerprint: str, holder: tuple[str, str]) -> Withheld:
    # Of another product only the name: which of its versions lists the image may change without a fold here.
    held_by = f"{product}/{holder[1]}" if holder[0] == product else holder[0]
    return Withheld(
        version=version,
        file=file,
        fingerprint=fingerprint,
        held_by=held_by,
        reason=f"{version}/{file} is the same image as one that {held_by} lists: clients fail when they see it twice",
    )


def _product(candidate: _Candidate, clients: Sequence[str]) -> Product:
    product, newest = candidate.id, overrides(candidate.builds[0].record)
    listed_roots = {build.name: frozenset(build.assessment.roots) for build in candidate.builds}
    versions = {build.name: _version(build, listed_roots, clients) for build in candidate.builds}
    return Product(
        aliases=",".join(_claims(product, newest.aliases)),
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


def _version(build: _Build, listed_roots: Mapping[str, frozenset[str]], clients: Sequence[str]) -> Version:
    assessment = build.assessment
    listed: dict[str, Item] = {}
    if assessment.roots:
        for client in clients:
            ftype = file_kinds.METADATA_FTYPES[client]
            listed[ftype] = _metadata_item(build, ftype)
    for ftype, file in assessment.roots.items():
        listed[file] = _item(build, file, ftype)
    if assessment.unified:
        for client in clients:
            ftype = file_kinds.UNIFIED_FTYPES[client]
            listed[ftype] = _item(build, assessment.unified, ftype)
    for ftype, files in assessment.deltas.items():
        for file in files:
            base = file_kinds.classify(file).delta_base
            if ftype.removesuffix(".vcdiff") in assessment.roots.keys() & listed_roots.get(base, frozenset()):
                listed[file] = msgspec.structs.replace(_item(build, file, ftype), delta_base=base)
    return Version(items=listed, label=overrides(build.record).label)


def _metadata_item(build: _Build, ftype: str) -> Item:
    file = build.assessment.metadata[ftype]
    sha256 = build.record.files[file].sha256
    combined = {
        _ITEM_ATTRIBUTES[field]: build.record.files[root].combined[sha256]
        for root_ftype, root in build.assessment.roots.items()
        for field in file_kinds.combined_fields(root_ftype)
    }
    return msgspec.structs.replace(_item(build, file, ftype), **combined)


def _item(build: _Build, file: str, ftype: str) -> Item:
    facts = build.record.files[file]
    return Item(ftype=ftype, path=f"{build.record.version}/{file}", sha256=facts.sha256, size=facts.size_bytes)


def _claims(product: ProductId, extra: Iterable[str]) -> tuple[str, ...]:
    """Every alias a product asks for: its path's, then the others in alphabetical order."""
    own = product.path_aliases
    return (*own, *sorted(set(extra) - set(own)))


def _each_alias_once(
    products: dict[str, Product], withheld: dict[str, tuple[Withheld, ...]], stream: str
) -> tuple[dict[str, Product], dict[str, tuple[Withheld, ...]]]:
    """Give each alias to one product of an architecture; clients would take whichever sorts first."""
    ids = {name: product_id(stream, name) for name in sorted(products)}
    claims = {
        name: _claims(ids[name], (*_aliases(products[name]), *(w.alias for w in withheld.get(name, ()) if w.alias)))
        for name in ids
    }
    owner = _owners(ids, claims, (product_id(stream, name) for name in _waiting(products, withheld)))
    ingested: dict[str, Product] = {}
    for name, product in ids.items():
        lost = {alias: held_by for alias in claims[name] if (held_by := owner[_arch(product), alias]) != name}
        kept = ",".join(alias for alias in claims[name] if alias not in lost)
        now = products[name]
        ingested[name] = now if kept == now.aliases else msgspec.structs.replace(now, aliases=kept)
        others = tuple(w for w in withheld.get(name, ()) if not w.alias)
        withheld[name] = (*(_lost_alias(alias, held_by) for alias, held_by in sorted(lost.items())), *others)
    return ingested, {name: entries for name, entries in withheld.items() if entries}


def _waiting(products: Mapping[str, Product], withheld: Mapping[str, tuple[Withheld, ...]]) -> list[str]:
    """The products of which nothing is listed because others list the same images."""
    return sorted(name for name, entries in withheld.items() if name not in products and any(w.file for w in entries))


def _owners(
    listed: Mapping[str, ProductId], claims: Mapping[str, Iterable[str]], waiting: Iterable[ProductId]
) -> dict[tuple[str, str], str]:
    """(architecture, alias) -> the one product that has it. Whose image is listed by another keeps its own name."""
    owner: dict[tuple[str, str], str] = {}
    for product in (*listed.values(), *waiting):
        for alias in product.path_aliases:
            owner.setdefault((_arch(product), alias), product.name)
    for name, product in listed.items():
        for alias in claims[name]:
            owner.setdefault((_arch(product), alias), name)
    return owner


def _arch(product: ProductId) -> str:
    return architectures.canonical(product.arch) or product.arch


def _aliases(product: Product) -> list[str]:
    return product.aliases.split(",") if product.aliases else []


def _lost_alias(alias: str, held_by: str) -> Withheld:
    return Withheld(alias=alias, held_by=held_by, reason=f"the alias {alias} is taken by {held_by}")
