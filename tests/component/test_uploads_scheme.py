"""`scripts/upload` with an address of the API whose scheme is not that of its port."""

from __future__ import annotations

import socketserver
import threading
from pathlib import Path

import pytest

from tests.support.processes import need
from tests.support.servers.http import served
from tests.support.servers.wrong_scheme import APACHE, GO, NGINX, Resetting, over_tls
from tests.support.upload_script import Api, programs, upload_image

HOST = "uploads.example.org"
OPENSSL = "OpenSSL/3.0.19: error:0A00010B:SSL routines::wrong version number"
NO_TLS = [
    OPENSSL,
    "OpenSSL/3.5.0: error:0A0000C6:SSL routines::packet length too long",
    "error:1408F10B:SSL routines:ssl3_get_record:wrong version number",
    "error:140770FC:SSL routines:SSL23_GET_SERVER_HELLO:unknown protocol",
    "LibreSSL/3.3.6: error:1404B10B:SSL routines:ST_CONNECT:wrong version number",
    "BoringSSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
    "gnutls_handshake() failed: An unexpected TLS packet was received.",
    "SSL received a record that exceeded the maximum permissible length.",
]
MAY_PASS = [
    "Recv failure: Connection reset by peer",
    "OpenSSL SSL_connect: Connection reset by peer in connection to uploads.example.org:443 ",
    "OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to uploads.example.org:443 ",
    "OpenSSL/3.0.19: error:0A000126:SSL routines::unexpected eof while reading",
    "OpenSSL/3.0.19: error:0A000438:SSL routines::tlsv1 alert internal error",
    "gnutls_handshake() failed: The TLS connection was non-properly terminated.",
    "gnutls_handshake() failed: Internal error",
    "Encountered end of file",
]


def curl_ends(folder: Path, pauses: Path, code: int, message: str) -> str:
    """Return a PATH on which curl always ends so, and pauses take no time."""
    names = {"sleep": f"echo $1 >>{pauses}", "curl": f"echo 'curl: ({code}) {message}' >&2; printf 000; exit {code}"}
    (folder / "curl").mkdir()
    return programs(folder / "curl", **names)


def test_https_on_a_port_without_tls_is_reported_at_once(tmp_path: Path, pauses: Path) -> None:
    need("curl")
    with served(Api) as port:
        code, output = upload_image(tmp_path, f"https://127.0.0.1:{port}")
    remedy = f"; what answers does not speak TLS, correct the scheme of the address: http://127.0.0.1:{port}\n"
    assert (code, output.endswith(remedy), pauses.read_text()) == (1, True, ""), output


@pytest.mark.parametrize("message", NO_TLS)
def test_a_port_without_tls_is_recognised_in_the_words_of_each_library(
    tmp_path: Path, pauses: Path, message: str
) -> None:
    code, output = upload_image(tmp_path, f"https://{HOST}:8080", PATH=curl_ends(tmp_path, pauses, 35, message))
    assert (code, f"correct the scheme of the address: http://{HOST}:8080\n" in output) == (1, True), output
    assert pauses.read_text() == ""


@pytest.mark.parametrize("message", MAY_PASS)
def test_a_handshake_that_may_succeed_later_is_retried(tmp_path: Path, pauses: Path, message: str) -> None:
    code, output = upload_image(tmp_path, f"https://{HOST}", PATH=curl_ends(tmp_path, pauses, 35, message))
    assert (code, message.strip() in output, "scheme" in output) == (1, True, False), output
    assert len(pauses.read_text().split()) == 6


def test_a_connection_that_is_reset_during_the_handshake_is_retried(tmp_path: Path, pauses: Path) -> None:
    need("curl")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Resetting) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        code, output = upload_image(tmp_path, f"https://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert (code, "scheme" in output, len(pauses.read_text().split())) == (1, False, 6), output


def test_an_https_proxy_on_a_port_without_tls_is_named(tmp_path: Path, pauses: Path) -> None:
    path = curl_ends(tmp_path, pauses, 35, OPENSSL)
    code, output = upload_image(tmp_path, f"https://{HOST}", PATH=path, https_proxy="https://proxy.example.org:3128")
    assert (code, output.endswith(f"address: http://{HOST}, or that of https_proxy\n")) == (1, True), output
    assert pauses.read_text() == ""


@pytest.mark.parametrize("page", [NGINX, APACHE, GO])
def test_http_on_a_port_with_tls_is_reported_in_the_words_of_each_server(
    tmp_path: Path, pauses: Path, page: str
) -> None:
    need("curl")

    class Refusing(Api):
        def post(self) -> None:
            self.answer(400, page.encode())

    with served(Refusing) as port:
        code, output = upload_image(tmp_path, f"http://127.0.0.1:{port}")
    expected = (
        f"upload: the API at http://127.0.0.1:{port} answers 400; that port wants TLS, correct the scheme of the "
        f"address: https://127.0.0.1:{port}\n"
    )
    assert (code, output, pauses.read_text()) == (1, expected, "")


def test_http_on_a_port_that_answers_nothing_but_tls_is_explained(tmp_path: Path, pauses: Path) -> None:
    """It may be an outage too, so it is retried."""
    need("curl")
    with over_tls(Api) as port:
        code, output = upload_image(tmp_path, f"http://127.0.0.1:{port}")
    remedy = f"; if that port wants TLS, correct the scheme of the address: https://127.0.0.1:{port}\n"
    assert (code, output.endswith(remedy), len(pauses.read_text().split())) == (1, True, 6), output


def test_an_alert_of_tls_in_place_of_an_answer_is_reported_at_once(tmp_path: Path, pauses: Path) -> None:
    path = curl_ends(tmp_path, pauses, 1, "Received HTTP/0.9 when not allowed")
    code, output = upload_image(tmp_path, f"http://{HOST}", PATH=path)
    assert (code, output.endswith(f"; that port wants TLS, correct the scheme of the address: https://{HOST}\n")) == (
        1,
        True,
    )
    assert pauses.read_text() == ""
