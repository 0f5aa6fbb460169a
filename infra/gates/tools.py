"""The tools of the gates: python3.13, and programs whose dependencies conflict with the project's.

Each tool has its own lock in locks/, with hashes, and gets an environment under .cache/gates when it is first
needed. NAME.in is the source of a lock; the second line of NAME.txt is the command that renews it. ministack.txt
is for python3.13, which runs the functions in the emulator; aws-sam-translator expands the template there.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from environment import SetupFailed, find_python, find_uv, uv_settings, working_folder

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = Path(__file__).parent / "locks"
CACHE: Final = working_folder() / ".cache" / "gates"


class ToolMissing(Exception):
    """A tool that a gate needs is missing and could not be installed; the gate did not run."""


def python313() -> Path:
    """Return a working python3.13: `sam build` calls it by that name, and only it makes the runtime's bytecode."""
    try:
        return find_python("3.13", module="pip")
    except SetupFailed as failure:
        raise ToolMissing(f"{failure} Packages built by another version start without bytecode.") from failure


def environment(name: str, python: Path | None = None) -> Path:
    """Return the bin folder of the environment for locks/<name>.txt; make the environment if necessary."""
    lock = LOCKS / f"{name}.txt"
    folder = CACHE / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # parallel tests may need the same one at the same time
        if (folder / "complete").exists():
            return folder / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            uv = find_uv()
        except SetupFailed as failure:
            raise ToolMissing(str(failure)) from failure
        make = [uv, "venv", "--quiet", "--no-project", "--python", str(python or sys.executable), str(folder)]
        # The lock is complete, so nothing is resolved again.
        fill = [uv, "pip", "install", "--quiet", "--no-config", "--require-hashes", "--no-deps"]
        fill += ["--python", str(folder / "bin" / "python"), "-r", str(lock)]
        for command in (make, fill):
            settings = uv_settings(dict(os.environ))
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
            if done.returncode:
                reason = (done.stderr or done.stdout).strip()[-2000:]
                raise ToolMissing(
                    f"{lock.name} could not be installed (it needs a package index the first time):\n{reason}"
                )
        (folder / "complete").touch()
    return folder / "bin"
