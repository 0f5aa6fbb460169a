"""One bounded run of a task: what it did or would do, and where the next run goes on.

A plan is a list of tasks; carrying it out and printing it differ in one place, `Work.do`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from imageserver.storage.port import Store, write

NOTES: Final = "maintain/"
MANY: Final = 20_000
"""Records that one run reads at most; the next one goes on behind them."""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do: `what` in a word or two, to which path, and why; what it is about has `size_bytes`.

    `seconds` is what it took, once it is done.
    """

    what: str
    path: str
    why: str
    size_bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Work:
    """A run. `after` is the path behind which it goes on, "" at the start; `time_left` says if there is some.

    `told` hears of each product that was looked at. `clock` counts seconds, from whenever.
    """

    dry_run: bool = False
    after: str = ""
    limit: int = MANY
    time_left: Callable[[], bool] = lambda: True
    told: Callable[[str], object] = lambda _: None
    clock: Callable[[], float] = lambda: 0.0
    tasks: list[Task] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    looked_at: int = 0
    ended: bool = False

    def do(self, task: Task, action: Callable[[], object]) -> None:
        """Note a task and carry it out, unless this is a dry run."""
        self.tasks.append(task)  # first: a task that fails was begun
        if not self.dry_run:
            began = self.clock()
            action()
            self.tasks[-1] = replace(task, seconds=round(self.clock() - began, 3))

    def damaged(self, key: str) -> None:
        """Note a record that cannot be read; an operator must look at it."""
        self.unreadable.append(key)

    def more(self) -> bool:
        """Whether this run may look at yet another product."""
        return self.looked_at < self.limit and self.time_left()

    def finished(self, path: str, size: int) -> None:
        """A product was looked at; the next run need not look at it again."""
        self.after = path
        self.looked_at += size
        self.told(path)

    def end(self, last: str) -> None:
        """Close the run. If it got as far as `last`, all were looked at, and the next run starts from the first."""
        if not last or self.after == last:
            self.after, self.ended = "", True


def resume(store: Store, task: str) -> str:
    """Where the last run of a task stopped. A note that cannot be read starts from the first product."""
    seen = store.read(_note(task))
    try:
        return str(json.loads(seen.body)["after"]) if seen else ""
    except (ValueError, KeyError, TypeError):
        return ""


def remember(store: Store, task: str, work: Work) -> None:
    """Note where this run stopped. Two runs at once overwrite each other's note, which costs work, not safety."""
    if not work.dry_run:
        write(store, _note(task), json.dumps({"after": work.after}).encode(), store.read(_note(task)))


def _note(task: str) -> str:
    return f"{NOTES}{task}.json"
