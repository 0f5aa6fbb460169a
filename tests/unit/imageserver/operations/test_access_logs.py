"""Which logs are read, and what happens to unreadable ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from imageserver.errors import StorageDenied
from imageserver.operations.access_logs import AHEAD, Logs, count_requests, days_ago, find_logs
from tests.support.edge_logs import CHOSEN, line, log
from tests.support.memory_store import MemoryStore

NOW = datetime(2026, 11, 28, 1, 30, tzinfo=UTC)
HOURS = ("2026-10-01-00", "2026-11-26-00", "2026-11-27-00", "2026-11-27-01", "2026-11-28-01")


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore(chunk=50)
    for hour in HOURS:
        made.put(f"edge/E1.{hour}.0a1b2c3d.gz", log([line()]))
    return made


def hours_of(logs: Logs) -> list[str]:
    return [file.key.split(".")[1] for file in logs.files]


@pytest.mark.parametrize(
    ("days", "hours"), [(0, HOURS), (100, HOURS), (2, HOURS[1:][1:]), (1, HOURS[3:]), (30, HOURS[1:])]
)
def test_only_the_logs_of_these_days_are_read_to_the_hour(
    store: MemoryStore, days: int, hours: tuple[str, ...]
) -> None:
    logs = find_logs(store, days_ago(NOW, days))
    assert hours_of(logs) == list(hours)
    assert logs.oldest == datetime(2026, 10, 1, tzinfo=UTC)
    assert logs.size_bytes == sum(len(store.objects[file.key].body) for file in logs.files)
    assert count_requests(store, logs.files).requests == len(hours)
    assert {key for method, key in store.log if method == "open"} == {file.key for file in logs.files}


def test_logs_of_version_2_may_be_in_folders_and_other_objects_are_ignored(store: MemoryStore) -> None:
    store.objects.clear()
    store.put("edge/E1/2026/11/28/01/E1.2026-11-28-01.9f.gz", log([line(CHOSEN)], CHOSEN))
    for other in ("edge/readme.txt", "edge/E1.2026-13-01-00.x.gz", "edge/E1.2026-11-28-01.x.parquet", "bucket/x"):
        store.put(other, b"")
    logs = find_logs(store, days_ago(NOW, 1))
    assert hours_of(logs) == ["2026-11-28-01"]
    assert count_requests(store, logs.files).countries.keys() == {"DE"}


def test_without_logs_there_is_no_oldest_log() -> None:
    assert find_logs(MemoryStore(), NOW) == Logs((), NOW.replace(minute=0))


def test_a_log_that_expires_meanwhile_is_reported_and_the_others_count(store: MemoryStore) -> None:
    logs = find_logs(store)
    gone = logs.files[2].key
    store.remove(gone)
    counts = count_requests(store, logs.files)
    assert counts.requests == len(HOURS) - 1
    assert counts.damaged == {gone: "is gone, or was replaced, since it was listed"}


def test_a_denied_log_ends_the_count(store: MemoryStore) -> None:
    def deny(method: str, _key: str) -> None:
        if method == "open":
            raise StorageDenied("403")

    store.on = deny
    with pytest.raises(StorageDenied):
        count_requests(store, find_logs(store).files)


def test_logs_that_no_time_is_left_for_are_reported(store: MemoryStore) -> None:
    left = iter([True, True, False])
    counts = count_requests(store, find_logs(store).files, more=lambda: next(left))
    assert counts.requests == 2
    ((key, why),) = counts.damaged.items()
    assert (HOURS[2] in key, why) == (True, "was not read: there was no time left for it and those after it")


def test_progress_is_the_size_of_each_file_and_few_are_open_at_once(store: MemoryStore) -> None:
    for number in range(3 * AHEAD):
        store.put(f"edge/E1.2026-11-28-00.{number:08d}.gz", log([line()] * number))
    done: list[int] = []
    opened: list[int] = []
    store.on = lambda method, _key: opened.append(len(done)) if method == "open" else None
    logs = find_logs(store)
    count_requests(store, logs.files, done.append)
    assert sum(done) == logs.size_bytes
    assert all(index - counted <= AHEAD for index, counted in enumerate(opened, 1))


def test_days_count_back_from_now_and_no_days_mean_no_limit() -> None:
    assert days_ago(NOW, 2) == NOW - timedelta(days=2)
    assert days_ago(NOW, 0) is None
