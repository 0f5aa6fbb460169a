"""API Gateway's part: the routes of the template, each calling its function with a payload of format 2.0.

There is no authorizer; the caller's own statement counts. The name in `X-Local-Caller`, or the access key of a SigV4
signature, becomes the IAM user `arn:aws:iam::123456789012:user/<name>`; an ARN is used as it is. With a JWT
authorizer the claims of the token are used unverified. The port is on loopback, where this only decides which
prefixes the uploads function allows.
Source of the event: API Gateway Developer Guide, "Create AWS Lambda proxy integrations for HTTP APIs".
"""

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute

from local_stack.browsers import stranger
from local_stack.lambda_pool import Outcome
from local_stack.scheduler import Scheduler
from local_stack.template import ACCOUNT_ID
from local_stack.wiring import Route

ALL_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
LARGEST_BODY_BYTES: Final = 10 * 1024 * 1024
MOST_READ_BYTES: Final = 128 * 1024 * 1024
CALLER_HEADER: Final = "x-local-caller"

Failed = Callable[[str, str], None]


def make_api(
    routes: Sequence[Route], invoke: Callable[[str, Any], Outcome], scheduler: Scheduler, failed: Failed
) -> Starlette:
    """Return the ASGI application of the HTTP API, and `POST /_local/schedules/<name>` to run a schedule on request."""

    async def answer(request: Request) -> Response:
        if refusal := _refused(request):
            return refusal
        found = match(routes, request.method, request.scope["path"])
        if found is None:
            return JSONResponse({"message": "Not Found"}, 404)
        route, path_parameters = found
        authorizer = caller(route.auth, request.headers)
        if authorizer is None:
            status, message = (401, "Unauthorized") if route.auth == "jwt" else (403, "Forbidden")
            return JSONResponse({"message": message}, status)
        body = await _body(request)
        if body is None:
            return JSONResponse({"message": "Request Entity Too Large"}, 413, {"Connection": "close"})
        event = proxy_event(request, route, path_parameters, authorizer, body)
        outcome = await run_in_threadpool(invoke, route.function, event)
        if outcome.error:
            failed(route.function, outcome.error)
        return proxy_answer(outcome)

    async def run_schedule(request: Request) -> Response:
        if refusal := _refused(request):
            return refusal
        name = request.path_params["name"]
        if name not in scheduler.names:
            return JSONResponse({"message": f"no schedule {name}; there are {', '.join(scheduler.names)}"}, 404)
        outcome = await run_in_threadpool(scheduler.run, name)
        return JSONResponse({"result": outcome.result, "error": outcome.error}, 500 if outcome.error else 200)

    return Starlette(
        routes=[
            StarletteRoute("/_local/schedules/{name}", run_schedule, methods=["POST"]),
            StarletteRoute("/{path:path}", answer, methods=ALL_METHODS),
        ]
    )


def _refused(request: Request) -> Response | None:
    """Return the answer to a page of another site, which may not start a function here."""
    reason = stranger(request.headers.get("host", ""), request.headers.get("origin", ""))
    return JSONResponse({"message": f"Forbidden: {reason}"}, 403) if reason else None


async def _body(request: Request) -> bytes | None:
    """Return the body, or None if it is too large.

    Then the rest is read and discarded for a while: a client that is still sending would otherwise see a broken
    connection and no answer.
    """
    body, size_bytes = bytearray(), 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes <= LARGEST_BODY_BYTES:
            body += chunk
        if size_bytes > MOST_READ_BYTES:
            break
    return bytes(body) if size_bytes <= LARGEST_BODY_BYTES else None


def match(routes: Sequence[Route], method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Return a request's route and path parameters. A literal part precedes a variable; a greedy variable is last."""
    for route in sorted(routes, key=lambda route: ("+}" in route.path, -len(route.path.split("{", 1)[0]))):
        pattern = re.sub(r"\\\{(\w+)\\\+\\\}", r"(?P<\1>.+)", re.escape(route.path))
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern)
        found = re.fullmatch(pattern, path)
        if found and route.method in (method, "ANY", "X-AMAZON-APIGATEWAY-ANY-METHOD"):
            return route, {name: unquote(value) for name, value in found.groupdict().items()}
    return None


def caller(auth: str, headers: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the event's `authorizer` part for the caller, None without a caller, {} if the route needs none."""
    if auth == "none":
        return {}
    authorization = headers.get("authorization", "")
    if auth == "jwt":
        return _jwt_caller(authorization.removeprefix("Bearer "))
    signed = re.match(r"AWS4-HMAC-SHA256 Credential=([^/]+)/", authorization)
    name = headers.get(CALLER_HEADER) or (signed[1] if signed else "")
    if not name:
        return None
    arn = name if name.startswith("arn:") else f"arn:aws:iam::{ACCOUNT_ID}:user/{name}"
    return {
        "iam": {
            "accessKey": signed[1] if signed else "LOCAL",
            "accountId": ACCOUNT_ID,
            "callerId": "AIDALOCAL",
            "cognitoIdentity": None,
            "principalOrgId": None,
            "userArn": arn,
            "userId": "AIDALOCAL",
        }
    }


def _jwt_caller(token: str) -> dict[str, Any] | None:
    """Return the `authorizer` part for the claims of a token, or None if it has none. Its signature is not verified."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    if not isinstance(claims, dict):
        return None
    # API Gateway passes every claim as text.
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in claims.items()}
    return {"jwt": {"claims": texts, "scopes": None}}


def proxy_event(
    request: Request, route: Route, path_parameters: Mapping[str, str], authorizer: Mapping[str, Any], body: bytes
) -> dict[str, Any]:
    """Return a payload of format 2.0."""
    try:
        text, encoded = body.decode(), False
    except UnicodeDecodeError:
        text, encoded = base64.b64encode(body).decode(), True
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        query[name] = f"{query[name]},{value}" if name in query else value
    context = _request_context(request, route, authorizer)
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": context["routeKey"],
        "rawPath": request.scope["path"],
        "rawQueryString": request.url.query,
        "headers": dict(request.headers),
        "requestContext": context,
        "isBase64Encoded": encoded,
    }
    optional = {"queryStringParameters": query, "pathParameters": dict(path_parameters), "body": text}
    return {**event, **{name: value for name, value in optional.items() if value}}


def _request_context(request: Request, route: Route, authorizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what API Gateway knows about a request besides its content."""
    context = {
        "accountId": ACCOUNT_ID,
        "apiId": "local",
        "domainName": request.headers.get("host", "localhost"),
        "domainPrefix": "local",
        "http": {
            "method": request.method,
            "path": request.scope["path"],
            "protocol": "HTTP/1.1",
            "sourceIp": request.client.host if request.client else "127.0.0.1",
            "userAgent": request.headers.get("user-agent", ""),
        },
        "requestId": str(uuid.uuid4()),
        "routeKey": f"{route.method} {route.path}",
        "stage": "$default",
        "time": datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
        "timeEpoch": int(time.time() * 1000),
    }
    return {**context, "authorizer": authorizer} if authorizer else context


def proxy_answer(outcome: Outcome) -> Response:
    """Return the HTTP answer for the function's result; 500 if it failed, as API Gateway answers."""
    result = outcome.result
    if outcome.error or result is None:
        return JSONResponse({"message": "Internal Server Error"}, 500)
    if not isinstance(result, dict) or "statusCode" not in result:
        return JSONResponse(result)
    body = result.get("body") or ""
    content = base64.b64decode(body) if result.get("isBase64Encoded") else body.encode()
    headers = {"content-type": "application/json"}
    headers |= {name.lower(): str(value) for name, value in (result.get("headers") or {}).items()}
    response = Response(content, int(result["statusCode"]), headers)
    for cookie in result.get("cookies", []):
        response.headers.append("set-cookie", cookie)
    return response
