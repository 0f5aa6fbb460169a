"""The commands of the pages for a new user's first hour, run unchanged, with real daemons of both kinds."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import PROJECT, documented
from tests.support.images import ImageBuilder
from tests.support.processes import need, run
from tests.support.real_clients import Client, daemon_of, running_daemon
from tests.support.stack import ARCH, Stack, local_stack

pytestmark = [pytest.mark.e2e, pytest.mark.heavy, pytest.mark.xdist_group("lxd"), pytest.mark.timeout(900)]


@dataclass
class Reader:
    """A reader in a clone with a running local stack, a daemon and its client. `typed` has the commands so far."""

    client: Client
    stack: Stack
    folder: Path
    typed: list[str] = field(default_factory=list)

    def types(self, line: str, newest: str = "") -> None:
        """Run a line in the folder where the one before ended. `newest` is the fingerprint that clients show."""
        self.typed.append(line)
        kind = "lxd" if self.client.program == "lxc" else "incus"
        values = {
            "https://localhost:8443": self.stack.base_url,
            "https://images.example.org": self.stack.base_url,
            "/var/snap/lxd/common/lxd/cache/* /var/cache/lxd": str(self.client.home / "cache"),
            f"/var/cache/{kind}": str(self.client.home / "cache"),
            "amd64": ARCH,
            "FINGERPRINT": newest,
            "sudo ": "",  # this is root
        }
        for example, value in values.items():
            line = line.replace(example, value)
        done = subprocess.run(
            ("sh", "-c", f'cd "$(cat {self.folder}/cwd)" && {line} && pwd >{self.folder}/cwd'),
            env=os.environ | self.client.env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}"

    def instances(self) -> dict[str, str]:
        """Return name of each instance → the fingerprint of its image."""
        found = json.loads(self.client("list", "--format", "json").stdout)
        return {instance["name"]: instance["config"]["volatile.base_image"] for instance in found}


@pytest.fixture(scope="module")
def sample_stack() -> Iterator[Stack]:
    """Yield what `./scripts/local` starts, with its sample image."""
    need("curl")
    with local_stack() as running:
        yield running


@pytest.fixture
def reader(request: pytest.FixtureRequest, sample_stack: Stack, tmp_path: Path) -> Iterator[Reader]:
    program: str = request.param
    need(daemon_of(program), program, root=True)
    for copy in ("upload", "scripts/upload"):
        (tmp_path / copy).parent.mkdir(exist_ok=True)
        (tmp_path / copy).write_text(
            f'#!/bin/sh\nexec {PROJECT}/scripts/upload --state-dir {sample_stack.folder}/state "$@"\n'
        )
        (tmp_path / copy).chmod(0o755)
    (tmp_path / "cwd").write_text(f"{tmp_path}\n")
    with running_daemon(program, sample_stack.ca_file) as talk:
        yield Reader(talk, sample_stack, tmp_path)


def is_for_incus(line: str) -> bool:
    return "incus" in line


@pytest.mark.parametrize("reader", ["lxc"], indirect=True)
def test_the_commands_of_the_first_hour_do_what_the_pages_say(reader: Reader, image_builder: ImageBuilder) -> None:
    lines = [line for line in documented.script("first hour") if not is_for_incus(line)]
    first, second = (image_builder.split_squashfs(f"hour-{age}") for age in ("first", "second"))
    newest = image_builder.sha256(*second.values())
    reader.client("image", "import", *first.values(), "local:", "--alias", "ubuntu-noble")
    begun = lines.index("lxc launch mine:hello/world hello && lxc exec hello -- /bin/hello")
    assert lines[0] == "./scripts/local", "which runs already"
    for line in lines[1 : begun + 1]:
        reader.types(line)
    assert reader.instances()["first"] == image_builder.sha256(*first.values())
    product = f"ubuntu/noble/{ARCH}/default"
    state = str(reader.stack.folder / "state")
    run(PROJECT / "scripts/upload", "--state-dir", state, "--to", product, *second.values())
    for line in lines[begun + 1 :]:
        if "image copy" in line:
            reader.client("image", "delete", newest, check=False)
        reader.types(line, newest)
    assert set(reader.instances().values()) >= {newest}


@pytest.mark.parametrize("reader", ["incus"], indirect=True)
def test_the_commands_for_incus_do_what_the_pages_say(reader: Reader, image_builder: ImageBuilder) -> None:
    image = image_builder.split_squashfs("hour-incus")
    reader.client("image", "import", *image.values(), "local:", "--alias", "x")
    reader.client("init", "local:x", "local:web")
    reader.client.add_remote(reader.stack.base_url)
    assert reader.client.images(), "it fills both caches"
    for line in documented.script("first hour"):
        if is_for_incus(line):
            reader.types(line)
    assert not (Path(reader.client.env["HOME"]) / ".cache/incus").exists()
    assert any("web/stable" in str(found["aliases"]) for found in reader.client.images())
