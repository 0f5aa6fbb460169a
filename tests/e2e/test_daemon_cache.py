"""A daemon caches the catalog for an hour: what that hides, and how the hint of `scripts/upload` helps."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.images import ImageBuilder
from tests.support.real_clients import Client, client
from tests.support.stack import ARCH, Stack, version_prefix

pytestmark = [pytest.mark.e2e, pytest.mark.heavy, pytest.mark.xdist_group("lxd")]

NUMBERS = itertools.count()


@dataclass
class Superseded:
    """A product whose first version the daemon has copied, and whose second one it does not know."""

    client: Client
    alias: str
    old: str
    new: str
    lines: list[str]

    def held(self) -> set[str]:
        """Return the daemon's images, and delete them."""
        found = self.client.fingerprints("local:")
        for fingerprint in found:
            self.client("image", "delete", f"local:{fingerprint}")
        return found


@pytest.fixture
def superseded(daemon: Client, stack: Stack, image_builder: ImageBuilder, tmp_path: Path) -> Superseded:
    """Upload two versions; between them the daemon copies the first one by its alias."""
    name = f"cached-{daemon.program}-{next(NUMBERS)}"
    files = [image_builder.split_squashfs(f"{name}-{age}") for age in ("old", "new")]
    old, new = (image_builder.sha256(*built.values()) for built in files)
    stack.upload(version_prefix(name, "20261122_1000"), files[0])
    stack.wait_until_listed(old)
    daemon("image", "copy", f"here:alpine/{name}", "local:")
    lines = _upload_on_a_terminal(stack, tmp_path, f"alpine/{name}/{ARCH}/default", list(files[1].values()))
    # Incus's client has seen only the first version; this one has seen nothing yet.
    fresh = client(daemon.program, tmp_path, stack.ca_file, daemon.home)
    fresh.add_remote(stack.base_url)
    found = Superseded(fresh, f"alpine/{name}", old, new, lines)
    assert found.held() == {old}
    return found


def _upload_on_a_terminal(stack: Stack, home: Path, product: str, files: list[Path]) -> list[str]:
    seen, terminal = pty.openpty()
    options = ("--state-dir", stack.folder / "state", "--to", product, "--version", "20261123_1000", "--remote", "here")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    subprocess.run(
        (PROJECT / "scripts/upload", *options, *files),
        env=kept | {"HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=terminal, check=True, timeout=200,
    )  # fmt: skip
    os.close(terminal)
    lines = os.read(seen, 65536).decode().splitlines()
    os.close(seen)
    return lines


def test_the_daemon_launches_the_old_version_by_its_alias_and_does_not_know_the_new_fingerprint(
    superseded: Superseded,
) -> None:
    talk = superseded.client
    assert superseded.new in talk.fingerprints(f"here:{superseded.alias}"), "`image list` shows it"
    talk("image", "copy", f"here:{superseded.alias}", "local:")
    assert superseded.held() == {superseded.old}
    assert "couldn't be found" in talk.fails("image", "copy", f"here:{superseded.new}", "local:")
    assert "couldn't be found" in talk.fails("init", f"here:{superseded.new}", "local:never")


def test_the_printed_command_launches_exactly_the_new_version(
    superseded: Superseded, record_property: Callable[[str, object], None]
) -> None:
    (line,) = (line.strip() for line in superseded.lines if "--mode relay" in line)
    assert superseded.new in line
    began = time.monotonic()
    for command in line.split(" && "):
        program, *arguments = command.split()
        assert program == "lxc"
        superseded.client(*arguments)
    record_property("seconds to copy by relay and launch", round(time.monotonic() - began, 2))
    assert superseded.client.fingerprints("local:") == {superseded.new}


def test_emptying_the_daemons_cache_shows_the_new_version_at_once(superseded: Superseded) -> None:
    talk = superseded.client
    variables = {"lxc": "/var/snap/lxd/common/lxd/cache/* /var/cache/lxd", "incus": "/var/cache/incus"}
    (line,) = (line for line in superseded.lines if variables[talk.program] in line)
    command = line.partition("sudo ")[2].replace(variables[talk.program], str(talk.home / "cache"))
    subprocess.run(command, shell=True, check=True)  # noqa: S602  # as somebody who copies the line does
    talk("image", "copy", f"here:{superseded.alias}", "local:")
    assert superseded.held() == {superseded.new}


def test_another_spelling_of_the_address_has_its_own_cache(superseded: Superseded, stack: Stack) -> None:
    talk = superseded.client
    talk("remote", "set-url", "here", f"{stack.base_url}/.")
    talk("image", "copy", f"here:{superseded.alias}", "local:")
    assert superseded.held() == {superseded.new}
