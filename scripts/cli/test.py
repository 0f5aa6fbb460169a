"""`scripts/test`: the checks (lint, types, imports, spelling, workflows) and all tests."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from environment import working_folder

PROJECT = Path(__file__).resolve().parent.parent.parent

HELP = """\
Usage: scripts/test [--python VERSION] [PYTEST-ARGUMENT]...
       scripts/test [--python VERSION] --lint [CHECK]...
       scripts/test --fix

Runs the checks, then pytest; arguments go to pytest. It names the tests that this machine cannot run, and what to
install for them. Checks: ruff, ruff-format, mypy, import-linter, codespell, shellcheck, cog, zizmor, actionlint.

  scripts/test                                          everything but heavy tests, two at a time or more
  scripts/test tests/unit                               the tests of a folder or a file, one at a time
  scripts/test -k presign                               the tests whose names have that word
  scripts/test tests/unit/cli/test_presign.py -x --pdb  stop at the first failure and look at it
  scripts/test --python 3.13                            with that Python, in an environment of its own
  scripts/test -m heavy tests/e2e                       large uploads and real clients: minutes, gigabytes
  scripts/test --lint                                   the checks alone
  scripts/test --lint ruff mypy                         some of them
  scripts/test --fix                                    rewrite what ruff and cog (generated parts of pages) can repair
  .venv/bin/python -m pytest --help                     all arguments of pytest

Exit codes: 0 all passed; 1 a check or a test failed; 2 there is no such check; others are pytest's.
"""
OPTIONAL = (
    ("GitHub workflows", ("actionlint",), "go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"),
    ("the real LXD client and daemon", ("lxc", "lxd"), "apt-get install lxd lxd-client"),
    ("the real Incus client", ("incus",), "apt-get install incus-client"),
    ("squashfs images", ("mksquashfs",), "apt-get install squashfs-tools"),
    ("virtual machine images", ("qemu-img",), "apt-get install qemu-utils"),
    ("deltas", ("xdelta3",), "apt-get install xdelta3"),
    ("uploads with curl", ("curl",), "apt-get install curl"),
    ("the Lambda runtime's own Python", ("python3.13",), "install Python 3.13 so that python3.13 is on PATH"),
)


def main() -> int:
    """Run the checks, then pytest with the arguments given. Return 0 only if everything passed."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(HELP, end="")
        return 0
    environment = {
        "PYTHONHASHSEED": "0",  # or a random run would not replay from its seed: the order of sets varies
        **os.environ,
        **_caches(working_folder()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    if given[:1] == ["--lint"]:
        return _lint(given[1:], environment)
    if given == ["--fix"]:
        return max(_run(command, environment) for command in fixes(PROJECT))
    failed = _run_checks(tuple(checks(PROJECT)), environment)
    _say_what_is_missing()
    if failed:
        _say(f"FAILED before the tests: {', '.join(failed)} (see above)")
    # Last, so that pytest's own summary ends the output.
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", *_parallel(given), *given],
        cwd=PROJECT, env=environment, check=False,
    )  # fmt: skip
    return tests.returncode or (1 if failed else 0)


def checks(project: Path) -> dict[str, list[str]]:
    """Return the command of each check by the check's name; pre-commit and CI run them by these names."""
    patterns = (".github/workflows/*.yml", "infra/action/*/example.yml")
    workflows = sorted(str(path) for pattern in patterns for path in project.glob(pattern))
    return {
        "ruff": ["ruff", "check", "."],
        "ruff-format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
        "import-linter": ["lint-imports", "--no-logo", "--no-cache"],
        "codespell": ["codespell"],
        "shellcheck": ["shellcheck", *_shell_scripts(project)],
        "cog": ["cog", "--check", *generated_pages(project)],
        "zizmor": ["zizmor", "--offline", "--quiet", ".github", "infra/action"],
        "actionlint": ["actionlint", *workflows],
    }


def fixes(project: Path) -> list[list[str]]:
    """Return the commands that repair what the checks of the same tools find."""
    return [
        ["ruff", "check", "--fix", "."],
        ["ruff", "format", "."],
        ["cog", "-r", *generated_pages(project)],
    ]


def _shell_scripts(project: Path) -> list[str]:
    """Return the files in scripts/, .ci/ and beside the actions whose first line names a shell."""
    patterns = ("scripts/*", ".ci/*", "infra/action/*/*.sh")
    files = [path for pattern in patterns for path in project.glob(pattern) if path.is_file()]
    shell = re.compile(rb"#!.*\b(ba)?sh\n")
    return sorted(str(path) for path in files if shell.match(path.read_bytes()))


def generated_pages(project: Path) -> list[str]:
    """Return the Markdown pages with a part that cog generates."""
    folders = (".github", "functions", "infra", "scripts", "tests")
    pages = [*project.glob("*.md"), *(page for folder in folders for page in (project / folder).rglob("*.md"))]
    return sorted(str(page) for page in pages if "[[[cog" in page.read_text())


def _lint(names: list[str], environment: dict[str, str]) -> int:
    known = checks(PROJECT)
    if unknown := set(names) - known.keys():
        _say(f"there is no check {', '.join(sorted(unknown))}; the checks are {', '.join(known)}")
        return 2
    return 1 if _run_checks(names or tuple(known), environment) else 0


def _run_checks(names: Sequence[str], environment: dict[str, str]) -> list[str]:
    """Run the checks and return the names of those that failed."""
    commands, failed = checks(PROJECT), []
    for name in names:
        program, *_ = commands[name]
        if shutil.which(program, path=environment["PATH"]):
            passed = _run(commands[name], environment) == 0
            _say(f"{name}: {'passed' if passed else 'FAILED'}")
        else:
            passed = environment.get("SIMPLESTREAMS_REQUIRE_EXTRAS") != "1"
            _say(f"{name}: {'' if passed else 'FAILED, '}NOT RUN, {program} is missing")
        if not passed:
            failed.append(name)
    return failed


def _say_what_is_missing() -> None:
    for what, programs, remedy in OPTIONAL:
        missing = [program for program in programs if not shutil.which(program)]
        if missing:
            _say(f"NOT TESTED HERE: {what}: {', '.join(missing)} missing ({remedy})")
    if importlib.util.find_spec("playwright") is None:
        _say("NOT TESTED HERE: the page in a browser: playwright missing (uv sync --group browser)")


def _caches(folder: Path) -> dict[str, str]:
    """Return where each tool keeps its cache. By default that is the clone, which may be read-only."""
    return {
        "RUFF_CACHE_DIR": str(folder / ".ruff_cache"),
        "MYPY_CACHE_DIR": str(folder / ".mypy_cache"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".hypothesis"),
        "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -o cache_dir='{folder / '.pytest_cache'}'".strip(),
    }


def _run(command: list[str], environment: dict[str, str]) -> int:
    return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode


def _parallel(given: list[str]) -> list[str]:
    """Use at least two workers for the whole suite. Chosen tests and a debugger get the plain runner."""
    if any(
        word in ("-n", "--pdb", "-s", "-p") or word.startswith(("-n", "tests/", "--numprocesses")) for word in given
    ):
        return []
    return ["-n", str(max(2, os.cpu_count() or 2)), "--dist", "loadgroup"]


def _say(text: str) -> None:
    print(f"[test] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
