"""sha256 and combined sha256, each byte read once.

The combined sha256 of an image is that of its metadata file followed by its root. A sha256 in progress
can be copied, so the state after the metadata seeds the digest of every root of the version: no file is read again for
another.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

EMPTY_SHA256: Final = hashlib.sha256().hexdigest()


class Sha256(Protocol):
    """A sha256 in progress, as hashlib makes it."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return 64 lower-case hex digits."""

    def copy(self) -> "Sha256":
        """Return an independent digest that continues from here."""


Update = Callable[[bytes | bytearray | memoryview], object]
Spread = Callable[[Sequence[Sha256]], AbstractContextManager[Update]]
"""Returns what feeds each chunk to several digests, to each in order: `in_turn`, or `hash_fan` with its threads.

A chunk may be in use until the next call returns.
"""


@contextmanager
def in_turn(digests: Sequence[Sha256]) -> Iterator[Update]:
    """Feed the digests one after the other, in the caller's thread."""

    def update(chunk: bytes | bytearray | memoryview) -> None:
        for digest in digests:
            digest.update(chunk)

    yield update


class Digests:
    """The sha256 of a file, and its combined sha256 with each of some metadata files, in one pass.

    `metadata` maps the hex sha256 of a metadata file to the digest state after all of its bytes.
    """

    def __init__(self, metadata: Mapping[str, Sha256] | None = None, spread: Spread = in_turn) -> None:
        self._plain: Sha256 = hashlib.sha256()
        self._combined = {name: state.copy() for name, state in (metadata or {}).items()}
        self._spread = spread

    def tee(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Pass chunks on and digest them on the way. The digests are complete once the iterator is exhausted."""
        with self._spread((self._plain, *self._combined.values())) as update:
            for chunk in chunks:
                update(chunk)
                yield chunk

    @property
    def state(self) -> Sha256:
        """The state of the plain digest, which seeds combined ones."""
        return self._plain.copy()

    @property
    def sha256(self) -> str:
        """Hex sha256 of the bytes so far."""
        return self._plain.hexdigest()

    @property
    def combined(self) -> dict[str, str]:
        """Hex sha256 of a metadata file -> hex combined sha256 with it."""
        return {name: digest.hexdigest() for name, digest in sorted(self._combined.items())}
