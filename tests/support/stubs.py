"""Clients of boto3 whose answers a test lists in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.stub import Stubber


@contextmanager
def stubbed(client: Any) -> Iterator[Stubber]:
    """Yield a stub of a client. Fail unless every answer was taken: botocore's own context does not look."""
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()
