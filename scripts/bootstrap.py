"""Start a command on a machine that has only `python3`: `run("cli.local", groups=["local"])`.

This file must parse on an old Python too, to say which one is needed; environment.py does the rest.
"""

import os
import shutil
import sys

OLDEST = (3, 11)


def run(module, *, groups, selects_python=False):  # type: ignore[no-untyped-def]  # any Python 3 must parse this file
    """Replace this process with `module`, in an environment that holds the dependency `groups` of pyproject.toml.

    With `selects_python` the option `--python VERSION` chooses the interpreter.
    """
    if sys.version_info < OLDEST:
        _use_newer_python()
    import environment

    if selects_python:
        environment.switch_python()
    environment.run(module, groups=groups)


def _use_newer_python():  # type: ignore[no-untyped-def]  # any Python 3 must parse this file
    """Replace this process with a newer Python from PATH, or explain that there is none."""
    for name in ("python3.13", "python3.14", "python3.12", "python3.11"):
        path = shutil.which(name)
        if path and not os.environ.get("SIMPLESTREAMS_PYTHON_CHOSEN"):
            os.environ["SIMPLESTREAMS_PYTHON_CHOSEN"] = name
            os.execv(path, [path, *sys.argv])  # noqa: S606  (a Python of this machine)
    running = "{} is Python {}.{}".format(sys.executable, *sys.version_info[:2])
    sys.exit(
        "This needs Python 3.11 or newer; " + running + ", and there is no usable python3.11, python3.12, python3.13 "
        "or python3.14 on PATH. Install one of them and try again."
    )
