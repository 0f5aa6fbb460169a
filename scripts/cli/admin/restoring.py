"""Bring deleted images back: a copy of the last generation that the bucket keeps, over nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import click

from cli.admin.importing import AlreadyThere, Copy, File, create
from cli.admin.looking import is_below
from cli.admin.place import Place
from imageserver.errors import InvalidUpload
from imageserver.format.keys import RECORDS, parse_key, version_of
from imageserver.versions import records

INSTEAD = {"streams": "admin rebuild catalog", RECORDS.rstrip("/"): "admin rebuild records"}


def check(path: str) -> None:
    """A usage error when the path is of no image: everything, or a document; it says what makes that again."""
    first = path.strip("/").partition("/")[0]
    if not first:
        raise click.UsageError(f"{path!r} is no path of images, expected images/… or one without its stream")
    if first in INSTEAD:
        # An old catalog, or an old record that publish then folds, names files that may be gone: never served.
        raise click.UsageError(f"{path} is made from what lies below it, and an old one may be wrong: {INSTEAD[first]}")


def deleted(place: Place, path: str) -> list[File]:
    """What is deleted at a path and below it: the last generation of each key whose newest is a delete marker."""
    gone: set[str] = set()
    last: dict[str, File] = {}
    for page in _generations(place, path.rstrip("/")):
        gone |= {marker["Key"] for marker in page.get("DeleteMarkers", ()) if marker["IsLatest"]}
        for found in page.get("Versions", ()):  # newest first
            again = Copy(place.s3, place.bucket, found["Key"], found["ETag"], found["VersionId"])
            last.setdefault(found["Key"], File(found["Key"], found["Size"], again))
    return [last[key] for key in sorted(gone & last.keys()) if is_below(key, path)]


def bring_back(place: Place, files: list[File], advance: Callable[[int], Any]) -> list[str]:
    """Copy each; the keys where something is by now, which was left as it is."""
    there = []
    for file in files:
        try:
            create(place, file, advance)
        except AlreadyThere:
            there.append(file.key)
    return there


def being_deleted(place: Place, files: list[File]) -> list[str]:
    """The versions among these whose deletion has begun and not ended: what came back would be deleted again."""
    versions = {version_of(file.key) for file in files if _is_upload(file.key)}
    found = []
    for version in sorted(versions):
        seen = place.store.read(version.record_key)
        record = records.decode(seen.body, version.record_key) if seen else None
        if record and any(one.final for one in _withdrawals(record)):
            found.append(version.path)
    return found


def _withdrawals(record: records.Record) -> Iterator[records.Withdrawal]:
    yield from filter(None, (record.withdrawn, *(facts.withdrawn for facts in record.files.values())))


def _is_upload(key: str) -> bool:
    try:
        parse_key(key)
    except InvalidUpload:  # in no version, so in no record
        return False
    return True


def _generations(place: Place, path: str) -> Iterator[dict[str, Any]]:
    pages: Iterator[dict[str, Any]] = iter(
        place.s3.get_paginator("list_object_versions").paginate(Bucket=place.bucket, Prefix=path)
    )
    return pages
