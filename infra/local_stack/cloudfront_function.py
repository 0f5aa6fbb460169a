"""CloudFront Functions' part: runs the function that the template deploys, for each request of a viewer.

QuickJS evaluates the text itself; cloudfront_runtime.js provides parts of CloudFront's runtime 2.0, over Python's
hashlib.
Source of the event: CloudFront Developer Guide, "CloudFront Functions event structure".
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import quickjs

LARGEST_FUNCTION_BYTES: Final = 10 * 1024
"""CloudFront Developer Guide, "Quotas": the limit for a function's text."""
MEMORY_BYTES: Final = 8 * 1024 * 1024
_IMPORT: Final = "import cf from 'cloudfront';\n"
_RUNTIME: Final = Path(__file__).with_name("cloudfront_runtime.js")

_LOG: Final = logging.getLogger(__name__)
Read = Callable[[str], str | None]
"""Return an entry of the key value store, or None if there is none."""
Run = Callable[[str, str, Iterable[tuple[str, str]]], Mapping[str, Any]]
"""Method, URI and headers of a request -> the request that goes on (`uri`), or the answer (`statusCode`)."""
Log = Callable[[str], object]
"""Take a line that the function logs."""


class FunctionFailed(Exception):
    """The function threw an error; CloudFront then answers 503."""


def _log(text: str) -> None:
    _LOG.warning("edge function: %s", text)


class EdgeFunction:
    """One function with its store, used only in the thread that made it."""

    def __init__(self, source: str, read: Read, log: Log = _log) -> None:
        self._context = quickjs.Context()
        self._context.set_memory_limit(MEMORY_BYTES)
        self._context.add_callable("host_get", read)
        self._context.add_callable("host_decode", _decode)
        self._context.add_callable("host_text", lambda digits: bytes.fromhex(digits).decode(errors="replace"))
        self._context.add_callable("host_digest", _digest)
        self._context.add_callable("host_log", log)
        self._context.eval(_RUNTIME.read_text())
        self._context.eval(source.replace(_IMPORT, "", 1))
        self._start = self._context.get("start")

    def run(self, method: str, uri: str, headers: Iterable[tuple[str, str]]) -> Mapping[str, Any]:
        """Return the request that goes on (`uri`, `headers`) or the answer (`statusCode`). Raises FunctionFailed."""
        given: dict[str, list[str]] = {}
        for name, value in headers:
            given.setdefault(name.lower(), []).append(value)
        # A repeated header has all its values.
        event_headers = {
            name: {"value": values[0]} | ({"multiValue": [{"value": v} for v in values]} if len(values) > 1 else {})
            for name, values in given.items()
        }
        event = {
            "version": "1.0",
            "context": {"eventType": "viewer-request"},
            "viewer": {"ip": "127.0.0.1"},
            "request": {"method": method, "uri": uri, "querystring": {}, "headers": event_headers, "cookies": {}},
        }
        try:
            self._start(json.dumps(event))
            while self._context.execute_pending_job():
                pass
            result: dict[str, Any] = json.loads(self._context.get("outcome"))
        except (quickjs.JSException, quickjs.StackOverflow, ValueError) as error:
            raise FunctionFailed(f"the edge's function failed for {method}: {error}") from error
        if "error" in result:
            raise FunctionFailed(f"the edge's function threw for {method}: {result['error']}")
        return result


class Runner:
    """An EdgeFunction in its own thread, for callers in any thread."""

    def __init__(self, source: str, read: Read, log: Log = _log) -> None:
        self._thread = ThreadPoolExecutor(1, "edge-function")
        self._function = self._thread.submit(EdgeFunction, source, read, log).result()

    def run(self, method: str, uri: str, headers: Iterable[tuple[str, str]]) -> Mapping[str, Any]:
        return self._thread.submit(self._function.run, method, uri, list(headers)).result()

    def stop(self) -> None:
        # The context must be freed in the thread that made it.
        self._thread.submit(self.__dict__.pop, "_function").result()
        self._thread.shutdown()


def _decode(text: str, encoding: str) -> str:
    """Return the bytes of a text in hex. Like Node's Buffer, it decodes the readable part of broken base64."""
    if encoding == "utf8":
        return text.encode().hex()
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    plain = plain[:-1] if len(plain) % 4 == 1 else plain
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4)).hex()
    except binascii.Error:
        return ""


def _digest(key: str | None, text: str, encoding: str) -> str:
    data = text.encode(errors="surrogatepass")
    digest = hashlib.sha256(data).digest() if key is None else hmac.digest(bytes.fromhex(key), data, "sha256")
    return digest.hex() if encoding == "hex" else base64.urlsafe_b64encode(digest).decode().rstrip("=")
