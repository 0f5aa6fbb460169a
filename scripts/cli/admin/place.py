"""The server that a command works on: the local stack, or a bucket in AWS and what hangs on it."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from cli import aws as credentials
from cli.admin import answers, looking, shown
from cli.admin.calls import Calls
from cli.admin.faults import NO_STACK, NOTHING, end
from cli.folders import default_state_folder
from imageserver.aws import cloudfront
from imageserver.aws.queues import QueueNotifier
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import RECORDS, ProductId, VersionId
from imageserver.operations.prune import Rules
from imageserver.settings import CLIENT_CHOICES, Settings
from imageserver.storage.ranged_reader import LARGE
from imageserver.storage.s3 import S3Store
from imageserver.versions.retention import Rule
from local_stack.credentials import local_session
from local_stack.errors import NotRunning
from local_stack.state import read_stack

ARRIVALS: Final = "ArrivalsQueue"
DEAD: Final = "MaintainDeadLetters"
"""What the template calls two of its queues: CloudFormation's names have these in them."""


def rules_of(chosen: Mapping[str, str]) -> Rules:
    """What maintain goes by in a stack with these parameters; the template's defaults for what is not among them."""
    usual = Settings(bucket="")
    number = {
        "RetainVersions": usual.retain_versions,
        "RetainDays": usual.retain_days,
        "GraceHours": usual.grace_hours,
        "StaleDays": usual.stale_days,
    }
    versions, days, grace, stale = (int(chosen.get(name, default)) for name, default in number.items())
    return Rules(Rule(versions, days), grace, stale)


def max_bytes_of(chosen: Mapping[str, str]) -> int:
    """The largest file that a stack with these parameters takes; no limit where that is not known."""
    # CloudFormation may give a number back as 5.3687091200E10.
    return int(Decimal(chosen["MaxUploadBytes"])) if "MaxUploadBytes" in chosen else NO_LIMIT


NO_LIMIT: Final = sys.maxsize
"""Nothing is cut short on this machine, as a run of digest would be."""
EDGE_PATIENCE_S: Final = 300
"""How long a command waits for the edge, which takes seconds as a rule and minutes at worst."""
AS_USUAL: Final = rules_of({})


@dataclass(frozen=True)
class Queue:
    """A queue behind the bucket and its dead letters."""

    url: str
    attributes: dict[str, str]
    dead_letters: str


@dataclass(frozen=True)
class Place:
    """One server. `edge` is the address that clients know, `api` that of uploads, `stack` the name that it was
    deployed under, `deployed_for` the clients that it was deployed for; each is empty when it is not known.
    `rules` are what maintain goes by there, the template's defaults when that is not known; `distribution` is what
    CloudFront calls the edge, empty where there is none or it is not known. `max_bytes` is the largest file that is
    accepted there. `untold` are the keys that an edge should have invalidated whose distribution is not known.
    `calls` hears what is asked of AWS.
    """

    session: Any
    bucket: str
    endpoint: str | None = None
    edge: str = ""
    ca_file: str = ""
    api: str = ""
    stack: str = ""
    deployed_for: tuple[str, ...] = ()
    rules: Rules = AS_USUAL
    distribution: str = ""
    max_bytes: int = NO_LIMIT
    untold: set[str] = field(default_factory=set, compare=False)
    calls: Calls = field(default_factory=Calls, compare=False)

    @cached_property
    def clients(self) -> tuple[str, ...]:
        """Whose items the catalog shall carry: as it was deployed, else as the catalog has it."""
        return self.deployed_for or looking.clients(self.store)

    def invalidate(self, keys: Sequence[str]) -> None:
        """Have the edge invalidate what it holds of these keys, and wait until it has: as publish does."""
        if self.distribution:
            cloudfront.invalidate(
                self.session.client("cloudfront"), self.distribution, keys, time.sleep, EDGE_PATIENCE_S
            )
        else:
            self.untold.update(keys)

    def forget_soon(self, keys: Sequence[str]) -> None:
        """The same without waiting: as maintain does for what it deleted."""
        if self.distribution:
            cloudfront.request_invalidation(
                self.session.client("cloudfront"), self.distribution, keys, time.sleep, EDGE_PATIENCE_S
            )
        else:
            self.untold.update(keys)

    def say_untold(self) -> None:
        """Say what the edge was not told, and how to tell it, in one line. The local stack has no edge that keeps."""
        if not self.untold or self.endpoint:
            return
        folders = {key.rpartition("/")[0] for key in self.untold}
        if len(folders) > cloudfront.MOST_WILDCARDS:
            folders = {folder.split("/")[0] for folder in folders}
        wildcards = " ".join(f"'{path}'" for path in sorted({cloudfront.everything_below(f"{f}/") for f in folders}))
        shown.say(
            f"the edge was not told to invalidate {len(self.untold):,} files, for its distribution is not known: use "
            f"--stack NAME, or now: aws cloudfront create-invalidation --distribution-id ID --paths {wildcards}"
        )

    @cached_property
    def s3(self) -> Any:
        return self._s3()

    @cached_property
    def creating_s3(self) -> Any:
        """A client that never writes over anything: 412 where an object is, or came while its parts were sent.

        boto3's transfers (parts side by side, copies inside S3) take no condition; their requests do.
        """
        client = self._s3()
        for operation in ("PutObject", "CopyObject", "CompleteMultipartUpload"):
            client.meta.events.register(f"provide-client-params.s3.{operation}", _only_create)
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

    @cached_property
    def sqs(self) -> Any:
        return self.session.client("sqs", endpoint_url=self.endpoint)

    @cached_property
    def notifier(self) -> QueueNotifier:
        """The queues of digest and publish, as the bucket has them; a usage error when it tells one of them nothing."""
        return QueueNotifier(self.sqs, self.queue("images").url, self.queue(RECORDS).url)

    def version_changed(self, version: VersionId) -> None:
        """As imageserver.aws.queues.Notifier; the queues are looked up when the first message is sent."""
        self._notifier_for(version.path).version_changed(version)

    def product_changed(self, product: ProductId) -> None:
        """As imageserver.aws.queues.Notifier; the queues are looked up when the first message is sent."""
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
    def wiring(self) -> dict[str, dict[str, Any]]:
        """Prefix of keys -> the queue that the bucket tells of them, as the bucket has it configured."""
        told = answers.read(self.s3.get_bucket_notification_configuration(Bucket=self.bucket), answers.Notifications)
        found: dict[str, dict[str, Any]] = {}
        for entry in told.queue_configurations:
            prefix = next((rule.value for rule in entry.filter.key.filter_rules if rule.name.lower() == "prefix"), "")
            events = found.get(prefix, {}).get("events", [])
            found[prefix] = {"arn": entry.queue_arn, "events": sorted({*events, *entry.events})}
        return found

    def queue(self, prefix: str) -> Queue:
        """The queue that hears of keys with this prefix; a usage error says when the bucket tells nobody."""
        if prefix not in self.wiring:
            raise click.ClickException(f"{self.bucket} tells no queue about {prefix}*; `admin doctor` says more")
        url = self._url(self.wiring[prefix]["arn"])
        attributes = self.attributes(url)
        dead = ""
        if "RedrivePolicy" in attributes:
            policy = msgspec.json.decode(attributes["RedrivePolicy"], type=answers.RedrivePolicy)
            dead = self._url(policy.dead_letter_target_arn)
        return Queue(url, attributes, dead)

    def attributes(self, url: str) -> dict[str, str]:
        """All attributes of a queue."""
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return answers.read(found, answers.QueueAttributes).attributes

    @cached_property
    def maintain_dead_letters(self) -> str:
        """The queue of maintain's runs that failed: as CloudFormation has it, else by its name; empty if unknown."""
        if self.stack:
            return self._resource(DEAD)
        arn = self.wiring.get("images", {}).get("arn", "")
        before, found, _ = arn.rpartition(":")[2].partition(ARRIVALS)
        if not found:
            return ""
        found = self.sqs.list_queues(QueueNamePrefix=f"{before}{DEAD}")
        urls = answers.read(found, answers.QueueUrls).queue_urls
        return urls[0] if len(urls) == 1 else ""

    def _resource(self, logical_id: str) -> str:
        """What a resource of the stack is called; empty if the stack has none of that name."""
        cloudformation = self.session.client("cloudformation")
        try:
            found = cloudformation.describe_stack_resource(StackName=self.stack, LogicalResourceId=logical_id)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            return ""
        return answers.read(found, answers.StackResource).stack_resource_detail.physical_resource_id

    def _url(self, arn: str) -> str:
        *_, account, name = arn.split(":")
        found = self.sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
        return answers.read(found, answers.QueueUrl).queue_url


def local(state_folder: Path | None) -> Place:
    """The running local stack."""
    try:
        stack = read_stack(state_folder or default_state_folder())
    except NotRunning as error:
        end(NO_STACK, f"{error}, or name a stack in AWS with --stack")
    session = local_session(stack.access_key_id, stack.secret_access_key, stack.region)
    return Place(
        session,
        stack.bucket,
        stack.s3_endpoint,
        stack.base_url,
        stack.ca_file,
        stack.api_url,
        calls=Calls.of(session),
    )


def deployed(stack: str) -> Place:
    """A stack in AWS: bucket, addresses and settings as CloudFormation knows them."""
    session = credentials.session(f"the stack {stack}")
    calls = Calls.of(session)
    with calls.noted():
        return _deployed(stack, session, calls)


def _deployed(stack: str, session: Any, calls: Calls) -> Place:
    try:
        answer = session.client("cloudformation").describe_stacks(StackName=stack)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        end(NOTHING, f"there is no stack {stack} in {session.region_name}; set AWS_REGION to its region")
    (found,) = answers.read(answer, answers.Stacks).stacks
    outputs = {output.output_key: output.output_value for output in found.outputs}
    if "BucketName" not in outputs:
        end(NOTHING, f"{stack} has no output BucketName, so it was not made from infra/template.yaml")
    chosen = {parameter.parameter_key: parameter.parameter_value for parameter in found.parameters}
    return Place(
        session,
        outputs["BucketName"],
        edge=outputs.get("Address", ""),
        api=outputs.get("ApiUrl", ""),
        stack=stack,
        deployed_for=CLIENT_CHOICES.get(chosen.get("Clients", ""), ()),
        rules=rules_of(chosen),
        max_bytes=max_bytes_of(chosen),
        distribution=outputs.get("DistributionId", ""),
        calls=calls,
    )


def aws(bucket: str, url: str) -> Place:
    """A bucket in AWS, with the usual credentials and in its own region."""
    session = credentials.session_for_bucket(bucket)
    return Place(session, bucket, edge=url, ca_file=os.environ.get("SSL_CERT_FILE", ""), calls=Calls.of(session))


def _only_create(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    return {**params, "IfNoneMatch": "*"}
