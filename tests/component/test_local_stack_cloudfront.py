"""What the local edge answers, over real HTTPS."""

import dataclasses
import gzip
import http.client
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography import x509

from imageserver.storage.s3 import LISTED_TAG
from local_stack.certificates import Certificates, ensure_certificates
from local_stack.cloudfront import make_cloudfront
from local_stack.interpreter import read_wiring
from local_stack.servers import Server, listen
from local_stack.stack import TEMPLATE
from local_stack.template import StackIdentity
from local_stack.wiring import Edge
from tests.support.servers.s3 import BUCKET, S3Server, running_s3

# One worker starts the process for all of them.
pytestmark = pytest.mark.xdist_group("local-stack-cloudfront")

IMAGE = "images/ubuntu/xenial/amd64/default/20261123_10:00/lxd.tar.xz"
CATALOG = "streams/v1/images.json"


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def s3(s3_server: S3Server) -> Any:
    return s3_server.client("s3")


@pytest.fixture(scope="module")
def edge() -> Edge:
    return read_wiring(TEMPLATE, {}, StackIdentity("local", "us-east-1"), "http://s3").edge


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return ensure_certificates(tmp_path_factory.mktemp("ca"))


class Front:
    """The served distribution."""

    def __init__(self, port: int, certificates: Certificates) -> None:
        self.port = port
        self.trust = ssl.create_default_context(cafile=str(certificates.ca_file))

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (lower case) and body."""
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.trust, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.fixture(scope="module")
def front(s3: Any, edge: Edge, certificates: Certificates) -> Iterator[Front]:
    server = Server(make_cloudfront(edge, BUCKET, s3), listen(0), certificates)
    server.start()
    yield Front(server.port, certificates)
    server.stop()


def put(s3: Any, key: str, body: bytes, content_type: str = "application/json", **about: str) -> str:
    """Store an object as publish leaves it: with the tag of listed files."""
    tags = urlencode(LISTED_TAG) if key.startswith("images") else ""
    stored = s3.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType=content_type, Tagging=tags, **about)
    etag: str = stored["ETag"]
    return etag


def test_an_upload_is_served_once_it_has_the_tag_of_listed_files(s3: Any, front: Front) -> None:
    stored = [s3.put_object(Bucket=BUCKET, Key=IMAGE, Body=body) for body in (b"first", b"second")]
    tags = {"TagSet": [{"Key": name, "Value": value} for name, value in LISTED_TAG.items()]}
    s3.put_object_tagging(Bucket=BUCKET, Key=IMAGE, VersionId=stored[0]["VersionId"], Tagging=tags)
    assert front.ask(f"/{IMAGE}")[0] == 403
    s3.put_object_tagging(Bucket=BUCKET, Key=IMAGE, VersionId=stored[1]["VersionId"], Tagging=tags)
    assert front.ask(f"/{IMAGE}")[::2] == (200, b"second")
    s3.delete_object(Bucket=BUCKET, Key=IMAGE)
    assert front.ask(f"/{IMAGE}")[0] == 404


@pytest.mark.parametrize("size", [7, 5_000_000])
def test_an_object_is_served_with_the_lifetime_that_it_was_stored_with(s3: Any, front: Front, size: int) -> None:
    etag = put(s3, IMAGE, bytes(size), CacheControl="public, max-age=31536000, immutable")
    asked: dict[int, dict[str, str]] = {200: {}, 206: {"range": "bytes=0-3"}, 304: {"if_none_match": etag}}
    for expected, about in asked.items():
        status, headers, _ = front.ask(f"/{IMAGE}", **about)
        assert (status, headers["cache-control"]) == (expected, "public, max-age=31536000, immutable")
    put(s3, IMAGE, bytes(size))
    assert "cache-control" not in front.ask(f"/{IMAGE}")[1], "as an older release stored it"


def test_an_image_is_served_as_it_is(s3: Any, front: Front) -> None:
    etag = put(s3, IMAGE, b"tarball", "application/x-xz")
    status, headers, body = front.ask(f"/{IMAGE.replace(':', '%3A')}", accept_encoding="gzip")
    assert (status, body) == (200, b"tarball")
    assert (headers["etag"], headers["content-type"], headers["content-length"]) == (etag, "application/x-xz", "7")
    assert "content-encoding" not in headers
    assert front.ask(f"/{IMAGE}")[2] == b"tarball"  # clients do not escape the colon


def test_head_has_the_headers_and_no_body(s3: Any, front: Front) -> None:
    put(s3, IMAGE, b"tarball")
    status, headers, body = front.ask(f"/{IMAGE}", "HEAD")
    assert (status, headers["content-length"], body) == (200, "7", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(s3: Any, front: Front, method: str) -> None:
    put(s3, IMAGE, b"tarball")
    assert front.ask(f"/{IMAGE}", method)[0] == 403
    assert front.ask(f"/{IMAGE}")[2] == b"tarball"


@pytest.mark.parametrize("key", ["versions/images/a.json", "leases/a", "maintain/a", "other", "imagesnot/a"])
def test_private_objects_are_404(s3: Any, front: Front, key: str) -> None:
    put(s3, key, b"secret")
    status, _, body = front.ask(f"/{key}")
    assert (status, b"secret" in body) == (404, False)


@pytest.mark.parametrize(
    "path", ["/images/../versions/images/a.json", "/images/%2e%2e/versions/images/a.json", "//versions/images/a.json"]
)
def test_no_spelling_of_a_path_reaches_a_private_object(s3: Any, front: Front, path: str) -> None:
    put(s3, "versions/images/a.json", b"secret")
    status, _, body = front.ask(path)
    assert (status, b"secret" in body) == (404, False)


@pytest.mark.parametrize("path", ["/images/none", "/images/%ff", "/streams/v1/none.json", "/none", "/versions/a.json"])
def test_a_missing_key_is_404_without_a_lifetime(front: Front, path: str) -> None:
    status, headers, _ = front.ask(path)
    assert (status, "cache-control" in headers) == (404, False)
    assert headers["x-content-type-options"] == "nosniff"


def test_a_headers_policy_applies_to_errors_too(s3: Any, edge: Edge, certificates: Certificates) -> None:
    """Like CloudFront: a lifetime there would be that of a 404."""
    behaviours = tuple(
        dataclasses.replace(behaviour, headers={"Cache-Control": "public, max-age=31536000, immutable"})
        for behaviour in edge.behaviours
    )
    server = Server(
        make_cloudfront(dataclasses.replace(edge, behaviours=behaviours), BUCKET, s3), listen(0), certificates
    )
    server.start()
    try:
        for path in ("/images/none", "/versions/a.json"):
            assert "immutable" in Front(server.port, certificates).ask(path)[1]["cache-control"]
    finally:
        server.stop()


def test_without_the_right_to_list_a_missing_key_is_403(s3: Any, edge: Edge, certificates: Certificates) -> None:
    blind = dataclasses.replace(edge, sees_missing=False)
    server = Server(make_cloudfront(blind, BUCKET, s3), listen(0), certificates)
    server.start()
    try:
        assert Front(server.port, certificates).ask("/images/none")[0] == 403
    finally:
        server.stop()


def test_the_root_is_the_page(s3: Any, front: Front) -> None:
    put(s3, "index.html", b"<html>", "text/html; charset=utf-8")
    status, headers, body = front.ask("/")
    assert (status, body, headers["content-type"]) == (200, b"<html>", "text/html; charset=utf-8")
    assert headers["x-content-type-options"] == "nosniff"


def test_the_catalog_is_compressed_on_request_above_a_size(s3: Any, front: Front) -> None:
    large = json.dumps({"products": {str(number): {} for number in range(200)}}).encode()
    etag = put(s3, CATALOG, large, CacheControl="public, max-age=30")
    status, headers, body = front.ask(f"/{CATALOG}", accept_encoding="gzip, br")
    assert (status, headers["content-encoding"], gzip.decompress(body)) == (200, "gzip", large)
    assert headers["etag"] == f"W/{etag}"
    assert headers["vary"] == "Accept-Encoding"
    assert headers["cache-control"] == "public, max-age=30"
    assert front.ask(f"/{CATALOG}")[2] == large
    put(s3, CATALOG, b"{}" + b" " * 997)
    assert "content-encoding" not in front.ask(f"/{CATALOG}", accept_encoding="gzip")[1]


def test_a_known_revision_is_304(s3: Any, front: Front) -> None:
    etag = put(s3, CATALOG, b"{}")
    status, headers, body = front.ask(f"/{CATALOG}", if_none_match=etag)
    assert (status, headers["etag"], body) == (304, etag, b"")
    put(s3, CATALOG, b"{ }")
    assert front.ask(f"/{CATALOG}", if_none_match=etag)[0] == 200


def test_ranges_are_passed_on(s3: Any, front: Front) -> None:
    put(s3, IMAGE, b"0123456789")
    status, headers, body = front.ask(f"/{IMAGE}", range="bytes=2-4")
    assert (status, body, headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert front.ask(f"/{IMAGE}", range="bytes=50-")[0] == 416


def test_a_large_file_arrives_whole(s3: Any, front: Front) -> None:
    body = os.urandom(9_000_000)
    put(s3, IMAGE, body)
    assert front.ask(f"/{IMAGE}")[2] == body


def test_a_plain_http_connection_is_closed_without_affecting_others(s3: Any, front: Front) -> None:
    put(s3, IMAGE, b"tarball")
    with socket.create_connection(("127.0.0.1", front.port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/")
    assert front.ask(f"/{IMAGE}")[2] == b"tarball"


def test_tls_1_3_is_spoken_on_both_loopback_addresses(front: Front) -> None:
    front.trust.minimum_version = ssl.TLSVersion.TLSv1_3
    for address in ("127.0.0.1", "::1") if _has_ipv6() else ("127.0.0.1",):
        raw = socket.create_connection((address, front.port), timeout=10)
        with front.trust.wrap_socket(raw, server_hostname=address) as secured:
            assert secured.version() == "TLSv1.3"


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_the_authority_outlives_restarts_and_is_renewed_in_time(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    first = ensure_certificates(tmp_path, now)
    authority, chain = first.ca_file.read_bytes(), first.chain_file.read_bytes()
    ensure_certificates(tmp_path, now + timedelta(days=300))
    assert (first.ca_file.read_bytes(), first.chain_file.read_bytes()) == (authority, chain)
    ensure_certificates(tmp_path, now + timedelta(days=380))
    assert first.ca_file.read_bytes() == authority
    assert first.chain_file.read_bytes() != chain


def test_the_certificate_is_for_localhost_and_its_addresses(tmp_path: Path) -> None:
    made = ensure_certificates(tmp_path)
    leaf = x509.load_pem_x509_certificate(made.chain_file.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(a) for a in ("127.0.0.1", "::1")]
    assert made.key_file.stat().st_mode & 0o077 == 0
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0
