"""The boundaries of the house: imports point inward."""

import subprocess
import sys
from pathlib import Path

import pytest

from gates.bundle import imports
from imageserver.format import architectures
from tests.support import PROJECT

ROOT = PROJECT
PACKAGE = ROOT / "functions" / "imageserver"
LAYERS = (
    {"handlers"},
    {"site"},
    {"api"},
    {"operations"},
    {"aws", "storage"},
    {"catalog"},
    {"versions"},
    {"inspection"},
    {"format"},
    {"errors"},
)
"""Outermost first; a layer may import those behind it. `settings` stands beside them."""
CORE = ("format", "inspection", "versions", "catalog")


def imported(folder: Path) -> dict[str, set[str]]:
    """Return, for each source in a folder, the modules of ours that it imports."""
    return {
        source.relative_to(ROOT).as_posix(): {name for name in imports(source) if name.startswith("imageserver.")}
        for source in folder.rglob("*.py")
    }


@pytest.mark.parametrize("layer", [name for layer in LAYERS[:-1] for name in sorted(layer)])
def test_imports_point_inward(layer: str) -> None:
    depth = next(depth for depth, names in enumerate(LAYERS) if layer in names)
    allowed = {layer, "settings"} | {name for names in LAYERS[depth + 1 :] for name in names}
    if layer in CORE:
        allowed -= {"settings"}
    for source, names in imported(PACKAGE / layer).items():
        assert {name.split(".")[1] for name in names} <= allowed, source


def test_no_handler_imports_another() -> None:
    handlers = {"digest", "publish", "uploads", "maintain"}
    for source, names in imported(PACKAGE / "handlers").items():
        others = handlers - {Path(source).stem}
        assert not {f"imageserver.handlers.{other}" for other in others} & names, source


def test_scripts_import_no_handler() -> None:
    """`scripts/admin` does what the functions do with the same operations, never through a function's wiring."""
    for source, names in imported(ROOT / "scripts").items():
        assert not {name for name in names if name.startswith("imageserver.handlers")}, source


def test_the_core_imports_no_aws_library_and_no_clock_of_its_own() -> None:
    modules = [f"imageserver.{layer}.{path.stem}" for layer in CORE for path in (PACKAGE / layer).glob("[a-z]*.py")]
    program = f"import sys\nfor m in {modules}: __import__(m)\nprint(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    ).stdout.split()
    outside = ("boto3", "botocore", "aws_lambda_powertools")
    assert [name for name in loaded if name.split(".")[0] in outside] == []
    assert [name for name in loaded if name.startswith(("imageserver.storage", "imageserver.settings"))] == []


@pytest.mark.parametrize("call", ["time.time(", "datetime.now(", "os.environ", "open("])
def test_the_core_reads_neither_clock_nor_environment(call: str) -> None:
    for layer in CORE:
        for path in (PACKAGE / layer).glob("*.py"):
            assert call not in path.read_text(), path


def test_only_the_adapters_know_botos_errors() -> None:
    knowing = {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "ClientError" in path.read_text()
    }
    assert knowing <= {"storage/s3.py", "aws/cloudfront.py", "storage/presigned.py", "aws/queues.py"}


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("amd64", "x86_64"), ("arm64", "aarch64"), ("armhf", "armv7l"), ("i386", "i686"), ("ppc64el", "ppc64le")],
)
def test_architectures_have_one_name_each(name: str, kernel: str) -> None:
    assert architectures.canonical(name) == kernel == architectures.canonical(kernel)
