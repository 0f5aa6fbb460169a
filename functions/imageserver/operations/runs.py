"""One bounded run of a task: what it did or would do, what failed, and where the next run continues.

A plan is a list of tasks; carrying it out and printing it differ in one place, `Run.do`. A task or a product that
fails ends no other: it is noted, the run continues after it, and `Run.check` raises when all the rest is done.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from imageserver.errors import SimplestreamsError, TasksFailed
from imageserver.storage.port import Store, write

NOTES: Final = "maintain/"
MANY: Final = 20_000
"""Records that one run reads at most; the next run continues after them."""
MOST_FAILED: Final = 100
"""Failures after which a run stops: so many have one cause, which is not in the products."""
_NAMED: Final = 10  # failures that an error names; the log has all


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do: `what` in a word or two, the path it is done to, why, and the `size_bytes` concerned.

    `seconds` is the time it took, once it is done.
    """

    what: str
    path: str
    why: str
    size_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed task: `what`, and the path it was done to, or "look at" a product."""

    what: str
    path: str
    error: Exception

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, SimplestreamsError) else f"{type(self.error).__name__}: "
        return f"{self.what} {self.path}: {kind}{self.error}"


@dataclass(slots=True)
class Run:
    """One run. `after` is the path of the last product that earlier runs looked at, "" at the start.

    `time_left` says whether there is time to begin another product; `progress` is called with the path of each finished
    product; `clock` counts seconds from any moment. `tasks` were done, or would be without a dry run. Failed tasks are
    in `failed`; tasks that were deliberately left undone are in `kept`, with the reason.
    """

    dry_run: bool = False
    after: str = ""
    limit: int = MANY
    time_left: Callable[[], bool] = lambda: True
    progress: Callable[[str], object] = lambda _: None
    clock: Callable[[], float] = lambda: 0.0
    tasks: list[Task] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    kept: list[Task] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    looked_at: int = 0
    ended: bool = False

    def do(self, task: Task, action: Callable[[], object]) -> None:
        """Note a task and carry it out, unless this is a dry run. Its error is noted, not raised."""
        self.tasks.append(task)  # noted first, because a killed run may have begun it
        if self.dry_run:
            return
        began = self.clock()
        try:
            action()
        except Exception as error:  # noqa: BLE001  (noted, logged, and raised by `check`)
            self.tasks.pop()
            self.failed.append(Failure(task.what, task.path, error))
        else:
            self.tasks[-1] = replace(task, seconds=round(self.clock() - began, 3))

    @contextmanager
    def looking_at(self, path: str) -> Iterator[None]:
        """Note the error that ends the block; the run continues with what comes after it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (noted, logged, and raised by `check`)
            self.failed.append(Failure("look at", path, error))

    def damaged(self, key: str) -> None:
        """Note a record that cannot be read; an operator must look at it."""
        if key not in self.unreadable:
            self.unreadable.append(key)

    def more(self) -> bool:
        """Return whether this run may look at yet another product."""
        return self.looked_at < self.limit and len(self.failed) < MOST_FAILED and self.time_left()

    def finished(self, path: str, size: int) -> None:
        """Note that a product was looked at, so that the next run continues after it."""
        self.after = path
        self.looked_at += size
        self.progress(path)

    def end(self, last: str) -> None:
        """Close the run. If it reached `last`, it looked at all products, and the next run starts from the first."""
        if not last or self.after == last:
            self.after, self.ended = "", True

    def check(self) -> None:
        """Raise TasksFailed, which names what failed, if anything did."""
        if self.failed:
            named = "; ".join(map(str, self.failed[:_NAMED]))
            more = f"; and {len(self.failed) - _NAMED} more, which the log names" if len(self.failed) > _NAMED else ""
            raise TasksFailed(f"{len(self.failed)} failed, the rest was done: {named}{more}")


def resume(store: Store, task: str) -> str:
    """Return where the last run of a task stopped. A note that cannot be read starts from the first product."""
    seen = store.read(_note(task))
    try:
        return str(json.loads(seen.body)["after"]) if seen else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def remember(store: Store, task: str, run: Run) -> None:
    """Note where this run stopped. Two runs at once overwrite each other's note, which costs work, not safety."""
    if not run.dry_run:
        write(store, _note(task), json.dumps({"after": run.after}).encode(), store.read(_note(task)))


def _note(task: str) -> str:
    return f"{NOTES}{task}.json"
