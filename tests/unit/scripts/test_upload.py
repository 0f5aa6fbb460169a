"""How `scripts/upload` identifies itself: with the variables and words of the other scripts, and the AWS CLI."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cli import aws
from local_stack.state import Stack
from tests.support import PROJECT, images

SCRIPT = PROJECT / "scripts/upload"
AT_AWS = "https://abc123.execute-api.eu-central-1.amazonaws.com"
ELSEWHERE = "https://uploads.example.org"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": 's3"\\cret'}

CURL = """#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in
    -K) cat "$2" >"$FAKE/who" ;;
    -o) printf '%s' "$SAYS" >"$2" ;;
  esac
  shift
done
printf '%s' "${STATUS:-403}"
"""
CLI = """#!/bin/sh
case "$*" in
  'configure get region') [ -n "$PROFILE_REGION" ] && echo "$PROFILE_REGION" ;;
  'configure export-credentials --format env-no-export')
    [ -z "$CLI_SAYS" ] || { echo "$CLI_SAYS" >&2; exit 255; }
    printf 'AWS_ACCESS_KEY_ID=ASIA\\nAWS_SECRET_ACCESS_KEY=a=b\\nAWS_SESSION_TOKEN=t==\\n' ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an image, and a `curl` that answers by itself."""
    (tmp_path / "image.tar.gz").write_bytes(images.unified_tarball())
    program(tmp_path, "curl", CURL)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(text)
    (folder / "bin" / name).chmod(0o755)


def upload(folder: Path, api: str, variables: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    """Run it with only these variables, on a machine with only the usual tools."""
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "FAKE": str(folder), **variables}
    return subprocess.run(
        ("sh", SCRIPT, "--api", api, "--to", "a/b/amd64/default", "--version", "20261123", *more,
         folder / "image.tar.gz"),
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def who(folder: Path) -> list[str]:
    """Return how it identified itself."""
    return (folder / "who").read_text().splitlines()


@pytest.mark.parametrize(
    ("api", "variables", "region"),
    [
        (AT_AWS, {}, "eu-central-1"),
        (AT_AWS, {"AWS_REGION": "us-west-2"}, "eu-central-1"),
        (ELSEWHERE, {"AWS_REGION": "us-west-2"}, "us-west-2"),
        (ELSEWHERE, {"AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
        (ELSEWHERE, {"AWS_REGION": "eu-north-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-north-1"),
        (ELSEWHERE, {"AWS_REGION": "", "AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
        (ELSEWHERE, {"PROFILE_REGION": "eu-west-3"}, "eu-west-3"),
    ],
)
def test_requests_are_signed_for_the_region_that_the_other_scripts_use(
    folder: Path, api: str, variables: dict[str, str], region: str
) -> None:
    program(folder, "aws", CLI)
    upload(folder, api, KEYS | variables)
    assert who(folder) == [f'aws-sigv4 = "aws:amz:{region}:execute-api"', 'user = "AKIA:s3\\"\\\\cret"']


def test_values_missing_from_the_environment_come_from_the_aws_cli(folder: Path) -> None:
    program(folder, "aws", CLI)
    upload(folder, AT_AWS, {"AWS_PROFILE": "work"})
    assert who(folder)[1:] == ['user = "ASIA:a=b"', 'header = "x-amz-security-token: t=="']


def test_the_local_stack_ignores_keys_that_are_set_for_aws(folder: Path) -> None:
    """People who work with AWS have some in the environment, and the README's walk names no caller."""
    state = folder / "state"
    state.mkdir()
    api = "https://localhost:8443"
    Stack(api, "ca.pem", "http://127.0.0.1:9", "b", "us-east-1", os.getpid(), api, "AK", "SK").write(state)
    upload(folder, "", KEYS, "--state-dir", str(state))
    assert who(folder) == ['header = "X-Local-Caller: local"']
    upload(folder, api, KEYS | {"AWS_REGION": "eu-central-1"})
    assert who(folder)[1:] == ['user = "AKIA:s3\\"\\\\cret"'], "a caller of choice, where the address is named"


def test_variables_take_precedence_over_a_profile_as_in_boto3(folder: Path) -> None:
    program(folder, "aws", CLI)
    upload(folder, AT_AWS, KEYS | {"AWS_PROFILE": "work", "AWS_SESSION_TOKEN": "mine"})
    assert who(folder)[1:] == ['user = "AKIA:s3\\"\\\\cret"', 'header = "x-amz-security-token: mine"']


SSO = "The SSO session associated with this profile has expired. To refresh this SSO session run aws sso login"


@pytest.mark.parametrize(
    ("api", "variables", "has_cli", "message"),
    [
        (AT_AWS, {}, False, f"there are no AWS credentials; {aws.LOG_IN}"),
        (
            AT_AWS,
            {"AWS_PROFILE": "work"},
            False,
            f"there are no AWS credentials in variables, and no AWS CLI that reads AWS_PROFILE; {aws.LOG_IN}",
        ),
        (AT_AWS, {"AWS_ACCESS_KEY_ID": "AKIA"}, True, f"the AWS credentials are not complete; {aws.LOG_IN}"),
        (AT_AWS, {"CLI_SAYS": SSO}, True, f"there are no AWS credentials: {SSO}; {aws.LOG_IN}"),
        (AT_AWS, {"CLI_SAYS": "usage: aws [options]"}, True, "the AWS CLI hands them out from version 2.9 on"),
        (ELSEWHERE, KEYS, False, f"{aws.NO_REGION}; {aws.SET_REGION} {ELSEWHERE}"),
        (ELSEWHERE, KEYS, True, f"{aws.NO_REGION}; {aws.SET_REGION} {ELSEWHERE}"),
    ],
)
def test_missing_settings_are_reported_before_anything_is_sent(
    folder: Path, api: str, variables: dict[str, str], has_cli: bool, message: str
) -> None:
    if has_cli:
        program(folder, "aws", CLI)
    done = upload(folder, api, variables)
    assert (done.returncode, done.stdout) == (7, "")
    assert message in done.stderr
    assert not (folder / "who").exists(), "nothing was sent"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("The security token included in the request is expired", f"upload: {aws.EXPIRED} ("),
        ("The security token included in the request is invalid.", f"upload: {aws.NOT_TAKEN} ("),
        ("The request signature we calculated does not match the signature you", f"upload: {aws.NOT_TAKEN} ("),
        ("Signature expired: 20261123T100000Z is now earlier than 20261123T101500Z", f"upload: {aws.SKEWED} ("),
        ("Forbidden", 'upload: the API answers 403: {"message":"Forbidden"}'),
    ],
)
def test_each_kind_of_rejected_credentials_has_its_own_message(folder: Path, body: str, message: str) -> None:
    done = upload(folder, AT_AWS, KEYS | {"SAYS": f'{{"message":"{body}"}}'})
    assert (done.returncode, done.stdout) == (7, "")
    assert message in done.stderr
    assert body in done.stderr


def test_the_json_form_ends_with_one_object(folder: Path) -> None:
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "FAKE": str(folder)}
    done = subprocess.run(
        ("sh", SCRIPT, "--api", AT_AWS, "--json", "--to", "a/b/amd64/default", folder / "image.tar.gz"),
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, '"status": "forbidden"' in done.stdout) == (7, True), done
