"""An attempt that lost its race starts again, and changes during its write are noticed."""

from __future__ import annotations

import pytest

from imageserver.errors import CatalogBusy, StorageDenied
from imageserver.storage.listing import is_unchanged
from imageserver.storage.retries import ATTEMPTS, RaceLost, retry
from tests.support.memory_store import MemoryStore


def test_an_attempt_is_repeated_until_it_wins_with_a_pause_before_each_further_one() -> None:
    results, pauses = iter([RaceLost(), RaceLost(), None]), list[float]()

    def attempt() -> str | None:
        result = next(results)
        if result:
            raise result
        return None  # an answer like any other

    assert retry("a record", attempt, pauses.append) is None
    assert len(pauses) == 2
    assert all(0 <= pause <= 2 for pause in pauses)


def test_an_attempt_that_never_wins_ends_as_busy() -> None:
    made: list[int] = []

    def attempt() -> None:
        made.append(1)
        raise RaceLost

    with pytest.raises(CatalogBusy, match=f"^a record: {ATTEMPTS} attempts lost their race"):
        retry("a record", attempt, lambda _: None)
    assert len(made) == ATTEMPTS


def test_any_other_error_ends_the_attempts() -> None:
    def attempt() -> None:
        raise StorageDenied("403")

    with pytest.raises(StorageDenied):
        retry("a record", attempt, lambda _: pytest.fail("it must not be repeated"))


@pytest.mark.parametrize(
    ("key", "body", "unchanged"),
    [
        ("images/a/one", b"1", False),  # the same bytes again, as another upload
        ("images/a/one", b"2", False),
        ("images/a/two", b"1", False),
        ("images/ab", b"1", True),
        ("images/a/", b"", True),  # consoles create an empty object for a folder
        ("streams/v1/index.json", b"{}", False),
    ],
)
def test_a_change_below_a_prefix_is_seen(key: str, body: bytes, unchanged: bool) -> None:
    store = MemoryStore()
    store.put("images/a/one", b"1")
    seen = {"images/a/": {"images/a/one": store.objects["images/a/one"].version_id}, "streams/v1/index.json": {}}
    assert is_unchanged(store, seen)
    store.put(key, body)
    assert is_unchanged(store, seen) is unchanged
    store.remove("images/a/one")
    assert not is_unchanged(store, seen)
