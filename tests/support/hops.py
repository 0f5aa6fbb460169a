"""How much code a reader of one operation meets: the functions and files of `functions/` that it enters.

Measured with one split image, alone in its bucket. Comprehensions and lambdas do not count: no reader has to
look for them elsewhere, and the versions of Python differ in whether they call them.
"""

import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import CodeType, FrameType

from imageserver.format.keys import parse_version
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import withdraw
from imageserver.versions.retention import Rule
from tests.support import PROJECT
from tests.support.images import split_image
from tests.support.memory_store import Sent, System

FUNCTIONS = str(PROJECT / "functions") + "/"
VERSION = "images/ubuntu/xenial/amd64/default/20261123_1000"
GRACE_HOURS = 24


def entered(operation: Callable[[], object]) -> set[CodeType]:
    """Return the code of `functions/` that an operation enters on this thread, comprehensions included."""
    found: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(FUNCTIONS):
            found.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        operation()
    finally:
        sys.setprofile(before)
    return found


def is_named(code: CodeType) -> bool:
    """Return whether a person wrote this as a function; since Python 3.14 the annotations of a class are code too."""
    return not code.co_name.startswith("<") and code.co_name != "__annotate__"


def operations() -> Iterator[tuple[str, set[CodeType]]]:
    """Yield each operation on an image, from its upload to its deletion, and the code that it enters."""
    system, version = System(), parse_version(VERSION)
    product, store = version.product, system.store
    system.upload(VERSION, split_image())
    yield "ingest", entered(lambda: system.ingest(VERSION))
    yield "publish", entered(lambda: system.publish(product))
    yield "withdraw", entered(lambda: withdraw(store, version, store.clock, GRACE_HOURS, lambda _: None))
    yield "publish, which takes it off the list", entered(lambda: system.publish(product))
    later, rules = store.clock + timedelta(hours=GRACE_HOURS + 1), Rules(Rule(), GRACE_HOURS, stale_days=0)
    yield "prune, which deletes it", entered(lambda: prune(store, Sent(), rules, later, lambda _: None, Run()))
    assert not store.objects.keys() - system.streams().keys(), "not everything was deleted"


def table() -> str:
    """Return the figures as Markdown, functions to the nearest ten, so that small changes leave the page alone."""
    rows = [
        f"| {name} | {round(sum(map(is_named, codes)), -1)} | {len({code.co_filename for code in codes})} |"
        for name, codes in operations()
    ]
    return "\n".join(["| operation | functions, about | files |", "|---|---|---|", *rows])
