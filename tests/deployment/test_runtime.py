"""The stub of Lambda's Runtime API sees the same as a real one: answers, errors and failed starts."""

import os
from pathlib import Path

import pytest

from gates import packages
from gates.runtime import StartFailed, started
from gates.tools import ToolMissing


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return packages.interpreter()
    except ToolMissing as missing:
        if os.environ.get("SIMPLESTREAMS_REQUIRE_EXTRAS") == "1":
            raise
        pytest.skip(f"no function was started: {missing}")


def test_the_runtime_returns_the_answer_of_a_handler(python: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def handler(event, context):\n    return {'got': event['x'] + 1}\n")
    with started(tmp_path, "app.handler", python, {}) as function:
        assert function.invoke({"x": 1}).body == {"got": 2}
        assert function.invoke({"x": 2}).body == {"got": 3}


def test_the_runtime_returns_the_error_of_a_handler(python: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def handler(event, context):\n    raise KeyError('no such thing')\n")
    with started(tmp_path, "app.handler", python, {}) as function:
        answer = function.invoke({})
    assert answer.failed
    assert (answer.body["errorType"], answer.body["errorMessage"]) == ("KeyError", "'no such thing'")


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (
            "import boto3\ndef handler(event, context): ...\n",
            "boto3",
        ),  # the package has none, and that of the machine is invisible
        ("import sys\nhandle = 1\n", "handler"),
        ("1 +\n", "SyntaxError"),
    ],
)
def test_a_failed_start_gives_its_reason(python: Path, tmp_path: Path, code: str, named: str) -> None:
    (tmp_path / "app.py").write_text(code)
    with started(tmp_path, "app.handler", python, {}) as function, pytest.raises(StartFailed, match=named):
        function.invoke({})


def test_a_function_has_only_lambdas_environment(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THIS_MACHINE", "x")
    (tmp_path / "app.py").write_text("import os\ndef handler(event, context):\n    return dict(os.environ)\n")
    with started(tmp_path, "app.handler", python, {"BUCKET": "b"}) as function:
        seen = function.invoke({}).body
    assert seen["BUCKET"] == "b"
    assert seen["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert "SECRET_OF_THIS_MACHINE" not in seen
