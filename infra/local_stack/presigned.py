"""Presigned requests as S3 checks them: signature, method, key, signed headers and lifetime.

moto accepts any signature. The check signs the received request again with botocore's own signer and compares, so
there is no second implementation of SigV4 here.
Source: Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
"""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qs, urlsplit

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

REQUIRED: Final = (
    "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
)  # fmt: skip
LONGEST_S: Final = 7 * 24 * 3600


class S3Refusal(Exception):
    """An error answer of S3: HTTP status, S3's code, the message, further elements."""

    def __init__(self, status: int, code: str, message: str, **elements: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.elements = elements


def verify(method: str, url: str, headers: Mapping[str, str], secrets: Mapping[str, str], now: datetime) -> None:
    """Raise S3Refusal unless `url` (whole, as it arrived) was presigned for this method and these headers.

    `headers` has lower-case names; `secrets` maps access key to secret key; `now` is an aware UTC time.
    """
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}
    if "AWSAccessKeyId" in query:
        raise S3Refusal(
            400, "InvalidRequest",
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        )  # fmt: skip
    missing = [name for name in REQUIRED if name not in query]
    if missing or query["X-Amz-Algorithm"] != "AWS4-HMAC-SHA256":
        raise S3Refusal(
            400, "AuthorizationQueryParametersError",
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        )  # fmt: skip
    _check_lifetime(query, now)
    signed = query["X-Amz-SignedHeaders"].split(";")
    # The signature covers the host and every x-amz- header that was sent.
    loose = sorted(name for name in headers if name.startswith("x-amz-") and name not in signed)
    if "host" not in signed or loose:
        raise S3Refusal(
            403, "AccessDenied", "There were headers present in the request which were not signed",
            HeadersNotSigned=", ".join(loose or ["host"]),
        )  # fmt: skip
    expected = _signature(method, url, {name: headers.get(name, "") for name in signed}, query, secrets)
    if not hmac.compare_digest(expected, query["X-Amz-Signature"]):
        raise S3Refusal(
            403, "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key and "
            "signing method.",
            HttpMethod=method,
        )  # fmt: skip


def _check_lifetime(query: Mapping[str, str], now: datetime) -> None:
    try:
        lifetime_s = int(query["X-Amz-Expires"])
        signed_at = datetime.strptime(query["X-Amz-Date"], SIGV4_TIMESTAMP).replace(tzinfo=UTC)
    except ValueError as error:
        raise S3Refusal(400, "AuthorizationQueryParametersError", f"X-Amz-Expires or X-Amz-Date: {error}") from error
    if not 0 <= lifetime_s <= LONGEST_S:
        raise S3Refusal(
            400, "AuthorizationQueryParametersError",
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than "
            "604800 seconds",
        )  # fmt: skip
    age_s = (now - signed_at).total_seconds()
    if age_s > lifetime_s:
        raise S3Refusal(403, "AccessDenied", "Request has expired", **{"X-Amz-Expires": str(lifetime_s)})
    if age_s < -900:
        raise S3Refusal(403, "AccessDenied", "Request is not yet valid")


def _signature(
    method: str, url: str, signed_headers: Mapping[str, str], query: Mapping[str, str], secrets: Mapping[str, str]
) -> str:
    access_key, _, scope = query["X-Amz-Credential"].partition("/")
    if access_key not in secrets:
        raise S3Refusal(
            403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.",
            AWSAccessKeyId=access_key,
        )  # fmt: skip
    try:
        date, region, service, terminator = scope.split("/")
    except ValueError:
        date = region = service = terminator = ""
    if (service, terminator) != ("s3", "aws4_request") or not query["X-Amz-Date"].startswith(date):
        raise S3Refusal(
            400, "AuthorizationQueryParametersError",
            'Error parsing the X-Amz-Credential parameter; expected "<key>/YYYYMMDD/REGION/s3/aws4_request".',
        )  # fmt: skip
    bare_query = "&".join(p for p in urlsplit(url).query.split("&") if not p.startswith("X-Amz-Signature="))
    request = AWSRequest(method=method, url=urlsplit(url)._replace(query=bare_query).geturl(), headers=signed_headers)
    request.context["timestamp"] = query["X-Amz-Date"]
    signer = S3SigV4QueryAuth(Credentials(access_key, secrets[access_key]), service, region)
    canonical = signer.canonical_request(request)
    return str(signer.signature(signer.string_to_sign(request, canonical), request))
