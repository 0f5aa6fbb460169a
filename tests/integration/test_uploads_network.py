"""scripts/upload on the wire: over connections that break, and signed as AWS checks it."""

from __future__ import annotations

import contextlib
import json
import os
import re
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

import images
import uploading
from e2e.harness import need
from uploading import PROJECT

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
    """A way to a server that cuts some connections: of those that carry more than `after` bytes every second one."""

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


def test_broken_connections_cost_only_what_was_under_way(tmp_path: Path) -> None:
    root = large(tmp_path / "rootfs.squashfs", 100)  # seven parts
    metadata = tmp_path / "lxd.tar.xz"
    metadata.write_bytes(images.metadata_tarball(serial="broken"))
    networks: list[BreakingNetwork] = []

    def over_a_breaking_network(port: int) -> int:
        networks.append(BreakingNetwork(("127.0.0.1", port), MIB))
        return networks[0].port

    with uploading.system("local", tmp_path / "system", way=over_a_breaking_network) as system:
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
        # What a connection carried until it was cut, and headers and the functions' own requests.
        assert size < bytes_up < size + cuts * (MIB + 65536) + MIB
        version = "images/network/broken/amd64/default/20261123_10:00"
        assert system.stored(f"{version}/rootfs.squashfs") == root.read_bytes()


# ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────

CREDENTIALS = Credentials("AKIAEXAMPLE", 's3cr"et\\/+=', "a/session+token==")
VERSION = "images/signed/one/amd64/default/20261123_10:00"


class Listener(BaseHTTPRequestHandler):
    """Writes down every request and answers as a server would that has everything already."""

    seen: list[tuple[str, str, dict[str, str], bytes]] = []  # noqa: RUF012
    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, dict(self.headers), body))
        status, text = next(answer for start, answer in self.answers.items() if self.path.startswith(start))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    content = images.unified_tarball()
    (tmp_path / "image.tar.gz").write_bytes(content)
    name, digest = f"{VERSION}/lxd_combined.tar.gz", uploading.sha256(content)
    listed = f"status published\nalias signed/one\nfile {len(content)} {digest} lxd_combined.tar.gz\n"
    Listener.seen = []
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


def upload(server: ThreadingHTTPServer, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    api = f"http://127.0.0.1:{server.server_address[1]}"
    return subprocess.run(
        (SCRIPT, "--api", api, "--to", "signed/one/amd64/default", "--version", "20261123_10:00",
         folder / "image.tar.gz"),
        env=environment(folder, **variables), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_requests_are_signed_as_aws_checks_them(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    """botocore makes the signature again, as API Gateway would, from what arrived: also for a path with a colon."""
    who = {"AWS_ACCESS_KEY_ID": CREDENTIALS.access_key, "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_key}
    done = upload(listener, tmp_path, **who, AWS_SESSION_TOKEN=str(CREDENTIALS.token), AWS_REGION="eu-central-1")
    assert (done.returncode, done.stdout) == (0, "lxc launch images:signed/one\n"), done.stderr
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


def test_a_github_job_asks_for_its_own_token(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{listener.server_address[1]}/token?api-version=2"
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job"}
    assert upload(listener, tmp_path, **job, SIMPLESTREAMS_AUDIENCE="images").returncode == 0
    asked = [(path, headers["Authorization"]) for _, path, headers, _ in Listener.seen if path.startswith("/token")]
    assert asked[0] == ("/token?api-version=2&audience=images", "bearer job")
    others = {headers["Authorization"] for _, path, headers, _ in Listener.seen if not path.startswith("/token")}
    assert others == {"Bearer a.github.token"}


def test_no_secret_is_seen_in_the_arguments_of_a_process() -> None:
    text = SCRIPT.read_text()
    assert not re.search(r"curl[^\n]*(--user|-u) ", text)
    assert "umask 077" in text


def test_what_is_listed_must_be_what_was_sent(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    status, text = Listener.answers["/versions/"]
    Listener.answers["/versions/"] = (status, re.sub(r"[0-9a-f]{64}", "b" * 64, text))
    done = upload(listener, tmp_path)
    assert (done.returncode, "the server has another lxd_combined.tar.gz than" in done.stderr) == (3, True)


ENDS = [
    (403, "problem forbidden\ndetail you may not\n", 7, "you may not"),
    (409, "problem exists\ndetail it is there\n", 4, "it is there"),
    (422, "problem refused\ndetail first\ndetail second\n", 3, "first second"),
    (401, '{"message":"Unauthorized"}', 7, "Unauthorized"),
    (413, "problem body-too-large\ndetail too much\n", 3, "too much"),
]


@pytest.mark.parametrize(("status", "text", "code", "sentence"), ENDS)
def test_every_refusal_of_the_api_has_its_exit_code(
    listener: ThreadingHTTPServer, tmp_path: Path, status: int, text: str, code: int, sentence: str
) -> None:
    Listener.answers["/uploads/batch"] = (status, text)
    done = upload(listener, tmp_path)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr


def test_three_lines_of_curl_do_it(tmp_path: Path) -> None:
    """The README's recipe: ask for a config of curl, send with it, look."""
    version = "images/recipe/one/amd64/default/20261123_10:00"
    content = images.unified_tarball(marker="recipe")
    (tmp_path / "lxd_combined.tar.gz").write_bytes(content)
    asked = json.dumps({"path": f"{version}/lxd_combined.tar.gz", "size": len(content), "multipart": False})
    with uploading.system("local", tmp_path / "system") as system:
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
        system.settle(version)
        assert system.status(version)["status"] == "published"
