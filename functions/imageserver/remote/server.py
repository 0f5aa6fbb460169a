"""Read another image server over HTTP: documents whole, files in parts over a few connections at once.

A file is read in ranges of `part_bytes` that are all of one generation: each answer must carry the validator (a strong
ETag, else Last-Modified) of the first one. If upstream serves no ranges, or sends no validator, one connection reads
the file from start to end.

Memory: a document whole, at most LARGEST_DOCUMENT_BYTES; of a file `part_bytes` * (connections + AHEAD).
"""

import random
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import count, islice
from typing import Final, TypeVar

from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, SSLError

from imageserver.errors import UpstreamChanged, UpstreamRefused, UpstreamUnavailable
from imageserver.remote.connections import NO_TLS, WANTS_TLS, Connections, speaks_no_tls, wants_tls
from imageserver.upstream.addresses import host_of, joined
from imageserver.upstream.mirrors import Mirror
from imageserver.upstream.port import PART_BYTES, Document, Reading
from imageserver.upstream.simplestreams import LARGEST_DOCUMENT_BYTES

AHEAD: Final = 2
"""Parts that may be fetched ahead of an unfinished one."""
_SLICE_BYTES: Final = 1 << 20
_START_BYTES: Final = 4096
"""Read of a page that comes in place of a file."""
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_LENGTH: Final = re.compile(r"\d{1,18}", re.ASCII)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits on the number, speed and duration of the requests to another server.

    A file is read in parts of `part_bytes`. More than one connection is opened only if the first part came fast enough
    that, with all of them, each part still takes less than `part_s`. A request is tried `tries` times, with pauses that
    double from `pause_s`. A pause that the server asks for (Retry-After) is kept: up to `longest_pause_s` here,
    otherwise by leaving the rest to a later run. A document may take at most `document_s`. The mirror sets the number
    of connections and their speed.
    """

    part_bytes: int = PART_BYTES
    tries: int = 5
    pause_s: float = 0.5
    longest_pause_s: float = 30.0
    part_s: float = 60.0
    document_s: float = 300.0


POLITE: Final = RequestLimits()


class _TransientFailure(Exception):
    """This try failed and the next may succeed, after `pause_s` seconds if the server asked for a pause."""

    def __init__(self, message: str, pause_s: float = 0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class RemoteServer:
    """The server that a mirror follows; implements imageserver.upstream.port.Upstream.

    `contact` is a web or mail address where its operator can reach ours. Close it after use.
    """

    def __init__(
        self,
        mirror: Mirror,
        contact: str,
        limits: RequestLimits = POLITE,
        connections: Connections | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self.limits, self.clock = mirror.address, limits, clock
        self.most_connections, self.pace = mirror.connections, _Pace(mirror.bytes_per_s, clock)
        hosts = {host_of(mirror.address), *mirror.hosts}
        self._connections = connections or Connections(hosts, mirror.allow_private, mirror.connections)
        self._agent = f"serverless-simplestreams-mirror (+{contact})"

    @property
    def part_bytes(self) -> int:
        return self.limits.part_bytes

    def document(self, path: str, etag: str = "") -> Document | None:
        url = joined(self._address, path)
        headers = {"Accept-Encoding": "gzip", **({"If-None-Match": etag} if etag else {})}

        def attempt() -> Document | None:
            with closing(self.get(url, headers)) as response:
                if response.status == 304 and etag:
                    return None
                if response.status != 200:
                    raise _unexpected(response, url, path)
                return Document(self._body(response, path), response.headers.get("ETag", ""))

        return self.persist(path, attempt, time.sleep)

    def read(self, path: str, size_bytes: int, seconds: float, start: int = 0, generation: str = "") -> Reading:
        url = joined(self._address, path)
        return _Transfer(self, url, path, generation, self.clock() + seconds).begin(size_bytes, start)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def get(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Return the answer to one GET as `Connections.get` does, with our User-Agent."""
        return self._connections.get(url, {"User-Agent": self._agent, **headers})

    def _body(self, response: BaseHTTPResponse, path: str) -> bytes:
        until = self.clock() + self.limits.document_s
        body = BytesIO()  # hands over its bytes without a copy; `bytes +=` would copy everything for each chunk
        for chunk in response.stream(_SLICE_BYTES, decode_content=True):
            if body.tell() + len(chunk) > LARGEST_DOCUMENT_BYTES:
                raise UpstreamRefused(f"{path} has more than {LARGEST_DOCUMENT_BYTES:,} bytes")
            if self.clock() > until:
                raise UpstreamUnavailable(
                    f"{path} took longer than {self.limits.document_s:.0f} s; only {body.tell():,} bytes arrived"
                )
            body.write(chunk)
        return body.getvalue()

    def persist(
        self,
        path: str,
        attempt: Callable[[], _R],
        pause: Callable[[float], object],
        untrusted: type[UpstreamRefused | UpstreamUnavailable] = UpstreamRefused,
    ) -> _R:
        """Return what `attempt` returns.

        Raise UpstreamUnavailable if every try failed or the server asks for too long a pause. Raise `untrusted` at once
        if the certificate cannot be verified, or what answers does not speak TLS.
        """
        for number in count(1):
            try:
                return attempt()
            except (HTTPError, OSError, _TransientFailure) as error:
                if why := _distrusted(error):
                    raise untrusted(f"{path} was not read from {host_of(self._address)}: {why}") from error
                asked_s = error.pause_s if isinstance(error, _TransientFailure) else 0
                if number == self.limits.tries or asked_s > self.limits.longest_pause_s:
                    what = f"{path} could not be read from {host_of(self._address)} in {number} tries"
                    raise UpstreamUnavailable(f"{what}: {_why(error)}", asked_s) from error
            # Jitter keeps the clients of one outage from all retrying at once. No secret depends on it.
            pause(asked_s or self.limits.pause_s * 2**number * random.random())  # noqa: S311
        raise AssertionError("counting never ends")


class _Pace:
    """Keeps the combined speed of some reads below a number of bytes a second; None for no limit."""

    def __init__(self, bytes_per_s: int | None, clock: Callable[[], float]) -> None:
        self._bytes_per_s, self._clock = bytes_per_s, clock
        self._free_at = 0.0
        self._lock = threading.Lock()

    def keep(self, size_bytes: int, pause: Callable[[float], object]) -> None:
        """Pause until the bytes read so far are within the limit."""
        if self._bytes_per_s is None:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + size_bytes / self._bytes_per_s
            wait_s = self._free_at - now
        pause(wait_s)


class _DeadlinePassed(Exception):
    """Raised when the time for a read has run out."""


class _Transfer:
    """One file that a few threads read until a deadline."""

    def __init__(self, server: RemoteServer, url: str, path: str, generation: str, until: float) -> None:
        self._server, self._url, self._path, self._until = server, url, path, until
        self._generation = generation
        self._size_bytes = 0
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._open: set[BaseHTTPResponse] = set()

    def begin(self, size_bytes: int, start: int) -> Reading:
        """Request the first part, and learn from the answer what upstream can do."""
        try:
            response = self._try(lambda: self._ask(start, start + self._server.part_bytes, size_bytes))
            if response.status == 206 and not self._generation and self._size_bytes > self._server.part_bytes:
                response.close()
                response = self._try(lambda: self._ask(0, None, size_bytes))
        except _DeadlinePassed as over:
            raise UpstreamUnavailable(f"{self._path} was not answered within the time of a run") from over
        if response.status == 200:
            return Reading(self._size_bytes, "", self._whole(response))
        return Reading(self._size_bytes, self._generation, self._ranged(response, start))

    def _try(self, attempt: Callable[[], _R]) -> _R:
        def in_time() -> _R:
            self._check_time()
            return attempt()

        # A certificate that expires while a file is read does not make the file wrong: reading continues later.
        return self._server.persist(self._path, in_time, self._stopped.wait, untrusted=UpstreamUnavailable)

    def _check_time(self) -> None:
        if self._stopped.is_set() or self._server.clock() > self._until:
            raise _DeadlinePassed

    def _ask(self, start: int, stop: int | None, size_bytes: int) -> BaseHTTPResponse:
        """Send a request for bytes [start, stop), or the whole file; return the answer if it is of this generation."""
        headers = {"Accept-Encoding": "identity"}
        if stop is not None:
            headers["Range"] = f"bytes={start}-{min(stop, size_bytes or stop) - 1}"
            if self._generation:
                headers["If-Range"] = self._generation
        response = self._server.get(self._url, headers)
        try:
            self._check(response, start, size_bytes, is_part=stop is not None)
        except BaseException:
            response.close()
            raise
        return response

    def _check(self, response: BaseHTTPResponse, start: int, size_bytes: int, *, is_part: bool) -> None:
        """Accept an answer whose body begins at byte `start`. Raise the error that any other answer means."""
        if response.status not in ((200, 206, 416) if is_part else (200,)):
            raise _unexpected(response, self._url, self._path)
        etag = response.headers.get("ETag", "")
        found = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")  # If-Range: no weak ETag
        if self._generation and is_part and (response.status != 206 or found != self._generation):
            raise UpstreamChanged(f"{self._path} changed upstream while it was read: it is read again from its start")
        if response.status == 416:
            raise UpstreamRefused(f"{self._path} is empty upstream, expected {size_bytes:,} bytes")
        size = _size_of(response, start, size_bytes)
        if size_bytes and size != size_bytes:
            raise UpstreamRefused(
                f"{self._path} has {size:,} bytes, expected {size_bytes:,} as upstream's catalog says"
            )
        self._generation, self._size_bytes = found, size

    def _whole(self, response: BaseHTTPResponse) -> Generator[bytearray]:
        """Yield the body of one answer. It cannot be resumed: if it breaks off, the whole file must be read again."""
        done = 0
        with closing(response), suppress(_DeadlinePassed):
            while done < self._size_bytes:
                part = bytearray(min(self._server.part_bytes, self._size_bytes - done))
                try:
                    deque(self._poured(response, memoryview(part)), maxlen=0)
                    more = done + len(part) == self._size_bytes and response.read(1, decode_content=False)
                except (HTTPError, OSError, _TransientFailure) as error:
                    raise UpstreamUnavailable(f"{self._path} broke off after {done:,} bytes: {_why(error)}") from error
                if more:
                    raise UpstreamRefused(f"{self._path} has more bytes than {self._size_bytes:,}, as its catalog says")
                done += len(part)
                yield part

    def _ranged(self, response: BaseHTTPResponse, start: int) -> Generator[bytearray]:
        """Yield parts in order. A few threads fetch ahead; how many depends on the speed of the first part."""
        starts = iter(range(start, self._size_bytes, self._server.part_bytes))
        began = self._server.clock()
        with suppress(_DeadlinePassed):
            first = self._fill(next(starts), response)
            seconds = max(self._server.clock() - began, 0.001)
            width = max(1, min(self._server.most_connections, int(self._server.limits.part_s / seconds)))
            with ThreadPoolExecutor(width, thread_name_prefix="upstream") as pool:
                pending = deque(pool.submit(self._fill, begin) for begin in islice(starts, width + AHEAD - 1))
                try:
                    yield first
                    del first
                    while pending:
                        part = pending.popleft().result()
                        pending.extend(pool.submit(self._fill, begin) for begin in islice(starts, 1))
                        yield part
                        del part
                finally:
                    self._stop()
                    pool.shutdown(cancel_futures=True)

    def _fill(self, start: int, opened: BaseHTTPResponse | None = None) -> bytearray:
        """Return the part that begins at `start`, resuming where a body breaks off."""
        part = bytearray(min(self._server.part_bytes, self._size_bytes - start))
        unread = [opened] if opened else []
        filled = 0

        def attempt() -> None:
            nonlocal filled
            response = unread.pop() if unread else self._ask(start + filled, start + len(part), self._size_bytes)
            with closing(response):
                for number in self._poured(response, memoryview(part)[filled:]):
                    filled += number

        self._try(attempt)
        return part

    def _poured(self, response: BaseHTTPResponse, part: memoryview) -> Iterator[int]:
        """Read exactly `part` from a body, yielding the count of each slice that arrived."""
        with self._lock:
            self._open.add(response)
        try:
            self._check_time()  # checked after the answer is in the set, so either this check or `_stop` ends the read
            filled = 0
            while filled < len(part):
                slice_ = response.read(min(_SLICE_BYTES, len(part) - filled), decode_content=False)
                self._check_time()
                if not slice_:
                    raise _TransientFailure(f"the body ended after {filled:,} of {len(part):,} bytes")
                self._server.pace.keep(len(slice_), self._stopped.wait)
                part[filled : filled + len(slice_)] = slice_
                filled += len(slice_)
                yield len(slice_)
        finally:
            with self._lock:
                self._open.discard(response)

    def _stop(self) -> None:
        """End the reads that are under way in other threads."""
        self._stopped.set()
        with self._lock:
            for response in self._open:
                with suppress(OSError, ValueError, RuntimeError):  # it may have ended already
                    response.shutdown()


def _size_of(response: BaseHTTPResponse, start: int, size_bytes: int) -> int:
    """Return the size of the whole file from the answer to a request from byte `start` on, else from the catalog."""
    if response.status == 200:
        text = response.headers.get("Content-Length", "")
        is_length = _LENGTH.fullmatch(text)
        if not is_length and not size_bytes:
            raise UpstreamRefused("upstream says neither in its catalog nor in its answer how long the file is")
        return int(text) if is_length else size_bytes
    given = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(given)
    if not found or int(found[1]) != start:
        raise UpstreamRefused(f"upstream answers with the range {given[:80]!r}, expected one from byte {start:,}")
    return int(found[3])


def _unexpected(response: BaseHTTPResponse, url: str, path: str) -> _TransientFailure | UpstreamRefused:
    """Return the error that an unexpected status means."""
    what = f"{host_of(url)} answers {response.status} for {path}"
    if response.status == 400 and wants_tls(response.read(_START_BYTES, decode_content=False)):
        return UpstreamRefused(f"{what}; {WANTS_TLS}")
    if response.status not in _TRANSIENT:
        return UpstreamRefused(what)
    asked = response.headers.get("Retry-After", "")
    try:
        return _TransientFailure(what, Retry().parse_retry_after(asked) if asked else 0)
    except (InvalidHeader, ValueError, OverflowError):  # a number of thousands of digits, a year that no date has
        return _TransientFailure(what)


def _distrusted(error: Exception) -> str:
    """Return why TLS fails for good, and what to do about it; empty for another error."""
    reason = error.args[0] if isinstance(error, SSLError) else None
    if isinstance(reason, ssl.SSLCertVerificationError):
        helps = "if its authority is your own, name the PEM file in AWS_CA_BUNDLE"
        return f"its certificate cannot be verified ({reason.verify_message}); {helps}"
    return NO_TLS if reason and speaks_no_tls(reason) else ""


def _why(error: Exception) -> str:
    """Return the cause in words. urllib3 quotes the address of the connection, never the URL."""
    return f"{type(error).__name__}: {error}" if not isinstance(error, _TransientFailure) else str(error)
