"""Addresses whose scheme is not that of their port, as the commands in Python and a mirror explain them."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from cli import aws, network
from cli.admin import errors, other_servers
from cli.admin.other_servers import Web as Source
from cli.smoke.web import Web
from imageserver.errors import UpstreamRefused
from imageserver.remote.connections import NO_TLS, WANTS_TLS
from imageserver.remote.server import RemoteServer, RequestLimits
from imageserver.upstream.mirrors import Mirror
from local_stack.credentials import local_session
from tests.support.presign_script import presign
from tests.support.servers.http import served
from tests.support.servers.wrong_scheme import APACHE, GO, NGINX, Resetting, over_tls

INDEX = "streams/v1/index.json"
PATIENT = RequestLimits(pause_s=1e6)


class Plain(BaseHTTPRequestHandler):
    """A server without TLS that has nothing."""

    status, page = 404, ""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.page.encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def wants_tls(page: str) -> type[Plain]:
    """Return a server that answers a request without TLS as this program's page says."""
    return type("WantsTls", (Plain,), {"status": 400, "page": page})


def by_smoke(address: str) -> object:
    return Web().ask(f"{address}/{INDEX}")


def by_import(address: str) -> object:
    return Source(address).read(INDEX)


def by_mirror(address: str) -> object:
    mirror = Mirror(address=address, stream="images", only=("all",), allow_private=True)
    return RemoteServer(mirror, "ops@example.org", PATIENT).document(INDEX)


READERS = (by_smoke, by_import, by_mirror)
Reader = Callable[[str], object]


@pytest.mark.parametrize("reader", READERS)
def test_https_on_a_port_without_tls_is_reported_at_once(reader: Reader) -> None:
    began = time.monotonic()
    with served(Plain) as port, pytest.raises((ConnectionError, UpstreamRefused)) as raised:
        reader(f"https://127.0.0.1:{port}")
    fault = errors.explain(raised.value)
    assert (NO_TLS in fault.what, "certificate cannot be verified" in fault.what) == (True, False), fault
    assert time.monotonic() - began < 12


@pytest.mark.parametrize("page", [NGINX, APACHE, GO])
@pytest.mark.parametrize("reader", READERS)
def test_http_on_a_port_with_tls_is_reported_at_once(reader: Reader, page: str) -> None:
    with served(wants_tls(page)) as port, pytest.raises((ConnectionError, UpstreamRefused)) as raised:
        reader(f"http://127.0.0.1:{port}")
    assert WANTS_TLS in errors.explain(raised.value).what


@pytest.mark.parametrize("reader", READERS)
def test_another_bad_request_is_not_about_tls(reader: Reader) -> None:
    with served(wants_tls("no")) as port:
        try:
            found = reader(f"http://127.0.0.1:{port}")
        except UpstreamRefused as error:
            found = error
    assert "TLS" not in str(found)
    assert "400" in str(found)


def test_an_import_does_not_try_a_certificate_again_that_cannot_be_verified() -> None:
    began = time.monotonic()
    with over_tls(Plain) as port, pytest.raises(UpstreamRefused, match="its certificate cannot be verified"):
        by_import(f"https://127.0.0.1:{port}")
    assert time.monotonic() - began < 12


def test_an_import_tries_again_after_a_handshake_that_was_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_servers, "_RETRIES", other_servers._RETRIES.new(backoff_factor=0))
    connections: list[None] = []

    class Counting(Resetting):
        def handle(self) -> None:
            connections.append(None)
            super().handle()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(UpstreamRefused, match="does not answer"):
            by_import(f"https://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert len(connections) == 6


@pytest.mark.parametrize(
    ("scheme", "remedy"),
    [("https", f"{NO_TLS} ({network.ENDPOINT})"), ("http", network.FOREIGN)],
)
def test_the_address_of_s3_is_explained_to_admin_and_presign(scheme: str, remedy: str, tmp_path: Path) -> None:
    with served(Plain if scheme == "https" else wants_tls(NGINX)) as port:
        address = f"{scheme}://127.0.0.1:{port}"
        s3 = local_session("AK", "SK", "eu-central-1").client(
            "s3", endpoint_url=address, config=aws.s3_config(path_style=True, retries={"total_max_attempts": 1})
        )
        with pytest.raises((BotoCoreError, ClientError)) as raised:
            s3.list_objects_v2(Bucket="images")
        fault = errors.explain(raised.value)
        done = presign(tmp_path, AWS_ENDPOINT_URL=address)
    assert (fault.remedy, fault.code) == (remedy, errors.STORAGE)
    assert (done.returncode, done.stdout, remedy in done.stderr) == (1, "", True), done.stderr


@pytest.mark.parametrize(
    "about", [{"RequestId": "1", "HTTPStatusCode": 400}, {"HTTPStatusCode": 503}, {"HTTPStatusCode": 404}]
)
def test_an_answer_of_aws_is_not_taken_for_one_of_another_server(about: dict[str, object]) -> None:
    code = str(about["HTTPStatusCode"])
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": about}  # botocore leaves out what S3 does
    error = ClientError(answer, "HeadObject")
    assert network.remedy(error) == ""
