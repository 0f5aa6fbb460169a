"""Read and write the results that checks post about a version."""

from collections.abc import Collection
from datetime import datetime

from imageserver.errors import NotPassed, NoVersion
from imageserver.format.keys import VersionId, parse_version
from imageserver.operations.inventory import record_of
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store, write
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.versions.records import Record
from imageserver.views.checks import (
    CHECKS,
    Result,
    Results,
    decode_results,
    encode_results,
    fingerprints_of,
    missing,
    results_key,
    with_result,
)


def results_of(store: Store, version: VersionId) -> Results | None:
    """Return the results of a version, or None if no check has posted any. Raise CatalogDamaged."""
    found = store.read(results_key(version))
    return decode_results(found.body, version) if found else None


def post_result(
    store: Store,
    version: VersionId,
    name: str,
    *,
    passed: bool,
    tested: Collection[str],
    url: str,
    now: datetime,
    by: str,
    pause: Pause,
) -> Result:
    """Store the result of a check. `tested` are the fingerprints that it launched, `by` is the caller that posts it.

    Raise InvalidView, also if the version has other fingerprints now, and CatalogBusy, CatalogDamaged.
    """
    key = results_key(version)

    def attempt() -> Result:
        seen = store.read(key)
        before = decode_results(seen.body, version) if seen else Results(version=version.path)
        result = Result(
            passed=passed,
            at=now.isoformat(timespec="seconds"),
            by=by,
            tested=tuple(sorted(set(tested))),
            fingerprints=tuple(sorted(fingerprints_of(_existing(store, version)))),
            url=url,
        )
        body = encode_results(with_result(before, name, result))
        if write(store, key, body, seen) is None:
            raise RaceLost
        return result

    return retry(key, attempt, pause)


def results_below(store: Store, folder: str) -> dict[str, Results]:
    """Return the results of the versions at or below a folder, keyed by the version's path. Raise CatalogDamaged."""
    keys = [info.key for info in store.list(f"{CHECKS}{folder}")]
    versions = [parse_version(key.removeprefix(CHECKS).removesuffix(".json")) for key in keys]
    found = zip(versions, in_parallel(store.read, keys), strict=True)
    return {version.path: decode_results(seen.body, version) for version, seen in found if seen}


def demand(store: Store, version: VersionId, required: Collection[str]) -> None:
    """Raise NotPassed unless a version has passed these checks with the bytes that it has now."""
    if not required:
        return
    results = results_of(store, version)
    if lacking := missing(results, required, fingerprints_of(_existing(store, version))):
        raise NotPassed(version.path, lacking)


def delete_results(store: Store, version: VersionId) -> None:
    """Delete the results of a version that is gone. A check that posts at this moment wins, and its result may stay.

    That is harmless, because a result counts only for its fingerprints.
    """
    if seen := store.read(results_key(version)):
        store.delete(results_key(version), seen.revision)


def _existing(store: Store, version: VersionId) -> Record:
    record = record_of(store, version)
    if record is None:
        raise NoVersion(f"there is no {version.path}, or it has not been read yet")
    return record
