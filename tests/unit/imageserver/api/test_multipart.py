"""In how many parts a file is uploaded."""

from __future__ import annotations

import itertools

import pytest

from imageserver.api import multipart

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize("size", [1, 16 * MIB, 16 * MIB + 1, 65 * MIB, 6 * GIB, 8000 * MIB, 50 * GIB, 67_500_000_000])
def test_parts_cover_the_file_without_gaps_and_within_the_limits_of_s3(size: int) -> None:
    parts = multipart.parts(size)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert sum(part.size for part in parts) == size
    assert all(a.offset + a.size == b.offset for a, b in itertools.pairwise(parts))
    assert len(parts) <= multipart.MOST_PARTS
    assert all(part.offset % MIB == 0 for part in parts)
    assert all(5 * MIB <= part.size <= 5 * GIB for part in parts[:-1])


@pytest.mark.parametrize("size", [17 * MIB, 33 * MIB, 65 * MIB, 6 * GIB, 50 * GIB])
def test_a_refused_file_is_replaced_in_another_number_of_parts(size: int) -> None:
    """The ETag of an object in parts ends with their number, so equal bytes are not the object that was refused."""
    usual = len(multipart.parts(size))
    other = multipart.parts(size, usual)
    assert len(other) != usual
    assert sum(part.size for part in other) == size
    assert other[0].size == min(size, multipart.part_bytes(size, usual)) <= 5 * GIB
    assert multipart.parts(size, len(other)) == multipart.parts(size)


def test_a_refused_file_that_came_in_one_part_is_replaced_in_one_put() -> None:
    assert not multipart.in_parts(16 * MIB, wanted=True, other_than=1)
    assert multipart.in_parts(16 * MIB, wanted=True, other_than=2)


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        (64 * MIB, None, False),
        (64 * MIB + 1, None, True),
        (1, True, True),
        (5 * GIB, False, False),
        (5 * GIB + 1, False, True),
    ],
)
def test_a_large_file_is_uploaded_in_parts(size: int, wanted: bool | None, expected: bool) -> None:
    assert multipart.in_parts(size, wanted) is expected
