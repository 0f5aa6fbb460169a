"""The commands of `scripts/bench`."""

import signal
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import click

from cli import network
from cli.bench import machine
from cli.bench.figures import Figure, table, write_growth_svg, write_json, write_svg


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for output besides the table, which every command takes."""
    for option in (
        click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the ratios as SVG."),
        click.option(
            "--json",
            "as_json",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write a list of {name, unit, median, min, max, ratio, against}.",
        ),
        click.option(
            "--rounds",
            type=click.IntRange(1),
            default=5,
            show_default=True,
            help="Runs behind a median; the table marks fewer than five.",
        ),
    ):
        command = option(command)
    return command


Measure = Callable[..., list[Figure]]
Draw = Callable[[Sequence[Figure], Path, str], None]


def show(
    figures: Sequence[Figure], about: str, as_json: Path | None, plot: Path | None, draw: Draw = write_svg
) -> None:
    """Print the table and a description of the machine; write the files that were asked for."""
    click.echo(f"\n{about}\n\n{table(figures)}")
    if as_json:
        write_json(figures, as_json)
    if plot:
        draw(figures, plot, about)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@output_options
@click.pass_context
def main(context: click.Context, rounds: int, as_json: Path | None, plot: Path | None) -> None:
    """Measure hashing, copies, plans, deltas, folding, starts, a burst, a simulation. Without a command: all."""
    # On SIGTERM as on Ctrl-C, the bench must stop its servers and remove its gigabytes from the tmpfs.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    network.reach_loopback_directly()
    if context.invoked_subcommand:
        return
    about = machine.describe()
    figures: list[Figure] = []
    for name, part in PARTS.items():
        click.echo(f"{name}", err=True)
        figures += part(rounds)
    show(figures, about, as_json, plot)


def measurement(name: str, draw: Draw = write_svg) -> Callable[[Measure], Measure]:
    """Make a command of a function that measures. The function gets the rounds, and the options of its own."""

    def add(function: Measure) -> Measure:
        @main.command(name)
        @output_options
        @wraps(function)
        def run(rounds: int, as_json: Path | None, plot: Path | None, **own: Any) -> None:
            about = machine.describe()
            show(function(rounds, **own), about, as_json, plot, draw)

        return function

    return add


@measurement("hash")
@click.option("--size-mib", default=512, show_default=True, help="Size of the object.")
@click.option("--huge-gib", default=50, show_default=True, help="Size of an object for the memory test; 0: none.")
@click.option(
    "--against",
    type=click.Choice(["plain", "two-pass", "both"]),
    default="both",
    show_default=True,
    help="What the ratios compare with; both: two passes only where they do not take minutes.",
)
@click.option("--bucket", help="A real bucket instead of the stand-in, with your credentials and region.")
@click.option("--key", help="An object of that bucket, a few hundred MiB at least.")
def hash_(
    rounds: int,
    size_mib: int = 512,
    huge_gib: int = 50,
    against: Literal["plain", "two-pass", "both"] = "both",
    bucket: str | None = None,
    key: str | None = None,
) -> list[Figure]:
    """Read and hash an object: plain loop, two passes, this project's reader."""
    from cli.bench.hashing import BASELINES, hash_figures, real_figures

    if (bucket is None) != (key is None):
        raise click.UsageError("--bucket and --key go together")
    baselines = BASELINES if against == "both" else (against,)
    if bucket and key:
        return real_figures(bucket, key, rounds, baselines)
    return hash_figures(size_mib, rounds, huge_gib, baselines)


@measurement("copy")
def copy(rounds: int) -> list[Figure]:
    """Copy files of another server: curl, plain loop, the function that follows a mirror."""
    from cli.bench.copying import copy_figures

    return copy_figures(rounds)


@measurement("plan")
@click.option("--versions", type=click.IntRange(4), default=100_000, show_default=True, help="Of the other server.")
def plan(rounds: int, versions: int = 100_000) -> list[Figure]:
    """Plan what a mirror copies from another server, by a products document of 100,000 versions."""
    from cli.bench.planning import plan_figures

    return plan_figures(rounds, versions)


@measurement("delta")
def delta(rounds: int) -> list[Figure]:
    """Make deltas as the server does and as simplestream-maintainer does: CPU, memory, size; needs xdelta3."""
    from cli.bench.deltas import delta_figures

    return delta_figures(rounds)


def draw_growth(figures: Sequence[Figure], plot: Path, _about: str) -> None:
    """Draw how the catalogs' figures grow with their versions."""
    from cli.bench.folding import growth

    write_growth_svg(growth(figures), plot, "One changed version: CPU seconds and MiB by versions in the stream")


@measurement("fold", draw_growth)
def fold(rounds: int) -> list[Figure]:
    """Fold one changed version into catalogs of 1,000 to 100,000 versions; `--plot` draws their growth."""
    from cli.bench.folding import fold_figures

    return fold_figures(rounds)


@measurement("views")
@click.option(
    "--most", type=click.IntRange(0, 100), default=100, show_default=True, help="Views of the largest server."
)
def views(rounds: int, most: int) -> list[Figure]:
    """Publish one changed product with 0 to 100 views of 10,000 versions; some minutes a round with 100."""
    from cli.bench.viewing import NUMBERS, view_figures

    return view_figures(rounds, [number for number in NUMBERS if number <= most])


@measurement("burst")
@click.option("--versions", type=click.IntRange(1, 2000), default=1000, show_default=True, help="Three files each.")
@click.option("--digest-workers", type=click.IntRange(2, 64), default=8, show_default=True)
@click.option("--publish-workers", type=click.IntRange(2, 10), default=2, show_default=True)
def burst(rounds: int, versions: int = 1000, digest_workers: int = 8, publish_workers: int = 2) -> list[Figure]:
    """Upload versions within a minute to a separate local stack; one to three minutes a round."""
    from cli.bench.burst import burst_figures

    return burst_figures(versions, digest_workers, publish_workers, rounds)


@measurement("start")
def start(rounds: int) -> list[Figure]:
    """Start each built function cold; at least 15 times."""
    from cli.bench.starting import start_figures

    return start_figures(max(15, rounds))


@measurement("scale")
def scale(rounds: int) -> list[Figure]:
    """Simulate events, batching windows and conditional writes, with the real fold."""
    from cli.bench.scale import scale_figures

    return scale_figures(rounds)


PARTS: dict[str, Measure] = {
    "hash": hash_,
    "copy": copy,
    "plan": plan,
    "delta": delta,
    "fold": fold,
    "start": start,
    "burst": burst,
    "scale": scale,
}
"""What is measured without a command, each part with its own defaults."""


if __name__ == "__main__":
    main(prog_name="bench")
