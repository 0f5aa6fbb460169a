"""The S3 adapter: the only place that knows boto3's errors.

The meaning of each S3 error code is decided here. 412 (the condition does not hold), 409 (two conditional writes at
once) and 404 on a conditional write (the object went away) all mean the same to the caller: a lost race.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, ParamSpec, TypedDict, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from imageserver.errors import ObjectChanged, SimplestreamsError, StorageDenied, StorageUnavailable, UploadHidden
from imageserver.format.caching import cache_control
from imageserver.storage.port import KeyHistory, ObjectInfo, Opened, StoredObject
from imageserver.storage.ranged_reader import SMALL, ReadPlan, read_object

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        ListObjectVersionsOutputTypeDef,
        ObjectVersionTypeDef,
        TaggingTypeDef,
        TagTypeDef,
    )

_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_LOST: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409", *_MISSING})
_NO_UPLOAD: Final = frozenset({"NoSuchVersion", "MethodNotAllowed", *_MISSING})
"""The errors of S3 for the tags of an upload that is gone, or of a delete marker."""
_NO_VERSIONS: Final = "null"
"""The id of each upload in a bucket without versions. S3 accepts it as one; other servers (versitygw) do not."""
_DENIED: Final = frozenset({"AccessDenied", "403", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
UPLOAD_GONE: Final = frozenset({"NoSuchUpload", "404", "InvalidArgument", "InvalidRequest"})
"""The error of S3 for a multipart upload that it does not know."""
_OTHER_PARTS: Final = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall"})
CONTENT_TYPE: Final = "application/octet-stream"
"""The content type of every image file: a browser must never show one as a page."""
_JSON: Final = "application/json"
_CONTENT_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "atom": "application/atom+xml; charset=utf-8",
    "gz": "application/gzip",
}
DECLARED_SHA256: Final = "sha256"
"""Name of the user metadata of an object (`x-amz-meta-sha256`) in which its uploader declared its digest."""

ORIGIN: Final = "origin"
"""Name of the user metadata in which a file copied from another server says where it comes from."""

_VERSIONED: Final = "images"
"""The beginning of keys for which the upload matters, and not only its bytes."""
LISTED_TAG: Final = {"listed": "true"}
"""The tag of an upload that the edge may serve. The bucket's policy names it (infra/template.yaml)."""
MOST_COPIED_BYTES: Final = 5 << 30
"""The largest object that S3 copies in one request."""

_Paginate = Callable[..., "Iterable[ListObjectVersionsOutputTypeDef]"]
"""A parameter that the types of boto3's paginator leave out: it starts after KeyMarker."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class AboutFile(TypedDict):
    """Arguments for boto3 when it creates an object."""

    ContentType: str
    CacheControl: str
    Metadata: dict[str, str]


class _Tagging(TypedDict):
    Bucket: str
    Key: str
    Tagging: TaggingTypeDef


class S3Store:
    """One bucket through one boto3 client; implements imageserver.storage.port.FileStore, and so Store."""

    def __init__(self, client: S3Client, bucket: str, plan: ReadPlan = SMALL) -> None:
        self._s3 = client
        self._bucket = bucket
        self._plan = plan

    def read(self, key: str) -> StoredObject | None:
        try:
            answer = self._call(key, self._s3.get_object, Bucket=self._bucket, Key=key)
            return StoredObject(self._call(key, answer["Body"].read), answer["ETag"], _age_s(answer))
        except S3Error as refused:
            if refused.code in _MISSING:
                return None
            raise refused.error from refused

    def create(self, key: str, body: bytes) -> str | None:
        return self._put(key, body, IfNoneMatch="*")

    def replace(self, key: str, body: bytes, revision: str) -> str | None:
        return self._put(key, body, IfMatch=revision)

    def delete(self, key: str, revision: str) -> bool:
        return self._conditionally(key, self._s3.delete_object, Key=key, IfMatch=revision) is not None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See the port.

        Only S3's listing of versions has version ids; versions that are not the newest are left out.
        """
        if not prefix.startswith(_VERSIONED):
            yield from self._list_current(prefix, after)
            return
        for page in self._generations(prefix, after):
            for found in page.get("Versions", ()):
                if found["IsLatest"] and found["Key"] > after:
                    yield _upload(found)

    def _list_current(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        paginator = self._s3.get_paginator("list_objects_v2")
        for page in self._pages(prefix, paginator.paginate(Bucket=self._bucket, Prefix=prefix, StartAfter=after)):
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"], item["LastModified"].isoformat())

    def history(self, key: str) -> KeyHistory:
        uploads: list[ObjectInfo] = []
        is_deleted = False
        for page in self._generations(key):
            uploads += [_upload(found) for found in page.get("Versions", ()) if found["Key"] == key]
            markers = page.get("DeleteMarkers", ())
            is_deleted = is_deleted or any(marker["Key"] == key and marker["IsLatest"] for marker in markers)
        return KeyHistory(tuple(uploads), is_deleted)

    def bring_back(self, upload: ObjectInfo) -> bool:
        key = upload.key
        if upload.size_bytes > MOST_COPIED_BYTES:
            raise UploadHidden(
                f"{key} in {self._bucket} was uploaded at {upload.modified} and hidden by a delete that was not for "
                f"it; it has {upload.size_bytes:,} bytes, expected at most {MOST_COPIED_BYTES:,} to copy it back: run "
                f"admin undelete {key}"
            )
        source = {"Bucket": self._bucket, "Key": key, "VersionId": upload.version_id}
        copied = self._conditionally(
            key, self._s3.copy_object, Key=key, CopySource=source, TaggingDirective="REPLACE", IfNoneMatch="*"
        )
        return copied is not None

    def tag_listed(self, key: str, version_id: str) -> bool:
        tags: list[TagTypeDef] = [{"Key": name, "Value": value} for name, value in LISTED_TAG.items()]
        about: _Tagging = {"Bucket": self._bucket, "Key": key, "Tagging": {"TagSet": tags}}
        try:
            try:
                self._call(key, self._s3.put_object_tagging, **about, VersionId=version_id)
            except S3Error as refused:
                if refused.code != "InvalidArgument" or version_id != _NO_VERSIONS:
                    raise
                self._call(key, self._s3.put_object_tagging, **about)
        except S3Error as refused:
            if refused.code in _NO_UPLOAD:
                return False
            raise refused.error from refused
        return True

    def is_tagged(self, key: str) -> bool:
        try:
            tags = self._call(key, self._s3.get_object_tagging, Bucket=self._bucket, Key=key)["TagSet"]
        except S3Error as refused:
            if refused.code in _NO_UPLOAD:
                return False
            raise refused.error from refused
        return {tag["Key"]: tag["Value"] for tag in tags}.items() >= LISTED_TAG.items()

    def earlier(self, key: str) -> Iterator[bytes]:
        for page in self._generations(key):
            for found in page.get("Versions", ()):
                if found["Key"] == key and not found["IsLatest"]:
                    yield self._body_of(key, found["VersionId"])

    def _body_of(self, key: str, version_id: str) -> bytes:
        try:
            answer = self._call(key, self._s3.get_object, Bucket=self._bucket, Key=key, VersionId=version_id)
            return self._call(key, answer["Body"].read)
        except S3Error as refused:
            raise refused.error from refused

    def _generations(self, prefix: str, after: str = "") -> Iterator[ListObjectVersionsOutputTypeDef]:
        paginate: _Paginate = self._s3.get_paginator("list_object_versions").paginate
        behind = {"KeyMarker": after} if after else {}
        return self._pages(prefix, paginate(Bucket=self._bucket, Prefix=prefix, **behind))

    def _pages(self, prefix: str, pages: Iterable[_R]) -> Iterator[_R]:
        left = iter(pages)
        try:
            while (page := self._call(prefix, next, left, None)) is not None:
                yield page
        except S3Error as refused:
            raise refused.error from refused

    def open(self, key: str, etag: str) -> Opened:
        try:
            head = self._call(key, self._s3.head_object, Bucket=self._bucket, Key=key, IfMatch=etag)
        except S3Error as refused:
            if refused.code in _LOST:
                raise ObjectChanged(f"{key} is no longer the object with ETag {etag} that was listed") from refused
            raise refused.error from refused
        size = head["ContentLength"]
        chunks = read_object(self._s3, self._bucket, key, etag, size, self._plan)
        about = head.get("Metadata", {})
        encoding = head.get("ContentEncoding", "")
        return Opened(size, encoding, chunks, about.get(DECLARED_SHA256, ""), about.get(ORIGIN, ""))

    def create_file(self, key: str, body: bytes | bytearray, sha256: str, origin: str = "") -> bool:
        checksum = b64encode(bytes.fromhex(sha256)).decode()
        about = {"Body": body, "ChecksumSHA256": checksum, "IfNoneMatch": "*", **about_file(key, sha256, origin)}
        return self._conditionally(key, self._s3.put_object, Key=key, **about) is not None

    def begin(self, key: str, sha256: str, origin: str = "") -> str:
        about = about_file(key, sha256, origin)
        try:
            answer = self._call(key, self._s3.create_multipart_upload, Bucket=self._bucket, Key=key, **about)
        except S3Error as refused:
            raise refused.error from refused
        return answer["UploadId"]

    def put_part(self, key: str, upload_id: str, number: int, body: bytes | bytearray) -> str | None:
        about = {"Key": key, "UploadId": upload_id, "PartNumber": number, "Body": body}
        answer = self._unless({"NoSuchUpload"}, key, self._s3.upload_part, **about)
        return None if answer is None else answer["ETag"]

    def complete(self, key: str, upload_id: str, etags: Sequence[str]) -> bool:
        parts = {"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]}
        about = {"Key": key, "UploadId": upload_id, "MultipartUpload": parts, "IfNoneMatch": "*"}
        codes = _LOST | UPLOAD_GONE | _OTHER_PARTS
        return self._unless(codes, key, self._s3.complete_multipart_upload, **about) is not None

    def abort(self, key: str, upload_id: str) -> None:
        self._unless(UPLOAD_GONE, key, self._s3.abort_multipart_upload, Key=key, UploadId=upload_id)

    def _put(self, key: str, body: bytes, **condition: str) -> str | None:
        lifetime, content_type = cache_control(key), _CONTENT_TYPES.get(key.rpartition(".")[2], _JSON)
        about = {"Body": body, "ContentType": content_type, **({"CacheControl": lifetime} if lifetime else {})}
        answer = self._conditionally(key, self._s3.put_object, Key=key, **about, **condition)
        return None if answer is None else answer["ETag"]

    def _conditionally(self, key: str, call: Callable[..., _R], **arguments: object) -> _R | None:
        """Return the answer, or None if the condition does not hold."""
        return self._unless(_LOST, key, call, **arguments)

    def _unless(self, codes: Collection[str], key: str, call: Callable[..., _R], **arguments: object) -> _R | None:
        """Return the answer, or None for an error with one of these codes."""
        try:
            return self._call(key, call, Bucket=self._bucket, **arguments)
        except S3Error as refused:
            if refused.code in codes:
                return None
            raise refused.error from refused

    def _call(self, key: str, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return call(*args, **kwargs)
        except ClientError as error:
            raise S3Error(error, self._bucket, key) from error
        except (BotoCoreError, HTTPClientError) as error:
            raise StorageUnavailable(f"no answer about {key} in {self._bucket}: {error}") from error


class S3Error(Exception):
    """S3 answered with an error; `code` is S3's own, `error` what it means to the caller."""

    def __init__(self, cause: ClientError, bucket: str, key: str) -> None:
        self.code = str(cause.response["Error"].get("Code", ""))
        message = f"{cause.operation_name} of {key} in {bucket}: {self.code} {cause.response['Error'].get('Message')}"
        super().__init__(message)
        self.error: SimplestreamsError = StorageUnavailable(message)
        if self.code in _DENIED:
            self.error = StorageDenied(f"{message}; the role of this function needs that right")


def about_file(key: str, sha256: str, origin: str = "") -> AboutFile:
    """Return the parameters of an upload of an image file. A declared digest is stored with it until it is hashed."""
    declared = {name: text for name, text in ((DECLARED_SHA256, sha256), (ORIGIN, origin)) if text}
    return {"ContentType": CONTENT_TYPE, "CacheControl": cache_control(key), "Metadata": declared}


def _upload(found: ObjectVersionTypeDef) -> ObjectInfo:
    moment = found["LastModified"].isoformat()
    return ObjectInfo(found["Key"], found["Size"], found["ETag"], moment, found["VersionId"])


def _age_s(answer: GetObjectOutputTypeDef) -> float:
    answered = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    now = parsedate_to_datetime(answered) if answered else datetime.now(UTC)  # only emulators leave it out
    return (now - answer["LastModified"]).total_seconds()
