"""`bench fold`: one changed version in catalogs of growing size, with this project's fold and with plain JSON."""

import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from cli.bench.figures import Figure, beside_plain_json, exact
from cli.bench.machine import measured

SIZES: Final = (1_000, 3_000, 10_000, 30_000, 100_000)
# CloudFront compresses answers of up to this many bytes; a larger document goes out as it is.
EDGE_COMPRESSES_BYTES: Final = 10_000_000
MIB: Final = 1 << 20


def fold_figures(rounds: int, sizes: Sequence[int] = SIZES) -> list[Figure]:
    """Measure the CPU seconds and peak memory of both ways, and the document's size, for each number of versions."""
    found: list[Figure] = []
    for versions in sizes:
        click.echo(f"  {versions:,} versions …", err=True)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            size_bytes = int(measured("fold", "prepare", scratch, str(versions)))
            taken = {
                how: [json.loads(measured("fold", how, scratch)) for _ in range(rounds)] for how in ("plain", "fold")
            }
            body = (folder / "document.json").read_bytes()
        found += beside_plain_json(f"{versions:,} versions", "fold", taken)
        found.append(exact(f"{versions:,} versions: document", "MiB", size_bytes / MIB))
        found.append(exact(f"{versions:,} versions: compressed", "MiB", len(gzip.compress(body, 6)) / MIB))
    per_version = size_bytes / versions
    found.append(exact("bytes of a version in the document", "bytes", per_version))
    found.append(exact("split a stream at", "versions", EDGE_COMPRESSES_BYTES / per_version))
    return found


def growth(figures: Sequence[Figure]) -> dict[str, list[tuple[float, float]]]:
    """Return the series of the plot: versions against CPU seconds and MiB."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in figures:
        size, _, what = row.name.partition(" versions: ")
        if what and "," in what:
            series.setdefault(what, []).append((float(size.replace(",", "")), row.median))
    return series
