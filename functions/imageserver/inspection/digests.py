"""sha256 and combined sha256, each byte read once.

The combined sha256 of an image is that of its metadata file followed by its root. A sha256 in progress
can be copied, so the state after the metadata seeds the digest of every root of the version: no file is read again for
another.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, Self

EMPTY_SHA256: Final = hashlib.sha256().hexdigest()


class Sha256(Protocol):
    """A sha256 in progress, as hashlib makes it."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return 64 lower-case hex digits."""

    def copy(self) -> "Sha256":
        """Return an independent digest that continues from here."""


class Spread(Protocol):
    """Feeds each chunk to several digests, to each in order."""

    def __enter__(self) -> "Spread": ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, chunk: bytes | bytearray | memoryview, /) -> None:
        """Take in the next chunk; it may be in use until the next call returns."""


class InTurn:
    """Feeds the digests one after the other, in the caller's thread."""

    def __init__(self, digests: Sequence[Sha256]) -> None:
        self._digests = digests

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: no thread was started."""

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        for digest in self._digests:
            digest.update(chunk)


class Digests:
    """The sha256 of a file, and its combined sha256 with each of some metadata files, in one pass.

    `metadata` maps the hex sha256 of a metadata file to the digest state after all of its bytes. `spread`
    makes the object that feeds the digests: in turn, or side by side in threads
    (imageserver.storage.ranged_reader.HashFan).
    """

    def __init__(
        self, metadata: Mapping[str, Sha256] | None = None, spread: Callable[[Sequence[Sha256]], Spread] = InTurn
    ) -> None:
        self._plain: Sha256 = hashlib.sha256()
        self._combined = {name: state.copy() for name, state in (metadata or {}).items()}
        self._spread = spread

    def tee(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Pass chunks on and digest them on the way. The digests are complete once the iterator is exhausted."""
        with self._spread((self._plain, *self._combined.values())) as digests:
            for chunk in chunks:
                digests.update(chunk)
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
