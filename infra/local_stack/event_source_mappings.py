"""Event source mappings: take messages from a queue, pass them to a function in batches, delete the handled ones.

As in AWS (Lambda Developer Guide, "Using Lambda with Amazon SQS" and "Handling errors for an SQS event source"):
a batch is sent when it is full or its window has passed. Messages that the function reports as failed, or all of them
if it raises or its answer is malformed, stay in the queue until their visibility timeout ends and then come again,
until the queue's redrive policy moves them to the dead letters.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from local_stack.lambda_pool import Outcome
from local_stack.wiring import SourceMapping

log = logging.getLogger(__name__)

MOST_PER_RECEIVE: Final = 10
"""SQS returns at most ten messages per call."""
POLL_S: Final = 1
"""A long poll ends after this, so that stopping never waits longer."""

Message = Mapping[str, Any]


class Poller:
    """A poller that serves one mapping until stopped. `invoke` runs the function; `failed` gets each failure."""

    def __init__(
        self,
        mapping: SourceMapping,
        sqs: Any,
        invoke: Callable[[str, Any], Outcome],
        failed: Callable[[str, str], None],
        concurrency: int,
    ) -> None:
        self._mapping = mapping
        self._sqs = sqs
        self._invoke = invoke
        self._failed = failed
        self._url = sqs.get_queue_url(QueueName=mapping.queue_arn.rsplit(":", 1)[1])["QueueUrl"]
        self._slots = threading.BoundedSemaphore(concurrency)
        self._runners = ThreadPoolExecutor(concurrency, thread_name_prefix=mapping.logical_id)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=mapping.logical_id, daemon=True)

    def start(self) -> None:
        """Begin to poll in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more messages; do not wait for running invocations."""
        self._stopping.set()
        self._runners.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            # A slot first: a message that is received and has to wait for one would use up its visibility.
            if not self._slots.acquire(timeout=POLL_S):
                continue
            try:
                batch = self._gather()
            except (BotoCoreError, ClientError) as error:
                batch = []
                if not self._stopping.is_set():
                    log.warning("%s: the queue does not answer: %s", self._mapping.logical_id, error)
                    self._stopping.wait(POLL_S)
            if batch and not self._stopping.is_set():
                self._runners.submit(self._deliver, batch)
            else:
                self._slots.release()

    def _gather(self) -> list[Message]:
        """Return a batch: full, or everything that came until its window passed; empty if nothing came."""
        batch: list[Message] = []
        closes = 0.0
        while len(batch) < self._mapping.batch_size and not self._stopping.is_set():
            left_s = closes - time.monotonic() if batch else POLL_S
            if left_s <= 0:
                break
            answer = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(MOST_PER_RECEIVE, self._mapping.batch_size - len(batch)),
                WaitTimeSeconds=0 if batch else POLL_S,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            received = answer.get("Messages", [])
            if not batch:
                if not received:
                    break
                closes = time.monotonic() + self._mapping.window_s
            batch.extend(received)
            if not received:
                self._stopping.wait(min(0.1, max(0.0, closes - time.monotonic())))
        return batch

    def _deliver(self, batch: Sequence[Message]) -> None:
        """Run the function over a batch and delete the messages that it handled."""
        try:
            outcome = self._invoke(self._mapping.function, sqs_event(batch, self._mapping.queue_arn))
            if self._stopping.is_set():
                return  # its worker was ended with the stack; the messages would come again
            failures, reason = failed_ids(outcome, [m["MessageId"] for m in batch], self._mapping.partial_failures)
            if reason:
                self._failed(self._mapping.function, reason)
            handled = [message for message in batch if message["MessageId"] not in failures]
            for start in range(0, len(handled), MOST_PER_RECEIVE):
                entries = [
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(handled[start : start + MOST_PER_RECEIVE])
                ]
                self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        except (BotoCoreError, ClientError):
            if not self._stopping.is_set():
                log.exception(
                    "%s: a finished batch could not be deleted; it is delivered again", self._mapping.logical_id
                )
        finally:
            self._slots.release()


def sqs_event(batch: Sequence[Message], queue_arn: str) -> dict[str, Any]:
    """Return the event that Lambda makes from received messages."""
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message.get("Attributes", {}),
                "messageAttributes": message.get("MessageAttributes", {}),
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": queue_arn,
                "awsRegion": queue_arn.split(":")[3],
            }
            for message in batch
        ]
    }


def failed_ids(outcome: Outcome, sent: Sequence[str], partial_failures: bool) -> tuple[frozenset[str], str]:
    """Return the messages of a batch that stay in the queue, and a sentence if that is worth reporting.

    An empty or absent list of failures means success; a malformed answer, or an identifier that was not in the
    batch, fails the whole batch.
    """
    everything = frozenset(sent)
    if outcome.error:
        return everything, outcome.error
    if not partial_failures or outcome.result is None:
        return frozenset(), ""
    malformed = f"its answer is not a partial batch response: {str(outcome.result)[:200]}"
    if not isinstance(outcome.result, dict):
        return everything, malformed
    listed = outcome.result.get("batchItemFailures") or []
    try:
        failures = frozenset(item["itemIdentifier"] for item in listed)
    except (TypeError, KeyError):
        return everything, malformed
    if not failures <= everything:
        return everything, malformed
    return failures, f"{len(failures)} of {len(sent)} messages failed and will be tried again" if failures else ""
