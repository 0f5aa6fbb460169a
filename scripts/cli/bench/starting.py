"""`bench start`: cold start of each built function, beside an empty handler that makes the same clients."""

import click

from cli.bench.figures import Figure, figure
from gates import packages
from gates.runtime import StartFailed
from gates.tools import ToolMissing


def start_figures(rounds: int) -> list[Figure]:
    """Milliseconds from the start of the process to its first answer; absent when a tool is."""
    found: list[Figure] = []
    for name in packages.NAMES:
        click.echo(f"  {name} …", err=True)
        try:
            taken = packages.cold_start_times(name, rounds)
        except (StartFailed, ToolMissing) as reason:
            click.echo(f"  {name} was not measured: {reason}", err=True)
            continue
        times = {what: [seconds * 1000 for seconds in values] for what, values in taken.items()}
        empty = figure(f"start of {name}: empty handler", "ms", times["empty handler"])
        found += [
            empty,
            figure(f"start of {name}", "ms", times["packaged"], empty),
            figure(f"start of {name}: without bytecode", "ms", times["without bytecode"], empty),
        ]
    return found
