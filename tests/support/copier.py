"""One run of a copy in its own process, which tests kill: `python -m tests.support.copier ENDPOINT BUCKET …`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime

from cli.bench.processes.read import MIB, peak_mib
from imageserver.errors import SimplestreamsError
from imageserver.operations.mirror_copy import STOP_S, Copied, CopyServices, copy
from imageserver.remote.server import RemoteServer, RequestLimits
from imageserver.storage.s3 import S3Store
from imageserver.upstream.addresses import host_of
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.mirrors import Mirror
from tests.support import PROJECT
from tests.support.upload_api import s3_client

PART = 5 << 20
"""The smallest that S3 takes."""
CONNECTIONS = 4
"""The default of a mirror."""


def copy_once(
    endpoint: str, bucket: str, address: str, file: UpstreamFile, read_s: float = 60, connections: int = CONNECTIONS
) -> Copied:
    """Run a copy once. It may read for the given number of seconds, in parts of 5 MiB."""
    mirror = Mirror(address=address, stream="images", only=("all",), allow_private=True, connections=connections)
    until = time.monotonic() + read_s + STOP_S
    with closing(RemoteServer(mirror, "ops@example.org", RequestLimits(part_bytes=PART, pause_s=0.01))) as upstream:
        services = CopyServices(
            store=S3Store(s3_client(endpoint), bucket),
            upstream=upstream,
            now=lambda: datetime.now(UTC),
            pause=time.sleep,
            seconds_left=lambda: until - time.monotonic(),
            host=host_of(address),
        )
        return copy(file, services)


def copying(endpoint: str, bucket: str, address: str, file: UpstreamFile) -> subprocess.Popen[bytes]:
    """Run a copy in its own process. It prints the outcome and its peak memory in bytes, as JSON."""
    command = [sys.executable, "-m", "tests.support.copier", endpoint, bucket, address, json.dumps(asdict(file))]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)


def until_done(attempt: Callable[[], Copied], most: int = 200) -> Copied:
    """Retry like redelivery until a copy is finished."""
    for _ in range(most):
        try:
            copied = attempt()
        except SimplestreamsError:
            continue
        if copied.outcome != "continued":
            return copied
    raise AssertionError(f"{most} tries brought no copy to its end")


if __name__ == "__main__":
    outcome = copy_once(sys.argv[1], sys.argv[2], sys.argv[3], UpstreamFile(**json.loads(sys.argv[4])))
    print(json.dumps([outcome.outcome, peak_mib() * MIB]))
