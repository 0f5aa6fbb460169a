"""Commands in a network with its own proxy and certificate authority."""

import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme
from botocore.exceptions import SSLError
from botocore.utils import get_environ_proxies

from cli import network
from cli.presign import presign as presigned
from local_stack.credentials import local_session
from tests.support import PROJECT
from tests.support.presign_script import KEY, presign
from tests.support.servers.http import served
from tests.support.stack import VERSION, Stack, local_stack, put, version_prefix

PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
NO_PROXY = ("no_proxy", "NO_PROXY")


@dataclass
class Proxy:
    """A proxy that requires a password, and its requests."""

    address: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Yield the proxy that every variable names, without an exception for this machine."""
    made = Proxy()

    class Handler(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            made.asked.append(self.path)
            self.send_response(407, "Proxy Authentication Required")
            self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_CONNECT = refuse

        def log_message(self, format: str, *args: object) -> None:  # named by the base class
            """Print nothing: requests are in `asked`."""

    with served(Handler) as port:
        made.address = f"http://127.0.0.1:{port}"
        for name in PROXIES:
            monkeypatch.setenv(name, made.address)
        for name in NO_PROXY:
            monkeypatch.delenv(name, raising=False)
        yield made


def test_no_command_asks_a_proxy_for_the_local_stack(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_stack() as stack:
        for command in ("admin list", "admin doctor", "smoke"):
            assert on_local_stack(stack, command) == 0, command
        (upload,) = stack.presign(f"{version_prefix('proxied', VERSION)}rootfs.squashfs")
        for name in PROXIES:
            monkeypatch.delenv(name)
        (tmp_path / "root").write_bytes(b"bytes")
        put(tmp_path / "root", upload)
        assert "hello/world" in stack.log
    assert proxy.asked == []


AUTHORITIES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


def on_local_stack(stack: Stack, command: str) -> int:
    """Run a script of the project against a local stack; return its exit code."""
    script, *arguments = command.split()
    line = (str(PROJECT / "scripts" / script), "--state-dir", str(stack.folder / "state"), *arguments)
    return subprocess.run(line, capture_output=True, check=False, timeout=200).returncode


@pytest.mark.timeout(300)
def test_no_command_uses_a_configured_authority_for_the_local_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local stack has its own certificate authority; the network's is for everything else."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in AUTHORITIES:
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    with local_stack() as stack:
        for command in ("admin list", "admin doctor", "smoke"):
            assert on_local_stack(stack, command) == 0, command
        assert stack.presign(f"{version_prefix('trusted', VERSION)}rootfs.squashfs")


@pytest.fixture(scope="module")
def inspected_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Yield the address of an S3 with a certificate of the network's own authority, and the authority's file."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("x-amz-bucket-region", "eu-central-1")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # named by the base class
            """Print nothing."""

    authority, file = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with served(Handler, tls=tls) as port:
        yield f"https://localhost:{port}", file


@pytest.mark.parametrize("variable", ["", *AUTHORITIES])
def test_presign_uses_the_authority_that_boto3_reads_or_names_the_variable(
    inspected_s3: tuple[str, Path], variable: str, tmp_path: Path
) -> None:
    address, file = inspected_s3
    named = {variable: str(file)} if variable else {}
    # Without a region the bucket must be asked for its own.
    done = presign(tmp_path, "--overwrite", AWS_ENDPOINT_URL_S3=address, AWS_REGION="", **named)
    if variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert f"AWS_CA_BUNDLE={file}" in done.stderr if variable else "PEM file in AWS_CA_BUNDLE" in done.stderr


def test_a_proxy_that_wants_a_password_is_named(proxy: Proxy, tmp_path: Path) -> None:
    done = presign(tmp_path, https_proxy=proxy.address)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the proxy wants a name and a password: https_proxy=http://USER:PASSWORD@HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert proxy.asked


def test_loopback_is_added_to_the_users_no_proxy() -> None:
    variables = {"NO_PROXY": "intranet.example, localhost"}
    network.reach_loopback_directly(variables)
    assert variables == dict.fromkeys(NO_PROXY, "intranet.example,localhost,127.0.0.1,::1")


def test_the_printed_lines_of_curl_reach_this_machine_past_a_proxy(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = local_session("AK", "SK", "us-east-1").client("s3", endpoint_url=proxy.address)

    def line() -> str:
        return presigned(s3, "b", KEY, 60, overwrite=False).curl

    assert " | curl --noproxy '*' --fail-with-body -K - " in line()
    for name in PROXIES:
        monkeypatch.delenv(name)
    assert " | curl --fail-with-body -K - " in line()


@pytest.mark.parametrize("name", NO_PROXY)
def test_a_user_who_wants_no_proxy_at_all_keeps_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in NO_PROXY:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv(name, "*")
    network.reach_loopback_directly()
    assert urllib.request.proxy_bypass("images.example.org") is True
    assert get_environ_proxies("https://images.example.org/") == {}


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("REQUESTS_CA_BUNDLE", "REQUESTS_CA_BUNDLE is {}, which does not hold the authority"),
        ("SSL_CERT_FILE", "boto3 does not read SSL_CERT_FILE; if the authority is in it: AWS_CA_BUNDLE={}"),
        ("CURL_CA_BUNDLE", "boto3 does not read CURL_CA_BUNDLE; if the authority is in it: AWS_CA_BUNDLE={}"),
        ("", "name its PEM file in AWS_CA_BUNDLE"),
    ],
)
def test_an_unknown_authority_is_reported_with_the_variable_to_set(
    variable: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in AUTHORITIES:
        monkeypatch.delenv(name, raising=False)
    error, file = SSLError(endpoint_url="https://s3", error=OSError("unknown authority")), tmp_path / "ca.pem"
    if variable:
        monkeypatch.setenv(variable, str(file))
        assert network.remedy(error) == f"{variable} is {file}, which is not there"
        file.touch()
    assert remedy.format(file) in network.remedy(error)


@pytest.mark.parametrize("why", ["certificate is not yet valid", "certificate has expired"])
def test_a_certificate_of_another_time_is_a_matter_of_the_clock(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    error = SSLError(endpoint_url="https://s3", error=OSError(f"[SSL: CERTIFICATE_VERIFY_FAILED] {why} (_ssl.c:1006)"))
    assert network.remedy(error).startswith("look at the clock of this machine (2")
