"""What a mirror copies and what it delists, product by product."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from imageserver.format.keys import VersionId, parse_product, parse_version
from imageserver.inspection.overrides import Overrides
from imageserver.upstream.filters import parse_filter
from imageserver.upstream.mapping import UpstreamFile, UpstreamVersion
from imageserver.upstream.mirrors import HeldVersion, SeenDocument
from imageserver.upstream.plan import LocalProduct, ProductPlan, Rules, plan_product, refusal_of, seen

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
GRACE = timedelta(days=7)
LONG_AGO = (NOW - GRACE).isoformat()
LATELY = (NOW - GRACE + timedelta(seconds=1)).isoformat()
NOBLE = parse_product("images/ubuntu/noble/amd64/cloud")
D1, D2, D3 = (f"{NOBLE.path}/2026110{day}" for day in (1, 2, 3))
SIZES = {"lxd.tar.xz": 10, "rootfs.squashfs": 100, "disk.qcow2": 1_000}


def upstream(*paths: str, overrides: Overrides | None = None) -> list[UpstreamVersion]:
    return [
        UpstreamVersion(
            f"ubuntu:noble:amd64:cloud/{path.rpartition('/')[2]}",
            parse_version(path),
            tuple(UpstreamFile(f"{path}/{file}", f"{path}/{file}", "a" * 64, size) for file, size in SIZES.items()),
            overrides or Overrides(),
        )
        for path in paths
    ]


def files(*paths: str, **other: int) -> dict[str, int]:
    return {f"{path}/{file}": size for path in paths for file, size in {**SIZES, **other}.items()}


def planned(
    versions: list[UpstreamVersion],
    here: Mapping[str, int],
    held: Mapping[str, HeldVersion],
    *,
    only: str = "all",
    keep: int | None = None,
    listed: Collection[str] | None = None,
    withdrawn: Collection[str] = (),
    of_others: Collection[str] = (),
    most_bytes: int | None = None,
) -> ProductPlan:
    """Plan; every version with files here is listed unless `listed` names those that are."""
    there = LocalProduct(here, LocalProduct(here, ()).versions if listed is None else listed, withdrawn, of_others)
    rules = Rules([parse_filter(only)], keep, GRACE, most_bytes)
    return plan_product(NOBLE, versions, there, held, rules, NOW)


def ids(*paths: str) -> tuple[VersionId, ...]:
    return tuple(map(parse_version, paths))


def test_only_missing_files_are_copied() -> None:
    here = {**files(D1), f"{D2}/lxd.tar.xz": 10}
    plan = planned(upstream(D1, D2), here, {D1: HeldVersion(), D2: HeldVersion()})
    assert [file.key for file in plan.missing] == [f"{D2}/disk.qcow2", f"{D2}/rootfs.squashfs"]
    assert plan.size_bytes == 1_100
    assert plan.held == {D1: HeldVersion(), D2: HeldVersion()}
    assert (plan.delist, plan.relist, plan.left_out) == ((), (), ())


def test_a_file_that_digest_would_refuse_is_not_copied_but_its_neighbours_are() -> None:
    plan = planned(upstream(D1), {}, {}, most_bytes=999)
    assert {file.key for file in plan.missing} == {f"{D1}/lxd.tar.xz", f"{D1}/rootfs.squashfs"}
    (left,) = plan.left_out
    assert (left.name, left.product) == (f"{D1}/disk.qcow2", NOBLE)
    assert left.reason == "has 1,000 bytes upstream, expected at most 999 (MaxUploadBytes): not copied"
    assert planned(upstream(D1), {}, {}, most_bytes=1_000).left_out == ()


def test_a_version_whose_only_root_is_too_large_does_not_replace_an_older_one() -> None:
    old, new = upstream(D1)[0], upstream(D2)[0]
    small = tuple(file for file in old.files if not file.key.endswith("qcow2"))
    disk = tuple(file for file in new.files if not file.key.endswith("squashfs"))
    versions = [dataclasses.replace(old, files=small), dataclasses.replace(new, files=disk)]
    plan = planned(versions, {}, {}, keep=1, most_bytes=999)
    assert set(plan.held) == {D1}
    assert [left.name for left in plan.left_out] == [f"{D2}/disk.qcow2"]


def test_a_smaller_limit_delists_nothing_and_names_only_files_that_it_excludes() -> None:
    plan = planned(upstream(D1), files(D1), {D1: HeldVersion()}, most_bytes=1)
    assert (plan.held, plan.delist, plan.left_out) == ({D1: HeldVersion()}, (), ())
    assert planned(upstream(D1), {}, {}, only="ftype=squashfs", most_bytes=999).left_out == ()


def test_a_wider_filter_copies_only_what_is_missing() -> None:
    first = planned(upstream(D1), {}, {}, only="ftype=squashfs")
    assert {file.key for file in first.missing} == {f"{D1}/lxd.tar.xz", f"{D1}/rootfs.squashfs"}
    wider = planned(upstream(D1), {file.key: file.size_bytes for file in first.missing}, first.held)
    assert [file.key for file in wider.missing] == [f"{D1}/disk.qcow2"]


def test_a_locally_uploaded_version_is_not_changed() -> None:
    plan = planned(upstream(D1, D2), {f"{D1}/rootfs.squashfs": 5}, {})
    assert {file.key.rpartition("/")[0] for file in plan.missing} == {D2}
    assert list(plan.held) == [D2]
    (left_out,) = plan.left_out
    assert left_out.name == "ubuntu:noble:amd64:cloud/20261101"
    assert "did not come through this mirror" in left_out.reason


def test_a_locally_uploaded_version_is_never_delisted() -> None:
    assert not planned([], files(D1), {}).delist
    assert not planned(upstream(D2, D3), files(D1, D2, D3), {D2: HeldVersion(), D3: HeldVersion()}, keep=1).delist


def test_a_file_of_another_size_is_left_out_and_not_replaced() -> None:
    plan = planned(upstream(D1), {**files(D1), f"{D1}/disk.qcow2": 999}, {D1: HeldVersion()})
    assert not plan.missing
    assert [(one.name, one.reason) for one in plan.left_out] == [
        (f"{D1}/disk.qcow2", "has 999 bytes here, expected 1,000 as upstream's catalog says: it stays")
    ]


def test_overrides_are_copied_but_never_over_edited_ones() -> None:
    secure = Overrides(requirements={"secureboot": "false"}, support_eol="2029-05-31")
    plan = planned(upstream(D1, overrides=secure), {}, {})
    ((key, body),) = plan.overrides.items()
    assert key == f"{D1}/metadata.json"
    assert json.loads(body) == {"requirements": {"secureboot": "false"}, "support_eol": "2029-05-31"}
    assert not planned(upstream(D1, overrides=secure), {key: 2}, {D1: HeldVersion()}).overrides


def test_a_version_gone_from_upstream_stays_for_the_grace_time() -> None:
    first = planned(upstream(D2), files(D1, D2), {D1: HeldVersion(), D2: HeldVersion()})
    assert first.held[D1] == HeldVersion(NOW.isoformat())
    assert not first.delist
    assert not planned(upstream(D2), files(D1, D2), {D1: HeldVersion(LATELY), D2: HeldVersion()}).delist
    after = planned(upstream(D2), files(D1, D2), {D1: HeldVersion(LONG_AGO), D2: HeldVersion()})
    assert after.delist == ids(D1)
    assert after.held[D1] == HeldVersion(LONG_AGO, delisted=True)


def test_a_version_is_delisted_until_it_is_withdrawn_and_held_until_its_files_are_gone() -> None:
    """A run may end after it wrote its held versions and before it withdrew anything."""
    delisted = {D1: HeldVersion(LONG_AGO, delisted=True), D2: HeldVersion()}
    assert planned(upstream(D2), files(D1, D2), delisted).delist == ids(D1)
    again = planned(upstream(D2), files(D1, D2), delisted, withdrawn=[D1])
    assert not again.delist
    assert again.held == delisted
    assert planned(upstream(D2), files(D2), delisted).held == {D2: HeldVersion()}


def test_older_versions_than_the_newest_kept_ones_are_delisted() -> None:
    plan = planned(
        upstream(D1, D2, D3),
        files(D1, D2, D3),
        {D1: HeldVersion(LONG_AGO), D2: HeldVersion(), D3: HeldVersion()},
        keep=2,
    )
    assert plan.delist == ids(D1)


@pytest.mark.parametrize("here", [files(D1), files(D1, D2)], ids=["not copied", "copied and not listed"])
def test_an_old_version_stays_until_a_newer_one_is_listed(here: dict[str, int]) -> None:
    plan = planned(upstream(D1, D2), here, {D1: HeldVersion(LONG_AGO), D2: HeldVersion()}, keep=1, listed=[D1])
    assert not plan.delist
    assert plan.held[D1] == HeldVersion(LONG_AGO)


@pytest.mark.parametrize(("only", "versions"), [("all", []), ("debian", upstream(D1))], ids=["upstream", "filter"])
def test_a_product_gone_from_upstream_is_delisted_after_the_grace_time(
    only: str, versions: list[UpstreamVersion]
) -> None:
    assert not planned(versions, files(D1), {D1: HeldVersion()}, only=only).delist
    assert planned(versions, files(D1), {D1: HeldVersion(LONG_AGO)}, only=only).delist == ids(D1)


def test_a_version_that_returns_upstream_is_listed_again_without_a_copy() -> None:
    """It is planned until the record shows it, since a run may end before it restored anything."""
    delisted = {D1: HeldVersion(LONG_AGO, delisted=True)}
    plan = planned(upstream(D1), files(D1), delisted, withdrawn=[D1])
    assert plan.relist == ids(D1)
    assert not plan.missing
    assert planned(upstream(D1), files(D1), plan.held, withdrawn=[D1]).relist == ids(D1)
    restored = planned(upstream(D1), files(D1), plan.held)
    assert not restored.relist
    assert restored.held == {D1: HeldVersion()}


def test_a_version_that_returns_after_its_files_were_deleted_is_copied_again() -> None:
    plan = planned(upstream(D1), {}, {D1: HeldVersion(LONG_AGO, delisted=True)})
    assert len(plan.missing) == 3
    assert not plan.relist


def test_a_version_withdrawn_by_the_operator_is_not_listed_again() -> None:
    plan = planned(upstream(D1), files(D1), {D1: HeldVersion()}, withdrawn=[D1], listed=[])
    assert (plan.relist, plan.missing, plan.held) == ((), (), {D1: HeldVersion(refused=True)})


def test_a_version_withdrawn_by_the_operator_is_not_copied_again_after_its_files_are_deleted() -> None:
    """The same holds for retention: a mirror that keeps more than RetainVersions would otherwise copy it forever."""
    refused = {D1: HeldVersion(refused=True)}
    plan = planned(upstream(D1, overrides=Overrides(support_eol="2029-05-31")), {}, refused)
    assert (plan.missing, plan.overrides, plan.held) == ((), {}, refused)


def test_a_version_withdrawn_by_the_operator_while_gone_from_upstream_is_not_copied_again() -> None:
    gone = planned([], files(D1), {D1: HeldVersion(LATELY)}, withdrawn=[D1])
    assert gone.held == {D1: HeldVersion(LATELY, refused=True)}
    assert planned([], {}, gone.held).held == gone.held
    assert not planned(upstream(D1), {}, gone.held).missing


def test_a_version_restored_by_the_operator_belongs_to_the_mirror_again() -> None:
    plan = planned(upstream(D1), files(D1), {D1: HeldVersion(refused=True)})
    assert plan.held == {D1: HeldVersion()}


def test_an_old_version_stays_if_the_operator_withdrew_the_newer_one() -> None:
    held = {D1: HeldVersion(LONG_AGO), D2: HeldVersion()}
    assert not planned(upstream(D2), files(D1, D2), held, withdrawn=[D2], listed=[D1]).delist


def test_a_version_has_one_source() -> None:
    """With two mirrors of one stream, files of the other's versions may not have arrived yet."""
    plan = planned(upstream(D1, D2), {}, {}, of_others=[D1])
    assert {file.key.rpartition("/")[0] for file in plan.missing} == {D2}
    assert list(plan.held) == [D2]
    assert [one.reason for one in plan.left_out] == ["comes through another mirror: one version has one source"]


def test_a_version_without_any_file_yet_is_held_while_its_copy_may_still_arrive() -> None:
    assert planned([], {}, {D1: HeldVersion(LATELY)}).held == {D1: HeldVersion(LATELY)}
    assert planned([], {}, {D1: HeldVersion(LONG_AGO)}).held == {}


LAST = {"images.json": SeenDocument(10, "2026-11-20T12:00:00+00:00")}


@pytest.mark.parametrize(
    ("now", "quoted"),
    [
        ({}, "lists no image"),
        ({"images.json": SeenDocument(0)}, "lists no image"),
        ({"other.json": SeenDocument(10)}, "no longer has images.json, which had 10 versions"),
        ({"images.json": SeenDocument(4)}, "images.json has 4 versions, expected at least half of the 10"),
        ({"images.json": SeenDocument(4), "other.json": SeenDocument(90)}, "images.json has 4 versions"),
        ({"images.json": SeenDocument(10, "2026-11-20T12:59:59+01:00")}, "expected not before 2026-11-20T12"),
    ],
)
def test_an_implausible_upstream_is_refused(now: dict[str, SeenDocument], quoted: str) -> None:
    refusal = refusal_of(now, LAST)
    assert quoted in refusal
    assert refusal.endswith("nothing was removed")


@pytest.mark.parametrize(
    "now",
    [
        {"images.json": SeenDocument(5, "2026-11-20T12:00:00+00:00")},
        {"images.json": SeenDocument(11, "2026-11-20T13:00:00+01:00"), "more.json": SeenDocument(0)},
        {"images.json": SeenDocument(10)},
    ],
)
def test_an_upstream_that_moved_on_is_followed(now: dict[str, SeenDocument]) -> None:
    assert refusal_of(now, LAST) == ""
    assert refusal_of(now, {}) == ""
    assert refusal_of(now, {**LAST, "empty.json": SeenDocument(0)}) == ""


def test_a_date_ahead_of_the_clock_is_not_remembered() -> None:
    """Every later document would be older than it, and the mirror would stop forever."""
    document = b'{"products": {}, "updated": "%s"}'
    assert seen(document % b"2099-01-01T00:00:00Z", 3, "e", NOW) == SeenDocument(3, "", "e")
    assert seen(document % b"2026-11-27T11:00:00Z", 3, "e", NOW) == SeenDocument(3, "2026-11-27T11:00:00+00:00", "e")
    assert seen(b"{}", 3, "e", NOW) == SeenDocument(3, "", "e")
