"""`bench hash`: one object, read and hashed in several ways, against a paced stand-in or a real bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import click
import trustme

from cli.bench.figures import Figure, figure
from cli.bench.machine import Busy, cpu_seconds
from cli.bench.reads import MIB, Read, Taken
from storage.stream import LARGE, SMALL, ReadPlan

RATE: Final = 80_000_000
FIRST_BYTE_S: Final = 0.025
# What a Lambda function's network interface lets through in the long run: 600 Mbit/s.
INTERFACE_RATE: Final = 75_000_000
# Where nothing is paced, a small object would mostly measure how long the first request takes.
UNTHROTTLED_BYTES: Final = 2 << 30
# Share of the machine that others may use during a measurement before it is taken again.
DISTURBED: Final = 0.10


@dataclass(frozen=True, slots=True)
class Row:
    """One way to read under one condition, and the name of the row that it is compared with."""

    name: str
    read: Read
    against: str = ""


@dataclass(slots=True)
class Runs:
    """What was taken of one row; `disturbance` is the share of the machine that others used each time."""

    taken: list[tuple[float, Taken]] = field(default_factory=list)

    def quiet(self, rounds: int) -> list[Taken]:
        """The least disturbed runs, chosen by the disturbance and not by their result."""
        return [run for _, run in sorted(self.taken, key=lambda pair: pair[0])[:rounds]]

    def is_done(self, rounds: int) -> bool:
        """Enough undisturbed runs, or twice as many as wanted."""
        undisturbed = sum(share <= DISTURBED for share, _ in self.taken)
        return undisturbed >= rounds or len(self.taken) >= 2 * rounds


def planned(read: Read, plan: ReadPlan) -> Read:
    """The same read with this project's reader."""
    return replace(read, how="ranged", part_bytes=plan.part_bytes, workers=plan.workers, buffers=plan.buffers)


def rows_of(title: str, read: Read, *, two_passes: bool) -> list[Row]:
    """The rows of one condition; the first is what the others are compared with."""
    plain = f"{title}: plain loop"
    rows = [Row(plain, replace(read, how="plain"))]
    if two_passes:
        rows.append(Row(f"{title}: two passes", replace(read, how="two passes"), plain))
    for name, plan in (("small function", SMALL), ("large function", LARGE)):
        what = f"{plan.workers} x {plan.part_bytes // MIB} MiB"
        rows.append(Row(f"{title}: {name}, {what}", planned(read, plan), plain))
    return rows


def measure(rows: Sequence[Row], rounds: int, environment: dict[str, str], servers: Sequence[int]) -> dict[str, Runs]:
    """Take every row in turns, so that what changes on the machine changes for all of them."""
    runs = {row.name: Runs() for row in rows}
    while any(not run.is_done(rounds) for run in runs.values()):
        for row in rows:
            if not runs[row.name].is_done(rounds):
                click.echo(f"  {row.name} …", err=True)
                runs[row.name].taken.append(_take(row.read, environment, servers))
    digests = {(run.sha256, run.combined) for each in runs.values() for _, run in each.taken}
    if len(digests) != 1:
        raise click.ClickException(f"the ways to read do not agree on the digests: {sorted(digests)}")
    return runs


def _take(read: Read, environment: dict[str, str], servers: Sequence[int]) -> tuple[float, Taken]:
    busy, ours, begin = Busy.now().seconds, sum(map(cpu_seconds, servers)), time.perf_counter()
    children = os.times()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "cli.bench.reads", json.dumps(asdict(read))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{read} failed:\n{done.stderr[-3000:]}")
    after = os.times()
    mine = after.children_user + after.children_system - children.children_user - children.children_system
    mine += sum(map(cpu_seconds, servers)) - ours
    others = Busy.now().seconds - busy - mine
    share = max(0.0, others) / (time.perf_counter() - begin) / (os.cpu_count() or 1)
    return share, Taken(**json.loads(done.stdout))


def figures_of(rows: Sequence[Row], runs: dict[str, Runs], rounds: int) -> list[Figure]:
    """Wall seconds with their ratio, then CPU seconds and peak memory of each row."""
    taken = {name: each.quiet(rounds) for name, each in runs.items()}
    wall: dict[str, Figure] = {}
    found: list[Figure] = []
    for row in rows:
        runs_of_row = taken[row.name]
        wall[row.name] = figure(row.name, "s", [run.wall_s for run in runs_of_row], wall.get(row.against))
        found.append(wall[row.name])
        found.append(figure(f"{row.name}: CPU", "CPU s", [run.cpu_s for run in runs_of_row]))
        found.append(figure(f"{row.name}: peak memory", "MiB", [run.peak_mib for run in runs_of_row]))
    return found


@contextmanager
def standin(file: Path, environment: dict[str, str], **options: object) -> Iterator[tuple[str, int]]:
    """A stand-in for S3 in a process of its own: its address and its pid."""
    arguments = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "cli.bench.standin", "--file", str(file), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None  # noqa: S101
            scheme = "https" if "cert" in options else "http"
            yield f"{scheme}://localhost:{int(process.stdout.readline())}", process.pid
        finally:
            process.kill()


def own_environment(folder: Path) -> dict[str, str]:
    """The environment of readers and stand-ins: no credentials of anybody, and a certificate authority of ours."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CA_BUNDLE": str(folder / "ca.pem"),
    }


def make_object(folder: Path, size_bytes: int) -> Path:
    """A file of random bytes."""
    target = folder / "object"
    with target.open("wb") as file:
        for start in range(0, size_bytes, 8 * MIB):
            file.write(os.urandom(min(8 * MIB, size_bytes - start)))
    return target


def hash_figures(size_mib: int, rounds: int, huge_gib: int) -> list[Figure]:
    """All conditions on this machine, against stand-ins."""
    shm = Path("/dev/shm")  # noqa: S108 - a tmpfs: a disk would be measured instead
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as scratch:
        folder = Path(scratch)
        environment = own_environment(folder)
        file = make_object(folder, size_mib * MIB)
        cert = folder / "server.pem"
        found = _paced(file, environment, rounds, cert)
        found += _one_interface(file, environment, rounds)
        found += _unthrottled(file, environment, rounds)
        if huge_gib:
            found += _huge(file, environment, huge_gib)
        return found


def _paced(file: Path, environment: dict[str, str], rounds: int, cert: Path) -> list[Figure]:
    speed = {"rate": RATE, "delay": FIRST_BYTE_S}
    found: list[Figure] = []
    with ExitStack() as stack:
        http, http_pid = stack.enter_context(standin(file, environment, **speed))
        https, https_pid = stack.enter_context(standin(file, environment, **speed, cert=cert))
        plain = Read("plain", "bucket", "object", http)
        tls = replace(plain, endpoint=https)
        for title, read, two in (
            ("80 MB/s a connection", plain, True),
            ("80 MB/s, TLS", tls, False),
            ("80 MB/s, TLS, one core", replace(tls, cpu=0), False),
        ):
            rows = rows_of(title, read, two_passes=two)
            found += figures_of(rows, measure(rows, rounds, environment, [http_pid, https_pid]), rounds)
    return found


def _one_interface(file: Path, environment: dict[str, str], rounds: int) -> list[Figure]:
    """All connections share one limit: more of them do not help, reading once does."""
    with standin(file, environment, total_rate=INTERFACE_RATE, delay=FIRST_BYTE_S) as (address, pid):
        rows = rows_of("600 Mbit/s in all", Read("plain", "bucket", "object", address), two_passes=True)
        return figures_of(rows, measure(rows, rounds, environment, [pid]), rounds)


def _unthrottled(file: Path, environment: dict[str, str], rounds: int) -> list[Figure]:
    with standin(file, environment, repeat=UNTHROTTLED_BYTES) as (address, pid):
        rows = rows_of("unthrottled", Read("plain", "bucket", "object", address), two_passes=True)
        found = figures_of(rows, measure(rows, rounds, environment, [pid]), rounds)
    memory = Row("both digests over memory, one thread", Read("memory", "", str(UNTHROTTLED_BYTES)))
    limit = figures_of([memory], measure([memory], rounds, environment, []), rounds)[1]
    again = [replace_ratio(row, limit) for row in found if row.name.endswith(": CPU")]
    return [row for row in found if not row.name.endswith(": CPU")] + [limit, *again]


def replace_ratio(row: Figure, limit: Figure) -> Figure:
    """The same figure compared with the limit."""
    return replace(row, ratio=limit.median / row.median, against=limit.name)


def _huge(file: Path, environment: dict[str, str], huge_gib: int) -> list[Figure]:
    """Peak memory of an object far larger than any memory: the file's bytes over and over."""
    with standin(file, environment, repeat=huge_gib << 30) as (address, _):
        found = []
        for name, plan in (("large function", LARGE),):
            click.echo(f"  {huge_gib} GiB, {name} …", err=True)
            _, taken = _take(planned(Read("", "bucket", "object", address), plan), environment, [])
            found.append(figure(f"{huge_gib} GiB, {name}: peak memory", "MiB", [taken.peak_mib]))
            found.append(figure(f"{huge_gib} GiB, {name}", "s", [taken.wall_s]))
        return found


def real_figures(bucket: str, key: str, rounds: int) -> list[Figure]:
    """The same ways against an object of a real bucket, with the caller's credentials and region."""
    rows = rows_of(f"s3://{bucket}/{key}", Read("plain", bucket, key), two_passes=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return figures_of(rows, measure(rows, rounds, environment, []), rounds)
