"""The status of a version: the record says what is wrong with it, the catalog whether clients see it."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import chain
from typing import Final

from msgspec.structs import replace

from imageserver.api.schema import FileStatus, ProductStatus, VersionStatus
from imageserver.catalog.conflicts import shared_with
from imageserver.errors import CatalogDamaged
from imageserver.format import documents
from imageserver.format.documents import Products, Withheld
from imageserver.format.keys import ProductId, VersionId
from imageserver.operations.inventory import record_of
from imageserver.storage import listing
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Store
from imageserver.storage.retries import Pause
from imageserver.versions.assessment import assess, overrides
from imageserver.versions.records import Reason, Record
from imageserver.versions.state import State, visible_state

POLL_S: Final = 0.5
LONGEST_HOLD_S: Final = 25.0
"""API Gateway gives up on a function after 30 s."""
FRESH_S: Final = 60.0
"""Nearly every version is listed this long after its last file.

Any other waits behind them, for minutes or hours.
"""
SHORT_HOLD_S: Final = 5.0
LONGEST_REST_S: Final = 60.0


def look(store: Store, cache: DocumentCache, version: VersionId) -> VersionStatus | None:
    """Return the current status of a version; None if nothing has that name."""
    record = record_of(store, version)
    fresh = {
        file: FileStatus(size=there.size_bytes, uploaded_at="" if there.is_in_parts else there.modified)
        for file, there in listing.listed(store, version).items()
        if not (record and file in record.files and record.files[file].etag == there.etag)
    }
    if record is None or not record.files:
        return with_arrivals(VersionStatus(path=version.path, status=State.INCOMPLETE), fresh) if fresh else None
    if record.state is not State.COMPLETE:
        return with_arrivals(from_record(record), fresh)
    own = cache.products(version.product.stream)

    def streams() -> list[Products]:
        try:
            return cache.all()
        except CatalogDamaged:  # another stream's: publish logs it, `admin doctor` names it
            return [own]

    return with_arrivals(from_catalog(record, own, streams), fresh)


def of_product(cache: DocumentCache, product: ProductId) -> ProductStatus | None:
    """Return the listed versions of a product, newest first; None if there are none."""
    listed = cache.products(product.stream).products.get(product.name)
    if listed is None:
        return None
    return ProductStatus(path=product.path, versions=sorted(documents.decode_versions(listed), reverse=True))


def is_terminal(found: VersionStatus) -> bool:
    """Return whether the status is not expected to change by itself.

    A reason without a file waits for the publisher.
    """
    waiting = [reason for reason in found.reasons if reason.kind == "waiting" and reason.file]
    return found.status not in (State.INCOMPLETE, State.COMPLETE) and not waiting


def hold_s(found: VersionStatus | None, now: datetime) -> float:
    """Return the longest time, in seconds, to hold a request.

    Each held request occupies a Lambda execution that the queue's workers may need. While the queue is long every
    publisher waits, and holding all their requests would occupy hundreds of the account's executions.
    """
    return LONGEST_HOLD_S if found is None or is_terminal(found) or _age_s(found, now) < FRESH_S else SHORT_HOLD_S


def ask_again_s(found: VersionStatus, now: datetime) -> int:
    """Return the seconds after which to ask again: half of the time waited so far; 0 when nothing is waited for."""
    if is_terminal(found):
        return 0
    age_s = _age_s(found, now)
    return 1 if age_s < FRESH_S else int(min(age_s / 2, LONGEST_REST_S))


def _age_s(found: VersionStatus, now: datetime) -> float:
    """Return the seconds since the last file arrived."""
    arrived = [datetime.fromisoformat(facts.uploaded_at) for facts in found.files.values() if facts.uploaded_at]
    return (now - max(arrived)).total_seconds() if arrived else 0.0


def wait(
    look: Callable[[], VersionStatus | None],
    waits: Callable[[VersionStatus], bool],
    passed_s: Callable[[], float],
    wait_s: Callable[[VersionStatus | None], float],
    pause: Pause,
) -> VersionStatus | None:
    """Poll while the caller `waits` with this status, or there is none, for at most `wait_s`; return the last one."""
    found = look()
    while (found is None or waits(found)) and passed_s() + POLL_S < wait_s(found):
        pause(POLL_S)
        found = look()
    return found


def with_arrivals(found: VersionStatus, fresh: dict[str, FileStatus]) -> VersionStatus:
    """Add the files that arrived and that digest has not read yet: one of them may repair what was refused."""
    waiting = [Reason(file, "waiting", f"{file} has arrived and is about to be read") for file in sorted(fresh)]
    status = State.INCOMPLETE if fresh and found.status is State.INVALID else found.status
    return replace(found, status=status, reasons=[*found.reasons, *waiting], files={**found.files, **fresh})


def from_record(record: Record) -> VersionStatus:
    """Return the status of a version whose record says that it cannot be listed."""
    withdrawals = [record.withdrawn] if record.withdrawn else [facts.withdrawn for facts in record.files.values()]
    delete_after, reasons = "", list(record.reasons)
    if record.state in (State.WITHDRAWN, State.DELETING):
        delete_after = max(withdrawal.delete_after for withdrawal in withdrawals if withdrawal)
        until = f"it can be restored until {delete_after} and is deleted then"
        what = "its files are being deleted" if record.state is State.DELETING else until
        reasons.insert(0, Reason("", "warning", f"{record.version} was withdrawn; {what}"))
    return VersionStatus(
        path=record.version, status=record.state, reasons=reasons, files=_files(record), delete_after=delete_after
    )


def from_catalog(record: Record, products: Products, streams: Callable[[], Iterable[Products]]) -> VersionStatus:
    """Return the status of a complete version: listed, withheld because of what else is listed, or not rendered yet.

    `streams` gives the documents of all streams; it is called only for a listed version, for which nobody waits.
    """
    version = record.id
    withheld = products.withheld.get(version.product.name, ())
    product = products.products.get(version.product.name)
    listed = documents.versions_of(products, version.product.name)
    entry = listed.get(version.version)
    mine = [held for held in withheld if held.version == version.version]
    state = visible_state(record.state, listed=entry is not None, withheld=bool(mine))
    if product is None or entry is None:
        reasons = [Reason(held.file, "error", held.reason) for held in mine]
        waiting = Reason("", "waiting", f"{record.version} is complete and about to be listed")
        return VersionStatus(
            path=record.version,
            status=state,
            reasons=[*record.reasons, *(reasons or [waiting])],
            files=_files(record),
        )
    fingerprints = sorted(documents.images(entry))
    aliases = [held for held in withheld if held.alias]
    reasons = [_of_withheld(record, held) for held in (*mine, *aliases)]
    reasons += [Reason("", "warning", sentence) for sentence in shared_with(streams(), version.product, fingerprints)]
    return VersionStatus(
        path=record.version,
        status=state,
        reasons=[*record.reasons, *reasons, *_not_yet_listed(record, entry, {held.file for held in mine})],
        files=_files(record),
        aliases=product.aliases.split(",") if product.aliases and _has_aliases(version.version, listed) else [],
        fingerprints=fingerprints,
        clients=documents.clients(entry),
    )


def _has_aliases(name: str, listed: Mapping[str, documents.Version]) -> bool:
    """Return whether a product's aliases lead to this version, whatever client and kind of image of it is meant.

    They lead to the newest version with an image of the kind. Clients order versions as texts.
    """
    mine = documents.launched(listed[name])
    return not any(mine & documents.launched(version) for other, version in listed.items() if other > name)


def _of_withheld(record: Record, held: Withheld) -> Reason:
    """Return what a listed version does not get.

    A missing image or a requested alias is an error, anything else a warning.
    """
    asked = {*overrides(record).aliases, *record.id.product.path_aliases}
    return Reason(held.file, "error" if held.fingerprint or held.alias in asked else "warning", held.reason)


def _not_yet_listed(record: Record, entry: documents.Version, held: set[str]) -> list[Reason]:
    """Return the files of the record that the catalog lacks, or lists with the digest of an earlier upload."""
    listed = {item.path.rpartition("/")[2]: item.sha256 for item in entry.items.values()}
    assessment = assess(record)
    made = {*assessment.roots.values(), assessment.unified, *chain.from_iterable(assessment.deltas.values())}
    wanted = (made - held - {""}) | (listed.keys() & record.files.keys())
    late = sorted(file for file in wanted if listed.get(file) != record.files[file].sha256)
    return [Reason(file, "waiting", f"{file} is complete and about to be listed") for file in late]


def _files(record: Record) -> dict[str, FileStatus]:
    return {
        file: FileStatus(size=facts.size_bytes, sha256=facts.sha256, uploaded_at=facts.uploaded)
        for file, facts in record.files.items()
    }
