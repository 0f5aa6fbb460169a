"""`scripts/upload` in a company network: proxies with and without a login, and a private authority."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from tests.support.processes import free_port, need
from tests.support.servers.proxy import proxy
from tests.support.upload_script import Api, upload_image

HOST = "uploads.example.org"


@dataclass
class Network:
    """An API over HTTPS (`port`) and HTTP (`plain`), both known only to the proxy, and the authority's file."""

    port: int
    plain: int
    ca_file: Path


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    need("curl")
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST, "localhost").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Api) for _ in range(2)]
    servers[0].socket = context.wrap_socket(servers[0].socket, server_side=True, do_handshake_on_connect=False)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Network(servers[0].server_port, servers[1].server_port, ca_file)
    for server in servers:
        server.shutdown()
        server.server_close()


UPLOADED = (0, "images/a/b/amd64/d/20261123 is uploaded\n")


@pytest.mark.parametrize("ca", ["CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_upload_goes_through_a_proxy_with_a_login_to_a_server_of_a_private_authority(
    network: Network, tmp_path: Path, ca: str
) -> None:
    with proxy(network.port, "me:secret") as (address, seen):
        variables = {"https_proxy": f"http://me:secret@{address}", ca: str(network.ca_file)}
        assert upload_image(tmp_path, f"https://{HOST}", **variables) == UPLOADED
    assert set(seen) == {f"CONNECT {HOST}"}


def test_a_missing_login_is_named_at_once_over_https_and_over_http(network: Network, tmp_path: Path) -> None:
    with proxy(network.port, "me:secret") as (address, _):
        code, output = upload_image(
            tmp_path, f"https://{HOST}", https_proxy=f"http://{address}", CURL_CA_BUNDLE=str(network.ca_file)
        )
        assert (code, "the proxy wants a login: https_proxy=http://USER:PASSWORD@HOST:PORT" in output) == (1, True), (
            output
        )
        code, output = upload_image(tmp_path, f"http://{HOST}", http_proxy=f"http://{address}")
        assert (code, "it wants a login: http_proxy=http://USER:PASSWORD@HOST:PORT" in output) == (1, True), output


def test_a_host_that_the_proxy_refuses_is_named_at_once(network: Network, tmp_path: Path) -> None:
    with proxy(network.port, allowed="elsewhere.example.org") as (address, seen):
        code, output = upload_image(tmp_path, f"https://{HOST}", https_proxy=f"http://{address}")
    assert (code, "have the proxy allow this host, or name it in no_proxy" in output, len(seen)) == (1, True, 1), output


def test_an_unknown_private_authority_is_reported_at_once_with_the_variable_that_names_it(
    network: Network, tmp_path: Path
) -> None:
    code, output = upload_image(tmp_path, f"https://localhost:{network.port}")
    assert (code, "name its file: CURL_CA_BUNDLE=/path/to/ca.pem" in output) == (1, True), output


def test_a_missing_authority_file_is_named_with_its_variable(network: Network, tmp_path: Path) -> None:
    code, output = upload_image(tmp_path, f"https://localhost:{network.port}", REQUESTS_CA_BUNDLE="/nowhere/ca.pem")
    assert (code, "correct REQUESTS_CA_BUNDLE, which names /nowhere/ca.pem" in output) == (1, True), output


@pytest.mark.parametrize("exempt", [{}, {"no_proxy": "example.net"}, {"NO_PROXY": "example.net"}, {"no_proxy": "*"}])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_loopback_is_never_reached_through_a_proxy(
    network: Network, tmp_path: Path, host: str, exempt: dict[str, str]
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    proxies = {"http_proxy": dead, "https_proxy": dead, "all_proxy": dead}
    assert upload_image(tmp_path, f"http://{host}:{network.plain}", **proxies, **exempt) == UPLOADED


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_an_unreachable_proxy_is_named_at_once(tmp_path: Path, pauses: Path, variable: str) -> None:
    code, output = upload_image(tmp_path, f"https://{HOST}", **{variable: f"http://127.0.0.1:{free_port()}"})
    remedy = f"that is a proxy: correct {variable}, or name the API's host in no_proxy"
    assert (code, remedy in output, "127.0.0.1" in output) == (1, True, True), output
    assert pauses.read_text() == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_unreachable_api_is_not_taken_for_a_proxy_and_is_retried(tmp_path: Path, pauses: Path, host: str) -> None:
    code, output = upload_image(tmp_path, f"http://{host}:{free_port()}", http_proxy="http://127.0.0.1:1")
    assert (code, "does not answer" in output, "proxy" in output) == (1, True, False), output
    assert len(pauses.read_text().split()) == 6


def test_a_proxy_of_an_unknown_kind_is_not_retried(tmp_path: Path) -> None:
    code, output = upload_image(tmp_path, f"https://{HOST}", https_proxy="ftp://proxy.example.org")
    assert (code, "roxy" in output, "in no_proxy" in output) == (1, True, True), output


def test_a_proxy_with_an_unknown_host_name_is_named_at_once(tmp_path: Path) -> None:
    code, output = upload_image(tmp_path, f"https://{HOST}", https_proxy="http://proxy.invalid:3128")
    assert (code, "correct https_proxy, or name the API's host in no_proxy" in output) == (1, True), output
