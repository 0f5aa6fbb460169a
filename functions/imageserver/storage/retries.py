"""How often a conditional write is tried, and how long to wait in between."""

import random
from collections.abc import Callable, Iterator
from typing import Final

from imageserver.errors import CatalogBusy

ATTEMPTS: Final = 10
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0


def attempts(what: str, pause: Callable[[float], object], count: int = ATTEMPTS) -> Iterator[int]:
    """Yield 0, 1, … with growing, jittered pauses in between; CatalogBusy when the last one came to nothing.

    Two writers that lost to each other must not meet again, so each pause is drawn from its whole range.
    """
    for attempt in range(count):
        if attempt:
            ceiling = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
            pause(random.uniform(0, ceiling))  # noqa: S311  (spreads load, guards nothing)
        yield attempt
    raise CatalogBusy(f"{what}: {count} attempts lost their race to other writers; it is tried again later")
