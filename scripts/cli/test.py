"""`scripts/test`: lint, types and all tests."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from environment import working_folder

PROJECT = Path(__file__).resolve().parent.parent.parent

HELP = """\
Usage: scripts/test [--python VERSION] [PYTEST-ARGUMENT]...

Runs ruff, mypy and pytest; arguments go to pytest. What is missing for some tests is said, with how to install it.

  scripts/test                                       everything but heavy tests, two at a time or more
  scripts/test tests/unit                            the tests of a folder or a file, one at a time
  scripts/test -k presign                            the tests whose names have that word
  scripts/test tests/unit/test_keys.py -x --pdb      stop at the first failure and look at it
  scripts/test --python 3.13                         with that Python, in an environment of its own
  scripts/test -m heavy tests/e2e                    large uploads and real clients: minutes, gigabytes
  .venv/bin/python -m pytest --help                  all arguments of pytest

Exit codes: 0 all passed; 1 a check or a test failed; others are pytest's.
"""
CHECKS = (
    ("ruff check", ["-m", "ruff", "check", "."]),
    ("ruff format", ["-m", "ruff", "format", "--check", "."]),
    ("mypy", ["-m", "mypy"]),
)
OPTIONAL = (
    ("the real LXD client and daemon", ("lxc", "lxd"), "apt-get install lxd lxd-client"),
    ("the real Incus client", ("incus",), "apt-get install incus-client"),
    ("squashfs images", ("mksquashfs",), "apt-get install squashfs-tools"),
    ("virtual machine images", ("qemu-img",), "apt-get install qemu-utils"),
    ("deltas", ("xdelta3",), "apt-get install xdelta3"),
    ("uploads with curl", ("curl",), "apt-get install curl"),
    ("the Lambda runtime's own Python", ("python3.13",), "install Python 3.13 so that python3.13 is on PATH"),
)


def main() -> int:
    """Run the checks, then pytest with the arguments given; 0 only if all of it passed."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP, end="")
        return 0
    environment = {
        "PYTHONHASHSEED": "0",  # or a random run would not replay from its seed: sets have an order of their own
        **os.environ,
        **_caches(working_folder()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    failed = [name for name, arguments in CHECKS if not _passes(name, arguments, environment)]
    for what, programs, remedy in OPTIONAL:
        missing = [program for program in programs if not shutil.which(program)]
        if missing:
            _say(f"NOT TESTED HERE: {what}, for want of {', '.join(missing)} ({remedy})")
    if importlib.util.find_spec("playwright") is None:
        _say("NOT TESTED HERE: the page in a browser, for want of playwright (uv sync --group browser)")
    if failed:
        _say(f"FAILED before the tests: {', '.join(failed)} (see above)")
    # Last, so that pytest's own summary ends the output.
    tests = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", *_parallel(sys.argv[1:]), *sys.argv[1:]],
        cwd=PROJECT, env=environment, check=False,
    )  # fmt: skip
    return tests.returncode or (1 if failed else 0)


def _caches(folder: Path) -> dict[str, str]:
    """Where each tool keeps what it learned; its own default would be the clone, which may be read-only."""
    return {
        "RUFF_CACHE_DIR": str(folder / ".ruff_cache"),
        "MYPY_CACHE_DIR": str(folder / ".mypy_cache"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".hypothesis"),
        "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -o cache_dir='{folder / '.pytest_cache'}'".strip(),
    }


def _passes(name: str, arguments: list[str], environment: dict[str, str]) -> bool:
    done = subprocess.run([sys.executable, *arguments], cwd=PROJECT, env=environment, check=False)  # noqa: S603
    _say(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'}")
    return done.returncode == 0


def _parallel(given: list[str]) -> list[str]:
    """Two workers at least when everything runs; a chosen test or a debugger gets the plain runner."""
    if any(
        word in ("-n", "--pdb", "-s", "-p") or word.startswith(("-n", "tests/", "--numprocesses")) for word in given
    ):
        return []
    return ["-n", str(max(2, os.cpu_count() or 2)), "--dist", "loadgroup"]


def _say(text: str) -> None:
    print(f"[test] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
