"""How `scripts/upload` reads its options: wrong usage, the server, the product, the version; in any POSIX shell."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import environment
from cli.folders import default_state_folder
from local_stack.state import Stack
from tests.support.servers.http import served

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/upload"
FP = hashlib.sha256(b"an image").hexdigest()
XZ, GZ = images.metadata_tarball(), images.metadata_tarball(compression="gz")
ROOT_XZ, SQUASHFS, QCOW2 = images.root_tarball(), images.squashfs(), images.qcow2()
LZMA = lzma.compress(images.tarball({"metadata.yaml": images.metadata_yaml()}), lzma.FORMAT_ALONE)
UNIFIED_LZMA = lzma.compress(images.unified_tarball(compression="plain"), lzma.FORMAT_ALONE)
UNIFIED = {kind: images.unified_tarball(compression=kind) for kind in ("gz", "xz", "zst", "plain")}

LEFT_BEHIND = {
    "image export of a split container": (
        {f"meta-{FP}.tar.xz": XZ, f"{FP}.squashfs": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "image export of a split container with a tarball": (
        {f"meta-{FP}.tar.xz": XZ, f"{FP}.tar.xz": ROOT_XZ}, ["lxd.tar.xz", "root.tar.xz"]),
    "image export of a unified image": ({f"{FP}.tar.gz": UNIFIED["gz"]}, ["lxd_combined.tar.gz"]),
    "image export of a unified image in xz": ({f"{FP}.tar.xz": UNIFIED["xz"]}, ["lxd_combined.tar.xz"]),
    "image export of a unified image in zstd": ({f"{FP}.tar.zst": UNIFIED["zst"]}, ["lxd_combined.tar.zst"]),
    "image export of a plain unified image": ({f"{FP}.tar": UNIFIED["plain"]}, ["lxd_combined.tar"]),
    "image export to a name": ({"mine": XZ, "mine.root": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "image export to a name, tarball": ({"mine": GZ, "mine.root": ROOT_XZ}, ["lxd.tar.xz", "root.tar.xz"]),
    "image export of a virtual machine": (
        {f"meta-{FP}.tar.xz": XZ, f"{FP}.qcow2": QCOW2}, ["lxd.tar.xz", "disk.qcow2"]),
    "virtual machine to a name": ({"vm": XZ, "vm.root": QCOW2}, ["lxd.tar.xz", "disk.qcow2"]),
    "distrobuilder for LXD": ({"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "distrobuilder for Incus": ({"incus.tar.xz": XZ, "disk.qcow2": QCOW2}, ["disk.qcow2", "incus.tar.xz"]),
    "container and virtual machine": (
        {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "disk.qcow2": QCOW2},
        ["disk.qcow2", "lxd.tar.xz", "rootfs.squashfs"]),
    "with documents and a delta": (
        {"incus.tar.xz": XZ, "root.squashfs": SQUASHFS, "SHA256SUMS": b"x", "metadata.json": b"{}",
         "rootfs.20261122.vcdiff": images.vcdiff()},
        ["SHA256SUMS", "incus.tar.xz", "metadata.json", "rootfs.20261122.vcdiff", "rootfs.squashfs"]),
    "image export of a unified image in lzma": (
        {f"{FP}.tar.lzma": UNIFIED_LZMA}, ["lxd_combined.tar.lzma"]),
    "image export of a split container in lzma": (
        {f"meta-{FP}.tar.lzma": LZMA, f"{FP}.squashfs": SQUASHFS}, ["lxd.tar.xz", "rootfs.squashfs"]),
    "metadata under a name of its own, a root tarball too": (
        {"incus.tar.gz": GZ, "base.tar.xz": ROOT_XZ}, ["lxd.tar.xz", "root.tar.xz"]),
    "metadata alone in lzma": ({"mine.tar.lzma": LZMA}, ["lxd.tar.xz"]),
    "metadata alone": ({"mine.tar.gz": GZ}, ["lxd.tar.xz"]),
    "a root tarball alone": ({"mine.tar.xz": ROOT_XZ}, ["root.tar.xz"]),
    "a misleading name": ({"noble.img": SQUASHFS, "noble.tar": XZ}, ["lxd.tar.xz", "rootfs.squashfs"]),
}  # fmt: skip


def run(*arguments: str | Path, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    return subprocess.run((shell, SCRIPT, *arguments), capture_output=True, text=True, check=False, timeout=60)


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


@pytest.mark.parametrize("case", LEFT_BEHIND)
def test_files_get_the_names_that_the_server_knows(tmp_path: Path, case: str) -> None:
    files, names = LEFT_BEHIND[case]
    for order in (1, -1):
        done = run("--dry-run", "--to", "a/b/amd64/d", *write(tmp_path, files)[::order])
        assert (done.returncode, sorted(line.split("\t")[0] for line in done.stdout.splitlines())) == (
            0,
            sorted(names),
        ), done


def test_only_image_files_of_a_folder_are_uploaded(tmp_path: Path) -> None:
    write(
        tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "build.log": b"a log", "notes.gz": gzip.compress(b"")}
    )
    done = run("--dry-run", "--to", "a/b/amd64/d", tmp_path)
    assert done.returncode == 3, "a tarball of an unknown name is not passed over: it could be the metadata"
    (tmp_path / "notes.gz").unlink()
    done = run("--dry-run", "--to", "a/b/amd64/d", tmp_path)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["lxd.tar.xz", "rootfs.squashfs"]


@pytest.mark.parametrize("name", ["rootfs.squashfs", "metadata.json"])
def test_a_link_in_a_folder_is_refused_by_name_and_one_given_by_name_is_followed(tmp_path: Path, name: str) -> None:
    (private,) = write(tmp_path, {"private": SQUASHFS if name == "rootfs.squashfs" else b"{}"})
    folder = tmp_path / "image"
    folder.mkdir()
    write(folder, {"lxd.tar.xz": XZ})
    (folder / name).symlink_to(private)
    (folder / "build.log").symlink_to("/etc/hostname")
    done = run("--dry-run", "--to", "a/b/amd64/d", folder)
    assert (done.returncode, f"{folder / name} is a symbolic link, which is not followed" in done.stderr) == (3, True)
    done = run("--dry-run", "--to", "a/b/amd64/d", folder / "lxd.tar.xz", folder / name)
    assert (done.returncode, f"{name}\t" in done.stdout) == (0, True), done.stderr
    (folder / name).unlink()
    assert run("--dry-run", "--to", "a/b/amd64/d", folder).returncode == 0


NOT_IMAGES = [
    ({"noble.iso": b"CD001" * 100}, "noble.iso is no image file: it starts with 434430303143, expected a squashfs"),
    ({"lxd.tar.xz": b""}, "lxd.tar.xz is empty (0 bytes)"),
    ({"lxd.tar.xz": b"<xml>"}, "lxd.tar.xz is no image file"),
    ({"lxd.tar.xz": b"<html>"}, "lxd.tar.xz is a web page; fetch the image again"),
    (
        {"metadata.yaml": images.metadata_yaml()},
        "metadata.yaml is metadata that is not packed; run: tar -cJf lxd.tar.xz",
    ),
    ({"d.qcow": b"QFI\xfb\0\0\0\1" + bytes(600)}, "d.qcow is a disk of qcow's version 1"),
    ({"d.img": b"QED\0" + bytes(600)}, "d.img is a disk of another hypervisor; run: qemu-img convert"),
    ({"d.hdd": b"WithoutFreeSpace" + bytes(600)}, "d.hdd is a disk of another hypervisor; run: qemu-img convert"),
    ({"m.tar.lz4": b"\x04\x22\x4d\x18" + bytes(600)}, "m.tar.lz4 is compressed with lz4, which not all clients read"),
    ({"m.tar.lz": b"LZIP\1" + bytes(600)}, "m.tar.lz is compressed with lzip, which not all clients read"),
    ({"m.tar.Z": b"\x1f\x9d\x90" + bytes(600)}, "m.tar.Z is compressed with compress, which"),
    ({"m.tar.zst": b"\x50\x2a\x4d\x18" + bytes(600)}, "m.tar.zst is compressed with a form of zstd (pzstd)"),
    ({"i.zip": b"PK\3\4" + bytes(600)}, "i.zip is an archive that LXD and Incus cannot read; unpack it"),
    ({"i.7z": b"7z\xbc\xaf\x27\x1c" + bytes(600)}, "i.7z is an archive that LXD and Incus cannot read"),
    ({"i.rpm": b"\xed\xab\xee\xdb" + bytes(600)}, "i.rpm is a package of software"),
    ({"i.deb": b"!<arch>\ndebian-binary"}, "i.deb is a package of software"),
    ({"i.cpio": b"070701" + bytes(600)}, "i.cpio is a cpio archive; unpack it"),
    ({"r.ext4": bytes(1080) + b"\x53\xef" + bytes(600)}, "r.ext4 is a bare file system; run: mount -o loop,ro"),
    (
        {"old.tar": images.old_tar("metadata.yaml")},
        "old.tar is a tar of the form V7, which LXD and Incus do not recognise",
    ),
    (
        {"gce.tar.gz": images.compress(images.tarball({"disk.raw": bytes(600)}), "gz")},
        "gce.tar.gz is a disk in a tarball",
    ),
    (
        {
            "both.tar.gz": images.compress(
                images.tarball({"metadata.yaml": b"x", "rootfs/x": b"x", "rootfs.img": images.qcow2()}), "gz"
            )
        },
        "both.tar.gz holds both rootfs/ and rootfs.img",
    ),
    (
        {
            "both.tar.xz": images.compress(
                images.tarball({"rootfs.img": images.qcow2(), "./rootfs/x": b"x", "metadata.yaml": b"x"}), "xz"
            )
        },
        "both.tar.xz holds both rootfs/ and rootfs.img",
    ),
    ({"a.squashfs": SQUASHFS, "b.squashfs": SQUASHFS}, "these would all be rootfs.squashfs, expected one of each kind"),
    ({"a.tar.gz": UNIFIED["gz"], "b.tar.gz": UNIFIED["gz"]}, "these would all be lxd_combined.tar.gz"),
]


@pytest.mark.parametrize(("files", "sentence"), NOT_IMAGES)
def test_a_file_that_is_not_an_image_is_refused_before_anything_is_sent(
    tmp_path: Path, files: dict[str, bytes], sentence: str
) -> None:
    done = run("--dry-run", "--to", "a/b/amd64/d", *write(tmp_path, files))
    assert (done.returncode, sentence in done.stderr) == (3, True), done.stderr


USAGE = [
    ([], "no files are given"),
    (["--nonsense"], "there is no option --nonsense"),
    (["--to"], "--to wants a value"),
    (["x"], "--to is missing"),
    (["--to", "a/b/amd64/d", "--from-lxd", "web", "--dry-run"], "--dry-run looks at files and publishes nothing"),
    (["--to", "a/b/amd64/d", "--from-incus"], "--from-incus wants a value"),
    (["--from-lxd", "web", "--from-incus", "db"], "--from-lxd web and --from-incus db are two sources"),
    (["--from-lxd", "web", "--to", "a/b/amd64/d", "--from-lxd", "db"], "--from-lxd web and --from-lxd db are two"),
    (
        ["--to", "a/b/amd64/d", "--api", "x.example", str(SCRIPT)],
        "the API's address is x.example, expected one such as",
    ),
    (["--to", "a/b/amd64/d", "--api", "ftp://x", str(SCRIPT)], "the API's address is ftp://x, expected one such as"),
    (["--to", "a/b/amd64/d", "--jobs", "0", "x"], "--jobs is 0"),
    (["--to", "a/b/amd64/d", "--wait", "soon", "x"], "--wait is soon"),
    (["--to", "a/b/amd64/d", "--api", "https://localhost:1", "missing"], "missing is not a file that can be read"),
    (["--to", "a/b/amd64/d", "--dry-run", str(SCRIPT.parent), "--wait", "0"], "--wait comes after a file"),
    (["--to", "a/b/amd64/d", str(SCRIPT.parent), "--state-dir", "/s"], "--state-dir comes after a file"),
    (["--to", "a/b/amd64/d/20261123_1000", "x"], "--to a/b/amd64/d, and the version with --version 20261123_1000"),
    (["--to", "images/a/b/amd64/d/20261123", "x"], "--to a/b/amd64/d, and the version with --version 20261123"),
]


@pytest.mark.parametrize(("arguments", "sentence"), USAGE)
def test_wrong_usage_is_reported_with_exit_code_2(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMPLESTREAMS_API", raising=False)
    done = run(*arguments)
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("to", ["/a/b/amd64/d", "a/b/amd64/d/", "images/a/b/amd64/d/", "a/b/amd64/d"])
def test_a_slash_at_either_end_of_the_product_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    request = requested(write(tmp_path, {"a.squashfs": SQUASHFS}), "--to", to, "--version", "20261123_1000")
    assert request["version"] == "images/a/b/amd64/d/20261123_1000"


@pytest.mark.parametrize("shell", ["dash", "bash", "ksh", "busybox"])
def test_every_posix_shell_parses_the_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"NOT TESTED, missing {shell}")
    command = ([shell, "sh"] if shell == "busybox" else [shell]) + ["-n", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # ksh93 recommends its own arithmetic syntax, which no other shell reads.
    said = [line for line in done.stderr.splitlines() if "is slower than" not in line]
    assert (done.returncode, said) == (0, [])


# ── which server ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a minimal clone for the script, with an image file `x` next to it."""
    monkeypatch.delenv("SIMPLESTREAMS_API", raising=False)
    scripts = tmp_path / "clone/scripts"
    scripts.mkdir(parents=True)
    shutil.copy(SCRIPT, scripts / "upload")
    (scripts / "local").write_text("")
    (tmp_path / "x").write_bytes(SQUASHFS)
    return tmp_path / "clone"


def asked(folder: Path, script: Path, *arguments: str | Path, shell: str = "sh", to: str = "a/b/amd64/d") -> list[str]:
    """Return the servers that the script contacts through a stand-in for curl; if none, its exit code and output."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "curl").write_text(f'#!/bin/sh\necho "$*" >>{folder}/asked\nprintf 403\n')
    (programs / "curl").chmod(0o755)
    (folder / "asked").write_text("")
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    command = (*shell.split(), script, "--to", to, *arguments, folder / "x")
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=60
    )
    addresses = re.findall(r"https://[^/ ]*", (folder / "asked").read_text())
    return sorted(set(addresses)) or [f"{done.returncode} {done.stderr}"]


def run_stack(folder: Path, api: str, pid: int) -> None:
    """Write the stack.json of a stack that seems to run."""
    folder.mkdir(parents=True)
    Stack("https://localhost:1", "ca.pem", "http://127.0.0.1:9", "b", "us-east-1", pid, api, "AK", "SK").write(folder)


def test_the_clones_local_stack_is_the_default_server_from_any_folder(clone: Path, tmp_path: Path) -> None:
    run_stack(clone / ".local", "https://localhost:2", os.getpid())
    (tmp_path / "link").symlink_to("clone/scripts/upload")
    for script in (clone / "scripts/upload", Path("clone/scripts/upload"), tmp_path / "link", Path("link")):
        assert asked(tmp_path, script) == ["https://localhost:2"]


@pytest.mark.parametrize("shell", ["dash", "bash", "ksh", "busybox sh"])
def test_every_shell_finds_the_local_stack(clone: Path, tmp_path: Path, shell: str) -> None:
    if shutil.which(shell.split(maxsplit=1)[0]) is None:
        pytest.skip(f"NOT TESTED, missing {shell}")
    run_stack(clone / ".local", "https://localhost:2", os.getpid())
    assert asked(tmp_path, clone / "scripts/upload", shell=shell) == ["https://localhost:2"]


def test_a_named_server_takes_precedence_over_the_local_stack(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stack(clone / ".local", "https://localhost:2", os.getpid())
    run_stack(tmp_path / "other", "https://localhost:3", os.getpid())
    script = clone / "scripts/upload"
    monkeypatch.setenv("SIMPLESTREAMS_API", "https://variable")
    assert asked(tmp_path, script) == ["https://variable"]
    assert asked(tmp_path, script, "--state-dir", "other") == ["https://localhost:3"]
    assert asked(tmp_path, script, "--api", "https://option/") == ["https://option"]
    assert asked(tmp_path, script, "--api", "https://option", "--state-dir", "other") == ["https://option"]


def test_without_a_server_every_way_to_name_one_is_printed(clone: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    run_stack(clone / ".local", "https://localhost:2", ended.pid)
    (said,) = asked(tmp_path, clone / "scripts/upload")
    assert said.startswith(f"6 upload: no server is named, and no local stack is running with the state folder {clone}")
    (clone / "scripts/local").unlink()  # not a clone: the owner of `.local` is unknown
    (copied,) = asked(tmp_path, clone / "scripts/upload")
    for sentence in (said, copied):
        for way in ("--api https://", "SIMPLESTREAMS_API=https://", "./scripts/local", "--state-dir /"):
            assert way in sentence
    assert str(clone) not in copied
    (missing,) = asked(tmp_path, clone / "scripts/upload", "--state-dir", "/nowhere")
    assert missing == "6 upload: no local stack is running with the state folder /nowhere: start ./scripts/local\n"


def test_the_script_finds_the_state_folder_of_a_read_only_clone(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environment, "PROJECT", clone)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != clone)
    run_stack(default_state_folder(), "https://localhost:4", os.getpid())
    script = clone / "scripts/upload"
    # Root may write everywhere, so the shell's test for write access is replaced.
    script.write_text(script.read_text().replace('[ -w "$project" ]', "false"))
    assert asked(tmp_path, script) == ["https://localhost:4"]


# ── the product ──────────────────────────────────────────────────────────────────────────────────────────────────

PRODUCTS = [
    ("a/b/amd64/d", [], "images/a/b/amd64/d"),
    ("images/a/b/amd64/d", [], "images/a/b/amd64/d"),
    ("images-daily/a/b/amd64/d", [], "images-daily/a/b/amd64/d"),
    ("images-daily/a/b/amd64/d", ["--stream", "images-daily"], "images-daily/a/b/amd64/d"),
    ("a/b/amd64/d", ["--stream", "images-daily"], "images-daily/a/b/amd64/d"),
    ("images/b/amd64/d", [], "images/images/b/amd64/d"),
    ("a/b/amd64/d", ["--stream", ""], "images/a/b/amd64/d"),
]


@pytest.mark.parametrize(("to", "arguments", "product"), PRODUCTS)
def test_the_product_can_be_given_with_or_without_its_stream(
    clone: Path, tmp_path: Path, to: str, arguments: list[str], product: str
) -> None:
    asked(tmp_path, clone / "scripts/upload", "--api", "https://api", *arguments, to=to)
    (path,) = re.findall(r"https://api/versions/(\S*)/\d{8}_\d{4}$", (tmp_path / "asked").read_text(), re.MULTILINE)
    assert path == product


def test_two_streams_are_refused(clone: Path, tmp_path: Path) -> None:
    (said,) = asked(tmp_path, clone / "scripts/upload", "--stream", "images", to="images-daily/a/b/amd64/d")
    assert said.startswith("2 upload: --stream is images and --to names images-daily: leave one out")


def test_help_names_every_option_and_exit_code() -> None:
    printed = run("--help").stdout
    for word in ("--to", "--api", "--stream", "--version", "--jobs", "--wait", "--remote", "--json", "--dry-run"):
        assert word in printed
    assert "Exit codes: 0 " in printed


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────


class Recording(Api):
    """Lists these versions of the product, and records the requested uploads."""

    versions: tuple[str, ...] = ()
    requests: list[dict[str, Any]] = []  # noqa: RUF012  # one for each class that a test makes

    def get(self) -> None:
        if not self.path.endswith("/versions/images/a/b/amd64/d"):
            self.answer(404, b"")
        elif self.versions:
            self.answer(200, "".join(f"version {name}\n" for name in self.versions).encode())
        else:
            self.answer(404, b"problem not-found\n")

    def post(self) -> None:
        self.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(201, b"".join(b"# upload present 1 x\n" for _ in self.requests[-1]["files"]))


def requested(files: list[Path], *arguments: str, versions: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the uploads that the script requests from an API with these versions of the product, newest first."""
    api = type("Asked", (Recording,), {"versions": versions, "requests": []})
    with served(api) as port:
        done = run("--to", "a/b/amd64/d", "--api", f"http://127.0.0.1:{port}", "--wait", "0", *arguments, *files)
    assert done.returncode == 0, done.stderr
    return api.requests[0]  # type: ignore[attr-defined, no-any-return]  # a server with counters


@pytest.mark.parametrize(
    ("versions", "form"),
    [
        ((), r"\d{8}_\d{4}"),
        (("20261122_10:00", "20261121_10:00"), r"\d{8}_\d\d:\d\d"),
        (("20261122_1000",), r"\d{8}_\d{4}"),
        (("202611221000",), r"\d{12}"),
        (("20261122",), r"\d{8}"),
        (("20261122.3", "20261122"), r"\d{8}"),
    ],
)
def test_a_version_gets_the_form_of_the_newest_one_of_its_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: tuple[str, ...], form: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    request = requested(write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS}), versions=versions)
    assert re.fullmatch(f"images/a/b/amd64/d/{form}", request["version"])


def test_options_become_a_metadata_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    options = ("--os", 'A "quoted\\ OS', "--release-title", "24.04 LTS", "--aliases", "")
    request = requested(write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS}), *options)
    (sha256,) = (file["sha256"] for file in request["files"] if file["file"] == "metadata.json")
    wanted = json.dumps({"os": 'A "quoted\\ OS', "release_title": "24.04 LTS", "aliases": ""})
    assert sha256 == hashlib.sha256(f"{wanted}\n".encode()).hexdigest()


def test_a_metadata_json_and_options_for_one_are_refused(tmp_path: Path) -> None:
    files = write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "metadata.json": b"{}"})
    done = run("--dry-run", "--to", "a/b/amd64/d", "--os", "x", *files)
    assert (done.returncode, "these would all be metadata.json, expected one of each kind" in done.stderr) == (3, True)


SUM_OF_META, SUM_OF_ROOT = (hashlib.sha256(body).hexdigest() for body in (XZ, SQUASHFS))
OURS = f"{SUM_OF_META}  lxd.tar.xz\n{SUM_OF_ROOT}  rootfs.squashfs\n"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (f"{SUM_OF_META}  meta-a.tar.xz\n{SUM_OF_ROOT}  a.squashfs\n", OURS),
        (f"{SUM_OF_META} *build/meta-a.tar.xz\r\n{SUM_OF_ROOT} ./a.squashfs\r\n", OURS),
        (f"\ufeffSHA256 (meta-a.tar.xz) = {SUM_OF_META}\nSHA256 (x/a.squashfs) = {SUM_OF_ROOT}\n", OURS),
        (f"SHA2-256(meta-a.tar.xz)= {SUM_OF_META}\nSHA256(a.squashfs)= {SUM_OF_ROOT}\n", OURS),
        (
            f"{SUM_OF_META}\tmeta-a.tar.xz\n{SUM_OF_ROOT}  a.squashfs\n{FINGERPRINT}  other.qcow2\n",
            f"{OURS}{FINGERPRINT}  other.qcow2\n",
        ),
        (f"{SUM_OF_META}  meta-a.tar.xz\n{SUM_OF_ROOT}  a.squashfs\n{FINGERPRINT}  elsewhere/lxd.tar.xz\n", OURS),
        (
            f"{FINGERPRINT[:-1]}  a.squashfs\n",
            f"{FINGERPRINT[:-1]}  a.squashfs\n",
        ),  # the server says that it cannot be read
    ],
)
def test_a_list_of_digests_is_sent_with_the_names_that_the_files_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, sent: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    files = {"meta-a.tar.xz": XZ, "a.squashfs": SQUASHFS, "SHA256SUMS": given.encode()}
    request = requested(write(tmp_path, files), "--version", "20261123_1000")
    digests = {file["file"]: file["sha256"] for file in request["files"]}
    assert digests == {
        "lxd.tar.xz": SUM_OF_META,
        "rootfs.squashfs": SUM_OF_ROOT,
        "SHA256SUMS": hashlib.sha256(sent.encode()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("meta-a.squashfs", SQUASHFS, "is metadata in squashfs form"),
        ("metadata.squashfs", SQUASHFS, "metadata.squashfs | xz >lxd.tar.xz, and upload lxd.tar.xz instead"),
        ("disk.raw", b"\0" * 1000, "disk.raw disk.qcow2, and upload that"),
        ("disk.vmdk", b"KDMV" * 100, "run: qemu-img convert -O qcow2"),
    ],
)
def test_a_file_in_another_form_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, name: str, body: bytes, says: str
) -> None:
    done = run("--to", "a/b/amd64/d", "--dry-run", *write(tmp_path, {name: body}))
    assert (done.returncode, says in done.stderr) == (3, True), done.stderr


def tarred(*names: str) -> bytes:
    return images.compress(images.tarball(dict.fromkeys(names, b"x")), "gz")


def at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(512)


FOREIGN = {
    "backup": (tarred("backup/index.yaml", "backup/container/x"), "backup of an instance", "incus import {file} NAME"),
    "metadata of LXC": (tarred("./config", "./templates"), "metadata of LXC", "tar -cJf lxd.tar.xz metadata.yaml"),
    "metadata of an older LXC": (tarred("create-message", "x"), "metadata of LXC", "creation_date: "),
    "docker save": (tarred("blobs/x", "manifest.json"), "image of Docker", "docker export CONTAINER"),
    "OCI": (tarred("oci-layout", "index.json"), "image of Docker or OCI", "xz >root.tar.xz"),
    "OVA": (tarred("web.ovf", "disk1.vmdk"), "an appliance (OVA)", "tar -xf {file}, then qemu-img convert"),
    "ISO": (at(32769, b"CD001"), "an ISO", "--from-incus NAME"),
    "raw disk": (at(510, b"\x55\xaa"), "a raw disk", "qemu-img convert -O qcow2 {file} disk.qcow2"),
    "VMDK": (b"KDMV" * 100, "a disk of another hypervisor", "qemu-img convert -O qcow2 {file}"),
    "VHDX": (b"vhdxfile" * 100, "a disk of another hypervisor", "qemu-img convert -O qcow2 {file}"),
    "VDI": (at(64, b"\x7f\x10\xda\xbe"), "a disk of another hypervisor", "qemu-img convert -O qcow2 {file}"),
}

QCOW2_IN = "gzip -dc <{file} >disk.qcow2, and upload disk.qcow2"
RAW_IN = "xz -dc <{file} >disk.raw && qemu-img convert -O qcow2 disk.raw disk.qcow2, and upload disk.qcow2"
FOREIGN |= {
    "packed qcow2 disk": (images.compress(QCOW2, "gz"), "a qcow2 disk in compressed form", QCOW2_IN),
    "packed raw disk": (images.compress(at(510, b"\x55\xaa"), "xz"), "a raw disk in compressed form", RAW_IN),
    "packed ISO": (images.compress(at(32769, b"CD001"), "gz"), "is an ISO", "--from-lxd NAME"),
    "packed squashfs": (images.compress(SQUASHFS, "gz"), "a squashfs in compressed form", "{file} >rootfs.squashfs"),
    "packed tarball, twice": (images.compress(XZ, "gz"), "compressed twice", "gzip -dc <{file} >image.tar.xz"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_of_another_kind_is_named_with_the_command_that_makes_an_image(tmp_path: Path, case: str) -> None:
    body, kind, command = FOREIGN[case]
    (file,) = write(tmp_path, {"meta.tar.xz": body})
    done = run("--to", "a/b/amd64/d", "--dry-run", file)
    assert (done.returncode, kind in done.stderr) == (3, True), done.stderr
    assert command.format(file=file) in done.stderr


@pytest.mark.parametrize(
    "name", ["my disk.gz", "it's 50% (new) $HOME.gz", "noble_20261123_10:00.gz", "größe.gz", "-x.gz"]
)
@pytest.mark.parametrize(
    ("body", "command", "made"),
    [
        (images.compress(QCOW2, "gz"), r"gzip -dc <.* >disk\.qcow2", "disk.qcow2"),
        (tarred("web.ovf", "disk1.vmdk"), r"tar -xf .*(?=, then)", "disk1.vmdk"),
    ],
    ids=["gzip", "tar"],
)
def test_a_printed_command_works_for_a_file_of_any_name(
    tmp_path: Path, name: str, body: bytes, command: str, made: str
) -> None:
    write(tmp_path, {name: body})
    done = subprocess.run(
        ("sh", SCRIPT, "--to", "a/b/amd64/d", "--dry-run", "--", name), cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    found = re.search(command, done.stderr)
    assert found, done.stderr
    subprocess.run(("sh", "-c", found[0]), cwd=tmp_path, check=True)
    assert (tmp_path / made).stat().st_size


def test_a_compressed_disk_beside_its_metadata_is_not_taken_for_the_root_of_a_container(tmp_path: Path) -> None:
    """It would be listed, since the server does not unpack roots, and no client could use it."""
    disk = write(tmp_path, {"lxd.tar.xz": XZ, "disk.qcow2.gz": images.compress(QCOW2, "gz")})
    done = run("--to", "a/b/amd64/d", "--dry-run", *disk)
    assert (done.returncode, "is a qcow2 disk in compressed form" in done.stderr) == (3, True), done.stderr


def test_a_folder_without_an_image_is_described_or_its_subfolders_named_as_not_searched(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    write(tmp_path / "build", {"rootfs.squashfs": SQUASHFS})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert (done.returncode, "folders within a folder are not searched" in done.stderr) == (3, True), done.stderr
    write(tmp_path, {"oci-layout": b"{}", "index.json": b"{}"})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert (done.returncode, f"{tmp_path} is an image of Docker or OCI" in done.stderr) == (3, True), done.stderr


def test_a_disk_next_to_an_image_in_a_folder_is_skipped_and_named(tmp_path: Path) -> None:
    write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "disk.raw": at(510, b"\x55\xaa")})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["lxd.tar.xz", "rootfs.squashfs"]
    assert f"passed over: {tmp_path}/disk.raw is a raw disk" in done.stderr


def test_an_empty_file_in_a_folder_is_skipped_unless_it_has_the_name_of_an_image(tmp_path: Path) -> None:
    write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS, "build.lock": b""})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["lxd.tar.xz", "rootfs.squashfs"]
    assert done.stderr == f"passed over: {tmp_path}/build.lock is empty (0 bytes)\n"
    write(tmp_path, {"disk.qcow2": b""})
    done = run("--to", "a/b/amd64/d", "--dry-run", tmp_path)
    assert (done.returncode, f"{tmp_path}/disk.qcow2 is empty (0 bytes)" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("case", [case for case in LEFT_BEHIND if "lzma" in case])
def test_the_tools_of_busybox_alone_read_lzma(tmp_path: Path, case: str) -> None:
    need("busybox")
    busybox = str(shutil.which("busybox"))
    programs, files = tmp_path / "programs", tmp_path / "files"
    programs.mkdir()
    files.mkdir()
    for applet in subprocess.run((busybox, "--list"), capture_output=True, text=True, check=True).stdout.split():
        (programs / applet).symlink_to(busybox)
    given, names = LEFT_BEHIND[case]
    command: list[str | Path] = [programs / "sh", SCRIPT, "--dry-run", "--to", "a/b/amd64/d", *write(files, given)]
    done = subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    assert sorted(line.split("\t")[0] for line in done.stdout.splitlines()) == sorted(names), done.stderr


def test_a_whole_image_in_squashfs_form_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    need("mksquashfs", "unsquashfs")
    (tmp_path / "tree/rootfs/etc").mkdir(parents=True)
    (tmp_path / "tree/metadata.yaml").write_bytes(images.metadata_yaml())
    image = tmp_path / "export.squashfs"
    subprocess.run(("mksquashfs", tmp_path / "tree", image, "-quiet", "-no-progress"), check=True, capture_output=True)
    done = run("--to", "a/b/amd64/d", "--dry-run", image)
    assert (done.returncode, f"sqfs2tar {image} | xz >image.tar.xz" in done.stderr) == (3, True), done.stderr


def test_a_squashfs_named_after_its_own_digest_is_a_whole_image(tmp_path: Path) -> None:
    """As `image export` names it: the fingerprint of a split image is not the digest of its root."""
    (image,) = write(tmp_path, {f"{hashlib.sha256(SQUASHFS).hexdigest()}.squashfs": SQUASHFS})
    done = run("--to", "a/b/amd64/d", "--api", "http://127.0.0.1:1", image)
    assert (done.returncode, "is a whole image in squashfs form" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("shell", ["dash", "bash", "ksh", "busybox"])
def test_every_posix_shell_parses_the_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"NOT TESTED, missing {shell}")
    command = ([shell, "sh"] if shell == "busybox" else [shell]) + ["-n", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # ksh93 recommends its own forms of arithmetic, which no other shell reads.
    said = [line for line in done.stderr.splitlines() if "is slower than" not in line]
    assert (done.returncode, said) == (0, [])


# ── an API that does not answer while the listing is waited for ──────────────────────────────────────────────────


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clock that only `sleep` moves; the file has every pause, in seconds."""
    (tmp_path / "bin").mkdir()
    pauses = tmp_path / "pauses"
    pauses.touch()
    programs = {
        "sleep": f'echo "$1" >>{pauses}',
        "date": f"""case $1 in
          +%s) awk '{{ sum += $1 }} END {{ printf "%.0f", 1000000000 + sum }}' {pauses} ;;
          *) exec /bin/date "$@" ;;
        esac""",
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return pauses


HTML = b"<html><head><title>504 Gateway Time-out</title></head></html>"
NO_ANSWERS: dict[str, tuple[int, bytes]] = {
    "API Gateway is busy": (503, b'{"message":"Service Unavailable"}'),
    "API Gateway waited too long": (504, b'{"message":"Endpoint request timed out"}'),
    "a page": (504, HTML),
    "the function failed": (500, b'{"message":"Internal Server Error"}'),
    "bad gateway": (502, b""),
    "throttled": (429, b'{"message":"Too Many Requests"}'),
    "busy": (503, b"problem busy\ndetail S3 is busy\n"),
    "too slow": (408, b""),
    "hung up": (0, b""),
    "somebody else's page": (200, HTML),
}
LISTED = b"status listed\nalias a/b\nfile %d %s lxd.tar.xz\nfile %d %s rootfs.squashfs\n" % (
    len(XZ), hashlib.sha256(XZ).hexdigest().encode(), len(SQUASHFS), hashlib.sha256(SQUASHFS).hexdigest().encode(),
)  # fmt: skip


def scripted(*answers: tuple[int, bytes]) -> type[Api]:
    """An API that gives these answers about the version, one after the other, and the last one for ever."""
    left = list(answers)

    class Scripted(Api):
        def do_GET(self) -> None:
            if "?wait=" not in self.path:  # whether the version is there already
                self.answer(404, b"")
                return
            type(self).polls += 1
            status, body = left.pop(0) if len(left) > 1 else left[0]
            if status:
                self.answer(status, body)
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    return Scripted


def waited(tmp_path: Path, api: type[Api], seconds: int) -> subprocess.CompletedProcess[str]:
    """Upload a whole image to this API, and wait for so long."""
    files = write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS})
    with served(api) as port:
        return run("--to", "a/b/amd64/d", "--api", f"http://127.0.0.1:{port}", "--wait", str(seconds), *files)


@pytest.mark.parametrize("what", NO_ANSWERS)
def test_an_api_that_is_silent_for_a_while_does_not_end_the_wait(what: str, tmp_path: Path, clock: Path) -> None:
    api = scripted(*[NO_ANSWERS[what]] * 7, (404, b""), (200, LISTED))
    done = waited(tmp_path, api, 600)
    assert (done.returncode, done.stdout) == (0, "lxc launch mine:a/b\n"), done.stderr
    assert api.polls == 9


@pytest.mark.parametrize("what", NO_ANSWERS)
def test_an_api_that_never_answers_is_named_at_the_timeout(what: str, tmp_path: Path, clock: Path) -> None:
    done = waited(tmp_path, scripted(NO_ANSWERS[what]), 100)
    assert done.returncode == 5, done.stderr
    assert sum(map(int, clock.read_text().split())) == 100, "it waits to the deadline, and not a second longer"
    status, body = NO_ANSWERS[what]
    said = "does not answer: curl: " if not status else f"answers {status}"
    assert "not listed after 100 s: the API at http://127.0.0.1:" in done.stderr
    assert said in done.stderr
    assert "S3 is busy" in done.stderr or body != NO_ANSWERS["busy"][1]


@pytest.mark.parametrize("state", ["listed", "invalid", "withheld"])
def test_the_loser_of_a_race_between_two_uploads_of_one_version_ends_with_4(
    tmp_path: Path, clock: Path, state: str
) -> None:
    """Both asked before anything was there; the files of the other have the same sizes."""
    others = LISTED.replace(hashlib.sha256(SQUASHFS).hexdigest().encode(), FP.encode()).replace(
        b"listed", state.encode()
    )
    done = waited(tmp_path, scripted((200, others)), 100)
    assert (done.returncode, "was faster: the server has another rootfs.squashfs than" in done.stderr) == (4, True)


def test_a_file_refused_before_it_was_read_is_not_a_lost_race(tmp_path: Path, clock: Path) -> None:
    invalid = b"status invalid\nfile %d - lxd.tar.xz\nreason error lxd.tar.xz it is wrong\n" % len(XZ)
    done = waited(tmp_path, scripted((200, invalid)), 100)
    assert (done.returncode, "it is wrong" in done.stderr) == (3, True), done.stderr


def test_an_unreachable_api_does_not_end_the_wait(tmp_path: Path, clock: Path) -> None:
    """S3Error connections, as when a load balancer or a proxy is started again."""
    api = scripted((200, LISTED))
    files = write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    curl = shutil.which("curl")
    (tmp_path / "bin/curl").write_text(  # the first request is the upload's; the next four find nobody
        f"""#!/bin/sh
        echo call >>{tmp_path}/calls
        case $(grep -c call {tmp_path}/calls) in [2345]) exec {curl} "$@" --connect-to ::127.0.0.1:1 ;; esac
        exec {curl} "$@"
        """
    )
    (tmp_path / "bin/curl").chmod(0o755)
    with served(api, port):
        done = run("--to", "a/b/amd64/d", "--api", f"http://127.0.0.1:{port}", "--version", "20261123", *files)
    assert (done.returncode, api.polls) == (0, 1), done.stderr
    assert len(clock.read_text().split()) == 4


def test_pauses_double_and_differ_between_jobs(tmp_path: Path, clock: Path) -> None:
    seen = []
    for _ in range(3):
        clock.write_text("")
        assert waited(tmp_path, scripted(NO_ANSWERS["throttled"]), 400).returncode == 5
        pauses = [int(pause) for pause in clock.read_text().split()]
        assert all(1 <= pause <= min(2**number, 30) for number, pause in enumerate(pauses, 1))
        assert max(pauses) > 8, "it does not go on asking every second"
        seen.append(pauses)
    assert len({tuple(pauses) for pauses in seen}) == 3


def test_the_retry_after_of_a_busy_api_is_respected(tmp_path: Path, clock: Path) -> None:
    class Asking(Api):
        def do_GET(self) -> None:
            self.answer(429 if "?wait=" in self.path else 404, b"", ("Retry-After", "45"))

    assert waited(tmp_path, Asking, 100).returncode == 5
    assert [int(pause) for pause in clock.read_text().split()] == [45, 45, 10]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b'{"message":"Unauthorized"}', 7),
        (403, b'{"message":"The security token included in the request is expired"}', 7),
        (400, b"detail no such thing\n", 1),
        (410, b"", 1),
        (422, b"detail no such thing\n", 1),
    ],
)
def test_a_permanent_error_ends_the_wait_at_once_and_states_that_everything_is_uploaded(
    status: int, body: bytes, code: int, tmp_path: Path, clock: Path
) -> None:
    api = scripted((status, body))
    done = waited(tmp_path, api, 600)
    assert (done.returncode, api.polls, clock.read_text()) == (code, 1, ""), done.stderr
    assert "is uploaded, and the API does not say what became of it: " in done.stderr


# ── what stays as it is ends the script at once ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("product", ["my os/b/amd64/d", "debián/b/amd64/d", "a/b/amd64/50%"])
def test_a_name_that_no_url_can_hold_is_refused_by_the_api_at_once(tmp_path: Path, clock: Path, product: str) -> None:
    class Strict(Api):
        def do_GET(self) -> None:
            self.answer(422, b"detail a name holds what it may not\n")

        do_POST = do_GET

    (file,) = write(tmp_path, {"lxd_combined.tar.gz": UNIFIED["gz"]})
    with served(Strict) as port:
        done = run("--to", product, "--api", f"http://127.0.0.1:{port}", file)
    assert (done.returncode, done.stderr) == (3, "upload: a name holds what it may not\n")
    assert clock.read_text() == ""


CLOUDFRONT = b"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01 Transitional//EN" "http://www.w3.org/TR/html4/loose.dtd">
<HTML><HEAD><META HTTP-EQUIV="Content-Type" CONTENT="text/html; charset=iso-8859-1">
<TITLE>ERROR: The request could not be satisfied</TITLE>
</HEAD><BODY>
<H1>403 ERROR</H1>
<H2>The request could not be satisfied.</H2>
<HR noshade size="1px">
This distribution is not configured to allow the HTTP request method that was used for this request.
"""


def test_the_address_of_the_images_is_not_taken_for_that_of_the_api(tmp_path: Path, clock: Path) -> None:
    class Edge(Api):
        def do_GET(self) -> None:
            self.answer(404, b"")

        def do_POST(self) -> None:
            self.answer(403, CLOUDFRONT)

    (file,) = write(tmp_path, {"lxd_combined.tar.gz": UNIFIED["gz"]})
    with served(Edge) as port:
        done = run("--to", "a/b/amd64/d", "--api", f"http://127.0.0.1:{port}", file)
    assert (done.returncode, "is where clients find images, and takes no uploads" in done.stderr) == (6, True)
    assert clock.read_text() == ""


REFUSED_PARTLY = (
    b"status incomplete\nfile 1 - lxd.tar.xz\nreason error lxd.tar.xz it is wrong\nreason waiting - x waits for"
)


def test_a_refused_file_ends_the_wait_for_what_others_upload(tmp_path: Path, clock: Path) -> None:
    done = waited(tmp_path, scripted((200, REFUSED_PARTLY + b" its metadata\n")), 600)
    assert (done.returncode, "is invalid: it is wrong\n" in done.stderr) == (3, True), done.stderr
    assert clock.read_text() == ""


class Bucket(Api):
    """An API that plans one upload to itself, and S3 that refuses it."""

    puts = 0
    status = 403

    def do_GET(self) -> None:
        self.answer(404, b"")

    def do_POST(self) -> None:
        size = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["files"][0]["size"]
        url = f"http://{self.headers['Host']}/put"
        self.answer(201, f'# upload single {size} x\nrequest = "PUT"\nurl = "{url}"\n'.encode())

    def do_PUT(self) -> None:
        type(self).puts += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(self.status, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_upload_that_s3_refuses_under_a_new_url_too_is_not_retried(tmp_path: Path, clock: Path, status: int) -> None:
    api = type("Refusing", (Bucket,), {"puts": 0, "status": status})
    (file,) = write(tmp_path, {"lxd_combined.tar.gz": UNIFIED["gz"]})
    with served(api) as port:
        done = run("--to", "a/b/amd64/d", "--api", f"http://127.0.0.1:{port}", "--version", "20261123", "--json", file)
    assert (done.returncode, f"HTTP {status} AccessDenied: no" in done.stderr) == (1, True), done.stderr
    assert (api.puts, clock.read_text()) == (2, "1\n")  # type: ignore[attr-defined]  # a server with counters
