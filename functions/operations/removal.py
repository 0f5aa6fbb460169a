"""Delete what nobody can ask for any more. Off the list first, deleted later.

Before anything is deleted three things must hold: its time is over, the catalog that is served now does not
name it, and its record says `final`, written over the very revision that was decided from. From then on nobody
can put it back on the list, so no client is ever told of a file that is going away. Each object is deleted by
the ETag that the record knows: what a publisher uploads meanwhile stays.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

from msgspec.structs import replace

from operations.look import Product
from operations.work import Task, Work
from simplestreams import records
from simplestreams.keys import VersionId
from simplestreams.records import FileFacts, Record, Withdrawal
from storage.port import Document, Store


def remove_withdrawn(store: Store, product: Product, named: Collection[str], now: datetime, work: Work) -> None:
    """Delete withdrawn versions and single files whose time is over; `named` are the keys that the catalog names."""
    for version, record in sorted(product.known.items()):
        doomed = {file: facts for file, facts in record.files.items() if _is_over(_withdrawal_of(record, facts), now)}
        if not doomed:
            continue
        if still := sorted(version.prefix + file for file in doomed if version.prefix + file in named):
            # Touching the record makes publish fold it again, in case that was missed.
            task = Task("wait", version.path, f"its time is over, but the catalog still names {still[0]}")
            seen = product.seen[version]
            work.do(task, partial(store.replace, version.record_key, seen.body, seen.revision))
            continue
        why = f"withdrawn, {_reason(record, doomed)}"
        task = Task("delete", _shown(version, record, doomed), why, _size(doomed))
        work.do(task, partial(_delete, store, record, product.seen[version], doomed))


def remove_stale(store: Store, product: Product, named: Collection[str], days: int, now: datetime, work: Work) -> None:
    """Delete what was never finished: incomplete versions without another upload for `days`; 0 keeps them."""
    for version, record in sorted(product.known.items()):
        if not days or record.state != "incomplete" or any(version.prefix + file in named for file in record.files):
            continue
        newest = max(datetime.fromisoformat(facts.modified) for facts in record.files.values())
        if now - newest < timedelta(days=days):
            continue
        moment = now.isoformat(timespec="seconds")
        why = f"incomplete, and nothing was uploaded for {(now - newest).days} days"
        marked = replace(record, withdrawn=Withdrawal(moment, moment, why))
        task = Task("delete", version.path, why, marked.size_bytes)
        work.do(task, partial(_delete, store, marked, product.seen[version], marked.files))


def remove_tombstones(store: Store, product: Product, mentioned: Collection[str], work: Work) -> None:
    """Delete records that say "nothing is here", once the catalog says so too; `mentioned` are version names."""
    for version, record in sorted(product.known.items()):
        if record.state == "gone" and version.version not in mentioned and version not in product.folders:
            task = Task("forget", version.path, "its folder is empty and the catalog does not name it")
            work.do(task, partial(store.delete, version.record_key, product.seen[version].revision))


def _withdrawal_of(record: Record, facts: FileFacts) -> Withdrawal | None:
    return record.withdrawn or facts.withdrawn


def _is_over(withdrawal: Withdrawal | None, now: datetime) -> bool:
    return withdrawal is not None and (withdrawal.final or datetime.fromisoformat(withdrawal.delete_after) <= now)


def _reason(record: Record, doomed: dict[str, FileFacts]) -> str:
    withdrawal = _withdrawal_of(record, next(iter(doomed.values())))
    assert withdrawal is not None  # noqa: S101  (only such files are doomed)
    return f"{withdrawal.reason or 'as was asked'}, on {withdrawal.since}"


def _size(files: dict[str, FileFacts]) -> int:
    return sum(facts.size_bytes for facts in files.values())


def _shown(version: VersionId, record: Record, doomed: dict[str, FileFacts]) -> str:
    return version.path if record.withdrawn else f"{version.path}/{{{','.join(sorted(doomed))}}}"


def _delete(store: Store, record: Record, seen: Document, doomed: dict[str, FileFacts]) -> None:
    """Make it final, delete the objects; then the record if the version is empty. Killed anywhere, it is repeated."""
    key = record.id.record_key
    final = _finally(record, doomed)
    revision = seen.revision
    if records.encode(final) != seen.body:
        written = store.replace(key, records.encode(final), seen.revision)
        if written is None:
            return  # it was restored or changed meanwhile: the next run decides afresh
        revision = written
    gone = [store.delete(record.id.prefix + file, facts.etag) for file, facts in doomed.items()]
    if all(gone) and doomed.keys() == record.files.keys():
        store.delete(key, revision)


def _finally(record: Record, doomed: dict[str, FileFacts]) -> Record:
    if record.withdrawn:
        return records.settled(record.id, record.files, replace(record.withdrawn, final=True))
    files = {
        file: replace(facts, withdrawn=replace(facts.withdrawn, final=True))
        if file in doomed and facts.withdrawn
        else facts
        for file, facts in record.files.items()
    }
    return records.settled(record.id, files, None)
