"""The date of another server's document, in each form that servers write."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from imageserver.upstream.simplestreams import updated

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "Fri, 20 Nov 2026 12:00:00 +0000",
        "Fri, 20 Nov 2026 13:00:00 +0100",
        "Fri, 20 Nov 2026 12:00:00 -0000",
        "2026-11-20T12:00:00Z",
        "2026-11-20T14:00:00+02:00",
        "2026-11-20T12:00:00",
    ],
)
def test_a_date_is_read_in_each_form(text: str) -> None:
    assert updated(json.dumps({"products": {}, "updated": text}).encode()) == NOON


@pytest.mark.parametrize("value", [None, 7, "", "yesterday", ["2026-11-20"], "9999-12-31T23:59:59-23:00", "\ud800"])
def test_an_invalid_date_is_none(value: object) -> None:
    assert updated(json.dumps({"updated": value}).encode()) is None


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"[" * 100_000, b'{"updated": "\xff"}'])
def test_a_document_without_a_date_has_none(body: bytes) -> None:
    assert updated(body) is None
