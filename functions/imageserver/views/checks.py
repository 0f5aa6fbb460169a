"""Results that checks have posted about a version, and whether a channel may show it.

A check is a job outside of this server, such as one that boots the image. Its result counts only for the
bytes that were checked: it holds the fingerprints that the version had, and other bytes have other fingerprints.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from imageserver.catalog.candidates import candidate
from imageserver.errors import CatalogDamaged, InvalidView, OtherState
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import VersionId
from imageserver.format.wording import quoted
from imageserver.versions.records import Record

CHECKS: Final = "private/checks/"
"""Where the results are stored, one document for each version. Nothing below `private/` is ever served."""
SCHEMA: Final = 1
MOST_RESULTS: Final = 50
LONGEST_URL: Final = 1000
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_URL: Final = re.compile(r"https?://[!-~]+")


class Result(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a check posted last: whether the version passed, when (ISO 8601, UTC), and who posted it.

    `tested` are the fingerprints that it launched, `fingerprints` all that the version had. `url` leads to its run.
    """

    passed: bool
    at: str
    by: str
    tested: tuple[str, ...]
    fingerprints: tuple[str, ...]
    url: str = ""


class Results(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The last result of each check of one version; `version` is its path."""

    version: str
    results: dict[str, Result] = {}
    schema: int = SCHEMA


_encoder = msgspec.json.Encoder(order="sorted")


def results_key(version: VersionId) -> str:
    """Return the key of the document with a version's results."""
    return f"{CHECKS}{version.path}.json"


def check_name(name: str) -> str:
    """Return the name of a check. Raise InvalidView if it cannot be one."""
    if not _NAME.fullmatch(name):
        raise InvalidView(
            f"{quoted(name, 80)} cannot be the name of a check, expected 1 to 63 of a-z, 0-9 and `-`, not `-` first"
        )
    return name


def fingerprints_of(record: Record) -> frozenset[str]:
    """Return every fingerprint under which clients may know a version, from its record alone."""
    return candidate(record.id.product, [record], ALL_CLIENTS).fingerprints


def with_result(results: Results, name: str, result: Result) -> Results:
    """Return the results with one more, which replaces an earlier one of the same check. Raise InvalidView."""
    check_name(name)
    _check(results.version, result)
    after = {**results.results, name: result}
    if len(after) > MOST_RESULTS:
        raise InvalidView(f"{results.version} has results of {MOST_RESULTS} checks, which is the most that it may have")
    return replace(results, results=after)


def missing(results: Results | None, required: Iterable[str], fingerprints: Collection[str]) -> dict[str, str]:
    """Return the required checks that a version has not passed, each with why. No result means not passed."""
    found = results.results if results else {}
    reasons = {name: _not_passed(found.get(name), fingerprints) for name in sorted(set(required))}
    return {name: why for name, why in reasons.items() if why}


def counts(result: Result, fingerprints: Collection[str]) -> bool:
    """Return whether a result is about the bytes that a version has now."""
    return bool(fingerprints) and set(result.fingerprints) == set(fingerprints)


def encode_results(results: Results) -> bytes:
    """Return the bytes of the document."""
    return _encoder.encode(results)


def decode_results(body: bytes, version: VersionId) -> Results:
    """Read the document. Raise CatalogDamaged: an unreadable one never passes for results."""
    key = results_key(version)
    try:
        found = msgspec.json.decode(body, type=Results)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CatalogDamaged(f"{key} cannot be read ({error}); delete it, and let the checks post again") from error
    if found.schema != SCHEMA:
        raise CatalogDamaged(f"{key} is of schema {found.schema}, expected {SCHEMA}; deploy the newer release again")
    if found.version != version.path:
        raise CatalogDamaged(f"{key} is about {quoted(found.version, 200)}, expected {version.path}; delete it")
    return found


def _check(version: str, result: Result) -> None:
    if not result.tested:
        raise InvalidView("the result names no fingerprint; name those that were launched, so that it counts for them")
    if strangers := sorted(set(result.tested) - set(result.fingerprints)):
        now = ", ".join(sorted(result.fingerprints)) or "nothing that can be launched"
        raise OtherState(
            f"{version} does not have the fingerprint {quoted(strangers[0], 64)}, it has {now}: what was tested has "
            "other bytes; test it again"
        )
    if result.url and not (_URL.fullmatch(result.url) and len(result.url) <= LONGEST_URL):
        raise InvalidView(
            f"the address of the run is {quoted(result.url, 100)}, expected http:// or https:// and at most "
            f"{LONGEST_URL:,} characters without spaces"
        )


def _not_passed(result: Result | None, fingerprints: Collection[str]) -> str:
    if result is None:
        return "has no result"
    if not counts(result, fingerprints):
        return f"has a result of {result.at} about other bytes"
    if not result.passed:
        return f"failed on {result.at}" + (f" ({result.url})" if result.url else "")
    return ""
