"""The example job: a real daemon launches the candidate, the result is posted, and a channel that requires it moves."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cli.admin.__main__ import main as admin_main
from tests.support import PROJECT
from tests.support.images import ImageBuilder
from tests.support.processes import need
from tests.support.real_clients import Client, daemon_of, running_daemon
from tests.support.stack import ARCH, Stack, local_stack, version_prefix

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]

ACTION = PROJECT / "infra/action/boots/action.yml"
USER = "arn:aws:iam::123456789012:user"
PUBLISHERS = {f"{USER}/boot": ["check:boots:alpine/"], f"{USER}/ann": ["alpine/", "promote:stable"]}


@dataclass
class Server:
    """A stack with a channel that requires the check `boots`, and an image that boots."""

    stack: Stack
    path: str
    fingerprint: str


@pytest.fixture(scope="module")
def server(image_builder: ImageBuilder) -> Iterator[Server]:
    need("curl")
    given = ("--parameter", "Views=true", "--parameter", f"Publishers={json.dumps(PUBLISHERS)}")
    with local_stack("--empty", *given) as stack:
        admin(stack, "view", "create", "stable", "--channel", "--streams", "images", "--require", "boots")
        files = image_builder.split_squashfs("boots")
        stack.upload(version_prefix("boots"), files)
        fingerprint = image_builder.sha256(*files.values())
        stack.wait_until_listed(fingerprint)
        yield Server(stack, version_prefix("boots").rstrip("/"), fingerprint)


@pytest.fixture(scope="module", params=["lxc", "incus"])
def daemon(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    """Yield a real LXD, then a real Incus."""
    need(daemon_of(request.param), request.param, root=True)
    with running_daemon(request.param, server.stack.ca_file) as talk:
        yield talk


def admin(stack: Stack, *line: str, code: int = 0) -> str:
    done = CliRunner().invoke(admin_main, [*line, "--state-dir", str(stack.folder / "state")])
    assert done.exit_code == code, f"{line}: {done.output} {done.exception}"
    return done.output


def job(server: Server, daemon: Client, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the action's only step like a runner, as the caller `boot`."""
    action: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    (step,) = action["runs"]["steps"]
    given = {name: about.get("default", "") for name, about in action["inputs"].items()}
    given |= {"api": server.stack.facts["api_url"], "address": server.stack.base_url, "path": server.path}
    context = {f"${{{{ inputs.{name} }}}}": value for name, value in (given | inputs).items()}
    context["${{ github.action_path }}"] = str(ACTION.parent)
    variables = {name: context.get(value, "https://ci.example.net/run/1") for name, value in step["env"].items()}
    about = {"AWS_ACCESS_KEY_ID": "boot", "AWS_SECRET_ACCESS_KEY": "any", "CURL_CA_BUNDLE": server.stack.ca_file}
    environment = {**os.environ, **daemon.env, **variables, **about}
    return subprocess.run(
        ("sh", "-e", "-c", step["run"]), env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def results(server: Server) -> dict[str, Any]:
    (version,) = json.loads(admin(server.stack, "show", server.path, "--json"))
    found: dict[str, Any] = version.get("checks", {})
    return found


def test_a_candidate_that_boots_passes_and_can_be_promoted(server: Server, daemon: Client) -> None:
    done = job(server, daemon, client=daemon.program)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert re.search(r"^check boots passed .*user/boot$", done.stdout, re.MULTILINE)
    boots = results(server)["boots"]
    assert (boots["passed"], boots["tested"], boots["url"]) == (
        True,
        [server.fingerprint],
        "https://ci.example.net/run/1",
    )
    assert daemon("list", "--format", "csv").stdout == ""
    admin(server.stack, "promote", server.path, "--to", "stable")
    document = "stable/streams/v1/images.json"
    server.stack.wait_until(lambda: server.fingerprint in server.stack.get(document)[1].decode(), "stable lists it")
    daemon.add_remote(f"{server.stack.base_url}/stable/")
    assert daemon.fingerprints() == {server.fingerprint}
    daemon("remote", "remove", "here")


def test_a_candidate_whose_guest_does_not_run_the_command_fails_and_is_not_promoted(
    server: Server, daemon: Client, tmp_path: Path
) -> None:
    daemon("remote", "add", "candidate", server.stack.base_url, "--protocol", "simplestreams")
    line = [str(ACTION.parent / "boots.sh"), "--path", server.path, "--remote", "candidate", "--with", daemon.program]
    line += ["--api", server.stack.facts["api_url"], "--patience", "2", "--", "false"]
    about = {"AWS_ACCESS_KEY_ID": "boot", "AWS_SECRET_ACCESS_KEY": "any", "CURL_CA_BUNDLE": server.stack.ca_file}
    done = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, **daemon.env, **about}, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    daemon("remote", "remove", "candidate")
    assert done.returncode == 1, f"{done.stdout}{done.stderr}"
    assert results(server)["boots"]["passed"] is False
    assert daemon("list", "--format", "csv").stdout == ""
    assert "the check boots failed on" in admin(server.stack, "promote", server.path, "--to", "stable", code=1)


def test_an_unknown_version_gets_no_result(server: Server, daemon: Client) -> None:
    missing = f"images/alpine/boots/{ARCH}/default/20260101_10:00"
    done = job(server, daemon, client=daemon.program, path=missing)
    assert done.returncode == 3, f"{done.stdout}{done.stderr}"
    assert "nothing was posted" in done.stderr
