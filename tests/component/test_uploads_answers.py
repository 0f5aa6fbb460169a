"""`scripts/upload` and the answers of the API: what it prints, its exit codes, and how long it waits."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.servers.recording_api import VERSION, RecordingApi, upload
from tests.support.upload_script import SCRIPT, environment, programs


def test_the_script_fails_if_the_listed_digests_differ_from_those_it_sent(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    status, text = RecordingApi.answers["/versions/"]
    RecordingApi.answers["/versions/"] = (status, re.sub(r"[0-9a-f]{64}", "b" * 64, text))
    done = upload(listener, tmp_path)
    assert (done.returncode, "the server has another lxd_combined.tar.gz than" in done.stderr) == (4, True)


def test_a_file_that_changed_without_another_size_is_no_lost_race(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    """Parts have no digest of the whole file: only the listing has it."""
    status, text = RecordingApi.answers["/versions/"]
    RecordingApi.answers["/versions/"] = (status, re.sub(r"[0-9a-f]{64}", "b" * 64, text))
    change = f"printf x | dd of={tmp_path / 'image.tar.gz'} bs=1 seek=9 conv=notrunc"
    curl = f'case "$*" in *wait=*) {change} ;; esac 2>/dev/null; exec {shutil.which("curl")} "$@"'
    done = upload(listener, tmp_path, PATH=programs(tmp_path, curl=curl))
    assert (done.returncode, "was faster" in done.stderr) == (3, False), done.stderr
    assert "image.tar.gz no longer has the bytes that were hashed; the file changed while it was sent" in done.stderr


ENDS = [
    (403, "problem forbidden\ndetail you may not\n", 7, "you may not"),
    (409, "problem exists\ndetail it is there\n", 4, "it is there"),
    (422, "problem refused\ndetail first\ndetail second\n", 3, "upload: first\n  second\n"),
    (401, '{"message":"Unauthorized"}', 7, "Unauthorized"),
    (413, "problem body-too-large\ndetail too much\n", 3, "too much"),
]


@pytest.mark.parametrize(("status", "text", "code", "sentence"), ENDS)
def test_every_error_of_the_api_has_its_exit_code(
    listener: ThreadingHTTPServer, tmp_path: Path, status: int, text: str, code: int, sentence: str
) -> None:
    RecordingApi.answers["/uploads/batch"] = (status, text)
    done = upload(listener, tmp_path)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr


REFUSED = f"status invalid\npath {VERSION}\nreason error lxd_combined.tar.gz lxd_combined.tar.gz is cut short\n"
ONCE = {
    "refused": (REFUSED, f"upload: {VERSION} is invalid: lxd_combined.tar.gz is cut short\n"),
    "withdrawn": (
        f"status withdrawn\nreason warning - {VERSION} was withdrawn\n",
        f"upload: {VERSION} is withdrawn: {VERSION} was withdrawn\n",
    ),
    "refused twice": (f"{REFUSED}reason error x x is no image\n",
        f"upload: {VERSION} is invalid: lxd_combined.tar.gz is cut short\n  x is no image\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONCE)
def test_a_refusal_is_printed_once(listener: ThreadingHTTPServer, tmp_path: Path, case: str) -> None:
    answer, message = ONCE[case]
    RecordingApi.answers["/versions/"] = (200, answer)
    done = upload(listener, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", message)


def test_a_page_of_somebody_else_neither_breaks_json_nor_acts_on_a_terminal(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    RecordingApi.answers["/uploads/batch"] = (410, '<html>\r\n\t<b>Gone\x1b[31m \\ "away"</b>\r\n')
    done = upload(listener, tmp_path, "--json")
    (reason,) = json.loads(done.stdout)["reasons"]
    assert (done.returncode, re.search(r"<b>Gone *\[31m \\ \"away\"</b>$", reason) is not None) == (1, True), reason
    assert done.stderr.rstrip("\n").isprintable()


# ── what somebody has still to upload ────────────────────────────────────────────────────────────────────────────

ROOT = f"{VERSION} waits for a root: upload rootfs.squashfs"
LACKS = f"status incomplete\npath {VERSION}\nfile 260 - {{file}}\nreason waiting - {ROOT}\n"
LACKING = LACKS.format(file="lxd_combined.tar.gz")
UNDER_WAY = {
    "not there yet": LACKS.format(file="another"),
    "not read yet": f"{LACKING}reason waiting lxd_combined.tar.gz lxd_combined.tar.gz has arrived\n",
    "about to be listed": f"status incomplete\nfile 260 - lxd_combined.tar.gz\nreason waiting - {VERSION} is sound\n",
}


def test_an_incomplete_version_ends_the_script_at_once_and_names_the_missing_file(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    RecordingApi.answers["/versions/"] = (200, LACKING)
    done = upload(listener, tmp_path)
    message = f"upload: uploaded, but {ROOT}, with --version 20261123_10:00; --wait SECONDS waits for somebody else's\n"
    assert (done.returncode, done.stdout, done.stderr) == (8, "", message)


def test_with_wait_the_missing_file_is_printed_once_and_awaited(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    RecordingApi.answers["/versions/"] = (200, LACKING)
    done = upload(listener, tmp_path, "--wait", "4")
    assert (done.returncode, done.stderr) == (5, f"{ROOT}\nupload: {VERSION} is uploaded and not listed after 4 s\n")
    assert len([path for _, path, _, _ in RecordingApi.seen if path.startswith("/versions/")]) > 2


@pytest.mark.parametrize("case", UNDER_WAY)
def test_a_version_in_progress_is_awaited(listener: ThreadingHTTPServer, tmp_path: Path, case: str) -> None:
    listed = RecordingApi.answers["/versions/"]
    RecordingApi.answers["/versions/"], RecordingApi.once["/versions/"] = listed, (200, UNDER_WAY[case])
    done = upload(listener, tmp_path)
    assert (done.returncode, done.stderr) == (0, f"{VERSION} is listed:\n")


def test_an_image_whose_names_another_product_has_is_launched_by_its_fingerprint(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    status, text = RecordingApi.answers["/versions/"]
    lines = text.replace("alias signed/one\n", f"fingerprint {'f' * 64}\nreason error - another has its name\n")
    RecordingApi.answers["/versions/"] = (status, lines)
    done = upload(listener, tmp_path)
    assert (done.returncode, done.stdout) == (3, f"lxc launch mine:{'f' * 64}\n"), done.stderr


# ── on a terminal ────────────────────────────────────────────────────────────────────────────────────────────────


def upload_on_a_terminal(server: ThreadingHTTPServer, folder: Path) -> tuple[str, list[str]]:
    """Upload on a terminal; return standard output, and the lines that the terminal shows."""
    seen, terminal = pty.openpty()
    api = f"http://127.0.0.1:{server.server_address[1]}"
    command = (SCRIPT, "--api", api, "--to", "signed/one/amd64/default", "--version", "20261123_10:00")
    done = subprocess.run(
        (*command, folder / "image.tar.gz"), env=environment(folder), stdout=subprocess.PIPE, stderr=terminal,
        check=False, timeout=60, text=True,
    )  # fmt: skip
    os.close(terminal)
    lines = os.read(seen, 65536).decode().splitlines()
    os.close(seen)
    return done.stdout, lines


OF_LXD = ("/var/snap/lxd/common/lxd/cache/*", "/var/cache/lxd/*")
OF_INCUS = ("/var/cache/incus/*", "~/.cache/incus")


@pytest.mark.parametrize(
    ("clients", "program", "caches"),
    [
        ("", "lxc", OF_LXD + OF_INCUS),
        ("client incus\nclient lxd\n", "lxc", OF_LXD + OF_INCUS),
        ("client lxd\n", "lxc", OF_LXD),
        ("client incus\n", "incus", OF_INCUS),
    ],
)
def test_a_terminal_shows_only_the_caches_of_clients_that_see_the_image(
    listener: ThreadingHTTPServer, tmp_path: Path, clients: str, program: str, caches: tuple[str, ...]
) -> None:
    status, text = RecordingApi.answers["/versions/"]
    fingerprint = "f" * 64
    RecordingApi.answers["/versions/"] = (status, f"{text}fingerprint {fingerprint}\n{clients}")
    printed, lines = upload_on_a_terminal(listener, tmp_path)
    assert (printed, lines[0]) == (
        f"{program} launch mine:signed/one\n",
        f"everything is sent, waiting until {VERSION} is listed",
    )
    hint = "\n".join(lines[2:])
    assert f"{program} image copy mine:{fingerprint} local: --mode relay && {program} launch {fingerprint}\n" in hint
    assert tuple(cache for cache in OF_LXD + OF_INCUS if cache in hint) == caches
