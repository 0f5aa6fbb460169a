"""The parts of S3 and SQS that moto lacks, as a WSGI middleware in front of it. Each rule says why it is needed.

- Callers: moto accepts anonymous writes and any presigned URL. Here unsigned requests are refused and presigned ones
  verified (presigned.py). Requests signed by header, or with credentials other than the stack's own, are accepted
  unverified: the port is on loopback.
- Bodies: moto loses a body with a form content type (`curl --data-binary`), stores a truncated one, and does not
  compare checksums. Here the body is read and checked to its end before moto sees the request.
- Atomicity: moto's check-then-write has no lock, its listing fails when a key arrives meanwhile, and deleting one
  queue message can lose another that is being sent. Here one request at a time is inside moto.
- Multipart uploads: moto fails on completing one that is gone, joins the named parts without comparing the declared
  size (x-amz-mp-object-size), and ignores If-Match.
- Copies: moto ignores If-None-Match.
- Large reads: moto copies the whole object for each ranged read. Here the range is read from its file.
- Events: deleting in a versioned bucket is silent in moto; other events lack fields of the real ones.
"""

import base64
import hashlib
import io
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import parse_qs, quote_plus, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from botocore.httpchecksum import Crc32Checksum
from moto.core.utils import iso_8601_datetime_with_milliseconds
from moto.s3 import notifications
from moto.s3.models import s3_backends
from moto.sqs.models import sqs_backends
from werkzeug.datastructures import EnvironHeaders, Headers
from werkzeug.test import run_wsgi_app

from local_stack.browsers import stranger
from local_stack.credentials import ACCESS_KEY
from local_stack.presigned import S3Refusal, verify
from local_stack.template import ACCOUNT_ID

CHUNK_BYTES: Final = 1024 * 1024
LARGE_BYTES: Final = 4 * CHUNK_BYTES
"""Objects above this are streamed from moto's file; below it, moto answers itself."""
IN_MEMORY_BYTES: Final = 8 * CHUNK_BYTES
"""Bodies above this wait in a temporary file while they arrive."""
LARGEST_PUT_BYTES: Final = 5 * 1024**3
PRECONDITION_FAILED: Final = "At least one of the pre-conditions you specified did not hold"

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class S3Rules:
    """The middleware. `tell` is called with {"operation", "bucket", "key", "size_bytes"} after each change."""

    def __init__(self, moto: Application, secrets: Mapping[str, str], tell: Callable[[dict[str, Any]], None]) -> None:
        self._moto = moto
        self._secrets = secrets
        self._tell = tell
        self._inside_moto = threading.Lock()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            self._check_caller(environ)
            if environ.get("HTTP_X_AMZ_TARGET", "").startswith("AmazonSQS."):
                return self._sqs(environ, start_response)
            if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
                return self._change(environ, start_response)
            return self._read(environ, start_response)
        except S3Refusal as refusal:
            elements = {"Code": refusal.code, "Message": str(refusal), **refusal.elements,
                        "Resource": environ.get("PATH_INFO", ""), "RequestId": "LOCAL"}  # fmt: skip
            inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in elements.items())
            body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()
            # Closed, since the client may still be sending the refused body.
            headers = {"Content-Type": "application/xml", "Content-Length": str(len(body)), "Connection": "close"}
            start_response(f"{refusal.status} {refusal.code}", [*headers.items()])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _check_caller(self, environ: Environ) -> None:
        if reason := stranger(environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN", "")):
            raise S3Refusal(403, "AccessDenied", f"Access Denied: {reason}")
        if environ.get("PATH_INFO", "").startswith("/moto-api"):
            raise S3Refusal(403, "AccessDenied", "Access Denied: a request cannot reset the local stack.")
        if environ.get("HTTP_AUTHORIZATION", "").startswith("AWS4-HMAC-SHA256 "):
            return
        query = environ.get("QUERY_STRING", "")
        if "X-Amz-" not in query and "AWSAccessKeyId=" not in query:
            raise S3Refusal(403, "AccessDenied", "Access Denied: the request is not signed. Ask for a presigned URL.")
        given = parse_qs(query, keep_blank_values=True)
        credential = given.get("X-Amz-Credential", [f"{ACCESS_KEY}/"])[0].partition("/")[0]
        if given.get("AWSAccessKeyId", [credential])[0] not in self._secrets:
            return  # signed by a program with other credentials, as by header: there is no key to verify it with
        url = f"http://{environ['HTTP_HOST']}{environ['REQUEST_URI']}"
        headers = {name.lower(): value for name, value in EnvironHeaders(environ)}
        verify(environ["REQUEST_METHOD"], url, headers, self._secrets, datetime.now(UTC))

    # ── writes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _change(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "DELETE":
            _take_body(environ)
        with self._inside_moto:
            _check_upload(environ)
            copies_to_new = "HTTP_X_AMZ_COPY_SOURCE" in environ and environ.get("HTTP_IF_NONE_MATCH") == "*"
            if copies_to_new and s3_backends[ACCOUNT_ID]["aws"].get_object(*bucket_and_key(environ)) is not None:
                raise S3Refusal(412, "PreconditionFailed", PRECONDITION_FAILED)
            answer, status, headers = run_wsgi_app(self._moto, environ, buffered=True)
            body = b"".join(answer)
            if status.startswith("2"):
                self._announce(environ, headers, body)
        start_response(status, headers.to_wsgi_list())
        return [body]

    def _announce(self, environ: Environ, headers: Headers, body: bytes) -> None:
        """Send the events that moto does not send, and notify the watcher."""
        bucket, key = bucket_and_key(environ)
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        method = environ["REQUEST_METHOD"]
        if method == "POST" and "delete" in query:
            for deleted in ElementTree.fromstring(body).iter():  # noqa: S314  (moto's own answer)
                fields = {child.tag.rpartition("}")[2]: child.text or "" for child in deleted}
                is_new = fields.get("DeleteMarker") == "true" and not fields.get("VersionId")
                if deleted.tag.rpartition("}")[2] == "Deleted" and is_new:
                    self._marked(bucket, fields["Key"], fields.get("DeleteMarkerVersionId", ""))
        elif method == "DELETE" and key and "uploadId" not in query:
            if headers.get("x-amz-delete-marker") == "true" and "versionId" not in query:
                self._marked(bucket, key, headers.get("x-amz-version-id", ""))
        elif key and ((method == "PUT" and not query.keys() & {"partNumber", "tagging"}) or "uploadId" in query):
            found = s3_backends[ACCOUNT_ID]["aws"].get_object(bucket, key)
            if found:
                self._tell({"operation": "stored", "bucket": bucket, "key": key, "size_bytes": found.size})

    def _marked(self, bucket: str, key: str, version: str) -> None:
        marker = SimpleNamespace(name=key, etag='"d41d8cd98f00b204e9800998ecf8427e"', version_id=version, size=None)
        notifications.send_event(
            ACCOUNT_ID,
            notifications.S3NotificationEvent.OBJECT_REMOVED_DELETE_MARKER_CREATED_EVENT,
            s3_backends[ACCOUNT_ID]["aws"].get_bucket(bucket),
            marker,
        )
        self._tell({"operation": "removed", "bucket": bucket, "key": key, "size_bytes": 0})

    # ── reads ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Let moto answer, except for a plain GET of the newest generation of a large object."""
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        plain = environ["REQUEST_METHOD"] == "GET" and all(name.startswith(("X-Amz-", "x-id")) for name in query)
        bucket, key = bucket_and_key(environ)
        with self._inside_moto:
            buckets = s3_backends[ACCOUNT_ID]["aws"].buckets
            found = buckets[bucket].keys.get(key) if plain and key and bucket in buckets else None
            if getattr(found, "contentsize", 0) > LARGE_BYTES:
                # HEAD answers conditions and ranges exactly as GET would, without copying the object.
                _, status, headers = run_wsgi_app(self._moto, {**environ, "REQUEST_METHOD": "HEAD"}, buffered=True)
                if status[:3] in ("200", "206"):
                    start_response(status, headers.to_wsgi_list())
                    return _stream(found, headers)
            answer, status, headers = run_wsgi_app(self._moto, environ, buffered=True)
        start_response(status, headers.to_wsgi_list())
        return answer

    # ── queues ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _sqs(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Let one call in at a time; a long poll waits here and not inside moto, where it would block all others."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        deadline = time.monotonic()
        if environ["HTTP_X_AMZ_TARGET"].endswith(".ReceiveMessage"):
            request = json.loads(body)
            deadline += float(request.get("WaitTimeSeconds", 0))
            body = json.dumps({**request, "WaitTimeSeconds": 0}).encode()
        while True:
            asked = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
            with self._inside_moto:
                parts, status, headers = run_wsgi_app(self._moto, asked, buffered=True)
            answer = b"".join(parts)
            if b'"Messages"' in answer or not status.startswith("200") or time.monotonic() >= deadline:
                start_response(status, headers.to_wsgi_list())
                return [answer]
            time.sleep(0.05)
            while _holds_nothing(body) and time.monotonic() < deadline:
                time.sleep(0.05)


def install_real_events() -> None:
    """Make moto's events look like S3's own: sequencer, version, and an unescaped `/`."""
    sequence = count(time.time_ns())

    def real_event(event_name: str, bucket: Any, key: Any, notification_id: str) -> dict[str, Any]:
        about = {
            # moto encodes "/" too, which real events do not.
            "key": quote_plus(key.name, safe="/"),
            "size": key.size,
            "eTag": key.etag.strip('"'),
            "versionId": key.version_id,
            "sequencer": f"{next(sequence):018X}",
        }
        record = {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": bucket.region_name,
            "eventTime": iso_8601_datetime_with_milliseconds(),
            "eventName": event_name.removeprefix("s3:"),
            "userIdentity": {"principalId": "AWS:LOCAL"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": notification_id,
                "bucket": {"name": bucket.name, "arn": bucket.arn, "ownerIdentity": {"principalId": "LOCAL"}},
                "object": {name: value for name, value in about.items() if value is not None},
            },
        }
        return {"Records": [record]}

    notifications._get_s3_event = real_event


def bucket_and_key(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return the bucket and key of a path-style request; empty if there is none."""
    path = environ["REQUEST_URI"].split("?", 1)[0]
    bucket, _, key = path.lstrip("/").partition("/")
    return unquote(bucket), unquote(key)


def _take_body(environ: Environ) -> None:
    """Read the body to its declared end, check it, and put it where moto reads it; S3Refusal if it is not whole."""
    if not environ.get("CONTENT_LENGTH"):
        raise S3Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
    length = left = int(environ["CONTENT_LENGTH"])
    if length > LARGEST_PUT_BYTES:
        raise S3Refusal(
            400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size",
            ProposedSize=str(length), MaxSizeAllowed=str(LARGEST_PUT_BYTES),
        )  # fmt: skip
    body = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115  (moto reads it after we return)
    checks = _Checks(environ)
    while left:
        try:
            chunk = environ["wsgi.input"].read(min(left, CHUNK_BYTES))
        except OSError:
            chunk = b""  # a broken connection is the same as an early end
        if not chunk:
            raise S3Refusal(
                400, "IncompleteBody",
                f"You did not provide the number of bytes specified by the Content-Length HTTP header: "
                f"got {length - left} of {length}",
            )  # fmt: skip
        left -= len(chunk)
        checks.update(chunk)
        body.write(chunk)
    if not environ.get("HTTP_X_AMZ_CONTENT_SHA256", "").startswith("STREAMING-"):
        checks.compare()  # a chunked body holds signatures between its parts; its trailer is not checked
    body.seek(0)
    environ["wsgi.input"] = body
    environ["wsgi.input_terminated"] = True  # so that it is read at once and not in small pieces
    if environ.get("CONTENT_TYPE", "").startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        # The web framework below moto would parse the body as a form and leave nothing to store; S3 stores it.
        environ["CONTENT_TYPE"] = "application/octet-stream"


def _check_upload(environ: Environ) -> None:
    """Raise S3Refusal where S3, but not moto, would refuse a part of a multipart upload or its completion."""
    bucket, key = bucket_and_key(environ)
    query = parse_qs(environ.get("QUERY_STRING", ""))
    if not key or "uploadId" not in query or environ["REQUEST_METHOD"] == "DELETE":
        return
    held = s3_backends[ACCOUNT_ID]["aws"].get_bucket(bucket)
    upload = held.multiparts.get(query["uploadId"][0])
    if upload is None or upload.key_name != key:
        raise S3Refusal(404, "NoSuchUpload", "The specified multipart upload does not exist.")
    if environ["REQUEST_METHOD"] != "POST":
        return
    present = held.keys.get(key)
    if "HTTP_IF_MATCH" in environ and (present is None or present.etag != environ["HTTP_IF_MATCH"]):
        raise S3Refusal(412, "PreconditionFailed", PRECONDITION_FAILED)
    declared = environ.get("HTTP_X_AMZ_MP_OBJECT_SIZE")
    if declared is not None:
        body = environ["wsgi.input"].read()
        environ["wsgi.input"].seek(0)
        named = [int(number) for number in re.findall(rb"<PartNumber>\s*(\d+)\s*</PartNumber>", body)]
        found = sum(upload.parts[number].contentsize for number in named if number in upload.parts)
        if str(found) != declared and all(number in upload.parts for number in named):
            raise S3Refusal(
                400, "InvalidRequest",
                f"The provided 'x-amz-mp-object-size' header value {declared} does not match what was computed: "
                f"{found}",
            )  # fmt: skip


class _Checks:
    """The digests that a request declares for its body, compared as S3 does."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._declared = {name: environ[name] for name in _DIGESTS if name in environ}
        self._digests = {name: _DIGESTS[name]() for name in self._declared}

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        for digest in self._digests.values():
            digest.update(chunk)

    def compare(self) -> None:
        """Raise S3Refusal if the body differs from the declared digests."""
        for name, declared in self._declared.items():
            header = name.removeprefix("HTTP_").replace("_", "-").lower()
            found = self._digests[name].digest()
            try:
                expected = base64.b64decode(declared, validate=True)
            except ValueError:
                expected = b""  # as a digest of another length
            if len(expected) != len(found):
                raise S3Refusal(400, "InvalidRequest", f"Value for {header} header is invalid.")
            if expected != found:
                raise S3Refusal(
                    400,
                    "BadDigest",
                    f"The {header} you specified did not match the calculated checksum: got "
                    f"{base64.b64encode(found).decode()}, expected {declared}.",
                )


_DIGESTS: Final[Mapping[str, Callable[[], Any]]] = {
    "HTTP_CONTENT_MD5": lambda: hashlib.md5(usedforsecurity=False),
    "HTTP_X_AMZ_CHECKSUM_SHA256": hashlib.sha256,
    "HTTP_X_AMZ_CHECKSUM_CRC32": Crc32Checksum,
}


def _stream(found: Any, headers: Headers) -> Iterator[bytes]:
    """Yield the bytes that `headers` promise, from moto's file of the object, a chunk at a time."""
    start = int(headers["content-range"].split()[1].split("-")[0]) if "content-range" in headers else 0
    left = int(headers["content-length"])
    while left:
        with found.lock:  # the file's position is shared with other readers
            found._value_buffer.seek(start)
            chunk = found._value_buffer.read(min(left, CHUNK_BYTES))
        start += len(chunk)
        left -= len(chunk)
        yield chunk


def _holds_nothing(body: bytes) -> bool:
    """Return whether the queue of a request has no message at all. Asking moto costs a hundred times as much."""
    name = str(json.loads(body)["QueueUrl"]).rpartition("/")[2]
    queues = [backend.queues[name] for backend in sqs_backends[ACCOUNT_ID].values() if name in backend.queues]
    return bool(queues) and not any(queue._messages for queue in queues)
