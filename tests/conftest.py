"""Fixtures and options for every kind of test.

Fixtures for end-to-end tests only are in `e2e/conftest.py`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

REGION = "eu-central-1"

# Set before any handler is imported: no test may find credentials, a profile or an instance's
# metadata.
os.environ.update(
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_DEFAULT_REGION=REGION,
    AWS_REGION=REGION,
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    POWERTOOLS_TRACE_DISABLED="true",
)
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
    os.environ.pop(name, None)


def pytest_configure(config: pytest.Config) -> None:
    # A cancelled run ends by SIGTERM: as with Ctrl-C, fixtures then still stop the processes that they
    # started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell that starts the tests in the background ignores SIGINT, and every program that they interrupt would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "e2e: starts the whole stack as processes and uses the real clients")
    config.addinivalue_line("markers", "real_s3: needs versitygw, a real S3 server")
    config.addinivalue_line("markers", "heavy: gigabytes or minutes; runs with `-m heavy` only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out heavy tests unless they are requested, and name tests that need a missing program."""
    heavy = pytest.mark.skip(reason="heavy: run it with -m heavy")
    unreal = pytest.mark.skip(reason="NOT TESTED, missing versitygw")
    for item in items:
        if "heavy" in item.keywords and "heavy" not in config.option.markexpr:
            item.add_marker(heavy)
        if "real_s3" in item.keywords and shutil.which("versitygw") is None:
            item.add_marker(unreal)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-seconds", default="60", help="for how long workers are killed at random")
    parser.addoption("--fault-seed", default="1", help="first seed of the runs with injected faults")
    parser.addoption("--fault-runs", default="20", help="how many seeds to run, one after another")
    parser.addoption("--fault-steps", default="1500", help="steps of each run")
    parser.addoption("--wire-seed", default="1", help="first seed of the runs on the wire")
    parser.addoption("--wire-runs", default="6", help="how many seeds to run, one after another")
    parser.addoption("--wire-steps", default="6000", help="steps of each run")
    parser.addoption("--rewrite-goldens", action="store_true", help="write golden files instead of comparing")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded with `record_property`. They are not asserted."""
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", []):
            if report.when == "call":
                terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """Return a function: `golden("name.json", body)` compares with `goldens/<name>` next to the test, byte for byte.

    Only `--rewrite-goldens` writes one. A missing golden is a failure.
    """

    def compare(name: str, body: bytes) -> None:
        path = Path(request.path).parent / "goldens" / name
        if request.config.getoption("--rewrite-goldens"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(body)
        assert path.is_file(), f"no golden {path}: run with --rewrite-goldens and read what it wrote"
        assert body.decode() == path.read_text(), f"differs from {path}"

    return compare


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Yield the URL of a moto server on its own port, which runs as long as this worker."""
    from moto.server import ThreadedMotoServer  # slow to import, and most tests do without

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


_NUMBERS = itertools.count(1)


@pytest.fixture
def s3(moto_endpoint: str) -> S3Client:
    """A client of the moto server."""
    # One attempt: a test that stages an error must see that error, not a retry that hides it.
    config = Config(signature_version="s3v4", retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=moto_endpoint, region_name=REGION, config=config)


@pytest.fixture
def sqs(moto_endpoint: str) -> SQSClient:
    """A client of the moto server."""
    return boto3.client("sqs", endpoint_url=moto_endpoint, region_name=REGION)


@pytest.fixture
def bucket(s3: S3Client) -> str:
    """Return the name of a new, empty, versioned bucket on the moto server."""
    name = f"images-{next(_NUMBERS)}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name
