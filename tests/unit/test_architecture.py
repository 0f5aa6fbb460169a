"""The boundaries of the house: imports point inward."""

import subprocess
import sys
from pathlib import Path

import pytest

from simplestreams import architectures

FUNCTIONS = Path(__file__).parents[2] / "functions"


def test_the_core_imports_no_aws_library_and_no_clock_of_its_own() -> None:
    modules = [f"simplestreams.{path.stem}" for path in (FUNCTIONS / "simplestreams").glob("[a-z]*.py")]
    program = f"import sys\nfor m in {modules}: __import__(m)\nprint(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=FUNCTIONS, capture_output=True, text=True, check=True
    ).stdout.split()
    outside = ("boto3", "botocore", "aws_lambda_powertools", "storage", "settings")
    assert [name for name in loaded if name.split(".")[0] in outside] == []


@pytest.mark.parametrize("call", ["time.time(", "datetime.now(", "os.environ", "open("])
def test_the_core_asks_nobody_for_the_time_or_the_environment(call: str) -> None:
    for path in (FUNCTIONS / "simplestreams").glob("*.py"):
        assert call not in path.read_text(), path


def test_only_the_adapter_knows_botos_errors() -> None:
    knowing = {
        path.relative_to(FUNCTIONS).as_posix() for path in FUNCTIONS.rglob("*.py") if "ClientError" in path.read_text()
    }
    assert knowing <= {"storage/s3.py", "storage/edge.py", "storage/parts.py", "storage/queues.py"}


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("amd64", "x86_64"), ("arm64", "aarch64"), ("armhf", "armv7l"), ("i386", "i686"), ("ppc64el", "ppc64le")],
)
def test_architectures_have_one_name_each(name: str, kernel: str) -> None:
    assert architectures.canonical(name) == kernel == architectures.canonical(kernel)
