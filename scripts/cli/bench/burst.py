"""`bench burst`: upload many versions within a minute to a separate local stack. Is every one listed, and when?"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from botocore.config import Config

from cli.bench.figures import Figure, exact, figure
from local_stack.credentials import local_session
from local_stack.errors import NotRunning
from local_stack.state import Stack, read_stack

UPLOAD_S: Final = 60.0
VERSIONS_PER_PRODUCT: Final = 20
PATIENCE_S: Final = 900.0
START_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Logged:
    """Figures from the functions' logs. Races count attempts that had to be repeated."""

    catalog_writes: int
    publish_attempts: int
    publish_races: int
    record_writes: int
    record_races: int


@dataclass(frozen=True, slots=True)
class Burst:
    """The result of one burst against a separate local stack."""

    listed: int
    uploading_s: float
    listing_s: float
    logged: Logged


def burst_figures(versions: int, digest_workers: int, publish_workers: int, rounds: int) -> list[Figure]:
    """Upload `versions` versions of three files each, evenly over a minute, and wait until all are listed; repeat."""
    bursts = []
    for number in range(1, rounds + 1):
        click.echo(f"  burst {number} of {rounds} …", err=True)
        with (
            tempfile.TemporaryDirectory() as scratch,
            _local_stack(Path(scratch), digest_workers, publish_workers) as stack,
        ):
            aws = local_session(stack.access_key_id, stack.secret_access_key, stack.region)
            config = Config(s3={"addressing_style": "path"}, max_pool_connections=20)
            client = aws.client("s3", endpoint_url=stack.s3_endpoint, config=config)
            begin = time.monotonic()
            _upload(client, stack.bucket, versions)
            uploaded = time.monotonic()
            click.echo(f"  {versions} versions uploaded in {uploaded - begin:.0f} s …", err=True)
            listed = _wait_until_listed(client, stack.bucket, versions)
            done = time.monotonic()
            bursts.append(Burst(listed, uploaded - begin, done - uploaded, _read_logs(Path(scratch) / "logs")))
    return figures_of(versions, bursts)


def figures_of(versions: int, bursts: Sequence[Burst]) -> list[Figure]:
    """Return the medians of several bursts of this many versions."""
    logged = [burst.logged for burst in bursts]
    return [
        exact("burst: versions uploaded", "versions", versions),
        figure("burst: versions listed", "versions", [burst.listed for burst in bursts]),
        figure("burst: versions lost", "versions", [versions - burst.listed for burst in bursts]),
        figure("burst: uploading took", "s", [burst.uploading_s for burst in bursts]),
        figure("burst: last upload to all listed", "s", [burst.listing_s for burst in bursts]),
        figure("burst: catalog writes", "writes", [each.catalog_writes for each in logged]),
        figure("burst: attempts at a catalog", "attempts", [each.publish_attempts for each in logged]),
        figure("burst: catalog races lost", "%", [_percent(e.publish_races, e.publish_attempts) for e in logged]),
        figure("burst: record races lost", "%", [_percent(e.record_races, e.record_writes) for e in logged]),
    ]


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


@contextmanager
def _local_stack(folder: Path, digest_workers: int, publish_workers: int) -> Iterator[Stack]:
    """Yield a local stack of its own, once it runs."""
    command = [sys.executable, "-m", "cli.local", "--port", "0", "--empty", "--full-windows"]
    command += ["--state-dir", str(folder)]
    command += ["--digest-workers", str(digest_workers), "--publish-workers", str(publish_workers)]
    command += ["--parameter", f"PublishConcurrency={publish_workers}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline, stack = time.monotonic() + START_S, None
            while stack is None:
                if time.monotonic() >= deadline or process.poll() is not None:
                    raise click.ClickException(f"the local stack did not start (exit status {process.poll()})")
                try:
                    stack = read_stack(folder)
                except NotRunning:
                    time.sleep(0.2)
            yield stack
        finally:
            process.terminate()


def _upload(client: Any, bucket: str, versions: int) -> None:
    """Put the files of all versions at even intervals, with each metadata file last but one, as publishers do."""
    begin = time.monotonic()

    def put(number: int) -> None:
        time.sleep(max(0.0, begin + number * UPLOAD_S / versions - time.monotonic()))
        product, version = divmod(number, VERSIONS_PER_PRODUCT)
        folder = f"images/burst/r{product:03d}/amd64/default/202611{version + 1:02d}_10:00"
        for name, body in _files(number).items():
            client.put_object(Bucket=bucket, Key=f"{folder}/{name}", Body=body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(versions)))


def _files(number: int) -> dict[str, bytes]:
    noise = hashlib.sha256(str(number).encode()).digest() * 128
    yaml = f"architecture: x86_64\ncreation_date: 1795000000\nproperties:\n  serial: '{number}'\n".encode()
    # A qcow2 of 1 MiB in which nothing is allocated: header, refcount table, L1 table, then the noise.
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 9, 1 << 20, 0, 32, 1024, 512, 1, 0, 0)
    return {
        "root.tar.xz": _tarball("noise", noise),
        "lxd.tar.xz": _tarball("metadata.yaml", yaml),
        "disk.qcow2": header.ljust(512, b"\0") + bytes(1024) + noise,
    }


def _tarball(name: str, content: bytes) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return lzma.compress(tar.getvalue(), preset=0)


def _wait_until_listed(client: Any, bucket: str, versions: int) -> int:
    """Return how many versions are listed with both roots, once all are or patience ends."""
    deadline, whole = time.monotonic() + PATIENCE_S, {"root.tar.xz", "disk.qcow2"}
    while True:
        try:
            body = client.get_object(Bucket=bucket, Key="streams/v1/images.json")["Body"].read()
        except client.exceptions.NoSuchKey:
            body = b'{"products": {}}'
        products = json.loads(body)["products"].values()
        listed: int = sum(whole <= version["items"].keys() for p in products for version in p["versions"].values())
        if listed == versions or time.monotonic() > deadline:
            return listed
        time.sleep(0.5)


def _read_logs(folder: Path) -> Logged:
    published = list(_lines(folder / "PublishFunction.log", "published"))
    ingested = list(_lines(folder / "DigestFunction.log", "ingested"))
    return Logged(
        catalog_writes=sum(line["writes"] for line in published),
        publish_attempts=sum(line["attempts"] for line in published),
        publish_races=sum(line["lost_races"] for line in published),
        record_writes=sum(line["outcome"] == "recorded" for line in ingested),
        record_races=sum(line["lost_races"] for line in ingested),
    )


def _lines(file: Path, message: str) -> Iterator[dict[str, Any]]:
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith("{") and f'"{message}"' in line:
            entry = json.loads(line)
            if entry.get("message") == message:
                yield entry
