"""Marks that say "somebody is reading the files of this version just now".

Two notices of one version can reach two workers at once. The second one then sees the mark and leaves:
the first looks at the folder once more when it is done, so nothing that arrived in between is missed. A
mark that its worker could not remove (it was killed) runs out; the notice that the worker held comes back
from the queue later than that (visibility is six times the function's timeout).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from simplestreams.keys import VersionId
from storage.port import Store, write


@contextmanager
def claimed(store: Store, version: VersionId, now: Callable[[], datetime], seconds: float) -> Iterator[bool]:
    """Hold the mark for a while; yields False when another worker holds it."""
    until = (now() + timedelta(seconds=seconds)).isoformat()
    seen = store.read(version.claim_key)
    if seen and _until(seen.body) > now():
        yield False
        return
    if not write(store, version.claim_key, json.dumps({"until": until}).encode(), seen):
        yield False
        return
    mine = store.read(version.claim_key)
    try:
        yield True
    finally:
        if mine:
            store.delete(version.claim_key, mine.revision)


def _until(body: bytes) -> datetime:
    return datetime.fromisoformat(json.loads(body)["until"])
