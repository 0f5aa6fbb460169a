"""The commands of `scripts/bench`."""

import signal
from collections.abc import Callable, Sequence
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


def show(figures: Sequence[Figure], about: str, as_json: Path | None, plot: Path | None) -> None:
    """Print the table and a description of the machine; write the files that were asked for."""
    click.echo(f"\n{about}\n\n{table(figures)}")
    if as_json:
        write_json(figures, as_json)
    if plot:
        write_svg(figures, plot, about)


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


@main.command("hash")
@output_options
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
def hash_command(
    rounds: int,
    as_json: Path | None,
    plot: Path | None,
    size_mib: int,
    huge_gib: int,
    against: Literal["plain", "two-pass", "both"],
    bucket: str | None,
    key: str | None,
) -> None:
    """Read and hash an object: plain loop, two passes, this project's reader."""
    from cli.bench.hashing import BASELINES, hash_figures, real_figures

    if (bucket is None) != (key is None):
        raise click.UsageError("--bucket and --key go together")
    about = machine.describe()
    baselines = BASELINES if against == "both" else (against,)
    if bucket and key:
        found = real_figures(bucket, key, rounds, baselines)
    else:
        found = hash_figures(size_mib, rounds, huge_gib, baselines)
    show(found, about, as_json, plot)


@main.command("copy")
@output_options
def copy_command(rounds: int, as_json: Path | None, plot: Path | None) -> None:
    """Copy files of another server: curl, plain loop, the function that follows a mirror."""
    about = machine.describe()
    show(_copy(rounds), about, as_json, plot)


@main.command("plan")
@output_options
@click.option("--versions", type=click.IntRange(4), default=100_000, show_default=True, help="Of the other server.")
def plan_command(rounds: int, as_json: Path | None, plot: Path | None, versions: int) -> None:
    """Plan what a mirror copies from another server, by a products document of 100,000 versions."""
    from cli.bench.planning import plan_figures

    about = machine.describe()
    show(plan_figures(rounds, versions), about, as_json, plot)


@main.command("delta")
@output_options
def delta_command(rounds: int, as_json: Path | None, plot: Path | None) -> None:
    """Make deltas as the server does and as simplestream-maintainer does: CPU, memory, size; needs xdelta3."""
    about = machine.describe()
    show(_delta(rounds), about, as_json, plot)


@main.command("fold")
@output_options
def fold_command(rounds: int, as_json: Path | None, plot: Path | None) -> None:
    """Fold one changed version into catalogs of 1,000 to 100,000 versions; `--plot` draws their growth."""
    from cli.bench.folding import fold_figures, growth

    about = machine.describe()
    found = fold_figures(rounds)
    show(found, about, as_json, None)
    if plot:
        write_growth_svg(growth(found), plot, "One changed version: CPU seconds and MiB by versions in the stream")


@main.command("views")
@output_options
@click.option(
    "--most", type=click.IntRange(0, 100), default=100, show_default=True, help="Views of the largest server."
)
def views_command(rounds: int, as_json: Path | None, plot: Path | None, most: int) -> None:
    """Publish one changed product with 0 to 100 views of 10,000 versions; some minutes a round with 100."""
    from cli.bench.viewing import NUMBERS, view_figures

    about = machine.describe()
    show(view_figures(rounds, [number for number in NUMBERS if number <= most]), about, as_json, plot)


@main.command("burst")
@output_options
@click.option("--versions", type=click.IntRange(1, 2000), default=1000, show_default=True, help="Three files each.")
@click.option("--digest-workers", type=click.IntRange(2, 64), default=8, show_default=True)
@click.option("--publish-workers", type=click.IntRange(2, 10), default=2, show_default=True)
def burst_command(
    rounds: int, as_json: Path | None, plot: Path | None, versions: int, digest_workers: int, publish_workers: int
) -> None:
    """Upload versions within a minute to a separate local stack; one to three minutes a round."""
    from cli.bench.burst import burst_figures

    about = machine.describe()
    show(burst_figures(versions, digest_workers, publish_workers, rounds), about, as_json, plot)


@main.command("start")
@output_options
def start_command(rounds: int, as_json: Path | None, plot: Path | None) -> None:
    """Start each built function cold; at least 15 times."""
    about = machine.describe()
    show(_start(rounds), about, as_json, plot)


@main.command("scale")
@output_options
def scale_command(rounds: int, as_json: Path | None, plot: Path | None) -> None:
    """Simulate events, batching windows and conditional writes, with the real fold."""
    from cli.bench.scale import scale_figures

    show(scale_figures(rounds), machine.describe(), as_json, plot)


def _hash(rounds: int) -> list[Figure]:
    from cli.bench.hashing import hash_figures

    return hash_figures(512, rounds, 50)


def _copy(rounds: int) -> list[Figure]:
    from cli.bench.copying import copy_figures

    return copy_figures(rounds)


def _plan(rounds: int) -> list[Figure]:
    from cli.bench.planning import plan_figures

    return plan_figures(rounds)


def _delta(rounds: int) -> list[Figure]:
    from cli.bench.deltas import delta_figures

    return delta_figures(rounds)


def _fold(rounds: int) -> list[Figure]:
    from cli.bench.folding import fold_figures

    return fold_figures(rounds)


def _start(rounds: int) -> list[Figure]:
    from cli.bench.starting import start_figures

    return start_figures(max(15, rounds))


def _burst(rounds: int) -> list[Figure]:
    from cli.bench.burst import burst_figures

    return burst_figures(1000, 8, 2, rounds)


def _scale(rounds: int) -> list[Figure]:
    from cli.bench.scale import scale_figures

    return scale_figures(rounds)


PARTS: dict[str, Callable[[int], list[Figure]]] = {
    "hash": _hash,
    "copy": _copy,
    "plan": _plan,
    "delta": _delta,
    "fold": _fold,
    "start": _start,
    "burst": _burst,
    "scale": _scale,
}


if __name__ == "__main__":
    main(prog_name="bench")
