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
from werkzeug.serving import make_server

from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from local_stack.s3_rules import S3Rules, install_real_events


class QuietHandler(MotoRequestHandler):
    """Without an access log line for each request."""

    def log_request(self, *_arguments: object) -> None:
        """Nothing: the stack tells of arrivals itself."""


def main(port: int) -> None:
    """Serve until standard input closes."""
    _end_with_parent()
    install_real_events()
    _give_etags_at_once()
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
    """moto computes an ETag when first asked, from a file whose position other readers share; so do it before."""
    original = S3Backend.put_object

    @functools.wraps(original)
    def put_object(self: Any, bucket_name: str, key_name: str, value: bytes, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("etag"):
            kwargs["etag"] = hashlib.md5(value, usedforsecurity=False).hexdigest()
        return original(self, bucket_name, key_name, value, *args, **kwargs)

    S3Backend.put_object = put_object  # type: ignore[method-assign]


if __name__ == "__main__":
    main(int(sys.argv[1]))
