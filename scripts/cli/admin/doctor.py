"""Look a server over: each finding says what is wrong and the command that answers it."""

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import click
import msgspec
from botocore.exceptions import ClientError

from cli.admin import answers, queue_checks
from cli.admin.faults import CATALOG, RECORD, explain
from cli.admin.findings import AGAIN, DEPLOY, Findings, Hint, NotSeen
from cli.admin.place import Place
from imageserver.errors import InvalidUpload
from imageserver.format import documents
from imageserver.format.documents import product_id
from imageserver.format.keys import LEASES, RECORDS, parse_key, parse_record_key
from imageserver.operations.inventory import documented_streams
from imageserver.operations.reconcile import reconcile
from imageserver.operations.runs import Run
from imageserver.site.layout import PAGE_KEY
from imageserver.storage.document_cache import DocumentCache

OLD_LEASE: Final = timedelta(hours=1)
DEPLOYED: Final = re.compile(r"(CREATE|UPDATE|IMPORT)_(COMPLETE|IN_PROGRESS|COMPLETE_CLEANUP_IN_PROGRESS)")
"""Statuses of a stack whose deployment has not failed."""
ROLLED_BACK: Final = re.compile(r"(UPDATE|IMPORT)_ROLLBACK_(COMPLETE|IN_PROGRESS|COMPLETE_CLEANUP_IN_PROGRESS)")
"""Statuses of a stack that failed to change and is, or soon will be, as it was before."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and what to do; a `hint` may well be meant so."""

    check: str
    what: str
    remedy: str
    hint: bool = False


@dataclass
class Checked:
    """What one check came to. `not_seen` says what it could not look at, which is no fault of the server."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    hints: list[Finding] = field(default_factory=list)
    not_seen: list[str] = field(default_factory=list)


def examine(place: Place) -> Iterator[Checked]:
    """Each check with its findings; one that breaks off is a finding itself, and keeps what it had found."""
    for name, check in CHECKS.items():
        checked = Checked(name)
        try:
            with place.calls.noted():
                _gather(checked, check(place))
        except click.ClickException as error:
            checked.findings.append(Finding(name, error.message, DEPLOY))
        except Exception as error:  # noqa: BLE001 - whatever came: the other checks are made all the same
            fault = explain(error)
            checked.findings.append(Finding(name, f"it could not be looked at: {fault.what}", fault.remedy))
        yield checked


def _gather(checked: Checked, findings: Findings) -> None:
    """Sort what a check yields, as it comes."""
    for found in findings:
        if isinstance(found, NotSeen):
            checked.not_seen.append(found.why)
        elif isinstance(found, Hint):
            checked.hints.append(Finding(checked.name, found.what, found.remedy, hint=True))
        else:
            checked.findings.append(Finding(checked.name, *found))


def _documents(place: Place) -> Findings:
    seen = place.store.read(documents.INDEX_KEY)
    if seen is None:
        yield f"there is no {documents.INDEX_KEY}: clients cannot list the server", "admin reconcile"
        return
    for stream, entry in documents.decode_index(seen.body).index.items():
        document = place.store.read(entry.path)
        if document is None:
            yield f"the index names {entry.path}, which is missing", CATALOG
            continue
        named = set(documents.decode_products(document.body, stream).products)
        if named != set(entry.products):
            yield f"the index and {entry.path} differ in their products", CATALOG


def _agreement(place: Place) -> Findings:
    """The bucket, the records and the catalog say the same."""
    run = Run(dry_run=True, limit=1 << 60)  # what was not compared is not agreed
    reconcile(place.store, place, place.clients, run)
    for task in run.tasks:
        yield f"{task.path}: {task.why}", "admin reconcile"
    for failure in run.failed:
        fault = explain(failure.error)
        yield f"{failure.path} could not be compared: {fault.what}", fault.remedy
    for key in run.unreadable:
        yield f"{key} cannot be read", RECORD


def _withheld(place: Place) -> Findings:
    """Images that another product lists already: whoever may publish there can take somebody's image off the list."""
    cache = DocumentCache(place.store)
    for stream in sorted(documented_streams(place.store)):
        document = cache.products(stream)
        for name, entries in sorted(document.withheld.items()):
            for entry in entries:
                if entry.fingerprint and "/" not in entry.held_by:  # with a slash it is a version of its own
                    path = f"{product_id(stream, name).path}/{entry.version}/{entry.file}"
                    holder = _holder(document, entry.held_by, entry.fingerprint)
                    what = f"{path} is not listed, for {holder} has the same image"
                    yield Hint(what, f"if that one should not have it: admin withdraw {holder}")


def _holder(document: documents.Products, name: str, fingerprint: str) -> str:
    """The path of the version that lists an image; that of the product if it lists it no longer."""
    path = product_id(document.content_id, name).path
    versions = documents.decode_versions(document.products[name]) if name in document.products else {}
    for version, entry in versions.items():
        if fingerprint.encode() in bytes(documents.encode_versions({version: entry})):
            return f"{path}/{version}"
    return path


def _orphans(place: Place) -> Findings:
    """Files that can never be listed."""
    for prefix, parse in (("images", parse_key), (RECORDS, parse_record_key)):
        for info in place.store.list(prefix):
            try:
                parse(info.key)
            except InvalidUpload as refusal:
                yield str(refusal), "move it to a key that can be listed, or delete it"


def _claims(place: Place) -> Findings:
    for info in place.store.list(LEASES):
        age = datetime.now(UTC) - datetime.fromisoformat(info.modified)
        if age > OLD_LEASE:
            yield f"{info.key} is {age} old: its worker was killed", "nothing: it has run out, and expires by itself"


def _private(place: Place) -> Findings:
    """Nobody but the edge reads the bucket, and what is deleted can be brought back."""
    try:
        status = answers.read(place.s3.get_bucket_policy_status(Bucket=place.bucket), answers.BucketPolicyStatus)
        public = status.policy_status.is_public
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchBucketPolicy", "NotImplemented", "404"):
            raise
        public = False
    if public:
        yield "the bucket's policy is public", "deploy the template again: only CloudFront reads the bucket"
    if place.endpoint is None and not _is_blocked(place):
        yield "the bucket does not block public access", DEPLOY
    versioning = answers.read(place.s3.get_bucket_versioning(Bucket=place.bucket), answers.Versioning)
    if versioning.status != "Enabled":
        yield "the bucket keeps no older generations: what is deleted is gone", DEPLOY


def _is_blocked(place: Place) -> bool:
    try:
        found = place.s3.get_public_access_block(Bucket=place.bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchPublicAccessBlockConfiguration":
            raise
        return False
    blocked = answers.read(found, answers.PublicAccessBlock).public_access_block_configuration
    return all(msgspec.structs.astuple(blocked))


def _deployment(place: Place) -> Findings:
    """What CloudFormation and CloudWatch say of a stack that was named."""
    if not place.stack:
        yield NotSeen("the deployment and its alarms: only with --stack")
        return
    found = place.session.client("cloudformation").describe_stacks(StackName=place.stack)
    (stack,) = answers.read(found, answers.Stacks).stacks
    status = stack.stack_status
    if ROLLED_BACK.fullmatch(status):
        what = f"the last deployment failed ({status}): CloudFormation returns the stack to what it was before"
        yield Hint(what, f"`aws cloudformation describe-stack-events --stack-name {place.stack}` says what failed")
    elif not DEPLOYED.fullmatch(status):
        yield f"the last deployment ended as {status}", "sam deploy again; see infra/RUNBOOK.md, A bad deployment"
    pages = place.session.client("cloudwatch").get_paginator("describe_alarms")
    for page in pages.paginate(AlarmNamePrefix=f"{place.stack}-", StateValue="ALARM"):
        for alarm in answers.read(page, answers.Alarms).metric_alarms:
            yield f"{alarm.alarm_name} is in alarm: {alarm.state_reason}", "see infra/RUNBOOK.md, An alarm"


def _served(place: Place) -> Findings:
    """What clients get over https is what the bucket holds, and an error is an error."""
    if not place.edge:
        yield NotSeen("what clients get: only with --stack, or with --url")
        return
    index = place.store.read(documents.INDEX_KEY)
    if index and (answer := _get(place, place.edge, documents.INDEX_KEY)) != (200, index.body):
        yield f"{place.edge}/{documents.INDEX_KEY} answers {answer[0]}, and not what the bucket holds", AGAIN
    missing = "streams/v1/no-such-document.json"
    if (status := _get(place, place.edge, missing)[0]) != 404:
        what = f"{place.edge}/{missing}, a missing document, answers {status}, expected 404"
        yield what, "the edge needs s3:ListBucket: deploy again"
    page = place.store.read(PAGE_KEY)
    if (answer := _get(place, place.edge, "")) != (200, page.body if page else b""):
        what = f"{place.edge}/, the page for browsers, answers {answer[0]}, and not what the bucket holds"
        yield what, "wait for the next run of maintain, which lays it out"


def _api(place: Place) -> Findings:
    if not place.api:
        yield NotSeen("the upload API: only with --stack")
        return
    status, body = _get(place, place.api, "openapi.json")
    if status != 200 or b'"openapi"' not in body:
        what = f"{place.api}/openapi.json answers {status} for its own description, expected 200 and OpenAPI"
        yield what, "look at the log of uploads"
    version = "versions/images/a/b/amd64/c/20260101"
    if (status := _get(place, place.api, version)[0]) not in (401, 403):
        yield f"{place.api}/{version} answers {status} to a stranger, expected 401 or 403", DEPLOY


def _get(place: Place, base: str, path: str) -> tuple[int, bytes]:
    """Status and body; ConnectionError names the address that does not answer, or not in HTTP."""
    trust = ssl.create_default_context(cafile=place.ca_file or None)
    address = f"{base.rstrip('/')}/{path}"
    place.calls.asks(f"GET {address}")
    try:
        with urllib.request.urlopen(address, timeout=30, context=trust) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{address} does not answer: {error!r}") from error


CHECKS: Final[dict[str, Callable[[Place], Findings]]] = {
    "deployment": _deployment,
    "wiring": queue_checks.wiring,
    "queues": queue_checks.queues,
    "documents": _documents,
    "agreement": _agreement,
    "withheld": _withheld,
    "orphans": _orphans,
    "claims": _claims,
    "private": _private,
    "edge": _served,
    "api": _api,
}
