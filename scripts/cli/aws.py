"""Region and credentials, found in the same way by every script: boto3's own chain, with AWS_REGION before it.

Region: AWS_REGION, AWS_DEFAULT_REGION, then that of the profile. A bucket is asked for its own region, which wins.
Credentials: the environment, AWS_PROFILE, ~/.aws/config and ~/.aws/credentials, SSO, the role of the machine.
`scripts/upload` has no boto3, but reads the same variables and prints the same messages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import boto3
import botocore.exceptions as aws
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

LOG_IN: Final = "log in to AWS, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
LOG_IN_AGAIN: Final = (
    "log in again (aws sso login, or aws login), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY again"
)
NO_REGION: Final = "no AWS region is set"
SET_REGION: Final = "set AWS_REGION, or the region of your AWS profile, to the region of"
SET_CLOCK: Final = "set the clock of this machine"
EXPIRED: Final = "the AWS credentials have expired"
NOT_TAKEN: Final = "AWS rejects these credentials"
SKEWED: Final = "the clocks of AWS and of this machine differ"

_FROM_FILES: Final = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"),
)
"""Variables whose values a file may give with the end of its line, of Windows too."""
ANY_REGION: Final = "us-east-1"
"""The region in which a bucket's region is looked up while no region is set."""

_SSO: Final = (aws.SSOError, aws.TokenRetrievalError, aws.NoAuthTokenError)
_CONFIGURATION: Final = (
    aws.ConfigParseError, aws.InvalidConfigError, aws.UnknownCredentialError, aws.CredentialRetrievalError,
    aws.MissingDependencyException, aws.RefreshWithMFAUnsupportedError,
)  # fmt: skip
_EXPIRED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_SKEWED_CODES: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_NOT_TAKEN_CODES: Final = frozenset(
    {"InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId",
     "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "AuthFailure",
     "MissingAuthenticationToken"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unusable:
    """Region or credentials that cannot be used: `what` is the sentence, `remedy` what to set or to do."""

    what: str
    remedy: str


class NotUsable(Exception):
    """Raised where region or credentials cannot be used; `reason` says which and what to set."""

    def __init__(self, reason: Unusable) -> None:
        super().__init__(f"{reason.what}; {reason.remedy}")
        self.reason = reason


class NoBucket(Exception):
    """There is no bucket of that name. The message is a sentence."""


def session(region_of: str) -> boto3.Session:
    """Return a session with a region. Raise NotUsable if none is set; `region_of` completes "the region of …"."""
    found = _configured()
    if not found.region_name:
        raise NotUsable(Unusable(NO_REGION, f"{SET_REGION} {region_of}"))
    return found


def session_for_bucket(bucket: str) -> boto3.Session:
    """Return a session in the region of a bucket, whatever region is set.

    Raise NoBucket if there is none. If no region is set, raise NotUsable when S3 does not name the bucket's region, and
    botocore's ConnectionError or HTTPClientError when S3 cannot be asked. With a region, URLs can be signed offline.
    """
    configured = _configured()
    try:
        region = _region_of(bucket, configured) or configured.region_name
    except (aws.ConnectionError, aws.HTTPClientError):
        if not configured.region_name:
            raise
        region = configured.region_name
    if not region:
        what = f"{NO_REGION}, and the bucket {bucket} does not name its region"
        raise NotUsable(Unusable(what, f"{SET_REGION} {bucket}"))
    return configured if region == configured.region_name else _session(region)


def s3_config(*, path_style: bool = False, **more: Any) -> Config:
    """Return the configuration of an S3 client, also of one whose URLs are handed on.

    SigV4 is named, since boto3 presigns with SigV2 in old regions. The host is regional, since a redirect from the
    global one does not keep the signature.
    """
    return Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if path_style else "virtual", "us_east_1_regional_endpoint": "regional"},
        **more,
    )


def unusable(error: BaseException) -> Unusable | None:
    """Return what an error of boto3 says of region or credentials; None if it is about something else."""
    if isinstance(error, NotUsable):
        return error.reason
    if isinstance(error, aws.ProfileNotFound):
        return _no_profile(str(error.kwargs.get("profile", "")))
    if isinstance(error, aws.NoCredentialsError):
        return Unusable("there are no AWS credentials", LOG_IN)
    if isinstance(error, aws.PartialCredentialsError):
        return Unusable(f"the AWS credentials are not complete: {error}", LOG_IN)
    if isinstance(error, _SSO):
        profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
        login = f"aws sso login --profile {profile}" if profile else "aws sso login"
        return Unusable(f"the SSO session is over, or nobody logged in: {error}", login)
    if isinstance(error, aws.LoginError):
        return Unusable(f"the session of `aws login` is over, or nobody logged in: {error}", LOG_IN_AGAIN)
    if isinstance(error, _CONFIGURATION):
        return Unusable(f"the AWS configuration cannot be used: {error}", LOG_IN)
    if isinstance(error, aws.HTTPClientError) and "Invalid header value" in str(error):  # which it quotes: a secret
        return Unusable("the AWS credentials hold a line break", LOG_IN)
    if isinstance(error, aws.NoRegionError):
        return Unusable(NO_REGION, f"{SET_REGION} the server")
    if isinstance(error, aws.InvalidRegionError):
        return Unusable(f"the AWS region is invalid: {error}", f"{SET_REGION} the server")
    return _refused(error) if isinstance(error, ClientError) else None


def _configured() -> boto3.Session:
    """Return a session as the environment and the profile say; its region may be empty. Raise NotUsable."""
    for name in _FROM_FILES:
        if (value := os.environ.get(name)) is not None:
            os.environ[name] = value.strip("\r\n")
    core = botocore.session.get_session()
    try:
        profile = core.get_scoped_config()
    except aws.BotoCoreError as error:
        reason = unusable(error)
        if reason is None:
            raise
        raise NotUsable(reason) from error
    # boto3 itself does not read AWS_REGION; AWS's other tools read it first. An empty variable counts as unset.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or profile.get("region")
    return _session(region or None)


def _session(region: str | None) -> boto3.Session:
    return boto3.Session(region_name=region)


def _region_of(bucket: str, configured: boto3.Session) -> str:
    """Return the region of a bucket, empty if unknown. S3 names it even to callers who may not use the bucket."""
    patience = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    s3 = configured.client(
        "s3", configured.region_name or ANY_REGION, config=Config(signature_version=UNSIGNED).merge(patience)
    )
    try:
        answer: Any = s3.head_bucket(Bucket=bucket)
    except aws.ParamValidationError as error:
        raise NoBucket(f"{bucket!r} cannot be the name of a bucket") from error
    except ClientError as error:
        answer = error.response
    about = answer["ResponseMetadata"]
    if about.get("HTTPStatusCode") == 404:
        raise NoBucket(f"there is no bucket {bucket}")
    return str(about.get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


def _no_profile(name: str) -> Unusable:
    if not name:
        return Unusable("AWS_PROFILE is empty", "unset it, or set it to the name of a profile")
    known = ", ".join(botocore.session.get_session().available_profiles) or "none"
    return Unusable(
        f"AWS_PROFILE is {name}, and neither ~/.aws/config nor ~/.aws/credentials has that profile",
        f"set AWS_PROFILE to one that is there ({known}), or unset it",
    )


def _refused(error: ClientError) -> Unusable | None:
    """Return why AWS rejects the credentials of a request; None if it does not."""
    about = error.response.get("Error", {})
    code, message = about.get("Code", ""), f"{error.operation_name}: {about.get('Message') or error}"
    if code in _EXPIRED_CODES:
        return Unusable(f"{EXPIRED} ({message})", LOG_IN_AGAIN)
    if code in _SKEWED_CODES:
        return Unusable(f"{SKEWED} ({message})", SET_CLOCK)
    if code in _NOT_TAKEN_CODES:
        return Unusable(f"{NOT_TAKEN} ({message})", LOG_IN)
    return None
