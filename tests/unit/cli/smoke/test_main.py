"""The options and the exit codes of the smoke test."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.smoke import __main__ as smoke


@pytest.mark.parametrize(
    "line",
    [
        "--stack images --state-dir /tmp",
        "--address images.example.org",
        "--api ftp://example.org",
        "--skip upload",
        "--wait 0",
    ],
)
def test_wrong_usage_exits_with_2(line: str) -> None:
    assert CliRunner().invoke(smoke.main, line.split()).exit_code == 2


def test_every_exit_code_is_explained() -> None:
    printed = smoke.EXIT_CODES
    for number in (0, smoke.FAILED, 2, smoke.LEFT, 4, 5, 6, 7, smoke.RUNNING, smoke.INTERRUPTED):
        assert f" {number} " in printed


def test_without_a_local_stack_each_script_reports_that_under_its_own_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(smoke.main, ["--state-dir", str(tmp_path)], prog_name="smoke")
    assert done.exit_code == 6
    assert done.stderr.startswith("smoke: no local stack is running")
