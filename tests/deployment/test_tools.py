"""A gate that cannot run reports that and does not pass."""

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

import environment
from gates import __main__ as command
from gates import checks, tools
from gates.tools import ToolMissing


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def installer(bare: Path, script: str) -> None:
    """Install a sufficiently recent uv that then runs the given script."""
    executable(bare / "bin" / "uv", f'if [ "$1" = --version ]; then echo "uv 99.0"; exit; fi; {script}')


def noting(bare: Path) -> str:
    """Record the call, and make the folder named last, like `uv venv`; `uv pip` names the lock, which exists."""
    return f'echo "$*" >> {bare}/calls; for last; do :; done; [ -e "$last" ] || /bin/mkdir -p "$last"'


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a machine without any Python except those that the test puts on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")
    return tmp_path


def test_a_shim_that_does_not_run_is_skipped(bare: Path) -> None:
    shim = executable(bare / "bin" / "python3.13", "echo 'command not found' >&2; exit 127")
    with pytest.raises(ToolMissing, match=r"no Python 3\.13.*" + str(shim)):
        tools.python313()


def test_the_real_python_behind_a_shim_is_found(bare: Path) -> None:
    executable(bare / "bin" / "python3.13", "exit 127")
    real = executable(bare / "pyenv" / "versions" / "3.13.9" / "bin" / "python3.13", "echo True 3.13")
    assert tools.python313() == real


def test_a_python_of_another_version_is_not_used(bare: Path) -> None:
    executable(bare / "bin" / "python3.13", "echo True 3.12")
    with pytest.raises(ToolMissing):
        tools.python313()


def test_a_tool_that_cannot_be_installed_is_named(bare: Path) -> None:
    installer(bare, "echo 'no network' >&2; exit 1")
    with pytest.raises(ToolMissing, match=r"(?s)checkov\.txt could not be installed.*no network"):
        tools.environment("checkov")
    assert not list((bare / "cache").glob("checkov-*/complete"))


def test_an_environment_is_made_once(bare: Path) -> None:
    installer(bare, noting(bare))
    first = tools.environment("checkov")
    assert tools.environment("checkov") == first
    assert first.parent.parent == bare / "cache"
    assert len((bare / "calls").read_text().splitlines()) == 2


def test_without_uv_on_path_the_pinned_one_is_used(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not pip: older versions take requirements with extras for unpinned, although the lock pins all of them."""
    monkeypatch.setattr(environment, "working_folder", lambda: bare)
    executable(bare / ".cache" / f"uv-{environment.UV_VERSION}", noting(bare))
    tools.environment("checkov")
    make, fill = (bare / "calls").read_text().splitlines()
    assert make.startswith("venv ")
    assert fill.startswith("pip install ")
    assert {"--require-hashes", "--no-deps"} <= set(fill.split())


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [([], 0, "ok"), (["E3002 wrong"], 1, "E3002 wrong"), (ToolMissing("no sam here"), 1, "NOT RUN: no sam here")],
)
def test_the_exit_status_distinguishes_failures_from_missing_tools(
    outcome: list[str] | ToolMissing, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gate() -> list[str]:
        if isinstance(outcome, ToolMissing):
            raise outcome
        return outcome

    monkeypatch.setitem(checks.CHECKS, "lint", gate)
    answer = CliRunner().invoke(command.main, ["run", "lint"])
    assert (answer.exit_code, message in answer.output) == (status, True)


def test_backports_come_from_a_mirror_that_the_machine_uses(tmp_path: Path) -> None:
    """Images of Debian name the snapshot they were made from in a comment."""
    lists = tmp_path / "sources.list.d"
    lists.mkdir()
    (lists / "debian.sources").write_text(
        "Types: deb\n# http://snapshot.debian.org/archive/debian/20250520T000000Z\n"
        "URIs: http://deb.debian.org/debian\nSuites: bookworm\n\nURIs: http://deb.debian.org/debian-security\n"
    )
    command = f"source {tools.ROOT}/.ci/install-extras; debian_mirror {tmp_path}"
    done = subprocess.run(("bash", "-c", command), capture_output=True, text=True, check=False)
    assert done.stdout == "http://deb.debian.org/debian\n"
    (lists / "debian.sources").unlink()
    (tmp_path / "sources.list").write_text("deb http://ftp.de.debian.org/debian/ bookworm main\n")
    done = subprocess.run(("bash", "-c", command), capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "http://ftp.de.debian.org/debian/"
