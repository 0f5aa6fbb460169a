"""Commands in a network with a proxy and a certificate authority of its own."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from botocore.exceptions import SSLError

from cli import network
from tests.support import PROJECT
from tests.support.servers.http import served
from tests.support.stack import VERSION, local_stack, place, put

PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
NO_PROXY = ("no_proxy", "NO_PROXY")


@dataclass
class Proxy:
    """A proxy that lets nobody through without a password, and what it was asked."""

    address: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy that every variable names, without an exception for this machine."""
    made = Proxy()

    class Handler(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            made.asked.append(self.path)
            self.send_response(407, "Proxy Authentication Required")
            self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_CONNECT = refuse  # noqa: N815  (http.server calls them so)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
            """Log nothing: requests are in `asked`."""

    with served(Handler) as port:
        made.address = f"http://127.0.0.1:{port}"
        for name in PROXIES:
            monkeypatch.setenv(name, made.address)
        for name in NO_PROXY:
            monkeypatch.delenv(name, raising=False)
        yield made


def test_the_local_stack_and_presign_never_ask_a_proxy(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_stack() as stack:
        (upload,) = stack.presign(f"{place('proxied', VERSION)}rootfs.squashfs")
        for name in PROXIES:
            monkeypatch.delenv(name)
        (tmp_path / "root").write_bytes(b"bytes")
        put(tmp_path / "root", upload)
        assert "hello/world" in stack.log
    assert proxy.asked == []


def presign(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    about = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": f"{PROJECT}/scripts:{PROJECT}/functions:{PROJECT}/infra",
    }
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_REGION": "eu-central-1"}
    command = (sys.executable, "-m", "cli.presign", "--bucket", "images", f"{place('proxied')}rootfs.squashfs")
    return subprocess.run(
        command, env={**about, **keys, **variables}, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_proxy_that_wants_a_password_is_named(proxy: Proxy, tmp_path: Path) -> None:
    done = presign(tmp_path, https_proxy=proxy.address)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the proxy wants a name and a password: https_proxy=http://USER:PASSWORD@HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert proxy.asked


def test_loopback_is_added_to_what_the_user_excepts_already() -> None:
    variables = {"NO_PROXY": "intranet.example, localhost"}
    network.reach_loopback_directly(variables)
    assert variables == dict.fromkeys(NO_PROXY, "intranet.example,localhost,127.0.0.1,::1")


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("REQUESTS_CA_BUNDLE", "REQUESTS_CA_BUNDLE is /ca.pem, which does not hold the authority"),
        ("SSL_CERT_FILE", "boto3 does not read SSL_CERT_FILE; if the authority is in it: AWS_CA_BUNDLE=/ca.pem"),
        ("CURL_CA_BUNDLE", "boto3 does not read CURL_CA_BUNDLE; if the authority is in it: AWS_CA_BUNDLE=/ca.pem"),
        ("", "name its PEM file in AWS_CA_BUNDLE"),
    ],
)
def test_an_unknown_authority_is_answered_with_the_variable_to_set(
    variable: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "/ca.pem")
    assert says in network.remedy(SSLError(endpoint_url="https://s3", error=OSError("unknown authority")))
