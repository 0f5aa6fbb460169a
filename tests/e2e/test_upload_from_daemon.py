"""`scripts/upload --from-lxd` and `--from-incus`: from an image or an instance to a listing, in one command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.images import ImageBuilder
from tests.support.real_clients import Client, client
from tests.support.stack import ARCH, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.heavy, pytest.mark.xdist_group("lxd")]

OPTION = {"lxc": "--from-lxd", "incus": "--from-incus"}


def upload(daemon: Client, stack: Stack, home: Path, product: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with this daemon's client and its own TMPDIR."""
    (home / "tmp").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    own = {"XDG_STATE_HOME": str(home / "state"), "TMPDIR": str(home / "tmp")}
    options = ("--state-dir", stack.folder / "state", "--to", f"{product}/{ARCH}/default", "--remote", "here")
    return subprocess.run(
        (PROJECT / "scripts/upload", *options, *arguments),
        env=kept | daemon.env | own, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


@pytest.fixture
def instance(daemon: Client, image_builder: ImageBuilder, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a running container whose image is no longer in the daemon."""
    name = f"web{abs(hash(request.node.name)) % 100000}"
    daemon(
        "image", "import", *image_builder.split_squashfs(f"{daemon.program}-{name}").values(), "local:", "--alias", name
    )
    daemon("launch", f"local:{name}", f"local:{name}")
    daemon("image", "delete", f"local:{name}")
    yield name
    daemon("delete", "--force", name, check=False)


def test_a_stopped_instance_is_published_uploaded_and_cleaned_up(
    daemon: Client, stack: Stack, instance: str, tmp_path: Path
) -> None:
    daemon("stop", "--force", instance)
    product = f"{daemon.program}/{instance}"
    flags = ("--os", 'Our "OS"', "--release-title", "1 LTS", "--aliases", f"{daemon.program}-ours,ours/{instance}")
    done = upload(daemon, stack, tmp_path, product, OPTION[daemon.program], instance, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{daemon.program} launch here:"), done.stdout
    assert daemon.fingerprints("local:") == set(), "the published image is deleted"
    assert list((tmp_path / "tmp").iterdir()) == []

    fresh = client(daemon.program, tmp_path, stack.ca_file, daemon.home)
    fresh.add_remote(stack.base_url)
    fresh("launch", f"here:{daemon.program}-ours", "local:copy")
    assert fresh.marker("local:copy") == f"{daemon.program}-{instance}"
    (shown,) = (
        image for image in fresh.images() if any(a["name"] == f"ours/{instance}" for a in image["aliases"] or [])
    )
    assert (shown["properties"]["os"], shown["properties"]["release"]) == ('Our "OS"', instance)


def test_a_running_instance_is_refused_unless_forced_and_runs_again_afterwards(
    daemon: Client, stack: Stack, instance: str, tmp_path: Path
) -> None:
    product, source = f"{daemon.program}/{instance}", (OPTION[daemon.program], instance)
    refused = upload(daemon, stack, tmp_path, product, *source)
    assert (refused.returncode, f"{instance} is running: stop it first, or add --force" in refused.stderr) == (2, True)
    forced = upload(daemon, stack, tmp_path, product, *source, "--force")
    assert forced.returncode == 0, forced.stderr
    assert daemon.marker(instance) == f"{daemon.program}-{instance}"
    assert daemon.fingerprints("local:") == set()


@pytest.mark.parametrize("form", ["split_squashfs", "vm_qcow2"])
def test_an_image_is_uploaded_by_its_alias_and_stays_in_the_daemon(
    daemon: Client, stack: Stack, image_builder: ImageBuilder, tmp_path: Path, form: str
) -> None:
    built = getattr(image_builder, form)(f"from-{daemon.program}-{form}")
    daemon("image", "import", *built.values(), "local:", "--alias", "mine/image")
    held = daemon.fingerprints("local:")
    product = f"{daemon.program}/from{form.replace('_', '')}"
    done = upload(daemon, stack, tmp_path, product, OPTION[daemon.program], "mine/image", "--json")
    assert done.returncode == 0, done.stderr
    assert daemon.fingerprints("local:") == held
    assert next(iter(held)) in done.stdout, "the fingerprint is the daemon's"


def test_a_name_unknown_to_the_daemon_is_refused(daemon: Client, stack: Stack, tmp_path: Path) -> None:
    done = upload(daemon, stack, tmp_path, "a/b", OPTION[daemon.program], "nothing")
    assert (done.returncode, "knows no image and no instance nothing" in done.stderr) == (2, True), done.stderr


def test_a_failed_upload_leaves_no_image_behind(daemon: Client, stack: Stack, instance: str, tmp_path: Path) -> None:
    daemon("stop", "--force", instance)
    done = upload(daemon, stack, tmp_path, "no name", OPTION[daemon.program], instance)
    assert done.returncode == 3, done.stderr
    assert daemon.fingerprints("local:") == set()
