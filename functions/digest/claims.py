"""Marks that say "somebody is reading the files of this version just now".

Two notices of one version can reach two workers at once. The second one then sees the mark and leaves:
the first looks at the folder once more when it is done, so nothing that arrived in between is missed. A
mark that its worker could not remove (it was killed) runs out; the notice that the worker held comes back
from the queue later than that (visibility is six times the function's timeout).

Each mark has a token of its own: a refused write may be one's own first try, whose answer was lost. Taking
that for another's mark would leave the version to nobody.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import uuid4

from simplestreams.keys import VersionId
from storage.attempts import attempts
from storage.port import Store, write


@contextmanager
def claimed(
    store: Store, version: VersionId, now: Callable[[], datetime], seconds: float, pause: Callable[[float], object]
) -> Iterator[bool]:
    """Hold the mark for a while; yields False when another worker holds it. CatalogBusy if nobody can tell."""
    mark = json.dumps({"until": (now() + timedelta(seconds=seconds)).isoformat(), "token": uuid4().hex}).encode()
    revision = _taken(store, version.claim_key, mark, now, pause)
    if revision is None:
        yield False
        return
    try:
        yield True
    finally:
        store.delete(version.claim_key, revision)


def _taken(
    store: Store, key: str, mark: bytes, now: Callable[[], datetime], pause: Callable[[float], object]
) -> str | None:
    """The revision of the mark once it is there; None when there is another one that has not run out.

    Only that mark says that somebody is at work. A refused write does not: it may have met a mark that was just
    being removed.
    """
    for _ in attempts(key, pause):
        seen = store.read(key)
        if seen and seen.body == mark:
            return seen.revision
        if seen and _until(seen.body) > now():
            return None
        if revision := write(store, key, mark, seen):
            return revision
    raise AssertionError("attempts() ends by raising")


def _until(body: bytes) -> datetime:
    return datetime.fromisoformat(json.loads(body)["until"])
