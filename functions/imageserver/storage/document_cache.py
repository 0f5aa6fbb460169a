"""A read cache of stream documents: a document is read again only when its ETag has changed.

Documents are large (10 MB and more) and read often: for each publisher that waits for an upload, and by maintain for
each product. A listing gives the ETag, and equal ETags mean equal bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from imageserver.format import documents
from imageserver.format.documents import Document, Products, Unlisted
from imageserver.storage.port import Store

_D = TypeVar("_D", bound=Document)


@dataclass(frozen=True, slots=True)
class StreamDocuments:
    """One stream's listed products, and its uploads that are not listed."""

    products: Products
    unlisted: Unlisted

    def mentioned(self, product: str) -> set[str]:
        """Return the versions of a product that are listed, withheld, or reported as unlisted."""
        withheld = (entry.version for entry in self.products.withheld.get(product, ()))
        listed = documents.versions_of(self.products, product)
        return {*listed, *withheld, *self.unlisted.products.get(product, ())}


def documented_streams(store: Store) -> set[str]:
    """Return the streams that have a document."""
    keys = (info.key for info in store.list("streams/v1/") if info.key.endswith(".json"))
    names = {key.removeprefix("streams/v1/").removesuffix(".json").removesuffix(".unlisted") for key in keys}
    return {name for name in names if name.startswith("images")}


@dataclass(slots=True)
class DocumentCache:
    """Documents as last read, by key, each with its ETag. Raises the errors of the store, and CatalogDamaged.

    `prefix` is the prefix of a view's documents.
    """

    store: Store
    prefix: str = ""
    _known: dict[str, tuple[str, Document]] = field(default_factory=dict)

    def of(self, stream: str) -> StreamDocuments:
        """Return both documents of a stream, as they are now."""
        key = self.prefix + documents.unlisted_key(stream)
        unlisted = self._now(key, lambda body: documents.decode_unlisted(body, stream), Unlisted)
        return StreamDocuments(self.products(stream), unlisted)

    def products(self, stream: str) -> Products:
        """Return the products document of a stream, as it is now."""
        key = self.prefix + documents.products_key(stream)
        return self._now(key, lambda body: documents.decode_products(body, stream), Products)

    def all(self) -> list[Products]:
        """Return the products documents of all streams that have one, as they are now, in order of their names."""
        return [self.products(stream) for stream in sorted(documented_streams(self.store))]

    def _now(self, key: str, decode: Callable[[bytes | None], _D], kind: type[_D]) -> _D:
        etag = next((info.etag for info in self.store.list(key) if info.key == key), "")
        known = self._known.get(key)
        if known and known[0] == etag and isinstance(known[1], kind):
            return known[1]
        seen = self.store.read(key)
        document = decode(seen.body if seen else None)
        self._known[key] = (seen.revision if seen else "", document)
        return document
