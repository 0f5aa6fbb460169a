"""Counts of access logs, compared with a second implementation; and counts of arbitrary bytes."""

from __future__ import annotations

import gzip
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from imageserver.access_logs.entries import Parser
from imageserver.access_logs.statistics import Statistics
from tests.support.edge_logs import ADDRESS, CHOSEN, LEGACY, PRODUCT, header, line

FILES = {"rootfs.squashfs": 1, "lxd.tar.xz": 0, "rootfs.20261101.vcdiff": 1, "lxd_combined.tar.gz": 1, "image.yaml": 0}
"""Names of files, and whether a complete one is a download."""
requests = st.fixed_dictionaries({
    "version": st.sampled_from(["20261102", "20261103_1000", "20261104_10:00"]),
    "file": st.sampled_from(sorted(FILES)),
    "before": st.sampled_from(["", f"/sst_{'x' * 32}", f"/signed/{'m' * 22}", f"/stable/signed/{'m' * 22}"]),
    "method": st.sampled_from(["GET", "GET", "HEAD"]),
    "status": st.sampled_from(["200", "200", "206", "304", "403", "404", "000"]),
    "start": st.sampled_from(["0", "4096"]),
    "size": st.integers(0, 10**12),
    "time": st.integers(0, 86399),
})  # fmt: skip


def text(request: dict[str, object], fields: list[str]) -> bytes:
    second = int(str(request["time"]))
    return line(
        fields, cs_uri_stem=f"{request['before']}/{PRODUCT}/{request['version']}/{request['file']}",
        cs_method=str(request["method"]), sc_status=str(request["status"]), sc_bytes=str(request["size"]),
        sc_range_start=str(request["start"]) if request["status"] == "206" else "-",
        time=f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}",
    )  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(
    asked=st.lists(requests, max_size=40), fields=st.sampled_from([LEGACY, CHOSEN]), chunk=st.integers(1, 400),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_counts_match_a_second_implementation_in_any_order(
    asked: list[dict[str, object]], fields: list[str], chunk: int, order: random.Random
) -> None:
    downloads, sizes, last = Counter[str](), Counter[str](), dict[str, int]()
    for one in asked:
        if one["method"] != "GET" or one["status"] not in ("200", "206"):
            continue
        path = f"{PRODUCT}/{one['version']}"
        first = one["status"] == "200" or one["start"] == "0"
        downloads[path] += FILES[str(one["file"])] * first
        sizes[path] += int(str(one["size"]))
        last[path] = max(last.get(path, 0), int(str(one["time"])))
    order.shuffle(asked)
    body = gzip.compress(b"\n".join([*header(fields), *(text(one, fields) for one in asked)]))
    counts = Statistics()
    counts.read("edge/x.gz", (body[at : at + chunk] for at in range(0, len(body), chunk)), Parser())
    assert not counts.unreadable
    assert not counts.damaged
    assert (counts.requests, counts.size_bytes) == (len(asked), sum(int(str(one["size"])) for one in asked))
    assert {path: found.downloads for path, found in counts.versions.items()} == dict(downloads)
    assert {path: found.size_bytes for path, found in counts.versions.items()} == dict(sizes)
    for path, second in last.items():
        moment = f"2026-11-27T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"
        assert counts.versions[path].last_fetched == moment


@settings(deadline=None, max_examples=150)
@given(lines=st.lists(st.binary(max_size=200) | st.just(line()) | st.sampled_from(header()), max_size=20),
       cut=st.integers(0, 60))  # fmt: skip
def test_no_bytes_end_the_count_and_none_appear_in_its_result(lines: list[bytes], cut: int) -> None:
    body = gzip.compress(b"\n".join(lines))
    counts = Statistics()
    counts.read("edge/x.gz", [body[: max(0, len(body) - cut)]], Parser())
    counts.read("edge/y.gz", lines, Parser())
    assert ADDRESS not in repr(counts)
