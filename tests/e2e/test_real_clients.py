"""The real clients as the other tests use them: one daemon at a time, with nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import need, wait_for
from tests.support.real_clients import Uploaded, mounts_below, processes_of, running_daemon
from tests.support.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]


def test_all_tests_that_use_lxd_share_one_worker(request: pytest.FixtureRequest) -> None:
    # With some versions of pytest, pytest-xdist silently forms no groups; every worker then starts
    # its own LXD.
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("this run is not distributed with --dist loadgroup")
    assert request.node.nodeid.endswith("@lxd")


def test_a_failing_test_leaves_no_daemon_no_container_and_no_mount(stack: Stack, forms: dict[str, Uploaded]) -> None:
    need("lxd", "lxc", root=True)
    home = Path("/nonexistent")
    # The context manager is what is tested.
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
