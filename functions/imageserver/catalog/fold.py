"""The fold: records of products -> a stream's products document, the index, and what is not listed.

Everything here is a pure function of the records. A product is rendered from its own records (`render`); what two
products may not share is decided over the whole document (`conflicts`). `fold` asks for the records of the products
that are touched instead of guessing (`Folded.needs`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from imageserver.catalog.candidates import candidate
from imageserver.catalog.conflicts import each_alias_once, each_fingerprint_once, entangled
from imageserver.catalog.deltas import with_deltas
from imageserver.catalog.dropped import dropped_overrides
from imageserver.catalog.render import render
from imageserver.format import documents
from imageserver.format.documents import Index, IndexEntry, Products, Unlisted
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId
from imageserver.versions.assessment import assess
from imageserver.versions.records import Record
from imageserver.versions.state import State

UNLISTED: Final = frozenset({State.INCOMPLETE, State.INVALID})
"""States that `<stream>.unlisted.json` tells: something was uploaded, and clients see nothing of it."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded document, or the names of the products whose records are needed to fold at all."""

    document: Products
    needs: frozenset[str] = frozenset()


def fold(
    document: Products, changed: Mapping[ProductId, Sequence[Record]], clients: Sequence[str] = ALL_CLIENTS
) -> Folded:
    """Put the products that changed, each with all of its records, into a stream's document.

    Returns `needs` when other products share a fingerprint with one of these now or did before: read
    their records too, and fold again with them. A product without a listed version leaves the document.
    """
    candidates = {product.name: candidate(product, changed[product], clients) for product in sorted(changed)}
    if needs := entangled(document, candidates):
        return Folded(document, needs)
    products = {name: product for name, product in document.products.items() if name not in candidates}
    withheld = {name: entries for name, entries in document.withheld.items() if name not in candidates}
    for name, listed in each_fingerprint_once(candidates).items():
        listed = with_deltas(listed)
        if listed.builds:
            products[name] = render(listed, clients)
        if entries := (*listed.withheld, *dropped_overrides(listed)):
            withheld[name] = tuple(sorted(entries))
    products, withheld = each_alias_once(products, withheld, document.content_id)
    return Folded(msgspec.structs.replace(document, products=products, withheld=withheld))


def fold_index(index: Index, document: Products) -> Index:
    """Return the index with the entry of one stream as its products document wants it; without products, no entry."""
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
    """Return what was uploaded and is not listed, with the products that changed brought up to date."""
    products = dict(unlisted.products)
    for product, versions in changed.items():
        assessed = {record.id.version: assess(record).state for record in versions}
        states = {version: state.value for version, state in assessed.items() if state in UNLISTED}
        if states:
            products[product.name] = states
        else:
            products.pop(product.name, None)
    return msgspec.structs.replace(unlisted, products=products)
