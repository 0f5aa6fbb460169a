"""Retention keeps versions that are still fetched, and every version if the access logs are inconclusive."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from imageserver.access_logs import statistics
from imageserver.errors import StorageDenied, StorageUnavailable, TasksFailed
from imageserver.operations.prune import Rules, prune
from imageserver.operations.recent_fetches import fetched_within
from imageserver.operations.runs import Run
from imageserver.versions.retention import Rule
from tests.support.edge_logs import ADDRESS, line, log
from tests.support.maintained import DAYS, NOW, PRODUCT, five_versions, no_pause
from tests.support.memory_store import MemoryStore, Sent, System

WITHIN = 7
KEEP_ONE = Rules(Rule(versions=1), grace_hours=24, stale_days=7, keep_fetched_days=WITHIN)
OLD = DAYS[:-1]


def fetch(day: str, **values: str) -> bytes:
    return line(cs_uri_stem=f"/{PRODUCT}/{day}/rootfs.squashfs", **values)


def put(logs: MemoryStore, ago: timedelta, *lines: bytes, name: str = "0a") -> str:
    key = f"edge/E1.{NOW - ago:%Y-%m-%d-%H}.{name}.gz"
    logs.put(key, log(lines))
    return key


@pytest.fixture
def logs() -> MemoryStore:
    """Return logs that go back far enough, of a server that still gets requests."""
    made = MemoryStore()
    put(made, timedelta(days=30), fetch(DAYS[0]))
    put(made, timedelta(hours=1), line(cs_uri_stem="/streams/v1/images.json"))
    return made


@pytest.fixture
def system() -> System:
    return five_versions()


def pruned(
    system: System, logs: MemoryStore, now: datetime = NOW, *, dry_run: bool = False,
    more: Callable[[], bool] = lambda: True,
) -> Run:  # fmt: skip
    run = Run(dry_run=dry_run)
    prune(
        system.store, Sent(), KEEP_ONE, now, no_pause, run,
        reason_to_keep=fetched_within(WITHIN, logs, now, more),
    )  # fmt: skip
    assert run.ended
    return run


def withdrawn(run: Run) -> list[str]:
    return [task.path.rpartition("/")[2] for task in run.tasks]


def kept(run: Run) -> list[str]:
    return [task.path.rpartition("/")[2] for task in run.kept]


def test_a_version_is_kept_while_it_is_fetched(system: System, logs: MemoryStore) -> None:
    put(logs, timedelta(days=6), fetch(DAYS[1], date="2026-11-17"), fetch(DAYS[1], date="2026-11-17", time="11:00:00"))
    put(logs, timedelta(days=8), fetch(DAYS[2]))
    run = pruned(system, logs)
    assert (withdrawn(run), kept(run)) == ([DAYS[0], *DAYS[2:4]], [DAYS[1]])
    assert run.kept[0].why == (
        "3 newer versions are there, and 1 is kept, but it was last fetched at 2026-11-17T11:00:00Z, and versions "
        "that were fetched within 7 days are kept"
    )
    system.publish(*system.products())
    later = pruned(system, logs, NOW + timedelta(days=1, hours=23))
    assert [task.path for task in later.tasks if task.what == "withdraw"] == [f"{PRODUCT}/{DAYS[1]}"]
    assert later.kept == []


@pytest.mark.parametrize(
    "values", [{"cs_method": "HEAD"}, {"sc_status": "304"}, {"sc_status": "404"}, {"sc_status": "403"}]
)
def test_a_request_without_a_body_keeps_no_version(system: System, logs: MemoryStore, values: dict[str, str]) -> None:
    put(logs, timedelta(days=1), *(fetch(day, **values) for day in OLD))
    assert withdrawn(pruned(system, logs)) == OLD


def test_fetches_of_only_metadata_or_a_later_range_count(system: System, logs: MemoryStore) -> None:
    put(
        logs, timedelta(days=1), line(cs_uri_stem=f"/{PRODUCT}/{DAYS[0]}/lxd.tar.xz"),
        fetch(DAYS[1], sc_status="206", sc_range_start="4096"),
    )  # fmt: skip
    assert kept(pruned(system, logs)) == DAYS[:2]


def young(logs: MemoryStore) -> str:
    del logs.objects[next(iter(logs.objects))]
    put(logs, timedelta(days=6), fetch(DAYS[0]))
    return "the access logs begin at 2026-11-17 10:00, and 7 days of them are needed; LogRetentionDays must be longer"


def missing(logs: MemoryStore) -> str:
    logs.objects.clear()
    return "there are no access logs below edge/; set EdgeLogs to true, or order logs of version 2"


def ended(logs: MemoryStore) -> str:
    put(logs, timedelta(days=3), fetch(DAYS[0]))
    del logs.objects[next(key for key in logs.objects if "11-23" in key)]
    return "the newest access log is of 2026-11-20 10:00; set EdgeLogs to true, or order logs of version 2"


def cut(logs: MemoryStore) -> str:
    key = f"edge/E1.{NOW - timedelta(days=1):%Y-%m-%d-%H}.0b.gz"
    logs.put(key, log([fetch(DAYS[0])])[:-9])
    return f"{key} ends early"


def plain(logs: MemoryStore) -> str:
    key = f"edge/E1.{NOW - timedelta(days=1):%Y-%m-%d-%H}.0b.gz"
    logs.put(key, b"no gzip file")
    return f"{key} is not a gzip file"


def unreadable(logs: MemoryStore) -> str:
    put(logs, timedelta(days=1), ADDRESS.encode(), b"x")
    return "2 lines of the access logs cannot be read, each of which has more or fewer values than #Fields names"


def without_fields(logs: MemoryStore) -> str:
    logs.put(f"edge/E1.{NOW - timedelta(days=1):%Y-%m-%d-%H}.0b.gz", gzip.compress(line()))
    return "1 line of the access logs cannot be read, each of which comes before any known #Fields"


@pytest.mark.parametrize("happen", [young, missing, ended, cut, plain, unreadable, without_fields])
def test_every_version_is_kept_if_the_logs_are_inconclusive(
    system: System, logs: MemoryStore, happen: Callable[[MemoryStore], str]
) -> None:
    why = happen(logs)
    run = pruned(system, logs)
    assert (withdrawn(run), kept(run)) == ([], OLD)
    for task in run.kept:
        assert f"but it may have been fetched within 7 days: {why}" in task.why or "it was last fetched" in task.why
        assert ADDRESS not in task.why
    run.check()


def test_more_days_than_a_date_can_go_back_keep_every_version(system: System, logs: MemoryStore) -> None:
    reason = fetched_within(10**6, logs, NOW, lambda: True)(system.versions()[0], Run())
    assert "the access logs begin at 2026-10-24 10:00, and 1000000 days of them are needed" in reason


@pytest.mark.parametrize("method", ["list", "open"])
@pytest.mark.parametrize("error", [StorageDenied("403"), StorageUnavailable("503")])
def test_unavailable_logs_keep_every_version_and_fail_the_run_once(
    system: System, logs: MemoryStore, method: str, error: Exception
) -> None:
    def fail(called: str, _key: str) -> None:
        if called == method:
            raise error

    logs.on = fail
    run = pruned(system, logs)
    assert (withdrawn(run), kept(run)) == ([], OLD)
    assert [str(failure) for failure in run.failed] == [f"read the access logs in edge/: {error}"]
    with pytest.raises(TasksFailed):
        run.check()


def test_too_little_time_for_the_logs_keeps_every_version(system: System, logs: MemoryStore) -> None:
    run = pruned(system, logs, more=lambda: False)
    assert kept(run) == OLD
    assert "there was no time left" in run.kept[0].why


def test_more_versions_than_the_statistics_can_hold_keep_every_version(
    system: System, logs: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOST_VERSIONS", 1)
    put(logs, timedelta(days=1), fetch(DAYS[0]), fetch(DAYS[1]))
    run = pruned(system, logs)
    assert kept(run) == OLD
    assert run.kept[1].why.endswith("the access logs name more versions than are counted separately")


def test_logs_are_read_once_and_only_if_a_version_would_expire(system: System, logs: MemoryStore) -> None:
    pruned(system, logs, dry_run=True)
    assert [method for method, _ in logs.log].count("list") == 1
    logs.log.clear()
    run = Run()
    keep_all = Rules(Rule(), grace_hours=24, stale_days=7)
    prune(
        system.store, Sent(), keep_all, NOW, no_pause, run,
        reason_to_keep=fetched_within(WITHIN, logs, NOW, lambda: True),
    )  # fmt: skip
    assert logs.log == []
