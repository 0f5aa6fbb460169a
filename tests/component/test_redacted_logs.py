"""From a request with a token in its path to an access log without it, on a running stack with views."""

from __future__ import annotations

import gzip
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from imageserver.views.tokens import RANDOM_BYTES, token_text
from tests.support.stack import Stack, local_stack

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("edge-logs")]

TOKEN = token_text(b"r" * RANDOM_BYTES)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with local_stack("--empty", "--parameter", "Views=true") as running:
        yield running


def lines(stack: Stack) -> list[str]:
    """Return the lines of all current access logs."""
    bucket, s3 = stack.facts["logs_bucket"], stack.s3()
    found = s3.list_objects_v2(Bucket=bucket, Prefix="edge/").get("Contents", [])
    bodies = [s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found]
    return [line for body in bodies for line in gzip.decompress(body).decode().splitlines()]


def test_no_access_log_keeps_the_token_of_a_path(stack: Stack) -> None:
    def ask(path: str, **headers: str) -> None:
        request = urllib.request.Request(f"{stack.base_url}/{path}", headers=headers)
        trust = ssl.create_default_context(cafile=stack.ca_file)
        with urllib.request.urlopen(request, context=trust, timeout=30) as answer:
            answer.read()

    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(f"{TOKEN}/streams/v1/index.json")  # this token does not exist, but the log has it anyway
    ask("", Referer=f"{stack.base_url}/{TOKEN}/")
    stack.wait_until(lambda: sum("/token-" in line for line in lines(stack)) == 2, "both lines are redacted", 60)
    assert not [line for line in lines(stack) if TOKEN in line]
