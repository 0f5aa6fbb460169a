"""The lines of a compressed log: in any chunks, from several members, truncated, damaged and hostile."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator

import pytest

from imageserver.access_logs.compressed import BLOCK_BYTES, LONGEST_LINE, DamagedLog, lines_of

LINES = [f"line {number} {'x' * (number % 70)}".encode() for number in range(20_000)]
BODY = b"\n".join([*LINES, b""])


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_lines_do_not_depend_on_chunk_sizes(size: int) -> None:
    assert list(lines_of(chunked(gzip.compress(BODY), size))) == LINES


def test_concatenated_gzip_files_are_read_as_one() -> None:
    half = len(BODY) // 2
    body = gzip.compress(BODY[:half]) + gzip.compress(BODY[half:])
    for size in (3, 1 << 20):
        assert list(lines_of(chunked(body, size))) == LINES


def test_the_last_line_needs_no_newline() -> None:
    assert list(lines_of([gzip.compress(b"a\nb")])) == [b"a", b"b"]
    assert list(lines_of([gzip.compress(b"")])) == []


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"", "is empty"), (b"2026-11-27\tplain", "is not a gzip file"), (gzip.compress(BODY)[:-9], "ends early"),
     (gzip.compress(BODY)[:-8] + b"\0" * 8, "damaged"), (gzip.compress(BODY) + b"rubbish", "damaged")],
    ids=["nothing", "plain text", "cut short", "another checksum", "rubbish behind"],
)  # fmt: skip
def test_a_damaged_file_is_reported_after_the_lines_before_the_damage(body: bytes, why: str) -> None:
    found: list[bytes] = []
    with pytest.raises(DamagedLog, match=why):
        found.extend(lines_of(chunked(body, 1000)))
    assert found == LINES[: len(found)]


def test_a_bomb_of_one_line_is_refused_in_bounded_memory() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedLog, match="a line of more than"):
            list(lines_of([bomb]))
        assert tracemalloc.get_traced_memory()[1] < 8 * (BLOCK_BYTES + LONGEST_LINE)
    finally:
        tracemalloc.stop()
