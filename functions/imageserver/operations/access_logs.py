"""Read the edge's access logs of a period: list them by name, stream them, count their requests."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Final

from imageserver.access_logs.entries import Parser
from imageserver.access_logs.statistics import Statistics
from imageserver.errors import ObjectChanged
from imageserver.storage.port import ObjectInfo, Store

PREFIX: Final = "edge/"
"""The prefix where the template has CloudFront put them."""
AHEAD: Final = 8
"""Files that are opened and begun ahead of the one that is counted."""

_NAME: Final = re.compile(r"\.([0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{2})\.[^/]+\.gz")
_HOUR: Final = "%Y-%m-%d-%H"


@dataclass(frozen=True, slots=True)
class Logs:
    """The logs since a certain hour, in order of their keys. `since` is None for all logs.

    `oldest` and `newest` are the first and the last hour with any log at all, None without logs.
    """

    files: tuple[ObjectInfo, ...]
    since: datetime | None = None
    oldest: datetime | None = None
    newest: datetime | None = None

    @property
    def size_bytes(self) -> int:
        """The compressed bytes to read."""
        return sum(file.size_bytes for file in self.files)


def find_logs(store: Store, since: datetime | None = None) -> Logs:
    """List the logs of requests since a moment, by the hour in each name: `<distribution>.YYYY-MM-DD-HH.<id>.gz`.

    An object with another name is left alone.
    """
    hour = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0) if since else None
    files = []
    oldest: datetime | None = None
    newest: datetime | None = None
    for found in store.list(PREFIX):
        if not (match := _NAME.search(found.key)):
            continue
        try:
            of = datetime.strptime(match[1], _HOUR).replace(tzinfo=UTC)
        except ValueError:
            continue
        oldest, newest = min(oldest or of, of), max(newest or of, of)
        if hour is None or of >= hour:
            files.append(found)
    return Logs(tuple(files), hour, oldest, newest)


def count_requests(
    store: Store,
    files: Iterable[ObjectInfo],
    advance: Callable[[int], object] = lambda _: None,
    more: Callable[[], bool] = lambda: True,
) -> Statistics:
    """Read logs and count their requests. `advance` is called with the size of each file after it was read.

    Memory: the counts, the first parts of AHEAD files, and the decompression of one file. Once `more` returns False,
    the remaining files count as damaged. So does a file that expired meanwhile; one that was redacted meanwhile is read
    as it is now. Raises StorageDenied, StorageUnavailable.
    """
    counted, parser = Statistics(), Parser()
    for file, chunks in _opened(store, files):
        if not more():
            counted.note_damaged(file.key, "was not read: there was no time left for it and those after it")
            break
        try:
            counted.read(file.key, chunks(), parser)
        except ObjectChanged:
            counted.note_damaged(file.key, "is gone, or was replaced, since it was listed")
        advance(file.size_bytes)
    return counted


_Chunks = Callable[[], Iterable[bytes | memoryview]]


def _opened(store: Store, files: Iterable[ObjectInfo]) -> Iterator[tuple[ObjectInfo, _Chunks]]:
    """Yield each file with a function that returns its bytes or raises the error of opening it."""
    todo = iter(files)
    pending: deque[tuple[ObjectInfo, Future[Iterator[bytes | memoryview]]]] = deque()
    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="logs")
    try:
        for file in islice(todo, AHEAD):
            pending.append((file, pool.submit(_begin, store, file)))
        while pending:
            file, begun = pending.popleft()
            yield file, begun.result
            for following in islice(todo, 1):
                pending.append((following, pool.submit(_begin, store, following)))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(store: Store, file: ObjectInfo) -> Iterator[bytes | memoryview]:
    """Open a file and fetch its first part; most logs have no second one. Raise ObjectChanged."""
    try:
        return _begin_upload(store, file)
    except ObjectChanged:  # a log is redacted once, in the seconds after it arrives
        now = next((found for found in store.list(file.key) if found.key == file.key), None)
        if now is None:
            raise
        return _begin_upload(store, now)


def _begin_upload(store: Store, file: ObjectInfo) -> Iterator[bytes | memoryview]:
    chunks = store.open(file.key, file.etag).chunks
    return chain(tuple(islice(chunks, 1)), chunks)


def days_ago(now: datetime, days: int) -> datetime | None:
    """Return the moment so many days ago, the first there is for more; None for 0, which means all logs."""
    try:
        return now - timedelta(days=days) if days else None
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
