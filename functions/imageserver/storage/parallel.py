"""Read many small objects at once: one read takes some 20 ms, nearly all of it waiting."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

READERS: Final = 16
"""Calls at once. botocore's pool of connections must be as large (imageserver.aws.clients)."""

_Thing = TypeVar("_Thing")
_Answer = TypeVar("_Answer")


def in_parallel(call: Callable[[_Thing], _Answer], things: Iterable[_Thing], workers: int = READERS) -> list[_Answer]:
    """Call a function for each thing, and return the answers in order. Raise the first error of a call."""
    with ThreadPoolExecutor(workers, thread_name_prefix="in-parallel") as pool:
        return list(pool.map(call, things))
