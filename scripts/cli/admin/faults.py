"""What went wrong outside: in a sentence, with what helps, and the exit code. One table for commands and doctor."""

import http.client
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

import botocore.exceptions as aws
import click
from botocore.exceptions import BotoCoreError, ClientError

from imageserver.errors import (
    CatalogDamaged,
    InvalidationRefused,
    InvalidUpload,
    SimplestreamsError,
    StorageDenied,
)
from imageserver.format.keys import RECORDS

FOUND: Final = 1
REFUSED: Final = 3
NOTHING: Final = 4
STORAGE: Final = 5
NO_STACK: Final = 6
NO_CREDENTIALS: Final = 7
EXIT_CODES: Final = (
    "Exit codes: 0 done, nothing wrong; 1 something is wrong and named; 2 wrong usage; 3 no such name can exist; "
    "4 there is nothing of that name; 5 storage refused, failed or cannot be reached; 6 no local stack is running; "
    "7 no usable AWS credentials or region."
)

LOG_IN: Final = "log in to AWS, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
RIGHTS: Final = "look at the rights of your credentials"
WAY: Final = "look at the address, its name in DNS, its certificate, and the network between here and there"
AGAIN: Final = "try again in a minute"
EDGE: Final = "look at the distribution: it takes no invalidation of a whole stream, which is always a valid one"
CATALOG: Final = "admin rebuild catalog --yes"
RECORD: Final = "admin rebuild records --yes"

OUTSIDE: Final = (SimplestreamsError, ClientError, BotoCoreError, http.client.HTTPException, OSError)
"""Whatever of this comes up is a fault of the world and not of this program."""

_UNKNOWN_CALLER: Final = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.ProfileNotFound,
    aws.NoRegionError,
    aws.SSOError,
    aws.TokenRetrievalError,
)
_NO_WAY: Final = (aws.ConnectionError, aws.HTTPClientError, http.client.HTTPException, OSError)
_DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "403", "AllAccessDisabled", "UnauthorizedOperation"}
)
_STALE: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidToken", "InvalidClientTokenId",
     "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure"}
)  # fmt: skip
_GONE: Final = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})


@dataclass(frozen=True)
class Fault:
    """`what` is the sentence, `remedy` what an operator does about it, `code` how a command ends."""

    what: str
    remedy: str
    code: int = STORAGE


def explain(error: BaseException) -> Fault:
    """What an error from outside means. The adapter's own errors are told by what the SDK said below them."""
    what, root = str(error), _root(error)
    if isinstance(error, InvalidUpload):
        return Fault(what, "", REFUSED)
    if isinstance(error, CatalogDamaged):
        return Fault(what, RECORD if what.startswith(RECORDS) else CATALOG)
    if isinstance(error, InvalidationRefused):
        return Fault(what, EDGE)
    if isinstance(root, _UNKNOWN_CALLER):
        return Fault(f"AWS cannot be asked: {root}", LOG_IN, NO_CREDENTIALS)
    if isinstance(root, ClientError):
        return _refused(what if isinstance(error, SimplestreamsError) else _said(root), root)
    if isinstance(error, StorageDenied):
        return Fault(what, RIGHTS)
    if isinstance(root, OSError) and root.filename:  # a file of this machine, as import reads them
        return Fault(what, "look at that file and its rights")
    if isinstance(root, _NO_WAY):
        return Fault(what, WAY)
    return Fault(what, AGAIN)


def _root(error: BaseException) -> BaseException:
    """What the SDK said, else the system, else the error itself."""
    while not isinstance(error, ClientError | BotoCoreError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _said(error: ClientError) -> str:
    return f"{error.operation_name}: {error.response['Error'].get('Message') or error}"


def _refused(what: str, error: ClientError) -> Fault:
    code = error.response["Error"].get("Code", "")
    if code in _STALE:
        return Fault(what, LOG_IN, NO_CREDENTIALS)
    if code in _DENIED:
        return Fault(what, RIGHTS)
    if code == "NoSuchBucket":
        return Fault(what, "name a bucket that is there, with --bucket or --stack", NOTHING)
    if code in _GONE:
        return Fault(what, "deploy the template again")
    return Fault(what, AGAIN)


@contextmanager
def errors_told() -> Iterator[None]:
    """End with a sentence and an exit code instead of a traceback for whatever can go wrong outside."""
    try:
        yield
    except BrokenPipeError:  # `admin list | head`: click knows what to do
        raise
    except OUTSIDE as error:
        fault = explain(error)
        end(fault.code, f"{fault.what}; {fault.remedy}" if fault.remedy else fault.what)


def end(code: int, reason: str) -> NoReturn:
    """Say why, and end. The sentence begins with the name of the script."""
    context = click.get_current_context(silent=True)
    program = context.find_root().info_name if context else "admin"
    click.echo(f"{program}: {reason}", err=True)
    sys.exit(code)
