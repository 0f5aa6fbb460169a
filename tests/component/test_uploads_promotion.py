"""Promotion and checks through the API of a local stack: rights, refusals, and what clients then see."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.admin.__main__ import main as admin_main
from tests.support import PROJECT, documented, images
from tests.support.processes import need
from tests.support.stack import Stack, local_stack
from tests.support.upload_api import Answer, send

pytestmark = [pytest.mark.xdist_group("uploads-promotion"), pytest.mark.timeout(300)]

NOBLE = "images/ubuntu/noble/amd64/default"
OLD, NEW = f"{NOBLE}/20261122_1000", f"{NOBLE}/20261123_1000"
USER = "arn:aws:iam::123456789012:user"
PUBLISHERS = {
    f"{USER}/ann": ["ubuntu/", "promote:stable", "promote:tested", "check:boots"],
    f"{USER}/bob": ["ubuntu/"],
    f"{USER}/boot": ["check:boots:ubuntu/"],
}


def fingerprint(path: str) -> str:
    metadata, root = images.split_image(seed=path).values()
    return images.sha256_hex(metadata + root)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Yield a server with two versions of a product and two channels, one of which requires a check."""
    given = ("--parameter", "Views=true", "--parameter", f"Publishers={json.dumps(PUBLISHERS)}")
    with local_stack("--empty", *given) as running:
        for path in (OLD, NEW):
            for file, body in images.split_image(seed=path).items():
                running.s3().put_object(Bucket=running.bucket, Key=f"{path}/{file}", Body=body)
            running.wait_until_listed(fingerprint(path))
        admin(running, "view", "create", "stable", "--channel", "--streams", "images")
        admin(running, "view", "create", "tested", "--channel", "--streams", "images", "--require", "boots")
        yield running


def admin(stack: Stack, *line: str) -> str:
    done = CliRunner().invoke(admin_main, [*line, "--state-dir", str(stack.folder / "state")])
    assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"
    return done.stdout


def ask(stack: Stack, caller: str, route: str, **body: object) -> Answer:
    url, sent = f"{stack.facts['api_url']}/{route}", json.dumps(body).encode()
    return send("POST", url, sent, {"X-Local-Caller": caller}, Path(stack.ca_file))


def shows(stack: Stack, channel: str, path: str) -> None:
    """Wait until a channel lists only this version of the product."""
    document = f"{channel}/streams/v1/images.json"

    def listed() -> bool:
        body = stack.get(document)[1].decode()
        return [path] == [one for one in (OLD, NEW) if fingerprint(one) in body]

    stack.wait_until(listed, f"{channel} shows {path}")


def test_a_publisher_with_the_right_moves_the_channel_that_clients_read_and_others_are_refused(stack: Stack) -> None:
    assert ask(stack, "ann", "promotions", path=OLD, channel="stable").status == 200
    shows(stack, "stable", OLD)
    refused = ask(stack, "bob", "promotions", path=NEW, channel="stable")
    assert (refused.status, refused.json["type"]) == (403, "urn:simplestreams:problem:forbidden")
    assert "the operator grants promote:stable" in refused.detail
    assert ask(stack, "stranger", "promotions", path=NEW, channel="stable").status == 403
    assert ask(stack, "ann", "promotions", path=NEW, channel="stable").json["before"] == "20261122_1000"
    shows(stack, "stable", NEW)
    promotions = json.loads(admin(stack, "view", "show", "stable", "--json"))["channel"][NOBLE]
    assert [(one["version"], one["by"]) for one in promotions] == [
        ("20261122_1000", f"{USER}/ann"),
        ("20261123_1000", f"{USER}/ann"),
    ]


def test_a_channel_that_requires_a_check_waits_for_the_result_of_a_job(stack: Stack) -> None:
    lacking = ask(stack, "ann", "promotions", path=NEW, channel="tested")
    assert (lacking.status, lacking.json["missing"]) == (409, {"boots": "has no result"})
    result: dict[str, Any] = {"path": NEW, "check": "boots", "fingerprints": [fingerprint(NEW)], "url": "https://ci/1"}
    assert ask(stack, "bob", "checks", **result, passed=True).status == 403
    assert ask(stack, "boot", "checks", **result | {"fingerprints": [fingerprint(OLD)]}, passed=True).status == 409
    assert ask(stack, "boot", "checks", **result, passed=False).status == 200
    assert "failed on" in ask(stack, "ann", "promotions", path=NEW, channel="tested").json["missing"]["boots"]
    assert ask(stack, "boot", "checks", **result, passed=True).status == 200
    assert ask(stack, "ann", "promotions", path=NEW, channel="tested").json["after"] == "20261123_1000"
    shows(stack, "tested", NEW)
    assert re.search(r"check boots: passed on .* posted by .*user/boot \(https://ci/1\)", admin(stack, "show", NEW))
    assert re.search(r"tested: promoted on .* by .*user/ann", admin(stack, "show", NEW))


def test_the_curl_lines_of_the_api_page_post_a_result_promote_and_revert(stack: Stack, tmp_path: Path) -> None:
    need("curl")
    page = (PROJECT / "functions/API.md").read_text()
    wanted = r"\(umask 077; printf|curl -K who .*/(checks|promotions)"
    lines = [line for line in page.splitlines() if re.match(wanted, line)]
    assert len(lines) == 4
    assert ask(stack, "ann", "promotions", path=OLD, channel="stable").status == 200
    given = {"API": stack.facts["api_url"], "CURL_CA_BUNDLE": stack.ca_file, "AWS_REGION": "us-east-1"}
    given |= {"AWS_ACCESS_KEY_ID": "ann", "AWS_SECRET_ACCESS_KEY": "any", "path": NEW, "fingerprint": fingerprint(NEW)}
    for line in lines:
        done = subprocess.run(
            ("sh", "-c", line), cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stdout} {done.stderr}"
    back = json.loads(done.stdout)
    assert (back["before"], back["after"]) == ("20261123_1000", "20261122_1000")
    shows(stack, "stable", OLD)


def upload(stack: Stack, caller: str, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `scripts/upload` as the publisher with this access key."""
    who = {"AWS_ACCESS_KEY_ID": caller, "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    about = {"SIMPLESTREAMS_API": stack.facts["api_url"], "CURL_CA_BUNDLE": stack.ca_file, "HOME": str(folder)}
    return subprocess.run(
        (str(PROJECT / "scripts/upload"), *arguments), env={**os.environ, **who, **about}, capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip


def test_the_lines_for_a_publisher_promote_a_version_that_has_passed_and_revert_it(
    stack: Stack, tmp_path: Path
) -> None:
    need("curl")
    assert ask(stack, "ann", "promotions", path=OLD, channel="stable").status == 200
    result: dict[str, Any] = {"path": NEW, "check": "boots", "fingerprints": [fingerprint(NEW)]}
    assert ask(stack, "boot", "checks", **result, passed=True).status == 200
    forward, back = documented.script("promotion by a publisher")
    for line, shown in ((forward, NEW), (back, OLD)):
        done = upload(stack, "ann", *line.split()[1:], folder=tmp_path)
        assert (done.returncode, f"stable shows {shown}" in done.stderr) == (0, True), done.stderr
        shows(stack, "stable", shown)


def test_a_publisher_learns_which_right_or_check_is_missing(stack: Stack, tmp_path: Path) -> None:
    need("curl")
    about = ("--to", "ubuntu/noble/amd64/default", "--version", "20261123_1000", "--promote")
    refused = upload(stack, "bob", *about, "stable", folder=tmp_path)
    assert (refused.returncode, "grants promote:stable" in refused.stderr) == (7, True), refused.stderr
    refused = upload(stack, "ann", "--json", *about, "stable", "--require", "scan", folder=tmp_path)
    assert (refused.returncode, json.loads(refused.stdout)["status"]) == (3, "not-promoted"), refused.stderr
    assert "the check scan has no result" in refused.stderr


def test_files_are_promoted_once_they_are_listed(stack: Stack, tmp_path: Path) -> None:
    need("curl")
    newest = f"{NOBLE}/20261124_1000"
    for name, body in images.split_image(seed=newest).items():
        (tmp_path / name).write_bytes(body)
    files = sorted(tmp_path.iterdir())
    about = ("--json", "--to", "ubuntu/noble/amd64/default", "--version", "20261124_1000", "--promote", "stable")
    done = upload(stack, "ann", *about, *files, folder=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fingerprints"] == [fingerprint(newest)]
    document = "stable/streams/v1/images.json"
    stack.wait_until(lambda: fingerprint(newest) in stack.get(document)[1].decode(), "stable shows the upload")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--promote", "stable"), "Name it with --version"),
        (("--back",), "name it with --promote"),
        (("--require", "boots"), "name it with --promote"),
        (("--promote", "stable", "--back", "rootfs.squashfs"), "leave the files out"),
        (("--promote", "stable", "--wait", "0", "rootfs.squashfs"), "leave --wait 0 out"),
    ],
)
def test_a_promotion_that_makes_no_sense_is_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    line = (str(PROJECT / "scripts/upload"), "--to", "ubuntu/noble/amd64/default", *arguments)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
