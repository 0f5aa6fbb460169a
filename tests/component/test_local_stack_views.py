"""The local stack's edge function and key value store, over real HTTP, as boto3 and clients use them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from msgspec.structs import replace

from cli.admin.token_use import LocalLog, count
from edge.embed import FUNCTION
from imageserver.aws.key_values import KeyValueStore, at_endpoint
from imageserver.storage.s3 import LISTED_TAG
from imageserver.views.view import Token
from local_stack.certificates import ensure_certificates
from local_stack.cloudfront import make_cloudfront
from local_stack.cloudfront_function import Runner
from local_stack.interpreter import read_wiring
from local_stack.key_value_store import KeyValues, make_key_values
from local_stack.servers import Server, listen
from local_stack.stack import TEMPLATE, log_of_function
from local_stack.template import StackIdentity
from tests.component.test_local_stack_cloudfront import Front
from tests.support import edge_views
from tests.support.edge_views import PRIVATE, PUBLIC, STAGING, basic, signed
from tests.support.servers.s3 import BUCKET, running_s3
from tests.support.views import private

pytestmark = pytest.mark.xdist_group("local-stack-views")
WIRING = read_wiring(TEMPLATE, {"Views": "true"}, StackIdentity("local", "us-east-1"), "http://s3")


@pytest.fixture
def client() -> Iterator[Any]:
    """Yield boto3's client of an empty store."""
    assert WIRING.edge.function
    server = Server(make_key_values(KeyValues(WIRING.edge.function.store_arn)), listen(0), None)
    server.start()
    made = boto3.client(
        "cloudfront-keyvaluestore",
        endpoint_url=f"http://localhost:{server.port}",
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
    yield at_endpoint(made)
    server.stop()


def arn() -> str:
    assert WIRING.edge.function
    return WIRING.edge.function.store_arn


def test_boto3_reads_and_changes_the_store(client: Any) -> None:
    store = KeyValueStore(client, arn())
    assert store.read() == {}
    wanted = {f"view:v{number:03}": str(number) for number in range(120)}
    store.change(wanted, [])
    assert store.read() == wanted
    store.change({"private": "[]"}, [*wanted, "view:none"])
    assert store.read() == {"private": "[]"}


def test_a_log_line_of_the_edge_function_counts_as_a_use_of_its_token(tmp_path: Path) -> None:
    log = tmp_path / "edge-function.log"
    with log_of_function(log) as write:
        runner = Runner(FUNCTION.read_text(), edge_views.entries().get, write)
        for _ in range(2):
            runner.run("GET", "/streams/v1/index.json", [("Authorization", basic(STAGING))])
        runner.run("GET", "/streams/v1/index.json", [])
        runner.stop()
    made = Token(label="ci", created="2026-11-01T00:00:00+00:00")
    found = count(
        LocalLog(log).lines("staging", datetime.now(UTC) - timedelta(minutes=1)),
        replace(private(), tokens={"0" * 64: made}),
    )
    assert found["ci"].uses == 2


def test_a_change_of_an_old_revision_or_a_missing_key_is_refused(client: Any) -> None:
    first = client.describe_key_value_store(KvsARN=arn())["ETag"]
    client.update_keys(KvsARN=arn(), IfMatch=first, Puts=[{"Key": "a", "Value": "1"}])
    for about, code in (
        ({"IfMatch": first, "Puts": [{"Key": "a", "Value": "2"}]}, "ConflictException"),
        ({"IfMatch": "KV2", "Deletes": [{"Key": "b"}]}, "ResourceNotFoundException"),
        ({"IfMatch": "KV2", "Puts": [{"Key": "a", "Value": "v" * 1025}]}, "ValidationException"),
    ):
        with pytest.raises(ClientError) as refused:
            client.update_keys(KvsARN=arn(), **about)
        assert refused.value.response["Error"]["Code"] == code
    assert KeyValueStore(client, arn()).read() == {"a": "1"}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Yield the distribution with its function, in front of a bucket with one file of each kind."""
    certificates = ensure_certificates(tmp_path_factory.mktemp("ca"))
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        s3 = running.client("s3")
        tags = "&".join(f"{name}={value}" for name, value in LISTED_TAG.items())
        for key in (PUBLIC, PRIVATE, "index.html", "streams/v1/index.json", "views/staging/streams/v1/index.json",
                    "views/staging.json"):  # fmt: skip
            s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode(), Tagging=tags if key.startswith("images") else "")
        runner = Runner(FUNCTION.read_text(), edge_views.entries().get)
        server = Server(make_cloudfront(WIRING.edge, BUCKET, s3, runner.run), listen(0), certificates)
        server.start()
        yield Front(server.port, certificates)
        server.stop()
        runner.stop()


def test_each_caller_gets_only_the_documents_it_has_a_right_to(front: Front) -> None:
    login, file = basic(STAGING), f"/{signed('staging', PRIVATE)}"
    assert front.ask(f"/{PUBLIC}")[::2] == (200, PUBLIC.encode())
    assert front.ask("/")[::2] == (200, b"index.html")
    assert front.ask("/streams/v1/index.json?x=1")[::2] == (200, b"streams/v1/index.json")
    of_view = (200, b"views/staging/streams/v1/index.json")
    assert front.ask("/streams/v1/index.json", authorization=login)[::2] == of_view
    assert front.ask(f"/{STAGING}/streams/v1/index.json")[::2] == of_view
    assert front.ask(file, authorization=login)[::2] == front.ask(f"/{STAGING}{file}")[::2] == (200, PRIVATE.encode())
    assert front.ask(f"/{PRIVATE}")[0] == front.ask("/views/staging/streams/v1/index.json")[0] == 404
    assert front.ask("/views/staging.json")[0] == 404
    status, headers, body = front.ask(file)
    assert (status, headers["www-authenticate"][:5], body) == (401, "Basic", b"")


def test_a_file_of_a_view_is_sent_like_any_other_file(front: Front) -> None:
    _, headers, body = front.ask(f"/{STAGING}/{signed('staging', PRIVATE)}", "HEAD", accept_encoding="gzip")
    assert (headers["content-length"], body) == (str(len(PRIVATE)), b"")
    assert "content-encoding" not in headers
    assert headers["content-security-policy"].startswith("default-src 'none'")


def test_a_function_that_fails_is_a_503(tmp_path: Path) -> None:
    certificates = ensure_certificates(tmp_path)
    runner = Runner("function handler() { throw new Error('broken'); }", lambda _: None)
    server = Server(make_cloudfront(WIRING.edge, BUCKET, None, runner.run), listen(0), certificates)
    server.start()
    assert Front(server.port, certificates).ask("/")[0] == 503
    server.stop()
    runner.stop()
