"""S3 event notifications as they arrive through SQS.

A notice says only "look at this key again": kind, order and number of events are not believed. Sweeps and
tools send notices of the same shape.
"""

import json
from typing import Any
from urllib.parse import quote, unquote_plus


class UnreadableEvent(ValueError):
    """A message that no release of ours can read; it belongs into the dead-letter queue."""


def keys(body: str) -> list[str]:
    """The object keys that a message is about; S3's test event and an empty message are about none."""
    try:
        message: dict[str, Any] = json.loads(body)
        if message.get("Event") == "s3:TestEvent":
            return []
        return [unquote_plus(record["s3"]["object"]["key"]) for record in message["Records"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableEvent(f"expected an S3 event notification, found {body[:200]!r} ({error!r})") from error


def message(bucket: str, key: str) -> str:
    """A message that asks to look at a key again."""
    s3 = {"bucket": {"name": bucket}, "object": {"key": quote(key)}}
    return json.dumps({"Records": [{"eventSource": "simplestreams", "eventName": "Reconcile:Ingest", "s3": s3}]})
