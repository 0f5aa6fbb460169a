"""Presigned uploads on S3, single and multipart, and the parts of a multipart upload that have arrived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from imageserver.storage.s3 import UPLOAD_GONE, S3Error, S3Store

# Names of headers -> boto3's names for them.
_PARAMETERS: Final = {
    "If-None-Match": "IfNoneMatch",
    "If-Match": "IfMatch",
    "Content-Length": "ContentLength",
    "Content-Type": "ContentType",
    "Cache-Control": "CacheControl",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-mp-object-size": "MpuObjectSize",
}


class S3Uploads(S3Store):
    """One bucket to which others upload. Errors as in imageserver.storage.port.Store."""

    def sign(self, operation: str, key: str, headers: Mapping[str, str], lifetime_s: int, **more: Any) -> str:
        """Return a URL for one request with exactly these headers. `operation` is boto3's name for it."""
        numbers = ("Content-Length", "x-amz-mp-object-size")
        signed = {_PARAMETERS[h]: int(value) if h in numbers else value for h, value in headers.items()}
        about = {"Bucket": self._bucket, "Key": key, **signed, **more}
        return self._s3.generate_presigned_url(operation, Params=about, ExpiresIn=lifetime_s)

    def arrived(self, key: str, upload_id: str) -> dict[int, tuple[int, str]] | None:
        """Return part number -> (bytes, ETag) of the arrived parts; None if there is no such upload of this key."""
        found: dict[int, tuple[int, str]] = {}
        try:
            pages = iter(
                self._s3.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload_id)
            )
            while (page := self._call(key, next, pages, None)) is not None:
                found |= {part["PartNumber"]: (part["Size"], part["ETag"]) for part in page.get("Parts", ())}
        except S3Error as refused:
            if refused.code in UPLOAD_GONE:
                return None
            raise refused.error from refused
        return found
