"""Builds a function's package in a copy of the clone: once for each run of the tests, and then copies it.

Run as `python packages.py FUNCTION FOLDER`, in the place of the recipe of functions/Makefile and for this machine's
processor. Only the standard library is imported here, because python3.13 has no other packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from gates import xdelta3
from gates.bundle import bundle

KEPT: Final = "EMULATED_PACKAGES"
"""Names the folder of finished packages, which all copies of one run share."""


def provide(function: str, folder: Path, kept: Path) -> None:
    """Fill `folder` with the package of a function, from `kept` if a build under the same variables left it there."""
    variables = repr([os.environ.get(name) for name in (xdelta3.WANTED, xdelta3.PACKAGES)])
    finished = kept / f"{function}-{hashlib.sha256(variables.encode()).hexdigest()[:12]}"
    if not finished.exists():
        begun = kept / f"{function}.{os.getpid()}"
        bundle(function, begun, for_this_machine=True)
        begun.rename(finished)
    shutil.copytree(finished, folder, dirs_exist_ok=True)


if __name__ == "__main__":
    provide(sys.argv[1].lower(), Path(sys.argv[2]), Path(os.environ[KEPT]))
