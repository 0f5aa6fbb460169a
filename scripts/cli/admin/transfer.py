"""Files of a folder or a bucket, and how they become objects of the server. Nothing is overwritten."""

import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from cli.admin.deployment import Deployment
from imageserver.storage.port import ObjectInfo
from imageserver.storage.s3 import CONTENT_TYPE, about_file
from imageserver.upstream.mapping import LeftOut

PART: Final = 64 << 20
SOURCE_ETAG: Final = "source-etag"
"""User metadata of a copy from another bucket: the ETag of its source, because its own may differ."""
_THERE: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})

Advance = Callable[[int], object]


class AlreadyThere(Exception):
    """The object to create exists, or another client is creating it."""


class Source(Protocol):
    """Where the bytes of a file come from."""

    def create(self, deployment: Deployment, file: "File", advance: Advance) -> None:
        """Create the object. Raise ClientError (412) if it exists."""

    def is_same(self, deployment: Deployment, there: ObjectInfo, sha256: str) -> bool | None:
        """Return whether an object of the same size, and of this digest if known, is this file; None if unknown."""


@dataclass(frozen=True)
class File:
    """One file to create as the object `key`.

    `sha256` is what the other server's catalog promises, empty where there is none. It is declared with the object,
    and digest refuses other bytes. `path` is the file's path there.
    """

    key: str
    size_bytes: int
    source: Source
    sha256: str = ""
    path: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that make S3 store the object as it would store an upload."""
        return {**about_file(self.key, self.sha256)}


def create(deployment: Deployment, file: File, advance: Advance) -> None:
    """Create one object. Raise AlreadyThere if it exists."""
    try:
        file.source.create(deployment, file, advance)
    except ClientError as error:
        if error.response["Error"].get("Code") in _THERE:
            raise AlreadyThere(file.key) from error
        raise


def upload(deployment: Deployment, body: Any, file: File, advance: Advance) -> None:
    """Send the bytes of a readable `body`. Raise ClientError (412) if the object exists."""
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
    deployment.creating_s3.upload_fileobj(
        body, deployment.bucket, file.key, ExtraArgs=file.arguments, Callback=advance, Config=config
    )


def folder(root: Path) -> Iterator[File | LeftOut]:
    """Yield the files below `images*` of a folder; catalog and records of another server are not copied.

    A symbolic link is not followed: it may lead to a private file of this machine.
    """
    tops = [[top] if top.is_symlink() else top.rglob("*") for top in root.glob("images*")]
    for path in sorted(itertools.chain.from_iterable(tops)):
        key = path.relative_to(root).as_posix()
        if path.is_symlink():
            yield LeftOut(key, "is a symbolic link, which is not followed: put the file itself there")
        elif path.is_file():
            yield File(key, path.stat().st_size, Upload(path), path=key)
        elif not path.is_dir():
            yield LeftOut(key, "is no file")


def address_of(address: str) -> tuple[str, str]:
    """Return the name of the bucket and the prefix of `s3://bucket/prefix`; a prefix ends in a slash."""
    name, _, prefix = address.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    return name, f"{prefix}/" if prefix else ""


def bucket(s3: Any, address: str) -> Iterator[File]:
    """Yield the objects below `images*` of `s3://bucket/prefix`."""
    name, prefix = address_of(address)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=f"{prefix}images"):
        for found in page.get("Contents", ()):
            source = Copy(s3, name, found["Key"], found["ETag"])
            key = found["Key"].removeprefix(prefix)
            yield File(key, found["Size"], source, path=key)


@dataclass(frozen=True)
class Upload:
    """A file of this machine."""

    path: Path

    def create(self, deployment: Deployment, file: File, advance: Advance) -> None:
        # A symbolic link may have taken the file's place since it was found.
        with open(self.path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW)) as body:
            upload(deployment, body, file, advance)

    def is_same(self, _deployment: Deployment, there: ObjectInfo, sha256: str) -> bool | None:
        if sha256:
            with self.path.open("rb") as body:
                return hashlib.file_digest(body, "sha256").hexdigest() == sha256
        return self._etag(there) == there.etag.strip('"') or None

    def _etag(self, there: ObjectInfo) -> str:
        """Return the ETag that `create` gives: the MD5 of the file, or of its parts' MD5s. Empty if sent otherwise."""
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

    def create(self, deployment: Deployment, file: File, advance: Advance) -> None:
        source = {"Bucket": self.bucket, "Key": self.key}
        about = file.arguments
        if self.generation:
            source["VersionId"] = self.generation
            # A copy in parts loses the type and metadata of the generation.
            head = self.s3.head_object(Bucket=self.bucket, Key=self.key, VersionId=self.generation)
            about |= {"ContentType": head.get("ContentType", CONTENT_TYPE), "Metadata": head.get("Metadata", {})}
        else:
            about["Metadata"] = {**about.get("Metadata", {}), SOURCE_ETAG: self.etag.strip('"')}
        # Not taken from the source, which may be an object of an older release or of another server.
        about["MetadataDirective"] = "REPLACE"
        about["TaggingDirective"] = "REPLACE"  # the edge may serve it once publish has listed it here
        config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
        deployment.creating_s3.copy(
            source, deployment.bucket, file.key, ExtraArgs=about, Callback=advance, Config=config
        )

    def is_same(self, deployment: Deployment, there: ObjectInfo, sha256: str) -> bool | None:
        if there.etag == self.etag:
            return True
        head = deployment.s3.head_object(Bucket=deployment.bucket, Key=there.key, IfMatch=there.etag)
        if head.get("Metadata", {}).get(SOURCE_ETAG) == self.etag.strip('"'):
            return True
        if not sha256:
            return None
        found = hashlib.sha256()
        body = self.s3.get_object(Bucket=self.bucket, Key=self.key, IfMatch=self.etag)["Body"]
        for chunk in body.iter_chunks(1 << 20):
            found.update(chunk)
        return found.hexdigest() == sha256


@dataclass(frozen=True)
class Written:
    """A document that the import writes: what the other server's catalog says of a product."""

    body: bytes

    def create(self, deployment: Deployment, file: File, advance: Advance) -> None:
        upload(deployment, io.BytesIO(self.body), file, advance)

    def is_same(self, _deployment: Deployment, _there: ObjectInfo, sha256: str) -> bool | None:
        return hashlib.sha256(self.body).hexdigest() == sha256 if sha256 else None
