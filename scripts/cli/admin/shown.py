"""How commands show what they found: a table for people, JSON for programs, progress on standard error."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table


def say(sentence: str) -> None:
    """Tell a person something that is no result."""
    click.echo(sentence, err=True)


def as_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows for a person; whatever a publisher named is not read as markup."""
    first, *others = columns
    shown = Table(Column(first, no_wrap=True), *others, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    console = Console(highlight=False)
    console.print(shown, width=max(console.width, 140))


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


def size(size_bytes: int) -> str:
    """`1.5 GiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the loop returns")
