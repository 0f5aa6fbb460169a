"""Files copied over HTTP into the local stack's S3 and a real one: whatever breaks, the file or nothing is left."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from imageserver.errors import LeaseHeld, UpstreamChanged, UpstreamUnavailable
from imageserver.format.keys import parse_version
from imageserver.operations import mirror_copy
from imageserver.operations.ingest import IngestServices, ingest
from imageserver.operations.mirror_copy import UPLOADS, Copied, Outcome
from imageserver.remote.server import AHEAD
from imageserver.storage import leases
from imageserver.storage.s3 import S3Store
from imageserver.upstream.mapping import UpstreamFile
from imageserver.versions.state import State
from tests.support import images
from tests.support.copier import CONNECTIONS, PART, copy_once, copying, until_done
from tests.support.memory_store import START
from tests.support.processes import free_port
from tests.support.servers.fault_proxy import faulty_wire
from tests.support.servers.upstream import Fault, UpstreamServer, upstream
from tests.support.upload_api import s3_client, s3_server

pytestmark = pytest.mark.xdist_group("mirror-copy")

NUMBERS = itertools.count(1)
VERSION = "images/ubuntu/noble/amd64/default/20261123_10:00"
PATH = "server/noble/disk1.img"
BODY = random.Random(1).randbytes(4 * PART + 77)


@dataclass
class CopyTarget:
    """A separate bucket, and another server with one file."""

    endpoint: str
    bucket: str
    s3: Any
    upstream: UpstreamServer

    def file(self, name: str = "disk1.img", body: bytes = BODY, sha256: str = "") -> UpstreamFile:
        return UpstreamFile(PATH, f"{VERSION}/{name}", sha256 or hashlib.sha256(body).hexdigest(), len(body))

    def copy(self, file: UpstreamFile | None = None, read_s: float = 60, connections: int = CONNECTIONS) -> Copied:
        return copy_once(self.endpoint, self.bucket, self.upstream.address, file or self.file(), read_s, connections)

    def copy_a_part(self) -> Copied:
        """Run a copy that ends after its first part."""
        self.upstream.bytes_per_s = 1 << 20
        try:
            while True:
                self.upstream.faults[PATH] = [Fault(unpaced=True)]
                copied = self.copy(read_s=1.5)
                if copied.bytes_read or copied.outcome is not Outcome.CONTINUED:  # otherwise the machine was too busy
                    return copied
        finally:
            self.upstream.bytes_per_s = 0

    def stored(self, file: UpstreamFile | None = None) -> bytes | None:
        key = (file or self.file()).key
        if key not in self.keys:
            return None
        body: bytes = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    @property
    def keys(self) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return [one["Key"] for one in found]

    @property
    def uploads(self) -> list[Any]:
        return list(self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))


@pytest.fixture(scope="module", params=["local", pytest.param("versitygw", marks=pytest.mark.real_s3)])
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with s3_server(request.param, port, tmp_path_factory.mktemp(request.param)):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def target(endpoint: str) -> Iterator[CopyTarget]:
    s3, bucket = s3_client(endpoint), f"bucket-{next(NUMBERS)}"
    s3.create_bucket(Bucket=bucket)
    with upstream({PATH: BODY}) as server:
        yield CopyTarget(endpoint, bucket, s3, server)


@pytest.mark.parametrize("size", [1, PART, PART + 1, len(BODY)])
def test_a_file_is_copied_as_a_publisher_would_have_uploaded_it(target: CopyTarget, size: int) -> None:
    target.upstream.files[PATH] = BODY[:size]
    file = target.file(body=BODY[:size])
    assert target.copy(file) == Copied(Outcome.COPIED, "", size)
    head = target.s3.head_object(Bucket=target.bucket, Key=file.key)
    assert (head["ContentType"], head["Metadata"]["sha256"]) == ("application/octet-stream", file.sha256)
    assert "immutable" in head["CacheControl"]
    assert target.stored(file) == BODY[:size]
    assert (target.keys, target.uploads) == ([file.key], [])
    assert target.copy(file) == Copied(Outcome.PRESENT)
    assert target.upstream.bytes_sent == {PATH: size}


@pytest.mark.parametrize("size", [1000, len(BODY)])
def test_wrong_bytes_leave_no_file(target: CopyTarget, size: int) -> None:
    target.upstream.files[PATH] = BODY[:size]
    copied = target.copy(target.file(body=BODY[:size], sha256="0" * 64))
    assert (copied.outcome, "expected 000000" in copied.reason) == (Outcome.REFUSED, True)
    assert (target.stored(), target.uploads) == (None, [])


def test_a_slow_file_is_continued_by_other_runs(target: CopyTarget) -> None:
    runs: list[Copied] = []
    while not runs or runs[-1].outcome is Outcome.CONTINUED:
        assert target.stored() is None
        runs.append(target.copy_a_part())
    assert len(runs) >= 4
    assert (runs[-1].outcome, target.stored()) == (Outcome.COPIED, BODY)
    assert sum(run.bytes_read for run in runs) == len(BODY)
    assert (target.keys, target.uploads) == ([target.file().key], [])


def test_a_file_that_changes_between_runs_is_copied_from_its_start(target: CopyTarget) -> None:
    assert target.copy_a_part().outcome is Outcome.CONTINUED
    other = random.Random(2).randbytes(len(BODY))
    target.upstream.files[PATH] = other
    with pytest.raises(UpstreamChanged):
        target.copy()
    assert target.uploads == []
    assert target.copy(target.file(body=other)).outcome is Outcome.COPIED
    assert target.stored() == other


def test_a_file_uploaded_during_a_copy_is_kept(target: CopyTarget) -> None:
    """This holds even if the copy had begun before: its completion is conditional."""
    assert target.copy_a_part().outcome is Outcome.CONTINUED
    target.s3.put_object(Bucket=target.bucket, Key=target.file().key, Body=b"somebody's own")
    assert target.copy().outcome is Outcome.PRESENT
    assert (target.stored(), target.keys, target.uploads) == (b"somebody's own", [target.file().key], [])


def test_an_outage_upstream_loses_no_part(target: CopyTarget) -> None:
    target.upstream.faults[PATH] = [Fault(), Fault(), Fault(), *[Fault(503, {"Retry-After": "600"})] * 50]
    with pytest.raises(UpstreamUnavailable):
        target.copy(connections=1)  # so that the three answers are the first three parts
    target.upstream.faults.clear()
    assert target.copy().bytes_read <= len(BODY) - 2 * PART
    assert target.stored() == BODY


def test_digest_treats_a_mirrored_version_like_any_upload(target: CopyTarget) -> None:
    store = S3Store(target.s3, target.bucket)
    for name, body in images.split_image(seed="mirrored").items():
        target.upstream.files[PATH] = body
        assert target.copy(target.file(name, body)).outcome is Outcome.COPIED
    services = IngestServices(store, lambda: START, lambda _: None, 1 << 40, lease_seconds=900)
    record = ingest(parse_version(VERSION), services).record
    assert record
    assert record.state == State.COMPLETE


@pytest.mark.parametrize("seed", range(4))
def test_faults_of_both_sides_lead_to_the_file_or_nothing(
    target: CopyTarget, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of S3 get lost after the request took effect, those of upstream break, and runs are short."""
    monkeypatch.setattr(mirror_copy, "SAVE_S", 0)
    monkeypatch.setattr(leases, "LONGEST_S", 0.0)  # left behind by a lost answer
    chance = random.Random(seed)
    faults = [Fault(), Fault(), Fault(500), Fault(cut_after=chance.randrange(PART)), Fault(429, {"Retry-After": "0"})]
    target.upstream.faults[PATH] = chance.choices(faults, k=1000)
    with faulty_wire(free_port(), target.endpoint, seed) as wire:

        def attempt() -> Copied:
            assert target.stored() in (None, BODY)
            return copy_once(wire.url, target.bucket, target.upstream.address, target.file(), chance.choice((1, 60)))

        until_done(attempt)
        assert wire.injected
    assert target.stored() == BODY
    # Notes and uploads may be left after lost answers: lifecycle rules of the bucket remove them.
    assert [key for key in target.keys if key.startswith("images/")] == [target.file().key]


def test_a_worker_killed_at_any_moment_leaves_the_file_or_nothing(
    target: CopyTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.upstream.bytes_per_s = 20 << 20
    chance = random.Random(1)
    for _ in range(8):
        process = copying(target.endpoint, target.bucket, target.upstream.address, target.file())
        time.sleep(chance.uniform(0.3, 2.5))
        process.kill()
        process.communicate()
        assert target.stored() in (None, BODY)
    monkeypatch.setattr(leases, "LONGEST_S", 0.0)  # leases of killed workers last for some minutes
    assert until_done(target.copy).outcome in (Outcome.COPIED, Outcome.PRESENT)
    assert target.stored() == BODY


def test_a_second_worker_waits_for_the_one_that_copies_the_file(target: CopyTarget) -> None:
    target.upstream.bytes_per_s = 8 << 20
    process = copying(target.endpoint, target.bucket, target.upstream.address, target.file())
    while not [key for key in target.keys if key.startswith("leases/")]:
        time.sleep(0.05)
    with pytest.raises(LeaseHeld):
        target.copy()
    output, _ = process.communicate()
    assert json.loads(output)[0] == "copied"
    assert target.upstream.bytes_sent == {PATH: len(BODY)}


def test_memory_does_not_grow_with_the_file(target: CopyTarget) -> None:
    peaks = []
    for body in (BODY[:PART], bytes(120 << 20)):
        target.upstream.files[PATH] = body
        file = target.file(f"disk-{len(body)}.qcow2", body)
        output, _ = copying(target.endpoint, target.bucket, target.upstream.address, file).communicate()
        outcome, peak = json.loads(output)
        assert outcome == "copied"
        peaks.append(peak)
    parts = CONNECTIONS + AHEAD + UPLOADS + 1
    copied_by_botocore = UPLOADS
    kept_by_malloc = 32 << 20  # of freed parts: each thread has its own arena
    assert peaks[1] - peaks[0] < (parts + copied_by_botocore) * PART + kept_by_malloc < 120 << 20
