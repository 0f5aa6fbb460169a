"""CloudFront's standard logs (legacy): a line for each request, as gzip files in the bucket of logs.

They arrive within a second; CloudFront takes minutes to hours. Source of the fields and their order: CloudFront
Developer Guide, "Standard logging reference".
"""

import gzip
import logging
import threading
import time
import uuid
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG: Final = logging.getLogger(__name__)
_NAMES: Final = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) "
    "cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken "
    "x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status "
    "fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len "
    "sc-range-start sc-range-end"
)
FIELDS: Final = _NAMES.split()
DISTRIBUTION: Final = "ELOCAL"
LOCATION: Final = "LOC1-P1"
"""No airport has this code."""
EVERY_S: Final = 1.0


class EdgeLogs:
    """A writer that collects lines and puts them into the bucket. `s3` is a boto3 client."""

    def __init__(self, s3: Any, bucket: str, prefix: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-logs", daemon=True)

    def start(self) -> None:
        """Begin to write collected lines."""
        self._thread.start()

    def stop(self) -> None:
        """Write the remaining lines, and end."""
        self._stopping.set()
        self._thread.join(timeout=3)

    def add(self, values: MutableMapping[str, str]) -> None:
        """Collect a line; fields missing in `values` become `-`."""
        with self._lock:
            self._lines.append("\t".join(values.get(name) or "-" for name in FIELDS))

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(EVERY_S)
            with self._lock:
                lines, self._lines = self._lines, []
            if not lines:
                continue
            body = "\n".join(("#Version: 1.0", f"#Fields: {_NAMES}", *lines, ""))
            key = f"{self._prefix}{DISTRIBUTION}.{datetime.now(UTC):%Y-%m-%d-%H}.{uuid.uuid4().hex[:8]}.gz"
            try:
                self._s3.put_object(Bucket=self._bucket, Key=key, Body=gzip.compress(body.encode()))
            except Exception as error:  # noqa: BLE001  (the edge serves on without its logs, as CloudFront does)
                _LOG.warning("%s lines of the access log are lost: %s", len(lines), error)


@dataclass(slots=True)
class _Answered:
    """What was sent for a request: the status, 0 if nothing was; headers; bytes in all; seconds to the first one."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    first_byte_s: float = 0.0


class Logged:
    """An ASGI application whose answered requests are logged."""

    def __init__(self, application: ASGIApp, logs: EdgeLogs) -> None:
        self._application = application
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began = time.monotonic()
        answered = _Answered()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.status = message["status"]
                answered.headers = _text(message.get("headers", ()))
                answered.size_bytes += sum(len(name) + len(value) + 4 for name, value in message.get("headers", ()))
                answered.first_byte_s = time.monotonic() - began
            elif message["type"] == "http.response.body":
                answered.size_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._application(scope, receive, watched)
        finally:
            self._logs.add(_line(scope, answered, time.monotonic() - began))


def _line(scope: Scope, answered: _Answered, seconds: float) -> dict[str, str]:
    """Return the fields of a request's line that are not `-` here."""
    asked, sent, now = _text(scope["headers"]), answered.headers, datetime.now(UTC)
    client, port = scope.get("client") or ("-", "-")
    start, _, end = sent.get("content-range", "").removeprefix("bytes ").partition("/")[0].partition("-")
    # CloudFront's result type. Nothing is cached here, so no request is a hit.
    result = "Error" if answered.status == 0 or answered.status >= 400 else "Miss"
    return {
        "date": f"{now:%Y-%m-%d}",
        "time": f"{now:%H:%M:%S}",
        "x-edge-location": LOCATION,
        "sc-bytes": str(answered.size_bytes),
        "c-ip": client,
        "cs-method": scope["method"],
        "cs(Host)": asked.get("host", ""),
        "cs-uri-stem": quote(scope["raw_path"].split(b"?")[0].decode("latin-1"), safe="/:~%"),
        "sc-status": f"{answered.status:03d}",
        "cs(Referer)": quote(asked.get("referer", ""), safe="/:;(),?=&%"),
        "cs(User-Agent)": quote(asked.get("user-agent", ""), safe="/:;(),"),
        "cs-uri-query": quote(scope["query_string"].decode("latin-1"), safe="=&%"),
        "x-edge-result-type": result,
        "x-edge-request-id": uuid.uuid4().hex,
        "x-host-header": asked.get("host", ""),
        "cs-protocol": scope.get("scheme", ""),
        "time-taken": f"{seconds:.3f}",
        "x-edge-response-result-type": result,
        "cs-protocol-version": f"HTTP/{scope.get('http_version', '')}",
        "c-port": str(port),
        "time-to-first-byte": f"{answered.first_byte_s:.3f}",
        "x-edge-detailed-result-type": result,
        "sc-content-type": quote(sent.get("content-type", ""), safe="/"),
        "sc-content-len": sent.get("content-length", ""),
        "sc-range-start": start,
        "sc-range-end": end,
    }


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
