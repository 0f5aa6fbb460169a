"""`python -m gates`: the checks that must be green before a deployment, with the time that each took."""

import time

import click

from gates import packages
from gates.checks import CHECKS, sizes
from gates.runtime import StartFailed
from gates.tools import CACHE, ToolMissing


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Check the deployment. Without a command, run every gate."""
    if context.invoked_subcommand is None:
        run_gates(tuple(CHECKS))


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CHECKS)))
def run(names: tuple[str, ...]) -> None:
    """Run the gates NAMES, or all."""
    run_gates(names or tuple(CHECKS))


def run_gates(names: tuple[str, ...]) -> None:
    """Run the gates. Exit with 1 if one found a fault or could not run: a gate that did not run is not green."""
    failed = []
    for name in names:
        begin = time.monotonic()
        try:
            findings = list(CHECKS[name]())
        except ToolMissing as missing:
            findings = [f"NOT RUN: {missing}"]
        click.echo(f"{'FAILED' if findings else 'ok':7} {name:17} {time.monotonic() - begin:6.1f} s")
        for finding in findings:
            click.echo(f"        {finding}")
        failed += [name] if findings else []
    if failed:
        raise click.ClickException(f"{', '.join(failed)}: see above")


@main.command()
@click.option("--rounds", default=10, show_default=True, help="Starts to take the median of.")
def figures(rounds: int) -> None:
    """Print size and cold start of each function's package as a Markdown table.

    Milliseconds, wall / CPU, medians. On a busy machine, only the CPU time is meaningful.
    """
    click.echo(
        "| function | zipped MB | unzipped MB | cold start | without bytecode | empty handler | CPU ratio to empty |"
    )
    click.echo("|---|---|---|---|---|---|---|")
    for name in packages.NAMES:
        try:
            starts = packages.cold_starts(name, rounds)
        except (StartFailed, ToolMissing) as failure:
            raise click.ClickException(str(failure)) from failure
        # The package from `sam build` if that has run, else the one for this machine.
        built = CACHE / "build" / f"{name.title()}Function"
        size = sizes(built if built.is_dir() else packages.package(name))
        columns = " | ".join(f"{start.wall_s * 1000:.0f} / {start.cpu_s * 1000:.0f}" for start in starts.values())
        ratio = starts["packaged"].cpu_s / starts["empty handler"].cpu_s
        sizes_mb = f"{size['zipped_bytes'] / 1e6:.1f} | {size['unzipped_bytes'] / 1e6:.1f}"
        click.echo(f"| {name} | {sizes_mb} | {columns} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
