"""One smoke test: its state, and its steps in order. A failed step skips only the steps that need it."""

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

import click

from cli.admin.errors import OUTSIDE, explain
from cli.smoke.image import Image
from cli.smoke.reader import Image as ListedImage
from cli.smoke.reader import NotReadable
from cli.smoke.server import Server

POLL_S: Final = 1.0

Result = Literal["ok", "failed", "skipped", "interrupted"]
Watch = Callable[["Step"], AbstractContextManager[object]]
"""A wrapper of each step, which reports slow steps on standard error."""

_T = TypeVar("_T")


class Failed(Exception):
    """The server is not as it should be: what was expected, what was found."""


class Skipped(Exception):
    """The step cannot run here; the message says why. This is no fault of the server."""


@dataclass
class Run:
    """The state that the steps share. `patience_s` is the longest time that a step waits for the server.

    `direct`: the upload is signed here, without the API. `sent`: files may have arrived. `publisher`: the API returned
    the URLs. `seen_aliases`: those that other products had before the upload. `listed`: the image as clients see it.
    """

    server: Server
    image: Image
    patience_s: float
    direct: bool = False
    sent: bool = False
    publisher: bool = False
    strict_missing: bool = True
    seen_aliases: set[str] = field(default_factory=set)
    listed: Sequence[ListedImage] = ()
    clock: Callable[[], float] = time.monotonic

    def wait(self, look: Callable[[], _T | None], overdue: Callable[[], str]) -> _T:
        """Return the first answer that is not None. After `patience_s` raise Failed with the text of `overdue`."""
        deadline = self.clock() + self.patience_s
        while (found := look()) is None:
            if self.clock() > deadline:
                raise Failed(f"not within {self.patience_s:.0f} s: {overdue()}")
            self.server.pause(POLL_S)
        return found


@dataclass(frozen=True)
class Step:
    """One row of the table. `act` returns a detail to show, or raises. `cleans`: it runs whatever happened before.

    `needs`: the steps that must have succeeded before it. `can_skip`: `--skip` accepts its name.
    """

    name: str
    doing: str
    act: Callable[[Run], str]
    needs: tuple[str, ...] = ()
    cleans: bool = False
    can_skip: bool = False


@dataclass(frozen=True)
class Done:
    """The result of one step."""

    step: str
    result: Result
    seconds: float
    detail: str


def take(steps: Sequence[Step], run: Run, skip: Iterable[str], keep: bool, watch: Watch) -> list[Done]:
    """Run every step that can run. After one interruption run only those that clean up; after two, none."""
    done: dict[str, Done] = {}
    interruptions = 0
    for step in steps:
        reason = _reason_to_skip(step, done, set(skip), keep, interruptions)
        done[step.name] = Done(step.name, "skipped", 0.0, reason) if reason else _take(step, run, watch)
        interruptions += done[step.name].result == "interrupted"
    return list(done.values())


def _reason_to_skip(step: Step, done: dict[str, Done], skip: set[str], keep: bool, interruptions: int) -> str:
    lacking = [name for name in step.needs if done[name].result != "ok"]
    if step.name in skip:
        return "--skip"
    if step.cleans and keep:
        return "--keep"
    if interruptions > step.cleans:
        return "interrupted"
    return f"needs {', '.join(lacking)}" if lacking else ""


def _take(step: Step, run: Run, watch: Watch) -> Done:
    began = run.clock()
    result: Result = "failed"
    try:
        with watch(step):
            result, detail = "ok", step.act(run)
    except KeyboardInterrupt:
        click.echo("smoke: interrupted: cleaning up; press Ctrl-C again to stop at once", err=True)
        result, detail = "interrupted", ""
    except Skipped as skipped:
        result, detail = "skipped", str(skipped)
    except (Failed, NotReadable) as failed:
        detail = str(failed)
    except OUTSIDE as error:
        fault = explain(error)
        detail = f"{fault.what}; {fault.remedy}" if fault.remedy else fault.what
    except Exception as error:  # noqa: BLE001  (our own fault: shown in full, and the image is removed)
        traceback.print_exc(file=sys.stderr)
        detail = f"a fault of the smoke test itself: {error!r}"
    return Done(step.name, result, round(run.clock() - began, 1), detail)
