"""Plan how to rebuild records and catalog from their sources, and bring deleted images back."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Final

import click

from cli.admin.deployment import NO_LIMIT, Deployment
from cli.admin.inventory import is_below, read_index, recorded_versions
from cli.admin.transfer import Advance, AlreadyThere, Copy, File, create
from imageserver.errors import CatalogBusy, CatalogDamaged, InvalidUpload, SimplestreamsError
from imageserver.format import documents
from imageserver.format.keys import RECORDS, ProductId, VersionId, parse_key
from imageserver.format.wording import counted
from imageserver.operations.ingest import IngestServices, ingest
from imageserver.operations.inventory import ProductSnapshot, known_products, look
from imageserver.operations.lost_records import describe, recalled
from imageserver.operations.publish import PublishServices, publish
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Store, StoredObject
from imageserver.storage.ranged_reader import hash_fan
from imageserver.versions import records
from imageserver.versions.diff import outdated
from imageserver.versions.limits import Limits
from imageserver.versions.records import Record
from imageserver.views.view import SERVED

LEASE_S: Final = 900
MOST_ROUNDS: Final = 10
"""How often products that depend on other streams are folded again; once is enough unless others publish meanwhile."""
INSTEAD: Final = {"streams": "admin rebuild catalog", RECORDS.rstrip("/"): "admin rebuild records"}


@dataclass(frozen=True)
class StepFailed:
    """The answer of a step that could not be done, and why."""

    why: str


@dataclass(frozen=True)
class Step:
    """One repair: a sentence, and the function that does it or returns StepFailed."""

    what: str
    do: Callable[[], StepFailed | None]


@dataclass
class RecordsPlan:
    """How to rebuild records. `anew`: keys of files without a readable record; `versions`: how many were examined.

    It is not known whether the keys in `anew` held other bytes before (`Record.replaced`), so the edge may still
    hold those bytes and publish will not invalidate them. The caller must do so before it carries out the steps.
    """

    steps: list[Step] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    versions: int = 0


def plan_records(store: Store, below: str, max_bytes: int) -> RecordsPlan:
    """Plan to read the images of every version whose record is missing, unreadable or out of date."""
    again = RecordsPlan()
    # Existing files and versions were accepted once: rebuilding refuses none for exceeding a limit.
    limits = Limits(files=NO_LIMIT, versions=NO_LIMIT)
    services = IngestServices(store, lambda: datetime.now(UTC), time.sleep, max_bytes, LEASE_S, hash_fan, limits=limits)
    for product in known_products(store, DocumentCache(store), _index(store), ""):
        if not (is_below(product.path, below) or is_below(below, product.path)):
            continue
        looked = look(store, product)
        for version in sorted(looked.folders.keys() | looked.seen.keys()):
            if is_below(version.path, below):
                _record_again(again, looked, version, services)
    return again


def _record_again(again: RecordsPlan, looked: ProductSnapshot, version: VersionId, services: IngestServices) -> None:
    again.versions += 1
    folder, known = looked.folders.get(version, {}), looked.known.get(version)
    seen = looked.seen.get(version) if known is None else None
    reason = outdated(known, folder)
    lost = recalled(services.store, version) if known is None and (seen or reason) else None
    if seen and lost:
        what = f"write over {version.record_key}, which cannot be read, what an earlier one says of withdrawals"
        again.steps.append(Step(what, partial(_recall, services.store, lost, seen)))
    elif seen:
        gone = partial(_delete, services.store, version.record_key, seen.revision)
        again.steps.append(Step(f"delete {version.record_key}, which cannot be read", gone))
    if seen:
        reason = f"its record cannot be read; {describe(lost)}"
    elif lost and any(_withdrawals(lost)):
        reason = f"its record is lost; {describe(lost)}"
    elif reason and not (known or lost):
        reason = f"{reason}; {describe(lost)}"
    if reason:
        step = partial(_read_again, version, services, None if seen else lost)
        again.steps.append(Step(f"read {version.path} again: {reason}", step))
    if known is None:
        again.anew.extend(f"{version.path}/{file}" for file in folder)


def _recall(store: Store, lost: Record, seen: StoredObject) -> StepFailed | None:
    """Restore an earlier record over one that cannot be read, so that ingest continues from it."""
    key = lost.id.record_key
    if store.replace(key, records.encode(lost), seen.revision):
        return None
    return StepFailed(f"{key} was written meanwhile; look again, it may be readable now")


def _read_again(version: VersionId, services: IngestServices, lost: Record | None) -> StepFailed | None:
    """Ingest a version, starting from its lost record. A failure is reported, and the next version is read."""
    key, store = version.record_key, services.store
    try:
        recalled_as = store.create(key, records.encode(lost)) if lost else None  # not over one written meanwhile
        if ingest(version, services).outcome != "leased by another worker":
            return None
        if recalled_as:
            store.delete(key, recalled_as)
    except SimplestreamsError as error:
        return StepFailed(f"{version.path}: {error}")
    return StepFailed(
        f"another worker reads {version.path} just now, or was killed while it did ({version.lease_key}, which holds "
        f"for {LEASE_S // 60} minutes at most): nothing was written; look again then"
    )


def plan_catalog(deployment: Deployment, clients: Sequence[str]) -> Iterator[Step]:
    """Plan to fold every record into the documents of its stream. Unreadable documents are deleted first."""
    store = deployment.store
    yield from _deletions(store, with_views=deployment.has_views)
    outdated: set[ProductId] = set()
    services = PublishServices(
        store,
        clients,
        lambda: datetime.now(UTC),
        time.sleep,
        deployment.invalidate,
        rights=deployment.rights,
        notify=outdated.add,
        views=deployment.has_views,
    )
    by_stream: dict[str, list[ProductId]] = {}
    for product in _all_products(store):
        by_stream.setdefault(product.stream, []).append(product)
    for stream, products in by_stream.items():
        what = f"fold the records of {counted(len(products), 'product')} into {documents.products_key(stream)}"
        yield Step(what, partial(_publish, stream, products, services))
    if len(by_stream) > 1:
        yield Step(
            "fold again the products that share an image or a name with one of another stream",
            partial(_publish_outdated, outdated, services),
        )


def _publish_outdated(outdated: set[ProductId], services: PublishServices) -> StepFailed | None:
    for _ in range(MOST_ROUNDS):
        if not outdated:
            return None
        again = sorted(outdated)
        outdated.clear()
        for stream, products in groupby(again, key=lambda product: product.stream):
            if not_done := _publish(stream, list(products), services):
                return not_done
    return StepFailed(f"{len(outdated)} products of several streams still change each other; run it again")


def _publish(stream: str, products: Sequence[ProductId], services: PublishServices) -> StepFailed | None:
    try:
        failed = publish(stream, products, services).failed
    except SimplestreamsError as error:  # the other streams go on
        return StepFailed(f"{stream}: {error}")
    if not failed:
        return None
    why = "; ".join(f"{product.name}: {error}" for product, error in sorted(failed.items()))
    return StepFailed(
        f"{counted(len(failed), 'product')} of {stream} cannot be listed as the records say, the others are: {why}"
    )


def _deletions(store: Store, *, with_views: bool) -> Iterator[Step]:
    """Plan to delete every document of the catalog that cannot be read."""
    of_views = store.list(SERVED) if with_views else ()
    for key in [info.key for info in (*store.list("streams/v1/"), *of_views)]:
        if not key.endswith(".json"):
            continue  # a feed: publishing renders it again
        stream = key.rpartition("/")[2].removesuffix(".json")
        seen = store.read(key)
        body = seen.body if seen else None
        try:
            if stream.endswith(".unlisted"):
                documents.decode_unlisted(body, stream.removesuffix(".unlisted"))
            elif stream == "index":
                documents.decode_index(body)
            else:
                for product in documents.decode_products(body, stream).products.values():
                    documents.decode_versions(product)
        except CatalogDamaged as damage:
            yield Step(f"delete {key}: {damage}", partial(_delete, store, key, seen.revision if seen else ""))


def _all_products(store: Store) -> list[ProductId]:
    """Return every product, even if no document can be read."""
    try:
        return known_products(store, DocumentCache(store), _index(store), "")
    except CatalogDamaged:
        return sorted({version.product for version in recorded_versions(store)})


def _delete(store: Store, key: str, revision: str) -> None:
    """Delete a damaged document, unless it was written since."""
    if not store.delete(key, revision):
        raise CatalogBusy(f"{key} was written meanwhile; look again, it may be readable now")


def _index(store: Store) -> documents.Index:
    try:
        return read_index(store)
    except CatalogDamaged:  # the records and images are enough to find every product
        return documents.decode_index(None)


def check_path(path: str) -> None:
    """Raise UsageError unless a path belongs to images. The message names the command that rebuilds other documents."""
    first = path.strip("/").partition("/")[0]
    if not first:
        raise click.UsageError(f"{path!r} is no path of images, expected images/… or one without its stream")
    if first in INSTEAD:
        # An old catalog, or an old record that publish then folds, may name files that are gone.
        raise click.UsageError(f"{path} is derived from other objects, and an old one may be wrong: {INSTEAD[first]}")


def deleted(deployment: Deployment, path: str) -> list[File]:
    """Return the last generation of every deleted key at or below a path."""
    gone: set[str] = set()
    last: dict[str, File] = {}
    pages = deployment.s3.get_paginator("list_object_versions")
    for page in pages.paginate(Bucket=deployment.bucket, Prefix=path.rstrip("/")):
        gone |= {marker["Key"] for marker in page.get("DeleteMarkers", ()) if marker["IsLatest"]}
        for found in page.get("Versions", ()):  # newest first
            again = Copy(deployment.s3, deployment.bucket, found["Key"], found["ETag"], found["VersionId"])
            last.setdefault(found["Key"], File(found["Key"], found["Size"], again))
    return [last[key] for key in sorted(gone & last.keys()) if is_below(key, path)]


def bring_back(deployment: Deployment, files: list[File], advance: Advance) -> list[str]:
    """Copy each file. Return the keys that exist again and were left as they are."""
    there = []
    for file in files:
        try:
            create(deployment, file, advance)
        except AlreadyThere:
            there.append(file.key)
    return there


def being_deleted(deployment: Deployment, files: list[File]) -> list[str]:
    """Return the versions whose deletion has not ended. Files brought back would be deleted again."""
    versions: set[VersionId] = set()
    for file in files:
        with suppress(InvalidUpload):  # it belongs to no version, so no record names it
            versions.add(parse_key(file.key).version)
    found = []
    for version in sorted(versions):
        seen = deployment.store.read(version.record_key)
        record = records.decode(seen.body, version.record_key) if seen else None
        if record and any(one.final for one in _withdrawals(record)):
            found.append(version.path)
    return found


def _withdrawals(record: records.Record) -> Iterator[records.Withdrawal]:
    yield from filter(None, (record.withdrawn, *(facts.withdrawn for facts in record.files.values())))
