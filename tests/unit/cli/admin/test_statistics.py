"""`admin stats` over logs in memory: its table, its JSON, and its reports of unreadable logs."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.admin.errors import NOTHING
from tests.support import images
from tests.support.edge_logs import ADDRESS, CHOSEN, LEGACY, line, log
from tests.support.memory_store import MemoryStore, System
from tests.unit.cli.admin.test_commands import admin, json_of, listed, serve

OLD, NEW = (f"images/tiny/1/amd64/default/2026110{day}" for day in (1, 2))
TOKEN = f"sst_{'a' * 32}"


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Return the logs of a server that lists two versions, the newer with a delta."""
    system = System()
    listed(system, OLD, seed="old")
    system.upload(NEW, {**images.split_image(seed="new"), "rootfs.20261101.vcdiff": b"small"})
    system.catch_up()
    made = MemoryStore()
    server = serve(system, monkeypatch)
    server.__dict__.update(logs=made, logs_bucket="images-logs")
    return made


def put(logs: MemoryStore, body: bytes, ago: timedelta = timedelta(hours=1), name: str = "0a") -> str:
    key = f"edge/E1.{datetime.now(UTC) - ago:%Y-%m-%d-%H}.{name}.gz"
    logs.put(key, body)
    return key


def requests(fields: list[str]) -> bytes:
    return log([
        line(fields, cs_uri_stem=f"/{NEW}/rootfs.squashfs", sc_bytes="2000"),
        line(fields, cs_uri_stem=f"/{TOKEN}/{NEW}/rootfs.20261101.vcdiff", sc_bytes="20", x_edge_result_type="Miss"),
        line(fields, cs_uri_stem=f"/{NEW}/lxd.tar.xz", sc_bytes="300"),
        line(fields, cs_uri_stem="/streams/v1/images.json", sc_bytes="5", x_edge_result_type="Miss", agent="curl/8"),
    ], fields)  # fmt: skip


def of(rows: list[dict[str, Any]], version: str) -> dict[str, Any]:
    (row,) = (row for row in rows if f"{row['product']}/{row['version']}" == version)
    return row


def test_json_has_every_fetched_or_listed_version(logs: MemoryStore) -> None:
    put(logs, requests(CHOSEN))
    found = json_of("stats")
    assert {name: found[name] for name in ("log_files", "requests", "bytes", "hit_ratio", "hit_bytes")} == {
        "log_files": 1, "requests": 4, "bytes": 2325, "hit_ratio": 0.5, "hit_bytes": 2300,
    }  # fmt: skip
    assert of(found["versions"], NEW) == {
        "product": NEW.rpartition("/")[0], "version": "20261102", "listed": True, "downloads": 2, "cut": 1,
        "bytes": 2320, "last_fetched": "2026-11-27T10:11:12Z",
    }  # fmt: skip
    assert of(found["versions"], OLD)["last_fetched"] is None
    assert found["products"] == [{"product": NEW.rpartition("/")[0], "downloads": 2, "bytes": 2320}]
    assert found["clients"] == [
        {"kind": "lxd", "version": "5.21.3", "downloads": 2, "bytes": 2320},
        {"kind": "curl", "version": "", "downloads": 0, "bytes": 5},
    ]
    assert found["countries"] == [{"country": "DE", "downloads": 2, "bytes": 2325}]
    root = len(images.split_image(seed="new")["rootfs.squashfs"])
    assert found["deltas"] == {
        "downloads": 1, "bytes": 20, "replaced_bytes": root, "saved_bytes": root - 20, "unknown": 0,
    }  # fmt: skip


def test_the_table_has_edge_locations_where_the_logs_have_no_countries(logs: MemoryStore) -> None:
    put(logs, requests(LEGACY))
    output = admin("stats").stdout
    assert "4 requests since" in output
    assert "50.0 % of them from the edge's cache" in output
    assert f"downloads by product\n  {NEW.rpartition('/')[0]}  2  2.3 KiB\n" in output
    assert f"  {NEW}  2  2.3 KiB  last fetched 2026-11-27T10:11:12Z\n" in output
    assert "  lxd 5.21.3  2  2.3 KiB\n" in output
    assert "edge locations, since these logs have no countries\n  FRA  2  2.3 KiB\n" in output
    assert f"listed and not fetched in this time: 1 version\n  {OLD}\n" in output
    put(logs, requests(CHOSEN), name="0b")
    assert "countries\n  DE  2  2.3 KiB\n" in admin("stats").stdout


def test_a_version_that_was_fetched_is_not_idle_where_the_logs_have_no_time(logs: MemoryStore) -> None:
    put(logs, requests([name for name in CHOSEN if name not in ("date", "time")]))
    output = admin("stats").stdout
    assert f"  {NEW}  2  2.3 KiB  last fetched at an unknown time\n" in output
    assert f"listed and not fetched in this time: 1 version\n  {OLD}\n" in output


def test_a_long_table_is_cut_with_a_note(logs: MemoryStore) -> None:
    paths = (f"/images/os{n}/1/amd64/default/20261101/disk.qcow2" for n in range(25))
    put(logs, log([line(cs_uri_stem=path) for path in paths]))
    output = admin("stats").stdout
    assert output.count("  and 5 more; --json has all of them\n") == 2, "products and versions"
    assert output.count("  not listed\n") == 20
    assert len(json_of("stats")["versions"]) == 27


def test_unreadable_log_lines_and_files_are_reported_on_standard_error_and_the_rest_is_counted(
    logs: MemoryStore,
) -> None:
    put(logs, gzip.compress(line()), name="0a")
    cut = put(logs, requests(LEGACY)[:-9], name="0b")
    put(logs, log([line(), b"x", line(sc_status="?")]), name="0c")
    done = admin("stats --json")
    assert [text for text in done.stderr.splitlines() if text.strip()] == [  # rich ends its bar with an empty line
        "not counted: 1 line, each of which comes before any known #Fields",
        "not counted: 1 line, each of which has more or fewer values than #Fields names",
        "not counted: 1 line, each of which has something other than a number as sc-status",
        f"not counted to its end: {cut} ends early",
    ]
    found = json_of("stats")
    assert found["damaged_files"] == {cut: "ends early"}
    assert sum(found["unreadable_lines"].values()) == 3


def test_the_days_option_limits_which_logs_are_read(logs: MemoryStore) -> None:
    put(logs, requests(CHOSEN), ago=timedelta(days=40))
    assert "the oldest is of" in admin("stats --days 7", NOTHING).output
    assert json_of("stats --days 0")["requests"] == json_of("stats --days 41")["requests"] == 4
    assert json_of("stats --days 1000000")["requests"] == json_of(f"stats --days {10**20}")["requests"] == 4


def test_without_logs_stats_reports_when_they_will_arrive(logs: MemoryStore) -> None:
    output = admin("stats", NOTHING).output
    assert "there are no access logs below edge/ in images-logs; the first arrive some hours after EdgeLogs" in output


def test_no_address_and_no_token_is_printed(logs: MemoryStore) -> None:
    put(logs, log([line(cs_uri_stem=f"/{TOKEN}/{OLD}/rootfs.squashfs", agent=f"x{ADDRESS}"), ADDRESS.encode()]))
    for command in ("stats", "stats --json"):
        done = admin(command)
        for secret in (ADDRESS, TOKEN, "sst_"):
            assert secret not in done.output


def test_prune_keeps_a_version_that_was_fetched_recently_and_prints_its_last_fetch(logs: MemoryStore) -> None:
    put(logs, log([line(cs_uri_stem=f"/{OLD}/rootfs.squashfs")]), ago=timedelta(days=40))
    prune = "prune --keep-versions 1 --dry-run"
    assert [task["path"] for task in json_of(prune)["tasks"]] == [OLD]
    assert "kept" not in json_of(prune)
    stale = json_of(f"{prune} --keep-fetched-within 30")
    assert (stale["tasks"], [task["path"] for task in stale["kept"]]) == ([], [OLD])
    assert "the newest access log is of" in stale["kept"][0]["why"]
    put(logs, log([line(cs_uri_stem="/index.html")]))
    assert [task["path"] for task in json_of(f"{prune} --keep-fetched-within 30")["tasks"]] == [OLD]
    put(logs, log([line(cs_uri_stem=f"/{OLD}/lxd.tar.xz")]), name="0b")
    done = admin(f"{prune} --keep-fetched-within 30")
    assert f"keep: {OLD}\n  1 newer version is there, and 1 is kept, but it was last fetched at" in done.stdout
    assert "KeepFetchedWithinDays 30" in done.stderr
