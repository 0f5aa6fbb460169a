"""Which deltas the server makes: for which versions, whether they fit, and which are kept."""

from collections.abc import Mapping

import pytest
from msgspec.structs import replace as changed

from imageserver.catalog import delta_plan
from imageserver.catalog.delta_plan import Pair, Root, RunCapacity
from imageserver.format.documents import Item, Version
from imageserver.format.keys import parse_product, parse_version
from imageserver.inspection.overrides import Overrides
from imageserver.versions.records import DeltaNote, FileFacts, Record, Withdrawal

PRODUCT = parse_product("images/alpine/3.22/amd64/default")
OLD, NEW = "20261121_1000", "20261122_1000"
ROOT = "rootfs.squashfs"


def sha(version: str) -> str:
    return version.replace("_", "").ljust(64, "0")


def record(version: str, *files: str, notes: Mapping[str, DeltaNote] | None = None, root: str = ROOT) -> Record:
    facts = {file: FileFacts(etag=f"e-{file}", size_bytes=10, modified="2026-11-23T10:00:00+00:00") for file in files}
    facts[root] = FileFacts(
        etag=f"e-{version}", size_bytes=1000, modified="2026-11-23T10:00:00+00:00", sha256=sha(version)
    )
    return Record(version=f"{PRODUCT.path}/{version}", files=facts, deltas=dict(notes or {}))


def listing(*versions: str, root: str = ROOT, without: str = "") -> dict[str, Version]:
    def items(version: str) -> dict[str, Item]:
        path = f"{PRODUCT.path}/{version}/{root}"
        disk = Item(ftype="disk-kvm.img", path=f"{PRODUCT.path}/{version}/disk.qcow2", sha256="d", size=5)
        squashfs = Item(ftype="squashfs", path=path, sha256=sha(version), size=1000)
        return {"disk": disk} | ({} if version == without else {"root": squashfs})

    return {version: Version(items=items(version)) for version in versions}


def root(version: str, size_bytes: int = 1000) -> Root:
    return Root(parse_version(f"{PRODUCT.path}/{version}"), ROOT, f"e-{version}", size_bytes, sha(version))


PAIR = Pair(root(OLD), root(NEW))


def test_the_newest_version_is_the_one_with_the_latest_date() -> None:
    assert delta_plan.newest(listing("20261121", "20261122", "20261122.1", "20261120")) == "20261122.1"
    assert delta_plan.newest(listing("20261121_1000", "202611211100")) == "202611211100", "by date, not as texts"
    assert delta_plan.newest({}) == ""


def test_bases_are_the_newest_older_versions_with_a_squashfs() -> None:
    versions = listing("20261120", "20261121", "20261122", "20261123", "20261124", without="20261122")
    assert delta_plan.bases(versions, "20261123", 2) == ["20261121", "20261120"]
    assert delta_plan.bases(versions, "20261123", 1) == ["20261121"]
    assert delta_plan.bases(versions, "20261123", 0) == []
    assert delta_plan.bases(versions, "20261120", 3) == []
    mixed = listing("20261121_1000", "202611211100", "20261122")
    assert delta_plan.bases(mixed, "20261122", 2) == ["202611211100", "20261121_1000"]


def test_a_version_that_lists_no_squashfs_gets_no_delta() -> None:
    assert delta_plan.bases(listing(OLD, NEW, without=NEW), NEW, 1) == []
    assert delta_plan.bases(listing(OLD), NEW, 1) == []


@pytest.mark.parametrize(("own", "usual", "count"), [(None, 2, 2), (0, 2, 0), (3, 1, 3)])
def test_metadata_json_goes_before_the_servers_number(own: int | None, usual: int, count: int) -> None:
    facts = FileFacts(etag="e", size_bytes=10, modified="", sha256="m", overrides=Overrides(deltas=own))
    newest = record(NEW)
    newest = changed(newest, files={**newest.files, "metadata.json": facts})
    assert delta_plan.wanted_count(newest, usual) == count


def test_a_pair_names_its_objects_as_they_are() -> None:
    found = delta_plan.pair_of(listing(OLD, NEW), record(NEW), record(OLD))
    assert found == PAIR
    assert PAIR.base.key == f"{PRODUCT.path}/{OLD}/rootfs.squashfs"
    assert PAIR.key == f"{PRODUCT.path}/{NEW}/rootfs.{OLD}.vcdiff"
    other = delta_plan.pair_of(
        listing(OLD, NEW, root="x.squashfs"), record(NEW, root="x.squashfs"), record(OLD, root="x.squashfs")
    )
    assert isinstance(other, Pair)
    assert other.target.key == f"{PRODUCT.path}/{NEW}/x.squashfs"


@pytest.mark.parametrize(
    ("target", "base"),
    [
        (record("20261130"), record(OLD)),
        (record(NEW), record("20261101")),
        (changed(record(NEW), files={}), record(OLD)),
        (record(NEW), changed(record(OLD), files={ROOT: changed(record(OLD).files[ROOT], sha256="f" * 64)})),
    ],
    ids=["target not listed", "base not listed", "no file", "other bytes"],
)
def test_no_delta_is_made_where_record_and_catalog_disagree(target: Record, base: Record) -> None:
    found = delta_plan.pair_of(listing(OLD, NEW), target, base)
    assert isinstance(found, str)
    assert found.endswith("is gone, or differs from its record")


@pytest.mark.parametrize("file", [f"rootfs.{OLD}.vcdiff", f"root.{OLD}.vcdiff"])
@pytest.mark.parametrize("note", [None, PAIR.note()])
def test_one_delta_from_a_base_is_enough(file: str, note: DeltaNote | None) -> None:
    target = record(NEW, file, notes={OLD: note} if note else None)
    assert delta_plan.pair_of(listing(OLD, NEW), target, record(OLD)) == f"{file} is there already"


def test_a_withdrawn_delta_keeps_its_name() -> None:
    target = record(NEW, PAIR.file)
    facts = changed(target.files[PAIR.file], withdrawn=Withdrawal("2026-11-23T10:00:00+00:00", ""))
    target = changed(target, files={**target.files, PAIR.file: facts})
    assert delta_plan.pair_of(listing(OLD, NEW), target, record(OLD)) == f"{PAIR.file} is there already"


def test_a_publishers_delta_from_any_base_blocks_the_servers_own() -> None:
    file, base = "rootfs.20261101_1000.vcdiff", "20261101_1000"
    wins = f"{file} is the publisher's own delta, and wins"
    assert delta_plan.pair_of(listing(OLD, NEW), record(NEW, file), record(OLD)) == wins
    refused = record(NEW, file, notes={base: DeltaNote("a", "b", "too large")})
    assert delta_plan.pair_of(listing(OLD, NEW), refused, record(OLD)) == wins
    ours = record(NEW, file, notes={base: DeltaNote("a", "b")})
    assert delta_plan.pair_of(listing(OLD, NEW), ours, record(OLD)) == PAIR
    disk = record(NEW, "disk.20261101_1000.qcow2.vcdiff")
    assert delta_plan.pair_of(listing(OLD, NEW), disk, record(OLD)) == PAIR


def test_a_failed_delta_is_not_tried_twice_for_the_same_roots() -> None:
    noted = record(NEW, notes={OLD: PAIR.note("it was too large")})
    assert delta_plan.pair_of(listing(OLD, NEW), noted, record(OLD)) == "it was tried: it was too large"
    assert delta_plan.pair_of(listing(OLD, NEW), noted, record(OLD), again=True) == PAIR
    for note in (PAIR.note(), DeltaNote("f" * 64, sha(NEW), "why"), DeltaNote(sha(OLD), "f" * 64, "why")):
        again = record(NEW, notes={OLD: note})
        assert delta_plan.pair_of(listing(OLD, NEW), again, record(OLD)) == PAIR


@pytest.mark.parametrize(("root_bytes", "most"), [(1000, 499), (1001, 500), (1, 0)])
def test_a_delta_is_kept_below_half_of_its_root(root_bytes: int, most: int) -> None:
    assert Pair(root(OLD), root(NEW, root_bytes)).most_bytes == most
    assert delta_plan.too_large(Pair(root(OLD), root(NEW, 2000))) == (
        "the delta is not below half of the 2,000 bytes of rootfs.squashfs: clients fetch the whole root"
    )


BIG = Pair(root(OLD, 400_000_000), root(NEW, 800_000_000))
"""Takes 30 s to fetch, 32 s to encode and 10 s to decode, and 1.6 GB of disk."""


@pytest.mark.parametrize(
    ("capacity", "reason"),
    [
        (RunCapacity(1_599_999_999, 512, 72.0), ""),
        (RunCapacity(1_599_999_999, 0, 72.0), ""),
        (RunCapacity(1_599_999_999, 511, 72.0), "the function has 511 MB of memory, expected 512 at least"),
        (
            RunCapacity(1_599_999_998, 512, 72.0),
            "both roots and a delta take 1,599,999,999 bytes of disk, and a run has 1,599,999,998",
        ),
        (RunCapacity(1_599_999_999, 512, 71.9), "roots of these sizes may take 72 s, and a run has 72 s for them"),
    ],
)
def test_whether_a_delta_fits_into_a_run_is_computed_before_the_run(capacity: RunCapacity, reason: str) -> None:
    assert delta_plan.beyond_capacity(BIG, capacity) == reason


def test_a_delta_without_a_note_about_these_roots_is_unexplained() -> None:
    listed, old = listing(OLD, NEW), record(OLD)
    notes = {
        None: [PAIR],
        PAIR.note(): [],  # made; it was deleted for a reason
        PAIR.note("too large"): [],
        DeltaNote("another base", sha(NEW), "too large"): [PAIR],
        DeltaNote("another base", sha(NEW), ""): [PAIR],
    }
    for note, expected in notes.items():
        new = record(NEW, notes={OLD: note} if note else None)
        assert delta_plan.unexplained(listed, {OLD: old, NEW: new}, 1) == expected, note


def test_no_delta_is_unexplained_without_its_records_or_if_none_is_wanted() -> None:
    listed, known = listing(OLD, NEW), {OLD: record(OLD), NEW: record(NEW)}
    assert delta_plan.unexplained(listed, known, 0) == []
    assert delta_plan.unexplained(listed, {OLD: known[OLD]}, 1) == []
    assert delta_plan.unexplained(listed, {NEW: known[NEW]}, 1) == []
    assert delta_plan.unexplained({}, known, 1) == []
    own = record(NEW, "rootfs.20261120_1000.vcdiff")
    assert delta_plan.unexplained(listed, {OLD: known[OLD], NEW: own}, 1) == [], "the publisher's own delta wins"
