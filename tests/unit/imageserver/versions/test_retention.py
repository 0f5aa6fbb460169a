"""Which versions retention removes: never the newest that is listed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from imageserver.format.keys import VersionId, parse_product
from imageserver.inspection.overrides import Overrides
from imageserver.versions.assessment import new_record
from imageserver.versions.records import FileFacts, Record
from imageserver.versions.retention import Rule, expired
from tests.support import images

PRODUCT = "images/ubuntu/noble/amd64/default"
ID = parse_product(PRODUCT)
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


def complete(name: str, overrides: Overrides | None = None) -> Record:
    """Return a record of a unified tarball, which is listed unless something else prevents it."""
    facts = FileFacts(etag="e", size_bytes=1, modified=NOW.isoformat(), sha256=images.sha256_hex(name.encode()))
    files = {"lxd_combined.tar.gz": facts}
    if overrides:
        files["metadata.json"] = FileFacts(
            etag="o", size_bytes=1, modified=NOW.isoformat(), sha256="0" * 64, overrides=overrides
        )
    return new_record(VersionId(ID, name), files, None)


DAYS = [f"202611{day:02d}" for day in (1, 5, 10, 15, 20)]


@pytest.mark.parametrize(
    ("rule", "listed", "gone"),
    [
        (Rule(), DAYS, []),
        (Rule(versions=2), DAYS, ["20261101", "20261105", "20261110"]),
        (Rule(versions=9), DAYS, []),
        (Rule(days=9), DAYS, ["20261101", "20261105", "20261110"]),
        (Rule(days=13), DAYS, ["20261101", "20261105", "20261110"]),
        (Rule(days=14), DAYS, ["20261101", "20261105"]),
        (Rule(versions=4, days=14), DAYS, ["20261101", "20261105"]),
        (Rule(versions=1, days=1), DAYS, ["20261101", "20261105", "20261110", "20261115"]),
        (Rule(versions=1), ["20261105"], ["20261101", "20261110", "20261115"]),
        (Rule(days=1), [], ["20261101", "20261105", "20261110", "20261115"]),
    ],
)
def test_retention_removes_the_oldest_and_never_the_newest_listed_version(
    rule: Rule, listed: Sequence[str], gone: list[str]
) -> None:
    plan = expired([complete(name) for name in reversed(DAYS)], listed, rule, NOW)
    assert [version.version for version, _ in plan] == gone
    assert all(" kept" in reason for _, reason in plan)


@pytest.mark.parametrize(
    ("keeps", "reason"),
    [(1, "1 newer version is there, and 1 is kept"), (2, "2 newer versions are there, and 2 are kept")],
)
def test_the_reason_counts_one_version_and_several(keeps: int, reason: str) -> None:
    plan = expired([complete(name) for name in DAYS], DAYS, Rule(versions=keeps), NOW)
    assert plan[-1][1] == reason


def test_a_product_can_override_its_retention() -> None:
    known = [complete("20261101"), complete("20261105"), complete("20261110", Overrides(retain_versions=2))]
    assert [v.version for v, _ in expired(known, DAYS, Rule(versions=1), NOW)] == ["20261101"]
    known[-1] = complete("20261110", Overrides(retain_versions=0, retain_days=0))
    assert expired(known, DAYS, Rule(versions=1, days=1), NOW) == []
    known[-1] = complete("20261110", Overrides(retain_days=15))
    assert [v.version for v, _ in expired(known, DAYS, Rule(), NOW)] == ["20261101", "20261105"]


def test_withdrawn_and_incomplete_versions_do_not_count_for_retention() -> None:
    half = new_record(VersionId(ID, "20261120"), {"rootfs.squashfs": FileFacts(
        etag="e", size_bytes=1, modified=NOW.isoformat())}, None)  # fmt: skip
    assert expired([complete("20261101"), half], ["20261101"], Rule(versions=1), NOW) == []


def test_an_unlisted_version_never_expires_a_listed_one() -> None:
    """A date far ahead, from two typing errors; and a name of another form, which is also withheld."""
    real = [complete(name) for name in DAYS[-2:]]
    for names in (["20991231"], ["20991231", "20261125"], ["99991231", "20271123"], ["202611221000", "202611221100"]):
        assert expired([*real, *map(complete, names)], DAYS[-2:], Rule(versions=2), NOW) == [], names
    assert expired([*real, complete("99991231")], DAYS[-2:], Rule(days=9), NOW) == []


def test_a_version_dated_ahead_does_not_set_the_retention_of_its_product() -> None:
    known = [complete("20261101"), complete("20261120"), complete("20991231", Overrides(retain_versions=1))]
    assert expired(known, ["20261101", "20261120"], Rule(), NOW) == []
