"""One stack, one workshop and one LXD for all end-to-end tests of a worker. Each test has its own products."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.support.images import Workshop
from tests.support.processes import need, short_folder
from tests.support.real_clients import Client, Uploaded, client, daemon_of, running_daemon
from tests.support.stack import ARCH, Stack, local_stack, place


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield a running `scripts/local --empty`."""
    need("curl")
    with local_stack("--empty") as running:
        yield running


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """Yield a builder of real images."""
    need(*Workshop.TOOLS)
    with short_folder(0o755) as folder:
        yield Workshop(folder, ARCH)


@pytest.fixture(scope="session")
def lxc(stack: Stack) -> Iterator[Client]:
    """Yield LXD's client without a daemon; the stack is its remote `here:`."""
    need("lxc")
    yield from _client("lxc", stack)


def _client(program: str, stack: Stack) -> Iterator[Client]:
    with short_folder() as folder:
        made = client(program, folder, stack.ca_file)
        made.add_remote(stack.base_url)
        yield made


@pytest.fixture(scope="session", params=["lxc", "incus"])
def running(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Client]:
    """Yield a client of a real LXD, then of a real Incus; the stack is its remote `here:`."""
    need(daemon_of(request.param), request.param, root=True)
    with running_daemon(request.param, stack.ca_file) as talk:
        talk.add_remote(stack.base_url)
        yield talk


@pytest.fixture
def daemon(running: Client) -> Iterator[Client]:
    """Yield LXD, then Incus, each without images, containers or a cached catalog."""
    # They would cache the catalog for an hour, in files.
    for seen in (running.home / "cache").glob("*/index.json"):
        shutil.rmtree(seen.parent)
    yield running
    for instance in json.loads(running("list", "--format", "json").stdout):
        running("delete", "--force", instance["name"])
    for fingerprint in running.fingerprints("local:"):
        running("image", "delete", f"local:{fingerprint}")


@pytest.fixture(scope="session", params=["lxc", "incus"])
def listing(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Client]:
    """Yield LXD's client, then Incus's, without a daemon; the stack is its remote `here:`."""
    need(request.param)
    yield from _client(request.param, stack)


@pytest.fixture(scope="session")
def forms(stack: Stack, workshop: Workshop) -> dict[str, Uploaded]:
    """Return one real image of every form, uploaded with curl and listed."""
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
