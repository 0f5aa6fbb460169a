"""Adopt an existing tree: a folder, or another bucket. Everything is created, nothing is written over."""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from cli.admin.place import Place
from cli.admin.source_records import SourceRecords, Withdrawn, summed_up
from imageserver.errors import CatalogDamaged, InvalidUpload
from imageserver.format import file_kinds
from imageserver.format.caching import cache_control
from imageserver.format.file_kinds import Role
from imageserver.format.keys import ImageKey, VersionId, parse_key
from imageserver.storage.port import ObjectInfo
from imageserver.versions import records
from imageserver.versions.records import Withdrawal

PART: Final = 64 << 20
CONTENT_TYPE: Final = "application/octet-stream"
SOURCE_ETAG: Final = "source-etag"
"""Name of the user metadata in which a copy from another bucket says what it is a copy of: its own ETag may differ."""
_THERE: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})

Advance = Callable[[int], Any]


class AlreadyThere(Exception):
    """An object is where one should be created, or somebody else was creating it."""


class Source(Protocol):
    """Where the bytes of a file come from."""

    def create(self, place: Place, key: str, advance: Advance) -> None:
        """Make the object; ClientError 412 when there is one."""

    def is_same(self, place: Place, there: ObjectInfo, sha256: str) -> bool | None:
        """Whether an object of the same size, with this digest if it is known, is this file; None: nobody can tell."""


@dataclass(frozen=True)
class File:
    """One file of the tree; `key` is where it goes."""

    key: str
    size_bytes: int
    source: Source


@dataclass(frozen=True)
class Plan:
    """What an import comes to. `refused`, `taken` and `unknown` say why for each file that is left out.

    `withdrawn` stays out on purpose. `notes` are sentences about what comes along, or is here already.
    """

    files: list[File] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    already: list[File] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    withdrawn: list[Withdrawn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the tree holds nothing at all, not even what is left out."""
        return not (self.files or self.already or self.withdrawn or self.left_out)

    @property
    def left_out(self) -> list[str]:
        """Return a sentence for each file, or each version, that should come along and cannot."""
        return [*self.refused, *self.taken, *self.unknown]

    @property
    def size_bytes(self) -> int:
        """How much there is to send."""
        return sum(file.size_bytes for file in self.files)


def plan(
    place: Place,
    found: Iterator[File],
    told: Callable[[str], Any] = lambda _: None,
    source: SourceRecords | None = None,
) -> Plan:
    """Compare a tree with the server. `told` hears of each file that is read for it; `source`: the tree's records."""
    there = {info.key: info for info in place.store.list("images")}
    comparing, result = Comparing(place), Plan()
    for file in _not_withdrawn(result, found, source or SourceRecords(), there, comparing):
        if file.key not in there:
            result.files.append(file)
            continue
        told(file.key)
        _sort_in(result, file, comparing.difference(file, there[file.key]))
    result.files.sort(key=_order)
    return result


def _not_withdrawn(
    result: Plan, found: Iterator[File], source: SourceRecords, there: Container[str], comparing: "Comparing"
) -> Iterator[File]:
    """Yield the files that may be listed as far as the source says; put down what became of the others."""
    coming: list[ImageKey] = []
    withdrawn: list[tuple[ImageKey, Withdrawal]] = []
    unknown: Counter[VersionId] = Counter()
    for file in found:
        try:
            image = parse_key(file.key)
        except InvalidUpload as refusal:
            result.refused.append(str(refusal))
            continue
        if image.version in source.unreadable:
            unknown[image.version] += 1
            continue
        if withdrawal := source.withdrawal_of(image, file.size_bytes):
            withdrawn.append((image, withdrawal))
            if file.key in there and not comparing.is_withdrawn(image):
                result.notes.append(f"{file.key} is on this server already: admin withdraw {file.key} takes it off")
            continue
        coming.append(image)
        if file.key not in there and (sentence := source.refusal_of(image, file.size_bytes)):
            result.notes.append(f"{file.key} is not listed on the source ({sentence}); it is looked at anew here")
        yield file
    result.withdrawn.extend(summed_up(withdrawn, coming))
    for version, count in sorted(unknown.items()):
        what = f"{version.path} ({count} files): its record on the source {source.unreadable[version]}"
        result.unknown.append(f"{what}; until then nobody knows whether it was withdrawn")


def carry_out(place: Place, todo: Plan, advance: Advance) -> Plan:
    """Create what is to be created: `files` are those that were. What somebody put there meanwhile is compared."""
    comparing = Comparing(place)
    done = replace(todo, files=[], taken=list(todo.taken), already=list(todo.already))
    for file in todo.files:
        try:
            create(place, file, advance)
            done.files.append(file)
        except AlreadyThere:
            there = next((info for info in place.store.list(file.key) if info.key == file.key), None)
            other = f"{file.key} was being written by somebody else; run it again"
            _sort_in(done, file, comparing.difference(file, there) if there else other)
    return done


def create(place: Place, file: File, advance: Advance) -> None:
    """Make one object; AlreadyThere when there is one by now."""
    try:
        file.source.create(place, file.key, advance)
    except ClientError as error:
        if error.response["Error"].get("Code") in _THERE:
            raise AlreadyThere(file.key) from error
        raise


def _sort_in(result: Plan, file: File, difference: str) -> None:
    if difference:
        result.taken.append(difference)
    else:
        result.already.append(file)


class Comparing:
    """Whether files are what the server has under their keys. Reads each record once, and a file only if it must."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._records: dict[VersionId, records.Record | None] = {}

    def difference(self, file: File, there: ObjectInfo) -> str:
        """A sentence that says how they differ, or that nobody can tell; empty when they are the same."""
        if file.size_bytes != there.size_bytes:
            return f"{file.key} is there with {there.size_bytes:,} bytes, here it has {file.size_bytes:,}"
        known = self._sha256(file.key, there)
        same = file.source.is_same(self._place, there, known)
        if same:
            return ""
        if same is None:
            return (
                f"{file.key} is there with the same size and another ETag ({there.etag}); it was not compared, for the "
                "server has not read it: run it again when admin show has its sha256"
            )
        return f"{file.key} is there with the same size and sha256 {known}, here it has another: nothing was replaced"

    def is_withdrawn(self, image: ImageKey) -> bool:
        """Whether a file is withdrawn here too."""
        record = self._known(image.version)
        facts = record.files.get(image.file) if record else None
        return bool(record and record.withdrawn) or bool(facts and facts.withdrawn)

    def _sha256(self, key: str, there: ObjectInfo) -> str:
        """The digest of an object as its record has it; empty while it has none of this generation."""
        parsed = parse_key(key)
        record = self._known(parsed.version)
        facts = record.files.get(parsed.file) if record else None
        return facts.sha256 if facts and facts.etag == there.etag else ""

    def _known(self, version: VersionId) -> records.Record | None:
        if version not in self._records:
            self._records[version] = self._record(version)
        return self._records[version]

    def _record(self, version: VersionId) -> records.Record | None:
        seen = self._place.store.read(version.record_key)
        try:
            return records.decode(seen.body, version.record_key) if seen else None
        except CatalogDamaged:  # the doctor names it; here it only tells no digest
            return None


def folder(root: Path) -> Iterator[File]:
    """The files below `images*` of a folder; the catalog and the records of another server are not copied."""
    for path in sorted(root.glob("images*/**/*")):
        if path.is_file():
            yield File(path.relative_to(root).as_posix(), path.stat().st_size, Upload(path))


def address_of(address: str) -> tuple[str, str]:
    """Return the name of the bucket and the prefix of `s3://bucket/prefix`; a prefix ends in a slash."""
    name, _, prefix = address.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    return name, f"{prefix}/" if prefix else ""


def bucket(s3: Any, address: str) -> Iterator[File]:
    """The objects below `images*` of `s3://bucket/prefix`."""
    name, prefix = address_of(address)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=f"{prefix}images"):
        for found in page.get("Contents", ()):
            source = Copy(s3, name, found["Key"], found["ETag"])
            yield File(found["Key"].removeprefix(prefix), found["Size"], source)


def _transfer() -> TransferConfig:
    return TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)


def _order(file: File) -> tuple[str, bool, str]:
    """Version by version, metadata last: a root that is there before its metadata is read once, with it."""
    parsed = parse_key(file.key)
    return parsed.version.path, file_kinds.classify(parsed.file).role is Role.METADATA, parsed.file


@dataclass(frozen=True)
class Upload:
    """A file of this machine."""

    path: Path

    def create(self, place: Place, key: str, advance: Advance) -> None:
        about = {"ContentType": CONTENT_TYPE, "CacheControl": cache_control(key)}
        with self.path.open("rb") as body:
            place.creating_s3.upload_fileobj(
                body, place.bucket, key, ExtraArgs=about, Callback=advance, Config=_transfer()
            )

    def is_same(self, _place: Place, there: ObjectInfo, sha256: str) -> bool | None:
        if sha256:
            with self.path.open("rb") as body:
                return hashlib.file_digest(body, "sha256").hexdigest() == sha256
        return self._etag(there) == there.etag.strip('"') or None

    def _etag(self, there: ObjectInfo) -> str:
        """What `create` would have given: MD5 of the file, or of the MD5s of its parts. Empty if it was not sent so."""
        parts = -(-there.size_bytes // PART) if there.size_bytes >= PART else 0
        if there.etag.strip('"').partition("-")[2] != (str(parts) if parts else ""):
            return ""
        whole, joined = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
        with self.path.open("rb") as body:
            while part := body.read(PART):
                whole.update(part)
                joined.update(hashlib.md5(part, usedforsecurity=False).digest())
        return f"{joined.hexdigest()}-{parts}" if parts else whole.hexdigest()


@dataclass(frozen=True)
class Copy:
    """An object of another bucket, or an older generation of one of the server's own."""

    s3: Any
    bucket: str
    key: str
    etag: str
    generation: str = ""

    def create(self, place: Place, key: str, advance: Advance) -> None:
        source = {"Bucket": self.bucket, "Key": self.key}
        about: dict[str, Any] = {"ContentType": CONTENT_TYPE, "Metadata": {SOURCE_ETAG: self.etag.strip('"')}}
        if self.generation:
            source["VersionId"] = self.generation
            about = self._about()
        # Not as the source has it: that may be an object of an older release, or of another server.
        about |= {"CacheControl": cache_control(key), "MetadataDirective": "REPLACE"}
        place.creating_s3.copy(source, place.bucket, key, ExtraArgs=about, Callback=advance, Config=_transfer())

    def is_same(self, place: Place, there: ObjectInfo, sha256: str) -> bool | None:
        if there.etag == self.etag:
            return True
        head = place.s3.head_object(Bucket=place.bucket, Key=there.key, IfMatch=there.etag)
        if head.get("Metadata", {}).get(SOURCE_ETAG) == self.etag.strip('"'):
            return True
        return self._read() == sha256 if sha256 else None

    def _about(self) -> dict[str, Any]:
        """Return the type and metadata of the generation, which a copy in parts does not keep."""
        head = self.s3.head_object(Bucket=self.bucket, Key=self.key, VersionId=self.generation)
        return {"ContentType": head.get("ContentType", CONTENT_TYPE), "Metadata": head.get("Metadata", {})}

    def _read(self) -> str:
        found = hashlib.sha256()
        body = self.s3.get_object(Bucket=self.bucket, Key=self.key, IfMatch=self.etag)["Body"]
        for chunk in body.iter_chunks(1 << 20):
            found.update(chunk)
        return found.hexdigest()
