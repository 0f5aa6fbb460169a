"""The ranged reader with a misbehaving server, and digests in threads."""

import gc
import hashlib
import io
import itertools
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from imageserver.errors import ObjectChanged, StorageDenied, StorageUnavailable
from imageserver.storage.ranged_reader import HELD, LARGE, MIB, SMALL, ReadPlan, digest_chunks, hash_fan, read_object
from tests.support.servers.ranged_object import ETAG, Fault, ObjectServer, serving

CONTENT = random.Random(7).randbytes(1_000_003)
PLAN = ReadPlan(part_bytes=64 * 1024, workers=4, buffers=6, pause_s=0.0, timeout_s=5)


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with serving(CONTENT) as served:
        yield served


def read(server: ObjectServer, plan: ReadPlan = PLAN, size_bytes: int = len(CONTENT)) -> bytes:
    return b"".join(bytes(chunk) for chunk in read_object(server, "b", "k", ETAG, size_bytes, plan))


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "digest"))]


def test_an_object_arrives_whole_and_in_order(server: ObjectServer) -> None:
    assert read(server) == CONTENT
    assert readers() == []


def test_each_byte_is_requested_once(server: ObjectServer) -> None:
    read(server)
    asked = sorted(server.requests)
    assert asked[0][0] == 0
    assert asked[-1][1] == len(CONTENT) - 1
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(asked))


def test_an_etag_is_pinned_with_or_without_its_quotes(server: ObjectServer) -> None:
    chunks = read_object(server, "b", "k", ETAG.strip('"'), len(CONTENT), PLAN)
    assert b"".join(bytes(chunk) for chunk in chunks) == CONTENT


def test_an_object_of_one_part_costs_one_request_and_no_thread(server: ObjectServer) -> None:
    plan = ReadPlan(part_bytes=len(CONTENT), workers=4, buffers=6)
    chunks = read_object(server, "b", "k", ETAG, len(CONTENT), plan)
    assert bytes(next(chunks)) == CONTENT
    assert readers() == []
    assert server.requests == [(0, len(CONTENT) - 1)]


def test_an_empty_object_costs_no_request(server: ObjectServer) -> None:
    assert read(server, size_bytes=0) == b""
    assert server.requests == []


@pytest.mark.parametrize("cut_after", [0, 1, 40_000])
def test_a_body_that_ends_short_is_resumed_where_it_stopped(server: ObjectServer, cut_after: int) -> None:
    server.faults = [Fault(cut_after=cut_after)]
    server.faults_from = 2 * PLAN.part_bytes
    assert read(server) == CONTENT
    starts = {first for first, _ in server.requests}
    assert any(start % PLAN.part_bytes == cut_after for start in starts)
    assert len(server.requests) == -(-len(CONTENT) // PLAN.part_bytes) + 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_transient_error_is_retried(server: ObjectServer, status: int) -> None:
    server.faults = [Fault(status=status)] * 2
    assert read(server) == CONTENT


def test_a_part_that_keeps_breaking_ends_the_read_after_the_stated_number_of_attempts(server: ObjectServer) -> None:
    server.faults = [Fault(status=503)] * 100
    plan = ReadPlan(part_bytes=len(CONTENT), workers=1, buffers=4, retries=3, pause_s=0.0)
    with pytest.raises(StorageUnavailable, match=r"s3://b/k: byte 0 of 1000003 .* 4 attempts.*503"):
        read(server, plan)
    assert len(server.requests) == 4


def test_a_connection_that_stalls_is_given_up_after_its_timeout(server: ObjectServer) -> None:
    release = threading.Event()
    server.faults = [Fault(cut_after=10, stall=release)]
    plan = ReadPlan(part_bytes=64 * 1024, workers=4, buffers=6, pause_s=0.0, timeout_s=0.2)
    assert read(server, plan) == CONTENT
    release.set()


def test_an_object_that_changes_midway_is_object_changed(server: ObjectServer) -> None:
    chunks = read_object(server, "b", "k", ETAG, len(CONTENT), PLAN)
    next(chunks)
    server.etag = '"another"'
    with pytest.raises(ObjectChanged, match="s3://b/k: expected 1000003 bytes with ETag"):
        list(chunks)
    assert readers() == []


@pytest.mark.parametrize(
    ("status", "error"), [(404, ObjectChanged), (412, ObjectChanged), (416, ObjectChanged), (403, StorageDenied)]
)
def test_each_final_status_maps_to_the_error_class_of_the_party_that_can_act(
    server: ObjectServer, status: int, error: type
) -> None:
    server.faults = [Fault(status=status)]
    with pytest.raises(error, match=str(status)):
        read(server)


@pytest.mark.parametrize("content_range", ["bytes 0-65535/1000004", "bytes 1-65536/1000003", "bytes 0-65534/1000003"])
def test_an_answer_about_another_range_is_refused(server: ObjectServer, content_range: str) -> None:
    server.faults = [Fault(content_range=content_range)]
    with pytest.raises(StorageUnavailable, match=f"'bytes 0-65535/1000003', found 206 with '{content_range}'"):
        read(server, ReadPlan(part_bytes=65536, workers=1, buffers=4))


def test_a_server_that_ignores_ranges_is_refused(server: ObjectServer) -> None:
    server.faults = [Fault(status=200)]
    with pytest.raises(StorageUnavailable, match="found 200"):
        read(server)


def test_a_consumer_that_stops_early_leaves_no_thread_and_no_connection(server: ObjectServer) -> None:
    release = threading.Event()
    server.faults = [Fault(cut_after=10, stall=release)] * 3
    server.faults_from = PLAN.part_bytes
    chunks = read_object(server, "b", "k", ETAG, len(CONTENT), PLAN)
    next(chunks)
    begin = time.monotonic()
    chunks.close()  # type: ignore[attr-defined]  # a generator behind the Iterator
    assert readers() == []
    assert time.monotonic() - begin < PLAN.timeout_s  # woken, not awaited: three bodies are stalled
    release.set()
    for _ in range(500):
        if not server.open_connections:
            break
        time.sleep(0.01)
    assert server.open_connections == 0


def test_a_dropped_iterator_leaves_no_thread(server: ObjectServer) -> None:
    for _ in read_object(server, "b", "k", ETAG, len(CONTENT), PLAN):
        break
    gc.collect()
    assert readers() == []


def test_a_chunk_stays_unchanged_until_two_more_were_requested(server: ObjectServer) -> None:
    kept: list[memoryview] = []
    position = 0
    for chunk in read_object(server, "b", "k", ETAG, len(CONTENT), PLAN):
        kept.append(chunk)
        position += len(chunk)
        now = b"".join(bytes(part) for part in kept[-HELD:])
        assert now == CONTENT[position - len(now) : position]


def test_memory_follows_the_formula_for_any_size() -> None:
    plan = ReadPlan(part_bytes=256 * 1024, workers=4, buffers=6)
    peaks = []
    for size in (4 * MIB, 16 * MIB):
        with serving(bytes(size)) as served:
            tracemalloc.start()
            buffers = {id(chunk.obj) for chunk in read_object(served, "b", "k", ETAG, size, plan)}
            held = [trace for trace in tracemalloc.take_snapshot().traces if trace.size >= plan.part_bytes]
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert len(buffers) == plan.buffers
        assert held == []
    buffered = plan.workers * io.DEFAULT_BUFFER_SIZE  # by each connection's reader: 128 KiB since Python 3.14
    assert max(peaks) < plan.memory_bytes + buffered + MIB


def test_presets_fit_their_functions() -> None:
    assert SMALL.memory_bytes <= 64 * MIB
    assert LARGE.memory_bytes <= 128 * MIB


@pytest.mark.parametrize("wrong", [{"part_bytes": 0}, {"workers": 0}, {"buffers": HELD}])
def test_an_impossible_plan_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReadPlan(**{"part_bytes": 1, "workers": 1, "buffers": HELD + 1, **wrong})


def test_digests_computed_in_threads_match_the_bytes(server: ObjectServer) -> None:
    digests = [hashlib.sha256(), hashlib.sha256(b"metadata")]
    plan = ReadPlan(part_bytes=300_000, workers=2, buffers=4)
    digest_chunks(read_object(server, "b", "k", ETAG, len(CONTENT), plan), digests)
    assert digests[0].digest() == hashlib.sha256(CONTENT).digest()
    assert digests[1].digest() == hashlib.sha256(b"metadata" + CONTENT).digest()
    assert readers() == []


def test_large_and_small_chunks_keep_their_order_in_the_fan() -> None:
    pieces = [bytes([i]) * size for i, size in enumerate([2 * MIB, 10, 3 * MIB, MIB, 1, 0, 2 * MIB])]
    digest = hashlib.sha256()
    digest_chunks(pieces, [digest])
    assert digest.digest() == hashlib.sha256(b"".join(pieces)).digest()


class Hooked:
    """A digest that calls back before each chunk."""

    def __init__(self, before: Callable[[], None]) -> None:
        self.before = before

    def update(self, _data: bytes | bytearray | memoryview, /) -> None:
        self.before()

    def hexdigest(self) -> str:
        return ""

    def copy(self) -> "Hooked":
        return self


def test_a_slow_digest_does_not_delay_the_other() -> None:
    """The second digest gets a second chunk while the first still works on the first chunk."""
    ahead, chunks = threading.Event(), itertools.count(1)

    def wait() -> None:
        assert ahead.wait(10), "the second digest waited for the first"

    with hash_fan([Hooked(wait), Hooked(lambda: ahead.set() if next(chunks) == 2 else None)]) as update:
        update(bytes(MIB))
        update(bytes(MIB))


def test_a_failing_digest_is_not_swallowed() -> None:
    def fail() -> None:
        raise RuntimeError("no digest")

    with pytest.raises(RuntimeError, match="no digest"), hash_fan([Hooked(fail)]) as update:
        update(bytes(2 * MIB))
    assert readers() == []
