"""An SQS queue in memory, with the clock of a test, and with Lambda's poller."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

QUEUE_URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/queue"


@dataclass
class Message:
    """A message. `visible_at` is in seconds of the clock, `received` counts its receives."""

    id: str
    body: str
    visible_at: float = 0.0
    received: int = 0


@dataclass
class MemoryQueue:
    """Delivers at least once, in any order. After `limit` receives, the next attempt makes a message a dead letter.

    `rests` has the seconds for which each message was last hidden, `deleted` those that a handler deleted itself.
    """

    visibility_s: float = 5400.0
    limit: int = 5
    clock: float = 0.0
    messages: dict[str, Message] = field(default_factory=dict)
    dead: list[Message] = field(default_factory=list)
    rests: dict[str, int] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def send(self, *bodies: str) -> None:
        for body in bodies:
            message = Message(str(next(self._ids)), body, self.clock)
            self.messages[message.id] = message

    def visible(self) -> list[Message]:
        return [message for message in self.messages.values() if message.visible_at <= self.clock]

    def receive(self, wanted: list[Message]) -> dict[str, Any]:
        """Return the event that Lambda makes of these messages."""
        taken = []
        for message in wanted:
            message.received += 1
            message.visible_at = self.clock + self.visibility_s
            if message.received > self.limit:
                self.dead.append(self.messages.pop(message.id))
            else:
                taken.append(message)
        return {
            "Records": [
                {
                    "messageId": message.id,
                    "receiptHandle": message.id,
                    "body": message.body,
                    "attributes": {"ApproximateReceiveCount": str(message.received)},
                }
                for message in taken
            ]
        }

    def handled(self, event: dict[str, Any], answer: dict[str, Any]) -> None:
        """Delete the messages that did not fail, as Lambda's poller does after a run."""
        failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        for record in event["Records"]:
            if record["messageId"] not in failed:
                self.messages.pop(record["messageId"], None)

    # ── what boto3's client offers ──────────────────────────────────────────────────────────────────────────────────

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        assert QueueUrl == QUEUE_URL
        for entry in Entries:
            self.rests[entry["ReceiptHandle"]] = entry["VisibilityTimeout"]
            if entry["ReceiptHandle"] in self.messages:
                self.messages[entry["ReceiptHandle"]].visible_at = self.clock + entry["VisibilityTimeout"]
        return {}

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        assert QueueUrl == QUEUE_URL
        for entry in Entries:
            self.deleted.append(entry["ReceiptHandle"])
            self.messages.pop(entry["ReceiptHandle"], None)
        return {}

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> dict[str, Any]:
        assert QueueUrl == QUEUE_URL
        self.send(MessageBody)
        return {}
