"""The pure parts of the upload API: who may, in how many parts, what a status says, what text says."""

from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import timedelta
from pathlib import Path

import pytest

from imageserver.api import multipart, problems, status, text, uploads
from imageserver.api.openapi import document
from imageserver.api.permissions import BadRule, Rights, caller_of, role_of
from imageserver.api.problems import Problem
from imageserver.api.schema import FileStatus, Multipart, PartPlan, Signed, Single, VersionStatus
from imageserver.errors import CatalogBusy
from imageserver.format.keys import parse_key, parse_product, parse_target, parse_version, path_of
from imageserver.operations import withdraw
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Opened
from imageserver.versions import examine, records
from imageserver.versions.records import FileFacts
from imageserver.versions.state import State
from local_stack.interpreter import read_wiring
from local_stack.template import Place
from tests.support import images
from tests.support.memory_store import START, MemoryStore, System

GIB = 1 << 30
MIB = 1 << 20
PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
OTHER = "images/ubuntu/noble/amd64/default/20261122_10:00"
VERSION = parse_version(PATH)
CI = "arn:aws:iam::111122223333:role/ci"


def pause(_: float) -> None:
    """Tests do not wait."""


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────────

ALLOWED = [
    (["images/team-a/"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["images/team-a"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["images/team-a/*"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["team-a/*"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["team-a"], "images/team-a/noble/amd64/default", True),
    (["images/team-a/noble/arm64"], "images/team-a/noble/amd64/default", False),
    (["images/*/noble"], "images/any/noble/amd64/default", True),
    (["images/*/noble"], "images/any/thing/noble/amd64/default", False),
    (["*"], "images-daily/a/b/amd64/d", True),
    (["images*"], "images-daily/a/b/amd64/d", True),
    (["images"], "images-daily/a/b/amd64/d", False),
    (["images-daily/"], "images/a/b/amd64/d", False),
    (["images/team"], "images/team-a/noble/amd64/default", False),
    (["images/team-a/noble"], "images/team-a", False),
    (["images/team.a"], "images/teamXa/noble/amd64/default", False),
    ([], "images/a/b/amd64/d", False),
    (["debian", "images/a/"], "images/a/b/amd64/d", True),
]


@pytest.mark.parametrize(("prefixes", "path", "expected"), ALLOWED)
def test_a_caller_can_write_only_below_its_prefixes(prefixes: list[str], path: str, expected: bool) -> None:
    assert Rights.parse(f'{{"{CI}": {prefixes}}}'.replace("'", '"')).allow(CI, path) is expected


CALLERS = [
    (CI, CI, True),
    (CI, "arn:aws:iam::111122223333:role/ci-other", False),
    (CI, "arn:aws:sts::111122223333:assumed-role/ci/session-1", True),
    (CI, "arn:aws:sts::999999999999:assumed-role/ci/session-1", False),
    (CI, "arn:aws:sts::111122223333:assumed-role/admin/ci", False),
    ("repo:org/name:ref:refs/heads/main", "repo:org/name:ref:refs/heads/main", True),
    ("repo:org/name:ref:refs/heads/main", "repo:org/name:ref:refs/heads/main2", False),
    ("repo:org/*:ref:refs/heads/main", "repo:org/other:ref:refs/heads/main", True),
    ("repo:org/*:ref:refs/heads/main", "repo:org/x:ref:refs/heads/evil:ref:refs/heads/main", False),
    ("repo:org/name:*", "repo:org/name:pull_request", True),
    ("repo:org/name:*", "repo:org/name2:ref:refs/heads/main", False),
    ("repo:org@1/name@22:ref:refs/heads/main", "repo:org@1/name@22:ref:refs/heads/main", True),
    ("repo:org@1/name@22:ref:refs/heads/main", "repo:org@9/name@22:ref:refs/heads/main", False),
    ("repo:org@1/*", "repo:org@1/other@33:ref:refs/heads/main", True),
    ("repo:org@1/*", "repo:org@11/other@33:ref:refs/heads/main", False),
    ("repo:org/*", "repo:org@1/other@33:ref:refs/heads/main", False),
    ("project_path:group/*:ref_type:branch:ref:main", "project_path:group/a:ref_type:branch:ref:main", True),
    ("arn:aws:iam::111122223333:*", CI, True),
    ("arn:aws:iam::111122223333:*", "", False),
    ("system:serviceaccount:images:*", "system:serviceaccount:images:builder", True),
]


@pytest.mark.parametrize(("named", "caller", "expected"), CALLERS)
def test_a_rule_applies_to_the_callers_it_names(named: str, caller: str, expected: bool) -> None:
    assert Rights.parse(f'{{"{named}": ["*"]}}').allow(caller, PATH) is expected


def test_without_rules_every_caller_is_refused() -> None:
    assert not Rights.parse("{}").allow(CI, PATH)


BAD_RULES = ["", "[]", "nonsense", '{"a": "images/"}', '{"a": [1]}', '{"": ["images/"]}', '{"a": [""]}']


ANYBODY = ["*", "r*", "*:me/images", "repo:*", "repo:*/images:*", "repo:octocat*/images", "repo:octocat@*/images@1"]
ANYBODY += ["repo:octocat*", "project_path:*", "project_path:group*/images:ref_type:branch:ref:main"]


@pytest.mark.parametrize("caller", ANYBODY)
def test_a_rule_that_matches_any_caller_is_refused(caller: str) -> None:
    """A stranger may register an owner whose name begins like yours."""
    with pytest.raises(BadRule, match="owner in full"):
        Rights.parse(json.dumps({caller: ["images/"]}))


@pytest.mark.parametrize(
    "caller",
    [
        CI,
        "arn:aws:sts::111122223333:assumed-role/ci/session-1",
        "repo:octocat@123456/images@456789:ref:refs/heads/main",
    ],
)
def test_a_refusal_shows_how_a_rule_names_the_caller(caller: str) -> None:
    with pytest.raises(Problem, match="may not write") as refusal:
        uploads.allowed(Rights.parse("{}"), caller, PATH)
    named = refusal.value.detail.rsplit('"', 2)[1]
    assert "session" not in named
    uploads.allowed(Rights.parse(json.dumps({named: ["images/"]})), caller, PATH)


@pytest.mark.parametrize("rule", BAD_RULES)
def test_an_invalid_rule_is_reported_and_allows_nothing(rule: str) -> None:
    with pytest.raises(BadRule, match="PUBLISHERS"):
        Rights.parse(rule)


@pytest.mark.parametrize(
    ("authorizer", "expected"),
    [
        ({"iam": {"userArn": CI}}, CI),
        ({"jwt": {"claims": {"sub": "repo:a/b"}, "scopes": None}}, "repo:a/b"),
        ({"jwt": {"claims": None}}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_caller_is_the_arn_or_the_subject(authorizer: object, expected: str) -> None:
    assert caller_of(authorizer) == expected
    assert role_of(expected) == ""


# ── in how many parts ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 16 * MIB, 16 * MIB + 1, 65 * MIB, 6 * GIB, 8000 * MIB, 50 * GIB, 67_500_000_000])
def test_parts_cover_the_file_without_gaps_and_within_the_limits_of_s3(size: int) -> None:
    parts = multipart.parts(size)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert sum(part.size for part in parts) == size
    assert all(a.offset + a.size == b.offset for a, b in itertools.pairwise(parts))
    assert len(parts) <= multipart.MOST_PARTS
    assert all(part.offset % MIB == 0 for part in parts)
    assert all(5 * MIB <= part.size <= 5 * GIB for part in parts[:-1])


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        (64 * MIB, None, False),
        (64 * MIB + 1, None, True),
        (1, True, True),
        (5 * GIB, False, False),
        (5 * GIB + 1, False, True),
    ],
)
def test_a_large_file_comes_in_parts(size: int, wanted: bool | None, expected: bool) -> None:
    assert multipart.in_parts(size, wanted) is expected


# ── declared digests ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_digest_that_differs_from_the_declared_one_is_refused_with_both() -> None:
    facts = FileFacts(etag="e", size_bytes=1, modified="", sha256="a" * 64, combined={"m": "c"})
    refused = examine.compare_declared(facts, "b" * 64)
    assert refused.refusal == f"has sha256 {'a' * 64}, expected {'b' * 64} as its uploader declared; upload it again"
    assert (refused.sha256, refused.combined) == ("", {})
    assert examine.compare_declared(facts, "a" * 64) == facts
    assert examine.compare_declared(facts, "A" * 64) == facts
    assert examine.compare_declared(facts, "") == facts


class Declaring(MemoryStore):
    """A bucket in which the uploader of each root declared a digest that is wrong."""

    def open(self, key: str, etag: str) -> Opened:
        declared = "b" * 64 if key.endswith(".squashfs") else ""
        return dataclasses.replace(super().open(key, etag), declared_sha256=declared)


def test_a_root_with_another_digest_than_declared_is_never_listed() -> None:
    system = System(store=Declaring())
    system.upload(PATH, images.split_image())
    system.catch_up()
    assert system.listed() == {}
    found = status.look(system.store, DocumentCache(system.store), VERSION)
    assert found
    assert found.status == "invalid"
    assert f"expected {'b' * 64} as its uploader declared" in found.reasons[0].sentence


# ── withdrawals ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def system() -> System:
    """Two listed versions of one product."""
    system = System()
    system.upload(OTHER, images.split_image(seed="old"))
    system.upload(PATH, images.split_image(seed="new"))
    system.catch_up()
    assert system.listed() == {VERSION.product.name: ["20261122_10:00", "20261123_10:00"]}
    return system


def told(system: System, path: str = PATH) -> VersionStatus:
    found = status.look(system.store, DocumentCache(system.store), parse_version(path))
    assert found
    return found


def test_a_withdrawn_version_is_delisted_and_its_files_stay(system: System) -> None:
    done = withdraw.withdraw(system.store, VERSION, START, 24, pause)
    assert (done.versions, done.delete_after) == ([PATH], "2026-11-24T10:00:00+00:00")
    system.catch_up()
    assert system.listed() == {VERSION.product.name: ["20261122_10:00"]}
    assert f"{PATH}/rootfs.squashfs" in system.store.objects
    assert (told(system).status, told(system).delete_after) == ("withdrawn", "2026-11-24T10:00:00+00:00")
    assert "can be restored until 2026-11-24T10:00:00+00:00" in told(system).reasons[0].sentence


def test_withdrawing_twice_keeps_the_first_date_and_reason_and_says_so(system: System) -> None:
    first = withdraw.withdraw(system.store, VERSION, START, 24, pause, "broken")
    again = withdraw.withdraw(system.store, VERSION, START + timedelta(hours=5), 24, pause, "broken again")
    assert again.delete_after == "2026-11-24T10:00:00+00:00"
    assert first.already == {}
    assert {path: withdrawal.reason for path, withdrawal in again.already.items()} == {PATH: "broken"}


def test_a_withdrawal_of_a_product_tells_which_versions_were_withdrawn_before(system: System) -> None:
    withdraw.withdraw(system.store, VERSION, START, 24, pause)
    done = withdraw.withdraw(system.store, VERSION.product, START, 24, pause)
    assert (sorted(done.already), done.versions) == ([PATH], [OTHER, PATH])
    file = parse_key(f"{OTHER}/rootfs.squashfs")
    withdraw.restore(system.store, VERSION.product, pause)
    withdraw.withdraw(system.store, file, START, 24, pause)
    assert sorted(withdraw.withdraw(system.store, file, START, 24, pause).already) == [file.key]


def test_a_restored_version_is_listed_again_without_reading_an_image(system: System) -> None:
    before = system.streams()
    withdraw.withdraw(system.store, VERSION, START, 24, pause)
    system.catch_up()
    read = dict(system.store.bytes_read)
    assert withdraw.restore(system.store, VERSION, pause).versions == [PATH]
    system.catch_up()
    assert system.streams() == before
    assert system.store.bytes_read == read


def test_a_product_is_withdrawn_with_all_its_versions_recorded_or_not(system: System) -> None:
    system.upload(f"{VERSION.product.path}/20261124_10:00", {"lxd.tar.xz": b"not looked at yet"})
    done = withdraw.withdraw(system.store, VERSION.product, START, 24, pause)
    assert done.versions == [f"{VERSION.product.path}/{day}_10:00" for day in ("20261122", "20261123", "20261124")]
    system.catch_up()
    assert system.listed() == {}
    assert told(system, f"{VERSION.product.path}/20261124_10:00").status == "withdrawn"


def test_a_withdrawn_file_leaves_the_rest_of_its_version_listed(system: System) -> None:
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.catch_up()
    assert len(told(system).fingerprints) == 2
    done = withdraw.withdraw(system.store, parse_key(f"{PATH}/disk.qcow2"), START, 24, pause)
    assert (done.versions, done.files) == ([], [f"{PATH}/disk.qcow2"])
    system.catch_up()
    found = told(system)
    assert (found.status, len(found.fingerprints)) == ("listed", 1)
    assert "disk.qcow2 was withdrawn; it is deleted after 2026-11-24T10:00:00+00:00" in found.reasons[0].sentence
    withdraw.restore(system.store, parse_key(f"{PATH}/disk.qcow2"), pause)
    system.catch_up()
    assert len(told(system).fingerprints) == 2


@pytest.mark.parametrize("clients", [("incus", "lxd"), ("lxd",), ("incus",)])
def test_the_status_of_a_listed_version_names_the_clients_that_see_it(clients: tuple[str, ...]) -> None:
    system = System(clients=clients)
    system.upload(PATH, images.split_image())
    system.catch_up()
    assert told(system).clients == list(clients)


def test_another_upload_under_the_name_of_a_withdrawn_file_is_listed(system: System) -> None:
    withdraw.withdraw(system.store, parse_key(f"{PATH}/rootfs.squashfs"), START, 24, pause)
    system.catch_up()
    assert told(system).status == "incomplete"
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("another")})
    system.catch_up()
    assert told(system).status == "listed"


def test_withdrawing_an_unknown_version_is_refused(system: System) -> None:
    nothing = withdraw.Changed()
    for path in ("images/ubuntu/none/amd64/default", f"{VERSION.product.path}/20200101_00:00", f"{PATH}/none.qcow2"):
        target = parse_target(path)
        assert path_of(target) == path
        assert withdraw.withdraw(system.store, target, START, 24, pause) == nothing
        assert withdraw.restore(system.store, target, pause) == nothing


def test_a_withdrawal_that_loses_a_race_restarts_from_fresh_reads(system: System) -> None:
    raced: list[str] = []

    def digest_is_faster(method: str, key: str) -> None:
        if method == "replace" and not raced:
            raced.append(key)
            system.upload(PATH, {"disk.qcow2": images.qcow2()})
            system.ingest(PATH)

    system.store.on = digest_is_faster
    withdraw.withdraw(system.store, VERSION, START, 24, pause)
    record = records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key)
    assert record.withdrawn
    assert "disk.qcow2" in record.files


def test_a_withdrawal_that_loses_every_race_raises_catalog_busy(system: System) -> None:
    system.store.replace = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(CatalogBusy):
        withdraw.withdraw(system.store, VERSION, START, 24, pause)


def test_an_ingest_that_lost_to_a_withdrawal_does_not_undo_it(system: System) -> None:
    """What it learned about a file before stays good; that the file is withdrawn is newer."""
    raced: list[str] = []

    def withdrawn_meanwhile(method: str, key: str) -> None:
        if method == "replace" and key == VERSION.record_key and not raced:
            raced.append(key)
            withdraw.withdraw(system.store, parse_key(f"{PATH}/rootfs.squashfs"), START, 24, pause)

    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.store.on = withdrawn_meanwhile
    system.ingest(PATH)
    record = records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key)
    assert record.files["rootfs.squashfs"].withdrawn
    assert record.files["disk.qcow2"].sha256


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_version_has_no_status() -> None:
    store = MemoryStore()
    assert status.look(store, DocumentCache(store), VERSION) is None


def test_files_without_a_record_are_incomplete() -> None:
    system = System()
    system.upload(PATH, {"lxd.tar.xz": b"x"})
    assert told(system).status == "incomplete"
    assert told(system).files == {"lxd.tar.xz": FileStatus(size=1, uploaded_at=system.store.clock.isoformat())}
    assert "has arrived and is about to be looked at" in told(system).reasons[0].sentence


def test_an_invalid_version_with_a_new_upload_is_incomplete_again(system: System) -> None:
    path = f"{VERSION.product.path}/20261125_10:00"
    system.upload(path, {"lxd.tar.xz": b"nonsense"})
    system.catch_up()
    assert (told(system, path).status, status.is_terminal(told(system, path))) == ("invalid", True)
    system.upload(path, images.split_image(seed="mended"))
    assert (told(system, path).status, status.is_terminal(told(system, path))) == ("incomplete", False)
    system.catch_up()
    assert told(system, path).status == "listed"


def test_a_published_version_with_a_new_file_is_published_and_not_terminal(system: System) -> None:
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    assert (told(system).status, status.is_terminal(told(system))) == ("listed", False)
    assert told(system).reasons[-1].sentence == "disk.qcow2 has arrived and is about to be looked at"


def test_a_version_is_complete_until_it_is_listed() -> None:
    system = System()
    system.upload(PATH, images.split_image())
    system.ingest(PATH)
    assert told(system).status == "complete"
    assert "is complete and about to be listed" in told(system).reasons[0].sentence
    system.publish(VERSION.product)
    assert told(system).status == "listed"
    assert told(system).aliases == ["ubuntu/noble/amd64/default", "ubuntu/noble/default", "ubuntu/noble"]


def test_a_new_file_of_a_listed_version_waits_until_the_catalog_has_it(system: System) -> None:
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.ingest(PATH)
    assert (told(system).status, status.is_terminal(told(system))) == ("listed", False)
    assert told(system).reasons[-1].sentence == "disk.qcow2 is complete and about to be listed"
    system.publish(VERSION.product)
    assert status.is_terminal(told(system))


def test_new_content_of_a_listed_file_waits_until_the_catalog_has_its_digest(system: System) -> None:
    """Whatever publish has seen of it meanwhile: here it has seen nothing."""
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("another")})
    system.ingest(PATH)
    assert told(system).reasons[-1].sentence == "rootfs.squashfs is complete and about to be listed"
    system.publish(VERSION.product)
    assert status.is_terminal(told(system))


def test_a_root_listed_by_another_product_is_not_awaited(system: System) -> None:
    first = "images/alpine/edge/amd64/default/20261123_10:00"
    metadata = system.store.objects[f"{PATH}/lxd.tar.xz"].body
    system.upload(first, {"lxd.tar.xz": metadata, "disk.qcow2": images.qcow2("shared")})
    system.upload(PATH, {"disk.qcow2": images.qcow2("shared")})
    system.catch_up()
    assert (told(system).status, status.is_terminal(told(system))) == ("listed", True)
    assert any("the same image as one that alpine:edge:amd64:default lists" in r.sentence for r in told(system).reasons)


def test_a_version_without_a_root_names_the_file_to_upload() -> None:
    system = System()
    system.upload(PATH, {"lxd.tar.xz": images.metadata_tarball()})
    system.catch_up()
    assert told(system).status == "incomplete"
    assert "waits for a root: upload rootfs.squashfs" in told(system).reasons[0].sentence


def test_a_complete_version_that_the_catalog_cannot_list_is_withheld_with_the_reason(system: System) -> None:
    wrong_form = f"{VERSION.product.path}/20261121"
    system.upload(wrong_form, images.split_image(seed="third"))
    system.catch_up()
    assert told(system, wrong_form).status == "withheld"
    assert "is named YYYYMMDD, expected YYYYMMDD_HH:MM" in told(system, wrong_form).reasons[-1].sentence


def test_the_same_image_twice_is_withheld_and_names_the_product_that_lists_it(system: System) -> None:
    again = "images/ubuntu/zesty/amd64/default/20261123_10:00"
    system.upload(again, images.split_image(seed="new"))
    system.catch_up()
    assert told(system, again).status == "withheld"
    assert "the same image as one that ubuntu:noble:amd64:default lists" in told(system, again).reasons[0].sentence
    (reason,) = told(system).reasons
    assert (reason.kind, told(system).status) == ("warning", "listed")
    assert reason.sentence.startswith(
        "ubuntu:zesty:amd64:default/20261123_10:00/rootfs.squashfs is a copy of this image"
    )


def test_a_listed_version_names_the_root_and_the_alias_that_others_have_as_errors(system: System) -> None:
    part = "images/ubuntu/zesty/amd64/default/20261123_10:00"
    claim = {"metadata.json": b'{"aliases": "ubuntu/noble"}'}
    files = images.split_image(seed="new") | claim | {"disk.qcow2": images.qcow2("own")}
    system.upload(part, files)
    system.catch_up()
    found = told(system, part)
    assert found.status == "listed"
    assert [(reason.kind, reason.file) for reason in found.reasons] == [("error", "rootfs.squashfs"), ("error", "")]
    assert "ubuntu:noble:amd64:default" in found.reasons[0].sentence
    assert found.reasons[1].sentence == "the alias ubuntu/noble is taken by ubuntu:noble:amd64:default"
    (alias, copy) = [reason.sentence for reason in told(system).reasons]
    assert alias == (
        "ubuntu:zesty:amd64:default asks for the alias ubuntu/noble too; it stays with ubuntu:noble:amd64:default"
    )
    assert "is a copy of this image" in copy


def test_the_catalog_is_reread_only_when_it_changed(system: System) -> None:
    cache = DocumentCache(system.store)
    status.look(system.store, cache, VERSION)
    system.store.log.clear()
    status.look(system.store, cache, VERSION)
    assert ("read", "streams/v1/images.json") not in system.store.log
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.catch_up()
    found = status.look(system.store, cache, VERSION)
    assert found
    assert len(found.fingerprints) == 2


def test_waiting_ends_with_a_change_or_at_the_requested_time() -> None:
    passed = 0.0
    looks = 0

    def tick(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    def look() -> VersionStatus:
        nonlocal looks
        looks += 1
        return VersionStatus(path=PATH, status=State.LISTED if looks == 4 else State.INCOMPLETE, reasons=[], files={})

    found = status.wait(look, lambda s: s.status == "incomplete", lambda: passed, lambda _: 20, tick)
    assert found
    assert (found.status, looks) == ("listed", 4)
    looks = 10
    passed = 0.0
    found = status.wait(look, lambda s: s.status == "incomplete", lambda: passed, lambda _: 20, tick)
    assert found
    assert found.status == "incomplete"
    assert 19 <= passed <= 20


@pytest.mark.parametrize(
    ("age_s", "hold_s", "again_s"),
    [(0, 25, 1), (59, 25, 1), (60, 5, 30), (90, 5, 45), (120, 5, 60), (86_400, 5, 60)],
)
def test_a_long_wait_is_held_shorter_and_retried_later(age_s: int, hold_s: float, again_s: int) -> None:
    system = System()
    system.upload(PATH, {"lxd.tar.xz": b"x"})
    now = system.store.clock + timedelta(seconds=age_s)
    assert (status.hold_s(told(system), now), status.ask_again_s(told(system), now)) == (hold_s, again_s)


def test_a_new_file_restarts_the_wait_and_a_terminal_version_is_held_as_requested(system: System) -> None:
    later = system.store.clock + timedelta(days=1)
    assert (status.hold_s(told(system), later), status.ask_again_s(told(system), later)) == (25, 0)
    assert status.hold_s(None, later) == 25
    system.store.clock = later
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    assert (status.hold_s(told(system), later), status.ask_again_s(told(system), later)) == (25, 1)


def test_publishers_behind_a_long_queue_occupy_few_concurrent_executions() -> None:
    """Each asks as scripts/upload does, for 300 s, and nothing is listed; infra/SCALE.md has the figures."""
    system = System()
    system.upload(PATH, {"lxd.tar.xz": b"x"})
    waiting, now = told(system), system.store.clock
    end, held_s, requests = now + timedelta(seconds=300), 0.0, 0

    def tick(seconds: float) -> None:
        nonlocal now
        now += timedelta(seconds=seconds)

    def ask(wait_s: float) -> float:
        began = now

        def passed_s() -> float:
            return (now - began).total_seconds()

        def longest(found: VersionStatus | None) -> float:
            return min(wait_s, status.hold_s(found, now))

        status.wait(lambda: waiting, lambda _: True, passed_s, longest, tick)
        return passed_s()

    while now < end:
        held_s, requests = held_s + ask(min(20, (end - now).total_seconds())), requests + 1
        tick(min(status.ask_again_s(waiting, now), (end - now).total_seconds()))
    requests += 1  # the last look
    a_second = 1.4
    assert (round(held_s * a_second), round(requests * a_second)) == (106, 11)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_text_form_of_a_single_upload_is_a_curl_config() -> None:
    headers = {
        "Content-Length": "5",
        "Content-Type": "application/octet-stream",
        "Cache-Control": "public, max-age=31536000, immutable",
        "If-Match": '"abc"',
    }
    upload = Single(path=f"{PATH}/disk.qcow2", size=5, url="https://b/k?x=%3A", headers=headers, expires_at="then")
    assert text.render(upload) == (
        f"# upload single 5 {PATH}/disk.qcow2\n"
        "# expires then\n"
        'request = "PUT"\n'
        'url = "https://b/k?x=%3A"\n'
        'header = "Content-Type: application/octet-stream"\n'
        'header = "Cache-Control: public, max-age=31536000, immutable"\n'
        'header = "If-Match: \\"abc\\""\n'
    )


def test_the_text_form_of_a_multipart_upload_lists_the_uploaded_parts() -> None:
    upload = Multipart(
        path=f"{PATH}/disk.qcow2",
        size=7,
        upload_id="id",
        part_size=4,
        parts=[
            PartPlan(number=1, offset=0, size=4, etag='"e1"'),
            PartPlan(number=2, offset=4, size=3, url="https://b/2"),
        ],
        complete=Signed(method="POST", url="https://b/c", headers={"If-None-Match": "*"}),
        abort=Signed(method="DELETE", url="https://b/a", headers={}),
        expires_at="then",
    )
    assert text.render(upload) == (
        f"# upload multipart 7 {PATH}/disk.qcow2\n# expires then\n# upload-id id\n"
        '# part 1 0 4 "e1"\n# part 2 4 3\nurl = "https://b/2"\n'
        '# complete\nrequest = "POST"\nurl = "https://b/c"\nheader = "If-None-Match: *"\n'
        '# abort\nrequest = "DELETE"\nurl = "https://b/a"\n'
    )


def test_line_breaks_in_a_reason_are_removed_from_the_text_form() -> None:
    problem = Problem(problems.INVALID, "a\nproblem forbidden\n b")
    assert problem.text() == "problem invalid\ndetail a problem forbidden b\n"
    several = Problem(problems.INVALID, "first (1 more)", refusals=[{"detail": "first"}, {"detail": "second"}])
    assert several.text() == "problem invalid\ndetail first\ndetail second\n"


# ── the description ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_description_resolves_all_its_references() -> None:
    described = document()

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

    names = {ref.removeprefix("#/components/schemas/") for ref in references(described)}
    assert names
    assert names <= described["components"]["schemas"].keys()


def test_the_depth_of_a_path_decides_its_target() -> None:
    assert parse_target(PATH) == VERSION
    assert parse_target(VERSION.product.path) == parse_product(VERSION.product.path)
    assert parse_target(f"{PATH}/x") == parse_key(f"{PATH}/x")


def test_the_description_has_exactly_the_routes_of_the_template_and_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routes = {
        f"{method.upper()} {path.replace('{path}', '{path+}')}"
        for path, methods in document()["paths"].items()
        for method in methods
    }
    template = Path(__file__).resolve().parents[2] / "infra/template.yaml"
    wiring = read_wiring(template, {}, Place("uploads", "us-east-1"), "http://127.0.0.1:1")
    assert {f"{route.method} {route.path}" for route in wiring.routes} == routes
    monkeypatch.setenv("BUCKET", "bucket")
    from imageserver.handlers import uploads

    assert {*uploads.ROUTES, "GET /openapi.json"} == routes
