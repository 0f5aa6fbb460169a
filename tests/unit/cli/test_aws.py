"""How scripts find region and credentials: the same way in each, whatever the user has set."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.exceptions as boto
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from cli import aws, presign
from cli.admin.__main__ import main as admin
from cli.admin.deployment import open_bucket
from cli.admin.errors import NO_CREDENTIALS, NOTHING, STORAGE
from cli.bench import hashing
from cli.bench.__main__ import main as bench
from local_stack.credentials import local_session
from local_stack.lambda_pool import common_environment
from local_stack.stack import TEMPLATE
from local_stack.template import load, translate
from tests.support import PROJECT
from tests.support.aws_wire import Answer, Wire, s3_error, wired

GOOD = "images/ubuntu/xenial/amd64/default/20261123_10:00/lxd.tar.xz"
PROFILES = """
[default]
region = ap-south-1
[profile work]
region = eu-west-3
aws_access_key_id = AKIAWORK
aws_secret_access_key = x
[profile bare]
aws_access_key_id = AKIABARE
aws_secret_access_key = x
[profile old]
sso_session = house
sso_account_id = 111122223333
sso_role_name = publisher
region = eu-west-1
[sso-session house]
sso_start_url = https://house.awsapps.com/start
sso_region = eu-west-1
[profile helper]
credential_process = false
region = eu-west-1
"""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set no AWS variables except the files, and an empty home."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(PROFILES)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("HOME", str(tmp_path))


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x"}
REGIONS: list[tuple[dict[str, str], str]] = [
    ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
    ({"AWS_DEFAULT_REGION": "eu-north-1"}, "eu-north-1"),
    ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-north-1"}, "eu-central-1"),
    ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-north-1"}, "eu-north-1"),
    ({"AWS_REGION": "eu-central-1", "AWS_PROFILE": "work"}, "eu-central-1"),
    ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "work"}, "eu-west-3"),
    ({"AWS_PROFILE": "work"}, "eu-west-3"),
    ({}, "ap-south-1"),
    ({"AWS_PROFILE": "bare"}, ""),
]


@pytest.mark.parametrize(("variables", "region"), REGIONS, ids=lambda value: " ".join(value) or "nothing")
def test_the_region_is_found_where_the_aws_tools_look_for_it(
    variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, variables)
    if region:
        assert aws.session("the server").region_name == region
        return
    with pytest.raises(aws.NotUsable, match=r"no AWS region is set; set AWS_REGION, .* to the region of the server"):
        aws.session("the server")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_PROFILE": "wrok"}, r"AWS_PROFILE is wrok, .*; set AWS_PROFILE to one that is there \(default, work, "),
        ({"AWS_PROFILE": ""}, "AWS_PROFILE is empty; unset it"),
        ({"AWS_REGION": "eu-central-1", "AWS_PROFILE": "wrok"}, "AWS_PROFILE is wrok"),
    ],
)
@pytest.mark.parametrize("line", ["presign", "admin stack", "admin bucket", "bench"])
def test_every_script_names_a_missing_profile(
    line: str, variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired(monkeypatch, nobody)
    put(monkeypatch, variables)
    done = run(line)
    assert done.exit_code == (1 if line == "bench" else NO_CREDENTIALS), done.output
    assert re.search(message, done.stderr)
    assert done.stdout == ""


def nobody(method: str, host: str, path: str) -> Exception:
    """Cut off the network."""
    return boto.EndpointConnectionError(endpoint_url=f"https://{host}{path}")


LINES = {
    "presign": (presign.main, [GOOD, "--bucket", "mine"]),
    "admin stack": (admin, ["list", "--stack", "mine"]),
    "admin bucket": (admin, ["list", "--bucket", "mine"]),
    "bench": (bench, ["hash", "--bucket", "mine", "--key", GOOD]),
}


def run(line: str, *more: str) -> Result:
    command, arguments = LINES[line]
    done = CliRunner().invoke(command, [*arguments, *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def bucket_in(region: str, key_status: int = 404) -> Any:
    """Answer like S3 with one bucket, which answers only in its own region and names that region to everybody."""

    def answer(method: str, host: str, path: str) -> Answer:
        here = {"x-amz-bucket-region": region}
        if "mine" not in f"{host}{path}":
            return Answer(404)
        if f".{region}." not in host:
            return Answer(301, here) if method == "HEAD" else s3_error(301, "PermanentRedirect", **here)
        if path in ("/", "/mine"):
            return Answer(403, here)  # to a caller who may not list it
        return Answer(key_status, here)

    return answer


@pytest.mark.parametrize("region", ["eu-central-1", "us-east-1"])
@pytest.mark.parametrize("variables", [{}, {"AWS_REGION": "us-west-2"}, {"AWS_REGION": "eu-central-1"}], ids=str)
def test_a_url_is_signed_for_the_region_of_the_bucket_whatever_the_environment_sets(
    variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect to the bucket's region would not keep the signature."""
    put(monkeypatch, {**KEYS, **variables, "AWS_PROFILE": "bare"})
    wired(monkeypatch, bucket_in(region))
    done = run("presign", "--json")
    assert done.exit_code == 0, done.output
    (upload,) = json.loads(done.stdout)
    assert urlsplit(upload["url"]).netloc == f"mine.s3.{region}.amazonaws.com"
    assert (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F{datetime.now(UTC):%Y%m%d}%2F{region}%2Fs3"
        in (upload["url"])
    )


def test_the_bucket_is_asked_for_its_region_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = wired(monkeypatch, bucket_in("eu-central-1"))
    assert aws.session_for_bucket("mine").region_name == "eu-central-1"
    assert {method for method, _, _ in wire.asked} == {"HEAD"}


def test_admin_works_in_the_region_of_the_bucket_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**KEYS, "AWS_REGION": "us-west-2"})
    wired(monkeypatch, bucket_in("eu-central-1"))
    server = open_bucket("mine", "")
    assert server.s3.meta.region_name == server.sqs.meta.region_name == "eu-central-1"


def test_a_url_is_signed_without_a_network_when_a_region_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**KEYS, "AWS_REGION": "eu-central-1"})
    wired(monkeypatch, nobody)
    assert "mine.s3.eu-central-1.amazonaws.com" in run("presign", "--overwrite").stdout


@pytest.mark.parametrize("line", ["presign", "admin bucket", "bench"])
def test_an_unreachable_bucket_is_not_reported_as_a_fault_of_region_or_credentials(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, {**KEYS, "AWS_PROFILE": "bare"})
    wired(monkeypatch, nobody)
    done = run(line)
    assert done.exit_code == (STORAGE if "admin" in line else 1)
    assert "Could not connect to the endpoint" in done.stderr


@pytest.mark.parametrize("line", ["presign", "admin bucket", "bench"])
def test_a_bucket_without_a_region_names_the_variable_to_set(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like S3-compatible stores without regions."""
    put(monkeypatch, {**KEYS, "AWS_PROFILE": "bare"})
    wired(monkeypatch, lambda *_: Answer(200))
    done = run(line)
    assert done.exit_code == (1 if line == "bench" else NO_CREDENTIALS)
    assert "the bucket mine does not name its region; set AWS_REGION, or the region of your AWS profile" in done.stderr


@pytest.mark.parametrize(("line", "code"), [("presign", presign.WRONG_USAGE), ("admin bucket", NOTHING), ("bench", 1)])
def test_a_missing_bucket_is_reported_before_anything_is_signed(
    line: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, {**KEYS, "AWS_REGION": "eu-central-1"})
    wired(monkeypatch, lambda *_: Answer(404))
    done = run(line)
    assert (done.exit_code, done.stdout) == (code, "")
    assert "there is no bucket mine" in done.stderr


def test_without_a_region_a_stack_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"AWS_PROFILE": "bare"})
    done = run("admin stack")
    assert done.exit_code == NO_CREDENTIALS
    assert "no AWS region is set; set AWS_REGION, or the region of your AWS profile, to the region of the stack" in (
        done.stderr
    )


def refusing(code: str, status: int) -> Any:
    """Answer like an AWS that refuses everything for this reason, which S3 omits from the answer to a HEAD."""

    def answer(method: str, host: str, _path: str) -> Answer:
        here = {"x-amz-bucket-region": "eu-central-1"}
        if method == "HEAD":
            return Answer(status, here)
        if host.startswith("cloudformation"):
            body = f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
            return Answer(status, {}, body.encode())
        return s3_error(status, code, **here)

    return answer


@pytest.mark.parametrize(
    ("code", "status", "message", "remedy"),
    [
        ("ExpiredToken", 400, aws.EXPIRED, aws.LOG_IN_AGAIN),
        ("InvalidAccessKeyId", 403, aws.NOT_TAKEN, aws.LOG_IN),
        ("SignatureDoesNotMatch", 403, aws.NOT_TAKEN, aws.LOG_IN),
        ("RequestTimeTooSkewed", 403, aws.SKEWED, aws.SET_CLOCK),
    ],
)
@pytest.mark.parametrize("line", ["presign", "admin stack", "admin bucket"])
def test_each_kind_of_rejected_credentials_has_its_own_message(
    line: str, code: str, status: int, message: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, {"AWS_PROFILE": "bare", "AWS_REGION": "eu-central-1"})
    wired(monkeypatch, refusing(code, status))
    done = run(line)
    assert done.exit_code == NO_CREDENTIALS, done.output
    assert message in done.stderr
    assert remedy in done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, f"are not complete: .*AWS_SECRET_ACCESS_KEY; {aws.LOG_IN}"),
        ({"AWS_PROFILE": "old"}, "the SSO session is over, or nobody logged in: .*; aws sso login --profile old"),
        ({"AWS_PROFILE": "helper"}, "the AWS configuration cannot be used: .*custom-process"),
        ({"AWS_CONFIG_FILE": "/dev/null"}, f"there are no AWS credentials; {aws.LOG_IN}"),
    ],
    ids=["half", "sso", "helper", "none"],
)
@pytest.mark.parametrize("line", ["presign", "admin stack", "admin bucket", "bench"])
def test_missing_credentials_are_reported_with_the_variables_to_set(
    line: str, variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, {"AWS_REGION": "eu-central-1", **variables})
    wired(monkeypatch, bucket_in("eu-central-1"))
    done = run(line)
    assert done.exit_code == (1 if line == "bench" else NO_CREDENTIALS), done.output
    assert re.search(message, done.stderr), done.stderr
    assert done.stdout == ""


EXAMPLES: dict[str, BaseException] = {
    "SSOTokenLoadError": boto.SSOTokenLoadError(error_msg="x"),
    "UnauthorizedSSOTokenError": boto.UnauthorizedSSOTokenError(),
    "TokenRetrievalError": boto.TokenRetrievalError(provider="sso", error_msg="Token has expired and refresh failed"),
    "LoginRefreshRequired": boto.LoginRefreshRequired(),
    "InvalidRegionError": boto.InvalidRegionError(region_name="eu central"),
    "NoRegionError": boto.NoRegionError(),
    "ConfigParseError": boto.ConfigParseError(path="~/.aws/config"),
    "MissingDependencyException": boto.MissingDependencyException(msg="awscrt"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_way_to_have_no_credentials_has_its_own_advice(name: str) -> None:
    reason = aws.unusable(EXAMPLES[name])
    assert reason
    assert re.search("AWS_|aws sso login|aws login", reason.remedy)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_the_end_of_a_line_is_no_part_of_a_variable(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a job, or of Windows, brings it along."""
    values = {**KEYS, "AWS_SESSION_TOKEN": "token", "AWS_REGION": "eu-central-1"}
    put(monkeypatch, {name: value + end for name, value in values.items()})
    wired(monkeypatch, bucket_in("eu-central-1"))
    session = aws.session_for_bucket("mine")
    found = session.get_credentials()
    assert found
    assert (found.access_key, found.secret_key, found.token) == ("AKIA", "x", "token")
    assert session.region_name == "eu-central-1"


@pytest.mark.parametrize("line", ["presign", "admin bucket"])
def test_credentials_that_no_header_can_hold_are_not_printed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**KEYS, "AWS_SESSION_TOKEN": "a\ntoken", "AWS_REGION": "eu-central-1"})
    error = boto.HTTPClientError(error=ValueError("Invalid header value b'a\\ntoken'"))
    wired(monkeypatch, lambda *_: error)
    done = run(line)
    assert (done.exit_code, "token" in done.output) == (NO_CREDENTIALS, False), done.output
    assert f"the AWS credentials hold a line break; {aws.LOG_IN}" in done.stderr


@pytest.mark.parametrize(
    "error",
    [boto.EndpointConnectionError(endpoint_url="https://x"), ClientError({"Error": {"Code": "AccessDenied"}}, "X")],
)
def test_an_unrelated_error_is_not_reported_as_missing_credentials(error: Exception) -> None:
    assert aws.unusable(error) is None


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_PROFILE": "wrok"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_CONFIG_FILE": "/proc/self/mem"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    ],
    ids=str,
)
def test_aws_settings_do_not_affect_the_local_stack(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, variables)
    s3 = local_session("AK", "SK", "us-east-1").client("s3", endpoint_url="http://127.0.0.1:1")
    assert s3.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k"}).startswith("http://127.0.0.1:1/b/k?")
    assert translate(load(TEMPLATE), TEMPLATE.parent, "us-east-1")["Resources"]
    assert not variables.items() & common_environment("", "us-east-1").items()


def test_the_upload_script_prints_the_same_words() -> None:
    script = (PROJECT / "scripts/upload").read_text()
    words = [aws.LOG_IN, aws.LOG_IN_AGAIN, aws.NO_REGION, aws.SET_REGION, aws.EXPIRED, aws.NOT_TAKEN, aws.SKEWED]
    assert [word for word in (*words, aws.SET_CLOCK) if word not in script] == []


def test_the_bench_reads_in_the_region_of_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {**KEYS, "AWS_REGION": "us-west-2"})
    wired(monkeypatch, bucket_in("eu-central-1", 200))
    assert hashing._region_that_has("mine", GOOD) == "eu-central-1"


def test_the_wire_answers_as_s3_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise these tests would prove nothing."""
    wire: Wire = wired(monkeypatch, bucket_in("eu-central-1"))
    client = local_session("AK", "SK", "us-west-2").client("s3")
    with pytest.raises(ClientError) as refused:
        client.get_object(Bucket="mine", Key="k")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert len({host for _, host, _ in wire.asked}) == 2, "boto3 followed the redirect"
