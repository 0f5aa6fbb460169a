"""The process that plays S3 and SQS: moto in server mode behind the rules of s3_rules.py.

Run as `python -m local_stack.s3 DESCRIPTOR`, the number of an inherited socket that listens. It writes JSON lines to
standard output: first {"ready": true}, then each change of an object. It ends when its standard input closes, so it
never outlives the stack that started it.
"""

import functools
import hashlib
import json
import logging
import os
import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import FakeDeleteMarker, S3Backend
from moto.sqs.models import Queue, SQSBackend
from werkzeug.serving import make_server

from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from local_stack.s3_rules import S3Rules, install_real_events


class QuietHandler(MotoRequestHandler):
    """Without an access log line for each request."""

    def log_request(self, *_arguments: object) -> None:
        """Log nothing: the stack reports arrivals itself."""


def main(listener: int) -> None:
    """Serve until standard input closes."""

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    install_real_events()
    _give_etags_at_once()
    _count_messages_when_asked()
    # All generations, in the order of their arrival. moto chooses the newest by date, which two of the same millisecond
    # share, leaves out the first entry after a marker, and first copies every object of the bucket.
    S3Backend.list_object_versions = _generations  # type: ignore[method-assign,assignment]  # moto, in S3's order
    # For each request, moto would list the folder of its services to find the service of the host.
    find = functools.lru_cache(maxsize=100)(DomainDispatcherApplication.get_backend_for_host)
    DomainDispatcherApplication.get_backend_for_host = find  # type: ignore[method-assign]
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    rules = S3Rules(DomainDispatcherApplication(create_backend_app), {ACCESS_KEY: SECRET_KEY}, _tell)
    server = make_server("127.0.0.1", 0, rules, threaded=True, request_handler=QuietHandler, fd=listener)
    _tell({"ready": True})
    server.serve_forever()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _give_etags_at_once() -> None:
    """Compute ETags early: moto computes them on request, from a file whose position other readers share."""
    original = S3Backend.put_object

    @functools.wraps(original)
    def put_object(self: Any, bucket_name: str, key_name: str, value: bytes, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("etag"):
            kwargs["etag"] = hashlib.md5(value, usedforsecurity=False).hexdigest()
        return original(self, bucket_name, key_name, value, *args, **kwargs)

    S3Backend.put_object = put_object  # type: ignore[method-assign]  # moto, as strict as S3


def _count_messages_when_asked() -> None:
    """Count messages only when asked: moto counts all of a queue several times for each one sent or received.

    With a few thousand messages, that was nine tenths of its work.
    """
    counts = {
        "ApproximateNumberOfMessages": "approximate_number_of_messages",
        "ApproximateNumberOfMessagesDelayed": "approximate_number_of_messages_delayed",
        "ApproximateNumberOfMessagesNotVisible": "approximate_number_of_messages_not_visible",
    }
    original = SQSBackend.get_queue_attributes

    @functools.wraps(original)
    def get_queue_attributes(self: Any, queue_name: str, attribute_names: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = original(self, queue_name, [name for name in attribute_names if name not in counts])
        for name, counted in counts.items():
            if name in attribute_names or "All" in attribute_names:
                found[name] = getattr(self.get_queue(queue_name), counted)
        return found

    Queue.BASE_ATTRIBUTES = [name for name in Queue.BASE_ATTRIBUTES if name not in counts]
    SQSBackend.get_queue_attributes = get_queue_attributes  # type: ignore[method-assign]  # moto, as SQS answers


def _generations(
    self: Any,
    bucket_name: str,
    delimiter: str | None = None,
    key_marker: str | None = None,
    max_keys: int = 1000,
    prefix: str = "",
    version_id_marker: str | None = None,
) -> tuple[list[Any], list[str], list[Any], str | None, str | None]:
    """Return generations, common prefixes (none: no delimiter is used here), delete markers, and the next markers."""
    if delimiter:
        raise NotImplementedError("the local stack lists versions without a delimiter only")
    found: list[Any] = []
    after = key_marker or ""
    for name, history in sorted(self.get_bucket(bucket_name).keys.iterlists()):
        if not name.startswith(prefix) or name < after or (name == after and not version_id_marker):
            continue
        newest_first = list(reversed(history))
        for number, generation in enumerate(newest_first):
            generation.is_latest = number == 0
        ids = [str(generation.version_id) for generation in newest_first]
        begins = ids.index(version_id_marker) + 1 if name == after and version_id_marker in ids else 0
        found += newest_first[begins:]
        if len(found) > max_keys:
            break
    shown, last = found[:max_keys], found[max_keys - 1] if len(found) > max_keys else None
    return (
        [one for one in shown if not isinstance(one, FakeDeleteMarker)],
        [],
        [one for one in shown if isinstance(one, FakeDeleteMarker)],
        last and last.name,
        last and str(last.version_id),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
