"""Deltas made by the server: from real squashfs images with the real xdelta3, in a bucket in memory."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec.structs import replace

from imageserver.catalog.delta_plan import RunCapacity
from imageserver.errors import OutOfTime, ProgramFailed, StorageUnavailable
from imageserver.format import documents
from imageserver.format.keys import parse_product, parse_version
from imageserver.operations import make_deltas as operation
from imageserver.operations.make_deltas import Delta, DeltaServices, Outcome, make_deltas
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import restore, withdraw
from imageserver.programs.xdelta3 import find_xdelta3
from imageserver.versions import records
from imageserver.versions.records import Record
from imageserver.versions.retention import Rule
from tests.support import images, trees
from tests.support.memory_store import START, Sent, System

pytestmark = trees.needs_real_pairs

PRODUCT = parse_product("images/alpine/3.22/amd64/default")
OLD, NEW, NEWEST = (f"2026112{day}_1000" for day in (1, 2, 3))
PLENTY = RunCapacity(10**12, 1769, 840)
DELTA = f"rootfs.{OLD}.vcdiff"


@cache
def roots(changed: float = 0.05) -> tuple[bytes, bytes]:
    with TemporaryDirectory() as folder:
        return trees.pair(Path(folder), changed)


@dataclass
class Server:
    """A system with deltas on, and hooks into the work."""

    folder: Path
    system: System = field(default_factory=System)
    capacity: RunCapacity = PLENTY
    usual: int = 1
    encode: Callable[[Iterator[bytes]], Iterator[bytes]] = lambda chunks: chunks
    decode: Callable[[Iterator[bytes]], Iterator[bytes]] = lambda chunks: chunks

    def upload(self, version: str, root: bytes, **others: bytes) -> None:
        files = {"lxd.tar.xz": images.metadata_tarball(), "rootfs.squashfs": root}
        self.system.upload(f"{PRODUCT.path}/{version}", files | {n.replace("__", "."): b for n, b in others.items()})
        self.system.catch_up()

    def make(self, version: str = "") -> list[Delta]:
        program = find_xdelta3()
        assert program
        real, server = program, self

        class Tampered:
            def encode(self, folder: Path, seconds: float) -> Iterator[bytes]:
                return server.encode(real.encode(folder, seconds))

            def decode(self, folder: Path, seconds: float) -> Iterator[bytes]:
                return server.decode(real.decode(folder, seconds))

        services = DeltaServices(
            self.system.store, Tampered(), lambda _: None, lambda: self.capacity, self.folder, self.usual
        )
        made = make_deltas(PRODUCT, services, version)
        assert list(self.folder.iterdir()) == [], "what a run stores is gone after it"
        return made

    def deltas(self, version: str = NEW) -> dict[str, str]:
        """Return the deltas that the catalog lists of a version: file -> version of the base."""
        self.system.catch_up()
        listed = documents.versions_of(self.system.products_document(), PRODUCT.name)[version]
        return {i.path.rpartition("/")[2]: i.delta_base for i in listed.items.values() if i.delta_base}

    def record(self, version: str = NEW) -> Record:
        key = parse_version(f"{PRODUCT.path}/{version}").record_key
        return records.decode(self.system.store.objects[key].body, key)

    def has(self, file: str, version: str = NEW) -> bool:
        return f"{PRODUCT.path}/{version}/{file}" in self.system.store.objects


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """Return a server that lists two versions with a few changes between them."""
    folder = tmp_path / "work"
    folder.mkdir()
    server = Server(folder)
    for version, root in zip((OLD, NEW), roots(), strict=True):
        server.upload(version, root)
    return server


def test_the_newest_version_gets_a_delta_that_is_listed(server: Server) -> None:
    (made,) = server.make()
    size_bytes = len(server.system.store.objects[f"{PRODUCT.path}/{NEW}/{DELTA}"].body)
    assert (made.version.version, made.base, made.outcome, made.reason) == (NEW, OLD, Outcome.MADE, "")
    assert (made.size_bytes, made.saved_bytes) == (size_bytes, len(roots()[1]) - size_bytes)
    assert size_bytes < len(roots()[1]) / 5
    assert server.deltas() == {DELTA: OLD}
    assert server.deltas(OLD) == {}


def test_no_delta_is_made_twice(server: Server) -> None:
    server.make()
    (again,) = server.make()  # before digest has seen the delta
    assert (again.outcome, again.reason) == (Outcome.SKIPPED, f"{DELTA} came from elsewhere meanwhile")
    assert server.record().deltas[OLD].reason == "", "it is still known as the server's own"
    assert server.deltas() == {DELTA: OLD}
    (again,) = server.make()
    assert (again.outcome, again.reason) == (Outcome.SKIPPED, f"{DELTA} is there already")


def test_a_first_version_has_no_base_for_a_delta(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.make() == []
    server.upload(OLD, roots()[0])
    assert server.make() == []


@pytest.mark.parametrize("side", ["encode", "decode"])
def test_a_flipped_bit_is_never_listed(server: Server, side: str) -> None:
    def flipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
        body = bytearray(b"".join(chunks))
        body[len(body) // 2] ^= 4
        yield bytes(body)

    setattr(server, side, flipped)
    (dropped,) = server.make()
    assert dropped.outcome is Outcome.DROPPED
    assert server.record().deltas[OLD].reason == dropped.reason != ""
    assert not server.has(DELTA)
    assert server.deltas() == {}


def test_a_bit_that_flips_on_disk_after_the_last_check_is_never_stored(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = operation._note

    def flip(*arguments: Any) -> None:
        (file,) = server.folder.glob("*/delta")
        body = bytearray(file.read_bytes())
        body[-1] ^= 1
        file.write_bytes(body)
        real(*arguments)

    monkeypatch.setattr(operation, "_note", flip)
    with pytest.raises(AssertionError, match="S3 answers 400"):
        server.make()
    assert not server.has(DELTA)


def test_a_delta_of_half_the_root_or_more_is_dropped_and_not_tried_again(tmp_path: Path) -> None:
    server = Server(tmp_path)
    for version, root in zip((OLD, NEW), roots(0.9), strict=True):
        server.upload(version, root)
    (dropped,) = server.make()
    assert (dropped.outcome, dropped.reason) == (
        Outcome.DROPPED,
        f"the delta is not below half of the {len(roots(0.9)[1]):,} bytes of rootfs.squashfs: clients fetch the whole "
        "root",
    )
    (again,) = server.make()
    assert (again.outcome, again.reason) == (Outcome.SKIPPED, f"it was tried: {dropped.reason}")
    assert server.deltas() == {}


@pytest.mark.parametrize(
    ("capacity", "reason"),
    [
        (RunCapacity(1000, 1769, 840), "bytes of disk, and a run has 1,000"),
        (RunCapacity(10**12, 256, 840), "the function has 256 MB of memory, expected 512 at least"),
        (RunCapacity(10**12, 1769, 0.01), "and a run has 0 s for them"),
    ],
)
def test_a_delta_that_does_not_fit_is_noted_before_a_byte_is_read(
    server: Server, capacity: RunCapacity, reason: str
) -> None:
    server.capacity = capacity
    server.system.store.bytes_read.clear()
    (dropped,) = server.make()
    assert dropped.outcome is Outcome.DROPPED
    assert dropped.reason.endswith(reason)
    assert server.record().deltas[OLD].reason == dropped.reason
    assert server.system.store.bytes_read == {}


def test_a_run_that_has_too_little_time_left_leaves_the_rest_to_another(server: Server) -> None:
    server.upload(NEWEST, newest_root(), metadata__json=b'{"deltas": 2}')

    def slow(chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield from chunks
        server.capacity = RunCapacity(10**12, 1769, 0.01)

    server.decode = slow
    with pytest.raises(OutOfTime, match=f"rootfs.{OLD}.vcdiff is made by another run"):
        server.make()
    server.decode, server.capacity = (lambda chunks: chunks), PLENTY
    assert server.deltas(NEWEST) == {f"rootfs.{NEW}.vcdiff": NEW}
    assert [made.outcome for made in server.make()] == [Outcome.SKIPPED, Outcome.MADE]


def test_roots_that_come_slowly_cost_a_run_and_not_the_delta(server: Server) -> None:
    store = server.system.store

    def slow(method: str, _key: str) -> None:
        if method == "chunk":
            server.capacity = RunCapacity(10**12, 1769, 0)

    store.on = slow
    with pytest.raises(OutOfTime, match=f"{DELTA} is made by another run: fetching both roots took this one's time"):
        server.make()
    assert server.record().deltas == {}
    store.on, server.capacity = (lambda *_: None), PLENTY
    assert [made.outcome for made in server.make()] == [Outcome.MADE]


def test_a_program_that_fails_is_noted(server: Server) -> None:
    def broken(_: Iterator[bytes]) -> Iterator[bytes]:
        raise ProgramFailed("xdelta3 -e was ended by SIGKILL: it said nothing")

    server.encode = broken
    (dropped,) = server.make()
    assert server.record().deltas[OLD].reason == dropped.reason == "xdelta3 -e was ended by SIGKILL: it said nothing"


@pytest.mark.parametrize("name", [f"root.{OLD}.vcdiff", "rootfs.20261120_1000.vcdiff"])
def test_a_publishers_own_delta_wins(server: Server, name: str) -> None:
    server.system.upload(f"{PRODUCT.path}/{NEW}", {name: images.vcdiff(made_bytes=len(roots()[1]))})
    server.system.catch_up()
    (skipped,) = server.make()
    expected = f"{name} is there already" if OLD in name else f"{name} is the publisher's own delta, and wins"
    assert (skipped.outcome, skipped.reason) == (Outcome.SKIPPED, expected)
    assert not server.has(DELTA)


def test_a_publishers_delta_that_arrives_meanwhile_stays(server: Server) -> None:
    own = images.vcdiff("own", made_bytes=len(roots()[1]))

    def uploaded(chunks: Iterator[bytes]) -> Iterator[bytes]:
        server.system.upload(f"{PRODUCT.path}/{NEW}", {DELTA: own})
        return chunks

    server.decode = uploaded
    (skipped,) = server.make()
    assert (skipped.outcome, skipped.reason) == (Outcome.SKIPPED, f"{DELTA} came from elsewhere meanwhile")
    assert server.system.store.objects[f"{PRODUCT.path}/{NEW}/{DELTA}"].body == own
    assert server.record().deltas[OLD].reason == "another delta came first under its name"


def test_metadata_json_sets_how_many_deltas_a_version_gets(server: Server) -> None:
    server.upload(NEWEST, newest_root(), metadata__json=b'{"deltas": 0}')
    assert server.make() == []
    assert [made.base for made in server.make(NEW)] == [OLD]


def test_further_deltas_wait_for_the_base_of_the_first_to_go(server: Server) -> None:
    server.upload(NEWEST, newest_root(), metadata__json=b'{"deltas": 3}')
    assert [(made.base, made.outcome) for made in server.make()] == [(NEW, "made"), (OLD, "made")]
    assert server.deltas(NEWEST) == {f"rootfs.{NEW}.vcdiff": NEW}
    withdraw(server.system.store, parse_version(f"{PRODUCT.path}/{NEW}"), START, 24, lambda _: None)
    assert server.deltas(NEWEST) == {DELTA: OLD}


def test_a_base_withdrawn_meanwhile_ends_the_delta(server: Server) -> None:
    base = parse_version(f"{PRODUCT.path}/{OLD}")

    def withdrawn(chunks: Iterator[bytes]) -> Iterator[bytes]:
        withdraw(server.system.store, base, START, 24, lambda _: None)
        server.system.catch_up()
        return chunks

    server.decode = withdrawn
    (skipped,) = server.make()
    assert (skipped.outcome, skipped.reason) == (Outcome.SKIPPED, "what is listed changed while it was made")
    assert not server.has(DELTA)
    restore(server.system.store, base, lambda _: None)
    server.system.catch_up()
    server.decode = lambda chunks: chunks
    assert [made.outcome for made in server.make()] == [Outcome.MADE]


def test_withdrawing_a_base_later_delists_its_delta(server: Server) -> None:
    server.make()
    assert server.deltas() == {DELTA: OLD}
    withdraw(server.system.store, parse_version(f"{PRODUCT.path}/{OLD}"), START, 24, lambda _: None)
    assert server.deltas() == {}
    restore(server.system.store, parse_version(f"{PRODUCT.path}/{OLD}"), lambda _: None)
    assert server.deltas() == {DELTA: OLD}


@pytest.mark.parametrize("version", [OLD, NEW], ids=["the base", "the version itself"])
def test_a_delta_between_roots_that_were_overwritten_is_off_the_list(server: Server, version: str) -> None:
    server.make()
    key = f"{PRODUCT.path}/{version}/rootfs.squashfs"
    before = server.system.store.objects[key].body
    other = before[:-5000] + bytes([before[-5000] ^ 1]) + before[-4999:]
    server.upload(version, other)  # as large as before, which no header of the delta speaks against
    assert server.deltas() == {}
    server.upload(version, before)
    assert server.deltas() == {DELTA: OLD}


def test_retention_delists_a_delta_with_its_base_and_deletes_both_later(server: Server) -> None:
    server.make()
    server.upload(NEWEST, newest_root(), metadata__json=b'{"deltas": 2}')
    server.make()
    assert server.deltas(NEWEST) == {f"rootfs.{NEW}.vcdiff": NEW}
    rules, now = Rules(Rule(versions=1), 24, 0), START + timedelta(days=9)
    prune(server.system.store, Sent(), rules, now, lambda _: None, Run())
    assert server.deltas(NEWEST) == {}
    assert server.has(f"rootfs.{NEW}.vcdiff", NEWEST), "it stays with its version, as any file of it"
    assert server.has(DELTA, NEW), "clients may still ask for what they saw listed"
    prune(server.system.store, Sent(), rules, now + timedelta(hours=25), lambda _: None, Run())
    assert not server.has(DELTA, NEW)
    server.system.catch_up()
    assert server.make() == []


class Killed(BaseException):
    """The process ends here. Nothing catches it."""


def test_a_kill_between_any_two_steps_leaves_a_delta_or_nothing_and_the_next_run_finishes(server: Server) -> None:
    store = server.system.store
    store.chunk = 1 << 20
    before, last = dict(store.objects), 0

    def kill(_method: str, _key: str) -> None:
        if len(store.log) > last:
            raise Killed

    while True:
        store.objects = dict(before)
        store.log.clear()
        store.on = kill
        with suppress(Killed):
            server.make()
            break
        store.on = lambda *_: None
        assert server.deltas() in ({}, {DELTA: OLD})
        server.make()
        assert server.deltas() == {DELTA: OLD}
        last += 1
    assert last > 10, "each call of storage was the last one once"


def test_the_disk_that_a_killed_run_filled_is_free_before_it_is_measured(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = server.folder / "delta-killed"
    left.mkdir()
    (left / "held").touch()
    monkeypatch.setattr(
        Server, "capacity", property(lambda _: RunCapacity(1000, 1769, 840) if left.exists() else PLENTY)
    )
    assert [made.outcome for made in server.make()] == [Outcome.MADE]


def test_a_large_delta_is_sent_in_parts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "PART_BYTES", 3_000)
    server.make()
    calls = [method for method, key in server.system.store.log if key.endswith(DELTA)]
    assert calls.count("put_part") > 3
    assert calls.count("complete") == 1
    assert server.deltas() == {DELTA: OLD}


def test_a_lost_multipart_upload_is_started_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "PART_BYTES", 3_000)
    store = server.system.store
    store.on = lambda method, _key: store.uploads.clear() if method == "put_part" else None
    with pytest.raises(StorageUnavailable, match="the delta is made anew"):
        server.make()
    store.on = lambda *_: None
    assert [made.outcome for made in server.make()] == [Outcome.MADE]


def test_a_root_whose_bytes_differ_from_its_record_is_not_a_base(server: Server) -> None:
    key = f"{PRODUCT.path}/{OLD}/rootfs.squashfs"
    stored = server.system.store.objects[key]
    stored.body = stored.body[:-1] + bytes([stored.body[-1] ^ 1])  # under the ETag that the record has
    (dropped,) = server.make()
    assert dropped.outcome is Outcome.DROPPED
    assert dropped.reason == f"the bytes of {key} are not those of its record: run admin verify"


def test_a_root_replaced_meanwhile_ends_the_delta_without_a_note(server: Server) -> None:
    store = server.system.store
    key = f"{PRODUCT.path}/{NEW}/rootfs.squashfs"

    def replaced(method: str, name: str) -> None:
        if (method, name) == ("open", key):
            store.on = lambda *_: None
            store.put(key, images.squashfs("other"))

    store.on = replaced
    (skipped,) = server.make()
    assert skipped.outcome is Outcome.SKIPPED
    assert server.record().deltas == {}


def test_a_delta_is_tried_again_for_other_roots(server: Server) -> None:
    server.capacity = RunCapacity(0, 0, 0)
    server.make()
    note = server.record().deltas[OLD]
    assert (note.base_sha256, note.root_sha256) == tuple(hashlib.sha256(root).hexdigest() for root in roots())
    other = replace(server.record(), deltas={OLD: replace(note, base_sha256="0" * 64)})
    server.system.store.put(other.id.record_key, records.encode(other))
    server.capacity = PLENTY
    assert [made.outcome for made in server.make()] == [Outcome.MADE]


@cache
def newest_root() -> bytes:
    with TemporaryDirectory() as folder:
        return trees.pair(Path(folder), 0.1)[1]
