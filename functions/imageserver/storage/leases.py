"""Leases: a worker records that it is busy with a version or a stream, so others neither repeat nor race its work.

Digest takes the lease of each version that it reads files of: a second event of that version goes back into the queue
and finds nothing left to do later. Publish takes the lease of each stream that it writes: the second publisher waits
instead of losing every race. Correctness depends on no lease, because all writes are conditional. A lease that its
worker could not remove expires, and the next worker takes it over.

The store's clock determines the age of a lease: the store dates both the object and its answers. A worker's clock
decides nothing, because one that is hours off would hold a version for hours or take over every lease. `until` is by
the holder's clock, for people.

A worker recognises its lease by the token and not by the answer to the write. A failed write may have met the worker's
own first try, whose answer was lost, or a lease that was just being removed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from math import ceil
from typing import Final
from uuid import uuid4

import msgspec

from imageserver.storage.port import Store, write
from imageserver.storage.retries import Pause, RaceLost, retry

POLL_S: Final = 0.25
"""How often a waiting worker checks whether the lease is free."""
LONGEST_S: Final = 3600.0
"""The longest that any lease lasts: four times the longest run of a function."""


class Lease(msgspec.Struct, frozen=True):
    """A lease as stored. It lasts for `seconds` from the time it was stored."""

    token: str
    until: str = ""
    seconds: float = LONGEST_S


@contextmanager
def lease(
    store: Store,
    key: str,
    token: str,
    now: Callable[[], datetime],
    seconds: float,
    pause: Pause,
) -> Iterator[bool]:
    """Hold the lease for at most `seconds`; yield False while another worker holds it.

    Raise CatalogBusy if every write of the lease lost a race. `token` is the worker's own. A lease with this token is
    taken over, so one that the worker could not remove is no obstacle.
    """
    wanted = Lease(token, (now() + timedelta(seconds=seconds)).isoformat(), seconds)
    revision = retry(key, partial(_take, store, key, wanted), pause)
    if revision is None:
        yield False
        return
    try:
        yield True
    finally:
        store.delete(key, revision)


@contextmanager
def wait_for_lease(store: Store, key: str, now: Callable[[], datetime], seconds: float, pause: Pause) -> Iterator[bool]:
    """Wait up to `seconds` for the lease. Yield False if it was not free by then; the caller proceeds without it."""
    token = uuid4().hex
    for _ in range(ceil(seconds / POLL_S)):
        with lease(store, key, token, now, seconds, pause) as mine:
            if mine:
                yield True
                return
        pause(POLL_S)
    yield False


def _take(store: Store, key: str, wanted: Lease) -> str | None:
    """Return the revision of the lease once it is written; None while another worker's has not expired.

    An object that is not a lease holds nothing: anyone who can write it could just as well write a lease.
    """
    seen = store.read(key)
    held = None
    with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        held = msgspec.json.decode(seen.body, type=Lease) if seen else None
    if seen and held and held.token == wanted.token:
        return seen.revision
    if seen and held and seen.age_s < min(held.seconds, LONGEST_S):
        return None
    if revision := write(store, key, msgspec.json.encode(wanted), seen):
        return revision
    raise RaceLost
