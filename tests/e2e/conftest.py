"""One stack, one image builder and one LXD for all end-to-end tests of a worker. Each test has its own products."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.support.images import ImageBuilder
from tests.support.processes import need, short_folder
from tests.support.real_clients import Client, Uploaded, client, daemon_of, running_daemon
from tests.support.stack import ARCH, Stack, local_stack, version_prefix


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield a running `scripts/local --empty`."""
    need("curl")
    with local_stack("--empty") as running:
        yield running


@pytest.fixture(scope="session")
def image_builder() -> Iterator[ImageBuilder]:
    """Yield a builder of real images."""
    need(*ImageBuilder.TOOLS)
    with short_folder(0o755) as folder:
        yield ImageBuilder(folder, ARCH)


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
def forms(stack: Stack, image_builder: ImageBuilder) -> dict[str, Uploaded]:
    """Return one real image of every form, uploaded with curl and listed."""
    built = {
        "squashfs": image_builder.split_squashfs("form"),
        "roottar": image_builder.split_root_tar("form"),
        "vm": image_builder.vm_qcow2("form"),
        "unified-gz": image_builder.unified("form", "gz"),
        "unified-xz": image_builder.unified("form", "xz"),
    }
    uploaded = {}
    for name, files in built.items():
        stack.upload(version_prefix(name), files)
        uploaded[name] = Uploaded(name, files, image_builder.sha256(*files.values()), is_vm=name == "vm")
    stack.wait_until_listed(*(image.fingerprint for image in uploaded.values()))
    return uploaded
