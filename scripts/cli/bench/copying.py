"""`bench copy`: files of another server, as the copy function fetches them, compared with curl and a plain loop."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from cli.bench.figures import Figure, compared, figure
from cli.bench.hashing import FIRST_BYTE_S, RATE
from cli.bench.machine import measured
from cli.bench.processes.copy import WAYS, Fetch, Fetched
from cli.bench.processes.read import MIB
from cli.bench.servers import make_object, own_environment, standin

LARGE_BYTES: Final = 512 * MIB
SMALL_BYTES: Final = 400_000
"""A metadata tarball with templates."""
SMALL_FILES: Final = 100


def copy_figures(rounds: int) -> list[Figure]:
    """Measure one large file in MB/s and small ones in files a minute: over TLS, from paced sockets, stored nowhere."""
    found: list[Figure] = []
    for files, size_bytes in ((1, LARGE_BYTES), (SMALL_FILES, SMALL_BYTES)):
        shm = Path("/dev/shm")  # noqa: S108 - a tmpfs: a disk would be measured instead
        with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as scratch:
            taken = _measure(Path(scratch), files, size_bytes, rounds)
        found += figures_of(files, size_bytes, taken)
    return found


def _measure(folder: Path, files: int, size_bytes: int, rounds: int) -> dict[str, list[Fetched]]:
    """Return what each way took, the ways taking turns."""
    environment, file = own_environment(folder), make_object(folder, size_bytes)
    with file.open("rb") as body:
        sha256 = hashlib.file_digest(body, "sha256").hexdigest()
    taken: dict[str, list[Fetched]] = {how: [] for how in WAYS}
    options = {"rate": RATE, "delay": FIRST_BYTE_S, "cert": folder / "server.pem"}
    with standin(file, environment, **options) as server:
        for _ in range(rounds):
            for how, runs in taken.items():
                click.echo(f"  {files} x {size_bytes / 1e6:.1f} MB, {how} …", err=True)
                fetch = Fetch(how, server.address, files, size_bytes, sha256)
                output = measured("copy", json.dumps(asdict(fetch)), environment=environment, what=str(fetch))
                runs.append(Fetched(**json.loads(output)))
    return taken


def figures_of(files: int, size_bytes: int, taken: Mapping[str, Sequence[Fetched]]) -> list[Figure]:
    """Return the speed of each way, the last one compared with the others, and its CPU and memory."""
    unit, amount = ("MB/s", size_bytes / 1e6) if files == 1 else ("files/min", files * 60)
    title = f"{files} file{'s' if files > 1 else ''} of {size_bytes / 1e6:.1f} MB"
    speeds = {
        how: figure(f"{title}: {how}", unit, [amount / run.wall_s for run in runs]) for how, runs in taken.items()
    }
    *others, ours = speeds.values()
    found = [*others, *(compared(ours, other) for other in others)]
    for how, runs in taken.items():
        found.append(figure(f"{title}: {how}: CPU", "CPU s", [run.cpu_s for run in runs]))
        if how != "curl":
            found.append(figure(f"{title}: {how}: peak memory", "MiB", [run.peak_mib for run in runs]))
    return found
