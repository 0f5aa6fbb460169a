"""Errors as sentences: what went wrong, what to do, and the exit code. Commands and the doctor share this table."""

import http.client
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import botocore.exceptions
import click
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from cli import aws, json_errors, network
from imageserver.errors import (
    CatalogDamaged,
    InvalidationRefused,
    InvalidUpload,
    InvalidView,
    SimplestreamsError,
    StorageDenied,
    UpstreamRefused,
)
from imageserver.format.keys import RECORDS
from imageserver.upstream.mirrors import MIRRORS
from imageserver.views.checks import CHECKS
from imageserver.views.view import VIEWS

FOUND: Final = 1
REFUSED: Final = 3
NOTHING: Final = 4
STORAGE: Final = 5
NO_STACK: Final = 6
NO_CREDENTIALS: Final = 7
EXIT_CODES: Final = (
    "Exit codes: 0 done, nothing wrong; 1 a fault was found and is named; 2 wrong usage; 3 no such name can exist; "
    "4 nothing has that name; 5 storage or AWS refused, failed, cannot be reached or answered nonsense; "
    "6 no local stack is running; "
    "7 no usable AWS credentials or region."
)

RIGHTS: Final = "look at the rights of your credentials"
WAY: Final = "look at the address, its name in DNS, its certificate, and the network between here and there"
AGAIN: Final = "try again in a minute"
EDGE: Final = "look at the distribution: it refuses the invalidation of a whole stream, which is always valid"
OTHER_BUCKET: Final = "name a bucket that is there, with --bucket or --stack"
SOURCE: Final = "look at the address of that server"
CATALOG: Final = "admin rebuild catalog --yes"
EARLIER: Final = "`aws s3api list-object-versions` names the earlier versions of a key"
RECORD: Final = "admin rebuild records --yes"

PROXY: Final = "check whether something between here and AWS answers in its place"
REPORT: Final = "try again; if it persists, report it with what --debug prints"

OUTSIDE: Final = (
    SimplestreamsError, ClientError, BotoCoreError, ResponseParserError, aws.NotUsable, aws.NoBucket,
    http.client.HTTPException, OSError,
)  # fmt: skip
"""Errors of the network, of AWS and of this machine, as opposed to faults of this program."""

_NO_WAY: Final = (
    botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError, http.client.HTTPException, OSError
)  # fmt: skip
_DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "403", "AllAccessDisabled", "UnauthorizedOperation"}
)
_GONE: Final = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})


@dataclass(frozen=True)
class Fault:
    """`what` went wrong, the `remedy` for an operator, and the exit `code` of a command."""

    what: str
    remedy: str
    code: int = STORAGE


_TRACEBACKS: Final = "cli.admin.tracebacks"


def show_tracebacks() -> None:
    """Print the traceback of each later error of this command on standard error."""
    click.get_current_context().meta[_TRACEBACKS] = True


def explain(error: Exception) -> Fault:
    """Return what any error means and what to do. With --debug, also print its traceback."""
    context = click.get_current_context(silent=True)
    if context and _TRACEBACKS in context.meta:
        click.echo("".join(traceback.format_exception(error)), err=True)
    if isinstance(error, OUTSIDE):
        return _explained(error)
    # No table lists it: it is an unexpected answer, or a fault of this program.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return Fault(f"an answer was not as expected ({type(error).__name__}: {error}{where}){_asked(error)}", REPORT)


def _asked(error: BaseException) -> str:
    """Return the last request to AWS, if it was noted on the error."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def _explained(error: Exception) -> Fault:
    """Explain an error from outside. The cause below an adapter's own error decides."""
    what, root = str(error), _root(error)
    if isinstance(error, InvalidUpload):
        return Fault(what, "", REFUSED)
    if isinstance(error, InvalidView):
        return Fault(what, "", FOUND)
    if isinstance(error, CatalogDamaged):
        if what.startswith((VIEWS, CHECKS, MIRRORS)):  # nothing makes these again
            return Fault(what, EARLIER)
        return Fault(what, RECORD if what.startswith(RECORDS) else CATALOG)
    if isinstance(error, UpstreamRefused):  # not caused by a request to AWS
        has_remedy = isinstance(error, network.NetworkRefused) or isinstance(root, OSError)
        return Fault(what, "" if has_remedy else SOURCE)
    if isinstance(error, InvalidationRefused):
        return Fault(what, EDGE)
    if isinstance(error, aws.NoBucket):
        return Fault(what, OTHER_BUCKET, NOTHING)
    if reason := aws.unusable(root):
        return Fault(reason.what, reason.remedy, NO_CREDENTIALS)
    if isinstance(root, ClientError):
        return _refused(error, root)
    if isinstance(error, StorageDenied):
        return Fault(what, RIGHTS)
    if isinstance(root, OSError) and root.filename:  # a file of this machine, as import reads them
        return Fault(what, "look at that file and its rights")
    if isinstance(root, ResponseParserError):
        return Fault(f"this is no answer of AWS ({what}){_asked(error)}", PROXY)
    if isinstance(root, _NO_WAY):
        return Fault(f"{what}{_asked(error)}", network.remedy(root) or WAY)
    return Fault(f"{what}{_asked(error)}", AGAIN)


def _root(error: BaseException) -> BaseException:
    """Return the SDK's error, else the system's, else the error itself."""
    while not isinstance(error, ClientError | BotoCoreError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _refused(error: Exception, root: ClientError) -> Fault:
    """Explain a refusal of AWS, in the words of an adapter if it raised the error."""
    about = root.response.get("Error", {})
    code = about.get("Code", "")
    sentence = f"{root.operation_name}: {code} {about.get('Message') or root}"
    what = str(error) if isinstance(error, SimplestreamsError) else sentence
    if code in _DENIED:
        return Fault(what, RIGHTS)
    if code == "NoSuchBucket":
        return Fault(what, OTHER_BUCKET, NOTHING)
    if code in _GONE:
        return Fault(what, "deploy the template again")
    return Fault(what, network.remedy(root) or AGAIN)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exit on any error with a sentence and an exit code instead of a traceback."""
    try:
        yield
    except (BrokenPipeError, click.ClickException, click.exceptions.Exit, click.Abort):
        raise  # click handles them, also for `admin list | head`
    except Exception as error:  # noqa: BLE001 - an answer may be wrong in any way; --debug shows the traceback
        fault = explain(error)
        end(fault.code, f"{fault.what}; {fault.remedy}" if fault.remedy else fault.what)


def end(code: int, reason: str) -> NoReturn:
    """Print the name of the script and the reason, with --json also an object, and exit."""
    context = click.get_current_context(silent=True)
    program = context.find_root().info_name if context else "admin"
    json_errors.report(code, reason)
    click.echo(f"{program}: {reason}", err=True)
    sys.exit(code)
