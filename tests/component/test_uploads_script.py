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
from tests.support.upload_script import FINGERPRINT, SCRIPT, SQUASHFS, XZ, Api, run, write

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
    lines = [line for line in done.stderr.splitlines() if "is slower than" not in line]
    assert (done.returncode, lines) == (0, [])


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
    (message,) = asked(tmp_path, clone / "scripts/upload")
    assert message.startswith(
        f"6 upload: no server is named, and no local stack is running with the state folder {clone}"
    )
    (clone / "scripts/local").unlink()  # not a clone: the owner of `.local` is unknown
    (copied,) = asked(tmp_path, clone / "scripts/upload")
    for sentence in (message, copied):
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
    (message,) = asked(tmp_path, clone / "scripts/upload", "--stream", "images", to="images-daily/a/b/amd64/d")
    assert message.startswith("2 upload: --stream is images and --to names images-daily: leave one out")


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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--json", "--bogus"), "there is no option --bogus; see upload --help"),
        (("--bogus", "--json"), "there is no option --bogus; see upload --help"),
        (("--json", "--to"), "--to wants a value; see upload --help"),
        (("--json", "--to", "a/b/amd64/d"), "no files are given; see upload --help"),
        (("--json", "--to", "a/b/amd64/d", "--api", "x", "f"), "the API's address is x, expected one such as "),
    ],
)
def test_wrong_usage_is_an_object_too_for_a_job(arguments: tuple[str, ...], reason: str) -> None:
    done = run(*arguments)
    found = json.loads(done.stdout)
    assert (done.returncode, found["status"], len(found["reasons"])) == (2, "wrong-usage", 1)
    assert found["reasons"][0].startswith(reason)
    assert done.stderr == f"upload: {found['reasons'][0]}\n"


def test_a_list_beside_a_folder_is_about_the_file_in_the_folder_if_that_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "vm").mkdir()
    given = f"{FINGERPRINT}  a\n{SUM_OF_ROOT}  ./vm/a\n{SUM_OF_META}  a.tar.xz\n"
    files = write(tmp_path, {"a.tar.xz": XZ, "vm/a": SQUASHFS, "SHA256SUMS": given.encode()})
    sent = f"{SUM_OF_ROOT}  rootfs.squashfs\n{SUM_OF_META}  lxd.tar.xz\n"
    monkeypatch.chdir(tmp_path)
    for named in (files, [file.relative_to(tmp_path) for file in files]):
        request = requested(named, "--version", "20261123_1000")
        digests = {file["file"]: file["sha256"] for file in request["files"]}
        assert digests["SHA256SUMS"] == hashlib.sha256(sent.encode()).hexdigest(), digests


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
        (f"{FINGERPRINT}  vm/a.squashfs\n{SUM_OF_META}  meta-a.tar.xz\n{SUM_OF_ROOT}  ./a.squashfs\n", OURS),
        (f"{SUM_OF_META}  meta-a.tar.xz\n{SUM_OF_ROOT} *.\\a.squashfs\n{FINGERPRINT} *vm\\a.squashfs\n", OURS),
        (
            f"{SUM_OF_META}  meta-a.tar.xz\n{SUM_OF_ROOT}  a/a.squashfs\n{FINGERPRINT}  vm/a.squashfs\n",
            f"{OURS}{FINGERPRINT}  rootfs.squashfs\n",
        ),  # the server says that it is ambiguous
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
