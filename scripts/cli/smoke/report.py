"""The output of a smoke test: a table or JSON on standard output, and slow steps on standard error."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import click
from rich.console import Console

from cli.admin.output import one_line
from cli.smoke.run import Done, Run, Step
from imageserver.format.wording import counted

QUIET_S: Final = 2.0
"""A step that takes longer is announced."""
COLUMNS: Final = ("STEP", "RESULT", "SECONDS", "")


def table(done: Sequence[Done]) -> str:
    """Return one aligned line per step: its name, its result, its duration, and a detail."""
    rows = [COLUMNS]
    for row in done:
        taken = "" if row.result == "skipped" else f"{row.seconds:.1f}"
        rows.append((row.step, row.result, taken, one_line(row.detail)))
    name, result, seconds = (max(len(cells[column]) for cells in rows) for column in range(3))
    lines = (f"{cells[0]:<{name}}  {cells[1]:<{result}}  {cells[2]:>{seconds}}  {cells[3]}" for cells in rows)
    return "\n".join(line.rstrip() for line in lines)


def document(run: Run, done: Sequence[Done], kept: bool, left: bool) -> dict[str, Any]:
    """Return the object of `--json`. `kept`: the image was kept on request; `left`: something was left behind."""
    return {
        "address": run.server.address,
        "version": run.image.version.path,
        "fingerprint": run.image.fingerprint,
        "ok": not unfinished(done),
        "kept": kept,
        "left": left,
        "seconds": round(sum(row.seconds for row in done), 1),
        "steps": [asdict(row) for row in done],
    }


def unfinished(done: Sequence[Done]) -> list[str]:
    """Return the names of the steps that failed or were interrupted."""
    return [row.step for row in done if row.result in ("failed", "interrupted")]


def summary(done: Sequence[Done]) -> str:
    """Return the last line of the table."""
    taken = [row for row in done if row.result != "skipped"]
    seconds = sum(row.seconds for row in taken)
    if bad := unfinished(done):
        return f"{len(bad)} of {counted(len(taken), 'step')} not ok: {', '.join(bad)} ({seconds:.0f} s)"
    return f"{counted(len(taken), 'step')} ok ({seconds:.0f} s)"


@contextmanager
def watch(step: Step) -> Iterator[None]:
    """Report a step on standard error once it takes more than QUIET_S."""
    console = Console(stderr=True)
    status = console.status(f"{step.name}: {step.doing}")
    say = status.start if console.is_terminal else lambda: click.echo(f"smoke: {step.name}: {step.doing}", err=True)
    timer = threading.Timer(QUIET_S, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # or it might start the status after it was stopped
        status.stop()
