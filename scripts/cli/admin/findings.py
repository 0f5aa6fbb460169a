"""What the doctor's checks yield."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

AGAIN: Final = "look again in a minute"
DEPLOY: Final = "deploy the template again"


@dataclass(frozen=True)
class NotSeen:
    """What a check could not look at, and why: no fault of the server, but no "ok" either."""

    why: str


@dataclass(frozen=True)
class Hint:
    """What may well be meant so, and what to do if it is not."""

    what: str
    remedy: str


Findings = Iterator[tuple[str, str] | NotSeen | Hint]
"""What is wrong and what helps, what could not be seen, or what may be wrong."""
