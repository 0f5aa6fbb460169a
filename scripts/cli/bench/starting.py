"""`bench start`: cold start of each built function, compared with an empty handler that makes the same clients."""

from operator import attrgetter

import click

from cli.bench.figures import Figure, figure
from gates import packages
from gates.runtime import StartFailed
from gates.tools import ToolMissing


def start_figures(rounds: int) -> list[Figure]:
    """Measure milliseconds from the start of a process to its first answer, and of CPU; none if a tool is missing."""
    found: list[Figure] = []
    for name in packages.NAMES:
        click.echo(f"  {name} …", err=True)
        try:
            taken = packages.all_cold_starts(name, rounds)
        except (StartFailed, ToolMissing) as reason:
            click.echo(f"  {name} was not measured: {reason}", err=True)
            continue
        for what, unit, seconds in (("", "ms", attrgetter("wall_s")), (", CPU", "CPU ms", attrgetter("cpu_s"))):
            of_empty = [seconds(start) * 1000 for start in taken["empty handler"]]
            empty = figure(f"start of {name}: empty handler{what}", unit, of_empty)
            found.append(empty)
            for label, variant in (("", "packaged"), (": without bytecode", "without bytecode")):
                ours = [seconds(start) * 1000 for start in taken[variant]]
                found.append(figure(f"start of {name}{label}{what}", unit, ours, empty))
    return found
