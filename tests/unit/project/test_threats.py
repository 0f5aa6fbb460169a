"""The threats page names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_each_test_named_by_the_threats_page_exists() -> None:
    rows = [line for line in (ROOT / "functions/THREATS.md").read_text().splitlines() if line.startswith("| a ")]
    known = set()
    for module in (ROOT / "tests").rglob("test_*.py"):
        known |= set(re.findall(r"^def (test_\w+)", module.read_text(), re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"a threat without a test: {row}"
        assert set(named) <= known, row
    assert rows
