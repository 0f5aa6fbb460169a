"""scripts/presign, and the stack.json that it reads."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from cli import presign
from imageserver.format.caching import BRIEF, IMMUTABLE
from local_stack.errors import NotRunning
from local_stack.state import Stack, read_stack, remove_stack

GOOD = "images/ubuntu/xenial/amd64/default/20261123_10:00/lxd.tar.xz"
ROOT = "images/ubuntu/xenial/amd64/default/20261123_10:00/rootfs.squashfs"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Write the stack.json of a stack that seems to run in this process; its endpoint does not answer."""
    running = Stack(
        "https://localhost:1", "ca.pem", "http://127.0.0.1:9", "b", "us-east-1", os.getpid(), "", "AK", "SK"
    )
    running.write(tmp_path)
    yield running
    remove_stack(tmp_path)


def test_stack_json_has_its_documented_fields(stack: Stack, tmp_path: Path) -> None:
    facts = json.loads((tmp_path / "stack.json").read_text())
    assert {"base_url", "ca_file", "s3_endpoint", "bucket", "region", "pid", "api_url"} <= set(facts)
    assert read_stack(tmp_path) == stack


def test_a_dead_stack_is_not_found(stack: Stack, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    facts = json.loads((tmp_path / "stack.json").read_text())
    (tmp_path / "stack.json").write_text(json.dumps({**facts, "pid": ended.pid}))
    with pytest.raises(NotRunning, match="is gone"):
        read_stack(tmp_path)
    remove_stack(tmp_path)
    with pytest.raises(NotRunning, match=r"start \./scripts/local"):
        read_stack(tmp_path)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(presign.main, [str(argument) for argument in arguments])


def test_presign_prints_one_bare_url_for_each_key(stack: Stack, tmp_path: Path) -> None:
    done = run(GOOD, ROOT, "--overwrite", "--expires", "60", "--state-dir", tmp_path)
    assert done.exit_code == 0
    urls = [line for line in done.stdout.splitlines() if line.startswith("http")]
    assert len(urls) == 2
    query = parse_qs(urlsplit(urls[0]).query)
    assert (query["X-Amz-Algorithm"], query["X-Amz-Expires"]) == (["AWS4-HMAC-SHA256"], ["60"])
    assert urlsplit(urls[0]).path == f"/b/{GOOD.replace(':', '%3A')}"
    curl = f"curl --fail-with-body -K - -H 'Cache-Control: {IMMUTABLE}' -T lxd.tar.xz"
    assert f"echo 'url = \"{urls[0]}\"' | {curl}\n" in done.stdout
    assert query["X-Amz-SignedHeaders"] == ["host"], "the URL alone is enough where it may overwrite"


def test_presign_as_json(stack: Stack, tmp_path: Path) -> None:
    (upload,) = json.loads(run(GOOD, "--overwrite", "--json", "--state-dir", tmp_path).stdout)
    assert set(upload) == {"key", "url", "method", "headers", "expires_in", "curl"}
    headers = {"Cache-Control": IMMUTABLE}
    assert (upload["key"], upload["method"], upload["headers"], upload["expires_in"]) == (GOOD, "PUT", headers, 3600)


def test_the_line_that_presign_prints_sends_every_header_that_its_url_signs(stack: Stack, tmp_path: Path) -> None:
    client, bucket = presign._local(tmp_path)
    for file, lifetime in (("lxd.tar.xz", IMMUTABLE), ("disk.20261101.qcow2.vcdiff", IMMUTABLE), ("SHA256SUMS", BRIEF)):
        upload = presign.presign(client, bucket, f"{GOOD.rpartition('/')[0]}/{file}", 60, overwrite=False)
        assert upload.headers == {"Cache-Control": lifetime, "If-None-Match": "*"}
        sent = {word.partition(": ")[0].lower() for word in shlex.split(upload.curl) if ": " in word}
        assert parse_qs(urlsplit(upload.url).query)["X-Amz-SignedHeaders"] == [";".join(sorted({"host", *sent}))]


def test_presign_refuses_a_key_with_the_servers_sentence_and_prints_no_url_at_all(stack: Stack, tmp_path: Path) -> None:
    from imageserver.errors import InvalidUpload
    from imageserver.format.keys import parse_key

    bad = GOOD.replace("xenial", "xe nial")
    with pytest.raises(InvalidUpload) as refusal:
        parse_key(bad)
    done = run(GOOD, bad, "--overwrite", "--state-dir", tmp_path)
    assert (done.exit_code, done.stdout) == (presign.REFUSED, "")
    assert str(refusal.value) in done.stderr


def test_presign_without_a_stack_prints_how_to_start_one_and_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(GOOD, "--state-dir", "nowhere")
    assert (done.exit_code, done.stdout) == (presign.NO_STACK, "")
    assert f"no local stack is running with the state folder {tmp_path}/nowhere: " in done.stderr
    assert "start ./scripts/local, or name a bucket in AWS with --bucket" in done.stderr
