"""One measured read of one object, in a separate process; prints its time and memory as one line of JSON.

`python -m cli.bench.processes.read '{"how": "plain", ...}'` with the fields of `Read`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1 << 20
# Stands in for a metadata file: the combined sha256 starts from it.
METADATA = bytes(range(256)) * 4


@dataclass(frozen=True, slots=True)
class Read:
    """What to read and how; `endpoint` None is AWS itself. `cpu` pins the process to one core."""

    how: str
    bucket: str
    key: str
    endpoint: str | None = None
    cpu: int | None = None
    part_bytes: int = 0
    workers: int = 0
    buffers: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """Wall and CPU seconds from the first request to the last digest, and the whole process's peak memory."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    sha256: str
    combined: str


def make_client(endpoint: str | None) -> S3Client:
    """Return the client a function would make: SigV4, regional, a pool as large as the threads that share it."""
    import boto3
    from botocore.config import Config

    settings = Config(signature_version="s3v4", max_pool_connections=20, retries={"mode": "standard"})
    return boto3.client("s3", endpoint_url=endpoint, config=settings)


def plain_loop(client: S3Client, read: Read) -> tuple[str, str]:
    """Read with `get_object`, one connection, 1 MiB reads, one pass, one thread: the simplest program."""
    plain, combined = hashlib.sha256(), hashlib.sha256(METADATA)
    body = client.get_object(Bucket=read.bucket, Key=read.key)["Body"]
    while chunk := body.read(MIB):
        plain.update(chunk)
        combined.update(chunk)
    return plain.hexdigest(), combined.hexdigest()


def two_passes(client: S3Client, read: Read) -> tuple[str, str]:
    """Return the file, then metadata and the file again, as the well-known servers do."""
    digests = hashlib.sha256(), hashlib.sha256(METADATA)
    for digest in digests:
        body = client.get_object(Bucket=read.bucket, Key=read.key)["Body"]
        while chunk := body.read(MIB):
            digest.update(chunk)
    return digests[0].hexdigest(), digests[1].hexdigest()


def ranged(client: S3Client, read: Read) -> tuple[str, str]:
    """Read with this project's reader, with the plan given."""
    from imageserver.storage.ranged_reader import ReadPlan, digest_chunks, read_object

    head = client.head_object(Bucket=read.bucket, Key=read.key)
    plan = ReadPlan(part_bytes=read.part_bytes, workers=read.workers, buffers=read.buffers)
    digests = hashlib.sha256(), hashlib.sha256(METADATA)
    chunks = read_object(client, read.bucket, read.key, head["ETag"], head["ContentLength"], plan)
    digest_chunks(chunks, digests)
    return digests[0].hexdigest(), digests[1].hexdigest()


def memory_only(_client: S3Client, read: Read) -> tuple[str, str]:
    """Return both digests over memory, one after the other: the CPU that no reader can save. `key` is the size."""
    block = bytes(8 * MIB)
    digests = hashlib.sha256(), hashlib.sha256(METADATA)
    for digest in digests:
        for _ in range(int(read.key) // len(block)):
            digest.update(block)
    return digests[0].hexdigest(), digests[1].hexdigest()


WAYS: dict[str, Callable[[S3Client, Read], tuple[str, str]]] = {
    "plain loop": plain_loop,
    "two passes": two_passes,
    "ranged": ranged,
    "memory": memory_only,
}


def peak_mib() -> float:
    """Return this process's peak resident memory. Not ru_maxrss: that starts from the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def take(read: Read) -> Taken:
    """Run one read and measure it. Imports and the making of the client are not counted."""
    if read.cpu is not None:
        os.sched_setaffinity(0, {read.cpu})
    client = make_client(read.endpoint)
    wall, cpu = time.perf_counter(), time.process_time()
    sha256, combined = WAYS[read.how](client, read)
    return Taken(time.perf_counter() - wall, time.process_time() - cpu, peak_mib(), sha256, combined)


def main() -> None:
    """Measure the read that the first argument describes."""
    print(json.dumps(asdict(take(Read(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
