"""Deltas that the server makes, from an upload with curl to the daemons of LXD and Incus."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_rules import read_catalog
from tests.support.images import ImageBuilder
from tests.support.processes import need
from tests.support.real_clients import Client, daemon_of, running_daemon
from tests.support.stack import BASE, Stack, local_stack, version_prefix

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("deltas")]
NAME = "made"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Yield a running `scripts/local --empty --parameter Deltas=1`."""
    need("curl", "xdelta3")
    with local_stack("--empty", "--parameter", "Deltas=1") as running:
        yield running


@pytest.fixture(scope="module")
def prints(stack: Stack, image_builder: ImageBuilder) -> tuple[str, str]:
    """Upload a version and the next one, wait for the delta, return both fingerprints."""
    base, new = image_builder.split_squashfs(f"{NAME}-base"), image_builder.split_squashfs(f"{NAME}-new")
    old_print, new_print = (image_builder.sha256(*files.values()) for files in (base, new))
    stack.upload(version_prefix(NAME, BASE), base)
    stack.wait_until_listed(old_print)
    stack.upload(version_prefix(NAME), new)
    stack.wait_until_listed(new_print)
    listed = time.monotonic()
    stack.wait_until(lambda: f"root.delta-{old_print}" in _files(stack, new_print), "the delta in the catalog")
    assert time.monotonic() - listed < 20, "a delta of a small image is listed within seconds"
    return old_print, new_print


def _files(stack: Stack, fingerprint: str) -> dict[str, Any]:
    return dict(next(i.files for i in read_catalog(*stack.catalog()) if i.fingerprint == fingerprint))


@pytest.fixture(scope="module", params=["lxc", "incus"])
def running(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Client]:
    """Yield a client of a real LXD, then of a real Incus; the stack is its remote `here:`."""
    need(daemon_of(request.param), request.param, root=True)
    with running_daemon(request.param, stack.ca_file) as talk:
        talk.add_remote(stack.base_url)
        yield talk


def test_a_daemon_that_has_the_version_before_needs_only_the_delta(
    stack: Stack, prints: tuple[str, str], daemon: Client
) -> None:
    old_print, new_print = prints
    with stack.damaged(version_prefix(NAME) + "rootfs.squashfs", lambda _: None):
        assert "Unable to fetch" in daemon.fails("image", "copy", f"here:{new_print}", "local:")
        daemon("image", "copy", f"here:{old_print}", "local:")
        daemon("image", "copy", f"here:{new_print}", "local:")
    assert daemon.fingerprints("local:") == {old_print, new_print}
    daemon("launch", f"local:{new_print}", "c1")
    assert daemon.marker("c1") == f"{NAME}-new"
    stack.wait_until(lambda: _statistics_have(stack, daemon), "the daemon and its delta in the statistics", 60)


def _statistics_have(stack: Stack, daemon: Client) -> bool:
    """Return whether the edge's logs have the base and the delta that a daemon fetched, and what the delta saved."""
    stats = json.loads(stack.script("admin", "stats", "--json").stdout)
    kind = {"lxc": "lxd", "incus": "incus"}[daemon.program]
    fetched = [row for row in stats["clients"] if row["kind"] == kind and row["version"] and row["downloads"] >= 2]
    return bool(fetched) and stats["deltas"]["downloads"] >= 1 and stats["deltas"]["saved_bytes"] != 0


@pytest.mark.parametrize("program", ["lxc", "incus"])
def test_a_daemon_without_xdelta3_fetches_the_whole_root(
    stack: Stack, prints: tuple[str, str], program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(daemon_of(program), program, root=True)
    monkeypatch.setenv("PATH", _path_without_xdelta3(tmp_path))
    with running_daemon(program, stack.ca_file) as daemon:
        monkeypatch.undo()
        daemon.add_remote(stack.base_url)
        old_print, new_print = prints
        daemon("image", "copy", f"here:{old_print}", "local:")
        with stack.damaged(version_prefix(NAME) + f"rootfs.{BASE}.vcdiff", lambda _: None):
            daemon("image", "copy", f"here:{new_print}", "local:")
        assert daemon.fingerprints("local:") == {old_print, new_print}


def _path_without_xdelta3(folder: Path) -> str:
    """Return a PATH with links to all programs of the current one except xdelta3."""
    for place_ in os.environ["PATH"].split(os.pathsep):
        for program in Path(place_).iterdir() if Path(place_).is_dir() else ():
            link = folder / program.name
            if program.name != "xdelta3" and not link.is_symlink() and program.stat().st_mode & stat.S_IXUSR:
                link.symlink_to(program)
    return str(folder)
