"""scripts/upload with files that change, names that are patterns, values with line ends, no home, and Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support import PROJECT, images
from tests.support.processes import need
from tests.support.servers.http import served

SCRIPT = PROJECT / "scripts/upload"
MIB = 1 << 20
CHANGED = "no longer has the {} bytes that were hashed; the file changed while it was sent"


class Bucket(BaseHTTPRequestHandler):
    """API and S3 in one. Whatever is sent must have the length that was signed, as S3 has it."""

    in_parts = False
    change = staticmethod(lambda: None)
    seen: list[str | None]
    begun: threading.Event

    def do_POST(self) -> None:
        type(self).seen.append(self.headers["Authorization"])
        (file,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["files"]
        size = file["size"]
        url = f"http://{self.headers['Host']}/"
        plan = f'# upload single {size} x\nrequest = "PUT"\nurl = "{url}{size}"\n'
        if self.in_parts:
            parts = f'# part 1 0 {MIB}\nurl = "{url}{MIB}"\n# part 2 {MIB} {size - MIB}\nurl = "{url}{size - MIB}"\n'
            plan = f'# upload multipart {size} x\n# upload-id an-id\n{parts}# complete\nurl = "{url}"\n'
        type(self).change()
        self.answer(201, plan.encode())

    def do_PUT(self) -> None:
        type(self).begun.set()
        signed, sent = int(self.path[1:]), int(self.headers["Content-Length"])
        if signed != sent:
            self.close_connection = True
            self.answer(403, b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>")
        elif len(self.rfile.read(sent)) == sent:
            self.answer(200, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def bucket() -> Iterator[tuple[type[Bucket], str]]:
    need("curl")
    server = type("Server", (Bucket,), {"seen": [], "begun": threading.Event()})
    with served(server) as port:
        yield server, f"http://127.0.0.1:{port}"


def command(api: str, *arguments: str | Path) -> tuple[str | Path, ...]:
    product = ("--to", "a/b/amd64/d", "--version", "20261123", "--wait", "0")
    return (SCRIPT, "--api", api, *product, *arguments)


def variables(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SIMPLESTREAMS_"))}
    return kept | {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")} | more


def upload(api: str, folder: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(api, *arguments), env=variables(folder, **more), cwd=folder, capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["rootfs[1].squashfs", "root{fs,2}.squashfs", "root fs*.squashfs", "größe?.squashfs"])
def test_a_files_name_is_no_pattern(bucket: tuple[type[Bucket], str], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(images.squashfs())
    done = upload(bucket[1], tmp_path, name)
    assert (done.returncode, done.stderr) == (0, "images/a/b/amd64/d/20261123 is uploaded\n")


@pytest.mark.parametrize("what", ["removed", "longer", "shorter"])
def test_a_file_that_changes_while_it_is_sent_is_named_at_once(
    bucket: tuple[type[Bucket], str], tmp_path: Path, what: str
) -> None:
    server, api = bucket
    file, content = tmp_path / "rootfs.squashfs", images.squashfs("changes", 3 * MIB)
    file.write_bytes(content)
    changes = {"longer": lambda: file.write_bytes(content * 2), "shorter": lambda: file.write_bytes(content[:MIB])}
    server.change = staticmethod(changes.get(what, file.unlink))  # type: ignore[arg-type]  # its result is not used
    done = upload(api, tmp_path, "--json", file)
    assert (done.returncode, CHANGED.format(len(content)) in done.stderr) == (3, True), done.stderr
    assert (json.loads(done.stdout)["status"], len(server.seen)) == ("invalid", 1)


def test_a_part_that_a_shorter_file_no_longer_has_is_not_sent_again(
    bucket: tuple[type[Bucket], str], tmp_path: Path
) -> None:
    server, api = bucket
    file, content = tmp_path / "rootfs.squashfs", images.squashfs("parts", 3 * MIB)
    file.write_bytes(content)
    server.in_parts = True
    server.change = staticmethod(lambda: file.write_bytes(content[: MIB // 2]))  # type: ignore[arg-type]  # its result is not used
    done = upload(api, tmp_path, file)
    assert (done.returncode, CHANGED.format(len(content)) in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_the_end_of_a_line_is_no_part_of_a_token_or_an_address(
    bucket: tuple[type[Bucket], str], tmp_path: Path, end: str
) -> None:
    """As in `SIMPLESTREAMS_TOKEN` from a file of Windows."""
    server, api = bucket
    (tmp_path / "rootfs.squashfs").write_bytes(images.squashfs())
    done = upload(api + end, tmp_path, "rootfs.squashfs", SIMPLESTREAMS_TOKEN=f"a.b.c{end}")
    assert (done.returncode, server.seen) == (0, ["Bearer a.b.c"]), done.stderr
    keys = {"AWS_ACCESS_KEY_ID": f"AKIA{end}", "AWS_SECRET_ACCESS_KEY": f"secret{end}", "AWS_REGION": f"eu-west-1{end}"}
    done = upload(api, tmp_path, "rootfs.squashfs", **keys)
    assert (done.returncode, len(server.seen)) == (0, 2), done.stderr
    assert re.match(r"AWS4-HMAC-SHA256 Credential=AKIA/\d+/eu-west-1/execute-api/", server.seen[1] or "")


@pytest.mark.parametrize("home", ["", "/proc/nobody"])
def test_a_home_that_is_missing_or_cannot_be_written_is_not_needed(
    bucket: tuple[type[Bucket], str], tmp_path: Path, home: str
) -> None:
    (tmp_path / "rootfs.squashfs").write_bytes(images.squashfs())
    environment = variables(tmp_path)
    del environment["HOME"], environment["XDG_STATE_HOME"]
    done = subprocess.run(
        command(bucket[1], tmp_path / "rootfs.squashfs"), env=environment | ({"HOME": home} if home else {}),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "images/a/b/amd64/d/20261123 is uploaded\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("in_parts", [False, True])
def test_nothing_is_sent_after_it_was_stopped(
    bucket: tuple[type[Bucket], str], tmp_path: Path, number: signal.Signals, in_parts: bool
) -> None:
    server, api = bucket
    server.in_parts = in_parts
    server.do_PUT = _stand_still  # type: ignore[method-assign,assignment]  # for one test
    (tmp_path / "rootfs.squashfs").write_bytes(images.squashfs("stopped", 40 * MIB))
    process = subprocess.Popen(
        command(api, tmp_path / "rootfs.squashfs"), env=variables(tmp_path), start_new_session=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert server.begun.wait(30)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert "curl" not in _still_there(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _stand_still(request: Bucket) -> None:
    request.begun.set()
    threading.Event().wait(20)


def _still_there(group: int) -> list[str]:
    """The programs of a process group, once those that were told to end had two seconds for it."""
    listed: list[str] = []
    for _ in range(20):
        done = subprocess.run(("ps", "-A", "-o", "pgid=,stat=,comm="), capture_output=True, text=True, check=True)
        words = [line.split() for line in done.stdout.splitlines()]
        listed = [name for found, state, name, *_ in words if int(found) == group and not state.startswith("Z")]
        if "curl" not in listed:
            break
        threading.Event().wait(0.1)
    return listed
