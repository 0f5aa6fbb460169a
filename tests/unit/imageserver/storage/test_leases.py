"""Leases: who holds one, for how long, and the effect of clocks that are hours apart."""

from __future__ import annotations

from datetime import timedelta

import pytest

from imageserver.storage.leases import LONGEST_S, lease, wait_for_lease
from tests.support.memory_store import MemoryStore

KEY = "leases/images/ubuntu/noble/amd64/default/20261123_10:00.json"
AHEAD = [timedelta(0), timedelta(hours=5), timedelta(hours=-5), timedelta(days=3650)]


def is_free(store: MemoryStore, ahead: timedelta, seconds: float = 60, worker: str = "other") -> bool:
    """Try to take the lease with a clock that is `ahead` of the store's."""
    with lease(store, KEY, worker, lambda: store.clock + ahead, seconds, lambda _: None) as mine:
        return mine


def killed_worker(store: MemoryStore, ahead: timedelta, seconds: float = 60) -> None:
    """Leave a lease behind, like a worker killed while holding it."""
    with lease(store, KEY, "killed", lambda: store.clock + ahead, seconds, lambda _: None) as mine:
        assert mine
        left = store.objects[KEY]
    store.objects[KEY] = left


@pytest.mark.parametrize("holder", AHEAD)
@pytest.mark.parametrize("other", AHEAD)
def test_the_length_of_a_lease_does_not_depend_on_the_clocks_of_workers(holder: timedelta, other: timedelta) -> None:
    store = MemoryStore()
    killed_worker(store, holder)
    assert not is_free(store, other)
    store.clock += timedelta(seconds=59)
    assert not is_free(store, other)
    store.clock += timedelta(seconds=1)
    assert is_free(store, other)
    assert KEY not in store.objects


@pytest.mark.parametrize("seconds", [1e6, LONGEST_S])
def test_no_lease_lasts_longer_than_an_hour(seconds: float) -> None:
    store = MemoryStore()
    killed_worker(store, timedelta(0), seconds)
    store.clock += timedelta(seconds=LONGEST_S - 1)
    assert not is_free(store, timedelta(0))
    store.clock += timedelta(seconds=1)
    assert is_free(store, timedelta(0))


def test_a_worker_takes_over_its_own_lease() -> None:
    store = MemoryStore()
    killed_worker(store, timedelta(hours=5))
    assert is_free(store, timedelta(0), worker="killed")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"until": "2126-01-01T00:00:00+00:00"}', b'{"token": 7}', b"\xff", b'{"x":' + b"[" * 100_000],
    ids=["empty", "list", "old", "number", "no text", "nested"],
)
def test_an_invalid_lease_blocks_nobody(body: bytes) -> None:
    store = MemoryStore()
    store.put(KEY, body)
    assert is_free(store, timedelta(0))


def test_a_waiting_worker_takes_the_lease_when_it_expires_by_the_clock_of_the_store() -> None:
    store = MemoryStore()
    killed_worker(store, timedelta(hours=5), seconds=10)

    def pause(seconds: float) -> None:
        store.clock += timedelta(seconds=seconds)

    with wait_for_lease(store, KEY, lambda: store.clock - timedelta(hours=5), 20, pause) as mine:
        assert mine
