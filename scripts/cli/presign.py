"""`scripts/presign`: presigned upload URLs and the curl lines to use them."""

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
from botocore.exceptions import BotoCoreError, ClientError

from cli import aws, json_errors, network
from cli.folders import default_state_folder, state_dir_option
from cli.json_errors import JsonErrors
from imageserver.errors import InvalidUpload
from imageserver.format.caching import cache_control
from imageserver.format.keys import parse_key
from local_stack.credentials import local_session
from local_stack.errors import NotRunning
from local_stack.state import read_stack

NO_ANSWER = 1
WRONG_USAGE = 2
REFUSED = 3
EXISTS = 4
NO_STACK = 6
NO_CREDENTIALS = 7
LONGEST_S = 7 * 24 * 3600
"""S3's limit for a presigned URL."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One presigned PUT. `headers` go with the request; `curl` is the whole line."""

    key: str
    url: str
    method: str
    headers: dict[str, str]
    expires_in: int
    curl: str


@click.command(
    cls=JsonErrors,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 printed; 1 S3 cannot be asked, or does not answer; 2 wrong usage, or no such bucket; 3 the "
    "server would refuse a key; 4 a key exists already; 6 no local stack is running; 7 no usable AWS credentials or "
    "region. On any but 0 no URL is printed.",
)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option(
    "--expires", type=click.IntRange(1, LONGEST_S), default=3600, show_default=True, help="Seconds the URL can be used."
)
@click.option("--overwrite", is_flag=True, help="Allow replacing an existing file.")
@click.option(
    "--bucket", help="A bucket in AWS, with the usual credentials and in its own region, instead of the local stack."
)
@state_dir_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list of key, url, method, headers, expires_in, curl."
)
def main(
    keys: tuple[str, ...], expires: int, overwrite: bool, bucket: str | None, state_dir: Path | None, as_json: bool
) -> None:
    """Print one presigned PUT URL for each KEY, with the curl line to use it.

    KEY is images/<os>/<release>/<arch>/<variant>/<version>/<file>. Each URL is alone on a line of standard
    output, between comments (#) and the curl line, which sends the file of that name from the current folder. The URL
    works only with the headers of the curl line: Cache-Control, with which the file is then served, and
    If-None-Match: *, which never replaces a file. With --overwrite the URL works without any header until it expires;
    the edge keeps a file that was sent without Cache-Control as long as any other.
    """
    refusals = []
    for key in keys:
        try:
            parse_key(key)
        except InvalidUpload as refusal:
            refusals.append(str(refusal))
    if refusals:
        _end(REFUSED, *refusals)
    client, bucket_name = _aws(bucket) if bucket else _local(state_dir or default_state_folder())
    existing = [] if overwrite else [key for key in keys if _exists(client, bucket_name, key)]
    if existing:
        _end(EXISTS, *(f"{key} exists already; choose a new version, or --overwrite" for key in existing))
    try:
        uploads = [presign(client, bucket_name, key, expires, overwrite) for key in keys]
    except BotoCoreError as error:
        _end_for(error, "the URL cannot be signed")
    click.echo(json.dumps([asdict(upload) for upload in uploads], indent=2) if as_json else readable(uploads))


def presign(client: Any, bucket: str, key: str, expires_s: int, overwrite: bool) -> Upload:
    """Return one upload.

    Unless it may overwrite, its headers are signed: even a leaked URL cannot replace a file.
    """
    headers = {"Cache-Control": cache_control(key)}
    signed = {"Bucket": bucket, "Key": key}
    if not overwrite:
        signed["CacheControl"] = headers["Cache-Control"]
        headers["If-None-Match"] = signed["IfNoneMatch"] = "*"
    url = client.generate_presigned_url("put_object", signed, ExpiresIn=expires_s)
    options = [f"-H '{name}: {value}'" for name, value in headers.items()]
    file = shlex.quote(key.rsplit("/", 1)[1])
    # Not as an argument: everybody on the machine can see those, and an upload needs nothing but the URL.
    direct = network.past_proxy() if urlsplit(url).hostname in network.LOOPBACK else ""
    curl = " ".join([f"echo 'url = \"{url}\"' |", f"curl {direct}--fail-with-body", "-K", "-", *options, "-T", file])
    return Upload(key, url, "PUT", headers, expires_s, curl)


def readable(uploads: list[Upload]) -> str:
    """Return for each upload a comment with its key, the URL alone on its line, and the curl line."""
    return "\n\n".join(f"# {upload.key}\n{upload.url}\n{upload.curl}" for upload in uploads)


def _exists(client: Any, bucket: str, key: str) -> bool:
    try:
        client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            return False
        reason = _reason(client, bucket, key) or error
        if status == 403 and not aws.unusable(reason):
            # A publisher may be allowed to write and not to read; the condition in the curl line decides then.
            click.echo(f"presign: these credentials may not ask whether {key} exists; If-None-Match decides", err=True)
            return False
        _end_for(reason, f"S3 does not say whether {key} exists")
    except BotoCoreError as error:
        _end_for(error, f"S3 cannot be asked whether {key} exists")
    return True


def _reason(client: Any, bucket: str, key: str) -> Exception | None:
    """Return why S3 refuses: a HEAD gets no reason, a listing does. None if the listing is not refused."""
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except (BotoCoreError, ClientError) as error:
        return error
    return None


def _local(state_folder: Path) -> tuple[Any, str]:
    network.reach_loopback_directly()
    try:
        stack = read_stack(state_folder)
    except NotRunning as error:
        _end(NO_STACK, f"{error}, or name a bucket in AWS with --bucket")
    session = local_session(stack.access_key_id, stack.secret_access_key, stack.region)
    return session.client("s3", endpoint_url=stack.s3_endpoint, config=aws.s3_config(path_style=True)), stack.bucket


def _aws(bucket: str) -> tuple[Any, str]:
    try:
        return aws.session_for_bucket(bucket).client("s3", config=aws.s3_config()), bucket
    except aws.NoBucket as error:
        _end(WRONG_USAGE, str(error))
    except (aws.NotUsable, BotoCoreError) as error:
        _end_for(error, f"the bucket {bucket} cannot be asked for its region")


def _end_for(error: Exception, what: str) -> NoReturn:
    """Exit with the meaning of an AWS error. If it is not about credentials or region, `what` says what failed."""
    if reason := aws.unusable(error):
        _end(NO_CREDENTIALS, f"{reason.what}; {reason.remedy}")
    advice = network.remedy(error)
    _end(NO_ANSWER, f"{what}: {error}" + (f"; {advice}" if advice else ""))


def _end(code: int, *reasons: str) -> NoReturn:
    json_errors.report(code, *reasons)
    for reason in reasons:
        click.echo(f"presign: {reason}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="presign")
