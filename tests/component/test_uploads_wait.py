"""`scripts/upload` waits for the listing, also of a slow, silent or broken API; some answers end the wait at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.processes import free_port
from tests.support.servers.http import served
from tests.support.upload_script import FINGERPRINT, SQUASHFS, UNIFIED, XZ, Api, run, write


def test_the_script_polls_when_the_server_asks_for_it_and_once_more_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    asked: list[tuple[float, str]] = []

    class Slow(Api):
        """Never lists them."""

        def get(self) -> None:
            if "?wait=" in self.path:  # and not whether the version is there already
                asked.append((time.monotonic(), self.path.partition("?")[2]))
            self.answer(200, b"status incomplete\n", ("Retry-After", "3" if len(asked) == 1 else "60"))

    files = write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS})
    with served(Slow) as port:
        done = run("--to", "a/b/amd64/d", "--api", f"http://127.0.0.1:{port}", "--wait", "10", *files)
    assert (done.returncode, "not listed after 10 s" in done.stderr) == (5, True), done.stderr
    pauses = [after - before for (before, _), (after, _) in pairwise(asked)]
    assert (len(asked), asked[-1][1]) == (3, "wait=0")
    assert 3 <= pauses[0] < 30
    assert pauses[1] < 30  # and not a minute


# ── an API that does not answer during the wait ──────────────────────────────────────────────────────────────────


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a clock that only `sleep` advances; return a file with every pause in seconds."""
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
    """Return an API that gives these answers about the version in turn, and then the last one forever."""
    left = list(answers)

    class Scripted(Api):
        def get(self) -> None:
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
    """Upload a complete image to this API, and wait this long."""
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
    message = "does not answer: curl: " if not status else f"answers {status}"
    assert "not listed after 100 s: the API at http://127.0.0.1:" in done.stderr
    assert message in done.stderr
    assert "S3 is busy" in done.stderr or body != NO_ANSWERS["busy"][1]


@pytest.mark.parametrize("state", ["listed", "invalid", "withheld"])
def test_the_loser_of_a_race_between_two_uploads_of_one_version_ends_with_4(
    tmp_path: Path, clock: Path, state: str
) -> None:
    """Both asked before anything was uploaded; the files of the other have the same sizes."""
    others = LISTED.replace(hashlib.sha256(SQUASHFS).hexdigest().encode(), FINGERPRINT.encode()).replace(
        b"listed", state.encode()
    )
    done = waited(tmp_path, scripted((200, others)), 100)
    assert (done.returncode, "was faster: the server has another rootfs.squashfs than" in done.stderr) == (4, True)


def test_a_file_refused_before_it_was_read_is_not_a_lost_race(tmp_path: Path, clock: Path) -> None:
    invalid = b"status invalid\nfile %d - lxd.tar.xz\nreason error lxd.tar.xz it is wrong\n" % len(XZ)
    done = waited(tmp_path, scripted((200, invalid)), 100)
    assert (done.returncode, "it is wrong" in done.stderr) == (3, True), done.stderr


def test_an_unreachable_api_does_not_end_the_wait(tmp_path: Path, clock: Path) -> None:
    """Connections are refused, as when a load balancer or a proxy is started again."""
    api = scripted((200, LISTED))
    files = write(tmp_path, {"lxd.tar.xz": XZ, "rootfs.squashfs": SQUASHFS})
    port = free_port()
    curl = shutil.which("curl")
    (tmp_path / "bin/curl").write_text(  # the first request is the upload's; the next four are refused
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
        def get(self) -> None:
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


# ── answers that end the script at once ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("product", ["my os/b/amd64/d", "debián/b/amd64/d", "a/b/amd64/50%"])
def test_a_name_that_no_url_can_hold_is_refused_by_the_api_at_once(tmp_path: Path, clock: Path, product: str) -> None:
    class Strict(Api):
        def get(self) -> None:
            self.answer(422, b"detail a name holds what it may not\n")

        post = get

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
        def post(self) -> None:
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
    """An API that signs one upload to itself, and an S3 that refuses it."""

    puts = 0
    status = 403

    def post(self) -> None:
        size = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["files"][0]["size"]
        url = f"http://{self.headers['Host']}/put"
        self.answer(201, f'# upload single {size} x\nrequest = "PUT"\nurl = "{url}"\n'.encode())

    def put(self) -> None:
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
