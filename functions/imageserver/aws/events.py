"""Messages of the queues arrivals, changes and access logs: S3's event notifications, and one form of our own.

    {"Records": [{"s3": {"object": {"key": "images/ubuntu/noble/amd64/default/20261123_10%3A00/lxd.tar.xz"}}}]}
    {"changed": "images/ubuntu/noble/amd64/default/20261123_10:00/"}

S3 sends the first when an object is written or deleted. Functions and tools send the second to have everything below a
prefix looked at again: a version's folder in arrivals, the records of a product in changes. Neither says more than
"look again": the kind, order and number of messages carry no meaning. Only S3 sends to the queue of access logs.
"""

import json
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import unquote_plus

import msgspec

_OTHER_FORM: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What a message of another form raises. The errors of msgspec are ValueErrors."""


class UnreadableEvent(ValueError):
    """A message that no release can read; it belongs in the dead-letter queue."""


class _Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Our own message. `changed` is a prefix of keys, with its final slash and not URL-encoded."""

    changed: Annotated[str, msgspec.Meta(pattern=r"^(images|versions/).*/\Z")]


class Upload(NamedTuple):
    """One upload of a key, as S3 reports it."""

    key: str
    etag: str


def keys(body: str) -> list[str]:
    """Return the object keys that a message names, or its prefix. S3's test event and an empty message name none.

    Raise UnreadableEvent for any other form.
    """
    try:
        message: dict[str, Any] = json.loads(body)
        if "changed" in message:
            return [msgspec.convert(message, _Changed).changed]
        if message.get("Event") == "s3:TestEvent":
            return []
        return [unquote_plus(record["s3"]["object"]["key"]) for record in message["Records"]]
    except _OTHER_FORM as error:
        expected = 'an S3 event notification or {"changed": "<prefix>/"}'
        raise UnreadableEvent(f"expected {expected}, found {body[:200]!r} ({error!r})") from error


def uploads(body: str) -> list[Upload]:
    """Return the uploads that a message of S3 names; its test event names none. Raise UnreadableEvent."""
    try:
        message: dict[str, Any] = json.loads(body)
        if message.get("Event") == "s3:TestEvent":
            return []
        objects = [record["s3"]["object"] for record in message["Records"]]
        return [Upload(unquote_plus(one["key"]), f'"{one["eTag"]}"') for one in objects]
    except _OTHER_FORM as error:
        raise UnreadableEvent(
            f"expected S3's event notification of an upload, found {body[:200]!r} ({error!r})"
        ) from error


def changed(prefix: str) -> str:
    """Return the message that asks to look again at everything below a prefix, given with its final slash."""
    return msgspec.json.encode(_Changed(prefix)).decode()
