"""The machine that is measured, how much of it other processes use meanwhile, and how a measured program is run."""

import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click


def describe() -> str:
    """Return one line: date, processors, SHA instructions, memory, software, load."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = cpu.split("model name", 1)[-1].split(":", 1)[-1].splitlines()[0].strip()
    sha = "with SHA instructions" if " sha_ni" in cpu or " sha2" in cpu else "without SHA instructions"
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {len(os.sched_getaffinity(0))} cores ({model}, {sha}), {memory} GiB, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}, "
        f"{ssl.OPENSSL_VERSION.rsplit(' ', 3)[0]}; load {os.getloadavg()[0]:.1f} at the start"
    )


@dataclass(frozen=True, slots=True)
class Busy:
    """CPU seconds that all processes of the machine had used at one moment."""

    seconds: float

    @classmethod
    def now(cls) -> "Busy":
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        idle, waiting = ticks[3], ticks[4]
        return cls((sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK"))


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a running process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_path() -> dict[str, str]:
    """Return the environment of a process that can import what this one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def measured(program: str, *arguments: str, environment: Mapping[str, str] | None = None, what: str = "") -> str:
    """Run a program of cli.bench.processes, and return what it prints. If it fails, raise ClickException.

    `what` names the measurement in the message, instead of the program and its arguments.
    """
    module = f"cli.bench.processes.{program}"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=own_path() if environment is None else environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{what or ' '.join([module, *arguments])} failed:\n{done.stderr[-3000:]}")
    return done.stdout
