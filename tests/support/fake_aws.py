"""A deployed stack, as boto3 sees it: real clients and paginators, whose answers come from memory and can be broken."""

from __future__ import annotations

import copy
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

from botocore.response import StreamingBody

from imageserver.storage.port import ObjectInfo
from local_stack.credentials import local_session
from tests.support.memory_store import MemoryStore

REGION = "eu-central-1"
STACK = "images"
BUCKET = "images-1"
EDGE = "https://images.example.org"
API = "https://api.example.org"
QUEUES = {
    "images": "images-ArrivalsQueue-X",
    "versions/": "images-ChangesQueue-X",
}
DEAD = {name: name.replace("Queue", "DeadLetters") for name in QUEUES.values()}
MAINTAIN_DEAD = "images-MaintainDeadLetters-X"

Break = Callable[[str, Any], Any]
"""Takes the name of an operation and its answer. Returns another answer, or raises."""


def arn(queue: str) -> str:
    return f"arn:aws:sqs:{REGION}:111122223333:{queue}"


def url(queue: str) -> str:
    return f"https://sqs.{REGION}.amazonaws.com/111122223333/{queue}"


class Session:
    """A stand-in for a boto3 session. It keeps its clients from one `FakeAws` to the next, for speed."""

    region_name = REGION

    def __init__(self) -> None:
        self.events = self
        self._session: Any = local_session("AK", "SK", REGION)
        self._clients: dict[str, Any] = {}
        self._handlers: dict[str, list[Callable[..., Any]]] = {}
        self._aws: FakeAws | None = None
        for event in ("provide-client-params", "before-call", "after-call"):
            self._session.events.register(event, partial(self._handle_event, event))

    def over(self, aws: FakeAws) -> Session:
        """Send requests only to this one from now on."""
        self._aws, self._handlers = aws, {}
        return self

    def register(self, event: str, handler: Callable[..., Any]) -> None:
        self._handlers.setdefault(event, []).append(handler)

    register_first = register

    def client(self, service: str, **about: Any) -> Any:
        if service not in self._clients:
            self._clients[service] = self._session.client(service, **about)
        return self._clients[service]

    def _handle_event(self, event: str, **about: Any) -> Any:
        for handler in self._handlers.get(event, ()):
            handler(**about)
        assert self._aws is not None
        if event == "provide-client-params":
            self._aws._remember(**about)
            return None
        return self._aws._answer(**about) if event == "before-call" else None


@dataclass
class FakeAws:
    """One stack over a bucket in memory. `asked` has the name of each operation in order; `broken` changes answers."""

    store: MemoryStore
    letters: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    broken: Break = lambda _, answer: answer
    asked: list[str] = field(default_factory=list)
    _params: threading.local = field(default_factory=threading.local)

    def _remember(self, params: Mapping[str, Any], **_: Any) -> None:
        self._params.now = dict(params)

    def _answer(self, model: Any, **_: Any) -> Any:
        name = f"{model.service_model.service_name} {model.name}"
        self.asked.append(name)
        found = self.broken(name, copy.deepcopy(getattr(self, f"_{_snake(name)}")(**self._params.now)))
        status = found.pop("Status!", 200) if isinstance(found, dict) else 200
        about: dict[str, Any] = {"HTTPStatusCode": status, "HTTPHeaders": {}}
        if isinstance(found, dict):
            found.setdefault("ResponseMetadata", about)
        return SimpleNamespace(status_code=status, headers={}, content=b""), found

    # ── S3 ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _s3_list_objects_v2(self, Prefix: str = "", StartAfter: str = "", **_: Any) -> Any:
        found = [_listing_entry(info) for info in self.store.list(Prefix, StartAfter)]
        return {"IsTruncated": False, "KeyCount": len(found), **({"Contents": found} if found else {})}

    def _s3_get_object(self, Key: str, **_: Any) -> Any:
        found = self.store.read(Key)
        if found is None:
            return error("NoSuchKey", 404)
        body = StreamingBody(io.BytesIO(found.body), len(found.body))
        modified = datetime.now(UTC) - timedelta(seconds=found.age_s)
        return {"Body": _Body(body, found.body), "ETag": found.revision, "LastModified": modified}

    def _s3_head_object(self, Key: str, **_: Any) -> Any:
        found = self.store.objects[Key]
        return {"ContentLength": len(found.body), "ETag": found.etag, "Metadata": {}}

    def _s3_put_object(self, Key: str, Body: bytes, IfMatch: str = "", **_: Any) -> Any:
        done = self.store.replace(Key, Body, IfMatch) if IfMatch else self.store.create(Key, Body)
        return {"ETag": done} if done else error("PreconditionFailed", 412)

    def _s3_delete_object(self, Key: str, IfMatch: str, **_: Any) -> Any:
        return {} if self.store.delete(Key, IfMatch) else error("PreconditionFailed", 412)

    def _s3_list_object_versions(self, Prefix: str = "", **_: Any) -> Any:
        versions: list[Any] = []
        markers: list[Any] = []
        for key in sorted(key for key in self.store.generations if key.startswith(Prefix)):
            history = self.store.history(key)
            for number, info in enumerate(history.uploads):
                newest = {"IsLatest": number == 0 and not history.is_deleted}
                versions.append(_listing_entry(info) | {"VersionId": info.version_id} | newest)
            if history.is_deleted:
                markers.append({"Key": key, "VersionId": "marker", "IsLatest": True, "LastModified": datetime.now(UTC)})
        lists = {"Versions": versions, "DeleteMarkers": markers}
        return {"IsTruncated": False, **{name: found for name, found in lists.items() if found}}

    def _s3_get_bucket_notification_configuration(self, **_: Any) -> Any:
        return {
            "QueueConfigurations": [
                {
                    "Id": prefix,
                    "QueueArn": arn(queue),
                    "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "Prefix", "Value": prefix}]}},
                }
                for prefix, queue in QUEUES.items()
            ]
        }

    def _s3_get_bucket_policy_status(self, **_: Any) -> Any:
        return {"PolicyStatus": {"IsPublic": False}}

    def _s3_get_public_access_block(self, **_: Any) -> Any:
        names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        return {"PublicAccessBlockConfiguration": dict.fromkeys(names, True)}

    def _s3_get_bucket_versioning(self, **_: Any) -> Any:
        return {"Status": "Enabled"}

    # ── SQS ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _sqs_get_queue_url(self, QueueName: str, **_: Any) -> Any:
        return {"QueueUrl": url(QueueName)}

    def _sqs_get_queue_attributes(self, QueueUrl: str, **_: Any) -> Any:
        name = QueueUrl.rpartition("/")[2]
        waiting = len(self.letters.get(name, ()))
        attributes = {"ApproximateNumberOfMessages": str(waiting), "QueueArn": arn(name)}
        if name in DEAD:
            allow = {
                "Effect": "Allow",
                "Principal": {"Service": "s3.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Condition": {"ArnEquals": {"aws:SourceArn": f"arn:aws:s3:::{BUCKET}"}},
            }
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn(DEAD[name]), "maxReceiveCount": 5})
            attributes["Policy"] = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        return {"Attributes": attributes}

    def _sqs_receive_message(self, QueueUrl: str, **_: Any) -> Any:
        return {"Messages": self.letters.pop(QueueUrl.rpartition("/")[2], [])}

    def _sqs_send_message(self, **_: Any) -> Any:
        return {"MessageId": "1"}

    def _sqs_delete_message(self, **_: Any) -> Any:
        return {}

    def _sqs_change_message_visibility(self, **_: Any) -> Any:
        return {}

    # ── the stack and what watches it ────────────────────────────────────────────────────────────────────────────

    def _cloudformation_describe_stacks(self, StackName: str, **_: Any) -> Any:
        parameters = {"Clients": "both", "RetainVersions": "2", "RetainDays": "0", "GraceHours": "48", "StaleDays": "3"}
        outputs = {"BucketName": BUCKET, "Address": EDGE, "ApiUrl": API, "DistributionId": "E123"}
        return {
            "Stacks": [
                {
                    "StackName": StackName,
                    "StackStatus": "UPDATE_COMPLETE",
                    "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
                    "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in outputs.items()],
                }
            ]
        }

    def _cloudformation_describe_stack_resource(self, **_: Any) -> Any:
        return {"StackResourceDetail": {"PhysicalResourceId": url(MAINTAIN_DEAD), "ResourceStatus": "CREATE_COMPLETE"}}

    def _cloudwatch_describe_alarms(self, **_: Any) -> Any:
        return {"MetricAlarms": [], "CompositeAlarms": []}

    def _cloudwatch_get_metric_statistics(self, **_: Any) -> Any:
        return {"Label": "x", "Datapoints": [{"Timestamp": datetime(2026, 11, 23, tzinfo=UTC), "Maximum": 3.0}]}

    def _cloudfront_create_invalidation(self, **_: Any) -> Any:
        return {"Invalidation": {"Id": "I1", "Status": "Completed"}}


def _listing_entry(info: ObjectInfo) -> dict[str, Any]:
    modified = datetime.fromisoformat(info.modified)
    return {"Key": info.key, "Size": info.size_bytes, "ETag": info.etag, "LastModified": modified}


class _Body:
    """The body of an object. It is read like boto3's and copied like bytes."""

    def __init__(self, stream: StreamingBody, content: bytes) -> None:
        self._stream, self._content = stream, content
        self.read = stream.read

    def __deepcopy__(self, _: Any) -> _Body:
        return _Body(StreamingBody(io.BytesIO(self._content), len(self._content)), self._content)

    def __repr__(self) -> str:
        return f"<{len(self._content)} bytes>"


def error(code: str, status: int = 400) -> dict[str, Any]:
    """Return an answer that boto3 raises as ClientError."""
    return {"Error": {"Code": code, "Message": f"{code} it is"}, "Status!": status}


def value_paths(answer: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value of an answer, outermost first; for a list only to its first element."""
    inner = dict(enumerate(answer[:1])) if isinstance(answer, list) else answer if isinstance(answer, dict) else {}
    for key, value in inner.items():
        if key == "ResponseMetadata":
            continue
        yield (*where, key)
        yield from value_paths(value, (*where, key))


def without(answer: Any, where: tuple[Any, ...]) -> Any:
    """Return the answer without the value at a path."""
    del _holder(answer, where)[where[-1]]
    return answer


def put(answer: Any, where: tuple[Any, ...], value: Any) -> Any:
    """Return the answer with another value at a path."""
    _holder(answer, where)[where[-1]] = value
    return answer


def _holder(answer: Any, where: tuple[Any, ...]) -> Any:
    for key in where[:-1]:
        answer = answer[key]
    return answer


def _snake(name: str) -> str:
    """Return `s3 GetObject` as `s3_get_object`."""
    from botocore import xform_name

    service, _, operation = name.partition(" ")
    return f"{service}_{xform_name(operation)}"
