"""The boundaries of the house: imports point inward."""

import subprocess
import sys
from pathlib import Path

import pytest

from gates.bundle import imports
from imageserver.format import architectures
from tests.support import PROJECT

FUNCTIONS = PROJECT / "functions"
HANDLERS = ("digest", "publish", "uploads", "maintain")
INWARD = {
    "simplestreams": set[str](),
    "api": {"simplestreams"},
    "storage": {"simplestreams"},
    "operations": {"simplestreams", "storage"},
}
"""What a package may import of ours besides itself; a handler's, anything but another handler's."""


def imported(folder: Path) -> dict[str, set[str]]:
    """The modules of ours that the sources in a folder import, by the source's name."""
    ours = {path.stem for path in FUNCTIONS.iterdir()}
    return {
        source.relative_to(PROJECT).as_posix(): {name for name in imports(source) if name.split(".")[0] in ours}
        for source in folder.rglob("*.py")
    }


@pytest.mark.parametrize("package", [*INWARD, *HANDLERS])
def test_imports_point_inward_and_no_handler_imports_another(package: str) -> None:
    ours = {path.stem for path in FUNCTIONS.iterdir()}
    allowed = {package} | INWARD.get(package, ours - set(HANDLERS))
    for source, names in imported(FUNCTIONS / package).items():
        assert {name.split(".")[0] for name in names} <= allowed, source


def test_what_lies_beside_the_handlers_knows_none_of_them() -> None:
    for source in FUNCTIONS.glob("*.py"):
        assert not {name.split(".")[0] for name in imports(source)} & {*HANDLERS, "operations", "api"}, source


def test_nobody_imports_a_handler_but_who_runs_it() -> None:
    """`scripts/admin` does what the functions do with the same operations, never through a function's wiring."""
    for source, names in imported(PROJECT / "scripts").items():
        assert not {f"{handler}.app" for handler in HANDLERS} & names, source


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
