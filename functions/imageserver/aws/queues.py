"""Decide when a failed message is tried again, and send the project's own messages.

A queue hides a message for six times its function's timeout, because Lambda may wait that long before it can start the
function. After a temporary fault or a killed process that is far too long: an hour and a half for digest. A running
function therefore sets the visibility of its messages itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from botocore.exceptions import BotoCoreError, ClientError

from imageserver.aws import events
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import ProductId, VersionId

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

HIDDEN_S: Final = 60
"""The time after which a message of a process that died comes back."""
RENEW_S: Final = 20.0
_FIRST_S: Final = 20
_LONGEST_S: Final = 3600
_MOST_IN_A_CALL: Final = 10
"""Messages that SQS takes in one call."""


class Notifier(Protocol):
    """Asks the functions to look again, as an S3 event would. Both methods raise StorageUnavailable."""

    def version_changed(self, version: VersionId) -> None:
        """Have digest compare a version's folder with its record."""

    def product_changed(self, product: ProductId) -> None:
        """Have publish compare a product's records with the catalog."""


@dataclass(frozen=True, slots=True)
class QueueNotifier:
    """The Notifier of a deployed server: `arrivals_url` is the queue of digest, `changes_url` that of publish."""

    client: SQSClient
    arrivals_url: str
    changes_url: str

    def version_changed(self, version: VersionId) -> None:
        send(self.client, self.arrivals_url, events.changed(version.prefix))

    def product_changed(self, product: ProductId) -> None:
        send(self.client, self.changes_url, events.changed(product.records_prefix))


def pause_s(receive_count: int) -> int:
    """Return how long a message is hidden after its n-th try: 20 s, then four times as long each time, to an hour."""
    tries_before = min(max(receive_count, 1) - 1, 10)
    return min(_LONGEST_S, _FIRST_S * int(4**tries_before))


def tries_of(record: Mapping[str, Any]) -> int:
    """Return how often a message of an event was received, this time included."""
    return int(record["attributes"]["ApproximateReceiveCount"])


class Hold:
    """Keeps the messages of an event hidden while the process lives, and little longer.

    Inside its context a thread keeps hiding them for another HIDDEN_S. However the process ends, they come back within
    that time and not after the queue's visibility timeout. `problem` is the error of the queue, if there was one.
    Without a client it does nothing.
    """

    def __init__(self, client: SQSClient | None, queue_url: str, records: Iterable[Mapping[str, Any]]) -> None:
        self.problem = ""
        self._client = client
        self._queue_url = queue_url
        self._held = {record["messageId"]: record["receiptHandle"] for record in records}
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="hold", daemon=True)

    def __enter__(self) -> Self:
        self._hide([(receipt, HIDDEN_S) for receipt in self._held.values()])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def delete(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Delete handled messages, each once."""
        with self._one_at_a_time:
            entries = [{"ReceiptHandle": receipt} for record in records if (receipt := self._let_go(record))]
            self._ask("delete_message_batch", entries)

    def rest(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Hide failed messages for `pause_s`, counted from now."""
        with self._one_at_a_time:
            self._hide([(receipt, pause_s(tries_of(r))) for r in records if (receipt := self._let_go(r))])

    def _let_go(self, record: Mapping[str, Any]) -> str:
        return str(self._held.pop(record["messageId"], ""))

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with self._one_at_a_time:
                self._hide([(receipt, HIDDEN_S) for receipt in self._held.values()])

    def _hide(self, messages: Iterable[tuple[str, int]]) -> None:
        entries = [{"ReceiptHandle": receipt, "VisibilityTimeout": seconds} for receipt, seconds in messages]
        self._ask("change_message_visibility_batch", entries)

    def _ask(self, call: str, entries: list[dict[str, Any]]) -> None:
        """Call SQS for the messages, as many at a time as it takes."""
        for start in range(0, len(entries) if self._client else 0, _MOST_IN_A_CALL):
            some = entries[start : start + _MOST_IN_A_CALL]
            part = [{"Id": str(number), **entry} for number, entry in enumerate(some)]
            try:
                refused = getattr(self._client, call)(QueueUrl=self._queue_url, Entries=part).get("Failed", ())
            except (ClientError, BotoCoreError) as error:
                self.problem = str(error)
            else:
                self.problem = "; ".join(f"{one['Code']} {one.get('Message', '')}" for one in refused) or self.problem


def send(client: SQSClient, queue_url: str, body: str) -> None:
    """Send a message to a queue. Raise StorageUnavailable if the queue does not accept it now."""
    try:
        client.send_message(QueueUrl=queue_url, MessageBody=body)
    except (ClientError, BotoCoreError) as error:
        raise StorageUnavailable(f"the queue {queue_url} took no message: {error}") from error


def send_all(client: SQSClient, queue_url: str, bodies: Iterable[str]) -> None:
    """Send messages to a queue, ten in a call.

    Raise StorageUnavailable unless it accepted all; it may have some of them.
    """
    left = list(bodies)
    for start in range(0, len(left), _MOST_IN_A_CALL):
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(number), "MessageBody": body}
            for number, body in enumerate(left[start : start + _MOST_IN_A_CALL])
        ]
        try:
            refused = client.send_message_batch(QueueUrl=queue_url, Entries=entries).get("Failed", [])
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable(f"the queue {queue_url} took no messages: {error}") from error
        if refused:
            why = "; ".join(f"{one['Code']} {one.get('Message', '')}" for one in refused)
            raise StorageUnavailable(f"the queue {queue_url} did not take {len(refused)} messages: {why}")
