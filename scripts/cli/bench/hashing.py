"""`bench hash`: one object, read and hashed in several ways, against a paced stand-in or a real bucket."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import click
from botocore.exceptions import BotoCoreError, ClientError

from cli import aws
from cli.bench.figures import Figure, compared, figure
from cli.bench.machine import Busy, cpu_seconds, measured, own_path
from cli.bench.processes.read import MIB, Read, Taken
from cli.bench.servers import Server, fastest, make_object, own_environment, standin
from imageserver.storage.ranged_reader import LARGE, SMALL, ReadPlan

RATE: Final = 80_000_000
FIRST_BYTE_S: Final = 0.025
# What a Lambda function's network interface lets through in the long run: 600 Mbit/s.
INTERFACE_RATE: Final = 75_000_000
PLANS: Final = {"small function": SMALL, "large function": LARGE}
# Where nothing is paced, a small object would mostly measure how long the first request takes.
UNTHROTTLED_BYTES: Final = 2 << 30
# Share of the machine that others may use during a measurement before it is taken again.
DISTURBED: Final = 0.10


Baseline = Literal["plain", "two-pass"]
BASELINES: Final[tuple[Baseline, ...]] = ("plain", "two-pass")
_WORDS: Final[dict[Baseline, str]] = {"plain": "plain loop", "two-pass": "two passes"}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to read under one condition, and the names of the rows that it is compared with."""

    name: str
    read: Read
    against: tuple[str, ...] = ()


@dataclass(slots=True)
class Runs:
    """The runs of one row, each with its disturbance: the share of the machine that other processes used."""

    taken: list[tuple[float, Taken]] = field(default_factory=list)

    def quiet(self, rounds: int) -> list[Taken]:
        """Return the least disturbed runs, chosen by their disturbance and not by their result."""
        return [run for _, run in sorted(self.taken, key=lambda pair: pair[0])[:rounds]]

    def is_done(self, rounds: int) -> bool:
        """Return whether there are enough undisturbed runs, or twice as many as wanted."""
        undisturbed = sum(share <= DISTURBED for share, _ in self.taken)
        return undisturbed >= rounds or len(self.taken) >= 2 * rounds


def planned(read: Read, plan: ReadPlan) -> Read:
    """Return the same read with this project's reader."""
    return replace(read, how="ranged", part_bytes=plan.part_bytes, workers=plan.workers, buffers=plan.buffers)


def rows_of(title: str, read: Read, baselines: Sequence[Baseline]) -> list[Row]:
    """Return the rows of one condition: the ways to compare with, then this project's reader."""
    rows: list[Row] = []
    for baseline in baselines:
        known = tuple(row.name for row in rows)
        rows.append(Row(f"{title}: {_WORDS[baseline]}", replace(read, how=_WORDS[baseline]), known))
    against = tuple(row.name for row in rows)
    for name, plan in PLANS.items():
        what = f"{plan.workers} x {plan.part_bytes // MIB} MiB"
        rows.append(Row(f"{title}: {name}, {what}", planned(read, plan), against))
    return rows


def one_of(baselines: Sequence[Baseline]) -> Sequence[Baseline]:
    """Keep the first: over TLS, too, two passes take twice as long, which the rows without TLS show in less time."""
    return baselines[:1]


def measure(rows: Sequence[Row], rounds: int, environment: dict[str, str], servers: Sequence[int]) -> dict[str, Runs]:
    """Measure the rows in turns, so that a change on the machine affects all of them."""
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
    output = measured("read", json.dumps(asdict(read)), environment=environment, what=str(read))
    after = os.times()
    mine = after.children_user + after.children_system - children.children_user - children.children_system
    mine += sum(map(cpu_seconds, servers)) - ours
    others = Busy.now().seconds - busy - mine
    share = max(0.0, others) / (time.perf_counter() - begin) / (os.cpu_count() or 1)
    return share, Taken(**json.loads(output))


def figures_of(rows: Sequence[Row], runs: dict[str, Runs], rounds: int) -> list[Figure]:
    """Return wall seconds, once for each ratio, then CPU seconds and peak memory of each row."""
    taken = {name: each.quiet(rounds) for name, each in runs.items()}
    wall = {row.name: figure(row.name, "s", [run.wall_s for run in taken[row.name]]) for row in rows}
    found: list[Figure] = []
    for row in rows:
        mine = wall[row.name]
        found += [compared(mine, wall[other]) for other in row.against] or [mine]
        found.append(figure(f"{row.name}: CPU", "CPU s", [run.cpu_s for run in taken[row.name]]))
        found.append(figure(f"{row.name}: peak memory", "MiB", [run.peak_mib for run in taken[row.name]]))
    return found


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """The settings that all conditions share: the object, the reader's environment, the rounds and the baselines."""

    file: Path
    environment: dict[str, str]
    rounds: int
    baselines: Sequence[Baseline]

    def take(self, title: str, read: Read, servers: Sequence[Server], baselines: Sequence[Baseline]) -> list[Figure]:
        """Return the figures of one condition."""
        rows = rows_of(title, read, baselines)
        runs = measure(rows, self.rounds, self.environment, [server.pid for server in servers])
        return figures_of(rows, runs, self.rounds)


def hash_figures(size_mib: int, rounds: int, huge_gib: int, baselines: Sequence[Baseline] = BASELINES) -> list[Figure]:
    """Measure all conditions on this machine, against stand-ins."""
    shm = Path("/dev/shm")  # noqa: S108 - a tmpfs: a disk would be measured instead
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as scratch:
        folder = Path(scratch)
        settings = BenchSettings(make_object(folder, size_mib * MIB), own_environment(folder), rounds, baselines)
        found = _paced(settings, folder / "server.pem")
        # Where all connections share one limit, more of them do not help, but reading once does.
        with standin(settings.file, settings.environment, total_rate=INTERFACE_RATE, delay=FIRST_BYTE_S) as server:
            read = Read("", "bucket", "object", server.address)
            found += settings.take("600 Mbit/s in all", read, [server], settings.baselines)
        found += _unthrottled(settings)
        if huge_gib:
            found += _huge(settings, huge_gib)
        return found


def _paced(settings: BenchSettings, cert: Path) -> list[Figure]:
    speed = {"rate": RATE, "delay": FIRST_BYTE_S}
    found: list[Figure] = []
    with ExitStack() as stack:
        http = stack.enter_context(standin(settings.file, settings.environment, **speed))
        https = stack.enter_context(standin(settings.file, settings.environment, **speed, cert=cert))
        plain = Read("", "bucket", "object", http.address)
        tls = replace(plain, endpoint=https.address)
        for title, read, baselines in (
            ("80 MB/s a connection", plain, settings.baselines),
            ("80 MB/s, TLS", tls, one_of(settings.baselines)),
            ("80 MB/s, TLS, one core", replace(tls, cpu=0), one_of(settings.baselines)),
        ):
            found += settings.take(title, read, [http, https], baselines)
    return found


def _unthrottled(settings: BenchSettings) -> list[Figure]:
    with fastest(settings.file, UNTHROTTLED_BYTES, settings.environment) as server:
        read = Read("", "bucket", "object", server.address)
        found = settings.take(f"unthrottled ({server.name})", read, [server], settings.baselines)
    memory = Row("both digests over memory, one thread", Read("memory", "", str(UNTHROTTLED_BYTES)))
    runs = measure([memory], settings.rounds, settings.environment, [])
    limit = figures_of([memory], runs, settings.rounds)[1]
    again = [compared(row, limit) for row in found if row.name.endswith(": CPU")]
    return [row for row in found if not row.name.endswith(": CPU")] + [limit, *again]


def _huge(settings: BenchSettings, huge_gib: int) -> list[Figure]:
    """Measure the peak memory of an object far larger than any memory: the file's bytes, repeated.

    Each plan runs once, for a minute or more. The ring of buffers is full after the first megabytes, so another run,
    or a median, would show nothing new.
    """
    with standin(settings.file, settings.environment, repeat=huge_gib << 30) as server:
        found = []
        for name, plan in PLANS.items():
            click.echo(f"  {huge_gib} GiB, {name} …", err=True)
            _, taken = _take(planned(Read("", "bucket", "object", server.address), plan), settings.environment, [])
            found.append(figure(f"{huge_gib} GiB, {name}: peak memory", "MiB", [taken.peak_mib]))
            found.append(figure(f"{huge_gib} GiB, {name}", "s", [taken.wall_s]))
        return found


def real_figures(bucket: str, key: str, rounds: int, baselines: Sequence[Baseline] = BASELINES) -> list[Figure]:
    """Measure the same ways against an object of a real bucket, with the caller's credentials, in its region."""
    region = _region_that_has(bucket, key)
    rows = rows_of(f"s3://{bucket}/{key}", Read("", bucket, key), baselines)
    environment = {**own_path(), "AWS_DEFAULT_REGION": region}  # which is what boto3 reads
    return figures_of(rows, measure(rows, rounds, environment, []), rounds)


def _region_that_has(bucket: str, key: str) -> str:
    """Return the region of a bucket that has this object. Raise ClickException with what to set, or if it has none."""
    try:
        session = aws.session_for_bucket(bucket)
        session.client("s3", config=aws.s3_config()).head_object(Bucket=bucket, Key=key)
    except (aws.NoBucket, aws.NotUsable, BotoCoreError, ClientError) as error:
        reason = aws.unusable(error)
        what = f"{reason.what}; {reason.remedy}" if reason else f"s3://{bucket}/{key} cannot be read: {error}"
        raise click.ClickException(what) from error
    return session.region_name
