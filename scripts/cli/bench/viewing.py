"""`bench views`: publishing one changed product on a server with 0 to 100 views of a stream of 10,000 versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from cli.bench.figures import Figure, exact, figure
from cli.bench.machine import measured

VERSIONS: Final = 10_000
NUMBERS: Final = (0, 1, 10, 100)
KINDS: Final = {"all": "views of all", "channel": "channels", "other": "views of other products"}


def view_figures(
    rounds: int, numbers: Sequence[int] = NUMBERS, versions: int = VERSIONS, kinds: Sequence[str] = tuple(KINDS)
) -> list[Figure]:
    """Measure the CPU seconds, the requests and the writes of one publish, for each number and kind of views."""
    found: list[Figure] = []
    for number in numbers:
        for kind in kinds if number else kinds[:1]:
            click.echo(f"  {number} {KINDS[kind]} …", err=True)
            taken = [json.loads(measured("views", str(number), kind, str(versions))) for _ in range(rounds)]
            found += figures_of(number, kind, taken)
    return found


def figures_of(number: int, kind: str, runs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return the figures of runs of one kind. Raise ClickException unless all of them asked the same of the bucket."""
    asked = {(run["requests"], run["writes"]) for run in runs}
    if len(asked) != 1:
        raise click.ClickException(f"requests and writes vary: {sorted(asked)}; expected the same in each run")
    ((requests, writes),) = asked
    what = f"{number} {KINDS[kind]}" if number else "no view"
    return [
        figure(f"{what}: one changed product", "CPU s", [run["cpu_s"] for run in runs]),
        exact(f"{what}: requests", "requests", requests),
        exact(f"{what}: documents written", "writes", writes),
    ]
