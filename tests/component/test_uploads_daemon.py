"""`scripts/upload --from-lxd` and `--from-incus` with a daemon that does not answer; `e2e` has those that do."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.processes import need, short_folder
from tests.support.real_clients import VARIABLES, Client, client

OPTIONS = {"lxc": "--from-lxd", "incus": "--from-incus"}
NAMES = {"lxc": ("LXD", "lxd"), "incus": ("Incus", "incus-admin")}


@pytest.fixture(params=OPTIONS)
def alone(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Yield a real client whose daemon is not running."""
    need(request.param)
    with short_folder(0o755) as folder:
        yield client(request.param, folder, "")


def upload(of: Client, name: str, user: str | None = None) -> tuple[int, str]:
    """Run the script, as another user if one is named; return its exit code and output."""
    command = (PROJECT / "scripts/upload", "--api", "http://127.0.0.1:1", "--to", "a/b/amd64/d")
    done = subprocess.run(
        (*command, OPTIONS[of.program], name),
        env={"PATH": os.environ["PATH"], **of.env},
        user=user, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_daemon_that_is_not_running_is_reported_as_such(alone: Client) -> None:
    code, output = upload(alone, "web")
    daemon, _ = NAMES[alone.program]
    assert (code, f"the daemon of {daemon} does not answer (Error: " in output) == (1, True), output
    assert f"start it, or name a remote: {OPTIONS[alone.program]} REMOTE:web" in output
    assert "knows no image" not in output


def test_a_user_without_access_to_the_daemon_learns_which_group_has_it(alone: Client) -> None:
    need(root=True)
    home, conf = (Path(alone.env[f"{VARIABLES[alone.program]}_{name}"]) for name in ("DIR", "CONF"))
    conf.chmod(0o777)
    nobody = pwd.getpwnam("nobody").pw_name
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(home / "unix.socket"))
        (home / "unix.socket").chmod(0o600)
        daemon.listen()
        code, output = upload(alone, "web", nobody)
    assert (code, f"usermod -aG {NAMES[alone.program][1]} nobody" in output) == (7, True), output


@pytest.mark.parametrize("name", ["images:", "nowhere:"])
def test_a_remote_without_a_daemon_of_its_own_is_not_blamed_on_the_daemon(alone: Client, name: str) -> None:
    """`images:` serves only images and is unreachable here; `nowhere:` does not exist."""
    alone.env["https_proxy"] = alone.env["http_proxy"] = "http://127.0.0.1:1"
    code, output = upload(alone, f"{name}web")
    assert (code, f"knows no image and no instance {name}web (Error: " in output) == (2, True), output
