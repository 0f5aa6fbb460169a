"""Unpack compressed data from chunks of any size, in steps of bounded size.

The content determines the compression, not the name. Streams are unpacked one after another, as the command-line tools
do. Every unpacked byte is counted, so callers can stop. It takes a few MiB of memory; lzma takes up to 128 MiB.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

XZ, GZIP, ZSTD, BZIP2, LZMA = b"\xfd7zXZ\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\x5d\x00\x00"
"""The first bytes of a file, by its compression."""

_STEP: Final = 256 * 1024  # of unpacked bytes at a time
_PACKED_STEP: Final = 64 * 1024  # of packed bytes: each call copies its rest for the next
_FREE_STREAMS: Final = 10_000
_BYTES_OF_A_STREAM: Final = 4096
"""The number of free streams, and the bytes that each further stream must unpack to, on average.

An empty stream of a few bytes costs more than its size: without this limit a file of some GB would take hours. pigz and
pixz make streams of 128 KiB and more, bgzip of 64 KiB.
"""
_LZMA_MEMORY: Final = 128 << 20  # xz -9 needs 65 MiB to unpack
_ZSTD_WINDOW_LOG: Final = 27  # zstd --long; 128 MiB


class UnreadableArchive(Exception):
    """The bytes are not the expected tarball. The message completes "the file …"."""


class NeedsMemory(UnreadableArchive):
    """Unpacking the bytes needs more memory than is allowed here."""


def compression(head: bytes) -> bytes:
    """Return which of XZ, GZIP, ZSTD, BZIP2 and LZMA a file starts with; empty if it is not compressed."""
    return next((magic for magic in _FORMATS if head.startswith(magic)), b"")


def unpacked(chunks: Iterable[bytes | memoryview], magic: bytes) -> Iterator[bytes]:
    """Yield the unpacked content of chunks with this `compression`. Raise UnreadableArchive."""
    unpacker = Unpacker(magic)
    for chunk in chunks:
        yield from unpacker.feed(chunk)
    unpacker.finish()


class Unpacker:
    """Unpacks one file. `made_bytes` counts the unpacked bytes so far."""

    def __init__(self, magic: bytes) -> None:
        self._magic = magic
        self._name, self._make = _FORMATS[magic]
        self._stream = self._make()
        self._streams = 1
        self._held = b""
        self._is_over = False  # nothing that follows can belong to another stream
        self.made_bytes = 0

    def feed(self, chunk: bytes | memoryview) -> Iterator[bytes]:
        """Yield the unpacked content of more bytes of the file. Raise UnreadableArchive."""
        for start in range(0, len(chunk), _PACKED_STEP):
            data = bytes(chunk[start : start + _PACKED_STEP])
            while data or not (self._stream.eof or self._stream.needs_input):
                if self._stream.eof and not (data := self._next_stream(data)):
                    break
                try:
                    step = self._stream.decompress(data, _STEP)
                except (lzma.LZMAError, zlib.error, OSError) as error:
                    if "Memory usage limit" in str(error):
                        most = f"{_LZMA_MEMORY >> 20} MiB of memory to unpack"
                        raise NeedsMemory(f"needs more than {most}: compress it with `xz -9` at most") from error
                    raise UnreadableArchive(f"is damaged {self._name} data ({error})") from error
                if step:
                    self.made_bytes += len(step)
                    yield step
                data = self._stream.unused_data if self._stream.eof else b""

    def finish(self) -> None:
        """Raise UnreadableArchive unless the last stream is complete and nothing follows it."""
        if not self._stream.eof:
            raise UnreadableArchive(f"is cut short: the {self._name} data has no end")
        if self._held and self._magic == GZIP:
            raise self._bytes_behind()

    def _next_stream(self, data: bytes) -> bytes:
        """Begin the next stream and return its bytes; nothing if it has not arrived yet.

        xz and gzip pad with zeros. gzip warns about anything else, and tar treats the warning as a failure. bzip2
        accepts anything.
        """
        data, self._held = self._held + data, b""
        if self._magic == LZMA:
            raise self._bytes_behind()
        if self._magic in (XZ, GZIP):
            self._is_over = self._is_over or (self._magic == GZIP and not data[0])
            data = data.lstrip(b"\0")
        if self._magic in (GZIP, BZIP2) and data:
            self._is_over = self._is_over or not self._magic.startswith(data[: len(self._magic)])
            if self._is_over and self._magic == GZIP:
                raise self._bytes_behind()
            if self._is_over or len(data) < len(self._magic):
                self._held = b"" if self._is_over else data
                return b""
        if data:
            self._stream, self._streams = self._make(), self._streams + 1
            if self._streams > _FREE_STREAMS + self.made_bytes // _BYTES_OF_A_STREAM:
                raise UnreadableArchive(
                    f"has more than {_FREE_STREAMS:,} compressed streams, most of which hold next to nothing"
                )
        return data

    def _bytes_behind(self) -> UnreadableArchive:
        why = "and tar fails at them wherever it is unpacked: pack it again"
        return UnreadableArchive(f"has bytes after its {self._name} data, {why}")


class _Stream(Protocol):
    """One compressed stream: the common interface of bz2, lzma and zstd."""

    def decompress(self, data: bytes, max_length: int) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...


class _Gzip:
    """zlib, with the same interface."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail


class _Zstd:
    """zstd, with its error translated.

    The module is loaded here, because few files need it and it slows a cold start.
    """

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        self._error = zstd.ZstdError
        self._zstd = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._zstd.decompress(data, max_length)
        except self._error as error:
            raise UnreadableArchive(f"is damaged zstd data ({error})") from error

    @property
    def eof(self) -> bool:
        return self._zstd.eof

    @property
    def unused_data(self) -> bytes:
        return self._zstd.unused_data

    @property
    def needs_input(self) -> bool:
        return self._zstd.needs_input


_FORMATS: Final[Mapping[bytes, tuple[str, Callable[[], _Stream]]]] = {
    XZ: ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)),
    GZIP: ("gzip", _Gzip),
    ZSTD: ("zstd", _Zstd),
    BZIP2: ("bzip2", bz2.BZ2Decompressor),
    LZMA: ("lzma", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY)),
}
