"""Which version a channel points to: promotions, reversals, and versions that are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from imageserver.errors import InvalidView
from imageserver.format.keys import VersionId, parse_product
from imageserver.versions.records import Record
from imageserver.views.channels import (
    MOST_PROMOTIONS,
    expired,
    kept,
    promoted,
    selected,
    standing,
    taken_back,
    usable,
)
from imageserver.views.view import Promotion, View
from tests.support import images
from tests.support.memory_store import System
from tests.support.views import channel, view

NOBLE = parse_product("images/ubuntu/noble/amd64/default")
JAMMY = parse_product("images/ubuntu/jammy/amd64/default")
ONE, TWO, THREE = "20261121", "20261122", "20261123"


def there(*versions: str) -> dict[str, str]:
    """Return existing versions. The files of each arrived at noon of its day."""
    return {version: f"{version[:4]}-{version[4:6]}-{version[6:]}T12:00:00+00:00" for version in versions}


ALL = there(ONE, TWO, THREE)


def to(view: View, *versions: str) -> View:
    for version in versions:
        view = promoted(view, VersionId(NOBLE, version), f"at {version}", "ann")
    return view


def test_a_channel_points_to_the_version_promoted_last() -> None:
    assert standing(channel(), NOBLE, there(ONE, TWO)) == []
    assert standing(to(channel(), TWO, ONE), NOBLE, there(ONE, TWO, THREE)) == [ONE, TWO]
    assert standing(to(channel(), TWO, ONE), JAMMY, there(ONE, TWO)) == []


def test_a_channel_skips_a_missing_version_until_it_returns() -> None:
    pointed = to(channel(), ONE, TWO)
    assert standing(pointed, NOBLE, there(ONE)) == [ONE]
    assert standing(pointed, NOBLE, there()) == []
    assert standing(pointed, NOBLE, there(ONE, TWO)) == [TWO, ONE]


def test_a_version_promoted_twice_is_shown_once() -> None:
    assert standing(to(channel(), ONE, TWO, ONE), NOBLE, there(ONE, TWO)) == [ONE, TWO]


def test_a_promotion_records_when_and_by_whom() -> None:
    assert to(channel(), ONE).channel == {NOBLE.path: (Promotion(version=ONE, at=f"at {ONE}", by="ann"),)}


def test_promoting_the_version_of_a_channel_changes_nothing() -> None:
    once = to(channel(), ONE)
    assert promoted(once, VersionId(NOBLE, ONE), "later", "bob") is once


def test_promoting_a_reverted_version_again_counts() -> None:
    back = taken_back(to(channel(), ONE, TWO), NOBLE, there(ONE, TWO), "then", "bob")
    assert standing(to(back, TWO), NOBLE, there(ONE, TWO)) == [TWO, ONE]


def test_back_goes_to_the_version_before_and_keeps_the_history() -> None:
    back = taken_back(to(channel(), ONE, TWO), NOBLE, there(ONE, TWO), "then", "bob")
    assert standing(back, NOBLE, there(ONE, TWO)) == [ONE]
    assert back.channel
    assert back.channel[NOBLE.path][1] == Promotion(
        version=TWO, at=f"at {TWO}", by="ann", back_at="then", back_by="bob"
    )
    assert standing(taken_back(back, NOBLE, there(ONE, TWO), "then", "bob"), NOBLE, there(ONE, TWO)) == []


def test_back_from_a_version_that_was_promoted_twice_takes_both_back() -> None:
    back = taken_back(to(channel(), ONE, TWO, ONE), NOBLE, there(ONE, TWO), "then", "bob")
    assert standing(back, NOBLE, there(ONE, TWO)) == [TWO]


def test_back_applies_to_the_version_shown_not_to_a_withdrawn_one_promoted_after_it() -> None:
    back = taken_back(to(channel(), ONE, TWO, THREE), NOBLE, there(ONE, TWO), "then", "bob")
    assert standing(back, NOBLE, there(ONE, TWO, THREE)) == [ONE]


def test_back_leaves_the_pointers_of_other_products() -> None:
    both = promoted(to(channel(), ONE), VersionId(JAMMY, TWO), "then", "ann")
    assert standing(taken_back(both, NOBLE, there(ONE), "then", "bob"), JAMMY, there(TWO)) == [TWO]


def test_a_reverted_version_keeps_its_first_date() -> None:
    first = taken_back(to(channel(), ONE, TWO, THREE), NOBLE, there(ONE, TWO, THREE), "first", "bob")
    again = taken_back(first, NOBLE, there(ONE, TWO, THREE), "again", "eve")
    assert again.channel
    assert [one.back_at for one in again.channel[NOBLE.path]] == ["", "again", "first"]


def test_a_channel_that_shows_nothing_cannot_go_back() -> None:
    with pytest.raises(InvalidView, match="shows nothing of images/ubuntu/noble/amd64/default"):
        taken_back(to(channel(), ONE), NOBLE, there(), "then", "bob")


def test_a_channel_remembers_its_newest_promotions() -> None:
    names = [f"202611{n:02}" for n in range(MOST_PROMOTIONS + 1)]
    made = to(channel(), *names)
    assert made.channel
    assert [one.version for one in made.channel[NOBLE.path]] == names[1:]


def test_a_channel_goes_back_to_a_good_version_however_many_were_taken_back_after_it() -> None:
    later = [f"20261124_10{n:02}" for n in range(3 * MOST_PROMOTIONS)]
    for made in (to(channel(), ONE), newest()):
        for number, name in enumerate(later, 1):
            there_now = there(ONE, *later[:number])
            made = taken_back(made if made.follows_newest else to(made, name), NOBLE, there_now, "then", "bob")
            assert standing(made, NOBLE, there_now) == [ONE]


def test_a_channel_that_follows_the_newest_forgets_what_is_no_longer_there() -> None:
    made = newest()
    for n in range(3 * MOST_PROMOTIONS):
        made = taken_back(made, NOBLE, there(ONE, f"20261124_10{n:02}"), "then", "bob")
    assert made.channel
    assert len(made.channel[NOBLE.path]) == MOST_PROMOTIONS


def test_a_version_outside_the_selection_of_a_channel_cannot_be_promoted_to_it() -> None:
    with pytest.raises(InvalidView, match="is not a channel"):
        promoted(view(streams=("images",)), VersionId(NOBLE, ONE), "", "")
    with pytest.raises(InvalidView, match=r"does not take .*, expected a product of images, filtered by ubuntu:jammy"):
        promoted(channel(only=("ubuntu:jammy",)), VersionId(NOBLE, ONE), "", "")
    with pytest.raises(InvalidView, match=r"does not take .*, expected a product of images-x or images-y"):
        taken_back(channel(streams=("images-x", "images-y")), NOBLE, there(ONE), "", "")


def test_retention_keeps_the_version_shown_and_the_one_before_it() -> None:
    stable, beta = to(channel(), ONE, TWO, THREE), to(channel("beta"), ONE)
    assert kept([stable], NOBLE, ALL) == {THREE: "stable", TWO: "stable"}
    assert kept([stable, beta], NOBLE, ALL) == {THREE: "stable", TWO: "stable", ONE: "beta"}
    assert kept([stable], JAMMY, ALL) == {}
    assert kept([replace(stable, streams=("images-x",))], NOBLE, ALL) == {}


def newest(**more: Any) -> View:
    return channel("testing", follows_newest=True, **more)


def test_a_channel_that_follows_the_newest_shows_it_without_a_promotion() -> None:
    assert standing(newest(), NOBLE, ALL) == [THREE, TWO, ONE]
    assert standing(newest(), NOBLE, there(ONE)) == [ONE]
    assert kept([newest()], NOBLE, ALL) == {THREE: "testing", TWO: "testing"}


def test_back_skips_the_newest_until_it_is_promoted_again() -> None:
    back = taken_back(newest(), NOBLE, ALL, "then", "bob")
    assert standing(back, NOBLE, ALL) == [TWO, ONE]
    again = promoted(back, VersionId(NOBLE, THREE), "later", "ann")
    assert standing(again, NOBLE, ALL) == [THREE, TWO, ONE]
    assert standing(taken_back(again, NOBLE, ALL, "at last", "bob"), NOBLE, ALL) == [TWO, ONE]


def test_nothing_is_promoted_to_a_channel_that_follows_the_newest() -> None:
    with pytest.raises(InvalidView, match="testing follows the newest version of each product by itself"):
        promoted(newest(), VersionId(NOBLE, TWO), "then", "ann")


WEEK = timedelta(days=7)
"""The expiry of the channels below. Each promotion is at noon of its version's day."""


def weekly(*versions: str) -> View:
    made = channel("beta", expire_after_s=int(WEEK.total_seconds()))
    for version in versions:
        made = promoted(made, VersionId(NOBLE, version), ALL[version], "ann")
    return made


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        ("2026-11-28T11:59:59+00:00", [THREE, TWO, ONE]),
        ("2026-11-28T12:00:00+00:00", [THREE, TWO]),
        ("2026-11-29T13:00:00+01:00", [THREE]),
        ("2026-11-30T12:00:00+00:00", []),
    ],
)
def test_a_version_leaves_a_channel_at_its_expiry(now: str, shown: list[str]) -> None:
    for made in (weekly(ONE, TWO, THREE), newest(expire_after_s=int(WEEK.total_seconds()))):
        over = expired(made, datetime.fromisoformat(now))
        assert standing(over, NOBLE, ALL) == shown
        assert list(kept([over], NOBLE, ALL)) == shown[:2]
        assert standing(made, NOBLE, ALL) == [THREE, TWO, ONE], "no clock is in a fold"


def test_a_promotion_brings_back_a_version_that_left_the_channel() -> None:
    over = expired(weekly(ONE), datetime(2026, 12, 1, tzinfo=UTC))
    again = promoted(over, VersionId(NOBLE, ONE), "2026-12-02T12:00:00+00:00", "bob")
    assert standing(again, NOBLE, ALL) == [ONE]
    assert standing(expired(again, datetime(2026, 12, 9, 12, tzinfo=UTC)), NOBLE, ALL) == []


def test_a_promotion_of_a_version_that_is_due_to_leave_counts_before_it_has_left() -> None:
    made, version = weekly(ONE), VersionId(NOBLE, ONE)
    assert promoted(made, version, "2026-11-28T11:59:59+00:00", "bob") is made
    again = promoted(made, version, "2026-11-28T12:00:00+00:00", "bob")
    assert standing(expired(again, datetime(2026, 11, 28, 13, tzinfo=UTC)), NOBLE, ALL) == [ONE]


def test_a_version_that_left_a_channel_does_not_return_with_an_earlier_clock() -> None:
    over = expired(weekly(ONE), datetime(2026, 12, 1, tzinfo=UTC))
    assert expired(over, datetime(2026, 11, 1, tzinfo=UTC)) is over
    assert expired(channel(), datetime(2026, 12, 1, tzinfo=UTC)) == channel()


@pytest.fixture
def records() -> list[Record]:
    """Return the records of two complete versions and one without a root."""
    server = System()
    for version in (ONE, TWO):
        server.upload(f"{NOBLE.path}/{version}", images.split_image(seed=version))
    server.upload(f"{NOBLE.path}/{THREE}", {"rootfs.squashfs": images.squashfs("x")})
    return [record(server, version) for version in (ONE, TWO, THREE)]


def record(server: System, version: str) -> Record:
    found = server.ingest(f"{NOBLE.path}/{version}").record
    assert found
    return found


def test_a_version_can_be_shown_while_it_is_complete(records: list[Record]) -> None:
    assert usable(records).keys() == {ONE, TWO}


def test_a_version_counts_from_the_last_file_of_its_image_not_from_a_later_delta(records: list[Record]) -> None:
    files = records[0].files
    root, delta = "rootfs.squashfs", f"rootfs.{ONE}.vcdiff"
    later = {
        root: replace(files[root], modified="2026-11-25T10:00:00.5+00:00"),
        delta: replace(files[root], modified="2026-11-26T10:00:00+00:00"),
    }
    assert usable([replace(records[0], files={**files, **later})])[ONE] == "2026-11-25T10:00:00.5+00:00"


def test_a_version_that_is_dated_ahead_of_its_upload_cannot_be_shown() -> None:
    server = System()
    server.upload(f"{NOBLE.path}/20270101", images.split_image())
    assert usable([record(server, "20270101")]) == {}


def test_a_view_selects_all_records_and_a_channel_the_one_that_it_points_to(records: list[Record]) -> None:
    everything = view(streams=("images",))
    assert selected(everything, NOBLE, records) == records
    assert selected(view(streams=("images-x",)), NOBLE, records) == []
    assert selected(channel(), NOBLE, records) == []
    assert selected(newest(), NOBLE, records) == [records[1]]
    assert selected(newest(only=("debian",)), NOBLE, records) == []
    assert selected(to(channel(), ONE, TWO), NOBLE, records) == [records[1]]
    assert selected(to(channel(), ONE, THREE), NOBLE, records) == [records[0]]
