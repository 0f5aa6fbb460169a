"""What is counted, and in how much memory."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from imageserver.access_logs import statistics
from imageserver.access_logs.clients import OTHER, Client
from imageserver.access_logs.entries import Parser
from imageserver.access_logs.statistics import Count, Fetches, Savings, Statistics, savings
from tests.support.edge_logs import ADDRESS, CHOSEN, LEGACY, PRODUCT, ROOT, VERSION, header, line, log

TOKEN = f"sst_{'a' * 32}"


def counted(lines: Sequence[bytes], fields: Sequence[str] = LEGACY) -> Statistics:
    counts = Statistics()
    counts.read("edge/E.2026-11-27-10.x.gz", [log(lines, fields)], Parser())
    return counts


def test_downloads_are_whole_roots_and_first_ranges_and_every_byte_counts() -> None:
    counts = counted([
        line(),
        line(cs_uri_stem=f"/{VERSION}/lxd.tar.xz", sc_bytes="70"),
        line(sc_status="206", sc_range_start="0", sc_bytes="10", sc_content_len="9", time="10:12:00"),
        line(sc_status="206", sc_range_start="9", sc_bytes="11", sc_content_len="9", time="09:00:00"),
        line(cs_method="HEAD", sc_bytes="5"),
        line(sc_status="304", sc_bytes="6"),
        line(sc_status="404", sc_bytes="7", x_edge_result_type="Error"),
        line(sc_bytes="100", x_edge_result_type="Miss", time="10:12:30"),
        line(cs_uri_stem="/streams/v1/index.json", sc_bytes="8", x_edge_result_type="Miss", agent="curl/8"),
    ])  # fmt: skip
    assert counts.versions == {
        VERSION: Fetches(downloads=3, cut=1, size_bytes=1191, last_fetched="2026-11-27T10:12:30Z")
    }
    assert (counts.requests, counts.size_bytes) == (9, 1217)
    assert (counts.hits, counts.misses, counts.hit_bytes) == (6, 2, 1102)
    assert counts.statuses == {"2xx": 7, "3xx": 1, "4xx": 1}
    assert counts.clients == {Client("lxd", "5.21.3"): Count(3, 1209), Client("curl"): Count(0, 8)}
    assert counts.locations == {"FRA": Count(3, 1217)}
    assert counts.countries == {}


def test_countries_are_counted_where_the_log_has_them() -> None:
    counts = counted([line(CHOSEN), line(CHOSEN, c_country="CH"), line(CHOSEN, c_country="-")], CHOSEN)
    assert counts.countries == {"DE": Count(1, 1000), "CH": Count(1, 1000)}


def test_bad_lines_are_counted_by_reason_and_the_others_count() -> None:
    counts = counted([line(), b"nonsense", line(sc_status="x"), b"\xff\xfe", line()])
    assert counts.requests == 2
    assert counts.unreadable == {
        "has more or fewer values than #Fields names": 2,
        "has something other than a number as sc-status": 1,
    }


def test_a_truncated_file_counts_up_to_its_end_and_is_named() -> None:
    whole = gzip.compress(b"\n".join([*header(), *[line(time=f"10:{n % 60:02d}:00") for n in range(5000)]]), 0)
    counts = Statistics()
    counts.read("edge/cut.gz", [whole[: len(whole) // 2]], Parser())
    assert 0 < counts.requests < 5000
    assert counts.damaged == {"edge/cut.gz": "ends early"}


def test_each_file_begins_with_its_own_fields() -> None:
    counts, parser = Statistics(), Parser()
    counts.read("1", [log([line()])], parser)
    counts.read("2", [gzip.compress(line())], parser)
    assert (counts.requests, counts.unreadable) == (1, {"comes before any known #Fields": 1})


def test_a_delta_saves_the_size_of_its_root_less_its_own() -> None:
    older, base = f"{PRODUCT}/20261101_1000", "20261122_1000"
    counts = counted([
        line(cs_uri_stem=f"/{VERSION}/rootfs.{base}.vcdiff", sc_bytes="100", sc_content_len="90"),
        line(cs_uri_stem=f"/{VERSION}/rootfs.20261121_1000.vcdiff", sc_bytes="50", sc_content_len="90"),
        line(cs_uri_stem=f"/{VERSION}/disk.{base}.qcow2.vcdiff", sc_bytes="30", sc_content_len="20"),
        line(cs_uri_stem=f"/{older}/rootfs.20261031_1000.vcdiff", sc_bytes="7", sc_content_len="5"),
        line(),
    ])  # fmt: skip
    assert counts.versions[VERSION].downloads == 4
    sizes = {(VERSION, "squashfs"): 4000, (VERSION, "disk-kvm.img"): 9000, (VERSION, "squashfs.vcdiff"): 90}
    assert savings(counts.versions, sizes) == Savings(downloads=3, size_bytes=180, replaced_bytes=17_000, unknown=1)


def test_statistics_hold_nothing_that_identifies_a_requester() -> None:
    counts = counted([
        line(cs_uri_stem=f"/{TOKEN}/signed/{'A' * 22}/{ROOT}", agent=f"evil%20{ADDRESS}", cs_uri_query="a=b"),
        line(cs_uri_stem=f"/{ADDRESS}"),
        line(sc_status=ADDRESS),
    ])  # fmt: skip
    encoded = msgspec.json.encode({**msgspec.structs.asdict(counts), "clients": [*map(list, counts.clients)]}).decode()
    for secret in (ADDRESS, TOKEN, "A" * 22, "evil"):
        assert secret not in encoded


def many(count: int) -> Iterator[bytes]:
    """Yield a file of lines that differ in everything that is counted separately."""
    yield from header(CHOSEN)
    for n in range(count):
        country = f"{chr(65 + n % 26)}{chr(65 + n // 26 % 26)}"
        yield line(
            CHOSEN, cs_uri_stem=f"/images/os{n}/r/amd64/default/20261123_1000/rootfs.squashfs",
            agent=f"LXD%205.{n % 900}.{n // 900 % 900}", c_country=country, x_edge_location=f"{country}{country}1",
        )  # fmt: skip


def test_memory_is_bounded_however_many_names_a_log_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOST_VERSIONS", "MOST_CLIENTS", "MOST_PLACES"):
        monkeypatch.setattr(statistics, name, 50)
    counts = Statistics()
    counts.read("edge/x.gz", [gzip.compress(b"\n".join(many(2000)))], Parser())
    assert (len(counts.versions), counts.uncounted) == (50, 1950)
    assert len(counts.clients) == len(counts.countries) == 51
    assert counts.clients[OTHER] == Count(1950, 1_950_000)
    assert counts.requests == sum(count.downloads for count in counts.clients.values()) == 2000


def test_memory_does_not_grow_with_the_number_of_requests() -> None:
    def peak(count: int) -> int:
        body = gzip.compress(b"\n".join([*header(), *[line()] * count]))
        counts, parser = Statistics(), Parser()
        tracemalloc.start()
        try:
            counts.read("edge/x.gz", (body[at : at + 4096] for at in range(0, len(body), 4096)), parser)
            assert counts.requests == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40_000) < peak(4_000) * 1.5
