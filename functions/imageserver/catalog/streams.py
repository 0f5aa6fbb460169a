"""Resolve conflicts between products of different streams: clients read all streams of a server as one list.

A stream's document is folded beside the documents of the others. They say which products of other streams have, or wait
for, a fingerprint or an alias of one that is folded. The records of both decide which product gets it
(`conflicts.each_fingerprint_once`, `names_lost`), so each stream comes to the same answer. If the other stream's
document says otherwise, its product is `outdated` and must be folded too.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from imageserver.catalog.candidates import Candidate
from imageserver.catalog.rights import Rights
from imageserver.format import architectures, documents
from imageserver.format.architectures import kernel_name
from imageserver.format.documents import Products, Withheld, product_id
from imageserver.format.keys import ProductId
from imageserver.versions.assessment import overrides

_DIGEST: Final = re.compile(rb'"([0-9a-f]{64})"')

Asked = Mapping[ProductId, tuple[str, ...]]
Lost = Mapping[tuple[ProductId, str], ProductId]
"""(product, alias) -> the product of another stream that has it."""


class Streams:
    """The products documents of all streams of a server, indexed by the names that their products have or wait for.

    Digests of files are indexed along with the fingerprints, because a search in raw JSON is far cheaper than decoding.
    A false match only causes records to be read that decide nothing.
    """

    def __init__(self, known: Iterable[Products]) -> None:
        self.documents = {document.content_id: document for document in known}
        self._by_fingerprint: dict[str, set[ProductId]] = defaultdict(set)
        self._by_alias: dict[tuple[str, str], set[ProductId]] = defaultdict(set)
        self._waiting: dict[ProductId, set[ProductId]] = defaultdict(set)  # keyed by the product that has the name
        for stream, document in self.documents.items():
            for name, product in document.products.items():
                id_ = product_id(stream, name)
                for digest in _DIGEST.findall(documents.raw_versions([product])):
                    self._by_fingerprint[digest.decode()].add(id_)
                self._asks(id_, filter(None, product.aliases.split(",")))
            for name, entries in document.withheld.items():
                self._waits(product_id(stream, name), entries, is_listed=name in document.products)

    def _asks(self, product: ProductId, aliases: Iterable[str]) -> None:
        for alias in aliases:
            self._by_alias[kernel_name(product.arch), alias].add(product)

    def _waits(self, product: ProductId, entries: Iterable[Withheld], *, is_listed: bool) -> None:
        for entry in entries:
            if entry.fingerprint:
                self._by_fingerprint[entry.fingerprint].add(product)
                if not is_listed:
                    self._asks(product, product.path_aliases)
            if entry.alias and entry.held_by:
                self._asks(product, [entry.alias])
            if holder := documents.holder_elsewhere(entry.held_by):
                self._waiting[holder].add(product)

    def needs(self, candidates: Mapping[ProductId, Candidate], stream: str) -> set[ProductId]:
        """Return the other products, of all streams, that share a fingerprint or an alias with a candidate."""
        found: set[ProductId] = set()
        for product, candidate in candidates.items():
            for fingerprint in candidate.fingerprints:
                found |= self._by_fingerprint.get(fingerprint, set())
            if product.stream == stream:
                found |= self._waiting.get(product, set())
                for alias in _names_of(product, _possible_aliases(candidate)):
                    asking = self._by_alias.get((kernel_name(product.arch), alias), set())
                    if any(other.stream != stream for other in asking):
                        found |= asking
        return found - candidates.keys()

    def outdated(
        self, stream: str, resolved: Mapping[ProductId, Candidate], asked: Asked, lost: Lost
    ) -> Iterator[ProductId]:
        """Yield the products of other streams whose document disagrees with the records."""
        mine = {product for product in resolved if product.stream == stream}
        contested = {
            (kernel_name(product.arch), alias) for product in mine for alias in _names_of(product, asked[product])
        }
        for product, candidate in resolved.items():
            if product in mine:
                continue
            document = self.documents.get(product.stream)
            entries = document.withheld.get(product.name, ()) if document else ()
            images = {(e.version, e.file, e.held_by) for e in entries if e.fingerprint}
            due_images = {(e.version, e.file, e.held_by) for e in candidate.withheld if e.fingerprint}
            names = {
                (e.alias, e.held_by)
                for e in entries
                if e.alias
                and (holder := documents.holder_elsewhere(e.held_by))
                and (holder in mine or (kernel_name(product.arch), e.alias) in contested)
            }
            due_names = {
                (alias, documents.named(lost[product, alias], product.stream))
                for alias in asked[product]
                if candidate.builds and (kernel_name(product.arch), alias) in contested and (product, alias) in lost
            }
            if images != due_images or names != due_names:
                yield product


ALONE: Final = Streams(())
"""A server of one stream."""


def names_lost(
    candidates: Mapping[ProductId, Candidate], asked: Asked, rights: Rights
) -> dict[tuple[ProductId, str], ProductId]:
    """Return the aliases that products lose to a product of another stream.

    What decides, in this order: the path gives the alias; the lower level of the architecture; the operator granted the
    alias; the earlier first upload, which `Record.since` remembers after retention has deleted it. Clients resolve
    `<alias>/<architecture>` to the same product, so both go together. Within a stream `conflicts.each_alias_once`
    decides.
    """
    claims: dict[tuple[str, str], list[ProductId]] = defaultdict(list)
    for product, aliases in asked.items():
        for alias in aliases:
            claims[kernel_name(product.arch), alias].append(product)
    since = {product: _first_upload(candidate) for product, candidate in candidates.items()}

    def rank(alias: str, product: ProductId) -> tuple[bool, int, bool, str, str, str]:
        is_own, is_granted = alias in product.path_aliases, rights.is_granted(product, alias)
        level = architectures.level(product.arch)
        return not is_own, level, not is_granted, since[product], product.stream, product.name

    lost = _lost_to_a_path(asked)
    with_arch: dict[tuple[str, str], ProductId] = {}
    for (arch, alias), all_products in claims.items():
        products = [product for product in all_products if (product, alias) not in lost]
        if not products:
            continue
        winner = min(products, key=partial(rank, alias))
        lost |= {(product, alias): winner for product in products if product.stream != winner.stream}
        with_arch[arch, f"{alias}/{winner.arch}"] = winner
    for (arch, alias), winner in with_arch.items():
        asking = claims.get((arch, alias), ())
        lost |= {(product, alias): winner for product in asking if product.stream != winner.stream}
    return lost


def _first_upload(candidate: Candidate) -> str:
    """Return when a file of a product was first uploaded, as far as its records know; "~", after any time, if not."""
    times = [build.record.since for build in candidate.builds]
    times += [image.uploaded for build in candidate.builds for image in build.images.values()]
    return min(filter(None, times), default="~")


def _lost_to_a_path(asked: Asked) -> dict[tuple[ProductId, str], ProductId]:
    """Return the claimed aliases from which clients would derive the path name of a product of another stream."""
    by_path = defaultdict(list)
    for product in sorted(asked):
        for alias in product.path_aliases:
            by_path[kernel_name(product.arch), alias].append(product)
    return {
        (product, alias): holder
        for product, aliases in asked.items()
        for alias in aliases
        if alias not in product.path_aliases
        for holder in by_path[kernel_name(product.arch), f"{alias}/{product.arch}"][:1]
        if holder.stream != product.stream
    }


def _names_of(product: ProductId, aliases: Iterable[str]) -> set[str]:
    """Return the aliases, those that clients derive from them, and those from which clients would derive these."""
    names = set(aliases)
    without = {base for base, _, arch in (alias.rpartition("/") for alias in names) if architectures.canonical(arch)}
    return names | {f"{alias}/{product.arch}" for alias in names} | without


def _possible_aliases(candidate: Candidate) -> set[str]:
    """Return every alias that a product asks for, whichever of its builds turns out to be the newest listed."""
    if not candidate.builds:
        return set()
    asked = {alias for build in candidate.builds for alias in overrides(build.record).aliases}
    return asked | {*candidate.id.path_aliases, *candidate.id.current_aliases}
