"""Decide what two products may not share: a fingerprint, and an alias of one architecture.

Both are decided over a whole stream, and over all streams (`streams`), by rules that depend on the records alone and
never on the order of events:

- an image is listed once: by the product that uploaded it first, in its newest version;
- an alias from a product's path is its own, even while another product lists its image; any other alias goes to the
first product by name. The time of upload cannot decide: retention deletes the oldest upload of a product that publishes
daily, and its alias would move to a product that asked for it once.

The document remembers the losers in `withheld`, so that a change of one product finds every other product it affects.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import msgspec

from imageserver.catalog.aliases import in_order
from imageserver.catalog.candidates import Build, Candidate
from imageserver.format import architectures, documents
from imageserver.format.documents import Product, Products, Withheld, product_id
from imageserver.format.keys import ProductId

_SHA256: Final = re.compile(rb"[0-9a-f]{64}")
_FEW: Final = 20
"""Up to this many fingerprints are searched for one by one; more would cost their number times the size of the
catalog."""
_AT_ONCE: Final = 64
"""Products that are searched as one text."""


def entangled(document: Products, candidates: Mapping[str, Candidate]) -> frozenset[str]:
    """Return the products outside `candidates` that list, or wait for, a fingerprint of one of them."""
    gained: set[bytes] = set()
    for name, candidate in candidates.items():
        before: set[str] = set()
        for version in documents.versions_of(document, name).values():
            before.update(documents.images(version))
        gained |= {fp.encode() for fp in candidate.fingerprints - before}
    others = {name: product for name, product in document.products.items() if name not in candidates}
    touched = set(_listing(others, gained)) if gained else set()
    for name in document.withheld.keys() - candidates.keys():
        entries = document.withheld[name]
        if any(entry.fingerprint.encode() in gained or entry.held_by in candidates for entry in entries):
            touched.add(name)
    return frozenset(touched)


def connected(known: Iterable[Products], products: Iterable[ProductId]) -> set[ProductId]:
    """Return these products and all that they touch in turn: those that wait for one, and those that one waits for.

    `known` are the documents that say so. Finding them by repeated folds would take as many folds as the chain has
    products, each of all products found before.
    """
    beside: dict[ProductId | str, list[ProductId | str]] = defaultdict(list)  # products, and fingerprints between them
    for document in known:
        for name, entries in document.withheld.items():
            product = product_id(document.content_id, name)
            for entry in entries:
                for neighbour in _neighbours(document.content_id, entry):
                    beside[neighbour].append(product)
                    if entry.fingerprint or isinstance(neighbour, str) or neighbour.stream != product.stream:
                        beside[product].append(neighbour)  # a claim to a name of its own stream decides nothing
    found: set[ProductId | str] = set()
    left: list[ProductId | str] = list(products)
    while left:
        if (one := left.pop()) not in found:
            found.add(one)
            left += beside[one]
    return {one for one in found if isinstance(one, ProductId)}


def _neighbours(stream: str, entry: Withheld) -> Iterator[ProductId | str]:
    """Yield the product listed in place of a withheld entry, and the fingerprint that others may wait for too."""
    if entry.fingerprint:
        yield entry.fingerprint
    if entry.held_by and "/" not in entry.held_by:
        yield documents.holder_elsewhere(entry.held_by) or product_id(stream, entry.held_by)


def _listing(products: Mapping[str, Product], fingerprints: Collection[bytes]) -> Iterator[str]:
    """Yield the products that list one of these fingerprints, by their raw JSON.

    One search in a text of many products takes a third of the time of one in each; a whole stream's would take memory.
    """

    def is_in(found: Iterable[Product]) -> bool:
        text = documents.raw_versions(found)
        if len(fingerprints) <= _FEW:
            return any(fingerprint in text for fingerprint in fingerprints)
        return not frozenset(fingerprints).isdisjoint(_SHA256.findall(text))

    names = list(products)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        if is_in(map(products.__getitem__, some)):
            yield from (name for name in some if is_in([products[name]]))


def each_fingerprint_once(candidates: Mapping[ProductId, Candidate]) -> dict[ProductId, Candidate]:
    """Leave each image to the product that uploaded it first, and note in the others which product lists it."""
    builds: dict[ProductId, dict[str, Build]] = {id_: {b.name: b for b in c.builds} for id_, c in candidates.items()}
    withheld = {id_: list(candidate.withheld) for id_, candidate in candidates.items()}
    seen: dict[str, tuple[ProductId, str]] = {}
    for id_, build, file in _in_order_of_upload(candidates):
        fingerprints = build.images[file].fingerprints
        taken = next((fingerprint for fingerprint in fingerprints if fingerprint in seen), "")
        if taken:
            builds[id_][build.name] = builds[id_][build.name].without(file)
            withheld[id_].append(_duplicate(id_, build.name, file, taken, seen[taken]))
        else:
            seen.update(dict.fromkeys(fingerprints, (id_, build.name)))
    return {
        id_: replace(
            candidate,
            builds=tuple(build for build in builds[id_].values() if build.images),
            withheld=tuple(sorted(withheld[id_])),
        )
        for id_, candidate in candidates.items()
    }


def _in_order_of_upload(candidates: Mapping[ProductId, Candidate]) -> Iterator[tuple[ProductId, Build, str]]:
    """Yield product, build and root of every image; among equal images the one to list comes first."""
    first: dict[tuple[ProductId, str], str] = {}
    builds = [(id_, build) for id_, candidate in candidates.items() for build in candidate.builds]
    images = [(id_, build, file) for id_, build in builds for file in build.images]
    for id_, build, file in images:
        image = build.images[file]
        for fingerprint in image.fingerprints:
            first[id_, fingerprint] = min(image.uploaded, first.get((id_, fingerprint), image.uploaded))

    def order(entry: tuple[ProductId, Build, str]) -> tuple[str, str, str]:
        id_, build, file = entry
        return min(first[id_, fp] for fp in build.images[file].fingerprints), id_.stream, id_.name

    yield from sorted(images, key=order)  # a stable sort: within one product the newest build stays first


def _duplicate(
    product: ProductId, version: str, file: str, fingerprint: str, holder: tuple[ProductId, str]
) -> Withheld:
    # Only the name of another product: which of its versions lists the image may change without a fold here.
    name = documents.named(holder[0], product.stream)
    held_by = f"{name}/{holder[1]}" if holder[0] == product else name
    return Withheld(
        version=version,
        file=file,
        fingerprint=fingerprint,
        held_by=held_by,
        reason=f"{version}/{file} is the same image as one that {held_by} lists: clients fail when they see it twice",
    )


def shared_with(streams: Iterable[Products], product: ProductId, fingerprints: Collection[str]) -> list[str]:
    """Return a sentence about each image and each alias of `product` that another product asked for too.

    `streams` are the documents of all streams, because clients read them as one list. `fingerprints` are those of the
    version in question; copies of other versions are left out.
    """
    found = []
    for document in sorted(streams, key=lambda document: (document.content_id != product.stream, document.content_id)):
        holder = documents.named(product, document.content_id)
        for name, entries in sorted(document.withheld.items()):
            other = documents.named(product_id(document.content_id, name), product.stream)
            for entry in entries:
                if entry.held_by != holder:
                    continue
                if entry.alias:
                    found.append(f"{other} asks for the alias {entry.alias} too; it stays with {product.name}")
                elif entry.fingerprint in fingerprints:
                    copy = f"{other}/{entry.version}/{entry.file}"
                    found.append(f"{copy} is a copy of this image; it is listed here only")
    return found


def each_alias_once(
    products: dict[str, Product], withheld: dict[str, tuple[Withheld, ...]], stream: str
) -> tuple[dict[str, Product], dict[str, tuple[Withheld, ...]]]:
    """Give each alias to one product per architecture; otherwise clients would take whichever sorts first."""
    ids = {name: product_id(stream, name) for name in sorted(products)}
    wanted = {}
    for name, product in ids.items():
        entries = withheld.get(name, ())
        lost_before = (entry.alias for entry in entries if _is_of_this_stream(entry))
        asked = in_order(product, filter(None, (*products[name].aliases.split(","), *lost_before)))
        elsewhere = {entry.alias for entry in entries if documents.holder_elsewhere(entry.held_by)}
        wanted[name] = tuple(alias for alias in asked if alias not in elsewhere)
    # Products with nothing listed because others list the same images.
    waiting = sorted(name for name, ws in withheld.items() if name not in products and any(w.file for w in ws))
    owner = _owners(ids, wanted, [product_id(stream, name) for name in waiting])
    with_own: dict[str, Product] = {}
    for name, product in ids.items():
        lost = {alias: held_by for alias in wanted[name] if (held_by := owner(product, alias)) != name}
        kept = ",".join(alias for alias in wanted[name] if alias not in lost)
        now = products[name]
        with_own[name] = now if kept == now.aliases else msgspec.structs.replace(now, aliases=kept)
        others = tuple(w for w in withheld.get(name, ()) if not _is_of_this_stream(w))
        gone = [
            Withheld(alias=alias, held_by=held_by, reason=f"the alias {alias} is taken by {held_by}")
            for alias, held_by in sorted(lost.items())
        ]
        withheld[name] = (*gone, *others)
    return with_own, {name: entries for name, entries in withheld.items() if entries}


def _is_of_this_stream(entry: Withheld) -> bool:
    """Return whether an entry is about an alias that another product of the stream has.

    Each fold decides these anew.
    """
    return bool(entry.alias and entry.held_by and documents.holder_elsewhere(entry.held_by) is None)


def _owners(
    listed: Mapping[str, ProductId], wanted: Mapping[str, Iterable[str]], waiting: Iterable[ProductId]
) -> Callable[[ProductId, str], str]:
    """Return the function that names the one product to have an alias that a product asks for.

    A product keeps its name even if another lists its image. Products of a plain architecture come before those that
    need a higher level of the processor: an image for amd64v3 does not run on every machine whose client resolves the
    alias to it.
    """
    by_path: dict[tuple[str, str], str] = {}
    listed = dict(sorted(listed.items(), key=lambda item: architectures.level(item[1].arch)))
    for product in sorted((*listed.values(), *waiting), key=lambda product: architectures.level(product.arch)):
        arch, name = architectures.kernel_name(product.arch), product.name
        for alias in product.path_aliases:
            by_path.setdefault((arch, alias), name)
    arches = {name: architectures.kernel_name(product.arch) for name, product in listed.items()}

    def leads_to(product: ProductId, alias: str) -> str:
        """Return the other product whose path gives the name that clients derive from this alias, or nothing."""
        holder = by_path.get((arches[product.name], f"{alias}/{product.arch}"), product.name)
        return "" if holder == product.name or alias in product.path_aliases else holder

    owner = dict(by_path)
    for name, product in listed.items():
        for alias in wanted[name]:
            if not leads_to(product, alias):
                owner.setdefault((arches[name], alias), name)
    added = {}  # clients add `<alias>/<architecture>` to each alias, so the owner of one owns the other
    for name in listed:
        for alias in wanted[name]:
            base, _, arch = alias.rpartition("/")
            if not architectures.canonical(arch):
                continue
            holder = owner.get((arches[name], base), "")
            if holder in listed and listed[holder].arch == arch:
                added[arches[name], alias] = holder
    owner |= added
    return lambda product, alias: leads_to(product, alias) or owner[arches[product.name], alias]
