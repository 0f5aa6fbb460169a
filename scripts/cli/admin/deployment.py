"""The server that a command works on: the local stack, a stack in AWS, or a bucket alone."""

import getpass
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from cli import aws as credentials
from cli.admin import aws_api, inventory, output
from cli.admin.aws_api import RequestLog
from cli.admin.errors import NO_STACK, NOTHING, end
from cli.admin.token_use import REGION, CloudWatchLog, EdgeLog, LocalLog
from cli.folders import default_state_folder
from imageserver.aws import cloudfront, events, queues
from imageserver.aws.key_values import KeyValueStore, at_endpoint
from imageserver.aws.queues import QueueNotifier
from imageserver.catalog.rights import NOBODY, Rights
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import RECORDS, ProductId, VersionId
from imageserver.format.wording import counted
from imageserver.operations.delta_requests import DeltaRequests
from imageserver.operations.prune import Rules
from imageserver.operations.reconcile import RECENT
from imageserver.operations.view_documents import configured
from imageserver.settings import CLIENT_CHOICES, Settings
from imageserver.storage.key_values import KeyValues
from imageserver.storage.port import KeyHistory, ObjectInfo, Opened, Store, StoredObject
from imageserver.storage.ranged_reader import LARGE, SEVERAL
from imageserver.storage.s3 import S3Store
from imageserver.versions.retention import Rule
from imageserver.views.addresses import addresses
from imageserver.views.view import View
from local_stack.credentials import local_session
from local_stack.errors import NotRunning
from local_stack.state import read_stack

ARRIVALS: Final = "ArrivalsQueue"
"""The logical ID of a queue of the template. The names that CloudFormation makes contain such IDs."""
NO_LIMIT: Final = sys.maxsize
"""A read on this machine has no deadline, unlike a run of digest."""
EDGE_PATIENCE_S: Final = 300
"""How long a command waits for CloudFront, which usually takes seconds, and minutes at worst."""


def rules_of(parameters: Mapping[str, str]) -> Rules:
    """Return the rules of maintain in a stack with these parameters; a missing one has the template's default."""
    usual = Settings(bucket="")
    default = {
        "RetainVersions": usual.retain_versions,
        "RetainDays": usual.retain_days,
        "GraceHours": usual.grace_hours,
        "StaleDays": usual.stale_days,
        "RefusedDays": usual.refused_days,
        "KeepFetchedWithinDays": usual.keep_fetched_within_days,
    }
    versions, days, grace, stale, refused, fetched = (
        int(parameters.get(name, value)) for name, value in default.items()
    )
    return Rules(Rule(versions, days), grace, stale, refused, fetched)


def max_bytes_of(parameters: Mapping[str, str]) -> int:
    """Return the size of the largest file that a stack with these parameters accepts, NO_LIMIT if it is unknown."""
    # CloudFormation may return a number as 5.3687091200E10.
    return int(Decimal(parameters["MaxUploadBytes"])) if "MaxUploadBytes" in parameters else NO_LIMIT


@dataclass(frozen=True)
class Notified:
    """A queue, by its ARN, and the events of the bucket that it gets, in order of their names."""

    arn: str
    events: list[str]


@dataclass(frozen=True)
class Queue:
    """A queue that the bucket sends its events to; `dead_letters` is the URL of its dead-letter queue."""

    url: str
    attributes: dict[str, str]
    dead_letters: str


def _queue_of_template(logical_id: str) -> cached_property[str]:
    """Return a property: the URL of a queue of the template; empty if the server has none, or it is unknown."""

    def url(deployment: "Deployment") -> str:
        return deployment.queue_named(logical_id)

    return cached_property(url)


@dataclass(frozen=True)
class Deployment:
    """One server: the local stack, a stack in AWS, or a bucket. Unknown fields are empty.

    `endpoint`: the local stack's S3. `edge`: the address that clients use. `api`: the address of the upload API.
    `deployed_for`: the clients that the catalog is for. `rights`: who may use which names.
    `rules`: those of maintain, else the template's defaults. `max_bytes`: the largest file that is accepted.
    `deltas`: how many deltas the server makes for a version. If that is not known it is 1, the least that makes any.
    `distribution`: the ID of CloudFront's distribution. `view_store_arn`: of the store that the edge looks views up in.
    `view_store_endpoint` and `edge_log_file`: the local stack's store, and its log of the edge's function.
    `local_logs`: the local stack's bucket of access logs.
    `pending_invalidations`: keys that an unknown distribution may still hold. `requests`: the log of requests to AWS.
    """

    session: Any
    bucket: str
    endpoint: str | None = None
    edge: str = ""
    ca_file: str = ""
    api: str = ""
    stack: str = ""
    deployed_for: tuple[str, ...] = ()
    rights: Rights = NOBODY
    rules: Rules = rules_of({})  # noqa: RUF009 - Rules is frozen
    distribution: str = ""
    view_store_arn: str = ""
    view_store_endpoint: str = ""
    edge_log_file: str = ""
    local_logs: str = ""
    max_bytes: int = NO_LIMIT
    deltas: int = 1
    pending_invalidations: set[str] = field(default_factory=set, compare=False)
    requests: RequestLog = field(default_factory=RequestLog, compare=False)

    @cached_property
    def clients(self) -> tuple[str, ...]:
        """The clients that the catalog is for: as deployed, else as the catalog shows."""
        return self.deployed_for or inventory.clients(self.store)

    @cached_property
    def trust(self) -> ssl.SSLContext:
        """The certificate authorities for the server's addresses. Loaded once: reading the system's takes 30 ms."""
        return ssl.create_default_context(cafile=self.ca_file or None)

    def invalidate(self, keys: Sequence[str]) -> None:
        """Invalidate these keys in CloudFront and wait until that is done, as publish does."""
        self._invalidate(cloudfront.invalidate, keys)

    def request_invalidation(self, keys: Sequence[str]) -> None:
        """Ask CloudFront to invalidate these keys without waiting, as maintain does for deleted files."""
        self._invalidate(cloudfront.request_invalidation, keys)

    def _invalidate(self, send: Callable[..., object], keys: Sequence[str]) -> None:
        if self.distribution:
            paths = addresses(keys, self.views().values())
            send(self.session.client("cloudfront"), self.distribution, paths, time.sleep, EDGE_PATIENCE_S)
        else:
            self.pending_invalidations.update(keys)

    def print_pending_invalidations(self) -> None:
        """Print the command for the invalidations that could not be sent. The local stack's edge caches nothing."""
        if not self.pending_invalidations or self.endpoint:
            return
        folders = {key.rpartition("/")[0] for key in self.pending_invalidations}
        if len(folders) > cloudfront.MOST_WILDCARDS:
            folders = {folder.split("/")[0] for folder in folders}
        wildcards = " ".join(f"'{path}'" for path in sorted({cloudfront.everything_below(f"{f}/") for f in folders}))
        files = counted(len(self.pending_invalidations), "file")
        output.say(
            f"the edge was not asked to invalidate {files}, because its distribution is not known: use --stack NAME, "
            "or now: "
            f"aws cloudfront create-invalidation --distribution-id ID --paths {wildcards}"
        )

    @cached_property
    def s3(self) -> Any:
        return self._s3()

    @cached_property
    def creating_s3(self) -> Any:
        """A client that never overwrites: 412 if the object exists, or appears while its parts are sent.

        boto3's transfers (parts in parallel, copies inside S3) accept no condition, but their requests do.
        """

        def only_create(params: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {**params, "IfNoneMatch": "*"}

        client = self._s3()
        for operation in ("PutObject", "CopyObject", "CompleteMultipartUpload"):
            client.meta.events.register(f"provide-client-params.s3.{operation}", only_create)
        return client

    def _s3(self) -> Any:
        config = credentials.s3_config(
            path_style=bool(self.endpoint),
            max_pool_connections=32,
            response_checksum_validation="when_required",
            request_checksum_calculation="when_required",
            retries={"mode": "standard", "max_attempts": 5},
        )
        return self.session.client("s3", endpoint_url=self.endpoint, config=config)

    @property
    def has_views(self) -> bool:
        """Whether the server may have views: its edge can tell them apart, or only its bucket is known."""
        return bool(self.view_store_arn) or not (self.stack or self.endpoint)

    def views(self) -> Mapping[str, View]:
        """Return the current views of the server. Raise CatalogDamaged."""
        return configured(self.store) if self.has_views else {}

    @cached_property
    def view_store(self) -> KeyValues | None:
        """The store in which the edge looks views up; None if the edge has none, or if only the bucket is known."""
        if not self.view_store_arn:
            return None
        if not self.view_store_endpoint:
            return KeyValueStore(self.session.client("cloudfront-keyvaluestore"), self.view_store_arn)
        client = self.session.client("cloudfront-keyvaluestore", endpoint_url=self.view_store_endpoint)
        return KeyValueStore(at_endpoint(client), self.view_store_arn)

    @cached_property
    def edge_function(self) -> str:
        """The name of the edge's function in CloudFront; empty for a server without one, or a bucket alone."""
        return self._physical_id("ViewFunction").rpartition("/")[2] if self.stack and self.view_store_arn else ""

    @cached_property
    def edge_log(self) -> EdgeLog | None:
        """The log of the edge's function; None if the server has none, or if only the bucket is known."""
        if self.edge_log_file:
            return LocalLog(Path(self.edge_log_file))
        client = self.session.client("logs", region_name=REGION) if self.edge_function else None
        return CloudWatchLog(client, f"/aws/cloudfront/function/{self.edge_function}") if client else None

    @cached_property
    def operator(self) -> str:
        """The name under which changes are recorded: the caller's ARN, or the user on the local stack."""
        if self.endpoint:
            return getpass.getuser()
        answer = self.session.client("sts").get_caller_identity()
        return aws_api.read(answer, aws_api.CallerIdentity).arn

    @cached_property
    def sqs(self) -> Any:
        return self.session.client("sqs", endpoint_url=self.endpoint)

    @cached_property
    def notifier(self) -> QueueNotifier:
        """The queues of digest and publish. Raise ClickException if the bucket does not notify one of them."""
        return QueueNotifier(self.sqs, self.queue("images").url, self.queue(RECORDS).url)

    def version_changed(self, version: VersionId) -> None:
        """Send a message, as imageserver.aws.queues.Notifier does. The first call looks the queues up."""
        self._notifier_for(version.path).version_changed(version)

    def product_changed(self, product: ProductId) -> None:
        """Send a message, as imageserver.aws.queues.Notifier does. The first call looks the queues up."""
        self._notifier_for(product.path).product_changed(product)

    def _notifier_for(self, path: str) -> QueueNotifier:
        try:
            return self.notifier
        except (click.ClickException, ClientError, BotoCoreError) as error:
            raise StorageUnavailable(f"no message was sent about {path}: {error}") from error

    @cached_property
    def store(self) -> S3Store:
        return S3Store(self.s3, self.bucket, LARGE)

    @cached_property
    def logs_bucket(self) -> str:
        """The bucket of access logs: the stack's, else that of the bucket's own access logs. Raise ClickException."""
        found = self.local_logs or (self._physical_id("LogsBucket") if self.stack else "")
        if not found:
            answer = aws_api.read(self.s3.get_bucket_logging(Bucket=self.bucket), aws_api.BucketLogging)
            found = answer.logging_enabled.target_bucket
        if not found:
            raise click.ClickException(
                f"{self.bucket} writes no access logs, so the bucket of the edge's logs is not known; name the stack "
                "with --stack"
            )
        return found

    @cached_property
    def logs(self) -> Store:
        """The bucket of access logs, to be read."""
        return S3Store(self.s3, self.logs_bucket, SEVERAL)

    @cached_property
    def wiring(self) -> dict[str, Notified]:
        """Prefix of keys -> the queue and the events that the bucket is configured to send there."""
        answer = aws_api.read(self.s3.get_bucket_notification_configuration(Bucket=self.bucket), aws_api.Notifications)
        found: dict[str, Notified] = {}
        for entry in answer.queue_configurations:
            prefix = next((rule.value for rule in entry.filter.key.filter_rules if rule.name.lower() == "prefix"), "")
            before = found[prefix].events if prefix in found else ()
            found[prefix] = Notified(entry.queue_arn, sorted({*before, *entry.events}))
        return found

    def queue(self, prefix: str) -> Queue:
        """Return the queue for keys with this prefix. Raise ClickException if the bucket notifies none."""
        if prefix not in self.wiring:
            raise click.ClickException(f"{self.bucket} notifies no queue of {prefix}*; `admin doctor` says more")
        url = self._queue_url(self.wiring[prefix].arn)
        attributes = self.attributes(url)
        dead = ""
        if "RedrivePolicy" in attributes:
            policy = msgspec.json.decode(attributes["RedrivePolicy"], type=aws_api.RedrivePolicy)
            dead = self._queue_url(policy.dead_letter_target_arn)
        return Queue(url, attributes, dead)

    def attributes(self, url: str) -> dict[str, str]:
        """Return all attributes of a queue."""
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return aws_api.read(found, aws_api.QueueAttributes).attributes

    maintain_dead_letters = _queue_of_template("MaintainDeadLetters")  # failed runs of maintain
    copies_queue = _queue_of_template("CopiesQueue")  # files to copy from other servers
    copies_dead_letters = _queue_of_template("CopiesDeadLetters")
    deltas_queue = _queue_of_template("DeltasQueue")  # products to make deltas for
    deltas_dead_letters = _queue_of_template("DeltasDeadLetters")
    access_logs_queue = _queue_of_template("AccessLogsQueue")  # access logs to redact
    access_logs_dead_letters = _queue_of_template("AccessLogsDeadLetters")

    @cached_property
    def delta_requests(self) -> DeltaRequests | None:
        """How to request deltas of recent versions; None for a server that makes none, or a bucket alone."""
        is_known = bool(self.deltas and (self.stack or self.endpoint))
        if not is_known or not self.deltas_queue:
            return None

        def request(product: ProductId) -> None:
            queues.send(self.sqs, self.deltas_queue, events.changed(product.records_prefix))

        return DeltaRequests(self.deltas, datetime.now(UTC) - RECENT, request)

    def queue_named(self, logical_id: str) -> str:
        """Return the URL of a queue of the template: from CloudFormation, else found by its name; empty if unknown."""
        if self.stack:
            return self._physical_id(logical_id)
        arn = self.wiring["images"].arn if "images" in self.wiring else ""
        before, is_ours, _ = arn.rpartition(":")[2].partition(ARRIVALS)
        if not is_ours:
            return ""
        found = self.sqs.list_queues(QueueNamePrefix=f"{before}{logical_id}")
        urls = aws_api.read(found, aws_api.QueueUrls).queue_urls
        return urls[0] if len(urls) == 1 else ""

    def _physical_id(self, logical_id: str) -> str:
        """Return the physical ID of a resource of the stack; empty if the stack has no such resource."""
        cloudformation = self.session.client("cloudformation")
        try:
            found = cloudformation.describe_stack_resource(StackName=self.stack, LogicalResourceId=logical_id)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            return ""
        return aws_api.read(found, aws_api.StackResource).stack_resource_detail.physical_resource_id

    def _queue_url(self, arn: str) -> str:
        *_, account, name = arn.split(":")
        found = self.sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
        return aws_api.read(found, aws_api.QueueUrl).queue_url


def open_local(state_folder: Path | None) -> Deployment:
    """Return the running local stack."""
    try:
        stack = read_stack(state_folder or default_state_folder())
    except NotRunning as error:
        end(NO_STACK, f"{error}, or name a stack in AWS with --stack")
    session = local_session(stack.access_key_id, stack.secret_access_key, stack.region)
    requests = RequestLog.of(session)
    return Deployment(
        session,
        stack.bucket,
        stack.s3_endpoint,
        stack.base_url,
        stack.ca_file,
        stack.api_url,
        view_store_arn=stack.view_store_arn,
        view_store_endpoint=stack.view_store,
        edge_log_file=stack.edge_log,
        local_logs=stack.logs_bucket,
        requests=requests,
    )


def open_stack(name: str) -> Deployment:
    """Return a stack in AWS: bucket, addresses and settings as CloudFormation has them."""
    session = credentials.session(f"the stack {name}")
    requests = RequestLog.of(session)
    with requests.noted():
        try:
            answer = session.client("cloudformation").describe_stacks(StackName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            end(NOTHING, f"there is no stack {name} in {session.region_name}; set AWS_REGION to its region")
        (stack,) = aws_api.read(answer, aws_api.Stacks).stacks
    outputs = {output.output_key: output.output_value for output in stack.outputs}
    if "BucketName" not in outputs:
        end(NOTHING, f"{name} has no output BucketName, so it was not made from infra/template.yaml")
    parameters = {parameter.parameter_key: parameter.parameter_value for parameter in stack.parameters}
    return Deployment(
        session,
        outputs["BucketName"],
        edge=outputs.get("Address", ""),
        api=outputs.get("ApiUrl", ""),
        stack=name,
        deployed_for=CLIENT_CHOICES.get(parameters.get("Clients", ""), ()),
        rights=Rights.parse(parameters.get("Publishers", "{}")),
        rules=rules_of(parameters),
        max_bytes=max_bytes_of(parameters),
        deltas=int(parameters.get("Deltas", "0")),
        distribution=outputs.get("DistributionId", ""),
        view_store_arn=outputs.get("ViewStoreArn", ""),
        requests=requests,
    )


def open_bucket(name: str, url: str) -> Deployment:
    """Return a bucket in AWS, with the usual credentials and in its own region."""
    session = credentials.session_for_bucket(name)
    ca_file = os.environ.get("SSL_CERT_FILE", "")
    return Deployment(session, name, edge=url, ca_file=ca_file, requests=RequestLog.of(session))


class DryStore:
    """A store for a dry run: reads are real, writes change nothing and return success."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, key: str) -> StoredObject | None:
        return self._store.read(key)

    def create(self, _key: str, _body: bytes) -> str | None:
        return "not written"

    def replace(self, _key: str, _body: bytes, revision: str) -> str | None:
        return revision

    def delete(self, _key: str, _revision: str) -> bool:
        return True

    def history(self, key: str) -> KeyHistory:
        return self._store.history(key)

    def bring_back(self, _upload: ObjectInfo) -> bool:
        return True

    def tag_listed(self, _key: str, _version_id: str) -> bool:
        return True

    def is_tagged(self, key: str) -> bool:
        return self._store.is_tagged(key)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix, after)

    def earlier(self, key: str) -> Iterator[bytes]:
        return self._store.earlier(key)

    def open(self, key: str, etag: str) -> Opened:
        return self._store.open(key, etag)
