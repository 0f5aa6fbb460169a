"""How many files a version may have, and which are refused beyond that."""

from __future__ import annotations

from imageserver.versions.limits import Limits, refuse_surplus
from imageserver.versions.records import FileFacts

LIMITS = Limits(files=3)


def facts(second: int, refusal: str = "") -> FileFacts:
    return FileFacts(etag="e", size_bytes=1, modified=f"2026-11-23T10:00:{second:02d}+00:00", refusal=refusal)


def refused(files: dict[str, FileFacts], known: dict[str, FileFacts]) -> set[str]:
    return {file for file, found in refuse_surplus(files, known, LIMITS).items() if found.fault == "too-large"}


def test_as_many_files_as_a_version_may_have_are_accepted() -> None:
    assert refused({name: facts(1) for name in ("a.squashfs", "b.squashfs", "lxd.tar.xz")}, {}) == set()


def test_files_that_clients_know_take_precedence_and_then_the_earliest_uploads() -> None:
    files = {"a.squashfs": facts(9), "b.squashfs": facts(2), "lxd.tar.xz": facts(3), "build.log": facts(1)}
    assert refused(files, {}) == {"build.log"}
    assert refused({**files, "c.squashfs": facts(4)}, {}) == {"build.log", "a.squashfs"}


def test_a_recorded_file_keeps_its_place_even_when_overwritten() -> None:
    known = {name: facts(1) for name in ("x.log", "y.log", "lxd.tar.xz")}
    files = {**known, "lxd.tar.xz": facts(9), "a.squashfs": facts(2)}
    assert refused(files, known) == {"a.squashfs"}


def test_a_refused_file_does_not_count_towards_the_limit() -> None:
    known = {"x.squashfs": facts(1, "is damaged"), "y.log": facts(1), "lxd.tar.xz": facts(1)}
    assert refused({**known, "a.squashfs": facts(2)}, known) == set()


def test_the_reason_names_the_limit_and_who_sets_it() -> None:
    files = {f"{letter}.squashfs": facts(1) for letter in "abcd"}
    refusal = refuse_surplus(files, {}, LIMITS)["d.squashfs"].refusal
    assert refusal == (
        "is not read: the version has 3 files, which is the most it may have (the operator sets MaxFiles); delete what "
        "it does not need, and upload this file again"
    )
