"""Which presigned requests the local S3 accepts, and S3's own errors for the others."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from local_stack.presigned import S3Refusal, verify

SECRETS = {"AKTEST": "secret of the test"}
KEY = "images/ubuntu/xenial/amd64/default/20261123_10:00/lxd.tar.xz"


def presign(operation: str = "put_object", version: str = "s3v4", expires_s: int = 600, **extra: Any) -> str:
    session = boto3.Session("AKTEST", SECRETS["AKTEST"], region_name="us-east-1")
    config = Config(signature_version=version, s3={"addressing_style": "path"})
    client = session.client("s3", endpoint_url="http://127.0.0.1:9000", config=config)
    url: str = client.generate_presigned_url(operation, {"Bucket": "b", "Key": KEY, **extra}, ExpiresIn=expires_s)
    return url


def check(
    url: str, method: str = "PUT", later_s: float = 0, secrets: Any = None, headers: Mapping[str, str] | None = None
) -> str:
    """Return the code of the refusal, "" if the request is accepted."""
    sent = {"host": urlsplit(url).netloc, **(headers or {})}
    try:
        verify(method, url, sent, secrets or SECRETS, datetime.now(UTC) + timedelta(seconds=later_s))
    except S3Refusal as refusal:
        return refusal.code
    return ""


def test_a_url_is_accepted_as_signed() -> None:
    assert check(presign()) == ""


def test_signed_headers_must_be_sent_as_signed() -> None:
    url = presign(IfNoneMatch="*", ContentLength=5, ChecksumSHA256="c2hh")
    right = {"if-none-match": "*", "content-length": "5", "x-amz-checksum-sha256": "c2hh"}
    assert check(url, headers=right) == ""
    assert check(url, headers={**right, "content-length": "6"}) == "SignatureDoesNotMatch"
    assert check(url, headers={**right, "x-amz-checksum-sha256": "other"}) == "SignatureDoesNotMatch"
    del right["if-none-match"]
    assert check(url, headers=right) == "SignatureDoesNotMatch"


def test_unsigned_headers_are_accepted_unless_s3_interprets_them() -> None:
    assert check(presign(), headers={"if-none-match": "*", "content-type": "text/plain"}) == ""
    assert check(presign(), headers={"x-amz-acl": "public-read"}) == "AccessDenied"


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.replace("lxd.tar.xz", "root.tar.xz"),
        lambda url: url.replace("X-Amz-Expires=600", "X-Amz-Expires=601"),
        lambda url: url + "&versionId=x",
        lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"),
    ],
    ids=["key", "expires", "query", "signature"],
)
def test_a_changed_url_does_not_match(change: Callable[[str], str]) -> None:
    assert check(change(presign())) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_put_url_allows_no_other_method(method: str) -> None:
    assert check(presign(), method=method) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(("later_s", "code"), [(570, ""), (602, "AccessDenied"), (-2000, "AccessDenied")])
def test_a_url_expires_at_the_stated_time(later_s: int, code: str) -> None:
    assert check(presign(), later_s=later_s) == code


def test_an_expiry_above_a_week_is_refused() -> None:
    assert check(presign(expires_s=7 * 24 * 3600)) == ""
    assert check(presign(expires_s=7 * 24 * 3600 + 1)) == "AuthorizationQueryParametersError"


def test_the_old_signature_is_refused() -> None:
    assert check(presign(version="s3")) == "InvalidRequest"


def test_an_unknown_key_and_a_wrong_secret_have_their_own_errors() -> None:
    assert check(presign(), secrets={"OTHER": "x"}) == "InvalidAccessKeyId"
    assert check(presign(), secrets={"AKTEST": "x"}) == "SignatureDoesNotMatch"


def test_incomplete_signature_parameters_are_refused() -> None:
    assert check(presign().split("&X-Amz-Signature")[0]) == "AuthorizationQueryParametersError"
