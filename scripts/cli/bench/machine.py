"""The machine that was measured, and how much of it other processes used meanwhile."""

import os
import platform
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


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
