"""Reading records of another release, and from another server."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogDamaged, NewerRecord
from imageserver.versions import records
from imageserver.versions.assessment import assess
from imageserver.versions.records import FileFacts, Record, Withdrawal, once
from imageserver.versions.withdrawal import applies_to

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
KEY = f"versions/{PATH}.json"


@pytest.mark.parametrize(
    "body",
    [
        b'{"schema": 2, "version": "%s"}' % PATH.encode(),
        b'{"schema": 2, "version": {"path": "another shape"}}',
        b'{"schema": 99}',
    ],
)
def test_a_record_of_a_newer_release_is_distinguished_from_a_damaged_one(body: bytes) -> None:
    with pytest.raises(NewerRecord, match=rf"{KEY} is a record of schema \d+, expected schema 1 at most"):
        records.decode(body, KEY)


@pytest.mark.parametrize(
    "body",
    [b"", b"{torn", b"[]", b"7", b'{"schema": 1}', b'{"schema": "2"}', b'{"schema": 2', b"[" * 100_000, b"\xff\xfe"],
    ids=repr,
)
def test_an_object_that_is_not_a_record_is_damaged(body: bytes) -> None:
    with pytest.raises(CatalogDamaged) as damage:
        records.decode(body, KEY)
    assert not isinstance(damage.value, NewerRecord)


@pytest.mark.parametrize("time", ["soon", "2026-11-23T10:00:00", "2026-13-01T00:00:00+00:00"])
@pytest.mark.parametrize("time_field", ["modified", "since", "delete_after"])
def test_a_record_with_an_invalid_time_is_damaged(time_field: str, time: str) -> None:
    """One such record would stop the rendering of its whole product."""
    right = "2026-11-23T10:00:00+00:00"
    times = {"modified": right, "since": right, "delete_after": right} | {time_field: time}
    withdrawn = Withdrawal(times["since"], times["delete_after"])
    facts = FileFacts(etag="1", size_bytes=1, modified=times["modified"], withdrawn=withdrawn)
    with pytest.raises(CatalogDamaged, match="is not a record"):
        records.decode(records.encode(Record(version=PATH, files={"rootfs.squashfs": facts})), KEY)


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_can_be_compared(year: str) -> None:
    facts = FileFacts(etag="1", size_bytes=1, modified=f"{year}T00:00:00+00:00")
    record = Record(version=PATH, files={"rootfs.squashfs": facts})
    assert assess(records.decode(records.encode(record), KEY)).state == "incomplete"


def test_a_record_under_another_key_is_damaged() -> None:
    body = records.encode(Record(version=PATH))
    assert records.decode(body, KEY).version == PATH
    with pytest.raises(CatalogDamaged, match=r"is a record for .*, expected one for its own path"):
        records.decode(body, KEY.replace("noble", "jammy"))


PENDING = Withdrawal("2026-11-23T10:00:00+00:00", "2026-11-24T10:00:00+00:00", "does not boot")
FINAL = Withdrawal(PENDING.since, PENDING.delete_after, PENDING.reason, final=True)


@pytest.mark.parametrize(
    ("of_version", "of_file", "size", "expected"),
    [
        (None, None, 10, None),
        (PENDING, None, 10, PENDING),
        (PENDING, None, 11, PENDING),  # of the version: it covers every file
        (FINAL, None, 10, FINAL),
        (FINAL, None, 11, None),  # uploaded since the deletion began
        (None, PENDING, 10, PENDING),
        (None, PENDING, 11, None),  # another upload starts over
        (None, FINAL, 10, FINAL),
        (FINAL, PENDING, 11, None),
    ],
)
def test_a_withdrawal_applies_to_the_files_in_the_record(
    of_version: Withdrawal | None, of_file: Withdrawal | None, size: int, expected: Withdrawal | None
) -> None:
    facts = FileFacts(etag='"1"', size_bytes=10, modified=PENDING.since, withdrawn=of_file)
    record = Record(version=PATH, files={"rootfs.squashfs": facts}, withdrawn=of_version)
    assert applies_to(record, "rootfs.squashfs", size) == expected


@pytest.mark.parametrize(("withdrawal", "expected"), [(PENDING, PENDING), (FINAL, None), (None, None)])
def test_a_file_missing_from_the_record_is_covered_by_the_withdrawal_of_its_version(
    withdrawal: Withdrawal | None, expected: Withdrawal | None
) -> None:
    assert applies_to(Record(version=PATH, withdrawn=withdrawal), "disk.qcow2", 10) == expected


def test_an_origin_is_read_back_from_the_metadata_of_an_object() -> None:
    origin = records.Origin("images.example.net", (("a" * 64, "b" * 64),), "ab" * 20)
    assert records.decode_origin(records.encode_origin(origin)) == origin
    assert records.encode_origin(records.Origin("bücher.example")).isascii()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "{}",
        '{"host": ""}',
        '{"host": "h", "signed_by": "nobody"}',
        '{"host": "h", "combined": [["short", "b"]]}',
        "[" * 5000,
    ],
)
def test_an_invalid_origin_reads_as_none(text: str) -> None:
    assert records.decode_origin(text) is None


def test_derived_values_are_computed_once_for_each_record_and_again_for_a_copy() -> None:
    asked: list[Record] = []

    @once
    def rule(record: Record) -> int:
        """Return something."""
        asked.append(record)
        return len(record.files)

    empty = Record(version=PATH)
    full = replace(empty, files={"x": FileFacts(etag="1", size_bytes=1, modified="")})
    assert [rule(empty), rule(empty), rule(full), rule(full)] == [0, 0, 1, 1]
    assert asked == [empty, full]
    assert rule.__doc__ == "Return something."
    assert records.encode(full) == records.encode(replace(full)), "what is kept is no part of a record"
    assert full == replace(full)
    assert assess(full) is assess(full)
