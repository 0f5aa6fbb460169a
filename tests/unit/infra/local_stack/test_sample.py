"""The sample image: real, small, always the same."""

import io
import os
import platform
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import yaml

from local_stack.sample import GREETING, hello_program, init_program, sample_files

ARCHITECTURES = ["amd64", "arm64"]
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())

native_only = pytest.mark.skipif(NATIVE is None, reason=f"no sample program for {platform.machine()}")


def program(tmp_path: Path, body: bytes) -> Path:
    path = tmp_path / "program"
    path.write_bytes(body)
    path.chmod(0o755)
    return path


def unpack(body: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:xz") as archive:
        return {member.name: member for member in archive}


@native_only
def test_hello_says_hello(tmp_path: Path) -> None:
    done = subprocess.run([program(tmp_path, hello_program(str(NATIVE)))], capture_output=True, check=True)
    assert done.stdout == GREETING


@native_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGPWR])
def test_init_runs_until_it_gets_a_signal(tmp_path: Path, number: int) -> None:
    with subprocess.Popen([program(tmp_path, init_program(str(NATIVE)))]) as process:
        _wait_until_it_sleeps(process.pid)
        os.kill(process.pid, signal.SIGCHLD)
        _wait_until_it_sleeps(process.pid)
        assert process.poll() is None
        os.kill(process.pid, number)
        assert process.wait(timeout=10) == 0


@native_only
def test_init_reaps_children(tmp_path: Path) -> None:
    # A child made before the exec becomes init's: it must not stay a zombie.
    path = program(tmp_path, init_program(str(NATIVE)))
    line = f"sh -c 'sleep 0.3' & echo $!; exec {path}"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        give_up = time.monotonic() + 10
        while Path(f"/proc/{child}").exists():
            assert time.monotonic() < give_up, Path(f"/proc/{child}/status").read_text()
            time.sleep(0.02)
        process.terminate()
        assert process.wait(timeout=10) == 0


def _wait_until_it_sleeps(pid: int) -> None:
    give_up = time.monotonic() + 10
    while (
        "State:\tS" not in Path(f"/proc/{pid}/status").read_text()
        or Path(f"/proc/{pid}/comm").read_text() != "program\n"
    ):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep(0.1)  # it sleeps in the wait for signals, after it has blocked them


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_tarballs_are_an_image(arch: str) -> None:
    files = {key.rsplit("/", 1)[1]: body for key, body in sample_files(arch).items()}
    assert all(key.startswith(f"images/hello/world/{arch}/default/") for key in sample_files(arch))
    assert list(files) == ["rootfs.tar.xz", "lxd.tar.xz"]
    root = unpack(files["rootfs.tar.xz"])
    assert {"sbin/init", "bin/hello", "proc", "sys", "dev", "etc/passwd"} <= set(root)
    assert {root[name].mode for name in ("sbin/init", "bin/hello")} == {0o755}
    with tarfile.open(fileobj=io.BytesIO(files["lxd.tar.xz"]), mode="r:xz") as archive:
        extracted = archive.extractfile("metadata.yaml")
        assert extracted is not None
        metadata = yaml.safe_load(extracted)
    assert metadata["architecture"] == {"amd64": "x86_64", "arm64": "aarch64"}[arch]
    assert isinstance(metadata["creation_date"], int)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_bytes_are_always_the_same(arch: str) -> None:
    assert sample_files(arch) == sample_files(arch)
    assert len(init_program(arch)) < 500


@pytest.mark.parametrize(("arch", "machine"), [("amd64", 62), ("arm64", 183)])
def test_programs_are_executables_of_their_architecture(arch: str, machine: int) -> None:
    for body in (init_program(arch), hello_program(arch)):
        assert body[:4] == b"\x7fELF"
        assert int.from_bytes(body[18:20], "little") == machine
