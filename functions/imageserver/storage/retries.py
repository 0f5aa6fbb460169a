"""Retry conditional writes: how often, and with which pauses."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from imageserver.errors import CatalogBusy

ATTEMPTS: Final = 10
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0

Pause = Callable[[float], object]
"""Wait for a number of seconds."""

_R = TypeVar("_R")


class RaceLost(Exception):
    """Another writer was faster, or something changed meanwhile. The attempt starts again from fresh reads."""


def retry(what: str, attempt: Callable[[], _R], pause: Pause) -> _R:
    """Return what `attempt` returns. Repeat it if it raises RaceLost; raise CatalogBusy after `ATTEMPTS` of them.

    Two writers that lost to each other must not meet again, so each pause (in seconds) is drawn from its whole range,
    which doubles up to two seconds.
    """
    for number in range(ATTEMPTS):
        if number:
            ceiling = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**number)
            pause(random.uniform(0, ceiling))  # noqa: S311  (spreads load, guards nothing)
        with suppress(RaceLost):
            return attempt()
    raise CatalogBusy(f"{what}: {ATTEMPTS} attempts lost their race to other writers; it is tried again later")
