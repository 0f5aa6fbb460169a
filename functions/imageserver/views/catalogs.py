"""The catalogs of a server: the one that everybody reads, and one for each view.

Each is folded by the same function, `catalog.fold`, from records. Catalogs differ in the records that they take and in
the keys of their documents. Products compete for names and images only within one catalog.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from imageserver.catalog.fold import fold_index
from imageserver.format import documents
from imageserver.format.documents import Index, Item, Products, Version
from imageserver.format.keys import ProductId
from imageserver.format.signed_paths import SIGNED, signed_path
from imageserver.versions.records import Record
from imageserver.views.channels import selected
from imageserver.views.view import View, served_prefix


@dataclass(frozen=True, slots=True)
class Catalog:
    """One catalog: that of a view, or without a view the catalog that everybody reads.

    `private` are the streams that only views show. Their documents are stored among the public ones, where the server
    itself reads them, but the index does not name them, and the edge does not serve them.
    """

    view: View | None = None
    private: frozenset[str] = frozenset()

    @property
    def prefix(self) -> str:
        """The prefix of the keys of its documents."""
        return served_prefix(self.view.name) if self.view else ""

    def takes(self, product: ProductId) -> bool:
        """Return whether the catalog may list a product."""
        return self.view is None or self.view.takes(product)

    def has(self, stream: str) -> bool:
        """Return whether the catalog may have documents of a stream."""
        return self.view is None or stream in self.view.streams

    def records(self, product: ProductId, versions: Sequence[Record]) -> list[Record]:
        """Return the records of a product from which the catalog is folded."""
        return selected(self.view, product, versions) if self.view else list(versions)

    def clients(self, served: Sequence[str]) -> Sequence[str]:
        """Return the kinds of client whose items it lists; `served` are those of the server."""
        return (self.view.clients,) if self.view and self.view.clients else served

    def others(self, index: Index, stream: str) -> list[str]:
        """Return the other streams that clients of this catalog read."""
        if self.view:
            return sorted(index.index.keys() - {stream})
        return [] if stream in self.private else sorted(index.index.keys() - {stream} - self.private)

    def index(self, index: Index, document: Products) -> Index:
        """Return the index with a stream's entry updated from its products document; a private stream has no entry."""
        if self.view is None and document.content_id in self.private:
            return replace(index, index={name: one for name, one in index.index.items() if name != document.content_id})
        return fold_index(index, document)

    def signed(self, document: Products, names: Collection[str]) -> Products:
        """Return the document with the paths of these products as the edge expects them in this catalog."""
        if not self.view:
            return document
        signer = _Signer(self.view.name, self.view.secret_bytes)
        products = {
            name: signer.product(product) if name in names else product for name, product in document.products.items()
        }
        return replace(document, products=products)


@dataclass(frozen=True, slots=True)
class _Signer:
    view: str
    secret: bytes

    def product(self, product: documents.Product) -> documents.Product:
        versions = {name: self._version(version) for name, version in documents.decode_versions(product).items()}
        return replace(product, versions=documents.encode_versions(versions))

    def _version(self, version: Version) -> Version:
        return replace(version, items={name: self._item(item) for name, item in version.items.items()})

    def _item(self, item: Item) -> Item:
        signed = item.path.startswith(SIGNED)
        return item if signed else replace(item, path=signed_path(self.view, self.secret, item.path))


EVERYBODY = Catalog()
"""The catalog of a server without views."""


def private_streams(views: Iterable[View]) -> frozenset[str]:
    """Return the streams that are left out of the catalog that everybody reads."""
    return frozenset(stream for view in views for stream in view.private_streams)


def catalogs(views: Mapping[str, View]) -> list[Catalog]:
    """Return every catalog of a server with these views, starting with the one that everybody reads."""
    private = private_streams(views.values())
    return [Catalog(private=private), *(Catalog(view, private) for _, view in sorted(views.items()))]
