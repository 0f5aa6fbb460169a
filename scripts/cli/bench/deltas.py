"""`bench delta`: what a delta costs and saves, as the delta function makes it and as simplestream-maintainer does.

The roots are real squashfs images whose data is not compressed, since random bytes stand in for compressed data.
Between two builds a share of the files is replaced by files of slightly different sizes, as a package upgrade does.

simplestream-maintainer runs `xdelta3 -e -9` for every neighbouring pair of versions (its cmd_build.go), and reads the
new root twice for its two digests (its stream.go). It does not decode what it made.
"""

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from cli.bench.figures import Figure, compared, exact, figure
from imageserver.programs.xdelta3 import BASE, DELTA, TARGET

SIZES_MB: Final = (100, 520)
CHANGED: Final = (0.01, 0.02, 0.10)
USUAL: Final = 0.02
_FILES: Final = 500
_PROGRAMS: Final = ("mksquashfs", "xdelta3")


@dataclass(slots=True)
class Cost:
    """What making one delta took: CPU of all programs and digests, the memory of the largest program, its size."""

    cpu_s: float = 0.0
    peak_mib: float = 0.0
    delta_bytes: int = 0


def delta_figures(rounds: int, sizes_mb: Sequence[int] = SIZES_MB) -> list[Figure]:
    """Measure CPU and memory by size, and the size of a delta by the share of changed files."""
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        raise click.ClickException(f"needs {' and '.join(missing)}: apt install squashfs-tools xdelta3")
    found: list[Figure] = []
    for size_mb in sizes_mb:
        for changed in CHANGED if size_mb == sizes_mb[0] else (USUAL,):
            with tempfile.TemporaryDirectory() as name:
                found += _figures_of(Path(name), size_mb, changed, rounds)
    return found


def _figures_of(folder: Path, size_mb: int, changed: float, rounds: int) -> list[Figure]:
    make_pair(folder, size_mb * 1_000_000, changed)
    title = f"{size_mb} MB, {changed:.0%} changed"
    ways: dict[str, Callable[[Path], Cost]] = {"simplestream-maintainer": maintainers, "delta": ours}
    taken: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, make in ways.items():
            click.echo(f"  {title}, {way} …", err=True)
            taken[way].append(make(folder))
    found, cpu = [], list[Figure]()
    for way, costs in taken.items():
        cpu.append(figure(f"{title}: {way}: CPU", "CPU s", [cost.cpu_s for cost in costs]))
        found.append(figure(f"{title}: {way}: peak memory", "MiB", [cost.peak_mib for cost in costs]))
        share = 100 * costs[0].delta_bytes / (folder / TARGET).stat().st_size
        found.append(exact(f"{title}: {way}: size", "% of the root", share))
    return [cpu[0], compared(cpu[1], cpu[0]), *found]


def make_pair(folder: Path, size_bytes: int, changed: float) -> None:
    """Write `base` and `target`: a squashfs, and one with this share of its files replaced."""
    tree, chance = folder / "tree", random.Random(size_bytes)  # noqa: S311 - the same roots each time
    for number in range(_FILES):
        path = tree / f"usr{number % 10}" / f"file-{number:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size_bytes // _FILES))
    _squash(tree, folder / BASE)
    for path in chance.sample(sorted(tree.rglob("file-*")), max(1, round(_FILES * changed))):
        path.write_bytes(chance.randbytes(size_bytes // _FILES + chance.randint(0, 4096)))
    _squash(tree, folder / TARGET)
    shutil.rmtree(tree)


def _squash(tree: Path, path: Path) -> None:
    options = ["-noD", "-noF", "-all-root", "-noappend", "-quiet", "-no-progress", "-processors", "1"]
    command = ["mksquashfs", str(tree), str(path), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def ours(folder: Path) -> Cost:
    """Read both roots once, encode, decode and compare, as operations/make_deltas.py does."""
    cost = Cost()
    _digest(cost, folder / BASE)
    _digest(cost, folder / TARGET)
    _run(cost, folder, "-f", "-e", "-S", "none", "-D", "-s", BASE, TARGET, DELTA)
    _digest(cost, folder / DELTA)
    _run(cost, folder, "-f", "-d", "-s", BASE, DELTA, "made")
    _digest(cost, folder / "made")
    cost.delta_bytes = (folder / DELTA).stat().st_size
    return cost


def maintainers(folder: Path) -> Cost:
    """Read the new root twice and encode."""
    cost = Cost()
    _run(cost, folder, "-f", "-e", "-9", "-s", BASE, TARGET, DELTA)
    _digest(cost, folder / TARGET)
    _digest(cost, folder / TARGET)
    _digest(cost, folder / DELTA)
    cost.delta_bytes = (folder / DELTA).stat().st_size
    return cost


def _run(cost: Cost, folder: Path, *arguments: str) -> None:
    command = ["xdelta3", *arguments]
    process = subprocess.Popen(command, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"xdelta3 {' '.join(arguments)} ended with {process.returncode}")
    cost.cpu_s += usage.ru_utime + usage.ru_stime
    cost.peak_mib = max(cost.peak_mib, usage.ru_maxrss / 1024)


def _digest(cost: Cost, path: Path) -> None:
    began = time.process_time()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    cost.cpu_s += time.process_time() - began
