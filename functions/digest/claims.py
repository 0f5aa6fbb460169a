"""Marks that say "somebody is reading the files of this version just now".

Two notices of one version can reach two workers at once. The second one then sees the mark and leaves its
notice in the queue for later: by then the first is done, and there is nothing left to do. Nothing depends on
the first one's own notice: a mark that its worker could not remove runs out, and whoever comes next takes over.

A mark is told by its token, not by who was refused: a refused write may be one's own first try, whose answer
was lost, or may have met a mark that was just being removed.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from simplestreams.keys import VersionId
from storage.attempts import attempts
from storage.port import Store, write


@contextmanager
def claimed(
    store: Store,
    version: VersionId,
    token: str,
    now: Callable[[], datetime],
    seconds: float,
    pause: Callable[[float], object],
) -> Iterator[bool]:
    """Hold the mark for a while; yields False when another worker holds it. CatalogBusy if nobody can tell.

    `token` is the worker's own: a mark with it is taken over, so one that could not be removed is no obstacle.
    """
    until = (now() + timedelta(seconds=seconds)).isoformat()
    revision = _taken(store, version.claim_key, {"until": until, "token": token}, now, pause)
    if revision is None:
        yield False
        return
    try:
        yield True
    finally:
        store.delete(version.claim_key, revision)


def _taken(
    store: Store, key: str, mark: dict[str, str], now: Callable[[], datetime], pause: Callable[[float], object]
) -> str | None:
    """The revision of the mark once it is there; None when there is another one that has not run out."""
    for _ in attempts(key, pause):
        seen = store.read(key)
        held: dict[str, str] = json.loads(seen.body) if seen else {}
        if seen and held.get("token") == mark["token"]:
            return seen.revision
        if held and datetime.fromisoformat(held["until"]) > now():
            return None
        if revision := write(store, key, json.dumps(mark).encode(), seen):
            return revision
    raise AssertionError("attempts() ends by raising")
