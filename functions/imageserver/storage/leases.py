"""Leases: a worker records that it is busy with a version or a stream, so that others need not do the same, or race.

Digest takes the lease of each version that it reads files of: a second event of that version goes back into the queue
and finds nothing left to do later. Publish takes the lease of each stream that it writes: the second publisher waits
instead of losing every race. Correctness depends on no lease, because all writes are conditional. A lease that its
worker could not remove expires, and the next worker takes it over.

A lease is recognised by its token and not by the answer to the write. A refused write may be the worker's own first
try whose answer was lost, or may have met a lease that was just being removed.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from math import ceil
from typing import Final
from uuid import uuid4

from imageserver.storage.port import Store, write
from imageserver.storage.retries import RaceLost, retry

POLL_S: Final = 0.25
"""How often a waiting worker looks whether the lease is free."""


@contextmanager
def lease(
    store: Store,
    key: str,
    token: str,
    now: Callable[[], datetime],
    seconds: float,
    pause: Callable[[float], object],
) -> Iterator[bool]:
    """Hold the lease for at most `seconds`; yields False while another worker holds it.

    Raise CatalogBusy when every write of the lease lost a race. `token` is the worker's own: it takes a lease with this
    token over, so one that it could not remove is no obstacle.
    """
    until = (now() + timedelta(seconds=seconds)).isoformat()
    revision = retry(key, partial(_take, store, key, {"until": until, "token": token}, now), pause)
    if revision is None:
        yield False
        return
    try:
        yield True
    finally:
        store.delete(key, revision)


@contextmanager
def wait_for_lease(
    store: Store, key: str, now: Callable[[], datetime], seconds: float, pause: Callable[[float], object]
) -> Iterator[bool]:
    """Wait up to `seconds` for the lease. Yields False if it was not free by then; the caller proceeds without it."""
    token = uuid4().hex
    for _ in range(ceil(seconds / POLL_S)):
        with lease(store, key, token, now, seconds, pause) as mine:
            if mine:
                yield True
                return
        pause(POLL_S)
    yield False


def _take(store: Store, key: str, wanted: dict[str, str], now: Callable[[], datetime]) -> str | None:
    """Return the revision of the lease once it is written; None while another worker's has not expired."""
    seen = store.read(key)
    held: dict[str, str] = json.loads(seen.body) if seen else {}
    if seen and held.get("token") == wanted["token"]:
        return seen.revision
    if held and datetime.fromisoformat(held["until"]) > now():
        return None
    if revision := write(store, key, json.dumps(wanted).encode(), seen):
        return revision
    raise RaceLost
