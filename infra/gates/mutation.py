"""The check that the unit tests of the core notice changes to its code.

mutmut changes the code of a few modules, one place at a time, and runs the tests that reach that place. A change that
no test notices survives. The score is the share that does not survive. Some survivors are equivalent to the original,
or change only the words of a message. `python -m gates run mutation` lists the survivors; `mutmut show NAME`, in the
folder that it prints, shows one.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gates import tools
from gates.tools import CACHE, ROOT

LEAST_SCORE: Final = 0.8
MODULES: Final = {
    "catalog/delta_plan.py": ("catalog/test_delta_plan.py",),
    "catalog/rights.py": ("catalog/test_rights.py",),
    "catalog/conflicts.py": ("catalog/test_conflicts.py", "catalog/test_fold.py"),
    "format/keys.py": ("format/test_keys.py", "format/test_keys_versions.py"),
    "inspection/checksums.py": ("inspection/test_checksums.py",),
    "versions/state.py": ("versions/test_state.py",),
    "views/addresses.py": ("views/test_addresses.py",),
    "views/catalogs.py": ("views/test_catalogs.py",),
    "views/channels.py": ("views/test_channels.py",),
    "views/checks.py": ("views/test_checks.py",),
    "views/tokens.py": ("views/test_tokens.py",),
    "views/view.py": ("views/test_view.py",),
}
"""Module of the core -> its unit tests: the modules that make decisions and are quick to test."""
_SURVIVED: Final = frozenset({0, 33})
"""mutmut's status for a mutant with which every test passed, or which no test reaches."""


def mutate() -> Iterator[str]:
    """Run mutmut over a copy of the core, and name each survivor if the score is too low."""
    mutmut = tools.environment("mutmut") / "mutmut"
    folder = CACHE / "mutation"
    _copy(folder)
    environment = {**os.environ, "PATH": os.pathsep.join([str(mutmut.parent), os.environ.get("PATH", os.defpath)])}
    done = subprocess.run(
        [str(mutmut), "run", "--max-children", str(os.cpu_count() or 1)],
        capture_output=True, text=True, check=False, cwd=folder, env=environment,
    )  # fmt: skip
    outcomes: dict[str, int | None] = {}  # None for an untested mutant
    for meta in (folder / "mutants" / "imageserver").rglob("*.meta"):
        outcomes |= json.loads(meta.read_text())["exit_code_by_key"]
    if not outcomes or None in outcomes.values():
        yield f"mutmut did not finish: {(done.stdout + done.stderr)[-2000:]}"
        return
    survivors = sorted(name for name, status in outcomes.items() if status in _SURVIVED)
    score = 1 - len(survivors) / len(outcomes)
    if score < LEAST_SCORE:
        yield f"{score:.1%} of {len(outcomes)} mutants were noticed, expected {LEAST_SCORE:.0%}; see {folder}"
        yield from survivors


def _copy(folder: Path) -> None:
    """Lay out the copy for mutmut, which takes the folder of a package as the package's name."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.html")
    shutil.copytree(ROOT / "functions" / "imageserver", folder / "imageserver", ignore=ignored)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored)
    shutil.copytree(ROOT / "functions", folder / "functions", ignore=shutil.ignore_patterns("imageserver"))
    tests = [f"tests/unit/imageserver/{test}" for tests in MODULES.values() for test in tests]
    settings = {
        "source_paths": ["imageserver"],
        "only_mutate": [f"imageserver/{module}" for module in MODULES],
        "also_copy": ["functions"],
        "pytest_add_cli_args_test_selection": tests,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    lines += ["[tool.pytest.ini_options]", 'pythonpath = ["."]', 'addopts = "--import-mode=importlib"']
    (folder / "pyproject.toml").write_text("\n".join(["[tool.mutmut]", *lines, ""]))
