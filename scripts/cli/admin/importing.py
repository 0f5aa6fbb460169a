"""Adopt an existing tree: a folder, or another bucket."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boto3.s3.transfer import TransferConfig

from cli.admin.place import Place
from simplestreams import items
from simplestreams.errors import RejectedUpload
from simplestreams.items import Role
from simplestreams.keys import parse_key

PART: Final = 64 << 20
CONTENT_TYPE: Final = "application/octet-stream"


@dataclass(frozen=True)
class File:
    """One file of the tree. `copy` sends it to the server's bucket; `key` is where it goes."""

    key: str
    size_bytes: int
    copy: Callable[[Any, str, Callable[[int], None]], None]


@dataclass(frozen=True)
class Plan:
    """What an import comes to. `refused` and `taken` say why for each file that is left out."""

    files: list[File]
    refused: list[str]
    taken: list[str]
    already: int

    @property
    def is_empty(self) -> bool:
        """Whether the tree holds nothing at all, not even what is left out."""
        return not (self.files or self.refused or self.taken or self.already)

    @property
    def size_bytes(self) -> int:
        """How much there is to send."""
        return sum(file.size_bytes for file in self.files)


def plan(place: Place, found: Iterator[File]) -> Plan:
    """Compare a tree with the server. A file that is there with the same size was sent by an earlier run."""
    there = {info.key: info.size_bytes for info in place.store.list("images")}
    result = Plan([], [], [], 0)
    already = 0
    for file in found:
        try:
            parse_key(file.key)
        except RejectedUpload as refusal:
            result.refused.append(str(refusal))
            continue
        if file.key not in there:
            result.files.append(file)
        elif there[file.key] == file.size_bytes:
            already += 1
        else:
            result.taken.append(f"{file.key} is there with {there[file.key]:,} bytes, here it has {file.size_bytes:,}")
    ordered = sorted(result.files, key=_order)
    return Plan(ordered, result.refused, result.taken, already)


def folder(root: Path) -> Iterator[File]:
    """The files below `images*` of a folder; the catalog and the records of another server are not taken over."""
    for path in sorted(root.glob("images*/**/*")):
        if path.is_file():
            yield File(path.relative_to(root).as_posix(), path.stat().st_size, _Upload(path))


def bucket(s3: Any, address: str) -> Iterator[File]:
    """The objects below `images*` of `s3://bucket/prefix`."""
    name, _, prefix = address.removeprefix("s3://").partition("/")
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=f"{prefix}images"):
        for found in page.get("Contents", ()):
            yield File(found["Key"].removeprefix(prefix), found["Size"], _Copy(name, found["Key"]))


def deleted(place: Place, below: str) -> list[File]:
    """What is deleted below a path: the last generation of each key whose newest one is a delete marker."""
    gone: set[str] = set()
    last: dict[str, File] = {}
    for page in place.s3.get_paginator("list_object_versions").paginate(Bucket=place.bucket, Prefix=below):
        gone |= {marker["Key"] for marker in page.get("DeleteMarkers", ()) if marker["IsLatest"]}
        for found in page.get("Versions", ()):  # newest first
            again = _Copy(place.bucket, found["Key"], found["VersionId"])
            last.setdefault(found["Key"], File(found["Key"], found["Size"], again))
    return [last[key] for key in sorted(gone & last.keys())]


def _order(file: File) -> tuple[str, bool, str]:
    """Version by version, metadata last: a root that is there before its metadata is read once, with it."""
    parsed = parse_key(file.key)
    return parsed.version.path, items.classify(parsed.file).role is Role.METADATA, parsed.file


@dataclass(frozen=True)
class _Upload:
    path: Path

    def __call__(self, place: Place, key: str, advance: Callable[[int], None]) -> None:
        about = {"ContentType": CONTENT_TYPE}
        config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
        place.s3.upload_file(str(self.path), place.bucket, key, ExtraArgs=about, Callback=advance, Config=config)


@dataclass(frozen=True)
class _Copy:
    bucket: str
    key: str
    generation: str = ""

    def __call__(self, place: Place, key: str, advance: Callable[[int], None]) -> None:
        source = {"Bucket": self.bucket, "Key": self.key}
        about: dict[str, str] = {}  # what an object says of itself comes along when it is brought back
        if self.generation:
            source["VersionId"] = self.generation
        else:
            about = {"ContentType": CONTENT_TYPE, "MetadataDirective": "REPLACE"}
        config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
        place.s3.copy(source, place.bucket, key, ExtraArgs=about, Callback=advance, Config=config)
