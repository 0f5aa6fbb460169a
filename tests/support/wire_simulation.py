"""A second world for random runs, at the level of AWS's protocols. It shares nothing with `simulation.py`.

The deployed handlers use their real adapters with stand-ins for boto3's clients. Below those are a bucket with
versions and delete markers, whose dates are whole seconds; an SDK that repeats a request whose answer is lost,
including deletes; queues with visibility and dead letters; an edge that caches every request; and hosts whose
clocks are hours apart. Time is that of the bucket, in seconds, and only the driver lets it pass.
"""

# ruff: noqa: ARG002  (the clients take the arguments that boto3's take)

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from botocore.exceptions import ClientError, EndpointConnectionError

from imageserver.aws.queues import HIDDEN_S
from tests.support.handlers import Context, sqs_record
from tests.support.simulated_functions import ARRIVALS, CHANGES, Functions, Host

START: Final = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
HOUR: Final = 3600.0
TIMEOUTS_S: Final = {"digest": 900.0, "publish": 60.0, "maintain": 900.0, "uploads": 30.0}
SENDS: Final = 3  # of one request by the SDK
NEGATIVE_S: Final = 5.0  # for which the edge remembers an error
LISTED_TAG: Final = {"listed": "true"}


class Gone(BaseException):
    """The host is gone. Nothing that its code still does has an effect."""


@dataclass(frozen=True)
class FaultRates:
    """How likely each fault is: for one request, one event, or one step of a run."""

    refused: float = 0.01  # 503 before anything was done
    lost: float = 0.03  # done, but the answer was lost
    conflict: float = 0.02  # 409 to a conditional write
    denied: float = 0.002
    doubled: float = 0.1
    delayed: float = 0.3
    dropped: float = 0.01
    killed: float = 0.002


NO_FAULTS: Final = FaultRates(0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(eq=False)
class Generation:
    """One upload of a key, or a delete marker, which has no body."""

    name: str
    body: bytes | None
    modified: float
    etag: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def date(self) -> datetime:
        """Return its date as S3 reports it."""
        return START + timedelta(seconds=int(self.modified))


@dataclass
class Message:
    name: str
    body: str
    visible: float
    received: int = 0


@dataclass
class Queue:
    function: str
    most: int
    messages: list[Message] = field(default_factory=list)
    dead: int = 0
    sent: int = 0


@dataclass
class Cached:
    status: int
    body: bytes
    until: float


@dataclass
class Invalidation:
    name: str
    paths: list[str]
    done: float
    applied: bool = False


class Run:
    """Code on a host, in a thread that the driver resumes from one request to the next."""

    def __init__(self, world: World, title: str, ends: float, job: Callable[[Run], None]) -> None:
        self.world, self.title, self.ends = world, title, ends
        self.rests_until = 0.0
        self.held: dict[str, Message] = {}  # hidden for as long as it lives
        self.killed = self.over = False
        self.failure: BaseException | None = None
        self._job = job
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._main, daemon=True).start()

    def go(self) -> None:
        """Resume it until its next request."""
        self._turn.release()
        self._back.acquire()

    def wait(self) -> None:
        """Wait; its own code calls this before each request and while it sleeps."""
        if not self.killed:
            self._back.release()
            self._turn.acquire()
        if self.killed:
            raise Gone

    def rest(self, seconds: float) -> None:
        self.rests_until = self.world.now + seconds
        self.wait()

    def _main(self) -> None:
        self.world.local.run = self
        self._turn.acquire()
        try:
            if not self.killed:
                self._job(self)
        except Gone:
            pass
        except BaseException as error:  # noqa: BLE001  (the driver raises it)
            self.failure = error
        self.over = True
        self._back.release()


class World:
    """One deployment. `variables` are parameters of its functions; `skew_s` is how far a clock may be off."""

    def __init__(self, seed: int, rates: FaultRates, variables: Mapping[str, str], skew_s: float) -> None:
        self.random = random.Random(seed)
        self.rates = rates
        self.skew_s = skew_s
        self.now = 0.0
        self.local = threading.local()
        self.keys: dict[str, list[Generation]] = {}
        self.arrivals, self.changes = Queue("digest", 10), Queue("publish", 200)
        self.edge: dict[str, Cached] = {}
        self.invalidations: dict[str, Invalidation] = {}
        self.runs: list[Run] = []
        self.counted: Counter[str] = Counter()
        self.on_delete: Callable[[str, Generation], None] = lambda _key, _gone: None
        self.functions = Functions(variables, self._host)
        self._names = 0

    def name(self, what: str) -> str:
        self._names += 1
        return f"{what}-{self._names}"

    def happens(self, fault: str) -> bool:
        chance: float = getattr(self.rates, fault)
        if not chance or self.random.random() >= chance:
            return False
        self.counted[fault] += 1
        return True

    def _host(self) -> Host:
        off = self.random.choice((0.0, 0.0, 1.0, -1.0)) * self.random.uniform(0, self.skew_s)

        def rest(seconds: float) -> None:
            self.local.run.rest(seconds)

        return Host(lambda: START + timedelta(seconds=self.now + off), lambda: self.now + off, rest)

    # ── the bucket ──────────────────────────────────────────────────────────────────────────────────────────────

    def current(self, key: str) -> Generation | None:
        history = self.keys.get(key)
        return history[-1] if history and history[-1].body is not None else None

    def put(self, key: str, body: bytes, **about: Any) -> Generation:
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        stored = Generation(self.name("v"), body, self.now, etag, about)
        self.keys.setdefault(key, []).append(stored)
        self._send_event(key)
        return stored

    def hide(self, key: str) -> None:
        """Put a delete marker on top."""
        self.keys[key].append(Generation(self.name("v"), None, self.now))
        self._send_event(key)

    def _send_event(self, key: str) -> None:
        """Send the event of a change, unless it gets lost."""
        queue = self.arrivals if key.startswith("images") else self.changes if key.startswith("versions/") else None
        if queue is None or self.happens("dropped"):
            return
        s3 = {"s3": {"bucket": {"name": "images"}, "object": {"key": quote(key)}}}
        for _ in range(1 + self.happens("doubled")):
            late = self.random.expovariate(1 / 120) if self.happens("delayed") else self.random.uniform(0, 2)
            self.send(queue, json.dumps({"Records": [s3]}), late)

    # ── the queues ──────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, queue: Queue, body: str, late: float = 0.0) -> None:
        queue.messages.append(Message(self.name("m"), body, self.now + late))

    def receive(self, queue: Queue) -> list[Message]:
        ready = [message for message in queue.messages if message.visible <= self.now]
        self.random.shuffle(ready)
        taken = []
        for message in ready[: self.random.randint(1, queue.most)]:
            message.received += 1
            message.visible = self.now + 6 * TIMEOUTS_S[queue.function]
            if message.received > 5:
                queue.messages.remove(message)
                queue.dead += 1
                self.counted["dead letters"] += 1
            else:
                taken.append(message)
        return taken

    # ── the functions ───────────────────────────────────────────────────────────────────────────────────────────

    def start(self, title: str, seconds: float, job: Callable[[Run], None]) -> Run:
        run = Run(self, title, self.now + seconds, job)
        self.runs.append(run)
        self.counted[f"{title} runs"] += 1
        return run

    def deliver(self, queue: Queue) -> bool:
        """Start a function on a batch; return False if no message is due."""
        batch = self.receive(queue)
        if not batch:
            return False

        def handle(run: Run) -> None:
            records = [sqs_record(m.name, m.name, m.body, m.received) for m in batch]
            answer = self.invoke(run, queue.function, {"Records": records})
            run.wait()
            failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
            self.counted["messages left in the queue"] += len(failed)
            queue.messages = [m for m in queue.messages if m.name in failed or m not in batch]

        self.start(queue.function, TIMEOUTS_S[queue.function], handle)
        return True

    def invoke(self, run: Run, function: str, event: Mapping[str, Any]) -> Any:
        """Call a function on the host of a run and return its answer."""
        from imageserver.storage.presigned import S3Uploads

        more = {"publish": {"cloudfront_client": lambda: EdgeClient(run)}}
        more["maintain"] = more["publish"]
        store = S3Uploads(S3Client(run), "images")  # type: ignore[arg-type]  # a separate client
        ends = min(run.ends, self.now + TIMEOUTS_S[function])
        return self.functions.invoke(
            function, event, _EndingContext(self, ends), store, SqsClient(run), **more.get(function, {})
        )

    def step(self, run: Run) -> None:
        """Resume a run. One that is past its timeout is killed, as by Lambda."""
        if run.ends <= self.now or self.happens("killed"):
            run.killed = True
            self.counted["killed or timed out"] += 1
        run.go()
        if run.over:
            self.runs.remove(run)
        if run.failure:
            raise run.failure

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for message in [message for run in self.runs if run.ends > self.now for message in run.held.values()]:
            message.visible = max(message.visible, self.now + HIDDEN_S)
        for invalidation in self.invalidations.values():
            if not invalidation.applied and invalidation.done <= self.now:
                invalidation.applied = True
                for key in list(self.edge):
                    if any(fnmatch.fnmatchcase(f"/{key}", path) for path in invalidation.paths):
                        del self.edge[key]

    # ── the edge ────────────────────────────────────────────────────────────────────────────────────────────────

    def fetch(self, key: str) -> tuple[int, bytes]:
        """Return the edge's answer, which it caches for the lifetime in the answer."""
        held = self.edge.get(key)
        if held is None or held.until <= self.now:
            found = self.current(key)
            if found and key.startswith("images") and found.tags != LISTED_TAG:
                found = None
            if found is None or found.body is None:
                held = Cached(404, b"", self.now + NEGATIVE_S)
            else:
                lifetime = re.search(r"max-age=(\d+)", found.about.get("CacheControl", ""))
                held = Cached(200, found.body, self.now + float(lifetime[1] if lifetime else 31_536_000))
            self.edge[key] = held
        return held.status, held.body


class _EndingContext(Context):
    """A context whose time runs out."""

    def __init__(self, world: World, ends: float) -> None:
        super().__init__()
        self._world, self._ends = world, ends

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * max(0.0, self._ends - self._world.now))


def refusal(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


class _Client:
    """What all clients share: send a request, and repeat it if no answer comes."""

    def __init__(self, run: Run) -> None:
        self.run, self.world = run, run.world

    def ask(self, operation: str, effect: Callable[[], Any], *, conditional: bool = False) -> Any:
        for _ in range(SENDS):
            self.run.wait()
            self.world.counted["requests"] += 1
            if self.world.happens("refused"):
                continue
            if self.world.happens("denied"):
                raise refusal("AccessDenied", operation)
            if conditional and self.world.happens("conflict"):
                raise refusal("ConditionalRequestConflict", operation)
            try:
                answer = effect()
            except ClientError:
                if self.world.happens("lost"):
                    continue
                raise
            if not self.world.happens("lost"):
                return answer
        raise EndpointConnectionError(endpoint_url=f"https://aws/{operation}")


class S3Client(_Client):
    """boto3's client for S3, as far as the adapters use it."""

    def get_object(self, *, Bucket: str, Key: str, IfMatch: str = "") -> Any:
        def effect() -> Any:
            found = self._found(Key, "GetObject", IfMatch)
            assert found.body is not None
            date = format_datetime(START + timedelta(seconds=self.world.now), usegmt=True)
            about = {"LastModified": found.date, "ResponseMetadata": {"HTTPHeaders": {"date": date}}}
            return about | {"Body": io.BytesIO(found.body), "ETag": found.etag, "VersionId": found.name}

        return self.ask("GetObject", effect)

    def head_object(self, *, Bucket: str, Key: str, IfMatch: str = "") -> Any:
        def effect() -> Any:
            found = self._found(Key, "HeadObject", IfMatch)
            assert found.body is not None
            about = {"ContentLength": len(found.body), "ETag": found.etag, "VersionId": found.name}
            return about | {"LastModified": found.date, "Metadata": found.about.get("Metadata", {})}

        return self.ask("HeadObject", effect)

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes,
        IfMatch: str = "",
        IfNoneMatch: str = "",
        **about: Any,
    ) -> Any:
        def effect() -> Any:
            found = self.world.current(Key)
            if IfNoneMatch and found:
                raise refusal("PreconditionFailed", "PutObject")
            if IfMatch:
                self._found(Key, "PutObject", IfMatch)
            stored = self.world.put(Key, Body, **about)
            return {"ETag": stored.etag, "VersionId": stored.name}

        return self.ask("PutObject", effect, conditional=bool(IfMatch or IfNoneMatch))

    def delete_object(self, *, Bucket: str, Key: str, IfMatch: str = "", VersionId: str = "") -> Any:
        def effect() -> Any:
            history = self.world.keys.get(Key, [])
            if VersionId:
                for gone in [generation for generation in history if generation.name == VersionId]:
                    self.world.on_delete(Key, gone)
                    history.remove(gone)
                return {}
            found = self._found(Key, "DeleteObject", IfMatch)
            self.world.on_delete(Key, found)
            self.world.hide(Key)
            return {}

        return self.ask("DeleteObject", effect, conditional=True)

    def put_object_tagging(self, *, Bucket: str, Key: str, VersionId: str, Tagging: Any) -> Any:
        def effect() -> Any:
            for generation in self.world.keys.get(Key, []):
                if generation.name == VersionId and generation.body is not None:
                    generation.tags = {tag["Key"]: tag["Value"] for tag in Tagging["TagSet"]}
                    return {}
            raise refusal("NoSuchVersion", "PutObjectTagging")

        return self.ask("PutObjectTagging", effect)

    def get_object_tagging(self, *, Bucket: str, Key: str) -> Any:
        def effect() -> Any:
            found = self._found(Key, "GetObjectTagging", "")
            return {"TagSet": [{"Key": name, "Value": value} for name, value in found.tags.items()]}

        return self.ask("GetObjectTagging", effect)

    def copy_object(self, *, Bucket: str, Key: str, CopySource: Any, IfNoneMatch: str = "", **_: Any) -> Any:
        def effect() -> Any:
            if IfNoneMatch and self.world.current(Key):
                raise refusal("PreconditionFailed", "CopyObject")
            for generation in self.world.keys.get(Key, []):
                if generation.name == CopySource["VersionId"] and generation.body is not None:
                    stored = self.world.put(Key, generation.body, **generation.about)
                    return {"CopyObjectResult": {"ETag": stored.etag}, "VersionId": stored.name}
            raise refusal("NoSuchVersion", "CopyObject")

        return self.ask("CopyObject", effect, conditional=bool(IfNoneMatch))

    def generate_presigned_url(self, ClientMethod: str, Params: Mapping[str, Any], ExpiresIn: int) -> str:
        return json.dumps({"operation": ClientMethod, **Params})

    def get_paginator(self, operation: str) -> _Pages:
        return _Pages(self, operation)

    def _found(self, key: str, operation: str, etag: str) -> Generation:
        found = self.world.current(key)
        if found is None:
            raise refusal("404" if operation == "HeadObject" else "NoSuchKey", operation)
        if etag and found.etag != etag:
            raise refusal("412" if operation == "HeadObject" else "PreconditionFailed", operation)
        return found


class _Pages:
    """Pages of a few keys, each as the bucket is when requested."""

    def __init__(self, client: S3Client, operation: str) -> None:
        self._client = client
        self._operation = operation

    def paginate(self, *, Bucket: str, Prefix: str, StartAfter: str = "", KeyMarker: str = "") -> Iterator[Any]:
        size, after = self._client.world.random.choice((2, 5, 1000)), StartAfter or KeyMarker
        while after is not None:
            page, after = self._client.ask(self._operation, partial(self._page, Prefix, after, size))
            yield page

    def _page(self, prefix: str, after: str, size: int) -> tuple[Any, str | None]:
        keys = sorted(key for key in self._client.world.keys if key.startswith(prefix) and key > after)
        more = keys[size - 1] if len(keys) > size else None
        keys = keys[:size]
        if self._operation == "list_objects_v2":
            found = {key: self._client.world.current(key) for key in keys}
            return {"Contents": [_entry(key, one) for key, one in found.items() if one]}, more
        page: dict[str, list[Any]] = {"Versions": [], "DeleteMarkers": []}
        for key in keys:
            history = self._client.world.keys[key]
            for generation in reversed(history):
                version = {"VersionId": generation.name, "IsLatest": generation is history[-1]}
                kind = "DeleteMarkers" if generation.body is None else "Versions"
                page[kind].append(_entry(key, generation) | version)
        return page, more


def _entry(key: str, generation: Generation) -> dict[str, Any]:
    size = len(generation.body or b"")
    return {"Key": key, "Size": size, "ETag": generation.etag, "LastModified": generation.date}


class SqsClient(_Client):
    def send_message(self, *, QueueUrl: str, MessageBody: str) -> Any:
        return self.ask("SendMessage", lambda: self.world.send(self._queue(QueueUrl), MessageBody))

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[Any]) -> Any:
        def effect() -> Any:
            seconds = {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for entry in Entries}
            for message in self._queue(QueueUrl).messages:
                if message.name in seconds:
                    message.visible = self.world.now + seconds[message.name]
                    self._hold(message, seconds[message.name] == HIDDEN_S)
            return {}

        return self.ask("ChangeMessageVisibilityBatch", effect)

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[Any]) -> Any:
        def effect() -> Any:
            queue, gone = self._queue(QueueUrl), {entry["ReceiptHandle"] for entry in Entries}
            queue.messages = [message for message in queue.messages if message.name not in gone]
            for name in gone:
                self.run.held.pop(name, None)
            return {}

        return self.ask("DeleteMessageBatch", effect)

    def _hold(self, message: Message, holds: bool) -> None:
        """Replace the thread that renews held messages, which is `pass_time` here."""
        self.run.held.pop(message.name, None)
        if holds:
            self.run.held[message.name] = message

    def _queue(self, url: str) -> Queue:
        return {ARRIVALS: self.world.arrivals, CHANGES: self.world.changes}[url]


class EdgeClient(_Client):
    """boto3's client for CloudFront. A reference that was used before returns its earlier invalidation."""

    def create_invalidation(self, *, DistributionId: str, InvalidationBatch: Any) -> Any:
        name = InvalidationBatch["CallerReference"]

        def effect() -> Any:
            if name not in self.world.invalidations:
                done = self.world.now + self.world.random.choice((1, 10, 100)) * self.world.random.random()
                self.world.invalidations[name] = Invalidation(name, InvalidationBatch["Paths"]["Items"], done)
            return self._state(name)

        return self.ask("CreateInvalidation", effect)

    def get_invalidation(self, *, DistributionId: str, Id: str) -> Any:
        return self.ask("GetInvalidation", lambda: self._state(Id))

    def _state(self, name: str) -> Any:
        done = self.world.invalidations[name].applied
        return {"Invalidation": {"Id": name, "Status": "Completed" if done else "InProgress"}}


def read_pinned(client: S3Client, bucket: str, key: str, etag: str, _size_bytes: int, *_: object) -> Iterator[bytes]:
    """Stands in for the ranged reader, whose sockets tests/component/test_stream.py breaks."""
    from imageserver.errors import ObjectChanged, StorageUnavailable

    try:
        yield client.get_object(Bucket=bucket, Key=key, IfMatch=etag)["Body"].read()
    except EndpointConnectionError as error:
        raise StorageUnavailable(str(error)) from error
    except ClientError as error:
        if error.response["Error"]["Code"] == "AccessDenied":
            raise StorageUnavailable(str(error)) from error
        raise ObjectChanged(key) from error


class OneByOne:
    """A pool that makes its calls in the caller's thread, so that a seed replays them."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, call: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
        return [call(thing) for thing in things]
