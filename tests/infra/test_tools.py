"""A gate that cannot run says so, and is not green."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from gates import __main__ as command
from gates import checks, tools
from gates.tools import ToolMissing


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Python but what the test puts on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")
    return tmp_path


def test_a_shim_that_does_not_run_is_no_python(bare: Path) -> None:
    shim = executable(bare / "bin" / "python3.13", "echo 'command not found' >&2; exit 127")
    with pytest.raises(ToolMissing, match=r"(?s)no python3\.13.*" + str(shim)):
        tools.python313()


def test_the_real_one_behind_the_shim_is_found(bare: Path) -> None:
    executable(bare / "bin" / "python3.13", "exit 127")
    real = executable(bare / "pyenv" / "versions" / "3.13.9" / "bin" / "python3.13", "echo True")
    assert tools.python313() == real


def test_a_python_of_another_version_is_not_taken(bare: Path) -> None:
    executable(bare / "bin" / "python3.13", "echo False")
    with pytest.raises(ToolMissing):
        tools.python313()


def test_a_tool_that_cannot_be_installed_is_named(bare: Path) -> None:
    executable(bare / "bin" / "uv", "echo 'no network' >&2; exit 1")
    with pytest.raises(ToolMissing, match=r"(?s)checkov\.txt could not be installed.*no network"):
        tools.environment("checkov")
    assert not list((bare / "cache").glob("checkov-*/complete"))


def test_an_environment_is_made_once(bare: Path) -> None:
    # Makes the folder that it is given last, as `uv venv` does; `uv pip` ends with the lock, which is there already.
    executable(
        bare / "bin" / "uv", f'echo x >> {bare}/calls; for last; do :; done; [ -e "$last" ] || /bin/mkdir -p "$last"'
    )
    first = tools.environment("checkov")
    assert tools.environment("checkov") == first
    assert first.parent.parent == bare / "cache"
    assert (bare / "calls").read_text().count("x") == 2


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [([], 0, "ok"), (["E3002 wrong"], 1, "E3002 wrong"), (ToolMissing("no sam here"), 1, "NOT RUN: no sam here")],
)
def test_the_exit_status_says_what_happened(
    outcome: list[str] | ToolMissing, status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gate() -> list[str]:
        if isinstance(outcome, ToolMissing):
            raise outcome
        return outcome

    monkeypatch.setitem(checks.CHECKS, "lint", gate)
    answer = CliRunner().invoke(command.main, ["run", "lint"])
    assert (answer.exit_code, said in answer.output) == (status, True)
