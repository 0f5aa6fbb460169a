"""Messages that AWS sends to our queues."""

from __future__ import annotations

import json
from urllib.parse import quote


def s3_event(key: str, bucket: str = "images") -> str:
    """Return the body of the message that S3 sends to a queue when an object is written."""
    s3 = {"bucket": {"name": bucket}, "object": {"key": quote(key)}}
    return json.dumps({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3}]})
