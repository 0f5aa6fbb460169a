"""When a message that failed is tried again, and the messages of our own.

A queue hides a message for six times its function's timeout, which is right for a function that was killed
and far too long after a passing fault: for digest an hour and a half. A function that still can says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from imageserver.aws import events
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import ProductId, VersionId

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

_FIRST_S: Final = 20
_LONGEST_S: Final = 3600


class Notifier(Protocol):
    """Ask the functions to look again, as an S3 event would. Both methods raise StorageUnavailable."""

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
    """Return how long a message rests after its n-th try: 20 s, then four times as long each time, an hour at most."""
    tries_before = min(max(receive_count, 1) - 1, 10)
    return min(_LONGEST_S, _FIRST_S * int(4**tries_before))


def try_again_soon(client: SQSClient, queue_url: str, records: Iterable[Mapping[str, Any]], failed: set[str]) -> str:
    """Shorten the rest of the messages whose ids are in `failed`; `records` are those of the event.

    Returns what went wrong, empty if nothing: then they come back when their visibility timeout ends.
    """
    try:
        for record in records:
            if record["messageId"] in failed:
                client.change_message_visibility(
                    QueueUrl=queue_url,
                    ReceiptHandle=record["receiptHandle"],
                    VisibilityTimeout=pause_s(int(record["attributes"]["ApproximateReceiveCount"])),
                )
    except (ClientError, BotoCoreError) as error:
        return str(error)
    return ""


def send(client: SQSClient, queue_url: str, body: str) -> None:
    """Put a message into a queue. Raise StorageUnavailable if the queue does not take it now."""
    try:
        client.send_message(QueueUrl=queue_url, MessageBody=body)
    except (ClientError, BotoCoreError) as error:
        raise StorageUnavailable(f"the queue {queue_url} took no message: {error}") from error
