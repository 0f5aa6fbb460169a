"""A file of another server becomes an object with its bytes, or nothing does; nothing is fetched twice."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from imageserver.errors import LeaseHeld, StorageDenied, StorageUnavailable, UpstreamChanged, UpstreamUnavailable
from imageserver.inspection import resumable
from imageserver.operations import mirror_copy
from imageserver.operations.mirror_copy import FRESH_S, REFUSED_S, STOP_S, Copied, CopyServices, Outcome, copy
from imageserver.storage.leases import LONGEST_S
from imageserver.upstream.copies import note_key
from imageserver.upstream.mapping import UpstreamFile
from tests.support.memory_store import START, MemoryStore
from tests.support.memory_upstream import MemoryUpstream

PATH = "server/noble/disk1.img"
KEY = "images/ubuntu/noble/amd64/default/20261123/disk1.img"
NOTE = note_key(KEY)
PART = 1024
BODY = random.Random(1).randbytes(10 * PART + 100)


class Killed(BaseException):
    """The process ends here. Only `with` and `finally` blocks still run, and tests undo their effect."""


@dataclass
class World:
    """A bucket, another server, and one clock for both. A run lasts for `run_s`."""

    body: bytes = BODY
    run_s: float = 900.0
    seconds: float = 0.0
    store: MemoryStore = field(default_factory=MemoryStore)
    most_bytes: int | None = None
    is_wanted: bool = True

    def __post_init__(self) -> None:
        self.upstream = MemoryUpstream({PATH: self.body}, part_bytes=PART, clock=lambda: self.seconds)

    def file(self, *, sha256: str = "", size_bytes: int = -1) -> UpstreamFile:
        size = len(self.body) if size_bytes < 0 else size_bytes
        return UpstreamFile(PATH, KEY, sha256 or hashlib.sha256(self.body).hexdigest(), size)

    def copy(self, file: UpstreamFile | None = None) -> Copied:
        began = self.seconds
        services = CopyServices(
            store=self.store,
            upstream=self.upstream,
            now=lambda: START + timedelta(seconds=self.seconds),
            pause=lambda _: None,
            seconds_left=lambda: self.run_s - (self.seconds - began),
            host="images.example.net",
            most_bytes=self.most_bytes,
            is_wanted=lambda: self.is_wanted,
        )
        return copy(file or self.file(), services)

    def each_part_takes(self, seconds: float) -> None:
        def on(method: str, _: str) -> None:
            if method == "part":
                self.seconds += seconds

        self.upstream.on = on

    @property
    def is_clean(self) -> bool:
        """Return whether only files of images are left: no upload, no note, no lease."""
        return not self.store.uploads and all(key.startswith("images/") for key in self.store.objects)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 4 * PART, len(BODY)])
def test_a_file_is_copied_once_with_its_bytes(size: int) -> None:
    world = World(BODY[:size])
    assert world.copy() == Copied(Outcome.COPIED, "", size)
    assert world.store.objects[KEY].body == BODY[:size]
    assert world.copy() == Copied(Outcome.PRESENT)
    assert world.upstream.bytes_read == {PATH: size}
    assert world.is_clean


def test_a_file_that_is_already_here_is_not_requested(world: World) -> None:
    world.store.put(KEY, b"somebody's own")
    assert world.copy() == Copied(Outcome.PRESENT)
    assert (world.store.objects[KEY].body, world.upstream.bytes_read) == (b"somebody's own", {})


def test_a_small_file_costs_three_requests() -> None:
    """A mirror has thousands of them, and each request takes about as long as reading one."""
    world = World(BODY[:PART])
    world.copy()
    assert world.store.log == [("read", NOTE), ("list", KEY), ("create_file", KEY)]


@pytest.mark.parametrize("size", [PART - 100, 4 * PART])
def test_bytes_that_differ_from_the_catalog_are_refused_and_leave_no_file(size: int) -> None:
    world = World(BODY[:size])
    wrong = world.file(sha256="0" * 64)
    copied = world.copy(wrong)
    assert copied.outcome is Outcome.REFUSED
    assert hashlib.sha256(BODY[:size]).hexdigest() in copied.reason
    assert f"expected {'0' * 64} as upstream's catalog says" in copied.reason
    assert (KEY in world.store.objects, world.store.uploads) == (False, {})


def test_a_file_with_wrong_bytes_is_not_fetched_again_for_some_hours(world: World) -> None:
    wrong = world.file(sha256="0" * 64)
    refused = world.copy(wrong)
    assert world.copy(wrong) == Copied(Outcome.REFUSED, refused.reason)
    assert world.upstream.bytes_read == {PATH: len(BODY)}
    world.store.clock += timedelta(seconds=REFUSED_S)
    world.upstream.files[PATH] = BODY
    assert world.copy(wrong).bytes_read == len(BODY)


def test_a_refusal_applies_to_one_digest_only(world: World) -> None:
    """Upstream's catalog was wrong and has been corrected."""
    world.copy(world.file(sha256="0" * 64))
    assert world.copy().outcome is Outcome.COPIED
    assert world.is_clean


def test_a_size_that_differs_from_the_catalog_is_refused_and_leaves_nothing(world: World) -> None:
    copied = world.copy(world.file(size_bytes=len(BODY) + 1))
    assert (copied.outcome, "10,340 bytes, expected 10,341" in copied.reason) == (Outcome.REFUSED, True)
    assert world.store.objects == {}


@pytest.mark.parametrize("size", [100, 4 * PART])
def test_a_file_without_a_size_in_the_catalog_is_copied_too(size: int) -> None:
    world = World(BODY[:size])
    assert world.copy(world.file(size_bytes=0)).outcome is Outcome.COPIED


def test_a_file_that_upstream_no_longer_has_is_refused(world: World) -> None:
    del world.upstream.files[PATH]
    copied = world.copy(world.file())
    assert (copied.outcome, "404" in copied.reason, world.is_clean) == (Outcome.REFUSED, True, True)


def test_a_slow_file_takes_several_runs_and_fetches_no_byte_twice(world: World) -> None:
    world.each_part_takes(300)
    outcomes = [world.copy().outcome]
    while outcomes[-1] is Outcome.CONTINUED:
        assert KEY not in world.store.objects
        outcomes.append(world.copy().outcome)
    assert outcomes == [Outcome.CONTINUED] * 5 + [Outcome.COPIED]
    # The part that each run was reading when its time was over is read again.
    assert world.upstream.bytes_read == {PATH: len(BODY)}
    assert world.store.objects[KEY].body == BODY
    assert world.is_clean


def test_a_file_of_wrong_bytes_is_refused_after_several_runs_too(world: World) -> None:
    world.each_part_takes(300)
    wrong = world.file(sha256="0" * 64)
    outcomes = [world.copy(wrong).outcome for _ in range(6)]
    assert outcomes == [Outcome.CONTINUED] * 5 + [Outcome.REFUSED]
    assert (KEY in world.store.objects, world.store.uploads) == (False, {})


def test_a_run_without_time_leaves_the_file_to_the_next(world: World) -> None:
    world.run_s = STOP_S
    assert world.copy() == Copied(Outcome.CONTINUED)
    assert world.upstream.bytes_read == {}


def test_a_short_run_that_finished_no_part_leaves_the_file_to_the_next(world: World) -> None:
    world.each_part_takes(300)
    world.run_s = STOP_S + FRESH_S - 1
    assert world.copy() == Copied(Outcome.CONTINUED)
    world.run_s = 900
    assert world.copy().bytes_read == 2 * PART


def test_a_run_that_adds_nothing_to_a_begun_copy_asks_for_no_further_run(world: World) -> None:
    world.each_part_takes(300)
    assert world.copy() == Copied(Outcome.CONTINUED, bytes_read=2 * PART)
    world.each_part_takes(900)
    with pytest.raises(UpstreamUnavailable, match="too slow"):
        world.copy()
    world.each_part_takes(1)
    assert world.copy().outcome is Outcome.COPIED
    assert world.upstream.bytes_read[PATH] < len(BODY) + 2 * PART, "what was there before is not read again"


@pytest.mark.parametrize("stated_bytes", [0, len(BODY)])
def test_a_file_larger_than_this_server_takes_is_refused_before_it_is_read(world: World, stated_bytes: int) -> None:
    world.most_bytes = len(BODY)
    world.body += b"x"
    world.upstream.files[PATH] = world.body
    copied = world.copy(world.file(size_bytes=stated_bytes and stated_bytes + 1))
    assert (copied.outcome, copied.bytes_read, world.is_clean) == (Outcome.REFUSED, 0, True)
    assert "expected at most 10,340 (MaxUploadBytes)" in copied.reason


def test_a_file_whose_mirror_is_removed_while_it_is_copied_does_not_come(world: World) -> None:
    def on(method: str, _: str) -> None:
        if method == "part":
            world.is_wanted = False

    world.upstream.on = on
    assert world.copy().outcome is Outcome.UNWANTED
    assert world.is_clean
    assert KEY not in world.store.objects


@pytest.mark.parametrize("size", [PART, len(BODY)])
def test_an_upstream_too_slow_for_one_part_is_unavailable(size: int) -> None:
    world = World(BODY[:size])
    world.each_part_takes(900)
    with pytest.raises(UpstreamUnavailable, match="too slow"):
        world.copy()
    assert world.is_clean


def test_a_file_that_cannot_be_resumed_and_takes_more_than_a_run_is_refused(world: World) -> None:
    world.upstream.ranges = False
    world.each_part_takes(300)
    copied = world.copy()
    assert (copied.outcome, copied.reason) == (
        Outcome.REFUSED, "takes longer to read than one run lasts, and upstream serves no ranges",
    )  # fmt: skip
    assert world.is_clean


def test_without_a_saved_digest_state_a_copy_must_fit_into_one_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "is_resumable", lambda: False)
    monkeypatch.setattr(mirror_copy, "is_resumable", lambda: False)
    world.each_part_takes(300)
    assert "this Python cannot continue a sha256" in world.copy().reason
    world.each_part_takes(0)
    assert world.copy().outcome is Outcome.COPIED
    assert world.is_clean


def test_an_outage_upstream_keeps_what_was_read_before(world: World) -> None:
    left = [4]

    def outage(method: str, _: str) -> None:
        if method == "part":
            left[0] -= 1
            if left[0] == 0:
                raise UpstreamUnavailable("down", 60)

    world.upstream.on = outage
    with pytest.raises(UpstreamUnavailable):
        world.copy()
    assert world.copy() == Copied(Outcome.COPIED, "", len(BODY) - 3 * PART)
    assert world.upstream.bytes_read == {PATH: len(BODY)}


def test_a_file_that_changes_while_it_is_read_is_read_from_its_start(world: World) -> None:
    other = random.Random(2).randbytes(len(BODY))
    left = [4]

    def change(method: str, _: str) -> None:
        if method == "part":
            left[0] -= 1
            if left[0] == 0:
                world.upstream.files[PATH] = other

    world.upstream.on = change
    with pytest.raises(UpstreamChanged):
        world.copy()
    assert world.is_clean
    assert world.copy(world.file(sha256=hashlib.sha256(other).hexdigest())).outcome is Outcome.COPIED
    assert world.store.objects[KEY].body == other


def test_a_file_that_changed_between_two_runs_is_read_from_its_start(world: World) -> None:
    world.each_part_takes(300)
    assert world.copy().outcome is Outcome.CONTINUED
    world.upstream.files[PATH] = random.Random(2).randbytes(len(BODY))
    with pytest.raises(UpstreamChanged):
        world.copy()
    assert world.is_clean


def test_a_file_uploaded_meanwhile_is_kept(world: World) -> None:
    def upload(method: str, key: str) -> None:
        if method in ("complete", "create_file"):
            world.store.on = lambda *_: None
            world.store.put(key, b"somebody's own")

    for body in (BODY, BODY[:10]):
        world = World(body)
        world.store.on = upload
        assert world.copy().outcome is Outcome.PRESENT
        assert world.store.objects[KEY].body == b"somebody's own"
        assert world.is_clean


@pytest.mark.parametrize(("method", "size"), [("create_file", 100), ("complete", len(BODY))])
def test_a_race_that_leaves_no_file_is_repeated(method: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 409 to both writers, or the file of the other one was deleted at once."""
    world = World(BODY[:size])
    with monkeypatch.context() as race:
        race.setattr(world.store, method, lambda *_: False)
        with pytest.raises(StorageUnavailable, match="was not stored, and nothing else is there"):
            world.copy()
    assert world.is_clean
    assert world.copy().outcome is Outcome.COPIED


def test_a_lost_upload_starts_again(world: World) -> None:
    world.each_part_takes(300)
    assert world.copy().outcome is Outcome.CONTINUED
    world.store.uploads.clear()
    with pytest.raises(StorageUnavailable, match="is gone"):
        world.copy()
    world.each_part_takes(0)
    assert world.copy() == Copied(Outcome.COPIED, "", len(BODY))
    assert world.is_clean


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"path": 1}'])
def test_a_copy_with_an_unreadable_note_starts_again(world: World, body: bytes) -> None:
    world.store.put(NOTE, body)
    assert world.copy().outcome is Outcome.COPIED
    assert world.is_clean


def test_parts_of_another_size_are_not_continued(world: World) -> None:
    """Another release may use another part size."""
    world.each_part_takes(300)
    assert world.copy().outcome is Outcome.CONTINUED
    world.each_part_takes(0)
    world.upstream.part_bytes = 2 * PART
    assert world.copy() == Copied(Outcome.COPIED, "", len(BODY))
    assert world.is_clean


def test_two_workers_do_not_copy_one_file_at_once(world: World) -> None:
    def another(method: str, _: str) -> None:
        if method == "read":
            world.upstream.on = lambda *_: None
            with pytest.raises(LeaseHeld, match="is being copied by another worker"):
                world.copy()

    world.upstream.on = another
    assert world.copy().outcome is Outcome.COPIED
    assert world.upstream.bytes_read == {PATH: len(BODY)}


def test_a_refusal_of_storage_is_raised_and_makes_nothing(world: World) -> None:
    def denied(method: str, _: str) -> None:
        if method == "begin":
            raise StorageDenied("no")

    world.store.on = denied
    with pytest.raises(StorageDenied):
        world.copy()
    assert world.is_clean


CALLS = ("read", "create", "replace", "delete", "create_file", "begin", "put_part", "complete", "abort")


def _kill(store: MemoryStore, number: int, *, after: bool) -> None:
    """Let `number` calls of storage pass. The next one kills the process, and so do any calls from `finally`."""
    left = [number]

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            left[0] -= 1
            if left[0] < (-1 if after else 0):
                raise Killed
            answer = call(*arguments)
            if left[0] < 0:
                raise Killed
            return answer

        return wrapped

    for name in CALLS:
        setattr(store, name, dying(getattr(store, name)))


def _revive(store: MemoryStore) -> None:
    for name in CALLS:
        delattr(store, name)
    store.clock += timedelta(seconds=LONGEST_S)  # the lease of the killed worker is over


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("size", [100, 4 * PART + 7])
def test_a_kill_at_any_step_leaves_the_file_or_nothing(size: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`before`: the call of storage never arrived; `after`: it took effect, and its answer was lost."""
    monkeypatch.setattr(mirror_copy, "SAVE_S", 0)
    for number in range(1000):
        world = World(BODY[:size])
        _kill(world.store, number, after=after)
        try:
            done: Copied | None = world.copy()
        except Killed:
            done = None
        _revive(world.store)
        there = world.store.objects.get(KEY)
        assert there is None or there.body == world.body, f"killed at call {number}"
        if done:
            assert number >= 2
            return
        copied = world.copy()
        assert copied.outcome in (Outcome.COPIED, Outcome.PRESENT)
        assert world.store.objects[KEY].body == world.body, f"killed at call {number}"
        assert not [key for key in world.store.objects if key.startswith(("mirrors/", "leases/"))]
    raise AssertionError("a copy never came to its end")
