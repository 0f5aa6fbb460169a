"""CloudFront's part: the distribution of the template, served over HTTPS on loopback.

It declares nothing itself: paths, methods, headers, compression and read rights come from the wiring.
Nothing is cached, so the lifetimes of the template have no effect; Cache-Control is the object's own.
"""

import gzip
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

import anyio
from botocore.exceptions import ClientError
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from local_stack.cloudfront_function import FunctionFailed, Run
from local_stack.wiring import Behaviour, Edge

_LOG: Final = logging.getLogger(__name__)
CHUNK_BYTES: Final = 1024 * 1024
COMPRESSIBLE_BYTES: Final = range(1_000, 10_000_001)
"""CloudFront Developer Guide, "Serve compressed files": objects of 1,000 to 10,000,000 bytes."""
COMPRESSIBLE_TYPES: Final = ("application/json", "text/", "application/javascript", "image/svg+xml")
ALL_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
PASSED_ON: Final = {
    "range": "Range", "if-none-match": "IfNoneMatch", "if-match": "IfMatch",
}  # fmt: skip
_ERRORS: Final = {"NoSuchKey": 404, "404": 404, "NotModified": 304, "304": 304, "PreconditionFailed": 412, "412": 412,
                  "InvalidRange": 416, "416": 416}  # fmt: skip


def make_cloudfront(edge: Edge, bucket: str, s3: Any, run: Run | None = None) -> Starlette:
    """Return the ASGI application of the distribution; `s3` is a boto3 client, `run` its function."""

    async def answer(request: Request) -> Response:
        # The raw path, decoded once by the server: S3 keys and CloudFront patterns have no leading slash.
        path = request.scope["path"].removeprefix("/")
        behaviour = edge.behaviour(path)
        if request.method not in behaviour.methods:
            return _error(403, "MethodNotAllowed", "This distribution is not configured to allow the HTTP request "
                          "method that was used for this request.", {})  # fmt: skip
        if run is not None and behaviour.has_function:
            decided = await _decided(request, run)
            if isinstance(decided, Response):
                return decided
            path = decided
        key = path or edge.root
        needed = edge.needed_tags(key)
        if needed is None:
            # S3 answers CloudFront with 403 here. Locally, a key that is not served does not exist.
            return _error(404, "NoSuchKey", "The specified key does not exist.", behaviour.headers)
        tags = await run_in_threadpool(_tags, s3, bucket, key) if needed else None
        if tags is not None and not needed <= tags:
            return _error(403, "AccessDenied", "Access Denied", behaviour.headers)
        return await _serve(request, behaviour, edge, s3, bucket, key)

    return Starlette(routes=[Route("/{path:path}", answer, methods=ALL_METHODS)])


async def _decided(request: Request, run: Run) -> str | Response:
    """Return the path to which the function rewrites this request, or the function's answer."""
    try:
        # As the client spelled it: only the function decides what an escape means.
        uri = request.scope["raw_path"].split(b"?")[0].decode("latin-1")
        result = await run_in_threadpool(run, request.method, uri, request.headers.items())
    except FunctionFailed as error:
        _LOG.warning("%s", error)
        return _error(503, "FunctionExecutionError", "The CloudFront function failed.", {})
    if "statusCode" in result:
        answered = {name: str(header["value"]) for name, header in result.get("headers", {}).items()}
        return Response(status_code=int(result["statusCode"]), headers=answered)
    return unquote(result["uri"]).removeprefix("/")


def _tags(s3: Any, bucket: str, key: str) -> frozenset[tuple[str, str]] | None:
    """Return the tags of an object, or None if there is no such object."""
    try:
        found = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    except ClientError as error:
        if _ERRORS.get(str(error.response["Error"]["Code"])) == 404:
            return None
        raise
    return frozenset((tag["Key"], tag["Value"]) for tag in found)


async def _serve(request: Request, behaviour: Behaviour, edge: Edge, s3: Any, bucket: str, key: str) -> Response:
    conditions = {PASSED_ON[name]: value for name, value in request.headers.items() if name in PASSED_ON}
    try:
        found = await run_in_threadpool(s3.get_object, Bucket=bucket, Key=key, **conditions)
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        status = _ERRORS.get(code)
        if status is None:
            return _error(502, "BadGateway", f"the origin answered {code}", {})
        if status == 304:
            # CloudFront has the object's headers in its cache; moto sends none of them.
            headers = _headers(await run_in_threadpool(s3.head_object, Bucket=bucket, Key=key), behaviour)
            return Response(status_code=304, headers=headers)
        if status == 404 and not edge.sees_missing:
            return _error(403, "AccessDenied", "Access Denied", behaviour.headers)
        return _error(status, code, error.response["Error"].get("Message", code), behaviour.headers)
    headers = _headers(found, behaviour)
    if request.method == "HEAD":
        found["Body"].close()
        headers["Content-Length"] = str(found["ContentLength"])
        return Response(status_code=206 if "ContentRange" in found else 200, headers=headers)
    encoding = _encoding(request, found, behaviour)
    if encoding:
        body = await run_in_threadpool(found["Body"].read)
        # A compressed body is another representation: S3's strong ETag becomes a weak one, as in CloudFront.
        headers |= {"Content-Encoding": encoding, "Vary": "Accept-Encoding", "ETag": f"W/{found['ETag']}"}
        return Response(await run_in_threadpool(gzip.compress, body, 6), headers=headers)
    headers["Content-Length"] = str(found["ContentLength"])
    return StreamingResponse(_body(found["Body"]), status_code=206 if "ContentRange" in found else 200, headers=headers)


async def _body(source: Any) -> AsyncIterator[bytes]:
    """Yield the object's bytes, a chunk at a time, and return its connection even if the client goes away."""
    chunks: Iterator[bytes] = source.iter_chunks(CHUNK_BYTES)
    try:
        async for chunk in iterate_in_threadpool(chunks):
            yield chunk
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(source.close)


def _headers(found: Mapping[str, Any], behaviour: Behaviour) -> dict[str, str]:
    headers = {
        "Content-Type": found.get("ContentType", "binary/octet-stream"),
        "ETag": found["ETag"],
        "Last-Modified": found["LastModified"].strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "Accept-Ranges": "bytes",
    }
    for name, header in (("ContentRange", "Content-Range"), ("CacheControl", "Cache-Control"),
                         ("ContentEncoding", "Content-Encoding")):  # fmt: skip
        if found.get(name):
            headers[header] = found[name]
    return {**headers, **behaviour.headers}


def _encoding(request: Request, found: Mapping[str, Any], behaviour: Behaviour) -> str:
    """Return "gzip" if CloudFront would compress this answer, else "". Brotli needs another library."""
    accepted = [part.split(";")[0].strip() for part in request.headers.get("accept-encoding", "").split(",")]
    suitable = (
        "gzip" in behaviour.encodings
        and "gzip" in accepted
        and "ContentRange" not in found
        and not found.get("ContentEncoding")
        and found["ContentLength"] in COMPRESSIBLE_BYTES
        and found.get("ContentType", "").startswith(COMPRESSIBLE_TYPES)
    )
    return "gzip" if suitable else ""


def _error(status: int, code: str, message: str, headers: Mapping[str, str]) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    # The headers of the policy are put on errors too, as in CloudFront.
    return Response(body, status, {**headers, "Content-Type": "application/xml"})
