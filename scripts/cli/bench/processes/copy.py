"""One measured copy of files of another server, in a separate process; prints its time and memory as JSON.

`python -m cli.bench.processes.copy '{"how": "plain loop", ...}'` with the fields of `Fetch`. Nothing is stored:
the bytes are read and checked, then dropped, so that the figures show reading and hashing, and not a stand-in for S3.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from cli.bench.processes.read import MIB, peak_mib
from imageserver.storage.port import KeyHistory, ObjectInfo, Opened, StoredObject

LONG_S = 900.0


@dataclass(frozen=True, slots=True)
class Fetch:
    """What to fetch and how: the one file of a server, with this size and sha256, `files` times."""

    how: str
    address: str
    files: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Wall and CPU seconds, including those of child processes, and the peak memory of this process."""

    wall_s: float
    cpu_s: float
    peak_mib: float


class Sink:
    """An imageserver.storage.port.FileStore that takes everything and keeps only small documents."""

    def __init__(self) -> None:
        self._documents: dict[str, bytes] = {}
        self.made: list[str] = []

    def read(self, key: str) -> StoredObject | None:
        body = self._documents.get(key)
        return None if body is None else StoredObject(body, "1", 0.0)

    def create(self, key: str, body: bytes) -> str | None:
        self._documents[key] = body
        return "1"

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        self._documents[key] = body
        return revision

    def delete(self, key: str, revision: str) -> bool:
        return bool(revision) and self._documents.pop(key, None) is not None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        yield from (ObjectInfo(key, 0, "1", "") for key in self.made if key.startswith(prefix) and key > after)

    def history(self, key: str) -> KeyHistory:
        raise NotImplementedError(key)

    def bring_back(self, upload: ObjectInfo) -> bool:
        raise NotImplementedError(upload.key)

    def tag_listed(self, key: str, version_id: str) -> bool:
        raise NotImplementedError(key, version_id)

    def is_tagged(self, key: str) -> bool:
        raise NotImplementedError(key)

    def earlier(self, key: str) -> Iterator[bytes]:
        raise NotImplementedError(key)

    def open(self, key: str, etag: str) -> Opened:
        raise NotImplementedError(key, etag)

    def create_file(self, key: str, body: bytes | bytearray, sha256: str, origin: str = "") -> bool:
        self.made.append(key)
        return bool(body and sha256 and origin)

    def begin(self, key: str, sha256: str, origin: str = "", /) -> str:
        return f"{key} {sha256} {origin}"

    def put_part(self, key: str, upload_id: str, number: int, body: bytes | bytearray) -> str | None:
        return f"{key} {upload_id} {number} {len(body)}"

    def complete(self, key: str, upload_id: str, etags: Sequence[str]) -> bool:
        self.made.append(key)
        return bool(upload_id and etags)

    def abort(self, key: str, upload_id: str) -> None:
        """Do nothing: nothing was kept."""


def with_curl(fetch: Fetch) -> None:
    """Download with curl, which checks no digest: one process, one connection, one file after the other."""
    addresses = [f"{fetch.address}/file-{number}" for number in range(fetch.files)]
    outputs = ["--output", "/dev/null"] * fetch.files
    command = ["curl", "--silent", "--fail", "--cacert", os.environ["AWS_CA_BUNDLE"], *outputs, *addresses]
    if addresses:
        subprocess.run(command, check=True)


def with_plain_loop(fetch: Fetch) -> None:
    """Read with one urllib3 pool, 1 MiB at a time, and hash: the simplest program."""
    import urllib3

    pool = urllib3.PoolManager(ca_certs=os.environ["AWS_CA_BUNDLE"])
    for number in range(fetch.files):
        digest = hashlib.sha256()
        answer = pool.request("GET", f"{fetch.address}/file-{number}", preload_content=False)
        for chunk in answer.stream(MIB):
            digest.update(chunk)
        answer.release_conn()
        if digest.hexdigest() != fetch.sha256:
            raise ValueError(f"{number}: sha256 {digest.hexdigest()}, expected {fetch.sha256}")


def with_copy(fetch: Fetch) -> None:
    """Copy as the function does, as if each file had its own message."""
    from imageserver.operations.mirror_copy import CopyServices, Outcome, copy
    from imageserver.remote.server import RemoteServer
    from imageserver.upstream.mapping import UpstreamFile
    from imageserver.upstream.mirrors import Mirror

    mirror = Mirror(address=fetch.address, stream="images", only=("all",), allow_private=True)
    store = Sink()
    for number in range(fetch.files):
        file = UpstreamFile(f"file-{number}", f"images/file-{number}", fetch.sha256, fetch.size_bytes)
        with closing(RemoteServer(mirror, "https://images.example.org")) as upstream:
            services = CopyServices(store, upstream, lambda: datetime.now(UTC), time.sleep, lambda: LONG_S, "127.0.0.1")
            copied = copy(file, services)
        if copied.outcome is not Outcome.COPIED:
            raise ValueError(f"{number}: {copied}")


WAYS: dict[str, Callable[[Fetch], None]] = {
    "curl": with_curl,
    "plain loop": with_plain_loop,
    "copy": with_copy,
}


def take(fetch: Fetch) -> Fetched:
    """Run one fetch and measure it. Imports are not counted."""
    WAYS[fetch.how](replace(fetch, files=0))
    wall, cpu = time.perf_counter(), _cpu_s()
    WAYS[fetch.how](fetch)
    return Fetched(time.perf_counter() - wall, _cpu_s() - cpu, peak_mib())


def _cpu_s() -> float:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def main() -> None:
    """Measure the fetch that the first argument describes."""
    print(json.dumps(asdict(take(Fetch(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
