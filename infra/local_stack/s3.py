"""The process that plays S3 and SQS: moto in server mode behind the rules of s3_rules.py.

Run as `python -m local_stack.s3 PORT`; writes JSON lines to standard output, first {"ready": true}, then each change
of an object. It ends when its standard input closes, so it never outlives the stack that started it.
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
from moto.s3.models import S3Backend
from moto.sqs.models import Queue, SQSBackend
from werkzeug.serving import make_server

from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from local_stack.s3_rules import S3Rules, install_real_events


class QuietHandler(MotoRequestHandler):
    """Without an access log line for each request."""

    def log_request(self, *_arguments: object) -> None:
        """Log nothing: the stack tells of arrivals itself."""


def main(port: int) -> None:
    """Serve until standard input closes."""
    _end_with_parent()
    install_real_events()
    _give_etags_at_once()
    _count_messages_when_asked()
    _look_up_hosts_once()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    rules = S3Rules(DomainDispatcherApplication(create_backend_app), {ACCESS_KEY: SECRET_KEY}, _tell)
    server = make_server("127.0.0.1", port, rules, threaded=True, request_handler=QuietHandler)
    _tell({"ready": True})
    server.serve_forever()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _give_etags_at_once() -> None:
    """Compute ETags before they are asked for: moto does it then, from a file whose position other readers share."""
    original = S3Backend.put_object

    @functools.wraps(original)
    def put_object(self: Any, bucket_name: str, key_name: str, value: bytes, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("etag"):
            kwargs["etag"] = hashlib.md5(value, usedforsecurity=False).hexdigest()
        return original(self, bucket_name, key_name, value, *args, **kwargs)

    S3Backend.put_object = put_object  # type: ignore[method-assign]


def _count_messages_when_asked() -> None:
    """Count messages only when asked: moto counts all of a queue several times for each one sent or received.

    With a few thousand messages that was nine tenths of its work.
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
    SQSBackend.get_queue_attributes = get_queue_attributes  # type: ignore[method-assign]


def _look_up_hosts_once() -> None:
    """Look the hosts up once: moto lists the folder of its services for each request to find its service."""
    original = DomainDispatcherApplication.get_backend_for_host
    DomainDispatcherApplication.get_backend_for_host = functools.lru_cache(maxsize=100)(original)  # type: ignore[method-assign]


if __name__ == "__main__":
    main(int(sys.argv[1]))
