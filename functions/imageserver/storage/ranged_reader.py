"""Read one S3 object in order at the speed of many connections, in memory bounded by a formula.

The object is cut into parts. A few threads fetch parts ahead of the consumer, each over its own kept-alive
connection, straight into a ring of reused buffers; the consumer gets the parts in order. Every request is pinned
to one ETag (If-Match), so two generations of a key never mix.

Requests go to one presigned URL over `http.client`, not through `get_object`: building, signing and parsing a
request with botocore costs a millisecond or two of CPU, which forces large parts and with them much memory, and its
body copies every byte once more. The price is that this file has to handle statuses and retries itself.
"""

import os
import random
import socket
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final, Protocol
from urllib.parse import urlsplit

from botocore.httpsession import get_cert_path

from imageserver.errors import ObjectChanged, StorageDenied, StorageUnavailable
from imageserver.inspection.digests import Sha256, Update

MIB: Final = 1 << 20
# A chunk's buffer is reused only when the consumer has asked for this many more: digests may be that far behind.
HELD: Final = 3
# Size of one read of a body: smaller ones spend their time taking the interpreter lock, larger ones stop less promptly.
SLICE_BYTES: Final = MIB
# A presigned URL must outlive the read: a function runs for 900 s at most.
URL_LIFETIME_S: Final = 3600


class Presigner(Protocol):
    """The one method needed of a boto3 S3 client, which should be made with `signature_version="s3v4"`."""

    def generate_presigned_url(self, ClientMethod: str, Params: dict[str, str], ExpiresIn: int) -> str:  # noqa: N803  (boto3's names)
        """Return a URL that needs no further credentials."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How much of an object is in flight: `workers` connections fill `buffers` buffers of `part_bytes` each.

    A connection at r bytes/s that waits t seconds for its first byte delivers part_bytes / (part_bytes/r + t), so for
    the same memory many small parts beat few large ones, until the cost of a request shows. `retries` is how often one
    part may break (connection lost, body cut short, 5xx) before the read fails; each retry resumes where it stopped.
    """

    part_bytes: int
    workers: int
    buffers: int
    retries: int = 5
    pause_s: float = 0.1
    timeout_s: float = 20.0

    def __post_init__(self) -> None:
        if min(self.part_bytes, self.workers) < 1 or self.buffers <= HELD:
            raise ValueError(f"{self}: part_bytes and workers must be at least 1, buffers more than {HELD}")

    @property
    def memory_bytes(self) -> int:
        """The most bytes of an object in memory at once, whatever its size."""
        return self.part_bytes * self.buffers


LARGE: Final = ReadPlan(part_bytes=6 * MIB, workers=16, buffers=20)
SMALL: Final = ReadPlan(part_bytes=4 * MIB, workers=12, buffers=16)
SEVERAL: Final = ReadPlan(part_bytes=MIB, workers=2, buffers=4)
"""For several objects at once, nearly all of them smaller than a part, such as logs."""


class _Broken(Exception):
    """This attempt failed; another may succeed."""


def read_object(
    client: Presigner, bucket: str, key: str, etag: str, size_bytes: int, plan: ReadPlan = SMALL
) -> Iterator[memoryview]:
    """Yield the object's bytes in order, in chunks of at most `plan.part_bytes`.

    A chunk may be used until HELD (3) more have been asked for; then its buffer is filled again. Close the iterator
    (or drop it) to stop early: no thread or connection outlives it. An object of one part costs one request, no thread.

    Raises ObjectChanged if the key no longer holds `etag` with that size, StorageDenied on 403 and similar statuses,
    StorageUnavailable if a part broke more than `plan.retries` times.
    """
    if not size_bytes:
        return
    pin = f'"{etag.strip(chr(34))}"'
    url = client.generate_presigned_url(
        ClientMethod="get_object", Params={"Bucket": bucket, "Key": key, "IfMatch": pin}, ExpiresIn=URL_LIFETIME_S
    )
    source = _Source(url, f"s3://{bucket}/{key}", pin, size_bytes, plan)
    try:
        if size_bytes <= plan.part_bytes:
            yield source.fill(0, memoryview(bytearray(size_bytes)))
        else:
            yield from _prefetch(source, size_bytes, plan)
    finally:
        source.stop()


def _prefetch(source: "_Source", size_bytes: int, plan: ReadPlan) -> Iterator[memoryview]:
    """Fetch parts ahead of the consumer, at most `plan.buffers` of them at once; yield them in order."""
    starts = iter(range(0, size_bytes, plan.part_bytes))
    pending: deque[Future[memoryview]] = deque()
    held: deque[memoryview] = deque()

    def fetch_next(buffer: memoryview) -> None:
        start = next(starts, None)
        if start is not None:
            part = buffer[: size_bytes - start]
            pending.append(pool.submit(source.fill, start, part))

    pool = ThreadPoolExecutor(plan.workers, thread_name_prefix="read")
    try:
        for _ in range(min(plan.buffers, -(-size_bytes // plan.part_bytes))):
            fetch_next(memoryview(bytearray(plan.part_bytes)))
        while pending:
            chunk = pending.popleft().result()
            yield chunk
            held.append(chunk)
            if len(held) == HELD:
                fetch_next(held.popleft())
    finally:
        source.stop()
        pool.shutdown(cancel_futures=True)


class _Source:
    """One object behind its presigned URL, and the connections to it. `fill` may be called from many threads."""

    def __init__(self, url: str, where: str, pin: str, size_bytes: int, plan: ReadPlan) -> None:
        address = urlsplit(url)
        self._host, self._tls = address.netloc, address.scheme == "https"
        self._target = f"{address.path}?{address.query}"
        self._where, self._pin, self._size_bytes, self._plan = where, pin, size_bytes, plan
        self._idle: deque[HTTPConnection] = deque()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def fill(self, start: int, part: memoryview) -> memoryview:
        """Fill `part` with the object's bytes from `start` on, resuming where a body broke off; return it."""
        filled = breaks = 0
        while filled < len(part):
            try:
                for count in self._pour(start + filled, part[filled:]):
                    filled += count
            except (OSError, HTTPException, _Broken) as broken:
                breaks += 1
                if breaks > self._plan.retries or self._stopped.is_set():
                    raise StorageUnavailable(
                        f"{self._where}: byte {start + filled} of {self._size_bytes} could not be read in "
                        f"{breaks} attempts, the last one failed with {broken!r}; it is read again on redelivery"
                    ) from broken
                # Jitter spreads the retries of parts that broke off together. It need not be unpredictable.
                self._stopped.wait(self._plan.pause_s * 2**breaks * random.random())  # noqa: S311
        return part

    def stop(self) -> None:
        """Make every `fill` under way end at once, and close all connections. May be called twice."""
        self._stopped.set()
        with self._lock:
            for open_socket in list(self._sockets):
                with suppress(OSError):  # it may be closed already
                    # Not SSLSocket.shutdown: that pulls the TLS state from under a thread that is reading.
                    socket.socket.shutdown(open_socket, socket.SHUT_RDWR)
        while self._idle:
            self._idle.pop().close()

    def _pour(self, start: int, part: memoryview) -> Iterator[int]:
        """Request exactly this range and read it into `part`, yielding the count of each slice that arrived."""
        connection = self._connection()
        try:
            response = self._ask(connection, start, start + len(part))
            filled = 0
            while filled < len(part):
                count = response.readinto(part[filled : filled + SLICE_BYTES])
                if not count or self._stopped.is_set():
                    raise _Broken(f"the body ended after {filled} of {len(part)} bytes")
                filled += count
                yield count
            if not response.isclosed():
                raise _Broken("the body goes on after its range")
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    def _connection(self) -> HTTPConnection:
        """Return an idle connection, or a new one, which connects with its first request."""
        with suppress(IndexError):
            return self._idle.pop()
        if self._tls:
            return HTTPSConnection(self._host, timeout=self._plan.timeout_s, context=_trust())
        return HTTPConnection(self._host, timeout=self._plan.timeout_s)

    def _ask(self, connection: HTTPConnection, start: int, stop: int) -> HTTPResponse:
        """Send a request for bytes [start, stop); return the response if it has exactly these."""
        if connection.sock is None:
            connection.connect()
            with self._lock:
                self._sockets.add(connection.sock)  # type: ignore[arg-type]  # connected above
        if self._stopped.is_set():  # checked once the socket is in the set, so this check or `stop` ends it
            raise _Broken("the read was stopped")
        connection.request("GET", self._target, headers={"Range": f"bytes={start}-{stop - 1}", "If-Match": self._pin})
        response = connection.getresponse()
        self._check(response, f"bytes {start}-{stop - 1}/{self._size_bytes}")
        return response

    def _check(self, response: HTTPResponse, expected: str) -> None:
        """Accept a 206 with the expected Content-Range. Raise the error that any other answer means."""
        found = response.getheader("Content-Range")
        if response.status == 206 and found == expected:
            return
        if response.status in (404, 412, 416):
            raise ObjectChanged(
                f"{self._where}: expected {self._size_bytes} bytes with ETag {self._pin}, found another object or "
                f"none ({response.status} {response.reason}); list it again and start over"
            )
        if response.status >= 500 or response.status == 429:
            raise _Broken(f"{response.status} {response.reason}")
        if response.status in (200, 206):
            raise StorageUnavailable(
                f"{self._where}: expected 206 with Content-Range {expected!r}, found {response.status} with {found!r}; "
                "what answers there does not serve ranges as S3 does"
            )
        raise StorageDenied(
            f"{self._where}: storage answered {response.status} {response.reason} to a presigned read; "
            "check the role's s3:GetObject on this prefix, the key policy, and the clock"
        )


@cache
def _trust() -> ssl.SSLContext:
    """Return a context that trusts what boto3 would trust.

    Made once: loading certificates takes tens of milliseconds.
    """
    return ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or get_cert_path(True))


@contextmanager
def hash_fan(digests: Sequence[Sha256]) -> Iterator[Update]:
    """Update several digests side by side, each in order, each at most HELD - 1 chunks behind the caller.

    hashlib releases the interpreter lock, so each digest gets a core if there is one. They do not wait for each other:
    if cores are few, a delayed digest catches up while the other continues. A chunk must not change until HELD - 1 more
    were taken in or the context is left; `read_object` keeps it that long. A small chunk is digested at once.
    """
    threads = [ThreadPoolExecutor(1, thread_name_prefix="digest") for _ in digests]
    running: deque[list[Future[None]]] = deque()

    def wait_until(unfinished: int) -> None:
        while len(running) > unfinished:
            for future in running.popleft():
                future.result()

    def update(chunk: bytes | bytearray | memoryview) -> None:
        if len(chunk) < MIB:
            wait_until(unfinished=0)
            for digest in digests:
                digest.update(chunk)
        else:
            pairs = zip(threads, digests, strict=True)
            running.append([thread.submit(digest.update, chunk) for thread, digest in pairs])
            wait_until(unfinished=HELD - 1)

    try:
        yield update
    finally:
        try:
            wait_until(unfinished=0)
        finally:
            for thread in threads:
                thread.shutdown()


def digest_chunks(chunks: Iterable[bytes | memoryview], digests: Sequence[Sha256]) -> None:
    """Feed all chunks to all digests; the digests have taken in every byte when this returns."""
    with hash_fan(digests) as update:
        for chunk in chunks:
            update(chunk)
