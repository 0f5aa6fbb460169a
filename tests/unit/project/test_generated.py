"""The generated parts of every page are up to date.

`./scripts/test --fix` renews them.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from cli.test import generated_pages
from tests.support import PROJECT

PAGES = [Path(page).relative_to(PROJECT) for page in generated_pages(PROJECT)]


def test_there_are_pages_with_a_walk() -> None:
    assert Path("infra/COSTS.md") in PAGES


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", str(page)],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: ./scripts/test --fix"
