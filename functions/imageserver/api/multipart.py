"""How a file is sent: in one PUT, or in parts. A pure function of its size, so that a resumed upload fits."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
SINGLE_BYTES: Final = 64 * MIB
"""Up to here one PUT; above it a broken connection would cost too much."""
LARGEST_SINGLE_BYTES: Final = 5 << 30
"""S3's limit for one PUT."""
SMALLEST_PART_BYTES: Final = 16 * MIB
MOST_PARTS: Final = 500
"""S3 allows 10,000; but each part needs an URL of up to 2 KiB, signed in about 4 ms, in one answer of at most 6 MB."""
SINGLE_LIFETIME_S: Final = 3600
PARTS_LIFETIME_S: Final = 6 * 3600
"""S3 looks at it when a request begins. The credentials of the signing function may end before; ask again then."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part; `number` counts from 1."""

    number: int
    offset: int
    size: int


def part_bytes(size: int) -> int:
    """Return the size of each part but the last: whole MiB, so that `dd bs=1048576` cuts them."""
    per_part = -(-size // MOST_PARTS)
    return max(SMALLEST_PART_BYTES, -(-per_part // MIB) * MIB)


def parts(size: int) -> tuple[Part, ...]:
    """Return the parts of a file of this many bytes."""
    step = part_bytes(size)
    return tuple(
        Part(number, offset, min(step, size - offset)) for number, offset in enumerate(range(0, size, step), start=1)
    )


def in_parts(size: int, wanted: bool | None) -> bool:
    """Return whether to send in parts; `wanted` is the uploader's own choice, which one PUT may be too small for."""
    if size > LARGEST_SINGLE_BYTES:
        return True
    return size > SINGLE_BYTES if wanted is None else wanted
