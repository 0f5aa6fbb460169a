"""Published files stay. Later ones are refused and reported, and affect nothing else."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import pytest

from imageserver.format.keys import parse_target, parse_version
from imageserver.inspection.overrides import Overrides
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions import records
from imageserver.versions.assessment import assessed, overrides
from imageserver.versions.records import FileFacts, Record
from tests.support import images
from tests.support.memory_store import START, System

PATH = "images/ubuntu/noble/amd64/default/20261123_1000"
RECORD = f"versions/{PATH}.json"
WRONG = "a" * 64
IMAGE = images.split_image()


@pytest.fixture
def system() -> System:
    return System()


def after(system: System, files: dict[str, bytes]) -> Record:
    system.upload(PATH, files)
    system.catch_up()
    return record(system)


def record(system: System) -> Record:
    return records.decode(system.store.objects[RECORD].body, RECORD)


def errors(found: Record) -> dict[str, str]:
    return {reason.file: reason.sentence for reason in found.reasons if reason.kind == "error"}


def sums(*named: tuple[str, str]) -> bytes:
    return "".join(f"{sha256}  {file}\n" for file, sha256 in named).encode()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def other_metadata(kind: str = "amd64") -> bytes:
    return images.metadata_tarball(kind, serial="other")


PLAIN = IMAGE
UNUSUAL = {"lxd.tar.xz": IMAGE["lxd.tar.xz"], "root.squashfs": IMAGE["rootfs.squashfs"]}
OTHER_ROOT = images.squashfs("other")
DELTA = "rootfs.20261122_1000.vcdiff"
LATE: dict[str, tuple[dict[str, bytes], dict[str, bytes], str]] = {
    "a wrong SHA256SUMS": (PLAIN, {"SHA256SUMS": sums(("rootfs.squashfs", WRONG))}, "SHA256SUMS"),
    "a SHA256SUMS that covers nothing": (PLAIN, {"SHA256SUMS": sums(("disk.img", WRONG))}, "SHA256SUMS"),
    "an empty SHA256SUMS": (PLAIN, {"SHA256SUMS": b""}, "SHA256SUMS"),
    "a SHA256SUMS whose line about the root is torn": (
        PLAIN,
        {"SHA256SUMS": sums(("lxd.tar.xz", sha256(PLAIN["lxd.tar.xz"]))) + b"abcdef0123 rootfs.squashfs\n"},
        "SHA256SUMS",
    ),
    "a SHA256SUMS with two digests for the root": (
        PLAIN,
        {"SHA256SUMS": sums(("rootfs.squashfs", sha256(PLAIN["rootfs.squashfs"])), ("rootfs.squashfs", WRONG))},
        "SHA256SUMS",
    ),
    "a SHA256SUMS that is wrong about metadata.json": (
        PLAIN | {"metadata.json": b'{"aliases": ["lts"]}'},
        {"SHA256SUMS": sums(("metadata.json", WRONG))},
        "SHA256SUMS",
    ),
    "a SHA256SUMS that is wrong about a delta": (
        PLAIN | {DELTA: images.vcdiff("d", 300, len(PLAIN["rootfs.squashfs"]))},
        {"SHA256SUMS": sums((DELTA, WRONG))},
        "SHA256SUMS",
    ),
    "a root of a preferred name": (UNUSUAL, {"rootfs.squashfs": OTHER_ROOT}, "rootfs.squashfs"),
    "a tarball of a preferred name": (
        {"lxd.tar.xz": IMAGE["lxd.tar.xz"], "root.tar.xz": images.root_tarball()},
        {"rootfs.tar.xz": images.root_tarball("2")},
        "rootfs.tar.xz",
    ),
    "metadata of the other client": (PLAIN, {"incus.tar.xz": other_metadata()}, "incus.tar.xz"),
    "metadata of a preferred name": (
        {"meta-lxd.tar.xz": IMAGE["lxd.tar.xz"], "rootfs.squashfs": IMAGE["rootfs.squashfs"]},
        {"lxd.tar.xz": other_metadata()},
        "lxd.tar.xz",
    ),
    "a root beside a unified tarball": (
        {"lxd_combined.tar.gz": images.unified_tarball("amd64", "gz", "u")},
        PLAIN,
        "rootfs.squashfs",
    ),
    "a second unified tarball": (
        {"zz.tar.gz": images.unified_tarball("amd64", "gz", "u")},
        {"incus_combined.tar.gz": images.unified_tarball("amd64", "gz", "v")},
        "incus_combined.tar.gz",
    ),
}


@pytest.mark.parametrize(("first", "late", "refused"), LATE.values(), ids=LATE.keys())
def test_a_later_file_that_would_change_a_published_version_is_refused(
    system: System, first: dict[str, bytes], late: dict[str, bytes], refused: str
) -> None:
    assert after(system, first).state == "complete"
    catalog = system.streams()
    found = after(system, late)
    assert found.state == "complete"
    assert refused in errors(found)
    assert system.streams() == catalog


@pytest.mark.parametrize(
    "late", [{"disk.qcow2": images.qcow2()}, {"incus.tar.xz": IMAGE["lxd.tar.xz"]}], ids=["another image", "the same"]
)
def test_a_file_that_changes_no_published_image_may_be_added_later(system: System, late: dict[str, bytes]) -> None:
    before = after(system, PLAIN).published
    found = after(system, late)
    assert errors(found) == {}
    assert before.items() <= found.published.items()
    assert found.published.keys() >= late.keys()


def test_a_list_that_is_wrong_about_a_published_file_does_not_affect_the_others(system: System) -> None:
    after(system, PLAIN)
    found = after(
        system,
        {"SHA256SUMS": sums(("rootfs.squashfs", WRONG), ("disk.qcow2", WRONG)), "disk.qcow2": images.qcow2()},
    )
    assert errors(found).keys() == {"SHA256SUMS"}
    assert "disk.qcow2" in found.published
    warnings = [reason.sentence for reason in found.reasons if reason.file == "disk.qcow2"]
    assert warnings == ["disk.qcow2 is not confirmed, as SHA256SUMS is refused: its digest was not verified"]


def test_metadata_json_may_be_corrected_and_decides_about_the_product_only(system: System) -> None:
    before = after(system, PLAIN | {"metadata.json": b'{"aliases": ["lts"]}'})
    found = after(system, {"metadata.json": b'{"aliases": ["stable"], "release_title": "Noble"}'})
    assert overrides(found).aliases == ("stable",)
    assert {file: found.published[file] for file in PLAIN} == {file: before.published[file] for file in PLAIN}


def test_an_overwritten_file_stays_the_published_one(system: System) -> None:
    """A second root was refused. Then somebody with the right to do so overwrites the published one."""
    after(system, UNUSUAL)
    after(system, {"rootfs.squashfs": OTHER_ROOT})
    found = after(system, {"root.squashfs": images.squashfs("overwritten")})
    assert errors(found).keys() == {"rootfs.squashfs"}
    assert found.published["root.squashfs"] == sha256(images.squashfs("overwritten"))


def test_an_overwritten_file_is_compared_with_the_list_again(system: System) -> None:
    after(system, PLAIN | {"SHA256SUMS": sums(("rootfs.squashfs", sha256(PLAIN["rootfs.squashfs"])))})
    assert after(system, {"rootfs.squashfs": OTHER_ROOT}).state == "invalid"
    assert after(system, {"SHA256SUMS": sums(("rootfs.squashfs", sha256(OTHER_ROOT)))}).state == "complete"


def test_another_file_may_take_the_place_of_a_withdrawn_one(system: System) -> None:
    after(system, PLAIN)
    target = parse_target(f"{PATH}/rootfs.squashfs")
    withdraw(system.store, target, START, 24, lambda _: None)
    found = after(system, {"root.squashfs": OTHER_ROOT})
    assert (found.state, "root.squashfs" in found.published) == ("complete", True)
    restore(system.store, target, lambda _: None)
    assert errors(record(system)).keys() == {"rootfs.squashfs"}, "now it is the one that comes later"


def test_a_restored_version_is_published_as_it_was(system: System) -> None:
    before = after(system, UNUSUAL)
    withdraw(system.store, parse_version(PATH), START, 24, lambda _: None)
    found = after(system, {"rootfs.squashfs": OTHER_ROOT})
    assert found.state == "withdrawn"
    restore(system.store, parse_version(PATH), lambda _: None)
    system.catch_up()
    assert record(system).published == before.published


def test_a_version_uploaded_anew_after_its_deletion_ignores_its_earlier_record(system: System) -> None:
    after(system, UNUSUAL)
    withdraw(system.store, parse_version(PATH), START, 24, lambda _: None)
    gone = record(system)
    final = records.encode(
        assessed(records.Record(version=PATH, files=gone.files, published=gone.published, withdrawn=_final(gone)))
    )
    system.store.objects[RECORD].body = final
    for file in UNUSUAL:
        system.store.remove(f"{PATH}/{file}")
    system.store.clock += timedelta(days=2)
    found = after(system, {"root.squashfs": OTHER_ROOT, "rootfs.squashfs": images.squashfs("new")} | PLAIN)
    assert errors(found).keys() == {"root.squashfs"}
    assert found.published.keys() == PLAIN.keys()


def _final(gone: Record) -> records.Withdrawal:
    assert gone.withdrawn
    return records.Withdrawal(gone.withdrawn.since, gone.withdrawn.delete_after, final=True)


def test_a_record_of_an_older_release_is_published_according_to_its_facts(system: System) -> None:
    after(system, UNUSUAL)
    older = json.loads(system.store.objects[RECORD].body)
    del older["published"], older["replaceable"]
    system.store.put(RECORD, json.dumps(older).encode())
    catalog = system.streams()
    assert errors(after(system, {"rootfs.squashfs": OTHER_ROOT})).keys() == {"rootfs.squashfs"}
    assert system.streams() == catalog


@pytest.mark.parametrize("seed", range(20))
def test_assessing_a_record_again_changes_nothing(system: System, seed: int) -> None:
    names = sorted({file for first, late, _ in LATE.values() for file in first | late})
    bodies = {file: body for first, late, _ in LATE.values() for file, body in (first | late).items()}
    after(system, {file: bodies[file] for at, file in enumerate(names) if (seed + 1) * (at + 3) % 5 < 2})
    found = record(system)
    assert assessed(found) == found


# ── refused documents ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_metadata_json_that_contradicts_sha256sums_gives_no_aliases(system: System) -> None:
    files = {"metadata.json": b'{"aliases": ["lts"]}', "SHA256SUMS": sums(("metadata.json", WRONG))}
    found = after(system, PLAIN | files)
    assert found.state == "complete"
    assert errors(found).keys() == {"metadata.json"}
    assert overrides(found).aliases == ()
    product = system.products_document().products["ubuntu:noble:amd64:default"]
    assert "lts" not in product.aliases


@pytest.mark.parametrize("file", ["metadata.json", "image.yaml", "SHA256SUMS"])
def test_a_refused_document_has_no_effect_even_if_an_older_release_recorded_it(file: str) -> None:
    metadata = FileFacts(etag="m", size_bytes=1, modified=START.isoformat(), sha256="b" * 64)
    combined = {metadata.sha256: "c" * 64}
    root = FileFacts(etag="r", size_bytes=1, modified=START.isoformat(), sha256="d" * 64, combined=combined)
    refused = FileFacts(
        etag="d", size_bytes=1, modified=START.isoformat(), refusal="has another digest than declared", fault="digest",
        overrides=Overrides(aliases=("lts",)), checksums={"rootfs.squashfs": WRONG}, unreadable={},
    )  # fmt: skip
    found = assessed(Record(version=PATH, files={"lxd.tar.xz": metadata, "rootfs.squashfs": root, file: refused}))
    assert found.state == "complete"
    assert errors(found).keys() == {file}
    assert overrides(found).aliases == ()
    assert file not in found.published


def test_a_list_that_names_itself_is_read_without_that_line(system: System) -> None:
    """`sha256sum * >SHA256SUMS` writes such a list: the shell creates the file before it is hashed."""
    lines = [(file, sha256(body)) for file, body in PLAIN.items()] + [("SHA256SUMS", sha256(b""))]
    found = after(system, PLAIN | {"SHA256SUMS": sums(*lines)})
    assert (found.state, found.reasons) == ("complete", ())


# ── refused files that somebody may replace ─────────────────────────────────────────────────────────────────────────


def test_an_object_that_may_still_be_replaced_is_never_published(system: System) -> None:
    found = after(system, PLAIN | {"SHA256SUMS": sums(("rootfs.squashfs", WRONG))})
    root = found.files["rootfs.squashfs"]
    given_up = Record(version=PATH, files=found.files, replaceable={"rootfs.squashfs": (root.etag,)})
    system.store.put(RECORD, records.encode(assessed(given_up)))
    mended = after(system, {"SHA256SUMS": sums(("rootfs.squashfs", root.sha256))})
    assert mended.state == "invalid"
    assert "a URL to replace them was given out" in errors(mended)["rootfs.squashfs"]
    assert after(system, {"rootfs.squashfs": PLAIN["rootfs.squashfs"]}).state == "invalid", "the same ETag again"
    right = {"rootfs.squashfs": OTHER_ROOT, "SHA256SUMS": sums(("rootfs.squashfs", sha256(OTHER_ROOT)))}
    assert after(system, right).state == "complete"
