"""A sha256 that one process begins and another continues.

hashlib gives no access to the state of a digest. Its C library does: libcrypto's SHA256_Init, SHA256_Update and
SHA256_Final work on a context whose layout is public (openssl/sha.h). After a whole number of 64-byte blocks, only the
eight words of FIPS 180-4 and the number of bytes matter in it. Those are saved, in a form that does not depend on the
machine. decisions/0014-copies-over-runs.md has the alternatives.
"""

import _hashlib
import ctypes
import hashlib
from functools import cache
from typing import Final, Protocol

BLOCK_BYTES: Final = 64
_EXAMPLE: Final = b"simplestreams".ljust(3 * BLOCK_BYTES, b".")


class NotResumable(RuntimeError):
    """The C library of this Python lacks the functions: a digest cannot be continued in another process."""


class _Context(ctypes.Structure):
    """SHA256_CTX."""

    _fields_ = (
        ("words", ctypes.c_uint32 * 8),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("block", ctypes.c_uint32 * 16),
        ("in_block", ctypes.c_uint),
        ("digest_bytes", ctypes.c_uint),
    )


class ResumableSha256:
    """A sha256 in progress. `state` is the saved state of another one, empty to begin. Raise NotResumable."""

    def __init__(self, state: str = "") -> None:
        self._library = _library()
        self._context = _Context()
        self._library.SHA256_Init(ctypes.byref(self._context))
        self._taken_in = 0
        if state:
            words, _, count = state.partition(":")
            self._taken_in = int(count)
            bits = self._taken_in * 8
            self._context.words[:] = [int(words[at : at + 8], 16) for at in range(0, 64, 8)]
            self._context.bits_low, self._context.bits_high = bits & 0xFFFFFFFF, bits >> 32

    def update(self, data: bytes | bytearray) -> None:
        """Take in more bytes. Other threads can run meanwhile."""
        source = data if isinstance(data, bytes) else (ctypes.c_char * len(data)).from_buffer(data)
        self._library.SHA256_Update(ctypes.byref(self._context), source, ctypes.c_size_t(len(data)))
        self._taken_in += len(data)

    def hexdigest(self) -> str:
        """Return 64 lower-case hex digits."""
        final, digest = _Context.from_buffer_copy(self._context), ctypes.create_string_buffer(32)
        self._library.SHA256_Final(digest, ctypes.byref(final))
        return digest.raw.hex()

    @property
    def state(self) -> str:
        """The state from which another process can continue; empty unless the bytes so far are whole blocks.

        Eight words of eight hex digits, a colon, the number of bytes.
        """
        if self._taken_in % BLOCK_BYTES:
            return ""
        return "".join(f"{word:08x}" for word in self._context.words) + f":{self._taken_in}"


class RunningSha256(Protocol):
    """A sha256 in progress, with a state if it is resumable."""

    def update(self, data: bytes | bytearray, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return 64 lower-case hex digits."""

    @property
    def state(self) -> str:
        """The state from which another process can continue; empty if none can."""


class _OneProcess:
    """hashlib's sha256, which cannot be continued."""

    state: Final = ""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.update, self.hexdigest = self._digest.update, self._digest.hexdigest


def running_sha256(state: str = "") -> RunningSha256:
    """Return a new sha256, or one that continues from a state. Raise NotResumable if it cannot."""
    return ResumableSha256(state) if state or is_resumable() else _OneProcess()


def is_resumable() -> bool:
    """Return whether this Python can continue the sha256 of another process."""
    try:
        _library()
    except NotResumable:
        return False
    return True


@cache
def _library() -> ctypes.CDLL:
    """Return the C library: the one that hashlib uses, else the machine's own. Each is tested before it is used."""
    for name in (getattr(_hashlib, "__file__", None), "libcrypto.so.3"):
        try:
            library = ctypes.CDLL(name)
            context, digest = _Context(), ctypes.create_string_buffer(32)
            library.SHA256_Init(ctypes.byref(context))
            library.SHA256_Update(ctypes.byref(context), _EXAMPLE, ctypes.c_size_t(len(_EXAMPLE)))
            is_whole = (context.in_block, context.bits_low, context.bits_high) == (0, len(_EXAMPLE) * 8, 0)
            library.SHA256_Final(digest, ctypes.byref(context))
        except (OSError, AttributeError):
            continue
        if is_whole and digest.raw == hashlib.sha256(_EXAMPLE).digest():
            return library
    raise NotResumable("neither hashlib's C library nor libcrypto.so.3 has SHA256_Init, SHA256_Update and SHA256_Final")
