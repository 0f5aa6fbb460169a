"""Dead letters: what they were about, why they died, and back into the queue."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import notices
from cli.admin.place import Place, Queue
from simplestreams import catalog, records
from simplestreams.errors import CatalogDamaged, RejectedUpload
from simplestreams.keys import RECORDS, VersionId, parse_record_key, version_of
from storage.port import Store

HIDDEN_S: Final = 120
"""How long a letter that was read stays hidden from others; then it is back where it was."""


@dataclass(frozen=True)
class Letter:
    """One dead letter. `diagnosis` is what can be seen now of why it died."""

    queue: str
    body: str
    receipt: str
    sent: str
    received: int
    keys: list[str]
    diagnosis: str


def letters(place: Place, prefix: str, queue: Queue) -> Iterator[Letter]:
    """The dead letters of a queue, each once; they stay in their queue."""
    seen: set[str] = set()
    while True:
        answer = place.sqs.receive_message(
            QueueUrl=queue.dead_letters,
            MaxNumberOfMessages=10,
            VisibilityTimeout=HIDDEN_S,
            AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        new = [message for message in answer.get("Messages", ()) if message["MessageId"] not in seen]
        if not new:
            return
        seen.update(message["MessageId"] for message in new)
        yield from (_letter(place.store, prefix, message) for message in new)


def send_back(place: Place, queue: Queue, letter: Letter) -> None:
    """Put it into its queue, then take it from the dead ones: twice is harmless, never is not."""
    place.sqs.send_message(QueueUrl=queue.url, MessageBody=letter.body)
    place.sqs.delete_message(QueueUrl=queue.dead_letters, ReceiptHandle=letter.receipt)


def _letter(store: Store, prefix: str, message: dict[str, Any]) -> Letter:
    try:
        keys = notices.keys(message["Body"])
        diagnosis = "; ".join(dict.fromkeys(_diagnosis(store, key) for key in keys)) or "it is about nothing"
    except notices.UnreadableNotice as error:
        keys, diagnosis = [], f"no release can read it: {error}; delete it"
    attributes = message.get("Attributes", {})
    return Letter(
        queue=prefix,
        body=message["Body"],
        receipt=message["ReceiptHandle"],
        sent=datetime.fromtimestamp(int(attributes.get("SentTimestamp", 0)) / 1000, UTC).isoformat(timespec="seconds"),
        received=int(attributes.get("ApproximateReceiveCount", 0)),
        keys=keys,
        diagnosis=diagnosis,
    )


def _diagnosis(store: Store, key: str) -> str:
    """What is wrong with what a key is about, as far as it still is."""
    try:
        version = parse_record_key(key) if key.startswith(RECORDS) else version_of(key)
    except RejectedUpload as refusal:
        return f"no version can have this key: {refusal}"
    try:
        record = _record(store, version)
        stream = version.product.stream
        seen = store.read(catalog.products_key(stream))
        for product in catalog.decode_products(seen.body if seen else None, stream).products.values():
            catalog.decode_versions(product)
    except CatalogDamaged as damage:
        return str(damage)
    if record is None:
        return f"{version.path} has no record: every try failed; the log of the digest function says how"
    return f"{version.path} is {record.state} by now; what failed has passed, or another notice did the work"


def _record(store: Store, version: VersionId) -> records.Record | None:
    seen = store.read(version.record_key)
    return records.decode(seen.body, version.record_key) if seen else None
