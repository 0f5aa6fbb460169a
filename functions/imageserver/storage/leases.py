"""Marks that say "somebody is at this just now", so that two workers need not do the same, or race.

Digest holds one for each version that it reads: the second notice of a version goes back to the queue, and by
the time it returns there is nothing left to do. Publish holds one for each stream that it writes: the second
publisher waits for its turn instead of losing every race. Nothing depends on a mark for being right, for that
is what conditional writes are for: one that its worker could not remove runs out, and whoever comes next takes
over.

A mark is told by its token, not by who was refused: a refused write may be one's own first try, whose answer
was lost, or may have met a mark that was just being removed.
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
"""How often who waits for a turn looks whether the mark is gone."""


@contextmanager
def lease(
    store: Store,
    key: str,
    token: str,
    now: Callable[[], datetime],
    seconds: float,
    pause: Callable[[float], object],
) -> Iterator[bool]:
    """Hold the mark for at most `seconds`; yields False when another worker holds it. CatalogBusy if nobody can tell.

    `token` is the worker's own: a mark with it is taken over, so one that could not be removed is no obstacle.
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
    """Hold the mark once nobody else does; who has waited for `seconds` goes on without it, and gets False."""
    token = uuid4().hex
    for _ in range(ceil(seconds / POLL_S)):
        with lease(store, key, token, now, seconds, pause) as mine:
            if mine:
                yield True
                return
        pause(POLL_S)
    yield False


def _take(store: Store, key: str, mark: dict[str, str], now: Callable[[], datetime]) -> str | None:
    """Return the revision of the mark once it is written; None while another worker's has not run out."""
    seen = store.read(key)
    held: dict[str, str] = json.loads(seen.body) if seen else {}
    if seen and held.get("token") == mark["token"]:
        return seen.revision
    if held and datetime.fromisoformat(held["until"]) > now():
        return None
    if revision := write(store, key, json.dumps(mark).encode(), seen):
        return revision
    raise RaceLost
