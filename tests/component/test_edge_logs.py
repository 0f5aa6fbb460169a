"""From a download at the local edge to `admin stats`: the whole way of a user."""

from __future__ import annotations

import gzip
import json
import shlex
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from imageserver.access_logs.entries import Parser
from imageserver.access_logs.statistics import Statistics
from imageserver.operations.access_logs import PREFIX
from tests.support import PROJECT, documented, images
from tests.support.edge_logs import CHOSEN, LEGACY, log
from tests.support.edge_logs import line as line_of
from tests.support.stack import Stack, local_stack

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("edge-logs")]

PRODUCT = "images/logged/1/amd64/default"
VERSION = f"{PRODUCT}/20261101_10:00"
LXD = "LXD 5.0.2 (Linux; x86_64; 6.18.44; Debian GNU/Linux; 12)"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with local_stack("--empty") as running:
        for name, body in images.split_image().items():
            running.s3().put_object(Bucket=running.bucket, Key=f"{VERSION}/{name}", Body=body)
        running.wait_until_listed(images.sha256_hex(*images.split_image().values()))
        yield running


def ask(stack: Stack, path: str, method: str = "GET", **headers: str) -> None:
    request = urllib.request.Request(
        f"{stack.base_url}/{path}",
        method=method,
        headers={"User-Agent": LXD, **{name.replace("_", "-"): value for name, value in headers.items()}},
    )
    with urllib.request.urlopen(
        request, context=ssl.create_default_context(cafile=stack.ca_file), timeout=30
    ) as answer:
        answer.read()


def stats(stack: Stack) -> dict[str, Any]:
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), "stats", "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"versions": [], "clients": []}
    return found


def of_version(found: dict[str, Any]) -> dict[str, Any]:
    return next((row for row in found["versions"] if row["product"] == PRODUCT), {"downloads": 0, "bytes": 0})


def test_downloads_through_the_local_edge_are_counted(stack: Stack) -> None:
    ask(stack, f"{VERSION}/lxd.tar.xz")
    ask(stack, f"{VERSION}/rootfs.squashfs")
    ask(stack, f"{VERSION}/rootfs.squashfs", "HEAD")
    ask(stack, f"{VERSION}/rootfs.squashfs", Range="bytes=0-9", User_Agent="curl/8.5.0")
    ask(stack, f"{VERSION}/rootfs.squashfs", Range="bytes=10-19", User_Agent="curl/8.5.0")
    stack.wait_until(lambda: of_version(stats(stack))["downloads"] == 2, "both downloads are counted", 60)
    found = stats(stack)
    row = of_version(found)
    assert (row["listed"], row["cut"], row["last_fetched"][:2]) == (True, 0, "20")
    assert row["bytes"] >= sum(map(len, images.split_image().values())) + 20
    downloads = {(one["kind"], one["version"]): one["downloads"] for one in found["clients"]}
    assert downloads["lxd", "5.0.2"] == downloads["curl", ""] == 1
    assert (found["countries"], found["edge_locations"][0]["location"]) == ([], "LOC")
    assert (found["unreadable_lines"], found["damaged_files"]) == ({}, {})
    assert "127.0.0.1" not in json.dumps(found)


def test_the_local_edge_writes_the_fields_of_standard_logs(stack: Stack) -> None:
    ask(stack, "streams/v1/index.json")
    bucket = stack.facts["logs_bucket"]
    found = stack.wait_until(
        lambda: stack.s3().list_objects_v2(Bucket=bucket, Prefix="edge/").get("Contents"), "a log is there", 60
    )
    body = stack.s3().get_object(Bucket=bucket, Key=found[0]["Key"])["Body"].read()
    first, second, *lines = gzip.decompress(body).decode().splitlines()
    assert (first, second) == ("#Version: 1.0", f"#Fields: {' '.join(LEGACY)}")
    assert {line.count("\t") for line in lines} == {len(LEGACY) - 1}


def call_of(line: str) -> tuple[str, dict[str, Any]]:
    """Return the boto3 call of a line of the AWS command line."""
    program, service, operation, *words = shlex.split(line.replace("\\\n", " "))
    assert (program, service) == ("aws", "logs")
    given: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            option = word.removeprefix("--")
            given[option] = []
        else:
            given[option].append(word)
    assert given.pop("region") == ["us-east-1"]
    arguments: dict[str, Any] = {}
    for name, values in given.items():
        first, *rest = name.split("-")
        key = first + "".join(map(str.capitalize, rest))
        arguments[key] = values if key == "recordFields" else values[0]
        if key == "deliveryDestinationConfiguration":
            inner, _, value = values[0].partition("=")
            arguments[key] = {inner: value}
    return operation.replace("-", "_"), arguments


def test_the_commands_of_the_page_order_logs_with_countries_and_without_addresses(moto_endpoint: str) -> None:
    lines = documented.script("edge logs")
    assert len(lines) == 3
    client = boto3.client("logs", endpoint_url=moto_endpoint, region_name="us-east-1")
    for line in lines:
        values = {"ACCOUNT": "123456789012", "DISTRIBUTION": "E1", "LOGS_BUCKET": "images-logs"}
        for example, value in values.items():
            line = line.replace(example, value)
        operation, arguments = call_of(line)
        getattr(client, operation)(**arguments)
    (delivery,) = client.describe_deliveries()["deliveries"]
    (destination,) = client.describe_delivery_destinations()["deliveryDestinations"]
    assert delivery["deliveryDestinationArn"] == destination["arn"]
    assert destination["outputFormat"] == "w3c"
    where = destination["deliveryDestinationConfiguration"]["destinationResourceArn"]
    assert where == f"arn:aws:s3:::images-logs/{PREFIX.rstrip('/')}"
    assert set(arguments["recordFields"]) == set(CHOSEN)
    assert not {"c-ip", "x-forwarded-for", "cs-uri-query", "cs(Cookie)"} & set(arguments["recordFields"])
    counts = Statistics()
    counts.read("edge/x.gz", [log([line_of(arguments["recordFields"])], arguments["recordFields"])], Parser())
    assert (counts.unreadable, list(counts.countries)) == ({}, ["DE"])
