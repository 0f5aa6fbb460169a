"""Find what events missed: compare the bucket with the records, and the records with the catalog.

Nothing is repaired here. A folder that differs from its record is sent back through the arrivals queue; a
product that differs from the catalog gets one of its records written again as it is, and the event of
that write makes publish fold it. Both are what would have happened if the event had come.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, TypeVar

from digest.settle import outdated
from maintain.work import Task, Work
from simplestreams import catalog, records
from simplestreams.errors import CatalogDamaged, RejectedUpload
from simplestreams.fold import fold, fold_index, fold_unlisted, product_id
from simplestreams.keys import RECORDS, ProductId, VersionId, parse_product, parse_version
from simplestreams.records import Record
from storage.port import Document, ObjectInfo, Store

READERS: Final = 16
NO_VERSION: Final = "19700101"
"""A product that is in the catalog without any record gets an empty one under this name, so that it is folded."""

_Folder = dict[str, ObjectInfo]
_T = TypeVar("_T")


@dataclass(slots=True)
class _Product:
    """One product as the bucket has it: the folders of its versions, and its records as read."""

    id: ProductId
    folders: dict[VersionId, _Folder] = field(default_factory=dict)
    seen: dict[VersionId, Document] = field(default_factory=dict)
    known: dict[VersionId, Record] = field(default_factory=dict)
    damaged: bool = False


@dataclass(slots=True)
class _Catalog:
    """The documents of one stream, read before the records that they are compared with."""

    products: catalog.Products
    unlisted: catalog.Unlisted


def sweep(store: Store, send: Callable[[str], object], clients: Sequence[str], work: Work) -> None:
    """Look at the products that are next; `send` posts a key to the arrivals queue.

    Raises StorageUnavailable, StorageDenied, and CatalogDamaged when a served document cannot be read. A
    record that cannot be read is named in `work` and its product left alone.
    """
    _create_index(store, work)
    index_seen = store.read(catalog.INDEX_KEY)
    index = catalog.decode_index(index_seen.body if index_seen else None)
    for stream, names in groupby(_products(store, index, work.after), key=lambda product: product.stream):
        documents = _documents(store, stream)
        looked: list[_Product] = []
        for product_id_ in names:
            if not work.more():
                break
            product = _look(store, product_id_)
            _send_outdated(send, product, work)
            looked.append(product)
            work.finished(product_id_.path, 1 + len(product.known))
        _fold_again(store, index, documents, looked, clients, work)
        if not work.more():
            return
    work.end()


def _create_index(store: Store, work: Work) -> None:
    """Clients ask for the index of an empty server too, and a missing one reads as a broken server."""
    if store.read(catalog.INDEX_KEY) is None:
        empty = catalog.encode(catalog.decode_index(None))
        work.do(
            Task("create", catalog.INDEX_KEY, "it is missing; clients cannot add the server without it"),
            lambda: store.create(catalog.INDEX_KEY, empty),
        )


def _products(store: Store, index: catalog.Index, after: str) -> list[ProductId]:
    """Every product that the bucket or the catalog knows, in order of path, behind `after`."""
    found = {*_below(store, "images", 0, after), *_below(store, RECORDS, len(RECORDS), after)}
    streams = {product.stream for product in found} | index.index.keys() | _streams(store)
    for stream in streams:
        documents = _documents(store, stream)
        named = {*documents.products.products, *documents.products.withheld, *documents.unlisted.products}
        entry = index.index.get(stream)
        found |= {product_id(stream, name) for name in named | set(entry.products if entry else ())}
    return sorted((product for product in found if product.path > after), key=lambda product: product.path)


def _streams(store: Store) -> set[str]:
    keys = (info.key for info in store.list("streams/v1/"))
    names = {key.removeprefix("streams/v1/").removesuffix(".json").removesuffix(".unlisted") for key in keys}
    return {name for name in names if name.startswith("images")}


def _below(store: Store, prefix: str, skip: int, after: str) -> Iterator[ProductId]:
    """The products of the keys below a prefix; keys that are no upload of ours belong to none."""
    keys = (info.key[skip:] for info in store.list(prefix, prefix[:skip] + after if after else ""))
    for path, _ in groupby("/".join(key.split("/")[:5]) for key in keys):
        try:
            yield parse_product(path)
        except RejectedUpload:  # somebody's own files beside the images
            continue


def _documents(store: Store, stream: str) -> _Catalog:
    products = store.read(catalog.products_key(stream))
    unlisted = store.read(catalog.unlisted_key(stream))
    return _Catalog(
        catalog.decode_products(products.body if products else None, stream),
        catalog.decode_unlisted(unlisted.body if unlisted else None, stream),
    )


def _look(store: Store, product: ProductId) -> _Product:
    """Records first, then the folders: a version that settles in between is then sent once too often, not missed."""
    looked = _Product(product)
    keys = [info.key for info in store.list(product.records_prefix)]
    for key, seen in zip(keys, _all(store.read, keys), strict=True):
        version = _version(key[len(RECORDS) : -len(".json")])
        if seen is None or version is None:
            continue
        looked.seen[version] = seen
        try:
            looked.known[version] = records.decode(seen.body, key)
        except CatalogDamaged:
            looked.damaged = True
    for info in store.list(f"{product.path}/"):
        folder, _, file = info.key.rpartition("/")
        version = _version(folder)
        if version and file:
            looked.folders.setdefault(version, {})[file] = info
    return looked


def _version(path: str) -> VersionId | None:
    try:
        return parse_version(path)
    except RejectedUpload:
        return None


def _all(read: Callable[[str], _T], keys: Iterable[str]) -> list[_T]:
    with ThreadPoolExecutor(READERS, thread_name_prefix="records") as pool:
        return list(pool.map(read, keys))


def _send_outdated(send: Callable[[str], object], product: _Product, work: Work) -> None:
    for version in sorted(product.folders.keys() | product.known.keys()):
        if version in product.seen and version not in product.known:
            work.damaged(version.record_key)
            continue
        folder = product.folders.get(version, {})
        if reason := outdated(product.known.get(version), folder):
            work.do(Task("look again", version.path, reason), lambda v=version: send(v.prefix))  # type: ignore[misc]


def _fold_again(
    store: Store,
    index: catalog.Index,
    documents: _Catalog,
    looked: Sequence[_Product],
    clients: Sequence[str],
    work: Work,
) -> None:
    """Have those products folded whose part of the catalog is not what their records say."""
    changed = {p.id: list(p.known.values()) for p in looked if not p.damaged}
    if not changed:
        return
    folded = _folded(store, documents.products, dict(changed), clients)
    if folded is None:
        return
    unlisted = fold_unlisted(documents.unlisted, changed)
    stale = {p.name for p in changed if _part(folded, unlisted, p.name) != _part(*_now(documents), p.name)}
    if fold_index(index, folded) != index:
        stale.add(min(p.name for p in changed))
    for product in looked:
        if product.id.name in stale and not product.damaged:
            why = "its entry in the catalog is not what its records say"
            work.do(Task("fold again", product.id.path, why), lambda p=product: _touch(store, p))  # type: ignore[misc]


def _now(documents: _Catalog) -> tuple[catalog.Products, catalog.Unlisted]:
    return documents.products, documents.unlisted


def _part(products: catalog.Products, unlisted: catalog.Unlisted, name: str) -> tuple[object, ...]:
    return products.products.get(name), products.withheld.get(name), unlisted.products.get(name)


def _folded(
    store: Store, document: catalog.Products, changed: dict[ProductId, list[Record]], clients: Sequence[str]
) -> catalog.Products | None:
    """The document with these products folded, others read as needed; None when one of those is damaged."""
    folded = fold(document, changed, clients)
    while folded.needs:
        for name in sorted(folded.needs):
            other = _look(store, product_id(document.content_id, name))
            if other.damaged:
                return None
            changed[other.id] = list(other.known.values())
        folded = fold(document, changed, clients)
    return folded.document


def _touch(store: Store, product: _Product) -> None:
    """Write one record of the product again as it is; a record that changed meanwhile sent its own event."""
    if product.seen:
        version, seen = min(product.seen.items())
        store.replace(version.record_key, seen.body, seen.revision)
        return
    version = VersionId(product.id, NO_VERSION)
    store.create(version.record_key, records.encode(records.settled(version, {}, None)))
