"""What commands print: a table for people, JSON for programs, progress on standard error."""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn

from cli import json_errors
from cli.admin.errors import FOUND, explain
from imageserver.format.wording import counted
from imageserver.operations.runs import Run


def say(sentence: str) -> None:
    """Print a remark on standard error."""
    click.echo(sentence, err=True)


def print_json(value: Any) -> None:
    """Print one JSON document, the answer of the command."""
    json_errors.answered()
    click.echo(json.dumps(value, indent=2))


def answer(as_json: bool, value: Any, sentence: str) -> None:
    """Print what a command did: a JSON document for programs, a sentence for people."""
    if as_json:
        print_json(value)
    else:
        click.echo(sentence)


def width() -> int:
    """Return the columns of the terminal; 0 if standard output is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def print_rows(columns: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Print rows with their remarks: below each row on a terminal, else one line per row, separated by tabs.

    Nothing is truncated; the terminal wraps what is too wide.
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
            click.echo(
                textwrap.fill(
                    one_line(remark),
                    max(columns_wide, 40),
                    initial_indent="    ",
                    subsequent_indent="      ",
                    break_long_words=False,  # a path that is cut in two cannot be copied
                    break_on_hyphens=False,
                )
            )


def _spaced(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(wide) for cell, wide in zip(cells, widths, strict=True)).rstrip()


def one_line(text: str) -> str:
    """Return untrusted text without characters that move the cursor or look like another row."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def promoted(one: Mapping[str, str]) -> str:
    """Return when a promotion was made and taken back, and by whom."""
    back = f", taken back on {one['back_at']} by {one_line(one['back_by'])}" if one.get("back_at") else ""
    return f"promoted on {one['at']} by {one_line(one['by'])}{back}"


def bytes_progress() -> Progress:
    """Return a bar of bytes, on standard error."""
    parts = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*parts, console=Console(stderr=True), transient=True)


def count_progress() -> Progress:
    """Return a bar of finished steps, on standard error."""
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*parts, console=Console(stderr=True), transient=True)


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error, if it is a terminal, what is under way."""
    with Console(stderr=True).status(what) as status:
        yield lambda now: status.update(f"{what}: {escape(now)}")


def carry_out(doing: str, act: Callable[[Run], object], *, in_json: bool, dry_run: bool) -> NoReturn:
    """Carry out a run of maintain, print what it did, and exit with the code of its first failure.

    If an error ends the run, the work done so far is printed first.
    """
    with busy(doing) as progress:
        run = Run(dry_run=dry_run, limit=1 << 60, progress=progress)
        try:
            act(run)
        except Exception:
            for task in run.tasks if not run.dry_run else ():
                say(f"{task.what}: {task.path}")
            raise
    faults = [(failure, explain(failure.error)) for failure in run.failed]
    if in_json:
        tasks = [asdict(task) for task in run.tasks]
        failed = [{"what": f.what, "path": f.path, "why": fault.what, "remedy": fault.remedy} for f, fault in faults]
        kept = {"kept": [asdict(task) for task in run.kept]} if run.kept else {}
        print_json({"dry_run": run.dry_run, "tasks": tasks, **kept, "failed": failed, "unreadable": run.unreadable})
    else:
        for task in (*run.tasks, *run.kept):
            click.echo(f"{task.what}: {task.path}\n  {task.why}")
        for failure, fault in faults:
            click.echo(f"failed: {failure.what} {failure.path}\n  {fault.what}; {fault.remedy}")
        for key in run.unreadable:
            click.echo(f"unreadable: {key}\n  admin rebuild records --yes reads its images again")
        click.echo(f"{counted(len(run.tasks), 'task')} {'to do' if run.dry_run else 'done'}")
    sys.exit(faults[0][1].code if faults else FOUND if run.unreadable else 0)


def size(size_bytes: int) -> str:
    """Return a size such as `1.5 GiB`."""
    value, unit, larger = float(size_bytes), "B", ["GiB", "MiB", "KiB"]
    while value >= 1024 and larger:
        value, unit = value / 1024, larger.pop()
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
