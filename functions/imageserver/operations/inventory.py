"""Read the state of a version and of each product in the bucket, to compare with the catalog."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format import documents
from imageserver.format.documents import product_id
from imageserver.format.keys import RECORDS, ProductId, VersionId, parse_product, parse_version
from imageserver.storage import listing
from imageserver.storage.document_cache import DocumentCache, documented_streams
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store, StoredObject
from imageserver.versions import records
from imageserver.versions.records import FileFacts, Record

Folder = dict[str, FileFacts]


@dataclass(slots=True)
class ProductSnapshot:
    """One product as the bucket has it: the folders of its versions, and its records with their times."""

    id: ProductId
    folders: dict[VersionId, Folder] = field(default_factory=dict)
    seen: dict[VersionId, StoredObject] = field(default_factory=dict)
    known: dict[VersionId, Record] = field(default_factory=dict)
    written: dict[VersionId, str] = field(default_factory=dict)

    @property
    def damaged(self) -> list[VersionId]:
        """The versions whose records cannot be read, in order."""
        return sorted(self.seen.keys() - self.known.keys())


def known_products(store: Store, cache: DocumentCache, index: documents.Index, after: str) -> list[ProductId]:
    """Return every product in the bucket or the catalog, in order of path, after `after`."""
    found = {*_below(store, "images", 0, after), *_below(store, RECORDS, len(RECORDS), after)}
    streams = {product.stream for product in found} | index.index.keys() | documented_streams(store)
    for stream in sorted(streams):
        documents = cache.of(stream)
        named = {*documents.products.products, *documents.products.withheld, *documents.unlisted.products}
        entry = index.index.get(stream)
        found |= {product_id(stream, name) for name in named | set(entry.products if entry else ())}
    return sorted((product for product in found if product.path > after), key=lambda product: product.path)


def _below(store: Store, prefix: str, skip: int, after: str) -> Iterator[ProductId]:
    """Yield the products of the keys below a prefix. Keys that are not uploads are left out."""
    keys = (info.key[skip:] for info in store.list(prefix, prefix[:skip] + after if after else ""))
    for path, _ in groupby("/".join(key.split("/")[:5]) for key in keys):
        try:
            yield parse_product(path)
        except InvalidUpload:  # files that somebody put beside the images
            continue


def look(store: Store, product: ProductId) -> ProductSnapshot:
    """Read the records, then the folders: a record written in between is then sent once too often, not missed."""
    looked = ProductSnapshot(product)
    infos = list(store.list(product.records_prefix))
    keys = [info.key for info in infos]
    for info, key, seen in zip(infos, keys, in_parallel(store.read, keys), strict=True):
        version = _version(key[len(RECORDS) : -len(".json")])
        if seen is None or version is None:
            continue
        looked.seen[version], looked.written[version] = seen, info.modified
        with suppress(CatalogDamaged):  # the snapshot says so, see `damaged`
            looked.known[version] = records.decode(seen.body, key)
    for info in store.list(f"{product.path}/"):
        version = _version("/".join(info.key.split("/")[:6]))  # deeper folders belong to the version too
        if version and (file := info.key.removeprefix(version.prefix)):
            looked.folders.setdefault(version, {})[file] = listing.as_listed(info)
    return looked


def record_of(store: Store, version: VersionId) -> Record | None:
    """Return the record of a version, or None if it has none. Raise CatalogDamaged."""
    seen = store.read(version.record_key)
    return records.decode(seen.body, version.record_key) if seen else None


def _version(path: str) -> VersionId | None:
    try:
        return parse_version(path)
    except InvalidUpload:
        return None
