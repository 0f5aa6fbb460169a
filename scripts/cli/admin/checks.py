"""What the doctor checks. Each check yields what is wrong and the command that repairs it."""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError

from cli.admin import aws_api
from cli.admin.deployment import Deployment, Queue
from cli.admin.errors import CATALOG, RECORD, explain
from cli.admin.inventory import read_records
from imageserver.errors import InvalidUpload
from imageserver.format import documents
from imageserver.format.documents import product_id
from imageserver.format.keys import LEASES, RECORDS, REQUEST_COUNTS, parse_key, parse_record_key
from imageserver.format.wording import counted
from imageserver.inspection.overrides import LIKE_A_FINGERPRINT
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run
from imageserver.site.layout import PAGE_KEY
from imageserver.storage.document_cache import DocumentCache, documented_streams
from imageserver.views import tokens

AGAIN: Final = "look again in a minute"
DEPLOY: Final = "deploy the template again"
OLD_LEASE: Final = timedelta(hours=1)
DEPLOYED: Final = re.compile(r"(CREATE|UPDATE|IMPORT)_(COMPLETE|IN_PROGRESS|COMPLETE_CLEANUP_IN_PROGRESS)")
"""Statuses of a stack whose deployment has not failed."""
ROLLED_BACK: Final = re.compile(r"(UPDATE|IMPORT)_ROLLBACK_(COMPLETE|IN_PROGRESS|COMPLETE_CLEANUP_IN_PROGRESS)")
"""Statuses of a stack whose deployment failed and which is, or soon will be, back in its previous state."""
EVENTS: Final = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
MANY: Final = 1000
OLD_S: Final = {"images": 1800, RECORDS: 600}
"""The thresholds of the alarms ArrivalsAge and ChangesAge."""
STUCK: Final = "look at the functions' errors and throttles"


@dataclass(frozen=True)
class Unchecked:
    """A part of a check that was not possible, and why. It is neither a fault of the server nor "ok"."""

    why: str


@dataclass(frozen=True)
class Hint:
    """A finding that may be intentional, and what to do if it is not."""

    what: str
    remedy: str


Findings = Iterator[tuple[str, str] | Unchecked | Hint]
"""Faults with their remedies, parts that could not be checked, and hints."""


def check_wiring(deployment: Deployment) -> Findings:
    """Check that the bucket sends every event to both queues, and that their policies allow it."""
    for prefix in OLD_S:
        found = deployment.wiring.get(prefix)
        if found is None:
            yield f"the bucket notifies no queue of {prefix}*: uploads stay unseen", DEPLOY
            continue
        if found.events != EVENTS:
            yield f"the bucket sends only {', '.join(found.events)} for {prefix}*", DEPLOY
        if deployment.endpoint is None and not _lets_in(deployment.queue(prefix), deployment.bucket):
            yield f"the policy of the queue of {prefix}* does not let S3 send to it: uploads stay unseen", DEPLOY


def _lets_in(queue: Queue, bucket: str) -> bool:
    """Return whether the queue's policy allows S3 to send for this bucket."""
    for statement in json.loads(queue.attributes.get("Policy") or "{}").get("Statement", []):
        principal = statement.get("Principal", {})
        services = _several(principal.get("Service", [])) if isinstance(principal, dict) else []
        actions = {action.lower() for action in _several(statement.get("Action", []))}
        sources = [
            arn
            for operator in statement.get("Condition", {}).values()
            for name, value in operator.items()
            if name.lower() == "aws:sourcearn"
            for arn in _several(value)
        ]
        if (
            statement.get("Effect") == "Allow"
            and "s3.amazonaws.com" in services
            and actions & {"sqs:sendmessage", "sqs:*", "*"}
            and (not sources or any(arn.endswith(f":{bucket}") for arn in sources))
        ):
            return True
    return False


def _several(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def check_queues(deployment: Deployment) -> Findings:
    """Check that no message waits too long, and that there are no dead letters."""
    for prefix in (prefix for prefix in OLD_S if prefix in deployment.wiring):
        queue = deployment.queue(prefix)
        waiting = int(queue.attributes["ApproximateNumberOfMessages"])
        if waiting > MANY:
            yield f"{waiting:,} messages of {prefix}* are waiting", STUCK
        if deployment.stack and (age := _age_s(deployment, queue)) > OLD_S[prefix]:
            yield f"the oldest message of {prefix}* has waited for {age / 60:.0f} minutes", STUCK
        if not queue.dead_letters:
            yield f"the queue of {prefix}* has no dead-letter queue", DEPLOY
        elif dead := _count(deployment, queue.dead_letters):
            what = f"{counted(dead, 'dead letter')} of {prefix}*"
            yield what, "admin redrive shows why; admin redrive --yes sends them back"
    if not deployment.stack:
        yield Unchecked("how long the oldest message waits: only with --stack")
    if deployment.maintain_dead_letters:
        if dead := _count(deployment, deployment.maintain_dead_letters):
            yield f"{counted(dead, 'dead letter')} of maintain", "admin redrive maintain shows why, and what to do"
    elif deployment.stack or deployment.endpoint:
        yield "maintain has no dead-letter queue: a failed schedule stays unseen", DEPLOY
    else:
        yield Unchecked("the dead letters of maintain: their queue is not known by its name, only with --stack")


def _count(deployment: Deployment, url: str) -> int:
    return int(deployment.attributes(url)["ApproximateNumberOfMessages"])


def _age_s(deployment: Deployment, queue: Queue) -> float:
    """Return the age of the oldest message in seconds; 0 if CloudWatch has no figure, as for an empty queue."""
    now = datetime.now(UTC)
    found = deployment.session.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SQS",
        MetricName="ApproximateAgeOfOldestMessage",
        Dimensions=[{"Name": "QueueName", "Value": queue.url.rpartition("/")[2]}],
        StartTime=now - timedelta(minutes=15),
        EndTime=now,
        Period=60,
        Statistics=["Maximum"],
    )
    points = aws_api.read(found, aws_api.Statistics).datapoints
    newest = max(points, key=lambda point: point.timestamp, default=None)
    return newest.maximum if newest else 0.0


def check_documents(deployment: Deployment) -> Findings:
    """Check that the index and the products documents that it names are there and agree."""
    seen = deployment.store.read(documents.INDEX_KEY)
    if seen is None:
        yield f"there is no {documents.INDEX_KEY}: clients cannot list the server", "admin reconcile"
        return
    for stream, entry in documents.decode_index(seen.body).index.items():
        document = deployment.store.read(entry.path)
        if document is None:
            yield f"the index names {entry.path}, which is missing", CATALOG
            continue
        named = set(documents.decode_products(document.body, stream).products)
        if named != set(entry.products):
            yield f"the index and {entry.path} differ in their products", CATALOG


def check_agreement(deployment: Deployment) -> Findings:
    """Check that the bucket, the records and the catalog agree."""
    run = Run(dry_run=True, limit=1 << 60)  # without a limit: what was not compared may differ
    services = ReconcileServices(
        deployment.store, deployment, deployment.clients, deployment.rights, views=deployment.views
    )
    reconcile(services, run)
    for task in run.tasks:
        yield f"{task.path}: {task.why}", "admin reconcile"
    for failure in run.failed:
        fault = explain(failure.error)
        yield f"{failure.path} could not be compared: {fault.what}", fault.remedy
    for key in run.unreadable:
        yield f"{key} cannot be read", RECORD


def check_views(deployment: Deployment) -> Findings:
    """Check that the edge's entries for views and tokens match their documents."""
    if deployment.view_store is None:
        return
    wanted = tokens.entries(deployment.views().values(), datetime.now(UTC))
    put, delete = tokens.differences(deployment.view_store.read(), wanted)
    for key in sorted({*put, *delete}):
        yield f"the edge's entry {key} differs from the documents of the views", "admin view sync"


def check_withheld(deployment: Deployment) -> Findings:
    """Find names and images that another product has, or that the rights refuse. Each may be an attempted takeover."""
    cache = DocumentCache(deployment.store)
    for stream in sorted(documented_streams(deployment.store)):
        document = cache.products(stream)
        for name, entries in sorted(document.withheld.items()):
            for entry in entries:
                if entry.alias:
                    asks = f"{product_id(stream, name).path} asks for an alias: {entry.reason}"
                    yield Hint(asks, "if its publisher should not ask, have it remove the alias from metadata.json")
                elif entry.fingerprint and "/" not in entry.held_by:  # with a slash it is a version of the same product
                    path = f"{product_id(stream, name).path}/{entry.version}/{entry.file}"
                    elsewhere = documents.holder_elsewhere(entry.held_by)
                    holder = _holder(
                        cache.products(elsewhere.stream) if elsewhere else document,
                        elsewhere.name if elsewhere else entry.held_by,
                        entry.fingerprint,
                    )
                    what = f"{path} is not listed, because {holder} has the same image"
                    yield Hint(what, f"if that one should not have it: admin withdraw {holder}")
    # An alias that looks like an image's fingerprint is never listed, so only the records have it.
    for found in read_records(deployment.store):
        for file, facts in found.record.files.items() if found.record else ():
            hints = [sentence for sentence in facts.warnings if LIKE_A_FINGERPRINT in sentence]
            if hints:
                what = f"{found.version.path}/{file} asks for a fingerprint: {hints[0]}"
                yield Hint(what, "if its publisher should not ask, have it remove the alias")


def _holder(document: documents.Products, name: str, fingerprint: str) -> str:
    """Return the path of the version that lists an image, or of its product if no version lists it now."""
    path = product_id(document.content_id, name).path
    for version, entry in documents.versions_of(document, name).items():
        if fingerprint in documents.images(entry):
            return f"{path}/{version}"
    return path


def check_orphans(deployment: Deployment) -> Findings:
    """Find files that can never be listed."""
    for prefix, parse in (("images", parse_key), (RECORDS, parse_record_key)):
        for info in deployment.store.list(prefix):
            try:
                parse(info.key)
            except InvalidUpload as refusal:
                yield str(refusal), "move it to a key that can be listed, or delete it"


def check_leases(deployment: Deployment) -> Findings:
    """Find leases that a killed worker left behind."""
    for info in deployment.store.list(LEASES):
        age = datetime.now(UTC) - datetime.fromisoformat(info.modified)
        if age > OLD_LEASE and not info.key.startswith(REQUEST_COUNTS):
            yield f"{info.key} is {age} old: its worker was killed", "nothing: it has run out, and expires by itself"


def check_private(deployment: Deployment) -> Findings:
    """Check that only CloudFront can read the bucket, and that deleted files can be brought back."""
    try:
        status = aws_api.read(
            deployment.s3.get_bucket_policy_status(Bucket=deployment.bucket), aws_api.BucketPolicyStatus
        )
        public = status.policy_status.is_public
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchBucketPolicy", "NotImplemented", "404"):
            raise
        public = False
    if public:
        yield "the bucket's policy is public", "deploy the template again: only CloudFront reads the bucket"
    if deployment.endpoint is None and not _is_blocked(deployment):
        yield "the bucket does not block public access", DEPLOY
    versioning = aws_api.read(deployment.s3.get_bucket_versioning(Bucket=deployment.bucket), aws_api.Versioning)
    if versioning.status != "Enabled":
        yield "the bucket keeps no older generations: what is deleted is gone", DEPLOY


def _is_blocked(deployment: Deployment) -> bool:
    try:
        found = deployment.s3.get_public_access_block(Bucket=deployment.bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchPublicAccessBlockConfiguration":
            raise
        return False
    blocked = aws_api.read(found, aws_api.PublicAccessBlock).public_access_block_configuration
    return all(msgspec.structs.astuple(blocked))


def check_deployment(deployment: Deployment) -> Findings:
    """Check the stack in CloudFormation and its alarms in CloudWatch."""
    if not deployment.stack:
        yield Unchecked("the deployment and its alarms: only with --stack")
        return
    found = deployment.session.client("cloudformation").describe_stacks(StackName=deployment.stack)
    (stack,) = aws_api.read(found, aws_api.Stacks).stacks
    status = stack.stack_status
    if ROLLED_BACK.fullmatch(status):
        what = f"the last deployment failed ({status}): CloudFormation returns the stack to what it was before"
        yield Hint(what, f"`aws cloudformation describe-stack-events --stack-name {deployment.stack}` says what failed")
    elif not DEPLOYED.fullmatch(status):
        yield f"the last deployment ended as {status}", "sam deploy again; see infra/RUNBOOK.md, A bad deployment"
    pages = deployment.session.client("cloudwatch").get_paginator("describe_alarms")
    for page in pages.paginate(AlarmNamePrefix=f"{deployment.stack}-", StateValue="ALARM"):
        for alarm in aws_api.read(page, aws_api.Alarms).metric_alarms:
            yield f"{alarm.alarm_name} is in alarm: {alarm.state_reason}", "see infra/RUNBOOK.md, An alarm"


def check_edge(deployment: Deployment) -> Findings:
    """Check that clients get what the bucket holds, and that a missing document is a 404."""
    if not deployment.edge:
        yield Unchecked("what clients get: only with --stack, or with --url")
        return
    index = deployment.store.read(documents.INDEX_KEY)
    if index and (answer := _get(deployment, deployment.edge, documents.INDEX_KEY)) != (200, index.body):
        yield f"{deployment.edge}/{documents.INDEX_KEY} answers {answer[0]}, and not what the bucket holds", AGAIN
    missing = "streams/v1/no-such-document.json"
    if (status := _get(deployment, deployment.edge, missing)[0]) != 404:
        what = f"{deployment.edge}/{missing}, a missing document, answers {status}, expected 404"
        yield what, "the edge needs s3:ListBucket: deploy again"
    page = deployment.store.read(PAGE_KEY)
    if (answer := _get(deployment, deployment.edge, "")) != (200, page.body if page else b""):
        what = f"{deployment.edge}/, the page for browsers, answers {answer[0]}, and not what the bucket holds"
        yield what, "wait for the next run of maintain, which lays it out"


def check_api(deployment: Deployment) -> Findings:
    """Check that the upload API describes itself, and lets no stranger in."""
    if not deployment.api:
        yield Unchecked("the upload API: only with --stack")
        return
    status, body = _get(deployment, deployment.api, "openapi.json")
    if status != 200 or b'"openapi"' not in body:
        what = f"{deployment.api}/openapi.json answers {status} for its own description, expected 200 and OpenAPI"
        yield what, "look at the log of uploads"
    version = "versions/images/a/b/amd64/c/20260101"
    if (status := _get(deployment, deployment.api, version)[0]) not in (401, 403):
        yield f"{deployment.api}/{version} answers {status} to a stranger, expected 401 or 403", DEPLOY


def _get(deployment: Deployment, base: str, path: str) -> tuple[int, bytes]:
    """Return status and body. Raise ConnectionError with the address if there is no answer, or none in HTTP."""
    address = f"{base.rstrip('/')}/{path}"
    deployment.requests.add(f"GET {address}")
    try:
        with urllib.request.urlopen(address, timeout=30, context=deployment.trust) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{address} does not answer: {error!r}") from error


CHECKS: Final[dict[str, Callable[[Deployment], Findings]]] = {
    "deployment": check_deployment,
    "wiring": check_wiring,
    "queues": check_queues,
    "documents": check_documents,
    "agreement": check_agreement,
    "views": check_views,
    "withheld": check_withheld,
    "orphans": check_orphans,
    "leases": check_leases,
    "private": check_private,
    "edge": check_edge,
    "api": check_api,
}
