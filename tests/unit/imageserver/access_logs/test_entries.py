"""What is read from a line of an access log, and what is not kept."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from imageserver.access_logs.clients import Client
from imageserver.access_logs.entries import Entry, File, Parser, UnreadableLine
from tests.support.edge_logs import ADDRESS, CHOSEN, LEGACY, PRODUCT, ROOT, VERSION, header, line

TOKEN = f"sst_{'a' * 32}"
MAC = "A" * 22
COLON = f"{PRODUCT}/20261123_10:00"
SQUASHFS = File(VERSION, "squashfs", is_delta=False)


def parsed(text: bytes, fields: Sequence[str] = LEGACY) -> Entry:
    parser = Parser()
    assert [parser.parse(one) for one in header(fields)] == [None, None]
    entry = parser.parse(text)
    assert entry is not None
    return entry


def test_a_legacy_line_has_no_country_and_one_of_version_2_has_one() -> None:
    fields = {
        "file": SQUASHFS, "status": 200, "size_bytes": 1000, "is_hit": True, "client": Client("lxd", "5.21.3"),
        "moment": "2026-11-27T10:11:12Z", "is_start": True, "is_cut": False, "location": "FRA",
    }  # fmt: skip
    assert msgspec.structs.asdict(parsed(line())) == {**fields, "country": ""}
    assert msgspec.structs.asdict(parsed(line(CHOSEN), CHOSEN)) == {**fields, "country": "DE"}


def test_fields_may_come_in_any_order_and_unknown_ones_are_ignored() -> None:
    fields = ["asn", *reversed(CHOSEN), "cs-new"]
    assert parsed(line(fields), fields) == parsed(line(CHOSEN), CHOSEN)


def test_fields_may_be_separated_by_spaces() -> None:
    assert parsed(line(CHOSEN).replace(b"\t", b" "), CHOSEN) == parsed(line(CHOSEN), CHOSEN)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        (f"/{ROOT}", SQUASHFS),
        (f"/signed/{MAC}/{ROOT}", SQUASHFS),
        (f"/{TOKEN}/signed/{MAC}/{ROOT}", SQUASHFS),
        (f"/{TOKEN}/{ROOT}", SQUASHFS),
        (f"/stable/signed/{MAC}/{ROOT}", SQUASHFS),
        (f"/stable/{ROOT}", SQUASHFS),
        (f"/{VERSION}/lxd.tar.xz", File(VERSION, "", is_delta=False)),
        (f"/{VERSION}/meta-0123.tar.xz", File(VERSION, "", is_delta=False)),
        (f"/{VERSION}/SHA256SUMS", File(VERSION, "", is_delta=False)),
        (f"/{VERSION}/disk.qcow2", File(VERSION, "disk-kvm.img", is_delta=False)),
        (f"/{VERSION}/lxd_combined.tar.gz", File(VERSION, "lxd_combined.tar.gz", is_delta=False)),
        (f"/{VERSION}/rootfs.20261122_1000.vcdiff", File(VERSION, "squashfs", is_delta=True)),
        (f"/{VERSION}/disk.20261122_1000.qcow2.vcdiff", File(VERSION, "disk-kvm.img", is_delta=True)),
        (f"/{COLON}/root.tar.xz", File(COLON, "root.tar.xz", is_delta=False)),
        (f"/{COLON.replace(':', '%3A')}/root.tar.xz", File(COLON, "root.tar.xz", is_delta=False)),
        (f"/{COLON.replace(':', '%253A')}/root.tar.xz", File(COLON, "root.tar.xz", is_delta=False)),
        ("/streams/v1/images.json", None),
        (f"/{TOKEN}/streams/v1/images.json", None),
        ("/", None),
        (f"/x/y/{ROOT}", None),
        (f"/{PRODUCT}/20269923_1000/rootfs.squashfs", None),
        (f"/versions/{VERSION}.json", None),
        ("/%ff%00/../..", None),
    ],
)  # fmt: skip
def test_a_path_names_a_file_of_a_version_in_any_catalog(path: str, file: File | None) -> None:
    assert parsed(line(cs_uri_stem=path)).file == file


@pytest.mark.parametrize(
    ("values", "is_fetch", "is_start"),
    [
        ({}, True, True),
        ({"sc_status": "206", "sc_range_start": "0"}, True, True),
        ({"sc_status": "206"}, True, True),  # a log without the field: each range may be the first
        ({"sc_status": "206", "sc_range_start": "1048576"}, True, False),
        ({"cs_method": "HEAD"}, False, True),
        ({"sc_status": "304"}, False, True),
        ({"sc_status": "403"}, False, True),
        ({"sc_status": "404"}, False, True),
        ({"sc_status": "416", "sc_range_start": "9"}, False, False),
        ({"sc_status": "503"}, False, True),
        ({"sc_status": "000"}, False, True),
    ],
)
def test_a_fetch_is_a_get_answered_with_bytes_and_only_its_first_range_starts_it(
    values: dict[str, str], is_fetch: bool, is_start: bool
) -> None:
    entry = parsed(line(**values))
    assert (entry.file is not None, entry.is_start) == (is_fetch, is_start)


@pytest.mark.parametrize(
    ("result", "is_hit"),
    [("Hit", True), ("RefreshHit", True), ("OriginShieldHit", True), ("Miss", False), ("Error", None), ("-", None),
     ("LimitExceeded", None), ("FunctionGeneratedResponse", None)],
)  # fmt: skip
def test_a_result_without_a_cache_lookup_is_neither_hit_nor_miss(result: str, is_hit: bool | None) -> None:
    assert parsed(line(x_edge_result_type=result)).is_hit is is_hit


def test_fewer_bytes_than_the_length_of_the_body_is_a_cut_download() -> None:
    assert parsed(line(sc_bytes="599", sc_content_len="600")).is_cut
    assert not parsed(line(sc_bytes="600", sc_content_len="600")).is_cut
    assert not parsed(line(sc_bytes="1", sc_content_len="-")).is_cut
    assert not parsed(line(sc_bytes="1", sc_content_len="9" * 5000)).is_cut


@pytest.mark.parametrize(
    ("values", "country", "location"),
    [({"c_country": "-"}, "", "FRA"), ({"c_country": "Germany", "x_edge_location": "-"}, "", ""),
     ({"c_country": "ch", "x_edge_location": "12"}, "", "")],
)  # fmt: skip
def test_an_invalid_country_or_edge_location_is_unknown(values: dict[str, str], country: str, location: str) -> None:
    entry = parsed(line(CHOSEN, **values), CHOSEN)
    assert (entry.country, entry.location) == (country, location)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([line()], "comes before any known #Fields"),
        ([*header(), b"GET /"], "has more or fewer values than #Fields names"),
        ([*header(), line() + b"\tx"], "has more or fewer values than #Fields names"),
        ([*header(), line(sc_status=ADDRESS)], "has something other than a number as sc-status"),
        ([*header(), line(sc_bytes="-1")], "has something other than a number as sc-bytes"),
        ([*header(), line(sc_bytes="9" * 19)], "has something other than a number as sc-bytes"),
        ([*header(), line(sc_bytes="²")], "has something other than a number as sc-bytes"),
        ([*header(["asn", "c-ip"]), line(["asn", "c-ip"])], "comes before any known #Fields"),
        ([*header(["date", "c-ip"]), line(["date", "c-ip"])], "is in a log without the field cs-method"),
        ([*header(["sc-status", "c-ip"]), line(["sc-status", "c-ip"])], "is in a log without the field cs-method"),
    ],
)
def test_the_error_for_an_unreadable_line_gives_a_reason_and_quotes_nothing(lines: list[bytes], why: str) -> None:
    parser = Parser()
    for one in lines[:-1]:
        parser.parse(one)
    with pytest.raises(UnreadableLine) as refused:
        parser.parse(lines[-1])
    assert str(refused.value) == why
    assert ADDRESS not in str(refused.value)


def test_an_entry_keeps_no_ip_address_token_or_query() -> None:
    entry = parsed(line(
        cs_uri_stem=f"/{TOKEN}/signed/{MAC}/{ROOT}", cs_uri_query="password=x", agent=f"curl/8.5.0%20{ADDRESS}",
    ))  # fmt: skip
    assert entry.file == SQUASHFS
    for secret in (ADDRESS, TOKEN, MAC, "password", "8.5.0"):
        assert secret not in repr(entry)


def test_blank_lines_are_not_requests_and_windows_line_ends_are_harmless() -> None:
    parser = Parser()
    for one in header():
        parser.parse(one)
    assert parser.parse(b"") is None
    assert parser.parse(line() + b"\r") == parsed(line())
