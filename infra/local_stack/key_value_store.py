"""The data API of CloudFront's KeyValueStore, in memory, as far as boto3's `cloudfront-keyvaluestore` uses it here.

Signatures are not checked: the port is on loopback. Source: Amazon CloudFront API Reference, "KeyValueStore actions".
"""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local_stack.browsers import stranger

MOST_IN_A_CALL: Final = 50
MOST_IN_A_PAGE: Final = 50
LARGEST_BYTES: Final = 5 * 1024 * 1024
LONGEST_KEY: Final = 512
LONGEST_VALUE: Final = 1024


class Refused(Exception):
    """An error of the API: `status`, `code`, and the message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class KeyValues:
    """The entries, with a revision that each change replaces."""

    def __init__(self, arn: str) -> None:
        self.arn = arn
        self.entries: Mapping[str, str] = {}
        self._revision = 1
        self._lock = threading.Lock()

    @property
    def revision(self) -> str:
        return f"KV{self._revision}"

    def get(self, key: str) -> str | None:
        return self.entries.get(key)

    def update(self, revision: str, puts: Mapping[str, str], deletes: list[str]) -> None:
        """Apply all changes, or raise Refused and apply none."""
        with self._lock:
            if revision != self.revision:
                raise Refused(409, "ConflictException", f"the ETag is {self.revision}, not {revision}")
            missing = [key for key in deletes if key not in self.entries]
            if missing:
                raise Refused(404, "ResourceNotFoundException", f"there is no key {missing[0]}")
            if not 0 < len(puts) + len(deletes) <= MOST_IN_A_CALL:
                raise Refused(400, "ValidationException", f"{len(puts) + len(deletes)} entries in one call")
            kept = {key: value for key, value in self.entries.items() if key not in deletes} | dict(puts)
            for key, value in kept.items():
                if not 0 < len(key.encode()) <= LONGEST_KEY or not 0 < len(value.encode()) <= LONGEST_VALUE:
                    raise Refused(400, "ValidationException", f"the entry {key[:40]} is too long, or empty")
            if _size(kept) > LARGEST_BYTES:
                raise Refused(402, "ServiceQuotaExceededException", f"more than {LARGEST_BYTES:,} bytes")
            self.entries = kept
            self._revision += 1


def make_key_values(store: KeyValues) -> Starlette:
    """Return the ASGI application of one store."""

    async def answer(request: Request) -> Response:
        if reason := stranger(request.headers.get("host", ""), request.headers.get("origin", "")):
            return JSONResponse({"message": f"Forbidden: {reason}"}, 403)
        try:
            body = await request.body()
            found = _answer(store, request, json.loads(body) if body else {})
        except Refused as error:
            return JSONResponse({"Message": str(error)}, error.status, {"x-amzn-ErrorType": error.code})
        return JSONResponse(found, headers={"ETag": store.revision})

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def _answer(store: KeyValues, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
    # The ARN is one escaped segment: it holds slashes.
    parts = [unquote(part) for part in request.scope["raw_path"].split(b"?")[0].decode().strip("/").split("/")]
    if parts[:2] != ["key-value-stores", store.arn]:
        raise Refused(404, "ResourceNotFoundException", f"there is no store {parts[1:2]}")
    if request.method == "POST" and parts[2:] == ["keys"]:
        puts = {entry["Key"]: entry["Value"] for entry in body.get("Puts") or ()}
        store.update(request.headers.get("if-match", ""), puts, [d["Key"] for d in body.get("Deletes") or ()])
        return _facts(store)
    if request.method == "GET" and parts[2:] == ["keys"]:
        most = min(int(request.query_params.get("MaxResults", 10)), MOST_IN_A_PAGE)
        after = request.query_params.get("NextToken", "")
        keys = sorted(key for key in store.entries if key > after)
        page: dict[str, Any] = {"Items": [{"Key": key, "Value": store.entries[key]} for key in keys[:most]]}
        # The token of the next page is the last key of this one.
        return page | ({"NextToken": keys[most - 1]} if len(keys) > most else {})
    if request.method == "GET" and not parts[2:]:
        return _facts(store) | {"KvsARN": store.arn, "Created": datetime.now(UTC).timestamp()}
    raise Refused(400, "ValidationException", f"the local stack does not know {request.method} of {parts[2:]}")


def _facts(store: KeyValues) -> dict[str, Any]:
    return {"ItemCount": len(store.entries), "TotalSizeInBytes": _size(store.entries)}


def _size(entries: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in entries.items())
