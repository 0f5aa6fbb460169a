"""The whole system in memory, driven by one seeded generator, with every possible fault.

What runs are the deployed handlers of the functions (support/simulated_functions.py): an event in, an answer out, and
messages are deleted or come back as the answer says. Each runs in a thread of its own that stops before every call of
storage or of SQS until the driver resumes it, so any interleaving can happen and its seed replays it.
A killed handler is never resumed; what it wrote stays, its messages come back when their visibility ends.

The bucket gives md5 ETags to single PUTs as S3 does: equal bytes written later are the same revision.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from imageserver.aws import events
from imageserver.aws.queues import HIDDEN_S
from imageserver.errors import InvalidUpload, ObjectChanged, SimplestreamsError, StorageDenied, StorageUnavailable
from imageserver.format.keys import ProductId, VersionId, product_of, product_of_records, version_of
from imageserver.operations.ingest import Ingested
from imageserver.operations.publish import Published
from imageserver.storage.port import KeyHistory, ObjectInfo, Opened, StoredObject
from tests.support.handlers import Context, sqs_record
from tests.support.messages import s3_event
from tests.support.simulated_functions import ARRIVALS, CHANGES, Functions, Host

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
BUCKET = "images"
TIMEOUT_S = {"digest": 900, "publish": 60, "maintain": 900, "uploads": 30}
SLOW = 0.01  # how often a slow handler is resumed, relative to a usual one
PAGE = 3  # keys of a listing that S3 sends at once; what a version's folder holds always fits into one page
_R = TypeVar("_R")
Call = Callable[..., Any]
"""Calls a function with an event and returns its answer. Keywords are names of its module to replace for this run."""


class Killed(BaseException):
    """The process is gone. No handler may catch this, and its clean-up has no effect."""


@dataclass(frozen=True)
class Rates:
    """How often each fault happens: its chance for one storage call, one event or one step of the driver."""

    answer_500: float = 0.006
    answer_503: float = 0.008
    no_answer: float = 0.006
    denied: float = 0.004
    conflict: float = 0.02
    reply_lost: float = 0.02
    reply_lost_and_sent_again: float = 0.02
    truncated: float = 0.02
    queue_refused: float = 0.03
    event_doubled: float = 0.1
    event_delayed: float = 0.3
    event_dropped: float = 0.02
    killed: float = 0.01
    stalled: float = 0.2  # between a decision and its conditional write, for long enough for whole runs of others


NO_FAULTS = Rates(**dict.fromkeys((rate.name for rate in fields(Rates)), 0.0))


@dataclass(frozen=True)
class Stored:
    """One generation of an object."""

    body: bytes
    etag: str
    modified: datetime
    sha256: str
    content_encoding: str = ""
    version_id: str = ""

    def info(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(self.body), self.etag, self.modified.isoformat(), self.version_id)


@dataclass
class Message:
    """A message of a queue; `visible_at` in seconds of the simulated clock."""

    name: str
    body: str
    visible_at: int
    received: int = 0


@dataclass
class Queue:
    """Delivers at least once, in any order. After `limit` receives a message is a dead letter."""

    function: str
    limit: int
    messages: list[Message] = field(default_factory=list)
    dead: list[Message] = field(default_factory=list)
    sent: int = 0

    @property
    def visibility(self) -> int:
        """Return the visibility timeout of the template."""
        return 6 * TIMEOUT_S[self.function]

    def send(self, body: str, visible_at: int) -> None:
        self.sent += 1
        self.messages.append(Message(f"{self.function} {self.sent}", body, visible_at))

    def receive(self, count: int, now: int, rng: random.Random) -> list[Message]:
        visible = [message for message in self.messages if message.visible_at <= now]
        taken = rng.sample(visible, min(count, len(visible)))
        for message in list(taken):
            message.received += 1
            message.visible_at = now + self.visibility
            if message.received > self.limit:
                self.messages.remove(message)
                self.dead.append(message)
                taken.remove(message)
        return taken

    def delete(self, message: Message) -> None:
        if message in self.messages:
            self.messages.remove(message)

    def subjects(self) -> set[str]:
        return {key for message in self.messages for key in keys_of(message.body)}


keys_of = cache(events.keys)


class Actor:
    """One run of a handler, in a thread that moves only when the driver resumes it."""

    def __init__(
        self, name: str, deadline: int, job: Callable[[Actor], None], back: threading.Lock, keys: frozenset[str]
    ) -> None:
        self.name = name
        self.keys = keys  # the subjects of the messages that it handles
        self.held: list[Message] = []  # hidden for as long as it lives
        self.deadline = deadline
        self.speed = 1.0
        self.done = False
        self.killed = False
        self.error: BaseException | None = None
        self._job = job
        self._back = back
        self._go = threading.Lock()
        self._go.acquire()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def step(self) -> None:
        """Let it make one storage call and stop before the next."""
        self._go.release()
        self._back.acquire()

    def pause(self) -> None:
        """Pause its own thread before each call."""
        if not self.killed:
            self._back.release()
            self._go.acquire()
        if self.killed:
            raise Killed

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.killed:
                self._job(self)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  (handed to the driver, which raises it)
            self.error = error
        finally:
            self.done = True
            self._back.release()


class World:
    """Bucket, queues, clock and running handlers. `check` is called after every change of the bucket."""

    def __init__(self, seed: int, rates: Rates, variables: Mapping[str, str]) -> None:
        self.rng = random.Random(seed)
        self.rates = rates
        # Without leases publishers race all the time. Correctness must not depend on leases. Publish
        # waits for a quarter of the time that it has left.
        self.publish_left_s = self.rng.choice((0, 4, TIMEOUT_S["publish"]))
        host = Host(lambda: self.now, lambda: self.clock, lambda _seconds: None)
        self.functions = Functions(variables, lambda: host, self._watch)
        self.objects: dict[str, Stored] = {}
        self.generations: dict[str, list[Stored]] = {}  # key -> all that it ever was
        self.tagged: set[tuple[str, str]] = set()  # key and version id of each object that the edge may serve
        self.history: dict[str, set[tuple[int, str]]] = {}  # key of an image file -> (size, sha256) it ever had
        limit = 5 if rates.event_dropped else 1 << 30
        self.arrivals, self.changes = Queue("digest", limit), Queue("publish", limit)
        self.actors: list[Actor] = []
        self.injected: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()  # wrong entries, by why they were no fault yet; by `check`
        self.clock = 0
        self.change = 0  # counts changes of the bucket
        self.unexpected: list[Exception] = []  # errors that a batch would hide
        self.lost: dict[VersionId | ProductId, int] = {}  # subject of each lost event, and the change that it followed
        self.check: Callable[[], None] = lambda: None
        self.on_delete: Callable[[str], None] = lambda _: None  # before a handler of ours deletes anything
        self.on_done: Callable[[Actor], None] = lambda _: None  # after a handler ended, however it did
        self.on_change: Callable[[str], None] = lambda _: None  # after an object came or went, before `check`
        self.on_open: Callable[[str, bytes | None], None] = lambda _key, _record: None  # see FaultyStore.open
        self._back = threading.Lock()
        self._back.acquire()

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.clock)

    # ── the bucket ──────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, key: str, body: bytes, content_encoding: str = "", parts: int = 1) -> Stored:
        """Store an object and send its event, as S3 does for anybody."""
        md5 = hashlib.md5(body).hexdigest()
        etag = f'"{md5}"' if parts == 1 else f'"{hashlib.md5(md5.encode()).hexdigest()}-{parts}"'
        sha256, earlier = hashlib.sha256(body).hexdigest(), self.generations.setdefault(key, [])
        stored = Stored(body, etag, self.now, sha256, content_encoding, f"v{len(earlier)}")
        self.objects[key] = stored
        earlier.append(stored)
        if key.startswith("images"):
            self.history.setdefault(key, set()).add((len(body), stored.sha256))
        self._changed(key)
        return stored

    def remove(self, key: str) -> None:
        del self.objects[key]
        self._changed(key)

    def _changed(self, key: str) -> None:
        self.change += 1
        self.on_change(key)
        if key.startswith("images"):
            self._notify(self.arrivals, key)
        elif key.startswith("versions/"):
            self._notify(self.changes, key)
        self.check()

    def _notify(self, queue: Queue, key: str) -> None:
        if self._happens("event_dropped"):
            subject = subject_of(queue is self.arrivals, key)
            if subject:
                self.lost[subject] = self.change
            return
        for _ in range(2 if self._happens("event_doubled") else 1):
            delay = self.rng.randrange(1, 600) if self._happens("event_delayed") else 0
            queue.send(s3_event(key, BUCKET), self.clock + delay)

    def _happens(self, fault: str) -> bool:
        chance: float = getattr(self.rates, fault)
        if chance and self.rng.random() < chance:
            self.injected[fault] += 1
            return True
        return False

    def receive(self, queue: Queue, most: int) -> list[Message]:
        """Return a batch for a handler. A message that becomes a dead letter is as lost as an event that never came."""
        dead = len(queue.dead)
        taken = queue.receive(self.rng.randint(1, most), self.clock, self.rng)
        for message in queue.dead[dead:]:
            self.injected["dead_letter"] += 1
            for key in keys_of(message.body):
                if subject := subject_of(queue is self.arrivals, key):
                    self.lost[subject] = self.change
        return taken

    # ── the handlers ────────────────────────────────────────────────────────────────────────────────────────────

    def start_batch(self, queue: Queue, messages: list[Message]) -> None:
        """Start the function of a queue on some of its messages."""
        number = self.counted[f"{queue.function} runs"]
        keys = frozenset(key for message in messages for key in keys_of(message.body))
        self.start(f"{queue.function} {number}", queue.function, lambda call: self._handle(call, queue, messages), keys)
        self.counted[f"{queue.function} runs"] += 1

    def start(self, title: str, name: str, job: Callable[[Call], None], keys: frozenset[str] = frozenset()) -> None:
        """Start a function together with what its caller does around it."""
        limit = self.publish_left_s if name == "publish" else TIMEOUT_S[name]

        def run(actor: Actor) -> None:
            store, sqs = FaultyStore(self, actor), FaultySqs(self, actor)

            def call(event: Mapping[str, Any], **replaced: object) -> Any:
                answer = self.functions.invoke(name, event, Context(name, 1000 * limit), store, sqs, **replaced)
                actor.pause()  # an answer may get lost too
                return answer

            job(call)

        self.actors.append(Actor(title, self.clock + TIMEOUT_S[name], run, self._back, keys))
        self.actors[-1].speed = self.rng.choice((1.0, 1.0, SLOW)) if self.rates.killed else 1.0

    def _handle(self, call: Call, queue: Queue, messages: list[Message]) -> None:
        """Handle a batch like Lambda: delete the messages that the answer does not name as failed."""
        batch = [sqs_record(message.name, message.name, message.body, message.received) for message in messages]
        failed = {failure["itemIdentifier"] for failure in call({"Records": batch})["batchItemFailures"]}
        self.counted["messages left in the queue"] += len(failed)
        for message in messages:
            if message.name not in failed:
                queue.delete(message)

    def _watch(self, app: ModuleType) -> None:
        """Note what digest and publish finished, and errors that were not injected."""
        operation = {"digest": "ingest", "publish": "publish"}.get(app.__name__.rpartition(".")[2])
        if operation:
            setattr(app, operation, self._noted(getattr(app, operation)))

    def _noted(self, operation: Callable[..., Ingested | Published]) -> Callable[..., Ingested | Published]:
        def noted(*arguments: Any) -> Ingested | Published:
            began = self.change
            try:
                done = operation(*arguments)
            except Exception as error:
                self.counted[f"left in the queue: {type(error).__name__}"] += 1
                if not isinstance(error, SimplestreamsError):
                    self.unexpected.append(error)
                raise
            if isinstance(done, Published):
                subjects: set[VersionId | ProductId] = {*map(product_of, arguments[1])}
                subjects -= done.failed.keys()
            else:
                subjects = set() if done.outcome == "leased by another worker" else {done.version}
            for subject in subjects:
                if self.lost.get(subject, began + 1) <= began:
                    del self.lost[subject]
            return done

        return noted

    def wait(self, seconds: int) -> None:
        """Let time pass. A handler that reaches its timeout is killed, as by Lambda."""
        self.clock += seconds
        for actor in [actor for actor in self.actors if actor.deadline < self.clock]:
            self.kill(actor)
        for actor in self.actors:
            for message in actor.held:
                message.visible_at = self.clock + HIDDEN_S

    def somebody(self) -> Actor:
        """Return the handler to resume next. Some are slow: whole runs of others fit between two of their calls."""
        return self.rng.choices(self.actors, [actor.speed for actor in self.actors])[0]

    def advance(self, actor: Actor) -> None:
        """Resume a handler until its next storage call."""
        actor.step()
        for error in (actor.error, *self.unexpected):
            if error:
                raise error
        if actor.done:
            self.actors.remove(actor)
            self.on_done(actor)

    def kill(self, actor: Actor) -> None:
        actor.killed = True
        self.injected["killed"] += 1
        self.advance(actor)

    # ── what is still owed ──────────────────────────────────────────────────────────────────────────────────────

    def owed(self, version: VersionId) -> str:
        """Return why a wrong entry of this version is no fault yet: an event about it is lost, queued or in flight."""
        if version in self.lost or version.product in self.lost:
            return "a lost event"
        if any(key.startswith(version.prefix) for key in self.arrivals.subjects()):
            return "an event of its files"
        if any(key.startswith(version.product.records_prefix) for key in self.changes.subjects()):
            return "an event of its product's records"
        return ""

    def quiet(self, version: VersionId) -> bool:
        """Return whether the last change of its folder was fully ingested, and nothing ingests it now."""
        at_work = {key for actor in self.actors for key in actor.keys}
        owed = (key.startswith(version.prefix) for key in self.arrivals.subjects() | at_work)
        return version not in self.lost and not any(owed)

    def folded(self) -> bool:
        """Return whether every change of a record was published, and nothing publishes now."""
        busy = any(actor.name.startswith("publish") for actor in self.actors)
        return not (busy or self.changes.messages or any(isinstance(subject, ProductId) for subject in self.lost))

    def drain(self) -> None:
        """Stop all faults and let everybody finish and messages come back until there is nothing left to do."""
        self.rates = NO_FAULTS
        while self.actors or self.arrivals.messages or self.changes.messages:
            if len(self.actors) < 4 and (batch := self.receive(self.arrivals, 3)):
                self.start_batch(self.arrivals, batch)
            if len(self.actors) < 6 and (batch := self.receive(self.changes, 3)):
                self.start_batch(self.changes, batch)
            if self.actors:  # concurrent to the end: the last race must end well too
                self.advance(self.somebody())
            else:
                self.clock += 30
        self.clock += TIMEOUT_S["digest"]  # leases of killed workers run out

    def run(self, name: str, event: Mapping[str, Any]) -> Any:
        """Run one function from start to end, and return its answer."""
        answers: list[Any] = []
        self.start(name, name, lambda call: answers.append(call(event)))
        actor = self.actors[-1]
        while not actor.done:
            self.advance(actor)
        return answers[0]


def subject_of(arrival: bool, key: str) -> VersionId | ProductId | None:
    """Return the subject of an event about a key; None for a key that no handler processes."""
    try:
        return version_of(key) if arrival else product_of_records(key)
    except InvalidUpload:
        return None


class FaultyStore:
    """imageserver.storage.port.Store over a World for one handler. Every call may fail in every way of S3."""

    def __init__(self, world: World, actor: Actor) -> None:
        self._world = world
        self._actor = actor
        self._records: dict[str, bytes | None] = {}  # as last read

    def read(self, key: str) -> StoredObject | None:
        self._before(key)
        found = self._world.objects.get(key)
        if key.startswith("versions/"):
            self._records[key] = found.body if found else None
        return (
            StoredObject(found.body, found.etag, (self._world.now - found.modified).total_seconds()) if found else None
        )

    def create(self, key: str, body: bytes) -> str | None:
        return self._conditionally(key, lambda found: found is None, lambda: self._world.put(key, body).etag)

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        return self._conditionally(
            key, lambda found: found is not None and found.etag == revision, lambda: self._world.put(key, body).etag
        )

    def delete(self, key: str, revision: str) -> bool:
        def effect() -> str:
            self._world.on_delete(key)
            self._world.remove(key)
            return "deleted"

        return bool(self._conditionally(key, lambda found: found is not None and found.etag == revision, effect))

    def history(self, key: str) -> KeyHistory:
        self._before(key)
        kept = reversed(self._world.generations.get(key, []))
        return KeyHistory(tuple(stored.info(key) for stored in kept), key not in self._world.objects)

    def bring_back(self, upload: ObjectInfo) -> bool:
        (hidden,) = [o for o in self._world.generations[upload.key] if o.version_id == upload.version_id]

        def effect() -> str:
            self._world.counted["uploads brought back"] += 1
            parts = int(hidden.etag.strip('"').partition("-")[2] or 1)
            return self._world.put(upload.key, hidden.body, hidden.content_encoding, parts).etag

        return bool(self._conditionally(upload.key, lambda found: found is None, effect))

    def tag_listed(self, key: str, version_id: str) -> bool:
        self._before(key)
        self._world.tagged.add((key, version_id))
        return True

    def is_tagged(self, key: str) -> bool:
        self._before(key)
        found = self._world.objects.get(key)
        return found is not None and (key, found.version_id) in self._world.tagged

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Yield each page as the bucket is at that moment. Any page may fail, even after others."""
        page = 1000 if prefix.count("/") == 6 else PAGE
        while True:
            self._before(prefix)
            found = sorted((k, o) for k, o in self._world.objects.items() if k.startswith(prefix) and k > after)
            for key, o in found[:page]:
                yield o.info(key) if key.startswith("images") else replace(o.info(key), version_id="")
                after = key
            if len(found) <= page:
                return
            self._world.counted["listings of more pages"] += 1

    def earlier(self, key: str) -> Iterator[bytes]:
        self._before(key)
        found = self._world.objects.get(key)
        kept = self._world.generations.get(key, [])
        yield from (stored.body for stored in reversed(kept[:-1] if found else kept))

    def open(self, key: str, etag: str) -> Opened:
        """Open an object, and call `on_open` with the record from which the handler decided."""
        self._before(key)
        found = self._pinned(key, etag)
        self._world.on_open(key, self._records.get(f"versions/{key.rpartition('/')[0]}.json"))
        return Opened(len(found.body), found.content_encoding, self._chunks(key, etag, len(found.body)))

    def _chunks(self, key: str, etag: str, size_bytes: int) -> Iterator[bytes]:
        """Yield a body in halves. One that is cut short yields less, and then raises the error that the port promises.

        A silent end is not injected here: the ranged reader never ends so (tests/component/test_stream.py and
        servers/fault_proxy.py cut real bodies), and no user of the port counts bytes again.
        """
        half = max(1, size_bytes // 2)
        for start in range(0, size_bytes, half):
            self._before(key)
            chunk = self._pinned(key, etag).body[start : start + half]
            if self._world._happens("truncated"):
                yield chunk[: self._world.rng.randrange(len(chunk))]
                raise StorageUnavailable(f"the body of {key} ended early, more often than it is tried")
            yield chunk

    def _pinned(self, key: str, etag: str) -> Stored:
        found = self._world.objects.get(key)
        if found is None or found.etag != etag:
            raise ObjectChanged(key)
        return found

    def _before(self, key: str) -> None:
        self._actor.pause()
        self._world.counted["storage calls"] += 1
        for fault in ("answer_500", "answer_503", "no_answer"):
            if self._world._happens(fault):
                raise StorageUnavailable(f"{fault} for {key}")
        if self._world._happens("denied"):
            raise StorageDenied(f"403 for {key}")

    def _conditionally(self, key: str, holds: Callable[[Stored | None], bool], effect: Callable[[], str]) -> str | None:
        usual = self._actor.speed
        if self._world._happens("stalled"):
            self._actor.speed = SLOW
        self._before(key)
        self._actor.speed = usual
        if self._world._happens("conflict"):
            return None  # 409: another conditional write was under way, which may have failed
        if not holds(self._world.objects.get(key)):
            return None
        answer = effect()
        if self._world._happens("reply_lost"):
            raise StorageUnavailable(f"timeout for {key}, after the write took effect")
        if self._world._happens("reply_lost_and_sent_again"):
            return None  # the SDK retries and meets its own first write: 412
        return answer


class FaultySqs:
    """The SQS client of a run. Its calls may be refused, and the run may be killed before each."""

    def __init__(self, world: World, actor: Actor) -> None:
        self._world = world
        self._actor = actor

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> None:
        self._before("SendMessage")
        self._queue(QueueUrl).send(MessageBody, self._world.clock)

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Hide messages. Those hidden for HIDDEN_S stay hidden while the run lives."""
        self._before("ChangeMessageVisibilityBatch")
        seconds = {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for entry in Entries}
        for message in self._queue(QueueUrl).messages:
            if message.name in seconds:
                message.visible_at = self._world.clock + seconds[message.name]
        self._actor.held = [m for m in self._queue(QueueUrl).messages if seconds.get(m.name) == HIDDEN_S]
        return {}

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self._before("DeleteMessageBatch")
        queue, receipts = self._queue(QueueUrl), {entry["ReceiptHandle"] for entry in Entries}
        for message in [message for message in queue.messages if message.name in receipts]:
            queue.delete(message)
        return {}

    def _queue(self, url: str) -> Queue:
        return {ARRIVALS: self._world.arrivals, CHANGES: self._world.changes}[url]

    def _before(self, operation: str) -> None:
        self._actor.pause()
        if self._world._happens("queue_refused"):
            raise ClientError({"Error": {"Code": "ServiceUnavailable", "Message": "Service Unavailable"}}, operation)


class InTurnPool:
    """Stands in for ThreadPoolExecutor in a handler, so that a run depends only on its seed."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> InTurnPool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[..., _R], *lists: Iterable[object]) -> list[_R]:
        return [function(*arguments) for arguments in zip(*lists, strict=False)]
