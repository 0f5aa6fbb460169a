"""`scripts/upload` on the network: broken connections, and signatures as AWS checks them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support import PROJECT, images, upload_api
from tests.support.processes import need
from tests.support.upload_api import System

# Their fixtures last for the module: one worker, so that they are made once.
pytestmark = pytest.mark.xdist_group("uploads-network")

MIB = 1 << 20
SCRIPT = PROJECT / "scripts/upload"


@pytest.fixture(autouse=True)
def _curl() -> None:
    need("curl")


def environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")} | variables


def large(path: Path, mib: int) -> Path:
    with path.open("wb") as out:
        out.write(images.squashfs(path.name, MIB))
        for number in range(1, mib):
            out.write(images.filler(f"{path.name} {number}", MIB))
    return path


class BreakingNetwork:
    """A proxy that cuts every second connection that carries more than `after` bytes."""

    def __init__(self, server: tuple[str, int], after: int) -> None:
        self._server, self._after = server, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._large = 0
        self.cuts = 0
        self.bytes_up = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._server) as far:
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()
            carried = 0
            with contextlib.suppress(OSError):
                while data := near.recv(65536):
                    far.sendall(data)
                    carried += len(data)
                    with self._lock:
                        self.bytes_up += len(data)
                    if carried - len(data) <= self._after < carried and self._cut_this():
                        return

    def _cut_this(self) -> bool:
        with self._lock:
            self._large += 1
            self.cuts += self._large % 2
            return self._large % 2 == 1


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_broken_connections_cost_only_the_parts_in_transit(tmp_path: Path) -> None:
    root = large(tmp_path / "rootfs.squashfs", 100)  # seven parts
    metadata = tmp_path / "lxd.tar.xz"
    metadata.write_bytes(images.metadata_tarball(serial="broken"))
    networks: list[BreakingNetwork] = []

    def over_a_breaking_network(port: int) -> int:
        networks.append(BreakingNetwork(("127.0.0.1", port), MIB))
        return networks[0].port

    with upload_api.system("local", tmp_path / "system", way=over_a_breaking_network) as system:
        done = subprocess.run(
            (SCRIPT, "--to", "network/broken/amd64/default", "--version", "20261123_10:00", "--wait", "0", "--json",
             metadata, root),
            env=environment(tmp_path, SIMPLESTREAMS_API=system.api_url, CURL_CA_BUNDLE=str(system.ca_file)),
            capture_output=True, text=True, check=False, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (network,) = networks
        cuts, bytes_up = network.cuts, network.bytes_up
        size = root.stat().st_size
        assert json.loads(done.stdout)["sent_bytes"] == size + metadata.stat().st_size
        assert cuts >= 3
        # Bytes on each connection until it was cut, plus headers and the functions' own requests.
        assert size < bytes_up < size + cuts * (MIB + 65536) + MIB
        version = "images/network/broken/amd64/default/20261123_10:00"
        assert system.stored(f"{version}/rootfs.squashfs") == root.read_bytes()


# ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────

CREDENTIALS = Credentials("AKIAEXAMPLE", 's3cr"et\\/+=', "a/session+token==")
VERSION = "images/signed/one/amd64/default/20261123_10:00"


class Listener(BaseHTTPRequestHandler):
    """Records every request, and answers like a server that has everything already."""

    seen: list[tuple[str, str, dict[str, str], bytes]] = []  # noqa: RUF012  (each test makes its own class)
    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012  (as above)
    once: dict[str, tuple[int, str]] = {}  # noqa: RUF012  (as above)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, dict(self.headers), body))
        start = next(start for start in self.answers if self.path.startswith(start))
        status, text = self.once.pop(start) if start in self.once else self.answers[start]
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    content = images.unified_tarball()
    (tmp_path / "image.tar.gz").write_bytes(content)
    name, digest = f"{VERSION}/lxd_combined.tar.gz", upload_api.sha256(content)
    listed = f"status listed\nalias signed/one\nfile {len(content)} {digest} lxd_combined.tar.gz\n"
    Listener.seen, Listener.once = [], {}
    Listener.answers = {
        "/uploads/batch": (201, f"# upload present {len(content)} {name}\n"),
        "/versions/": (200, listed),
        "/token": (200, '{"count":1,"value":"a.github.token"}'),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def upload(
    server: ThreadingHTTPServer, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    api = f"http://127.0.0.1:{server.server_address[1]}"
    return subprocess.run(
        (SCRIPT, "--api", api, "--to", "signed/one/amd64/default", "--version", "20261123_10:00",
         *arguments, folder / "image.tar.gz"),
        env=environment(folder, **variables), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_requests_are_signed_as_aws_checks_them(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    """botocore repeats the signature of the received request, as API Gateway would, also for a path with a colon."""
    who = {"AWS_ACCESS_KEY_ID": CREDENTIALS.access_key, "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_key}
    done = upload(listener, tmp_path, **who, AWS_SESSION_TOKEN=str(CREDENTIALS.token), AWS_REGION="eu-central-1")
    assert (done.returncode, done.stdout) == (0, "lxc launch mine:signed/one\n"), done.stderr
    assert [(method, path.split("?")[0]) for method, path, _, _ in Listener.seen] == [
        ("POST", "/uploads/batch"),
        ("GET", f"/versions/{VERSION.replace(':', '~')}"),
    ]
    for method, path, headers, body in Listener.seen:
        sent = {name.lower(): value for name, value in headers.items()}
        assert sent["x-amz-security-token"] == CREDENTIALS.token
        assert sent["authorization"] == _signature(method, path, sent, body)


def _signature(method: str, path: str, sent: dict[str, str], body: bytes) -> str:
    found = re.search(
        r"Credential=[^/]+/(\d+)/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+)", sent["authorization"]
    )
    assert found, sent["authorization"]
    _, region, service, names = found.groups()
    assert (region, service) == ("eu-central-1", "execute-api")
    signed = {name: sent[name] for name in names.split(";")}
    request = AWSRequest(method, f"http://{sent['host']}{path}", headers=signed, data=body)
    request.context["timestamp"] = sent["x-amz-date"]
    signer = SigV4Auth(CREDENTIALS, service, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return (
        f"AWS4-HMAC-SHA256 Credential={CREDENTIALS.access_key}/{signer.credential_scope(request)}, "
        f"SignedHeaders={names}, Signature={signer.signature(text, request)}"
    )


def test_a_token_is_sent_as_a_bearer(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    assert upload(listener, tmp_path, SIMPLESTREAMS_TOKEN="a.b.c").returncode == 0
    assert {headers["Authorization"] for _, _, headers, _ in Listener.seen} == {"Bearer a.b.c"}


def test_the_step_that_boots_takes_no_end_of_a_line_for_a_part_of_a_token(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    api = f"http://127.0.0.1:{listener.server_address[1]}\r"
    done = subprocess.run(
        (PROJECT / "infra/action/boots/boots.sh", "--path", VERSION, "--remote", "mine", "--api", api),
        env=environment(tmp_path, SIMPLESTREAMS_TOKEN="a.b.c\r\n"), capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, f"{VERSION} is not listed" in done.stderr) == (3, True), done.stderr
    assert [headers["Authorization"] for _, _, headers, _ in Listener.seen] == ["Bearer a.b.c"]


def test_a_github_job_asks_for_its_own_token(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{listener.server_address[1]}/token?api-version=2"
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job"}
    assert upload(listener, tmp_path, **job, SIMPLESTREAMS_AUDIENCE="images").returncode == 0
    asked = [(path, headers["Authorization"]) for _, path, headers, _ in Listener.seen if path.startswith("/token")]
    assert asked[0] == ("/token?api-version=2&audience=images", "bearer job")
    others = {headers["Authorization"] for _, path, headers, _ in Listener.seen if not path.startswith("/token")}
    assert others == {"Bearer a.github.token"}


def test_a_github_that_is_busy_is_asked_again_and_one_that_refuses_is_quoted(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{listener.server_address[1]}/token?api-version=2"
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job"}
    Listener.once["/token"] = (503, "busy")
    assert upload(listener, tmp_path, **job, SIMPLESTREAMS_AUDIENCE="images").returncode == 0
    Listener.answers["/token"] = (403, "no")
    done = upload(listener, tmp_path, **job, SIMPLESTREAMS_AUDIENCE="images")
    assert (done.returncode, done.stdout) == (7, "")
    assert re.fullmatch(
        r"upload: GitHub gave no token \(curl: .*403.*\); the job needs `permissions: .*`\n", done.stderr
    )


def test_no_process_has_a_secret_in_its_arguments() -> None:
    text = SCRIPT.read_text()
    assert not re.search(r"curl[^\n]*(--user|-u) ", text)
    assert "umask 077" in text


def test_the_script_fails_if_the_listed_digests_differ_from_those_it_sent(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    status, text = Listener.answers["/versions/"]
    Listener.answers["/versions/"] = (status, re.sub(r"[0-9a-f]{64}", "b" * 64, text))
    done = upload(listener, tmp_path)
    assert (done.returncode, "the server has another lxd_combined.tar.gz than" in done.stderr) == (4, True)


def test_a_file_that_changed_without_another_size_is_no_lost_race(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    """Parts have no digest of the whole file: only the listing has it."""
    status, text = Listener.answers["/versions/"]
    Listener.answers["/versions/"] = (status, re.sub(r"[0-9a-f]{64}", "b" * 64, text))
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
    Listener.answers["/uploads/batch"] = (status, text)
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
    Listener.answers["/versions/"] = (200, answer)
    done = upload(listener, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", message)


def test_a_page_of_somebody_else_neither_breaks_json_nor_acts_on_a_terminal(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    Listener.answers["/uploads/batch"] = (410, '<html>\r\n\t<b>Gone\x1b[31m \\ "away"</b>\r\n')
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
    Listener.answers["/versions/"] = (200, LACKING)
    done = upload(listener, tmp_path)
    message = f"upload: uploaded, but {ROOT}, with --version 20261123_10:00; --wait SECONDS waits for somebody else's\n"
    assert (done.returncode, done.stdout, done.stderr) == (8, "", message)


def test_with_wait_the_missing_file_is_printed_once_and_awaited(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    Listener.answers["/versions/"] = (200, LACKING)
    done = upload(listener, tmp_path, "--wait", "4")
    assert (done.returncode, done.stderr) == (5, f"{ROOT}\nupload: {VERSION} is uploaded and not listed after 4 s\n")
    assert len([path for _, path, _, _ in Listener.seen if path.startswith("/versions/")]) > 2


@pytest.mark.parametrize("case", UNDER_WAY)
def test_a_version_in_progress_is_awaited(listener: ThreadingHTTPServer, tmp_path: Path, case: str) -> None:
    listed = Listener.answers["/versions/"]
    Listener.answers["/versions/"], Listener.once["/versions/"] = listed, (200, UNDER_WAY[case])
    done = upload(listener, tmp_path)
    assert (done.returncode, done.stderr) == (0, f"{VERSION} is listed:\n")


def test_an_image_whose_names_another_product_has_is_launched_by_its_fingerprint(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    status, text = Listener.answers["/versions/"]
    lines = text.replace("alias signed/one\n", f"fingerprint {'f' * 64}\nreason error - another has its name\n")
    Listener.answers["/versions/"] = (status, lines)
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
    status, text = Listener.answers["/versions/"]
    fingerprint = "f" * 64
    Listener.answers["/versions/"] = (status, f"{text}fingerprint {fingerprint}\n{clients}")
    printed, lines = upload_on_a_terminal(listener, tmp_path)
    assert (printed, lines[0]) == (
        f"{program} launch mine:signed/one\n",
        f"everything is sent, waiting until {VERSION} is listed",
    )
    hint = "\n".join(lines[2:])
    assert f"{program} image copy mine:{fingerprint} local: --mode relay && {program} launch {fingerprint}\n" in hint
    assert tuple(cache for cache in OF_LXD + OF_INCUS if cache in hint) == caches


def programs(folder: Path, **scripts: str) -> str:
    """Return a PATH on which these one-line programs precede all others."""
    (folder / "programs").mkdir()
    for name, line in scripts.items():
        (folder / "programs" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "programs" / name).chmod(0o755)
    return f"{folder / 'programs'}:{os.environ['PATH']}"


def test_an_unreachable_api_is_reported_in_the_words_of_curl(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    listener.server_close()
    done = upload(listener, tmp_path, PATH=programs(tmp_path, sleep="exit 0"))
    api = f"http://127.0.0.1:{listener.server_address[1]}"
    assert done.returncode == 1
    assert re.fullmatch(rf"upload: the API at {api} does not answer: curl: \(7\) [^\n>]*\n", done.stderr), done.stderr


@pytest.mark.parametrize("why", ["certificate is not yet valid", "certificate has expired"])
def test_a_certificate_of_another_time_is_a_matter_of_the_clock(
    listener: ThreadingHTTPServer, tmp_path: Path, why: str
) -> None:
    curl = f"echo 'curl: (60) SSL certificate problem: {why}' >&2; exit 60"
    done = upload(listener, tmp_path, PATH=programs(tmp_path, curl=curl))
    assert (done.returncode, "CURL_CA_BUNDLE" in done.stderr) == (1, False)
    assert re.search(rf"{why}; look at the clock of this machine \(\d{{4}}-\S+Z\) first\n$", done.stderr), done.stderr


def test_a_busy_api_is_reported_in_the_words_of_its_answer(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    Listener.answers["/uploads/batch"] = (503, "problem busy\ndetail storage is busy\n")
    done = upload(listener, tmp_path, PATH=programs(tmp_path, sleep="exit 0"))
    api = f"http://127.0.0.1:{listener.server_address[1]}"
    assert (done.returncode, done.stderr) == (1, f"upload: the API at {api} answers 503: storage is busy\n")


# ── a version named after the minute ─────────────────────────────────────────────────────────────────────────────

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
    sent = Listener.answers["/uploads/batch"]
    Listener.answers["/versions/"] = (404, "problem not-found\ndetail there is nothing\n")
    Listener.once["/uploads/batch"] = (409, f"problem exists\ndetail {VERSION}/lxd_combined.tar.gz exists already\n")
    done = upload(listener, tmp_path, "--version", "now", "--wait", "0", PATH=programs(tmp_path, date=MINUTE))
    assert done.returncode == 0
    moved = f"{NAMED[0]} has another lxd_combined.tar.gz by now: this becomes {NAMED[1]}\n"
    assert done.stderr == f"{moved}images/signed/one/amd64/default/{NAMED[1]} is uploaded\n"
    asked = [json.loads(body)["version"].rpartition("/")[2] for method, _, _, body in Listener.seen if method == "POST"]
    assert (asked, sent) == (NAMED[:2], Listener.answers["/uploads/batch"])


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
