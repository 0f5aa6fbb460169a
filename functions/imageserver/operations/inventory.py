"""Read what the bucket has of each product, and the catalog beside it."""

from collections.abc import Iterator
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
    """One product as the bucket has it: the folders of its versions, its records as read and when they were written."""

    id: ProductId
    folders: dict[VersionId, Folder] = field(default_factory=dict)
    seen: dict[VersionId, StoredObject] = field(default_factory=dict)
    known: dict[VersionId, Record] = field(default_factory=dict)
    written: dict[VersionId, str] = field(default_factory=dict)
    damaged: bool = False


def known_products(store: Store, cache: DocumentCache, index: documents.Index, after: str) -> list[ProductId]:
    """Return every product that the bucket or the catalog knows, in order of path, behind `after`."""
    found = {*_below(store, "images", 0, after), *_below(store, RECORDS, len(RECORDS), after)}
    streams = {product.stream for product in found} | index.index.keys() | documented_streams(store)
    for stream in sorted(streams):
        documents = cache.of(stream)
        named = {*documents.products.products, *documents.products.withheld, *documents.unlisted.products}
        entry = index.index.get(stream)
        found |= {product_id(stream, name) for name in named | set(entry.products if entry else ())}
    return sorted((product for product in found if product.path > after), key=lambda product: product.path)


def _below(store: Store, prefix: str, skip: int, after: str) -> Iterator[ProductId]:
    """Yield the products of the keys below a prefix; keys that are no upload of ours belong to none."""
    keys = (info.key[skip:] for info in store.list(prefix, prefix[:skip] + after if after else ""))
    for path, _ in groupby("/".join(key.split("/")[:5]) for key in keys):
        try:
            yield parse_product(path)
        except InvalidUpload:  # somebody's own files beside the images
            continue


def look(store: Store, product: ProductId) -> ProductSnapshot:
    """Read the records first, then the folders: a record written in between is sent once too often, not missed."""
    looked = ProductSnapshot(product)
    infos = list(store.list(product.records_prefix))
    keys = [info.key for info in infos]
    for info, key, seen in zip(infos, keys, in_parallel(store.read, keys), strict=True):
        version = _version(key[len(RECORDS) : -len(".json")])
        if seen is None or version is None:
            continue
        looked.seen[version], looked.written[version] = seen, info.modified
        try:
            looked.known[version] = records.decode(seen.body, key)
        except CatalogDamaged:
            looked.damaged = True
    for info in store.list(f"{product.path}/"):
        version = _version("/".join(info.key.split("/")[:6]))  # what lies deeper belongs to the version too
        if version and (file := info.key.removeprefix(version.prefix)):
            looked.folders.setdefault(version, {})[file] = listing.as_listed(info)
    return looked


def _version(path: str) -> VersionId | None:
    try:
        return parse_version(path)
    except InvalidUpload:
        return None
