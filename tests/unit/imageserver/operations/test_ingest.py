"""Ingesting one version: what is read, what is written, and what happens when another worker is faster."""

import json
import struct
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from types import ModuleType

import pytest

from imageserver.errors import CatalogBusy, CatalogDamaged, OutOfTime
from imageserver.format.keys import parse_version
from imageserver.inspection import checksums, image_metadata, overrides, qcow2, squashfs, tarball, vcdiff
from imageserver.operations.ingest import Ingested, IngestServices, ingest
from imageserver.versions import examine, records
from imageserver.versions.examine import needs_reading
from imageserver.versions.limits import Limits
from imageserver.versions.records import Fault, FileFacts, Reason, Record
from tests.support import images
from tests.support.memory_store import MemoryStore, System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
RECORD = f"versions/{PATH}.json"
ROOT = f"{PATH}/rootfs.squashfs"


@pytest.fixture
def system() -> System:
    return System()


def record(system: System, path: str = PATH) -> Record:
    key = f"versions/{path}.json"
    return records.decode(system.store.objects[key].body, key)


def sentences(system: System, path: str = PATH) -> str:
    return "\n".join(reason.sentence for reason in record(system, path).reasons)


def ingested(system: System, files: dict[str, bytes]) -> Ingested:
    system.upload(PATH, files)
    return system.ingest(PATH)


def test_a_split_image_is_complete_and_each_byte_is_read_once(system: System) -> None:
    files = images.split_image()
    done = ingested(system, files)
    assert record(system).state == "complete"
    assert record(system).files["rootfs.squashfs"].combined == {
        images.sha256_hex(files["lxd.tar.xz"]): images.sha256_hex(*files.values())
    }
    assert done.bytes_read == sum(map(len, files.values()))


def test_a_root_is_read_only_once_its_metadata_is_there(system: System) -> None:
    files = images.split_image()
    ingested(system, {"rootfs.squashfs": files["rootfs.squashfs"]})
    assert record(system).state == "incomplete"
    assert "waits for its metadata: upload lxd.tar.xz or incus.tar.xz" in sentences(system)
    assert system.store.bytes_read == {}
    ingested(system, {"lxd.tar.xz": files["lxd.tar.xz"]})
    assert record(system).state == "complete"
    assert system.store.bytes_read[ROOT] == len(files["rootfs.squashfs"])


def test_a_version_with_only_metadata_is_incomplete(system: System) -> None:
    ingested(system, {"lxd.tar.xz": images.metadata_tarball()})
    assert record(system).state == "incomplete"
    assert "waits for a root: upload rootfs.squashfs" in sentences(system)


def test_only_a_second_root_that_arrives_later_is_read(system: System) -> None:
    ingested(system, images.split_image())
    before = dict(system.store.bytes_read)
    ingested(system, {"disk.qcow2": images.qcow2()})
    assert system.store.bytes_read[ROOT] == before[ROOT]
    assert set(record(system).files) == {"lxd.tar.xz", "rootfs.squashfs", "disk.qcow2"}
    assert record(system).state == "complete"


def test_an_unchanged_version_writes_nothing(system: System) -> None:
    ingested(system, images.split_image())
    writes = len([call for call in system.store.log if call[0] in ("create", "replace")])
    assert system.ingest(PATH).outcome == "unchanged"
    assert len([call for call in system.store.log if call[0] in ("create", "replace")]) == writes


def test_an_unknown_empty_folder_leaves_no_record(system: System) -> None:
    system.ingest(PATH)
    assert system.store.objects == {}


def test_an_emptied_folder_leaves_an_empty_record(system: System) -> None:
    ingested(system, images.split_image())
    for file in images.split_image():
        system.store.remove(f"{PATH}/{file}")
    system.ingest(PATH)
    assert record(system).state == "empty"


def test_new_metadata_reads_the_root_again_for_its_combined_sha256(system: System) -> None:
    ingested(system, images.split_image())
    metadata = images.metadata_tarball(serial="new")
    ingested(system, {"lxd.tar.xz": metadata})
    combined = images.sha256_hex(metadata, images.squashfs())
    assert record(system).files["rootfs.squashfs"].combined[images.sha256_hex(metadata)] == combined
    assert record(system).state == "complete"


def test_an_overwritten_root_is_delisted_during_its_ingest(system: System) -> None:
    ingested(system, images.split_image(seed="old"))
    states: list[str] = []
    system.store.on = lambda method, key: (
        states.append(record(system).state) if (method, key) == ("chunk", ROOT) else None
    )
    ingested(system, {"rootfs.squashfs": images.squashfs("new")})
    assert set(states) == {"incomplete"}
    assert record(system).state == "complete"
    assert record(system).files["rootfs.squashfs"].sha256 == images.sha256_hex(images.squashfs("new"))


DELTA = "rootfs.20261122_10:00.vcdiff"
REFUSED: dict[str, tuple[dict[str, bytes], str, str, Fault]] = {
    "no tarball": (
        {"lxd.tar.xz": b"nonsense"},
        "lxd.tar.xz",
        "is not a tarball (xz, gz, zst, bz2, lzma or plain)",
        "damaged",
    ),
    "other architecture": (
        {"lxd.tar.xz": images.metadata_tarball("arm64")},
        "lxd.tar.xz",
        "says `architecture: aarch64` in line 1, expected x86_64",
        "metadata",
    ),
    "empty file": ({"lxd.tar.xz": b""}, "lxd.tar.xz", "is empty (0 bytes)", "empty"),
    "no squashfs": (
        {"rootfs.squashfs": b"QFI\xfb" + bytes(90)},
        "rootfs.squashfs",
        "is not a squashfs but a qcow2 disk: upload it as disk.qcow2",
        "wrong-kind",
    ),
    "no qcow2": ({"disk.qcow2": b"raw disk"}, "disk.qcow2", "is not a qcow2 disk", "wrong-kind"),
    "no tar root": ({"rootfs.tar.xz": b"x" * 600}, "rootfs.tar.xz", "is not a tarball", "wrong-kind"),
    "no unified": (
        {"0123.tar.gz": images.root_tarball(compression="gz")},
        "0123.tar.gz",
        "holds no metadata.yaml at its top level",
        "wrong-kind",
    ),
    "no delta": ({DELTA: b"xxxx"}, DELTA, "is not a vcdiff delta", "wrong-kind"),
    "two roots": (
        {"root.squashfs": images.squashfs("2")},
        "root.squashfs",
        "is a second squashfs beside rootfs.squashfs",
        "second",
    ),
    "squashfs cut short": (
        {"rootfs.squashfs": images.squashfs()[:-1]},
        "rootfs.squashfs",
        "is cut short: a squashfs of 4,096 bytes by its header, the file has 4,095",
        "damaged",
    ),
    "name that clients spoil": (
        {"root fs.squashfs": images.squashfs()},
        "root fs.squashfs",
        "the file name 'root fs.squashfs' contains ' '",
        "name",
    ),
    "wrong digest": (
        {"SHA256SUMS": f"{'a' * 64}  rootfs.squashfs\n".encode()},
        "rootfs.squashfs",
        "expected aaaaaaaa",
        "digest",
    ),
}


@pytest.mark.parametrize(("files", "file", "sentence", "fault"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_files_are_refused_with_a_reason(
    system: System, files: dict[str, bytes], file: str, sentence: str, fault: Fault
) -> None:
    done = ingested(system, images.split_image() | files)
    (reason,) = [reason for reason in record(system).reasons if reason.kind == "error"]
    assert reason.file == file
    assert sentence in reason.sentence
    assert reason.sentence.startswith((file, repr(file)))
    assert reason.fault == fault
    assert done.new_faults == [fault]
    assert ingested(system, {"notes.txt": b"another look at it"}).new_faults == []


@pytest.mark.parametrize("name", ["no qcow2", "no tar root", "no unified", "no delta", "two roots"])
def test_an_invalid_file_does_not_affect_the_others_of_its_version(system: System, name: str) -> None:
    ingested(system, images.split_image() | REFUSED[name][0])
    assert record(system).state == "complete"


def test_a_version_with_only_invalid_files_is_invalid_until_they_are_replaced(system: System) -> None:
    ingested(system, images.split_image() | {"lxd.tar.xz": b"nonsense"})
    assert record(system).state == "invalid"
    ingested(system, images.split_image())
    assert record(system).state == "complete"
    assert record(system).reasons == ()


def test_content_encoding_is_refused_until_the_object_is_copied_without_it(system: System) -> None:
    system.upload(PATH, images.split_image())
    system.store.put(ROOT, images.squashfs(), content_encoding="gzip")
    system.ingest(PATH)
    assert "`Content-Encoding: gzip`, expected none" in sentences(system)
    assert [reason.fault for reason in record(system).reasons] == ["encoded"]
    system.store.put(ROOT, images.squashfs())  # the same bytes, so the same ETag
    system.ingest(PATH)
    assert record(system).state == "complete"


def test_a_file_above_the_limit_is_refused_unread() -> None:
    system = System(max_bytes=5000)
    ingested(system, images.split_image() | {"disk.qcow2": images.qcow2(size_bytes=6000)})
    assert "has 6,000 bytes, expected at most 5,000" in sentences(system)
    assert [reason.fault for reason in record(system).reasons] == ["too-large"]
    assert f"{PATH}/disk.qcow2" not in system.store.bytes_read


def test_invalid_overrides_are_reported_and_delist_nothing(system: System) -> None:
    ingested(system, images.split_image() | {"metadata.json": b"{"})
    assert record(system).state == "complete"
    assert "metadata.json: it is not JSON" in sentences(system)


def test_a_huge_metadata_json_is_ignored_with_a_reason(system: System) -> None:
    ingested(system, images.split_image() | {"metadata.json": b" " * 10_000_000})
    assert record(system).state == "complete"
    assert "has 10,000,000 bytes, expected at most 1,048,576" in sentences(system)


def test_unknown_files_are_reported_and_not_read(system: System) -> None:
    ingested(system, images.split_image() | {"README (copy)": b"x", "sub/file": b"y", "": b""})
    assert record(system).state == "complete"
    assert "README (copy) is no image file that clients know" in sentences(system)
    assert f"{PATH}/README (copy)" not in system.store.bytes_read


def test_a_lost_race_restarts_from_fresh_reads_without_reading_images_again(system: System) -> None:
    """The winner writes between this worker's read and write. What it wrote must survive."""
    system.upload(PATH, images.split_image())
    other = System(store=system.store)

    def winner(method: str, key: str) -> None:
        if (method, key) == ("create", RECORD):
            system.store.on = lambda *_: None
            for lease in [key for key in system.store.objects if key.startswith("leases/")]:
                del system.store.objects[lease]
            system.store.put(f"{PATH}/disk.qcow2", images.qcow2())
            other.ingest(PATH)

    system.store.on = winner
    done = system.ingest(PATH)
    assert done.lost_races == 1
    assert record(system).state == "complete"
    assert set(record(system).files) == {"lxd.tar.xz", "rootfs.squashfs", "disk.qcow2"}


def test_two_concurrent_workers_hash_a_root_once(system: System) -> None:
    system.upload(PATH, images.split_image())
    outcomes: list[str] = []

    def second_worker(method: str, key: str) -> None:
        if (method, key) == ("chunk", ROOT) and not outcomes:
            outcomes.append(System(store=system.store).ingest(PATH).outcome)

    system.store.on = second_worker
    system.ingest(PATH)
    assert outcomes == ["leased by another worker"]
    assert system.store.bytes_read[ROOT] == len(images.squashfs())
    assert record(system).state == "complete"


def test_a_file_that_arrives_while_another_worker_holds_the_lease_is_not_missed(system: System) -> None:
    system.upload(PATH, images.split_image())
    late: list[str] = []

    def upload_meanwhile(method: str, key: str) -> None:
        if (method, key) == ("chunk", ROOT) and not late:
            system.store.put(f"{PATH}/disk.qcow2", images.qcow2())
            late.append(System(store=system.store).ingest(PATH).outcome)

    system.store.on = upload_meanwhile
    system.ingest(PATH)
    assert late == ["leased by another worker"]
    assert record(system).files["disk.qcow2"].sha256 == images.sha256_hex(images.qcow2())


def test_the_lease_of_a_dead_worker_expires(system: System) -> None:
    system.upload(PATH, images.split_image())
    system.store.put(f"leases/{PATH}.json", json.dumps({"seconds": 60, "token": "of a dead worker"}).encode())
    assert system.ingest(PATH).outcome == "leased by another worker"
    system.store.clock += timedelta(seconds=60)
    assert system.ingest(PATH).outcome == "recorded"
    assert [key for key in system.store.objects if key.startswith("leases/")] == []


def test_an_object_that_changes_while_it_is_read_is_read_again(system: System) -> None:
    system.upload(PATH, images.split_image(seed="old"))

    def overwrite(method: str, key: str) -> None:
        if (method, key) == ("chunk", ROOT):
            system.store.on = lambda *_: None
            system.store.put(ROOT, images.squashfs("new"))

    system.store.on = overwrite
    system.ingest(PATH)
    assert record(system).files["rootfs.squashfs"].sha256 == images.sha256_hex(images.squashfs("new"))


def test_a_listing_older_than_the_record_is_never_written_over_it(system: System) -> None:
    """The record's revision is read before the folder is listed, not after."""
    system.upload(PATH, {"lxd.tar.xz": images.metadata_tarball("amd64", serial="x")})
    first: list[str] = []

    def others_are_faster(method: str, key: str) -> None:
        if method in ("read", "list") and not first:
            first.append(key)
        elif method in ("read", "list") and len(first) == 1:  # between the two: another file, and its record
            first.append(key)
            system.store.on = lambda *_: None
            system.upload(PATH, {"rootfs.squashfs": images.squashfs("x")})
            system.ingest(PATH)
            system.store.on = others_are_faster

    system.store.on = others_are_faster
    system.ingest(PATH)
    assert set(record(system).files) == {"lxd.tar.xz", "rootfs.squashfs"}
    assert system.store.log.count(("replace", RECORD)) == 0, "there was nothing to write over the other's record"


def test_an_ingest_that_loses_every_race_leaves_the_message_for_redelivery(system: System) -> None:
    system.upload(PATH, images.split_image())

    def always(method: str, key: str) -> None:
        if method in ("create", "replace") and key == RECORD:
            other = Reason("", "warning", f"another writer, call {len(system.store.log)}")
            system.store.put(RECORD, records.encode(Record(version=PATH, reasons=(other,))))

    system.store.on = always
    with pytest.raises(CatalogBusy, match="10 attempts lost"):
        system.ingest(PATH)


def test_an_unreadable_record_is_never_taken_for_absent(system: System) -> None:
    system.upload(PATH, images.split_image())
    system.store.put(RECORD, b"{torn")
    with pytest.raises(CatalogDamaged, match=r"is not a record.*delete it and reconcile"):
        system.ingest(PATH)
    assert system.store.objects[RECORD].body == b"{torn"


def test_the_memory_store_writes_conditionally() -> None:
    store = MemoryStore()
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert not store.replace("a", b"2", "stale")
    seen = store.read("a")
    assert seen
    assert store.replace("a", b"2", seen.revision)


def test_a_version_too_large_for_the_remaining_time_is_left_to_another_run(system: System) -> None:
    files = images.split_image()
    system.upload(PATH, files)
    size = sum(map(len, files.values()))
    with pytest.raises(OutOfTime, match=f"{PATH} has {size:,} bytes to read"):
        ingest(parse_version(PATH), replace(system.ingest_services, budget_bytes=size - 1))
    assert system.store.bytes_read == {}
    ingest(parse_version(PATH), replace(system.ingest_services, budget_bytes=size))
    assert record(system).state == "complete"
    ingest(parse_version(PATH), replace(system.ingest_services, budget_bytes=0))  # nothing is left to read


def test_saving_a_partial_record_is_not_a_lost_race(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageserver.operations.ingest.SAVE_EVERY_BYTES", 1)
    roots = {f"rootfs.2026110{day}_10:00.vcdiff": images.vcdiff(str(day)) for day in range(1, 10)}
    system.upload(PATH, images.split_image() | roots | {f"disk.{name[7:]}": body for name, body in roots.items()})
    pauses: list[float] = []
    ingest(parse_version(PATH), replace(system.ingest_services, pause=pauses.append))
    assert (record(system).state, pauses) == ("complete", [])


NOT_FORESEEN = [
    IndexError("list index out of range"), KeyError("size"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    OverflowError("too large"), ZeroDivisionError(), RecursionError("maximum recursion depth exceeded"),
    AttributeError("'list' object has no attribute 'get'"), TypeError("unhashable type"), AssertionError(),
    struct.error("unpack requires a buffer of 4 bytes"),
]  # fmt: skip
"""Errors that a parser may raise because of the bytes it reads."""


def broken(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, error: Exception) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise error

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("error", NOT_FORESEEN, ids=lambda error: type(error).__name__)
def test_a_file_whose_parser_raises_is_refused_with_a_reason_and_the_others_are_listed(
    system: System, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    broken(monkeypatch, qcow2, "checked", error)
    done = ingested(system, {**images.split_image(), "disk.qcow2": images.qcow2()})
    found = record(system)
    assert (found.state, found.files["disk.qcow2"].fault) == ("complete", "damaged")
    assert f"disk.qcow2 cannot be read as what its name says: its inspection ended with '{type(error).__name__}" in (
        sentences(system).replace('"', "'")
    )
    assert done.unparsed == {f"{PATH}/disk.qcow2": error}
    system.catch_up()
    assert system.listed() == {"ubuntu:noble:amd64:default": ["20261123_10:00"]}
    assert system.ingest(PATH).outcome == "unchanged", "it is not read again until it is uploaded again"


@pytest.mark.parametrize(
    ("module", "name", "file", "body"),
    [
        (tarball, "read_image", "incus.tar.xz", images.metadata_tarball("other")),
        (image_metadata, "check_metadata_yaml", "lxd_combined.tar.gz", images.unified_tarball()),
        (squashfs, "checked", "root.squashfs", images.squashfs("other")),
        (vcdiff, "checked", "rootfs.20261101_10:00.vcdiff", images.vcdiff("x")),
        (overrides, "parse_metadata_json", "metadata.json", b"{}"),
        (overrides, "parse_image_yaml", "image.yaml", b"{}"),
        (checksums, "parse_checksums", "SHA256SUMS", f"{images.sha256_hex(b'')}  x\n".encode()),
    ],
)
def test_a_file_of_any_kind_is_refused_alone_if_its_parser_raises(
    system: System, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, file: str, body: bytes
) -> None:
    system.upload(PATH, images.split_image())
    system.ingest(PATH)
    broken(monkeypatch, module, name, IndexError("list index out of range"))
    done = ingested(system, {file: body})
    assert list(done.unparsed) == [f"{PATH}/{file}"]
    assert record(system).files[file].refusal.startswith("cannot be read as what its name says")
    assert {file for file, facts in record(system).files.items() if facts.refusal} == {file}
    assert record(system).files["rootfs.squashfs"].combined


@pytest.mark.parametrize("error", [IndexError("ours"), EOFError(), OSError("no route"), ValueError("chunk")])
def test_an_error_of_the_reader_is_not_a_fault_of_the_file_and_the_others_are_recorded(
    system: System, error: Exception
) -> None:
    files = {**images.split_image(), "rootfs.tar.xz": images.root_tarball("x")}
    system.upload(PATH, files)

    def fail(method: str, key: str) -> None:
        if (method, key) == ("chunk", f"{PATH}/rootfs.tar.xz"):
            raise error

    system.store.on = fail
    with pytest.raises(type(error)) as raised:
        system.ingest(PATH)
    assert raised.value.__notes__ == [f"while reading {PATH}/rootfs.tar.xz"]
    found = record(system)
    assert (found.state, found.files["rootfs.tar.xz"].refusal) == ("complete", "")
    system.store.on = lambda *_: None
    system.ingest(PATH)
    assert record(system).files["rootfs.tar.xz"].combined, "the next try reads it"


@pytest.mark.parametrize("error", [MemoryError(), OSError("no file"), RuntimeError("can't start new thread")])
def test_a_fault_of_the_machine_refuses_nothing_and_holds_up_no_other_file(
    system: System, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:
        broken(patch, tarball, "read_image", error)
        system.upload(PATH, {**images.split_image(), "metadata.json": b"{}"})
        with pytest.raises(type(error)):
            system.ingest(PATH)
    found = record(system)
    assert found.files["metadata.json"].sha256
    assert (found.state, found.files["lxd.tar.xz"].refusal) == ("incomplete", "")
    system.ingest(PATH)
    assert record(system).state == "complete"


def limited(system: System, files: int = 100, versions: int = 1000) -> IngestServices:
    return replace(system.ingest_services, limits=Limits(files, versions))


def test_files_beyond_the_limit_of_a_version_are_refused_and_the_listed_image_stays(system: System) -> None:
    ingested(system, images.split_image())
    system.upload(PATH, {"disk.qcow2": images.qcow2(), "build.log": b"x"})
    ingest(parse_version(PATH), limited(system, files=3))
    found = record(system)
    assert (found.state, found.files["disk.qcow2"].refusal) == ("complete", "")
    assert "build.log is not read: the version has 3 files" in sentences(system)
    assert found.files["disk.qcow2"].combined
    system.store.remove(f"{PATH}/disk.qcow2")
    system.upload(PATH, {"build.log": b"x"})
    ingest(parse_version(PATH), limited(system, files=3))
    assert record(system).files["build.log"].refusal == "", "uploaded again, it has the place that is free now"


def test_a_version_beyond_the_limit_of_its_product_is_refused_unread_and_its_neighbours_stay(system: System) -> None:
    product = PATH.rpartition("/")[0]
    paths = [f"{product}/2026112{day}_10:00" for day in range(3)]
    for path in paths:
        system.upload(path, images.split_image(seed=path))
        ingest(parse_version(path), limited(system, versions=2))
    assert [record(system, path).state for path in paths] == ["complete", "complete", "invalid"]
    assert "the product has 2 versions, which is the most it may have (the operator sets MaxVersions)" in (
        sentences(system, paths[2])
    )
    assert not any(key.startswith(paths[2]) for key in system.store.bytes_read)
    system.upload(paths[2], {"lxd.tar.xz": images.metadata_tarball()})
    ingest(parse_version(paths[2]), limited(system, versions=2))
    assert record(system, paths[2]).state == "invalid", "no second upload gets past the limit"
    system.upload(paths[0], {"disk.qcow2": images.qcow2()})
    ingest(parse_version(paths[0]), limited(system, versions=2))
    assert record(system, paths[0]).files["disk.qcow2"].combined, "a version that is there takes new files"
    del system.store.objects[f"versions/{paths[1]}.json"]
    system.upload(paths[2], images.split_image(seed="again"))
    ingest(parse_version(paths[2]), limited(system, versions=2))
    assert record(system, paths[2]).state == "complete"


def operations(system: System, roots: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Count storage calls, and comparisons of files with the record, while ingesting a version with this many roots."""
    path = f"images/ubuntu/noble/amd64/r{roots}/20261123_10:00"
    files = {f"r{number}.squashfs": images.squashfs(str(number)) for number in range(roots)}
    system.upload(path, {**files, "lxd.tar.xz": images.metadata_tarball()})
    system.store.log.clear()
    looks = 0

    def counted(file: str, facts: FileFacts, metadata_sha256s: Iterable[str]) -> bool:
        nonlocal looks
        looks += 1
        return needs_reading(file, facts, metadata_sha256s)

    monkeypatch.setattr(examine, "needs_reading", counted)
    ingest(parse_version(path), limited(system, files=10_000))
    assert record(system, path).state == "complete"
    return len(system.store.log), looks


def test_the_work_for_a_version_grows_with_its_files_and_not_with_their_square(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = operations(system, 100, monkeypatch), operations(system, 800, monkeypatch)
    assert many[0] < 8.5 * few[0], "calls of storage"
    assert many[1] < 16 * few[1], "looks at a file; the record is saved a few times more"


def test_progress_is_saved_by_files_too(system: System) -> None:
    files = {f"r{number}.squashfs": images.squashfs(str(number)) for number in range(120)}
    system.upload(PATH, {**files, "lxd.tar.xz": images.metadata_tarball()})

    def die(method: str, key: str) -> None:
        if (method, key) == ("open", f"{PATH}/r99.squashfs"):
            raise KeyboardInterrupt

    system.store.on = die
    with pytest.raises(KeyboardInterrupt):
        ingest(parse_version(PATH), limited(system, files=1000))
    assert sum(bool(facts.sha256) for facts in record(system).files.values()) >= 50
