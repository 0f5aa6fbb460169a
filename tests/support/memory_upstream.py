"""Another server in memory. `on` is the hook for staging faults, as in MemoryStore."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from imageserver.errors import UpstreamChanged, UpstreamRefused
from imageserver.upstream.port import Document, Reading


@dataclass
class MemoryUpstream:
    """Implements imageserver.upstream.port.Upstream with parts of `part_bytes`.

    `on` is called before each call with the method's name and the path, and before each part with "part". `bytes_read`
    counts by path. Without `ranges` no read can be continued. `clock` is in seconds, like the times of `read`.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    on: Callable[[str, str], None] = lambda *_: None
    part_bytes: int = 1000
    ranges: bool = True
    clock: Callable[[], float] = lambda: 0.0
    bytes_read: dict[str, int] = field(default_factory=dict)

    def document(self, path: str, etag: str = "") -> Document | None:
        self.on("document", path)
        body = self._file(path)
        return None if etag == self._etag(body) else Document(body, self._etag(body))

    def read(self, path: str, size_bytes: int, seconds: float, start: int = 0, generation: str = "") -> Reading:
        self.on("read", path)
        body = self._file(path)
        if generation and generation != self._etag(body):
            raise UpstreamChanged(f"{path} changed")
        if size_bytes and size_bytes != len(body):
            raise UpstreamRefused(f"{path} has {len(body):,} bytes, expected {size_bytes:,}")
        return Reading(
            len(body), self._etag(body) if self.ranges else "", self._parts(path, body, start, self.clock() + seconds)
        )

    def _parts(self, path: str, body: bytes, start: int, until: float) -> Generator[bytes]:
        for begin in range(start, len(body), self.part_bytes):
            self.on("part", path)
            if self.clock() > until:
                return
            if self._file(path) != body:
                raise UpstreamChanged(f"{path} changed")
            part = body[begin : begin + self.part_bytes]
            self.bytes_read[path] = self.bytes_read.get(path, 0) + len(part)
            yield part

    def _file(self, path: str) -> bytes:
        if path not in self.files:
            raise UpstreamRefused(f"upstream answers 404 for {path}")
        return self.files[path]

    def _etag(self, body: bytes) -> str:
        return f'"{hashlib.md5(body).hexdigest()}"'
