"""Limit the requests that a publisher makes in a minute, so that no publisher can block another.

API Gateway throttles all callers together, so one that never stops asking would use up everybody's allowance. Each
publisher therefore has a leaky bucket, a small object: it held `used` requests when it was written, and holds fewer the
older it is by the clock of the store. An environment of the function answers one share of a publisher's requests before
it reads the bucket, and then takes requests from it one share at a time. An occasional request costs no request to the
store, and each environment may exceed the limit by one share.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Final

import msgspec

from imageserver.api import problems
from imageserver.api.problems import Problem
from imageserver.catalog.rights import Rights
from imageserver.format.keys import REQUEST_COUNTS
from imageserver.storage.port import Store, write
from imageserver.storage.retries import Pause, RaceLost, retry

SHARES: Final = 20
MINUTE_S: Final = 60.0


class _Bucket(msgspec.Struct, frozen=True):
    used: float = 0.0


@dataclass(slots=True)
class Rates:
    """The requests of each publisher, as this environment knows them.

    `clock` is in seconds; 0 requests a minute means no limit.
    """

    rights: Rights
    requests_a_minute: int
    clock: Callable[[], float]
    pause: Pause
    left: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Publisher -> when its share was given, and how many requests are left of it."""

    def check(self, store: Store, caller: str) -> None:
        """Raise Problem if the publisher has used up the requests of this minute; otherwise count one.

        A caller without rights is not counted: it is refused later, at no cost to the store. May also raise
        CatalogBusy.
        """
        publisher = self.rights.publisher(caller)
        if not (publisher and self.requests_a_minute) or self.rights.is_operator(caller):
            return
        share = max(1, self.requests_a_minute // SHARES)
        given, left = self.left.get(publisher, (self.clock(), share))
        if self.clock() - given > MINUTE_S:
            given, left = self.clock(), share
        if not left:
            key = f"{REQUEST_COUNTS}{hashlib.sha256(publisher.encode()).hexdigest()[:16]}.json"
            retry(key, partial(self._take, store, key, caller, share), self.pause)
            given, left = self.clock(), share
        self.left[publisher] = given, left - 1

    def _take(self, store: Store, key: str, caller: str, share: int) -> None:
        seen, used = store.read(key), 0.0
        if seen:
            # Nobody else writes there; what cannot be read is written anew.
            with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
                used = (
                    msgspec.json.decode(seen.body, type=_Bucket).used - seen.age_s * self.requests_a_minute / MINUTE_S
                )
        after = max(0.0, used) + share
        if after > self.requests_a_minute:
            wait_s = ceil((after - self.requests_a_minute) * MINUTE_S / self.requests_a_minute)
            raise Problem(
                problems.TOO_MANY,
                f"{caller} and the others with its entry in Publishers made {self.requests_a_minute:,} requests in a "
                f"minute, which is the most that one publisher may make (the operator sets MaxRequests); ask again in "
                f"{wait_s} s",
                retry_after=wait_s,
            )
        if not write(store, key, msgspec.json.encode(_Bucket(after)), seen):
            raise RaceLost
