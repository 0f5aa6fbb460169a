"""scripts/test itself: its help, and where it writes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import cli.test
from tests.support import PROJECT


def test_help_needs_no_packages(tmp_path: Path) -> None:
    """A bare Python without packages prints it."""
    script = PROJECT / "scripts/test"
    for option in ("-h", "--help"):
        done = subprocess.run(
            (Path(sys.base_prefix, "bin/python3"), "-E", "-s", "-S", script, option),
            cwd=tmp_path, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, cli.test.HELP, "")
    assert len(cli.test.HELP.splitlines()) < 22
    (named,) = re.findall(r"Checks: ([^.]+)\.", cli.test.HELP)
    assert named.split(", ") == list(cli.test.checks(PROJECT))
    for folder in set(re.findall(r"\btests/[\w./]+", cli.test.HELP)):
        assert (PROJECT / folder).exists()


def test_a_read_only_clone_is_tested_without_writing_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ruff, mypy, pytest and hypothesis each keep a cache, by default in the current folder."""
    environments: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        environments.append(env)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(cli.test, "working_folder", lambda: tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda program, **_: program)
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    assert cli.test.main() == 0
    assert len(environments) == len(cli.test.checks(PROJECT)) + 1
    for env in environments:
        caches = [env["RUFF_CACHE_DIR"], env["MYPY_CACHE_DIR"], env["HYPOTHESIS_STORAGE_DIRECTORY"]]
        first, _, cache = shlex.split(env["PYTEST_ADDOPTS"])
        assert (first, cache.partition("=")[0]) == ("-x", "cache_dir")
        assert all(Path(folder).is_relative_to(tmp_path) for folder in (*caches, cache.partition("=")[2]))
