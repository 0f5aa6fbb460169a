"""Requests that are refused before anything is signed."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from imageserver.api import problems, uploads
from imageserver.api.problems import Problem
from imageserver.api.schema import BatchFile, BatchRequest, FileRequest
from imageserver.catalog.rights import Rights
from imageserver.storage.presigned import S3Uploads
from tests.support.memory_store import MemoryStore

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
NOBLE = "images/ubuntu/noble/amd64/default"


class Signing(MemoryStore):
    """A bucket that signs by naming the key."""

    def sign(self, operation: str, key: str, *_: object, **__: Any) -> str:
        return f"{operation} {key}"


def service(now: datetime = NOW) -> uploads.UploadService:
    rights = Rights.parse('{"ci": ["images/ubuntu/"]}')
    return uploads.UploadService(
        cast("S3Uploads", Signing()), rights, 1 << 40, allow_overwrites=False, now=now, pause=lambda _: None
    )


AHEAD = ["99991231_2359", "20991231", "20261124_10:01", "202611241001", "20261125.3"]
NEAR = ["20261124_10:00", "20261124_1000", "20261124.9", "20261123", "20160101_00:00"]


@pytest.mark.parametrize("version", AHEAD)
def test_a_version_more_than_a_day_ahead_of_the_clock_is_refused(version: str) -> None:
    one = FileRequest(path=f"{NOBLE}/{version}/rootfs.squashfs", size=9)
    with pytest.raises(Problem, match=f"the version {version} is dated ahead, expected 20261123 in UTC") as refused:
        uploads.sign_one(service(), "ci", one)
    assert refused.value.kind is problems.INVALID
    batch = BatchRequest(version=f"{NOBLE}/{version}", files=[BatchFile(file="rootfs.squashfs", size=9)])
    with pytest.raises(Problem, match="is dated ahead"):
        uploads.sign_batch(service(), "ci", batch)


@pytest.mark.parametrize("version", NEAR)
def test_a_version_dated_today_or_long_ago_or_in_another_time_zone_is_signed(version: str) -> None:
    one = FileRequest(path=f"{NOBLE}/{version}/rootfs.squashfs", size=9)
    assert uploads.sign_one(service(), "ci", one).size == 9


def test_a_version_that_is_refused_today_is_signed_on_its_own_day() -> None:
    one = FileRequest(path=f"{NOBLE}/20261125_1200/rootfs.squashfs", size=9)
    assert uploads.sign_one(service(NOW + timedelta(days=2)), "ci", one).size == 9
