"""What a page says of itself that it is generated is what would be generated now.

Make it anew with `python -m cogapp -r -I infra -I functions -I scripts FILE`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [
    page.relative_to(PROJECT)
    for folder in (".", "functions", "infra", "scripts", "tests")
    for page in (PROJECT / folder).glob("*.md")
    if "[[[cog" in page.read_text()
]


def test_there_are_pages_with_a_walk() -> None:
    assert Path("infra/COSTS.md") in PAGES


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    folders = [argument for folder in ("infra", "functions", "scripts") for argument in ("-I", folder)]
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", *folders, str(page)],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: python -m cogapp -r {' '.join(folders)} {page}"
