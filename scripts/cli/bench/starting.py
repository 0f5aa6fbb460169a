"""`bench start`: cold start of each built function, compared with an empty handler that makes the same clients."""

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
        for what, unit, of in (("", "ms", _wall_ms), (", CPU", "CPU ms", _cpu_ms)):
            empty = figure(
                f"start of {name}: empty handler{what}", unit, [of(start) for start in taken["empty handler"]]
            )
            found.append(empty)
            for label, variant in (("", "packaged"), (": without bytecode", "without bytecode")):
                found.append(figure(f"start of {name}{label}{what}", unit, [of(s) for s in taken[variant]], empty))
    return found


def _wall_ms(start: packages.Start) -> float:
    return start.wall_s * 1000


def _cpu_ms(start: packages.Start) -> float:
    return start.cpu_s * 1000
