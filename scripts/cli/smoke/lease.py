"""A lease for one smoke test of a server at a time: each removes what earlier ones left, but never a running one's.

The lease is an object beside the product. It is released at the end, even after Ctrl-C. The lease of a killed process
expires by itself; on the machine where that process ran, the next test takes it over at once.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from cli.smoke.image import LEASE_KEY
from imageserver.storage.leases import lease
from imageserver.storage.port import Store
from local_stack.state import is_alive


class Running(Exception):
    """Another smoke test holds the lease; the message says which, until when, and what to do."""


@contextmanager
def held(store: Store, seconds: float, take_over: bool) -> Iterator[None]:
    """Hold the lease for at most `seconds`. Raise Running if another process has it, and the store's errors."""
    if seen := store.read(LEASE_KEY):
        host, process = _holder(seen.body)
        if take_over or (host == socket.gethostname() and not is_alive(process)):  # of a process that has ended
            store.delete(LEASE_KEY, seen.revision)
    token = f"{socket.gethostname()} {os.getpid()} {uuid4().hex}"
    with lease(store, LEASE_KEY, token, lambda: datetime.now(UTC), seconds, time.sleep) as mine:
        if mine:
            yield
            return
    seen = store.read(LEASE_KEY)
    host, process = _holder(seen.body) if seen else ("another machine", 0)
    until = json.loads(seen.body)["until"] if seen else "a moment from now"
    raise Running(
        f"another smoke test of this server is running, process {process} on {host}; its lease ends at {until}. "
        "Wait for it; if you know that it was killed, add --take-over"
    )


def _holder(body: bytes) -> tuple[str, int]:
    host, process, _ = json.loads(body)["token"].split()
    return host, int(process)
