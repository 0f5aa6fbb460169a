"""Results of checks: for which bytes they count, and which are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogDamaged, InvalidView
from imageserver.format.keys import parse_version
from imageserver.views.checks import (
    LONGEST_URL,
    MOST_RESULTS,
    Result,
    Results,
    check_name,
    counts,
    decode_results,
    encode_results,
    missing,
    results_key,
    with_result,
)
from tests.support import images
from tests.support.memory_store import System
from tests.support.views import fingerprints

VERSION = parse_version("images/ubuntu/noble/amd64/default/20261123_1000")
ONE, TWO = "1" * 64, "2" * 64
RESULT = Result(passed=True, at="2026-11-27T10:00:00+00:00", by="ci", tested=(ONE,), fingerprints=(ONE, TWO))
NONE = Results(version=VERSION.path)


def test_results_are_read_back_as_they_were_written() -> None:
    results = with_result(with_result(NONE, "boots", RESULT), "cve-scan", replace(RESULT, passed=False, url="http://x"))
    assert decode_results(encode_results(results), VERSION) == results
    assert results_key(VERSION) == "private/checks/images/ubuntu/noble/amd64/default/20261123_1000.json"


def test_the_last_result_of_a_check_is_the_one_that_counts() -> None:
    failed = replace(RESULT, passed=False)
    assert with_result(with_result(NONE, "boots", RESULT), "boots", failed).results == {"boots": failed}


@pytest.mark.parametrize(
    ("results", "now", "why"),
    [
        (None, {ONE, TWO}, {"boots": "has no result"}),
        (with_result(NONE, "other", RESULT), {ONE, TWO}, {"boots": "has no result"}),
        (with_result(NONE, "boots", RESULT), {ONE, TWO}, {}),
        (
            with_result(NONE, "boots", RESULT),
            {ONE},
            {"boots": "has a result of 2026-11-27T10:00:00+00:00 about other bytes"},
        ),
        (
            with_result(NONE, "boots", RESULT),
            {ONE, "3" * 64},
            {"boots": "has a result of 2026-11-27T10:00:00+00:00 about other bytes"},
        ),
        (
            with_result(NONE, "boots", replace(RESULT, passed=False)),
            {ONE, TWO},
            {"boots": "failed on 2026-11-27T10:00:00+00:00"},
        ),
        (
            with_result(NONE, "boots", replace(RESULT, passed=False, url="https://ci/1")),
            {ONE, TWO},
            {"boots": "failed on 2026-11-27T10:00:00+00:00 (https://ci/1)"},
        ),
    ],
)
def test_a_check_is_passed_only_by_a_result_for_the_same_bytes(
    results: Results | None, now: set[str], why: dict[str, str]
) -> None:
    assert missing(results, ["boots"], now) == why
    assert missing(results, [], now) == {}


def test_each_missing_check_is_named_once() -> None:
    assert list(missing(None, ["scan", "boots", "scan"], {ONE})) == ["boots", "scan"]


def test_no_result_counts_for_a_version_without_an_image() -> None:
    assert not counts(replace(RESULT, tested=(), fingerprints=()), set())


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("Boots", {}, "cannot be the name of a check"),
        ("", {}, "cannot be the name of a check"),
        ("b" * 64, {}, "cannot be the name of a check"),
        ("boots", {"tested": ()}, "names no fingerprint"),
        ("boots", {"tested": ("3" * 64,)}, f"does not have the fingerprint '{'3' * 64}', it has {ONE}, {TWO}"),
        ("boots", {"fingerprints": ()}, "it has nothing that can be launched"),
        ("boots", {"url": "javascript:alert(1)"}, "expected http:// or https://"),
        ("boots", {"url": "https://a b"}, "without spaces"),
        ("boots", {"url": "https://" + "a" * LONGEST_URL}, "at most 1,000 characters"),
    ],
)
def test_an_invalid_result_is_refused(name: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidView, match=sentence):
        with_result(NONE, name, replace(RESULT, **change))


def test_a_version_has_a_bounded_number_of_results() -> None:
    full = Results(version=VERSION.path, results={f"c{n}": RESULT for n in range(MOST_RESULTS)})
    assert with_result(full, "c0", RESULT) == full
    with pytest.raises(InvalidView, match=f"results of {MOST_RESULTS} checks"):
        with_result(full, "one-more", RESULT)


@pytest.mark.parametrize("name", ["boots", "cve-scan", "b" * 63, "0"])
def test_the_name_of_a_check_has_the_form_of_a_view_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "cannot be read"),
        (b'{"version": "x", "results": {"boots": {"passed": "yes"}}}', "cannot be read"),
        (msgspec.json.encode(replace(NONE, schema=2)), "is of schema 2, expected 1"),
        (msgspec.json.encode(replace(NONE, version="images/a")), "is about 'images/a', expected images/ubuntu"),
    ],
)
def test_an_unreadable_document_is_damaged_and_never_read_as_passed_or_failed(body: bytes, sentence: str) -> None:
    with pytest.raises(CatalogDamaged, match=sentence):
        decode_results(body, VERSION)


def test_the_fingerprints_of_a_version_are_the_ones_clients_see() -> None:
    server = System()
    server.upload(VERSION.path, images.split_image())
    server.ingest(VERSION.path)
    metadata, root = (server.store.objects[f"{VERSION.path}/{name}"].body for name in ("lxd.tar.xz", "rootfs.squashfs"))
    assert fingerprints(server, VERSION.path) == {images.sha256_hex(metadata + root)}
