"""The uploads function: one HTTP request in, one answer out.

API Gateway has matched the route and authenticated the caller; its `routeKey` selects the action. A routing library
would do the same again and add a third to the cold start.
"""

from imageserver.handlers import coldstart

# isort: split

import base64
import binascii
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.api import problems, promotions, status, uploads
from imageserver.api.permissions import caller_of
from imageserver.api.problems import Problem, parsed
from imageserver.api.quotas import Quotas
from imageserver.api.rates import Rates
from imageserver.api.schema import (
    BatchRequest,
    CheckRequest,
    FileRequest,
    MovedChannel,
    PromotionRequest,
    Restored,
    RestoreRequest,
    VersionStatus,
    Withdrawn,
)
from imageserver.api.text import Answer, render
from imageserver.aws.clients import s3_client, sqs_client
from imageserver.aws.queues import Notifier, QueueNotifier
from imageserver.catalog.rights import Rights
from imageserver.errors import CatalogBusy, SimplestreamsError, StorageUnavailable
from imageserver.format.keys import (
    LEASES,
    ProductId,
    Target,
    VersionId,
    parse_product,
    parse_target,
    parse_version,
    path_of,
    product_of,
)
from imageserver.format.wording import quoted
from imageserver.handlers import telemetry
from imageserver.operations import withdraw as withdrawals
from imageserver.operations.lookup import find_listed
from imageserver.operations.promotion import moved, shown_by_channels
from imageserver.operations.view_documents import configured
from imageserver.settings import Settings
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.leases import lease
from imageserver.storage.presigned import S3Uploads
from imageserver.versions.limits import Limits

LONGEST_BODY: Final = 256 * 1024
"""Characters of a request's body."""
PRODUCT_SLASHES: Final = 4
"""Slashes in the path of a product; any other path is that of a version."""
HELD_FOR_ONE: Final = 2
"""Requests of one publisher that may wait at the same time; any further one is answered at once."""

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
settings = Settings.from_environment(os.environ)
rights = Rights.parse(settings.publishers)
store = S3Uploads(s3_client(answer_s=5), settings.bucket)  # a request to the API ends after 29 s
cache = DocumentCache(store)
limits = Limits(settings.max_files, settings.max_versions, settings.max_products, settings.max_stored_bytes)
quotas = Quotas(rights, limits, time.monotonic)
rates = Rates(rights, settings.max_requests, time.monotonic, time.sleep)
coldstart.loaded()

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Request:
    """The fields of an event that are used. `path` is the part of the path after the route's own."""

    caller: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: str

    @property
    def wants_text(self) -> bool:
        """Whether the answer is to be lines of text."""
        return "text/plain" in self.headers.get("accept", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is rendered."""

    status: int
    answer: Answer | None
    headers: Mapping[str, str]


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Answer one request (API Gateway payload format 2.0)."""
    request = Request(
        caller=caller_of(event["requestContext"].get("authorizer")),
        path=(event.get("pathParameters") or {}).get("path", ""),
        query=event.get("queryStringParameters") or {},
        headers={name.lower(): value for name, value in event.get("headers", {}).items()},
        body="",
    )
    try:
        if event["routeKey"] == "GET /openapi.json":
            from imageserver.api.openapi import document  # most cold starts answer something else

            return _answer(200, msgspec.json.encode(document()).decode(), "application/json", {})
        rates.check(store, request.caller)
        reply = ROUTES[event["routeKey"]](replace(request, body=_body(event, request.headers)))
    except Problem as problem:
        logger.info("refused", route=event["routeKey"], caller=request.caller, reason=problem.detail)
        telemetry.count_refusal(problem.kind.name)
        return _problem(problem, request)
    except (CatalogBusy, StorageUnavailable) as error:
        logger.warning("busy", route=event["routeKey"], error=type(error).__name__, reason=str(error))
        return _problem(Problem(problems.BUSY, "storage is busy; send the request again in a moment"), request)
    except SimplestreamsError as error:
        logger.error("failed", route=event["routeKey"], error=type(error).__name__, reason=str(error))
        sentence = "the server cannot read or write what it keeps; its log tells the operator why"
        return _problem(Problem(problems.BROKEN, sentence), request)
    logger.info("answered", route=event["routeKey"], caller=request.caller, status=reply.status)
    return _rendered(reply, request)


def sign_one(request: Request) -> Reply:
    """POST /uploads"""
    return Reply(201, uploads.sign_one(_service(), request.caller, _read(request.body, FileRequest)), {})


def sign_batch(request: Request) -> Reply:
    """POST /uploads/batch"""
    return Reply(201, uploads.sign_batch(_service(), request.caller, _read(request.body, BatchRequest)), {})


def show(request: Request) -> Reply:
    """GET /versions/<path, fingerprint or alias>?wait=<seconds>"""
    path = _with_colons(request.path.strip("/"))
    if path.count("/") < PRODUCT_SLASHES and not re.match(r"images(-|/|$)", path):
        path = _path_of_listed(path, request.caller)
    if path.count("/") == PRODUCT_SLASHES:
        return _show_product(parsed(parse_product, path), request.caller)
    return _show_version(parsed(parse_version, path), request)


def _show_product(product: ProductId, caller: str) -> Reply:
    _check_looks(caller, product.path)
    listed = status.of_product(cache, product)
    if listed is None:
        raise Problem(problems.NOT_FOUND, f"nothing of {product.path} is listed")
    return Reply(200, listed, {"cache-control": "no-store"})


def _show_version(version: VersionId, request: Request) -> Reply:
    """Return the status of a version, held as long as the request asks; 304 if the caller has it already."""
    _check_looks(request.caller, version.path)
    known, wait = request.headers.get("if-none-match", ""), request.query.get("wait", "0")
    if not (wait.isascii() and wait.isdecimal() and len(wait) <= 3):
        raise Problem(problems.BAD_REQUEST, f"wait is {wait[:40]!r}, expected whole seconds from 0 to 25")
    found = _waited(version, known, request.caller, float(wait))
    if found is None:
        raise Problem(problems.NOT_FOUND, f"there is nothing at {version.path}, neither files nor a record")
    etag = _etag(found)
    headers = {"etag": etag, "cache-control": "no-store"}
    if again_s := status.ask_again_s(found, datetime.now(UTC)):
        headers["retry-after"] = str(again_s)
    return Reply(304, None, headers) if etag == known else Reply(200, found, headers)


def _check_looks(caller: str, path: str) -> None:
    if not rights.may_look(caller, path):
        uploads.allowed(rights, caller, path)


def _path_of_listed(name: str, caller: str) -> str:
    """Return the path of the version that this caller means by a fingerprint, the start of one, or an alias."""
    paths = sorted({image.version.path for image in find_listed(cache, name)})
    allowed = [path for path in paths if rights.may_look(caller, path)] or paths
    if not allowed:
        raise Problem(
            problems.NOT_FOUND,
            f"no listed image has the fingerprint or the alias {quoted(name, 100)}; ask by path for what is not "
            "listed: images/<os>/<release>/<arch>/<variant>/<version>",
        )
    if len(allowed) > 1:
        _check_looks(caller, allowed[0])
        sentence = f"{quoted(name, 100)} means {len(allowed)} versions, ask for one of them: {', '.join(allowed[:10])}"
        raise Problem(problems.BAD_REQUEST, sentence)
    return allowed[0]


def _waited(version: VersionId, known: str, caller: str, asked_s: float) -> VersionStatus | None:
    """Return the status once it is terminal or its ETag differs from `known`, or when the time is up.

    Each held request occupies a Lambda execution, of which the account has few: a caller that holds HELD_FOR_ONE of
    them is answered at once, with the time to ask again.
    """
    extra = promotions.shown_to(_promotions(), caller, version)

    def look() -> VersionStatus | None:
        found = status.look(store, cache, version)
        return msgspec.structs.replace(found, **extra) if found and extra else found

    def waits(found: VersionStatus) -> bool:
        return _etag(found) == known if known else not status.is_terminal(found)

    found = look()
    if not asked_s or (found and not waits(found)):
        return found
    with _held(caller) as is_held:
        if not is_held:
            return found
        began = time.monotonic()
        return status.wait(
            look,
            waits,
            lambda: time.monotonic() - began,
            lambda found: min(asked_s, status.hold_s(found, datetime.now(UTC))),
            time.sleep,
        )


@contextmanager
def _held(caller: str) -> Iterator[bool]:
    """Take one of the publisher's slots for held requests. Yield False if none is left.

    A slot is a lease in the bucket, because runs do not know of each other. The slot of a run that died is free again
    after a minute.
    """
    publisher = rights.publisher(caller)  # each session of a role is another caller
    name, token = hashlib.sha256(publisher.encode()).hexdigest()[:16], uuid4().hex
    for slot in range(HELD_FOR_ONE):
        key = f"{LEASES}waits/{name}-{slot}.json"
        with lease(store, key, token, lambda: datetime.now(UTC), 2 * status.LONGEST_HOLD_S, time.sleep) as mine:
            if mine:
                yield True
                return
    yield False


def withdraw(request: Request) -> Reply:
    """DELETE /<path>"""
    target = _target(request)
    path, product = path_of(target), product_of(target)
    views = configured(store).values() if settings.views else ()
    before = shown_by_channels(store, views, product)
    done = withdrawals.withdraw(store, target, datetime.now(UTC), settings.grace_hours, time.sleep)
    if not (done.versions or done.files):
        raise _nothing_done(done) or Problem(problems.NOT_FOUND, f"there is nothing at {path} to withdraw")
    after = shown_by_channels(store, views, product) if before else {}
    channels = [
        MovedChannel(channel=one.channel, product=product.path, before=one.before, after=one.after)
        for one in moved(product, before, after)
    ]
    for channel in channels:
        logger.info("channel moved", **msgspec.structs.asdict(channel), caller=request.caller)
    answer = Withdrawn(
        path=path,
        versions=done.versions,
        files=done.files,
        delete_after=done.delete_after,
        channels=channels or msgspec.UNSET,
    )
    return Reply(202, answer, {})


def restore(request: Request) -> Reply:
    """PATCH /versions/<path>"""
    _read(request.body, RestoreRequest)
    target = _target(request)
    path = path_of(target)
    done = withdrawals.restore(store, target, time.sleep)
    if not (done.versions or done.files):
        gone = Problem(problems.NOT_FOUND, f"there is nothing at {path} to restore; its files may be deleted already")
        raise _nothing_done(done) or gone
    return Reply(200, Restored(path=path, versions=done.versions, files=done.files), {})


def promote(request: Request) -> Reply:
    """POST /promotions"""
    return Reply(200, promotions.promote(_promotions(), request.caller, _read(request.body, PromotionRequest)), {})


def post_check(request: Request) -> Reply:
    """POST /checks"""
    return Reply(200, promotions.post_check(_promotions(), request.caller, _read(request.body, CheckRequest)), {})


def _nothing_done(done: withdrawals.Changed) -> Problem | None:
    """Return why an existing target was neither withdrawn nor restored; None if it does not exist."""
    if done.deleting:
        path, withdrawal = min(done.deleting.items())
        sentence = (
            f"{path} was withdrawn on {withdrawal.since} and its files are being deleted, which cannot be stopped; the "
            "operator can bring them back from the bucket once they are gone (admin undelete)"
        )
        return Problem(problems.WITHDRAWN, sentence)
    if done.held:
        path, withdrawal = min(done.held.items())
        sentence = (
            f"{path} is withdrawn as a whole, until {withdrawal.delete_after}, and stays so; restore the version, and "
            "withdraw again the files that you do not want"
        )
        return Problem(problems.WITHDRAWN, sentence)
    return None


ROUTES: Final[dict[str, Callable[[Request], Reply]]] = {
    "POST /uploads": sign_one,
    "POST /uploads/batch": sign_batch,
    "GET /versions/{path+}": show,
    "PATCH /versions/{path+}": restore,
    "DELETE /{path+}": withdraw,
    "POST /promotions": promote,
    "POST /checks": post_check,
}


def _with_colons(path: str) -> str:
    """Read `~` as `:` in the time of a version: some versions of curl do not sign `:` as AWS does."""
    return re.sub(r"(\d{8}_\d\d)~(\d\d)", r"\1:\2", path)


def _service() -> uploads.UploadService:
    return uploads.UploadService(
        store,
        rights,
        settings.max_upload_bytes,
        settings.allow_overwrites,
        datetime.now(UTC),
        time.sleep,
        limits,
        quotas,
    )


def _promotions() -> promotions.PromotionService:
    return promotions.PromotionService(store, rights, _notifier, settings.views, datetime.now(UTC), time.sleep)


@functools.cache
def _notifier() -> Notifier:
    """Return the notifier, made on the first promotion: few cold starts need it."""
    return QueueNotifier(sqs_client(), "", settings.changes_queue_url)


def _target(request: Request) -> Target:
    """Return what a request withdraws or restores. Raise Problem unless the caller may, and this server allows it."""
    target = parsed(parse_target, _with_colons(request.path.rstrip("/")))
    uploads.allowed(rights, request.caller, path_of(target))
    if not settings.allow_deletes:
        sentence = "withdrawals are off on this server; the operator turns them on with the parameter AllowDeletes"
        raise Problem(problems.FORBIDDEN, sentence)
    return target


def _body(event: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    body: str = event.get("body") or ""
    if headers.get("content-type", "").startswith("multipart/form-data"):  # curl -F, as older image servers took files
        raise Problem(
            problems.BAD_REQUEST,
            "files are not posted as a form (curl -F): `scripts/upload --to <os>/<release>/<arch>/<variant> FILE…` "
            "sends them; with curl alone, ask here for a URL in JSON and send the file there with curl -T, see "
            "/openapi.json",
        )
    if len(body) > LONGEST_BODY:
        raise Problem(
            problems.TOO_LARGE,
            f"the request has {len(body):,} characters, expected at most {LONGEST_BODY:,}; "
            "a file's bytes go to the URL in the answer, not here",
        )
    if not event.get("isBase64Encoded"):
        return body
    try:
        return base64.b64decode(body, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Problem(problems.BAD_REQUEST, "the body is not UTF-8 text, expected JSON; see /openapi.json") from error


def _read(body: str, shape: type[_R]) -> _R:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        reason = str(error) if body else "it is empty"
        raise Problem(
            problems.BAD_REQUEST, f"the body of the request is not what is expected: {reason}; see /openapi.json"
        ) from error


def _etag(found: VersionStatus) -> str:
    return f'"{hashlib.sha256(msgspec.json.encode(found)).hexdigest()[:32]}"'


def _rendered(reply: Reply, request: Request) -> dict[str, Any]:
    if reply.answer is None:
        return {"statusCode": reply.status, "headers": dict(reply.headers)}
    text = request.wants_text
    body = render(reply.answer) if text else msgspec.json.encode(reply.answer).decode()
    return _answer(reply.status, body, "text/plain; charset=utf-8" if text else "application/json", reply.headers)


def _problem(problem: Problem, request: Request) -> dict[str, Any]:
    wait_s = problem.extra.get("retry_after", 1 if problem.kind is problems.BUSY else None)
    headers = {} if wait_s is None else {"retry-after": str(wait_s)}
    if request.wants_text:
        return _answer(problem.kind.status, problem.text(), "text/plain; charset=utf-8", headers)
    body = msgspec.json.encode(problem.document()).decode()
    return _answer(problem.kind.status, body, "application/problem+json", headers)


def _answer(code: int, body: str, content_type: str, headers: Mapping[str, str]) -> dict[str, Any]:
    about = {"content-type": content_type, "x-content-type-options": "nosniff", "cache-control": "no-store"}
    return {"statusCode": code, "headers": {**about, **headers}, "body": body}
