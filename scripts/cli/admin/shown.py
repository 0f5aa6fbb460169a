"""How commands show what they found: a table for people, JSON for programs, progress on standard error."""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn

from cli.admin.faults import FOUND, explain
from imageserver.operations.runs import Run


def say(sentence: str) -> None:
    """Tell a person something that is no result."""
    click.echo(sentence, err=True)


def as_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2))


def width() -> int:
    """Columns of the terminal that the result goes to; 0 when it goes to a file or a program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def listing(columns: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Print rows, each with its remarks: on a terminal below the row, else one line a row, separated by tabs.

    Nothing is ever cut short: what is wider than the terminal is the terminal's to wrap.
    """
    if not (columns_wide := width()):
        for cells, remarks in rows:
            click.echo("\t".join((*cells, "; ".join(map(one_line, remarks)))))
        return
    widths = [max(map(len, column)) for column in zip(columns, *(cells for cells, _ in rows), strict=True)]
    click.secho(_spaced(columns, widths), bold=True)
    for cells, remarks in rows:
        click.echo(_spaced(cells, widths))
        for remark in remarks:
            click.echo(_indented(one_line(remark), columns_wide))


def _spaced(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(wide) for cell, wide in zip(cells, widths, strict=True)).rstrip()


def _indented(text: str, columns_wide: int) -> str:
    return textwrap.fill(
        text,
        max(columns_wide, 40),
        initial_indent="    ",
        subsequent_indent="      ",
        break_long_words=False,  # a path that is cut in two cannot be copied
        break_on_hyphens=False,
    )


def one_line(text: str) -> str:
    """What somebody else wrote, with nothing in it that moves the cursor or looks like another row."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def bytes_progress() -> Progress:
    """A bar of bytes, on standard error."""
    parts = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*parts, console=Console(stderr=True), transient=True)


def count_progress() -> Progress:
    """A bar of things done, on standard error."""
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*parts, console=Console(stderr=True), transient=True)


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Say on standard error, where that is a terminal, what is being looked at; gone when it is over."""
    with Console(stderr=True).status(what) as status:
        yield lambda now: status.update(f"{what}: {escape(now)}")


@contextmanager
def told_if_broken_off(run: Run) -> Iterator[None]:
    """What was done before an error ended a run, on standard error: nobody else would ever know."""
    try:
        yield
    except Exception:
        for task in run.tasks if not run.dry_run else ():
            say(f"{task.what}: {task.path}")
        raise


def end_of_run(in_json: bool, run: Run) -> NoReturn:
    """Show a run of maintain, and end; the exit code is that of the first failure, or of a record nobody can read."""
    faults = [(failure, explain(failure.error)) for failure in run.failed]
    if in_json:
        tasks = [asdict(task) for task in run.tasks]
        failed = [{"what": f.what, "path": f.path, "why": fault.what, "remedy": fault.remedy} for f, fault in faults]
        as_json({"dry_run": run.dry_run, "tasks": tasks, "failed": failed, "unreadable": run.unreadable})
    else:
        for task in run.tasks:
            click.echo(f"{task.what}: {task.path}\n  {task.why}")
        for failure, fault in faults:
            click.echo(f"failed: {failure.what} {failure.path}\n  {fault.what}; {fault.remedy}")
        for key in run.unreadable:
            click.echo(f"unreadable: {key}\n  admin rebuild records --yes reads its images again")
        click.echo(f"{len(run.tasks)} things {'to do' if run.dry_run else 'done'}")
    sys.exit(faults[0][1].code if faults else FOUND if run.unreadable else 0)


def size(size_bytes: int) -> str:
    """`1.5 GiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the loop returns")
