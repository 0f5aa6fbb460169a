"""Make the functions' AWS clients once, at cold start."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_CONFIG: Final = Config(
    signature_version="s3v4",  # the default for a presigned URL can still be SigV2
    s3={"addressing_style": "virtual"},
    retries={"mode": "standard", "max_attempts": 5},
    response_checksum_validation="when_required",  # a CRC of each body costs 20 %, and sha256 is what counts here
    request_checksum_calculation="when_required",
    connect_timeout=5,
    max_pool_connections=20,
)


def _small_calls(answer_s: int) -> Config:
    """Return the settings of a client whose calls are answered at once. boto3 alone would wait 60 s for each try.

    A try that waits so long would outlive a request to the API, and a message would be delivered again while a
    `queues.Hold` waits to keep it hidden.
    """
    return Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=3, read_timeout=answer_s)


def s3_client(answer_s: int = 30) -> S3Client:
    """Return a client for S3 in the function's region, or at AWS_ENDPOINT_URL_S3.

    A request that is not answered within `answer_s` is sent again. S3 may take long to store a part.
    """
    return boto3.client("s3", config=_CONFIG.merge(Config(read_timeout=answer_s)))


@cache
def sqs_client() -> SQSClient:
    """Return a client for SQS in the function's region."""
    return boto3.client("sqs", config=_small_calls(answer_s=5))


@cache
def cloudfront_client() -> CloudFrontClient:
    """Return a client for CloudFront, made when it is first asked for."""
    return boto3.client("cloudfront", config=_small_calls(answer_s=10))
