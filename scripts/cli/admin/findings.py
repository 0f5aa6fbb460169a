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


Findings = Iterator[tuple[str, str] | NotSeen]
"""What is wrong and what helps, or what could not be seen."""
