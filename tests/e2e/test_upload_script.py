"""`scripts/upload` as a person or a job uses it: from the output of image builders to an image for clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROJECT, images
from tests.support.images import ImageBuilder
from tests.support.processes import need, sha256sum, wait_for
from tests.support.real_clients import Client, client
from tests.support.stack import Stack, local_stack

pytestmark = [pytest.mark.e2e, pytest.mark.heavy, pytest.mark.xdist_group("lxd")]

SCRIPT = PROJECT / "scripts/upload"
MIB = 1 << 20


def upload(
    stack: Stack, home: Path, *arguments: str | Path, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script as a process, in the strictest available shell."""
    done = subprocess.run(
        (*_shell(), SCRIPT, "--state-dir", stack.folder / "state", *arguments),
        env=_environment(home) | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert not check or done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def _shell() -> tuple[str, ...]:
    return ("dash",) if Path("/usr/bin/dash").exists() or Path("/bin/dash").exists() else ("sh",)


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}


@pytest.mark.parametrize("form", ["split_squashfs", "split_root_tar", "vm_qcow2", "unified"])
def test_an_exported_image_is_published_with_one_command_and_downloaded_unchanged(
    daemon: Client, stack: Stack, image_builder: ImageBuilder, tmp_path: Path, form: str
) -> None:
    built = getattr(image_builder, form)(f"script-{daemon.program}-{form}")
    daemon("image", "import", *built.values(), "local:", "--alias", "export")
    exported = tmp_path / "exported"
    exported.mkdir()
    daemon("image", "export", "local:export", exported)
    files = sorted(exported.iterdir())
    fingerprint = next(iter(daemon.fingerprints("local:")))
    assert any(fingerprint in file.name for file in files), files
    daemon("image", "delete", fingerprint)

    product = f"{daemon.program}/{form.replace('_', '')}/amd64/default"
    printed = upload(stack, tmp_path, "--to", product, "--remote", "here", *files).stdout.strip()
    vm = " --vm" if form == "vm_qcow2" else ""
    assert printed == f"lxc launch here:{product.split('/amd64', maxsplit=1)[0]}{vm}"

    # Incus's client caches a catalog for an hour; this one has seen nothing yet.
    fresh = client(daemon.program, tmp_path, stack.ca_file, daemon.home)
    fresh.add_remote(stack.base_url)
    back = tmp_path / "back"
    back.mkdir()
    fresh("image", "export", printed.split()[2], back, *(("--vm",) if vm else ()))
    assert sorted(sha256sum(list(back.iterdir()))) == sorted(sha256sum(files))
    if not vm:
        fresh("launch", printed.split()[2], "local:started")
        marker = fresh.marker("local:started")
        assert marker == f"script-{daemon.program}-{form}"


def test_a_folder_of_distrobuilder_is_uploaded_whole(stack: Stack, tmp_path: Path) -> None:
    built = tmp_path / "build"
    built.mkdir()
    for name, content in images.split_image(seed="distrobuilder").items():
        (built / name.replace("lxd", "incus")).write_bytes(content)
    (built / "build.log").write_text("not an image")
    report = json.loads(upload(stack, tmp_path, "--to", "script/folder/amd64/default", "--json", built).stdout)
    assert (report["status"], report["files"]) == ("listed", ["incus.tar.xz", "rootfs.squashfs"])
    assert report["launch"] == "lxc launch mine:script/folder"


def test_a_repeated_upload_sends_nothing_and_changed_content_is_refused(stack: Stack, tmp_path: Path) -> None:
    files = _write(tmp_path, images.split_image(seed="again"))
    to = ("--to", "script/again/amd64/default", "--version", "20261123_10:00", "--json")
    first = json.loads(upload(stack, tmp_path, *to, *files).stdout)
    again = json.loads(upload(stack, tmp_path, *to, *files).stdout)
    size = sum(file.stat().st_size for file in files)
    assert (first["sent_bytes"], again["sent_bytes"], again["status"]) == (size, 0, "listed")
    files[1].write_bytes(images.squashfs("other"))
    refused = upload(stack, tmp_path, *to, *files, check=False)
    assert refused.returncode == 4
    assert "exists already, with 4,096 bytes" in json.loads(refused.stdout)["reasons"][0]


def test_an_invalid_upload_gives_its_reason_and_can_be_replaced(stack: Stack, tmp_path: Path) -> None:
    files = _write(tmp_path, images.split_image(seed="mended"))
    to = ("--to", "script/mended/arm64/default", "--version", "20261123_10:00")
    refused = upload(stack, tmp_path, *to, *files, check=False)
    assert refused.returncode == 3
    assert "x86_64" in refused.stderr
    files[0].write_bytes(images.metadata_tarball("arm64"))
    assert upload(stack, tmp_path, *to, *files).stdout == "lxc launch mine:script/mended\n"


def test_an_incomplete_image_is_uploaded_and_reported_as_not_listed(stack: Stack, tmp_path: Path) -> None:
    files = _write(tmp_path, images.split_image(seed="half"))
    done = upload(stack, tmp_path, "--to", "script/half/amd64/default", "--wait", "6", files[1], check=False)
    assert done.returncode == 5
    assert done.stderr.count("waits for its metadata: upload lxd.tar.xz or incus.tar.xz") == 1


def test_an_incomplete_image_ends_the_wait_and_its_missing_half_completes_it(stack: Stack, tmp_path: Path) -> None:
    metadata, root = _write(tmp_path, images.split_image(seed="halves"))
    to = ("--to", "images/script/halves/amd64/default", "--version", "20261123_10:00")
    began = time.monotonic()
    done = upload(stack, tmp_path, *to, metadata, check=False)
    assert (done.returncode, time.monotonic() - began < 100) == (8, True)
    missing = "waits for a root: upload rootfs.squashfs, rootfs.tar.xz or disk.qcow2, with --version 20261123_10:00"
    assert done.stderr.count(missing) == 1
    assert upload(stack, tmp_path, *to, root).stdout == "lxc launch mine:script/halves\n"


def test_one_publisher_waits_for_the_file_of_another(stack: Stack, tmp_path: Path) -> None:
    metadata, root = _write(tmp_path, images.split_image(seed="pair"))
    to = ("--to", "script/pair/amd64/default", "--version", "20261123_10:00", "--wait", "200")
    command: list[str | Path] = [*_shell(), SCRIPT, "--state-dir", stack.folder / "state", *to, metadata]
    with subprocess.Popen(command, env=_environment(tmp_path), stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr
        assert "waits for a root: upload rootfs.squashfs" in first.stderr.readline()
        upload(stack, tmp_path, *to, root)
        assert first.wait(200) == 0


def test_a_caller_without_permission_is_refused_with_a_reason(stack: Stack, tmp_path: Path) -> None:
    files = _write(tmp_path, images.split_image(seed="stranger"))
    who = {"AWS_ACCESS_KEY_ID": "STRANGER", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-central-1"}
    api = ("--api", str(stack.facts["api_url"]))
    done = upload(stack, tmp_path, *api, "--to", "script/who/amd64/default", *files, check=False, **who)
    assert done.returncode == 7
    assert "arn:aws:iam::123456789012:user/STRANGER may not write to images/script/who/" in done.stderr


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


# ── interrupted ──────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(stack: Stack) -> dict[int, Any]:
    """Return the parts of the only unfinished multipart upload; empty if there is none."""
    found = stack.s3().list_multipart_uploads(Bucket=stack.bucket).get("Uploads", [])
    if not found:
        return {}
    (only,) = found
    parts = stack.s3().list_parts(Bucket=stack.bucket, Key=only["Key"], UploadId=only["UploadId"], MaxParts=1000)
    return {part["PartNumber"]: part for part in parts.get("Parts", [])}


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Yield a stack without other uploads."""
    need("curl")
    with local_stack("--empty") as running:
        yield running


def _interrupt_and_resume(stack: Stack, home: Path, root: Path, enough: int) -> tuple[int, int]:
    """Kill the script after `enough` parts, then run it again; return bytes sent then, and parts before."""
    metadata = home / "lxd.tar.xz"
    metadata.write_bytes(images.metadata_tarball(serial=root.name))
    to = ("--to", "script/killed/amd64/default", "--json", "--wait", "280", "--jobs", "2")
    command: list[str | Path] = [*_shell(), SCRIPT, "--state-dir", stack.folder / "state", *to, metadata, root]
    process = subprocess.Popen(command, env=_environment(home), start_new_session=True, stdout=subprocess.PIPE)
    try:
        wait_for(lambda: len(_parts(stack)) >= enough, f"{enough} parts", 280)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    time.sleep(2)  # bytes already in the kernel may still arrive
    before = _parts(stack)
    report = json.loads(upload(stack, home, *to, metadata, root).stdout)
    assert report["status"] == "listed", report
    return report["sent_bytes"], sum(part["Size"] for part in before.values())


def _large(path: Path, mib: int) -> None:
    with path.open("wb") as out:
        out.write(images.squashfs(path.name, MIB))
        for number in range(1, mib):
            out.write(images.filler(f"{path} {number}", MIB))


def test_a_killed_upload_continues_and_sends_only_what_is_missing(own_stack: Stack, tmp_path: Path) -> None:
    root = tmp_path / "rootfs.squashfs"
    _large(root, 260)
    sent, arrived = _interrupt_and_resume(own_stack, tmp_path, root, 3)
    assert 3 * 16 * MIB <= arrived < root.stat().st_size
    assert sent == root.stat().st_size - arrived


def test_an_interrupted_gibibyte_is_completed_in_parts(
    own_stack: Stack, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    root = tmp_path / "rootfs.squashfs"
    _large(root, 1024)
    began = time.monotonic()
    sent, arrived = _interrupt_and_resume(own_stack, tmp_path, root, 20)
    record_property(
        "1 GiB, killed and resumed", f"{arrived:,} bytes kept, {sent:,} sent again, {root.stat().st_size:,} in all"
    )
    record_property("seconds", round(time.monotonic() - began))
    assert sent == root.stat().st_size - arrived
