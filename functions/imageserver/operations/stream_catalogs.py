"""One stream in one catalog: its documents as read, folded, and to be written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imageserver.catalog.feeds import feed_key, render_feed
from imageserver.catalog.fold import Folded, fold, fold_unlisted
from imageserver.catalog.rights import Rights
from imageserver.catalog.streams import ALONE, Streams
from imageserver.format import documents
from imageserver.format.documents import Index, Products, Unlisted
from imageserver.format.keys import ProductId
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import StoredObject
from imageserver.versions.records import Record
from imageserver.views.catalogs import Catalog

Read = Callable[[str], StoredObject | None]
Known = Mapping[ProductId, Sequence[Record]]


@dataclass(slots=True)
class StreamCatalog:
    """The documents of a stream in a catalog. `seen` are those as read, by key; `after` is the folded one.

    `changed` are the products that were folded, each with all of its records.
    """

    catalog: Catalog
    stream: str
    seen: dict[str, StoredObject | None]
    index: Index
    before: Products
    after: Products
    unlisted: Unlisted
    streams: Streams = ALONE
    changed: dict[ProductId, Sequence[Record]] = field(default_factory=dict)

    def selected(self, known: Known) -> dict[ProductId, list[Record]]:
        """Return the records of these products from which the catalog is folded."""
        return {product: self.catalog.records(product, versions) for product, versions in known.items()}

    def fold(self, known: Known, clients: Sequence[str], rights: Rights) -> Folded:
        """Fold these products, each with all of its records; `needs` names others as `catalog.fold` does."""
        return fold(self.before, self.selected(known), self.catalog.clients(clients), rights, self.streams)

    def put(self, folded: Folded, changed: Known) -> None:
        """Take the folded document as the one to write."""
        mine = {product: versions for product, versions in changed.items() if product.stream == self.stream}
        self.changed = dict(mine)
        self.after = self.catalog.signed(folded.document, {product.name for product in mine})

    def products_body(self) -> bytes:
        """Return the products document; empty if it has no content and does not exist yet."""
        is_there = self.seen[self.catalog.prefix + documents.products_key(self.stream)]
        return documents.encode(self.after) if is_there or self.after != self.before else b""

    def other_bodies(self, server: str) -> Iterator[tuple[str, bytes]]:
        """Yield key and bytes of the other documents.

        One without content is not worth creating, except for the index, which clients request from an empty server too.
        """
        prefix = self.catalog.prefix
        unlisted = fold_unlisted(self.unlisted, self.selected(self.changed))
        if self.seen[key := prefix + documents.unlisted_key(self.stream)] or unlisted != self.unlisted:
            yield key, documents.encode(unlisted)
        yield prefix + documents.INDEX_KEY, documents.encode(self.catalog.index(self.index, self.after))
        if self.seen[key := prefix + feed_key(self.stream)] or self.after.products:
            yield key, render_feed(self.after, f"{server}/{prefix}".rstrip("/"))


def keys_of(catalog: Catalog, stream: str) -> list[str]:
    """Return the keys of the documents of a stream in a catalog: index, products, what is not listed, feed."""
    names = (documents.INDEX_KEY, documents.products_key(stream), documents.unlisted_key(stream), feed_key(stream))
    return [catalog.prefix + name for name in names]


def read_stream(catalog: Catalog, stream: str, read: Read) -> StreamCatalog:
    """Read the documents of a stream in a catalog. Raise CatalogDamaged."""
    keys = keys_of(catalog, stream)
    # A server may have a hundred views, and each read takes as long as the next.
    seen = dict(zip(keys, in_parallel(read, keys) if catalog.view else map(read, keys), strict=True))
    index, products, unlisted, _ = (found.body if found else None for found in seen.values())
    before = documents.decode_products(products, stream)
    return StreamCatalog(
        catalog,
        stream,
        seen,
        documents.decode_index(index),
        before=before,
        after=before,
        unlisted=documents.decode_unlisted(unlisted, stream),
    )


def read_neighbours(one: StreamCatalog, read: Read) -> Streams:
    """Return the stream's document with those of the other streams that clients read beside it."""
    others = one.catalog.others(one.index, one.stream)
    if not others:
        return ALONE
    seen = in_parallel(lambda stream: read(one.catalog.prefix + documents.products_key(stream)), others)
    found = [documents.decode_products(s.body if s else None, name) for name, s in zip(others, seen, strict=True)]
    return Streams([one.before, *found])
