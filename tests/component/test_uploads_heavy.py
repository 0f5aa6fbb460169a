"""Six GiB over a real S3 server: killed midway, continued, hashed, listed, and the memory of each process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support import PROJECT, images, upload_api
from tests.support.processes import peak_of
from tests.support.upload_api import System

# The heavy tests are two groups that take equally long: xdist queues a long test behind another while a worker is idle.
pytestmark = [pytest.mark.heavy, pytest.mark.real_s3, pytest.mark.xdist_group("lxd"), pytest.mark.timeout(1800)]

SIZE = 6 << 30
PRODUCT = "heavy/six/amd64/default"
VERSION = f"images/{PRODUCT}/20261123_10:00"


def test_six_gibibytes_are_killed_continued_hashed_and_listed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "lxd.tar.xz").write_bytes(images.metadata_tarball(serial="six"))
    root = tmp_path / "rootfs.squashfs"
    root.write_bytes(images.squashfs("six", 1 << 20))
    os.truncate(root, SIZE)
    with upload_api.system("versitygw", tmp_path / "system") as system:
        began = time.monotonic()
        script, arrived = _killed(system, tmp_path)
        peak, report = _continued(system, tmp_path)
        sent_s = time.monotonic() - began
        assert report["sent_bytes"] == SIZE + (tmp_path / "lxd.tar.xz").stat().st_size * (not arrived[0]) - arrived[1]
        began = time.monotonic()
        system.ingest(VERSION)
        assert system.status(VERSION)["status"] == "listed"
        record_property(
            "6 GiB, killed and continued", f"{arrived[1]:,} bytes kept, {report['sent_bytes']:,} sent after"
        )
        record_property("seconds", f"{sent_s:.0f} to send, {time.monotonic() - began:.0f} to hash and list")
        record_property("peak MiB, all processes of scripts/upload together", max(script, peak) >> 20)
        for function in ("UploadsFunction", "DigestFunction", "PublishFunction"):
            record_property(f"peak MiB, {function}", system.peak_bytes(function) >> 20)


def _command(folder: Path) -> list[str]:
    options = ("--to", PRODUCT, "--version", "20261123_10:00", "--wait", "0", "--json")
    return [str(PROJECT / "scripts/upload"), *options, str(folder / "lxd.tar.xz"), str(folder / "rootfs.squashfs")]


def _environment(system: System, folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    about = {"SIMPLESTREAMS_API": system.api_url, "CURL_CA_BUNDLE": str(system.ca_file), "HOME": str(folder)}
    return kept | about | {"XDG_STATE_HOME": str(folder / "state")}


def _killed(system: System, folder: Path) -> tuple[int, tuple[bool, int]]:
    """Kill it after a quarter; return its peak memory, and (whether the metadata had arrived, bytes of parts)."""
    process = subprocess.Popen(
        _command(folder), env=_environment(system, folder), start_new_session=True, stdout=subprocess.DEVNULL
    )
    with peak_of(partial(_memory, process.pid), 0.1) as peak:
        while _arrived(system)[1] < SIZE // 4:
            assert process.poll() is None
            time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # bytes already accepted by the server still arrive
    return peak[0], _arrived(system)


def _continued(system: System, folder: Path) -> tuple[int, dict[str, int]]:
    process = subprocess.Popen(
        _command(folder), env=_environment(system, folder), start_new_session=True, stdout=subprocess.PIPE
    )
    with peak_of(partial(_memory, process.pid), 0.1) as peak:
        printed, _ = process.communicate(timeout=1200)
    assert process.returncode == 0
    return peak[0], json.loads(printed)


def _arrived(system: System) -> tuple[bool, int]:
    uploads = system.s3.list_multipart_uploads(Bucket=system.bucket).get("Uploads", [])
    done = 0
    for upload in uploads:
        about = {"Bucket": system.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        done += sum(part["Size"] for part in system.s3.list_parts(**about, MaxParts=1000).get("Parts", []))
    return system.stored(f"{VERSION}/lxd.tar.xz") is not None, done


def _memory(leader: int) -> int:
    """Return the memory of a process's session, in bytes."""
    return sum(_resident(pid) for pid in _session(leader))


def _session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):  # not a process, or one that has ended
            if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3]) == leader:
                found.append(int(entry.name))
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
