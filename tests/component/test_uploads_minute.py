"""`scripts/upload` and curl on a real API: versions named after the minute, and the recipe of functions/API.md."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import images, upload_api
from tests.support.processes import need
from tests.support.servers.recording_api import VERSION, RecordingApi, upload
from tests.support.upload_api import System
from tests.support.upload_script import SCRIPT, environment, programs

# `api` lasts for the module: one worker, so that it is made once.
pytestmark = pytest.mark.xdist_group("uploads-minute")


MINUTE = 'case "$*" in +%s) echo 1795450000 ;; *) exec /usr/bin/env -i /bin/date "$@" ;; esac'
"""A `date` that always prints 2026-11-23 16:06:40 UTC."""
NAMED = [f"20261123_16{minute:02}" for minute in range(6, 12)]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    need("curl")
    with upload_api.system("local", tmp_path_factory.mktemp("api")) as running:
        yield running


def upload_now(system: System, folder: Path, to: str, *arguments: str, **files: bytes) -> tuple[int, str, str]:
    """Upload these files in the minute above; return exit code, the version's name and all earlier output."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    paths = [folder / name.replace("_", ".") for name in files]
    about = {"SIMPLESTREAMS_API": system.api_url, "CURL_CA_BUNDLE": str(system.ca_file)}
    done = subprocess.run(
        (SCRIPT, "--to", to, "--wait", "0", *arguments, *paths),
        env=environment(folder, PATH=programs(folder, date=MINUTE), **about),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    *before, last = done.stderr.splitlines()
    return done.returncode, last.removesuffix(" is uploaded").rpartition("/")[2], "\n".join(before)


def test_joining_a_version_of_the_same_minute_is_reported(api: System, tmp_path: Path) -> None:
    to, metadata = "minute/joins/amd64/default", images.metadata_tarball(serial="joins")
    container = {"lxd_tar_xz": metadata, "rootfs_squashfs": images.squashfs("joins")}
    assert upload_now(api, tmp_path / "c", to, **container) == (0, NAMED[0], "")
    assert upload_now(api, tmp_path / "again", to, **container) == (0, NAMED[0], "")
    machine = {"lxd_tar_xz": metadata, "disk_qcow2": images.qcow2()}
    message = f"joins {NAMED[0]}, which has rootfs.squashfs already"
    assert upload_now(api, tmp_path / "vm", to, **machine) == (0, NAMED[0], message)


def test_conflicting_content_takes_the_next_minute_within_a_limit(api: System, tmp_path: Path) -> None:
    to = "minute/next/amd64/default"
    for number, name in enumerate(NAMED):
        passed = [f"{NAMED[n]} has another rootfs.squashfs already: this becomes {NAMED[n + 1]}" for n in range(number)]
        content = images.squashfs("next", 4096 * (1 + number))
        done = upload_now(api, tmp_path / str(number), to, rootfs_squashfs=content)
        assert done == (0, name, "\n".join(passed))
    code, message, _ = upload_now(api, tmp_path / "full", to, rootfs_squashfs=images.squashfs("next", 40960))
    assert (code, "exists already" in message) == (4, True)


def test_a_named_version_is_never_changed(api: System, tmp_path: Path) -> None:
    to, version = "minute/named/amd64/default", ("--version", NAMED[0])
    first = {"lxd_tar_xz": images.metadata_tarball(serial="named"), "rootfs_squashfs": images.squashfs("named")}
    assert upload_now(api, tmp_path / "first", to, *version, **first) == (0, NAMED[0], "")
    assert upload_now(api, tmp_path / "joins", to, *version, disk_qcow2=images.qcow2()) == (0, NAMED[0], "")
    code, message, _ = upload_now(
        api, tmp_path / "other", to, *version, lxd_tar_xz=images.metadata_tarball(serial="other" * 99)
    )
    assert (code, "exists already" in message) == (4, True)


def test_losing_the_race_for_a_minute_takes_the_next_one(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    sent = RecordingApi.answers["/uploads/batch"]
    RecordingApi.answers["/versions/"] = (404, "problem not-found\ndetail there is nothing\n")
    RecordingApi.once["/uploads/batch"] = (
        409,
        f"problem exists\ndetail {VERSION}/lxd_combined.tar.gz exists already\n",
    )
    done = upload(listener, tmp_path, "--version", "now", "--wait", "0", PATH=programs(tmp_path, date=MINUTE))
    assert done.returncode == 0
    moved = f"{NAMED[0]} has another lxd_combined.tar.gz by now: this becomes {NAMED[1]}\n"
    assert done.stderr == f"{moved}images/signed/one/amd64/default/{NAMED[1]} is uploaded\n"
    asked = [
        json.loads(body)["version"].rpartition("/")[2] for method, _, _, body in RecordingApi.seen if method == "POST"
    ]
    assert (asked, sent) == (NAMED[:2], RecordingApi.answers["/uploads/batch"])


def test_the_script_leaves_no_process_holding_its_output(api: System, tmp_path: Path) -> None:
    (tmp_path / "rootfs.squashfs").write_bytes(images.squashfs("pipe"))
    about = {"SIMPLESTREAMS_API": api.api_url, "CURL_CA_BUNDLE": str(api.ca_file)}
    command = (SCRIPT, "--to", "minute/pipe/amd64/default", "--wait", "0", tmp_path / "rootfs.squashfs")
    with subprocess.Popen(command, env=environment(tmp_path, **about), stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 0
        assert process.stderr
        os.set_blocking(process.stderr.fileno(), False)
        assert process.stderr.read().endswith(b" is uploaded\n")
        assert process.stderr.read() == b"", "None: somebody could still write"
    (sent,) = api.s3.list_objects_v2(Bucket=api.bucket, Prefix="images/minute/pipe/")["Contents"]
    stored = api.s3.head_object(Bucket=api.bucket, Key=sent["Key"])
    assert stored["CacheControl"] == "public, max-age=31536000, immutable"


def test_three_lines_of_curl_upload_an_image(tmp_path: Path) -> None:
    """The recipe of functions/API.md: request a curl config, upload with it, read the status."""
    need("curl")
    version = "images/recipe/one/amd64/default/20261123_10:00"
    content = images.unified_tarball(marker="recipe")
    (tmp_path / "lxd_combined.tar.gz").write_bytes(content)
    asked = json.dumps({"path": f"{version}/lxd_combined.tar.gz", "size": len(content), "multipart": False})
    with upload_api.system("local", tmp_path / "system") as system:
        who = f"-s --cacert {system.ca_file} -H 'X-Local-Caller: local' -H 'Accept: text/plain'"
        lines = f"""
            curl {who} -d '{asked}' {system.api_url}/uploads > put
            curl -s --fail-with-body -K put -T lxd_combined.tar.gz
            curl {who} {system.api_url}/versions/{version.replace(":", "~")}
        """
        done = subprocess.run(("sh", "-ec", lines), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"status incomplete\npath {version}\n")
        again = subprocess.run(
            ("curl", "-s", "-o", "answer", "-w", "%{http_code}", "-K", "put", "-T", "lxd_combined.tar.gz"),
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert again.stdout == "412"
        stored = system.s3.head_object(Bucket=system.bucket, Key=f"{version}/lxd_combined.tar.gz")
        assert stored["CacheControl"] == "public, max-age=31536000, immutable"
        system.ingest(version)
        assert system.status(version)["status"] == "listed"
