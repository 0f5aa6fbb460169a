"""The fold: records of products -> a stream's products document, the index, and the list of unlisted uploads.

Everything here is a pure function of the records. A product is rendered from its own records (`render`); what two
products may not share is decided over the whole document (`conflicts`). `fold` asks for the records of the other
products that are affected (`Folded.needs`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from imageserver.catalog.aliases import asked_aliases, taken_elsewhere
from imageserver.catalog.candidates import candidate
from imageserver.catalog.conflicts import connected, each_alias_once, each_fingerprint_once, entangled
from imageserver.catalog.dropped import dropped_overrides
from imageserver.catalog.listed_deltas import with_deltas
from imageserver.catalog.render import render
from imageserver.catalog.rights import NOBODY, Rights
from imageserver.catalog.streams import ALONE, Streams, names_lost
from imageserver.format import documents
from imageserver.format.documents import Index, IndexEntry, Products, Unlisted, product_id
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId
from imageserver.versions.assessment import assess
from imageserver.versions.records import Record
from imageserver.versions.state import State

UNLISTED: Final = frozenset({State.INCOMPLETE, State.INVALID})
"""States that `<stream>.unlisted.json` reports: something was uploaded, and clients see none of it."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded document, or the products whose records are needed to fold at all.

    `outdated` are products of other streams whose documents no longer agree with the records of both streams.
    """

    document: Products
    needs: frozenset[ProductId] = frozenset()
    outdated: frozenset[ProductId] = frozenset()


def fold(
    document: Products,
    changed: Mapping[ProductId, Sequence[Record]],
    clients: Sequence[str] = ALL_CLIENTS,
    rights: Rights = NOBODY,
    streams: Streams = ALONE,
) -> Folded:
    """Fold the changed products, each with all of its records, into a stream's document.

    Returns `needs` when other products share a fingerprint with one of these now or did before, and those that these
    touch in turn: read their records too, and fold again with them. `streams` has this document and those of all other
    streams, of which `changed` has the products that were needed. A product without a listed version leaves the
    document.
    """
    stream = document.content_id
    candidates = {product: candidate(product, changed[product], clients) for product in sorted(changed)}
    mine = {product.name: found for product, found in candidates.items() if product.stream == stream}
    needs = {product_id(stream, name) for name in entangled(document, mine)} | streams.needs(candidates, stream)
    if needs:
        known = {**streams.documents, stream: document}.values()
        return Folded(document, frozenset(connected(known, needs) - candidates.keys()))
    resolved = each_fingerprint_once(candidates)
    names = {product: asked_aliases(found, rights) for product, found in resolved.items()}
    asked = {product: allowed for product, (allowed, _) in names.items()}
    lost = names_lost(candidates, asked, rights)
    products = {name: product for name, product in document.products.items() if name not in mine}
    withheld = {name: entries for name, entries in document.withheld.items() if name not in mine}
    for name in mine:
        product = product_id(stream, name)
        listed = with_deltas(resolved[product])
        entries = (*listed.withheld, *dropped_overrides(listed))
        if listed.builds:
            elsewhere = {alias: lost[product, alias] for alias in asked[product] if (product, alias) in lost}
            aliases = [alias for alias in asked[product] if alias not in elsewhere]
            products[name] = render(listed, clients, aliases)
            entries = (*names[product][1], *map(taken_elsewhere, elsewhere, elsewhere.values()), *entries)
        if entries:
            withheld[name] = tuple(sorted(entries))
    products, withheld = each_alias_once(products, withheld, stream)
    outdated = frozenset(streams.outdated(stream, resolved, asked, lost))
    return Folded(msgspec.structs.replace(document, products=products, withheld=withheld), outdated=outdated)


def fold_index(index: Index, document: Products) -> Index:
    """Return the index with one stream's entry brought up to date; a stream without products has no entry.

    A stream whose products wait for one of another stream has an entry without products, which clients skip. That entry
    lets the other stream find it.
    """
    stream = document.content_id
    found = {name: entry for name, entry in index.index.items() if name != stream}
    withheld = (entry for entries in document.withheld.values() for entry in entries)
    if document.products or any(documents.holder_elsewhere(entry.held_by) for entry in withheld):
        found[stream] = IndexEntry(
            datatype=document.datatype,
            format=document.format,
            path=documents.products_key(stream),
            products=sorted(document.products),
        )
    return msgspec.structs.replace(index, index=found)


def fold_unlisted(unlisted: Unlisted, changed: Mapping[ProductId, Sequence[Record]]) -> Unlisted:
    """Return the unlisted uploads, with those of the changed products brought up to date."""
    products = dict(unlisted.products)
    for product, versions in changed.items():
        assessed = {record.id.version: assess(record).state for record in versions}
        states = {version: state.value for version, state in assessed.items() if state in UNLISTED}
        if states:
            products[product.name] = states
        else:
            products.pop(product.name, None)
    return msgspec.structs.replace(unlisted, products=products)
