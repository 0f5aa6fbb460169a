"""Programs that tests need: a missing one is named, a started one is stopped."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import REQUIRE_EXTRAS, need, stop, wait_for


def test_a_missing_tool_is_a_skip_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE_EXTRAS, raising=False)
    with pytest.raises(pytest.skip.Exception, match="NOT TESTED, missing no-such-tool"):
        need("sh", "no-such-tool")


def test_a_missing_tool_is_a_failure_where_extras_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE_EXTRAS, "1")
    with pytest.raises(pytest.fail.Exception, match="NOT TESTED, missing no-such-tool"):
        need("sh", "no-such-tool")


def test_stopping_a_process_stops_its_children() -> None:
    command = ("sh", "-c", "trap '' TERM INT; sleep 600 & echo $!; wait")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = Path("/proc") / process.stdout.readline().decode().strip()
    assert child.exists()
    assert stop(process, patience=0.2) == -signal.SIGKILL
    process.stdout.close()
    wait_for(lambda: not child.exists() or _is_zombie(child), "the end of the child", 10)


def _is_zombie(process: Path) -> bool:
    """Return whether a process has ended but was not yet reaped by its new parent."""
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
