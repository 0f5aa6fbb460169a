"""The documents of another server are read as they arrive, each in memory once."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from cli.admin import errors, other_servers
from cli.admin.other_servers import Web
from imageserver.errors import UpstreamRefused


class Answering(BaseAdapter):
    """Answers every request with one body."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def send(self, request: requests.PreparedRequest, *_arguments: Any, **_options: Any) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer.request, answer.url = 200, request, request.url or ""
        answer.raw = HTTPResponse(io.BytesIO(self._body), status=200, preload_content=False)
        return answer

    def close(self) -> None:
        """Hold nothing open."""


class Failing(BaseAdapter):
    """Answers no request."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def send(self, *_arguments: Any, **_options: Any) -> requests.Response:
        raise self._error

    def close(self) -> None:
        """Hold nothing open."""


def server_with(body: bytes) -> Web:
    web = Web("https://images.example.org")
    web.session.mount("https://", Answering(body))
    return web


def test_a_large_document_is_in_memory_once() -> None:
    body = b"x" * (32 << 20)
    web = server_with(body)
    tracemalloc.start()
    try:
        assert web.read("streams/v1/images.json") == body
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(body)


def test_a_document_above_the_limit_is_refused_and_one_at_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_servers, "LARGEST_DOCUMENT_BYTES", 3 << 20)
    assert server_with(b"x" * (3 << 20)).read("streams/v1/images.json") == b"x" * (3 << 20)
    with pytest.raises(UpstreamRefused, match=r"streams/v1/images.json has more than 3,145,728 bytes"):
        server_with(b"x" * ((3 << 20) + 1)).read("streams/v1/images.json")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (requests.exceptions.SSLError("self-signed"), "name the PEM file of its authority in REQUESTS_CA_BUNDLE"),
        (OSError("Could not find a suitable TLS CA certificate bundle"), "in REQUESTS_CA_BUNDLE"),
        (requests.exceptions.ProxyError("Tunnel connection failed: 407"), "the proxy wants a name and a password"),
        (requests.exceptions.ProxyError("refused"), "check https_proxy, or name this host in no_proxy"),
        (requests.exceptions.ConnectTimeout("me:secret@"), "ConnectTimeout; look at the address of that server"),
    ],
)
def test_an_unreachable_server_is_reported_with_the_setting_that_the_network_needs(
    error: OSError, message: str
) -> None:
    web = Web("https://me:secret@images.example.org")
    web.session.mount("https://", Failing(error))
    with pytest.raises(UpstreamRefused) as refusal:
        web.read("streams/v1/index.json")
    fault = errors.explain(refusal.value)
    assert fault.what.startswith("images.example.org does not answer: ")
    assert (message in fault.what, "secret" in fault.what, fault.remedy) == (True, False, "")


def test_a_refusal_by_another_server_does_not_mention_the_last_request_to_aws() -> None:
    refusal = UpstreamRefused("there is no streams/v1/index.json")
    refusal.add_note("asked: s3 ListObjectsV2")
    fault = errors.explain(refusal)
    assert (fault.what, fault.remedy) == ("there is no streams/v1/index.json", "look at the address of that server")


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("images/20261123_10:00/a+b.img", "https://images.example.org/images/20261123_10:00/a+b.img"),
        ("/streams/v1/a b.json", "https://images.example.org/streams/v1/a%20b.json"),
        ("a%20b", "https://images.example.org/a%20b"),
    ],
)
def test_a_path_is_joined_as_the_clients_join_it(path: str, url: str) -> None:
    with server_with(b"").open(path) as answer:
        assert answer.url == url


def test_a_path_of_a_catalog_never_leads_out_of_the_address() -> None:
    with pytest.raises(UpstreamRefused, match="not a path below upstream's address"):
        server_with(b"").read("streams/%2e%2e/%2e%2e/private.json")
