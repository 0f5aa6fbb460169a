"""Make records and catalog again from what lies below them. Plans, step by step; whoever asked carries them out."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from cli.admin.looking import is_below
from imageserver.aws.cloudfront import Invalidate
from imageserver.errors import CatalogBusy, CatalogDamaged, InvalidUpload
from imageserver.format import documents
from imageserver.format.keys import RECORDS, ProductId, VersionId, parse_record_key
from imageserver.operations.ingest import IngestServices, ingest
from imageserver.operations.inventory import Product, known_products, look
from imageserver.operations.publish import PublishServices, publish
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Store
from imageserver.storage.ranged_reader import HashFan
from imageserver.versions.diff import outdated

LEASE_S: Final = 900


@dataclass(frozen=True)
class Step:
    """One thing to repair: a sentence that says what would be done, and what does it, or answers with NotDone."""

    what: str
    do: Callable[[], Any]


@dataclass(frozen=True)
class NotDone:
    """What a step answers that came to nothing; the sentence says why, and what helps."""

    why: str


@dataclass
class Again:
    """How to make records again. `anew`: keys of the files whose record begins from nothing; `versions` were looked at.

    Of those nobody knows any more whether their keys held other bytes before (`Record.replaced`), so the edge may
    have those still and publish will not tell it: who carries the steps out has it invalidate them first.
    """

    steps: list[Step] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    versions: int = 0


def records_again(store: Store, below: str, max_bytes: int) -> Again:
    """Read the images of every version whose record is missing, unreadable or out of date."""
    again, services = Again(), _services(store, max_bytes)
    for product in known_products(store, DocumentCache(store), _index(store), ""):
        if not (is_below(product.path, below) or is_below(below, product.path)):
            continue
        looked = look(store, product)
        for version in sorted(looked.folders.keys() | looked.seen.keys()):
            if is_below(version.path, below):
                _record_again(again, looked, version, services)
    return again


def _record_again(again: Again, looked: Product, version: VersionId, services: IngestServices) -> None:
    again.versions += 1
    folder, known = looked.folders.get(version, {}), looked.known.get(version)
    unreadable = version in looked.seen and known is None
    reason = outdated(known, folder)
    if unreadable:
        gone = partial(_delete, services.store, version.record_key, looked.seen[version].revision)
        again.steps.append(Step(f"delete {version.record_key}, which cannot be read", gone))
    if unreadable or reason:
        lost = "its record cannot be read; if it was withdrawn, withdraw it again"
        why = lost if unreadable else reason
        again.steps.append(Step(f"read {version.path} again: {why}", partial(_read_again, version, services)))
    if known is None:
        again.anew.extend(f"{version.path}/{file}" for file in folder)


def _read_again(version: VersionId, services: IngestServices) -> NotDone | None:
    if ingest(version, services).outcome != "leased by another worker":
        return None
    return NotDone(
        f"another worker reads {version.path} just now, or was killed while it did ({version.lease_key}, which holds "
        f"for {LEASE_S // 60} minutes at most): nothing was written; look again then"
    )


def catalog_again(store: Store, clients: Sequence[str], invalidate: Invalidate) -> Iterator[Step]:
    """Fold every record into the documents of its stream; a document that cannot be read goes first.

    `invalidate` tells the edge what it may not keep.
    """
    for key, decode in _documents(store):
        seen = store.read(key)
        try:
            decode(seen.body if seen else None)
        except CatalogDamaged as damage:
            yield Step(f"delete {key}: {damage}", partial(_delete, store, key, seen.revision if seen else ""))
    services = PublishServices(store, clients, lambda: datetime.now(UTC), time.sleep, invalidate)
    by_stream: dict[str, list[ProductId]] = {}
    for product in _all_products(store):
        by_stream.setdefault(product.stream, []).append(product)
    for stream, products in by_stream.items():
        what = f"fold the records of {len(products)} products into {documents.products_key(stream)}"
        yield Step(what, partial(_publish, stream, products, services))


def _publish(stream: str, products: Sequence[ProductId], services: PublishServices) -> NotDone | None:
    failed = publish(stream, products, services).failed
    if not failed:
        return None
    why = "; ".join(f"{product.name}: {error}" for product, error in sorted(failed.items()))
    return NotDone(f"{len(failed)} products of {stream} are not listed as their records say, the others are: {why}")


def _documents(store: Store) -> list[tuple[str, Callable[[bytes | None], object]]]:
    found: list[tuple[str, Callable[[bytes | None], object]]] = [(documents.INDEX_KEY, documents.decode_index)]
    for info in store.list("streams/v1/"):
        stream = info.key.removeprefix("streams/v1/").removesuffix(".json")
        if stream.endswith(".unlisted"):
            name = stream.removesuffix(".unlisted")
            found.append((info.key, lambda body, s=name: documents.decode_unlisted(body, s)))  # type: ignore[misc]
        elif info.key != documents.INDEX_KEY:
            found.append((info.key, lambda body, s=stream: _checked(documents.decode_products(body, s))))  # type: ignore[misc]
    return found


def _checked(document: documents.Products) -> None:
    for product in document.products.values():
        documents.decode_versions(product)


def _all_products(store: Store) -> list[ProductId]:
    """Every product, also when no document can be read."""
    try:
        return known_products(store, DocumentCache(store), _index(store), "")
    except CatalogDamaged:
        found: set[ProductId] = {version.product for version in _recorded(store)}
        return sorted(found)


def _recorded(store: Store) -> Iterator[VersionId]:
    for info in store.list(RECORDS):
        with suppress(InvalidUpload):  # somebody's own file beside the records
            yield parse_record_key(info.key)


def _delete(store: Store, key: str, revision: str) -> None:
    """Delete what was found damaged, and nothing that was written since."""
    if not store.delete(key, revision):
        raise CatalogBusy(f"{key} was written meanwhile; look again, it may be sound by now")


def _index(store: Store) -> documents.Index:
    seen = store.read(documents.INDEX_KEY)
    try:
        return documents.decode_index(seen.body if seen else None)
    except CatalogDamaged:  # what the records and images say is enough to find every product
        return documents.decode_index(None)


def _services(store: Store, max_bytes: int) -> IngestServices:
    return IngestServices(store, lambda: datetime.now(UTC), time.sleep, max_bytes, LEASE_S, HashFan)
