"""The harness itself: it skips loudly, fails where extras are required, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import REQUIRE_EXTRAS, need, stop, wait_for
from tests.support.real_clients import Uploaded, mounts_below, processes_of, running_daemon
from tests.support.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]


def test_a_missing_tool_is_a_skip_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE_EXTRAS, raising=False)
    with pytest.raises(pytest.skip.Exception, match="NOT TESTED, missing no-such-tool"):
        need("sh", "no-such-tool")


def test_a_missing_tool_is_a_failure_where_extras_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE_EXTRAS, "1")
    with pytest.raises(pytest.fail.Exception, match="NOT TESTED, missing no-such-tool"):
        need("sh", "no-such-tool")


def test_all_that_use_lxd_share_one_worker(request: pytest.FixtureRequest) -> None:
    # pytest-xdist forms no groups with some versions of pytest, without a word; every worker then starts
    # its own LXD.
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("this run is not distributed with --dist loadgroup")
    assert request.node.nodeid.endswith("@lxd")


def test_what_a_process_left_behind_is_stopped_with_it() -> None:
    command = ("sh", "-c", "trap '' TERM INT; sleep 600 & echo $!; wait")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = Path("/proc") / process.stdout.readline().decode().strip()
    assert child.exists()
    assert stop(process, patience=0.2) == -signal.SIGKILL
    process.stdout.close()
    wait_for(lambda: not child.exists() or _is_zombie(child), "the end of the child", 10)


def _is_zombie(process: Path) -> bool:
    """Ended, and not yet collected by whoever inherited it."""
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_failing_test_leaves_no_daemon_no_container_and_no_mount(stack: Stack, forms: dict[str, Uploaded]) -> None:
    need("lxd", "lxc", root=True)
    home = Path("/nonexistent")
    with pytest.raises(ZeroDivisionError), running_daemon("lxc", stack.ca_file) as lxc:  # noqa: PT012
        home = lxc.home
        lxc.add_remote(stack.base_url)
        lxc("launch", forms["squashfs"].alias, "c1")
        assert processes_of(home)
        assert mounts_below(home)
        raise ZeroDivisionError
    wait_for(lambda: not processes_of(home), "the end of every process", 10)
    assert mounts_below(home) == []
    assert not home.exists()
