"""What two products may not share: a fingerprint, and an alias of one architecture.

Both are decided over a whole stream, by rules that depend on the records alone and never on the order of events:

- an image is listed once: by the product whose upload came first, there by the newest version;
- an alias that a product's path gives it is its own, also while another product lists its image; any other goes to
  the first product by name. The time of upload would not do: retention deletes the oldest upload of a product that
  publishes daily, and its alias would move to a product that asked once.

The document remembers in `withheld` what lost, so that changing one product finds every other that it touches.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import msgspec

from imageserver.catalog.candidates import Build, Candidate
from imageserver.format import architectures, documents
from imageserver.format.documents import Product, Products, Withheld, product_id
from imageserver.format.keys import ProductId

_SHA256: Final = re.compile(rb"[0-9a-f]{64}")
_FEW: Final = 20
"""So many fingerprints are found sooner one by one; more would cost their number times the size of the catalog."""


def entangled(document: Products, candidates: Mapping[str, Candidate]) -> frozenset[str]:
    """Return the products outside of `candidates` that list, or wait for, a fingerprint of one of them."""
    gained: set[bytes] = set()
    for name, candidate in candidates.items():
        before: set[str] = set()
        if name in document.products:
            for version in documents.decode_versions(document.products[name]).values():
                before.update(documents.images(version))
        gained |= {fp.encode() for fp in candidate.fingerprints - before}
    touched = set()
    for name in document.products.keys() - candidates.keys() if gained else ():
        text = bytes(document.products[name].versions)  # a search in raw JSON: decoding every product costs far more
        if len(gained) <= _FEW:
            found = any(fingerprint in text for fingerprint in gained)
        else:
            found = not gained.isdisjoint(_SHA256.findall(text))
        if found:
            touched.add(name)
    for name in document.withheld.keys() - candidates.keys():
        entries = document.withheld[name]
        if any(entry.fingerprint.encode() in gained or entry.held_by in candidates for entry in entries):
            touched.add(name)
    return frozenset(touched)


def each_fingerprint_once(candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Leave each image to the product whose upload of it came first, and tell the others which one has it."""
    builds: dict[str, dict[str, Build]] = {name: {b.name: b for b in c.builds} for name, c in candidates.items()}
    withheld = {name: list(candidate.withheld) for name, candidate in candidates.items()}
    seen: dict[str, tuple[str, str]] = {}
    for name, build, file in _in_order_of_upload(candidates):
        fingerprints = build.images[file].fingerprints
        taken = next((fingerprint for fingerprint in fingerprints if fingerprint in seen), "")
        if taken:
            builds[name][build.name] = builds[name][build.name].without(file)
            withheld[name].append(_duplicate(name, build.name, file, taken, seen[taken]))
        else:
            seen.update(dict.fromkeys(fingerprints, (name, build.name)))
    return {
        name: replace(
            candidate,
            builds=tuple(build for build in builds[name].values() if build.images),
            withheld=tuple(sorted(withheld[name])),
        )
        for name, candidate in candidates.items()
    }


def _in_order_of_upload(candidates: Mapping[str, Candidate]) -> Iterator[tuple[str, Build, str]]:
    """Yield product, build and root of every image: of equal images the one that is to be listed comes first."""
    first: dict[tuple[str, str], str] = {}
    builds = [(name, build) for name, candidate in candidates.items() for build in candidate.builds]
    images = [(name, build, file) for name, build in builds for file in build.images]
    for name, build, file in images:
        image = build.images[file]
        for fingerprint in image.fingerprints:
            first[name, fingerprint] = min(image.uploaded, first.get((name, fingerprint), image.uploaded))

    def order(entry: tuple[str, Build, str]) -> tuple[str, str]:
        name, build, file = entry
        return min(first[name, fingerprint] for fingerprint in build.images[file].fingerprints), name

    yield from sorted(images, key=order)  # stable: of one product the newest build stays first


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


def shared_with(document: Products, product: str, fingerprints: Collection[str]) -> list[str]:
    """Return a sentence about each image and each alias that `product` has and another product asked for too.

    `fingerprints` are those of the version that is looked at; a copy of another version is none of its business.
    """
    found = []
    for name, entries in sorted(document.withheld.items()):
        for entry in entries:
            if entry.held_by != product:
                continue
            if entry.alias:
                found.append(f"{name} asks for the alias {entry.alias} too; it stays with {product}")
            elif entry.fingerprint in fingerprints:
                found.append(f"{name}/{entry.version}/{entry.file} is a copy of this image; it is listed here only")
    return found


def requested_aliases(product: ProductId, extra: Iterable[str]) -> tuple[str, ...]:
    """Return every alias a product asks for: its path's, then the others in alphabetical order."""
    own = product.path_aliases
    return (*own, *sorted(set(extra) - set(own)))


def each_alias_once(
    products: dict[str, Product], withheld: dict[str, tuple[Withheld, ...]], stream: str
) -> tuple[dict[str, Product], dict[str, tuple[Withheld, ...]]]:
    """Give each alias to one product of an architecture; clients would take whichever sorts first."""
    ids = {name: product_id(stream, name) for name in sorted(products)}
    wanted = {}
    for name, product in ids.items():
        lost_before = (entry.alias for entry in withheld.get(name, ()))
        wanted[name] = requested_aliases(product, filter(None, (*products[name].aliases.split(","), *lost_before)))
    # Products of which nothing is listed because others list the same images.
    waiting = sorted(name for name, ws in withheld.items() if name not in products and any(w.file for w in ws))
    owner = _owners(ids, wanted, [product_id(stream, name) for name in waiting])
    with_own: dict[str, Product] = {}
    for name, product in ids.items():
        lost = {alias: held_by for alias in wanted[name] if (held_by := owner[_arch(product), alias]) != name}
        kept = ",".join(alias for alias in wanted[name] if alias not in lost)
        now = products[name]
        with_own[name] = now if kept == now.aliases else msgspec.structs.replace(now, aliases=kept)
        others = tuple(w for w in withheld.get(name, ()) if not w.alias)
        gone = [
            Withheld(alias=alias, held_by=held_by, reason=f"the alias {alias} is taken by {held_by}")
            for alias, held_by in sorted(lost.items())
        ]
        withheld[name] = (*gone, *others)
    return with_own, {name: entries for name, entries in withheld.items() if entries}


def _owners(
    listed: Mapping[str, ProductId], wanted: Mapping[str, Iterable[str]], waiting: Iterable[ProductId]
) -> dict[tuple[str, str], str]:
    """Return (architecture, alias) -> the one product that has it. A product whose image another lists keeps its name.

    Products of a plain architecture go before those that ask a higher level of the processor: an image for amd64v3
    does not run on every machine that takes the alias for its own.
    """
    owner: dict[tuple[str, str], str] = {}
    listed = dict(sorted(listed.items(), key=lambda item: architectures.level(item[1].arch)))
    for product in sorted((*listed.values(), *waiting), key=lambda product: architectures.level(product.arch)):
        for alias in product.path_aliases:
            owner.setdefault((_arch(product), alias), product.name)
    for name, product in listed.items():
        for alias in wanted[name]:
            owner.setdefault((_arch(product), alias), name)
    added = {}  # clients add `<alias>/<architecture>` to each alias, so who has the one has the other
    for name, product in listed.items():
        for alias in wanted[name]:
            base, _, arch = alias.rpartition("/")
            if not architectures.canonical(arch):
                continue
            holder = owner.get((_arch(product), base), "")
            if holder in listed and listed[holder].arch == arch:
                added[_arch(product), alias] = holder
    return owner | added


def _arch(product: ProductId) -> str:
    return architectures.canonical(product.arch) or product.arch
