"""Paths and redirects of another server lead where its clients would go, but never into a private network."""

from __future__ import annotations

import pytest

from imageserver.errors import UpstreamRefused
from imageserver.upstream.addresses import is_public, joined, place_of, redirected

HOST = "images.example.org"


@pytest.mark.parametrize(
    ("address", "path", "url"),
    [
        ("https://h", "streams/v1/index.json", "https://h/streams/v1/index.json"),
        ("https://h/", "/streams/v1/index.json", "https://h/streams/v1/index.json"),
        ("https://h/releases/", "/server/a.squashfs", "https://h/releases/server/a.squashfs"),
        ("https://h/to%20ken/x", "a b/c", "https://h/to%20ken/x/a%20b/c"),
        ("https://h", "images/20261123_10:00/a+b@c=d;e,f&g$h~i", "https://h/images/20261123_10:00/a+b@c=d;e,f&g$h~i"),
        ("https://h", "a%20b/100%/c%zz", "https://h/a%20b/100%25/c%25zz"),
        ("https://h:8443/base", "a?b#c", "https://h:8443/base/a%3Fb%23c"),
        ("https://h", "bär", "https://h/b%C3%A4r"),
    ],
)
def test_a_path_is_joined_as_the_clients_join_it(address: str, path: str, url: str) -> None:
    assert joined(address, path) == url


@pytest.mark.parametrize(
    "path",
    ["", "/", "..", "../other", "a/../../b", "a/./b", "a//b", "a/%2e%2e/b", "a/.%2E/b", "a/b%2Fc", "a\\b", "a%5cb",
     "a\nb", "a%0d%0ab", "a%00"],
)  # fmt: skip
def test_a_path_to_another_server_is_refused(path: str) -> None:
    with pytest.raises(UpstreamRefused, match="not a path below upstream's address"):
        joined("https://h/base", path)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b", f"https://{HOST}/b"),
        ("b?x=1#y", f"https://{HOST}/a/b?x=1"),
        (f"https://{HOST}:8443/b", f"https://{HOST}:8443/b"),
        (f"//{HOST}/b", f"https://{HOST}/b"),
        ("https://cdn.example.org/b", "https://cdn.example.org/b"),
        ("https://CDN.example.org/b", "https://CDN.example.org/b"),
    ],
)
def test_a_redirect_may_lead_to_the_configured_hosts(location: str, url: str) -> None:
    assert redirected(f"https://{HOST}/a/x", location, {HOST, "cdn.example.org"}) == url


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("https://evil.example.com/b", "redirects to 'evil.example.com', expected"),
        (f"https://{HOST}.evil.example.com/b", "expected"),
        (f"https://{HOST}@evil.example.com/b", "unusable address, expected http or https"),
        ("https://169.254.169.254/latest/meta-data", "'169.254.169.254', expected"),
        (f"http://{HOST}/b", "from https to http"),
        ("file:///etc/passwd", "unusable address, expected http or https"),
        (f"ftp://{HOST}/b", "unusable address, expected http or https"),
        (f"https://{HOST}:99999/b", "cannot be read"),
        ("https://[::1/b", "cannot be read"),
    ],
)
def test_a_redirect_elsewhere_is_refused(location: str, why: str) -> None:
    with pytest.raises(UpstreamRefused, match=why) as refusal:
        redirected(f"https://{HOST}/secret-token/x", location, {HOST})
    assert "secret-token" not in str(refusal.value)


def test_plain_http_may_be_redirected_to_https() -> None:
    assert redirected(f"http://{HOST}/a", f"https://{HOST}/a", {HOST}) == f"https://{HOST}/a"


def test_a_place_has_the_port_of_its_scheme() -> None:
    assert place_of("https://h/a?b=c") == ("https", "h", 443, "/a?b=c")
    assert place_of("http://[2001:db8::1]:81") == ("http", "2001:db8::1", 81, "/")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    # Addresses that are refused.
    ["127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104
     "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1",
     "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1",
     "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::",
     "::127.0.0.1", "no address"],
)  # fmt: skip
def test_an_address_of_a_private_network_is_not_public(address: str) -> None:
    assert not is_public(address)
