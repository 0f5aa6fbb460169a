"""Decide how a file is sent: in one PUT, or in parts.

A pure function of its size, so a resumed upload gets the same parts.
"""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
SINGLE_BYTES: Final = 64 * MIB
"""Largest file sent in one PUT by default. Above it, a broken connection would cost too much."""
LARGEST_SINGLE_BYTES: Final = 5 << 30
"""S3's limit for one PUT."""
SMALLEST_PART_BYTES: Final = 16 * MIB
MOST_PARTS: Final = 500
"""S3 allows 10,000, but each part needs a URL of up to 2 KiB, signed in about 4 ms, in one answer of at most 6 MB."""
SINGLE_LIFETIME_S: Final = 3600
PARTS_LIFETIME_S: Final = 6 * 3600
"""Lifetime of a signed URL; S3 checks it when a request begins.

The signing function's credentials may expire earlier: ask again then.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One part; `number` counts from 1."""

    number: int
    offset: int
    size: int


def part_bytes(size: int, other_than: int = 0) -> int:
    """Return the size of each part but the last: whole MiB, so that `dd bs=1048576` cuts them.

    The file never has `other_than` parts of that size, unless it fits into one part.
    """
    per_part = -(-size // MOST_PARTS)
    step = max(SMALLEST_PART_BYTES, -(-per_part // MIB) * MIB)
    return 2 * step if -(-size // step) == other_than else step


def parts(size: int, other_than: int = 0) -> tuple[Part, ...]:
    """Return the parts of a file of this many bytes; `other_than` as for part_bytes."""
    step = part_bytes(size, other_than)
    return tuple(
        Part(number, offset, min(step, size - offset)) for number, offset in enumerate(range(0, size, step), start=1)
    )


def in_parts(size: int, wanted: bool | None, other_than: int = 0) -> bool:
    """Return whether to send in parts. `wanted` is the uploader's choice, overridden for a file above one PUT.

    An object that came in one part (`other_than` is 1) is replaced in one PUT if it fits into one part.
    """
    if size > LARGEST_SINGLE_BYTES:
        return True
    if other_than == 1 and size <= SMALLEST_PART_BYTES:
        return False
    return size > SINGLE_BYTES if wanted is None else wanted
