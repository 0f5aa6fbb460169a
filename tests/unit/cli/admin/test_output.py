"""Counts in the sentences that the commands print."""

import pytest

from cli.admin.output import counted


@pytest.mark.parametrize(
    ("count", "what", "says"),
    [
        (0, "file", "0 files"),
        (1, "file", "1 file"),
        (1200, "version", "1,200 versions"),
        (1, "mismatch", "1 mismatch"),
        (2, "mismatch", "2 mismatches"),
    ],
)
def test_one_thing_is_not_several(count: int, what: str, says: str) -> None:
    assert counted(count, what) == says
