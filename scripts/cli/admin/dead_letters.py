"""Dead letters: what each message asked for, why it failed, and how to deal with it.

A message is sent back to its queue. A failed run of maintain is not sent again: the schedule starts the next run,
which continues where the last one stopped, so its letter only has to be read and removed. The same holds for a message
that no release can read: a reconcile finds the version or product that it referred to.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from cli.admin import aws_api
from cli.admin.deployment import Deployment
from imageserver.aws import events
from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format import documents
from imageserver.format.keys import RECORDS, parse_record_key, product_of_records, version_of
from imageserver.operations.inventory import record_of
from imageserver.operations.mirror_documents import refusals_of
from imageserver.upstream import messages

HIDDEN_S: Final = 120
"""How long a letter stays hidden from other readers while it is examined."""
WAIT_S: Final = 2
"""A receive without a wait asks only some of SQS's servers and may report a full queue as empty."""
EMPTY: Final = 2
"""Reading ends after this many answers in a row without a new letter."""
TASKS: Final = {"reconcile": "admin reconcile", "prune": "admin prune --yes", "mirror": "admin mirror run NAME"}
COPIES, DELTAS, ACCESS_LOGS = "copies", "deltas", "access-logs"


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter. `diagnosis` is why it failed, as far as can be seen now; `returns`: a retry may help."""

    queue: str
    body: str
    receipt: str
    sent: str
    received: int
    keys: list[str]
    diagnosis: str
    returns: bool


@dataclass
class DeadLetterQueue:
    """A dead-letter queue; `home` is the queue that the letters came from, empty if they cannot be sent back."""

    deployment: Deployment
    name: str
    url: str
    home: str
    _damages: dict[str, str] = field(default_factory=dict)

    def letters(self) -> Iterator[DeadLetter]:
        """Yield each letter once. The caller answers it or puts it back."""
        seen: set[str] = set()
        empty = 0
        while empty < EMPTY:
            answer = self.deployment.sqs.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=10,
                VisibilityTimeout=HIDDEN_S,
                WaitTimeSeconds=WAIT_S,
                AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
                MessageAttributeNames=["All"],
            )
            new = [message for message in answer.get("Messages", ()) if message["MessageId"] not in seen]
            seen.update(message["MessageId"] for message in new)
            empty = 0 if new else empty + 1
            yield from map(self._letter, new)

    def answer(self, letter: DeadLetter) -> str:
        """Remove a letter, and send it back first if a retry may help. Return which of the two was done."""
        if letter.returns:
            # Sent before it is removed: a duplicate is harmless, a loss is not. Without an ID, it was not sent.
            aws_api.read(
                self.deployment.sqs.send_message(QueueUrl=self.home, MessageBody=letter.body), aws_api.SentMessage
            )
        self.deployment.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=letter.receipt)
        return "sent back" if letter.returns else "removed"

    def put_back(self, letter: DeadLetter) -> None:
        """Make a letter visible to the next reader at once."""
        with suppress(ClientError):  # it is visible again already, or soon will be
            self.deployment.sqs.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=letter.receipt, VisibilityTimeout=0
            )

    def _letter(self, message: dict[str, Any]) -> DeadLetter:
        keys, diagnosis, returns = self._read(message) if self.home else ([], _failed_run(message), False)
        attributes = message.get("Attributes", {})
        sent = datetime.fromtimestamp(int(attributes.get("SentTimestamp", 0)) / 1000, UTC)
        return DeadLetter(
            queue=self.name,
            body=message["Body"],
            receipt=message["ReceiptHandle"],
            sent=sent.isoformat(timespec="seconds"),
            received=int(attributes.get("ApproximateReceiveCount", 0)),
            keys=keys,
            diagnosis=diagnosis,
            returns=returns,
        )

    def _read(self, message: dict[str, Any]) -> tuple[list[str], str, bool]:
        if self.name == COPIES:
            return self._read_copy(message["Body"])
        is_log = self.name == ACCESS_LOGS
        try:
            keys = events.keys(message["Body"])
        except events.UnreadableEvent as error:
            left = "and a log may still hold tokens" if is_log else "admin reconcile finds its object"
            return [], f"no release can read it: {error}; --yes removes it, {left}", False
        if is_log:
            return keys, "it may hold tokens; the log of redact says why it was not read", True
        diagnoses = dict.fromkeys(map(self._diagnosis, keys))
        return keys, "; ".join(diagnoses) or "it names no object", True

    def _read_copy(self, body: str) -> tuple[list[str], str, bool]:
        try:
            wanted = messages.decode(body)
        except messages.UnreadableMessage as error:
            return [], f"no release can read it: {error}; --yes removes it, the mirror asks again", False
        store = self.deployment.store
        if any(info.key == wanted.key for info in store.list(wanted.key)):
            return [wanted.key], "it is here now", True
        refusal = refusals_of(store, wanted.mirror).get(wanted.key)
        why = refusal.reason if refusal else f"{wanted.mirror} did not deliver it; the copy function's log says why"
        return [wanted.key], why, True

    def _diagnosis(self, key: str) -> str:
        """Return what is still wrong with the version or product that a key belongs to."""
        if key.startswith(RECORDS) and key.endswith("/"):
            return self._diagnosis_of_product(key)
        try:
            version = parse_record_key(key) if key.startswith(RECORDS) else version_of(key)
        except InvalidUpload as refusal:
            return f"no version can have this key: {refusal}"
        try:
            record = record_of(self.deployment.store, version)
        except CatalogDamaged as damage:
            return str(damage)
        if damage_of_all := self._damage(version.product.stream):
            return damage_of_all
        if record is None:
            return f"{version.path} has no record: every try failed; the log of the digest function says how"
        passed = "what failed has passed, or another message did the work"
        if key.startswith(RECORDS):  # a failure at the edge leaves no trace in the bucket
            passed += "; if it comes back, the log of the publish function says what failed at the edge"
        return f"{version.path} is {record.state} now; {passed}"

    def _diagnosis_of_product(self, prefix: str) -> str:
        """Return what is wrong with the records below a prefix that was sent to publish or delta."""
        try:
            product = product_of_records(prefix)
        except InvalidUpload as refusal:
            return f"no product can have these records: {refusal}"
        for info in self.deployment.store.list(product.records_prefix):
            try:
                record_of(self.deployment.store, parse_record_key(info.key))
            except (CatalogDamaged, InvalidUpload) as damage:
                return str(damage)
        function = "delta" if self.name == DELTAS else "publish"
        passed = f"the records of {product.path} can be read now; if it comes back, the log of {function} says why"
        return self._damage(product.stream) or passed

    def _damage(self, stream: str) -> str:
        """Return why a stream's document cannot be read. Read it only once: it is large, and letters may be many."""
        if stream not in self._damages:
            found = ""
            try:
                seen = self.deployment.store.read(documents.products_key(stream))
                for product in documents.decode_products(seen.body if seen else None, stream).products.values():
                    documents.decode_versions(product)
            except CatalogDamaged as damage:
                found = str(damage)
            self._damages[stream] = found
        return self._damages[stream]


def queues_of(deployment: Deployment, wanted: str) -> Iterator[DeadLetterQueue]:
    """Yield the dead-letter queues that `wanted`, one of the command's choices, names."""
    for name, prefix in (("arrivals", "images"), ("changes", RECORDS)):
        if wanted in (name, "all"):
            queue = deployment.queue(prefix)
            if queue.dead_letters:  # the doctor reports a missing one
                yield DeadLetterQueue(deployment, name, queue.dead_letters, queue.url)
    if wanted in (COPIES, "all") and deployment.copies_dead_letters:
        yield DeadLetterQueue(deployment, COPIES, deployment.copies_dead_letters, deployment.copies_queue)
    if wanted in (DELTAS, "all") and deployment.deltas_dead_letters:
        yield DeadLetterQueue(deployment, DELTAS, deployment.deltas_dead_letters, deployment.deltas_queue)
    if wanted in (ACCESS_LOGS, "all") and deployment.access_logs_dead_letters:
        yield DeadLetterQueue(
            deployment, ACCESS_LOGS, deployment.access_logs_dead_letters, deployment.access_logs_queue
        )
    if wanted in ("maintain", "all") and deployment.maintain_dead_letters:
        yield DeadLetterQueue(deployment, "maintain", deployment.maintain_dead_letters, "")


def read(dead_letter_queue: DeadLetterQueue, really: bool, found: Callable[[DeadLetter, str], object]) -> None:
    """Call `found` with each letter and what was done with it. Without `really` every letter stays in its queue."""
    kept: list[DeadLetter] = []
    try:
        for letter in dead_letter_queue.letters():
            found(letter, dead_letter_queue.answer(letter) if really else "")
            if not really:
                kept.append(letter)
    finally:
        for letter in kept:
            dead_letter_queue.put_back(letter)


def _failed_run(message: dict[str, Any]) -> str:
    """Describe a failed run of maintain: its schedule could not start it, or it failed twice in Lambda."""
    try:
        body = json.loads(message["Body"])
    except (ValueError, RecursionError):
        body = {}
    body = body if isinstance(body, dict) else {}
    payload, answer = body.get("requestPayload", body), body.get("responsePayload") or {}
    task = payload.get("task") if isinstance(payload, dict) else ""
    task = task if isinstance(task, str) else ""  # what maintain was asked for and refused may be anything
    about = {name: value.get("StringValue", "") for name, value in message.get("MessageAttributes", {}).items()}
    failure = answer if isinstance(answer, dict) else {}
    parts = (failure.get("errorType"), failure.get("errorMessage"), about.get("ERROR_CODE"), about.get("ERROR_MESSAGE"))
    why = ": ".join(str(part) for part in parts if part) or "the log of the maintain function says why"
    now = TASKS.get(task, "admin reconcile; admin prune --yes")
    return (
        f"{task or 'a task'} failed: {why}. The next scheduled run does it; right now: {now}; --yes removes the letter"
    )
