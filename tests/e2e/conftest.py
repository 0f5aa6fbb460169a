"""One stack, one workshop and one LXD for all end-to-end tests of a worker;

each test has products of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Client, Stack, Uploaded, client, local_stack, lxd_daemon, need, place, short_folder

from images import Workshop


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """`scripts/local --empty`, running."""
    need("curl")
    with local_stack("--empty") as running:
        yield running


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Builder of real images."""
    need(*Workshop.TOOLS)
    with short_folder(0o755) as folder:
        yield Workshop(folder)


@pytest.fixture(scope="session")
def lxc(stack: Stack) -> Iterator[Client]:
    """LXD's client without a daemon; the stack is its remote `here:`."""
    need("lxc")
    yield from _client("lxc", stack)


@pytest.fixture(scope="session")
def incus(stack: Stack) -> Iterator[Client]:
    """Incus's client without a daemon; the stack is its remote `here:`."""
    need("incus")
    yield from _client("incus", stack)


def _client(program: str, stack: Stack) -> Iterator[Client]:
    with short_folder() as folder:
        made = client(program, folder, stack.ca_file)
        made.add_remote(stack.base_url)
        yield made


@pytest.fixture(scope="session")
def running_lxd(stack: Stack) -> Iterator[Client]:
    """A client of a real LXD daemon of its own; the stack is its remote `here:`."""
    need("lxd", "lxc", root=True)
    with lxd_daemon(stack.ca_file) as lxc:
        lxc.add_remote(stack.base_url)
        yield lxc


@pytest.fixture
def lxd(running_lxd: Client) -> Iterator[Client]:
    """The daemon without an image, a container or a memory of the catalog:

    it caches that for an hour, in files.
    """
    shutil.rmtree(Path(running_lxd.env["LXD_DIR"]) / "cache", ignore_errors=True)
    yield running_lxd
    for instance in json.loads(running_lxd("list", "--format", "json").stdout):
        running_lxd("delete", "--force", instance["name"])
    for fingerprint in running_lxd.fingerprints("local:"):
        running_lxd("image", "delete", f"local:{fingerprint}")


@pytest.fixture(scope="session")
def forms(stack: Stack, workshop: Workshop) -> dict[str, Uploaded]:
    """One image of every form, real, uploaded with curl and listed."""
    built = {
        "squashfs": workshop.split_squashfs("form"),
        "roottar": workshop.split_root_tar("form"),
        "vm": workshop.vm_qcow2("form"),
        "unified-gz": workshop.unified("form", "gz"),
        "unified-xz": workshop.unified("form", "xz"),
    }
    uploaded = {}
    for name, files in built.items():
        stack.upload(place(name), files)
        uploaded[name] = Uploaded(name, files, workshop.sha256(*files.values()), is_vm=name == "vm")
    stack.wait_until_listed(*(image.fingerprint for image in uploaded.values()))
    return uploaded
