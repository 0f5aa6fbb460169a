"""The commands printed by the tools and the page, run unchanged against the local S3 and a real one."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cli.presign import Upload, presign
from imageserver.format.keys import parse_key
from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from local_stack.state import Stack, remove_stack
from page import build
from tests.support import PROJECT, documented, images, upload_api
from tests.support.processes import need
from tests.support.upload_api import REGION, System, send

pytestmark = pytest.mark.xdist_group("printed-commands")

VERSION = "images/ubuntu/noble/amd64/default/20261123_1000"
BODY = b"bytes of a file"


@pytest.fixture(scope="module", params=["local", pytest.param("versitygw", marks=pytest.mark.real_s3)])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    need("curl")
    with upload_api.system(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def state(system: System, tmp_path: Path) -> Iterator[Path]:
    """Yield the state folder of a local stack with this S3."""
    folder = tmp_path / "state"
    folder.mkdir()
    where = (system.api_url, str(system.ca_file), system.endpoint, system.bucket, REGION)
    Stack(*where, os.getpid(), system.api_url, ACCESS_KEY, SECRET_KEY).write(folder)
    yield folder
    remove_stack(folder)


def made(system: System, name: str, overwrite: bool = False, expires_s: int = 60) -> Upload:
    return presign(system.s3, system.bucket, f"{VERSION}/{name}", expires_s, overwrite)


def run_presign(line: str, state: Path) -> list[str]:
    """Return the curl lines that a printed `./scripts/presign …` prints."""
    script, *keys = line.split()
    assert script == "./scripts/presign"
    command = [sys.executable, "-m", "cli.presign", *keys, "--state-dir", str(state)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT / "scripts").stdout
    return [line for line in printed.splitlines() if "| curl " in line]


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_curl_line_of_presign_uploads(system: System, tmp_path: Path, overwrite: bool) -> None:
    name = f"{overwrite}.squashfs"
    upload = made(system, name, overwrite)
    (tmp_path / name).write_bytes(BODY)
    for expected in (True, overwrite):  # the second time a file exists
        done = subprocess.run(["sh", "-c", upload.curl], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is expected, done.stdout
    assert system.stored(upload.key) == BODY


def test_a_url_that_may_overwrite_needs_no_header(system: System) -> None:
    upload = made(system, "bare.squashfs", overwrite=True)
    for body in (BODY, BODY + b"again"):
        assert send("PUT", upload.url, body).status == 200
        assert system.stored(upload.key) == body


def test_the_guide_of_the_page_uploads_an_image(system: System, state: Path, tmp_path: Path) -> None:
    (line,) = re.findall(r"`(\./scripts/presign [^`]*)`", (build.SOURCE / "commands.js").read_text())
    guide = line.replace("${version}", "20261123_1000")
    lines = run_presign(guide, state)
    keys = [parse_key(word) for word in guide.split()[1:]]
    assert len(lines) == len(keys) == 2
    for key, curl in zip(keys, lines, strict=True):
        (tmp_path / key.file).write_bytes(BODY)
        subprocess.run(["sh", "-c", curl], cwd=tmp_path, check=True, capture_output=True)
        assert system.stored(key.key) == BODY


@contextlib.contextmanager
def ingesting(system: System) -> Iterator[None]:
    """Ingest each version whose files change, like the functions on S3's events."""
    over = threading.Event()

    def watch() -> None:
        seen: dict[str, set[str]] = {}
        while not over.wait(0.2):
            there: dict[str, set[str]] = {}
            for item in system.s3.list_objects_v2(Bucket=system.bucket, Prefix="images/").get("Contents", []):
                there.setdefault(item["Key"].rpartition("/")[0], set()).add(item["Key"] + item["ETag"])
            for version in [version for version in there if there[version] != seen.get(version)]:
                system.ingest(version)
            seen = there

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_commands_of_the_page_for_publishers_upload_what_they_name(
    system: System, state: Path, tmp_path: Path
) -> None:
    """Line for line, with the API's address in place of the example, in a folder with the named files."""
    noble, trixie, mine = (images.split_image(seed=f"{system.name} {name}") for name in ("noble", "trixie", "mine"))
    incus = {"incus.tar.xz": trixie["lxd.tar.xz"], "rootfs.squashfs": trixie["rootfs.squashfs"]}
    exported = {"meta-1f2e….tar.xz": noble["lxd.tar.xz"], "1f2e….squashfs": noble["rootfs.squashfs"]}
    for folder, files in {".": exported, "build": incus, "my-image": mine}.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, body in files.items():
            (tmp_path / folder / name).write_bytes(body)
    (tmp_path / "scripts").mkdir()
    for copy in ("upload", "scripts/upload"):
        shutil.copy(PROJECT / "scripts/upload", tmp_path / copy)
    presigning = f'cd {PROJECT}/scripts && exec {sys.executable} -m cli.presign --state-dir {state} "$@"'
    (tmp_path / "scripts/presign").write_text(f"#!/bin/sh\n{presigning}\n")
    (tmp_path / "scripts/presign").chmod(0o755)
    page = "\n".join(documented.script("publish")).replace("/path/to", str(tmp_path))
    (example,) = re.findall("https://[a-z0-9]*.execute-api.*", page)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    about = {"HOME": str(tmp_path), "CURL_CA_BUNDLE": str(system.ca_file)}
    with ingesting(system):
        done = subprocess.run(
            ("sh", "-ec", page.replace(example, system.api_url)),
            cwd=tmp_path, env=kept | about, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lxc launch mine:ubuntu/noble\n" in done.stdout, "as the page says in the next line"
    assert "launch mine:debian/trixie\n" in done.stdout
    for line in (line for line in done.stdout.splitlines() if "| curl " in line):
        subprocess.run(("sh", "-c", line), cwd=tmp_path / "my-image", check=True, capture_output=True)
    assert {name: system.stored(f"{VERSION}/{name}") for name in mine} == mine


def test_without_a_header_that_the_url_signs_nothing_is_stored(system: System) -> None:
    upload = made(system, "refused.squashfs")
    (signed,) = parse_qs(urlsplit(upload.url).query)["X-Amz-SignedHeaders"]
    assert set(signed.split(";")) == {"host", *map(str.lower, upload.headers)}
    tries: list[dict[str, str]] = [{}]
    tries += [{k: v for k, v in upload.headers.items() if k != left_out} for left_out in upload.headers]
    tries += [{**upload.headers, other: '"x"'} for other in upload.headers]
    for headers in tries:
        answer = send("PUT", upload.url, BODY, headers)
        assert answer.status == 403, headers
        assert b"<Code>SignatureDoesNotMatch</Code>" in answer.body
    assert system.stored(upload.key) is None


def test_a_changed_or_expired_url_is_refused(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = made(system, "expired.squashfs")
    answer = send("PUT", upload.url.replace("expired", "another"), BODY, upload.headers)
    assert (answer.status, b"<Code>SignatureDoesNotMatch</Code>" in answer.body) == (403, True)
    past = datetime.now(UTC) - timedelta(hours=2)

    def then(remove_tzinfo: bool = True) -> datetime:
        return past.replace(tzinfo=None) if remove_tzinfo else past

    for signer in ("botocore.auth", "botocore.crt.auth"):  # with awscrt botocore uses that clock
        monkeypatch.setattr(f"{signer}.get_current_datetime", then)
    upload = made(system, "expired.squashfs")
    answer = send("PUT", upload.url, BODY, upload.headers)
    assert (answer.status, b"<Code>AccessDenied</Code>" in answer.body) == (403, True), answer.body
