"""`scripts/admin mirror` in a company network: proxies with and without a login, and a private authority."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from cli.admin.errors import STORAGE
from cli.admin.proxied import CA_VARIABLES, ProxiedConnections, proxy_of, trust
from imageserver.errors import UpstreamRefused
from imageserver.remote.server import RemoteServer, RequestLimits
from imageserver.upstream.mirrors import Mirror
from tests.support import PROJECT
from tests.support.processes import free_port
from tests.support.servers.proxy import proxy
from tests.support.servers.upstream import Fault, UpstreamServer, upstream
from tests.support.stack import local_stack

HOST = "images.example.org"
INDEX = "streams/v1/index.json"
EMPTY = b'{"format": "index:1.0", "index": {}}'
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
SLOW = RequestLimits(pause_s=1e6)
"""No retries: a test that retried would not end."""


@dataclass
class Site:
    """Another server with a certificate of a private authority. Only the proxy resolves its name."""

    server: UpstreamServer
    ca_file: Path

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove any proxies and authorities configured on this machine."""
    for name in (*PROXIES, *CA_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with upstream({INDEX: EMPTY}, tls=context) as server:
        yield Site(server, tmp_path / "ca.pem")


def read(address: str, *, allow_private: bool = False, hosts: tuple[str, ...] = (HOST,)) -> bytes:
    """Return the index of another server, as `admin mirror add` reads it."""
    mirror = Mirror(address=address, stream="images", only=("all",), allow_private=allow_private)
    with_proxies = ProxiedConnections(hosts, allow_private, 2, trust())
    server = RemoteServer(mirror, "ops@example.org", SLOW, with_proxies)
    try:
        document = server.document(INDEX)
        assert document
        return document.body
    finally:
        server.close()


@pytest.mark.parametrize("ca", CA_VARIABLES)
def test_a_server_is_read_through_a_proxy_with_a_login_and_with_a_private_authority(
    site: Site, monkeypatch: pytest.MonkeyPatch, ca: str
) -> None:
    monkeypatch.setenv(ca, str(site.ca_file))
    with proxy(site.port, "me:s/cret") as (address, seen):
        monkeypatch.setenv("https_proxy", f"http://me:s%2Fcret@{address}")
        assert read(f"https://{HOST}/") == EMPTY
    assert seen == [f"CONNECT {HOST}"]


def test_a_server_over_http_is_read_through_the_proxy_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with upstream({INDEX: EMPTY}) as server, proxy(int(server.url.rpartition(":")[2]), "me:secret") as (address, seen):
        monkeypatch.setenv("http_proxy", f"me:secret@{address}")
        assert read(f"http://{HOST}/", allow_private=True) == EMPTY
        assert seen == [f"GET {HOST}"]
        assert [one.headers["host"] for one in server.requests] == [HOST]


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_missing_login_is_named_at_once_and_a_wrong_one_is_not_printed(
    site: Site, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(site.ca_file))
    with proxy(site.port, "me:secret") as (address, seen):
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:hunter2@{address}")
        with pytest.raises(UpstreamRefused, match="wants a name and a password: https_proxy=http://USER") as refused:
            read(f"{scheme}://{HOST}/", allow_private=True)
    assert "hunter2" not in str(refused.value)
    assert len(seen) == 1


def test_a_host_that_the_proxy_refuses_is_named_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(site.port, allowed="elsewhere.example.org") as (address, seen):
        monkeypatch.setenv("https_proxy", f"http://{address}")
        with pytest.raises(UpstreamRefused, match=f"{HOST} is not reached: the proxy refuses.*no_proxy"):
            read(f"https://{HOST}/")
    assert len(seen) == 1


def test_an_unreachable_proxy_or_one_of_an_unknown_kind_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UpstreamRefused, match=f"{HOST} is not reached: the proxy refuses or is not there"):
        read(f"https://{HOST}/")
    monkeypatch.setenv("https_proxy", "socks5://me:hunter2@127.0.0.1:1")
    with pytest.raises(UpstreamRefused, match=r"is one of socks5://, expected http:// or https://") as refused:
        read(f"https://{HOST}/")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "site.localhost"])
@pytest.mark.parametrize("exempt", [{}, {"no_proxy": "example.net"}])
def test_loopback_is_never_reached_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, host: str, exempt: dict[str, str]
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.example.org:3128")
    for name, value in exempt.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(f"http://{host}:8080/{INDEX}") == ""
    assert proxy_of(f"http://{HOST}/{INDEX}") == "http://proxy.example.org:3128"


def test_a_server_on_this_machine_is_read_without_the_configured_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with upstream({INDEX: EMPTY}) as server:
        assert read(server.address, allow_private=True, hosts=("127.0.0.1",)) == EMPTY


def test_a_host_in_no_proxy_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", "intranet.example,.example.org")
    assert proxy_of(f"https://{HOST}/") == ""
    assert proxy_of("https://images.example.net/") == "http://proxy.example.org:3128"


def test_a_private_address_is_refused_before_a_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with upstream() as server, proxy(int(server.url.rpartition(":")[2])) as (address, seen):
        monkeypatch.setenv("https_proxy", f"http://{address}")
        with pytest.raises(UpstreamRefused, match=r"10\.0\.0\.1.* not on the public internet"):
            read("https://10.0.0.1/", hosts=("10.0.0.1",))
    assert seen == []


def test_a_redirect_to_another_host_is_refused_through_a_proxy_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(site.ca_file))
    site.server.faults[INDEX] = [Fault(302, {"Location": "https://elsewhere.example.org/"})]
    with proxy(site.port) as (address, seen):
        monkeypatch.setenv("https_proxy", f"http://{address}")
        with pytest.raises(UpstreamRefused, match=r"redirects to 'elsewhere\.example\.org'"):
            read(f"https://{HOST}/")
    assert seen == [f"CONNECT {HOST}"]


def test_an_unknown_authority_is_reported_with_the_variable_that_names_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(site.port) as (address, _):
        monkeypatch.setenv("https_proxy", f"http://{address}")
        with pytest.raises(UpstreamRefused, match=r"cannot be verified .* name the PEM file in AWS_CA_BUNDLE"):
            read(f"https://{HOST}/")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_read_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(file))
    with pytest.raises(UpstreamRefused, match=f"CURL_CA_BUNDLE is {file}, which is not a readable certificate file"):
        trust()


@pytest.mark.timeout(120)
def test_mirror_add_compares_through_the_proxy_and_reaches_its_own_server_directly(site: Site) -> None:
    """If the proxy requires a login it names the setting, without mentioning the other server's address."""
    with local_stack("--empty") as stack, proxy(site.port, "me:secret") as (address, seen):

        def add(login: str) -> subprocess.CompletedProcess[str]:
            command = [str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), "mirror", "add"]
            network = {"https_proxy": f"http://{login}{address}", "SSL_CERT_FILE": str(site.ca_file)}
            return subprocess.run(
                [*command, "site", f"https://{HOST}/", "--only", "all", "--dry-run"], env=os.environ | network,
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip

        refused = add("")
        assert refused.returncode == STORAGE, refused
        assert "wants a name and a password: https_proxy=http://USER:PASSWORD@HOST:PORT" in refused.stderr
        assert "look at the address" not in refused.stderr
        found = add("me:secret@")
        assert "names no products document of images" in found.stderr, "the index of the other server was read"
    assert set(seen) == {f"CONNECT {HOST}"}
