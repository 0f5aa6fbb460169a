"""The runbook's recovery from a bad deployment, from a release that cannot start to a doctor without findings.

The stack runs a copy of the project, so that a release can be replaced like in a deployment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support import PROJECT, images
from tests.support.client_rules import read_catalog
from tests.support.stack import Stack, local_stack

pytestmark = pytest.mark.timeout(300)

PRODUCT = "images/ubuntu/noble/amd64/default"
BEFORE, DURING, NEWER = (f"{PRODUCT}/2026112{day}_10:00" for day in (1, 2, 3))
BAD = "raise RuntimeError('a release that does not start')\n"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("functions", "infra", "scripts"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in tmp_path.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)  # the clone may be read-only
    return tmp_path


@pytest.fixture
def stack(copy: Path) -> Iterator[Stack]:
    with local_stack("--empty", code=copy) as running:
        yield running


def deploy(stack: Stack, copy: Path, release: dict[str, str]) -> None:
    """Install the sources of a release, file -> text, and end the workers of the one before."""
    for file, text in release.items():
        (copy / "functions" / file).write_text(text)
    for process, _ in stack.workers("imageserver.handlers.digest.handler", "imageserver.handlers.publish.handler"):
        os.kill(process, signal.SIGKILL)


def queues(stack: Stack) -> Any:
    facts = stack.facts
    session = boto3.Session(facts["access_key_id"], facts["secret_access_key"], region_name=facts["region"])
    return session.client("sqs", endpoint_url=facts["s3_endpoint"])


def impatient(stack: Stack) -> None:
    """Let messages come back after a second instead of many minutes."""
    sqs = queues(stack)
    for url in sqs.list_queues()["QueueUrls"]:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "1"})


def admin(stack: Stack, *arguments: str) -> tuple[int, Any]:
    """Return exit code and answer of `scripts/admin --json`."""
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), "--json", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, json.loads(done.stdout)


def upload(stack: Stack, path: str) -> None:
    for name, body in images.split_image(seed=path).items():
        stack.s3().put_object(Bucket=stack.bucket, Key=f"{path}/{name}", Body=body)


def listed(stack: Stack) -> set[str]:
    found = read_catalog(*stack.catalog())
    return {download.path.rpartition("/")[0] for image in found for download in image.files.values()}


def test_the_previous_release_processes_what_a_bad_deployment_left_behind(stack: Stack, copy: Path) -> None:
    impatient(stack)
    good = {
        file: (copy / "functions" / file).read_text()
        for file in (f"imageserver/handlers/{name}.py" for name in ("digest", "publish"))
    }
    upload(stack, BEFORE)
    stack.wait_until(lambda: listed(stack) == {BEFORE}, "the first version")

    deploy(stack, copy, dict.fromkeys(good, BAD))
    upload(stack, DURING)
    # A bad newer release wrote this record, which this release does not understand.
    stack.s3().put_object(Bucket=stack.bucket, Key=f"versions/{NEWER}.json", Body=b'{"schema": 99}')
    with_letters = stack.wait_until(lambda: _findings(stack, "dead letter") or None, "dead letters")
    assert all(one["remedy"] for one in with_letters)
    assert listed(stack) == {BEFORE}  # it is served all the time

    deploy(stack, copy, good)  # the release before it
    upload(stack, NEWER)
    _, letters = admin(stack, "redrive", "--yes")
    assert {DURING} <= {key.rpartition("/")[0] for letter in letters for key in letter["keys"]}
    assert admin(stack, "rebuild", "records", PRODUCT, "--yes")[0] == 0
    admin(stack, "reconcile")
    stack.wait_until(lambda: listed(stack) == {BEFORE, DURING, NEWER}, "all three versions")
    stack.wait_until(lambda: _finds_nothing(stack), "a doctor that finds nothing")
    assert admin(stack, "verify", "--sample", "50")[0] == 0


def _findings(stack: Stack, word: str) -> list[dict[str, str]]:
    return [one for one in admin(stack, "doctor")[1] if word in one["what"]]


def _finds_nothing(stack: Stack) -> bool:
    """Redrive first: messages with one try left may still have become dead letters after the good release started."""
    admin(stack, "redrive", "--yes")
    return not _findings(stack, "")
