"""`bench plan`: plan what a mirror copies from another server, by its products document."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from typing import Final

import click

from cli.bench.figures import Figure, beside_plain_json, exact
from cli.bench.machine import measured
from cli.bench.processes.read import MIB

VERSIONS: Final = 100_000


def plan_figures(rounds: int, versions: int = VERSIONS) -> list[Figure]:
    """Measure CPU seconds and peak memory of a plan of this many versions, and of decoding its document as plain JSON.

    Raise ClickException unless both find the same files.
    """
    click.echo(f"  {versions:,} versions …", err=True)
    with tempfile.TemporaryDirectory() as scratch:
        size_bytes = int(measured("plan", "prepare", scratch, str(versions)))
        taken = {how: [json.loads(measured("plan", how, scratch)) for _ in range(rounds)] for how in ("plain", "plan")}
    return figures_of(versions, size_bytes, taken)


def figures_of(versions: int, size_bytes: int, taken: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Figure]:
    """Return the figures of both ways, the plan compared with plain JSON."""
    files = {run["result"] for runs in taken.values() for run in runs}
    if len(files) != 1:
        raise click.ClickException(f"the plans have {sorted(files)} files, expected the same of each")
    what = f"{versions:,} versions of another server"
    found = [exact(f"{what}: document", "MiB", size_bytes / MIB), exact(f"{what}: files to copy", "files", *files)]
    return [*found, *beside_plain_json(what, "plan", taken)]
