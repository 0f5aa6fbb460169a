"""`scripts/upload` with a virtual machine in one tarball: its disk goes through pipes, never into a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images, upload_api
from tests.support.processes import need, peak_of
from tests.support.servers.breaking_network import BreakingNetwork
from tests.support.upload_script import SCRIPT, environment, programs

pytestmark = pytest.mark.xdist_group("uploads-machine")

MIB = 1 << 20
PART = 16 * MIB
NAME = "20261123_1000"


def machine(file: Path, disk: bytes, compression: str = "gz", prefix: str = "") -> Path:
    """Write a unified tarball of a virtual machine, with `disk` in the middle."""
    members = {"metadata.yaml": images.metadata_yaml(serial=compression), "rootfs.img": disk, "templates/x.tpl": b"x"}
    file.write_bytes(
        images.compress(images.tarball({prefix + name: body for name, body in members.items()}), compression)
    )
    return file


FIRST_PART_ONLY = """\
case "$*" in
  *plan/part.*)
    echo part >>{folder}/parts
    if [ "$(grep -c part {folder}/parts)" -gt 1 ]; then printf 403; exit 0; fi ;;
esac
exec {curl} "$@"
"""


def upload(
    system: upload_api.System, folder: Path, product: str, *arguments: str | Path, shell: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script with its own TMPDIR."""
    about = {"SIMPLESTREAMS_API": system.api_url, "CURL_CA_BUNDLE": str(system.ca_file), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        (*shell.split(), SCRIPT, "--to", f"{product}/amd64/default", "--version", NAME,
         "--wait", "0", *arguments),
        env=environment(folder, **about, **variables), capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip


def size_of(folder: Path) -> int:
    """Return the total size of the files below a folder."""
    with contextlib.suppress(FileNotFoundError):  # one may be removed meanwhile
        return sum(file.stat().st_size for file in folder.rglob("*"))
    return 0


@pytest.fixture(scope="module", params=["local", pytest.param("versitygw", marks=pytest.mark.real_s3)])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[upload_api.System]:
    need("curl")
    with upload_api.system(request.param, tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.mark.parametrize(
    ("mib", "compression", "prefix"), [(0, "gz", ""), (3, "xz", "./"), (3, "zst", ""), (100, "plain", "./")]
)
def test_a_machine_is_split_without_a_second_copy_of_its_disk(
    system: upload_api.System, tmp_path: Path, mib: int, compression: str, prefix: str
) -> None:
    if program := {"xz": "xz", "zst": "zstd"}.get(compression):
        need(program)  # unpacks the tarball for the script
    disk = images.qcow2(size_bytes=4096) + images.filler("disk", mib * MIB) + b"an end that fills no block"
    product = f"machine/{mib}{compression}"
    tarball = machine(tmp_path / "vm.tarball", disk, compression, prefix)
    (tmp_path / "tmp").mkdir()
    with peak_of(lambda: size_of(tmp_path / "tmp"), 0.01) as peak:
        done = upload(system, tmp_path, product, "--jobs", "2", tarball)
    assert done.returncode == 0, done.stderr
    version = f"images/{product}/amd64/default/{NAME}"
    metadata, stored = (system.stored(f"{version}/{name}") for name in ("lxd.tar.xz", "disk.qcow2"))
    assert metadata
    assert stored == disk
    assert f"the fingerprint of the image is {hashlib.sha256(metadata + disk).hexdigest()}\n" in done.stderr
    assert peak[0] < (2 * PART + MIB if mib == 100 else MIB)
    system.ingest(version)
    assert system.status(version)["fingerprints"] == [hashlib.sha256(metadata + disk).hexdigest()]


def test_a_list_that_covers_the_tarball_covers_the_files_that_it_is_split_into(
    system: upload_api.System, tmp_path: Path
) -> None:
    tarball = machine(tmp_path / "vm.tarball", images.qcow2())
    sums = tmp_path / "SHA256SUMS"
    for product, sha256 in (("right", hashlib.sha256(tarball.read_bytes()).hexdigest()), ("wrong", "f" * 64)):
        sums.write_text(f"{sha256}  {tarball.name}\n{'e' * 64}  vm/{tarball.name}\n")
        done = upload(system, tmp_path, f"machine/{product}", tarball, sums)
        version = f"images/machine/{product}/amd64/default/{NAME}"
        if product == "wrong":
            assert done.returncode == 3
            assert f", expected {sha256} as {sums} says; export it again" in done.stderr
            assert system.stored(f"{version}/disk.qcow2") is None
            continue
        system.ingest(version)
        status = system.status(version)
        assert (status["status"], status["reasons"]) == ("listed", [])


def test_a_whole_machine_is_uploaded_as_it_is(system: upload_api.System, tmp_path: Path) -> None:
    tarball = machine(tmp_path / "vm.tarball", images.qcow2())
    done = upload(system, tmp_path, "machine/whole", "--whole", tarball)
    assert done.returncode == 0, done.stderr
    version = f"images/machine/whole/amd64/default/{NAME}"
    assert system.stored(f"{version}/lxd_combined.tar.gz") == tarball.read_bytes()
    system.ingest(version)
    assert system.status(version)["fingerprints"] == [hashlib.sha256(tarball.read_bytes()).hexdigest()]
    again = upload(system, tmp_path, "machine/whole", "--whole", "--wait", "20", tarball)
    assert (again.returncode, again.stdout) == (0, "incus launch mine:machine/whole --vm\n"), again.stderr


def test_broken_connections_cost_only_the_parts_of_a_disk_in_transit(tmp_path: Path) -> None:
    disk = images.qcow2(size_bytes=4096) + images.filler("disk", 100 * MIB)
    tarball = machine(tmp_path / "vm.tarball", disk, "plain")
    networks: list[BreakingNetwork] = []

    def over_a_breaking_network(port: int) -> int:
        networks.append(BreakingNetwork(("127.0.0.1", port), MIB))
        return networks[0].port

    with upload_api.system("local", tmp_path / "system", way=over_a_breaking_network) as system:
        done = upload(system, tmp_path, "machine/broken", tarball)
        assert done.returncode == 0, done.stderr
        assert networks[0].cuts >= 3
        assert system.stored(f"images/machine/broken/amd64/default/{NAME}/disk.qcow2") == disk


def test_a_raw_disk_in_a_tarball_is_refused_with_the_commands_that_convert_it(tmp_path: Path) -> None:
    tarball = machine(tmp_path / "vm.tarball", b"\xeb\x63\x90\0" * 1000)
    command = (SCRIPT, "--api", "https://localhost:1", "--to", "a/b/amd64/d", tarball)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert "holds a rootfs.img that starts with eb639000, expected a qcow2 disk (514649fb)" in done.stderr
    assert "qemu-img convert -O qcow2 rootfs.img disk.qcow2" in done.stderr


@pytest.mark.parametrize("damage", ["cut short", "wrong checksum"])
def test_a_damaged_tarball_is_refused_before_anything_is_sent(tmp_path: Path, damage: str) -> None:
    disk = images.qcow2(size_bytes=4096) + images.filler("disk", MIB)
    tarball = machine(tmp_path / "vm.tarball", disk)
    body = bytearray(tarball.read_bytes())
    if damage == "cut short":
        del body[len(body) // 2 :]
    else:
        body[-8] ^= 1
    tarball.write_bytes(body)
    command = (SCRIPT, "--api", "https://localhost:1", "--to", "a/b/amd64/d", tarball)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, f"{tarball} is damaged" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("shell", ["bash", "ksh", "busybox sh"])
def test_other_shells_and_tools_split_a_machine_too(tmp_path: Path, shell: str) -> None:
    need(shell.split(maxsplit=1)[0])
    disk = images.qcow2(size_bytes=4096) + images.filler("disk", 70 * MIB)
    tarball = machine(tmp_path / "vm.tarball", disk, "plain")
    with upload_api.system("local", tmp_path / "system") as system:
        done = upload(system, tmp_path, "machine/shell", tarball, shell=shell)
        assert done.returncode == 0, done.stderr
        assert system.stored(f"images/machine/shell/amd64/default/{NAME}/disk.qcow2") == disk


def test_an_interrupted_split_continues_with_the_missing_parts(tmp_path: Path) -> None:
    disk = images.qcow2(size_bytes=4096) + images.filler("disk", 100 * MIB)
    tarball = machine(tmp_path / "vm.tarball", disk, "plain")
    with upload_api.system("local", tmp_path / "system") as system:
        parts = programs(tmp_path, curl=FIRST_PART_ONLY.format(folder=tmp_path, curl=shutil.which("curl")))
        broken = upload(system, tmp_path, "machine/resumed", "--jobs", "1", tarball, PATH=parts)
        assert (broken.returncode, "HTTP 403" in broken.stderr) == (1, True), broken.stderr
        done = upload(system, tmp_path, "machine/resumed", "--json", tarball)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["sent_bytes"] == len(disk) - PART
        assert upload_api.sha256(system.stored(f"images/machine/resumed/amd64/default/{NAME}/disk.qcow2") or b"") == (
            upload_api.sha256(disk)
        )
