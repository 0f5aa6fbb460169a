"""Boundaries that import-linter cannot express, and that each of its contracts notices a breach.

The contracts themselves are in pyproject.toml; `./scripts/test --lint import-linter` checks them.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from imageserver.format import architectures
from tests.support import PROJECT

PACKAGE = PROJECT / "functions" / "imageserver"
CORE = ("format", "access_logs", "inspection", "versions", "catalog")
LINTER: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]
BREACHES = {
    "inward": [
        ("functions/imageserver/storage/s3.py", "import imageserver.operations.prune"),
        ("functions/imageserver/operations/runs.py", "import imageserver.handlers.maintain"),
        ("functions/imageserver/api/schema.py", "import imageserver.site.layout"),
        ("functions/imageserver/catalog/render.py", "import imageserver.storage.port"),
        ("functions/imageserver/format/keys.py", "import imageserver.inspection.digests"),
        ("functions/imageserver/operations/runs.py", "from imageserver.settings import Settings"),
        ("functions/imageserver/aws/queues.py", "import imageserver.storage.s3"),
        ("functions/imageserver/remote/server.py", "import imageserver.storage.s3"),
        ("functions/imageserver/newcomer.py", ""),
    ],
    "handlers": [("functions/imageserver/handlers/digest.py", "import imageserver.handlers.publish")],
    "pure": [
        ("functions/imageserver/catalog/render.py", "import boto3"),
        ("functions/imageserver/inspection/digests.py", "from aws_lambda_powertools import Logger"),
    ],
    "adapter": [("functions/imageserver/operations/ingest.py", "from botocore.exceptions import ClientError")],
    "no-lambda": [
        ("functions/imageserver/operations/runs.py", "from aws_lambda_powertools import Logger"),
        ("functions/imageserver/api/status.py", "from aws_lambda_powertools import Logger"),
    ],
    "no-wiring": [("scripts/cli/admin/deployment.py", "from imageserver.handlers import publish")],
    "stand-in": [("infra/local_stack/s3.py", "from imageserver.format import keys")],
}
"""By contract id: sources, each with a line that the contract must notice in it. A missing source is created."""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the packages, to break."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copy(PROJECT / "pyproject.toml", folder)
    for name in ("functions/imageserver", "infra/local_stack", "scripts/cli"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.html"))
    return folder


@pytest.mark.parametrize(
    ("contract", "source", "line"), [(contract, *breach) for contract, found in BREACHES.items() for breach in found]
)
def test_a_contract_notices_an_import_that_breaks_it(copied: Path, contract: str, source: str, line: str) -> None:
    file = copied / source
    before = file.read_text() if file.exists() else None
    file.write_text(f"{before or ''}\n{line}\n")
    try:
        done = subprocess.run(
            [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo", "--contract", contract],
            cwd=copied, env={**os.environ, "PYTHONPATH": "functions:infra:scripts"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        file.unlink() if before is None else file.write_text(before)
    assert (done.returncode, "1 broken" in done.stdout) == (1, True), done.stdout + done.stderr


def test_every_contract_has_a_breach_here() -> None:
    assert {contract["id"] for contract in LINTER["contracts"]} == BREACHES.keys()


def test_no_handler_escapes_the_contract_of_handlers() -> None:
    """The template starts handlers; the other modules in the folder are shared by them."""
    (contract,) = (contract for contract in LINTER["contracts"] if contract["id"] == "handlers")
    template = (PROJECT / "infra" / "template.yaml").read_text()
    started = {f"imageserver.handlers.{path.stem}" for path in (PACKAGE / "handlers").glob("*.py")}
    assert set(contract["modules"]) == {name for name in started if f"{name}.handler" in template}


def test_the_core_imports_no_aws_library_and_no_clock() -> None:
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
    assert knowing <= {"storage/s3.py", "aws/cloudfront.py", "storage/presigned.py", "aws/queues.py",
                       "aws/key_values.py"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("amd64", "x86_64"), ("arm64", "aarch64"), ("armhf", "armv7l"), ("i386", "i686"), ("ppc64el", "ppc64le")],
)
def test_each_architecture_has_one_name(name: str, kernel: str) -> None:
    assert architectures.canonical(name) == kernel == architectures.canonical(kernel)
