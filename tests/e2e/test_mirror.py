"""One server mirrors another, with the real clients: both kinds see the same fingerprints on both."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.images import ImageBuilder
from tests.support.processes import need, run, sha256sum, short_folder, stop
from tests.support.real_clients import Client, client, daemon_of, running_daemon
from tests.support.servers.failover import one_name
from tests.support.stack import Stack, local_stack, version_prefix

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lxd")]


@dataclass
class Pair:
    """A server for LXD only, its mirror, and an image of each form by its fingerprint."""

    origin: Stack
    mirror: Stack
    files: dict[str, dict[str, Path]]

    def talk(self, program: str, to: Stack, folder: Path) -> Client:
        folder.mkdir(exist_ok=True)
        made = client(program, folder, to.ca_file)
        made.add_remote(to.base_url)
        return made


@pytest.fixture(scope="module")
def pair(image_builder: ImageBuilder) -> Iterator[Pair]:
    need("curl", "lxc", "incus")
    with local_stack("--empty", "--parameter", "Clients=lxd") as origin, pytest.MonkeyPatch.context() as patch:
        built = {"split": image_builder.split_squashfs("mirrored"), "unified": image_builder.unified("mirrored", "gz")}
        files = {}
        for form, made in built.items():
            origin.upload(version_prefix(f"mirrored-{form}"), made)
            files[image_builder.sha256(*made.values())] = made
        origin.wait_until_listed(*files)
        patch.setenv("AWS_CA_BUNDLE", origin.ca_file)
        with local_stack("--empty") as mirror:
            state = ("--state-dir", mirror.folder / "state")
            follow = ("mirror", "add", "lxd-only", origin.base_url, "--only", "alpine", "--allow-private")
            run(PROJECT / "scripts/admin", *state, *follow, timeout=120)
            mirror.wait_until_listed(*files)
            yield Pair(origin, mirror, files)


def test_both_clients_list_from_the_mirror_an_image_that_only_lxd_lists_at_its_source(
    pair: Pair, tmp_path: Path
) -> None:
    there = {name: pair.talk(name, pair.origin, tmp_path / f"{name}-origin") for name in ("lxc", "incus")}
    here = {name: pair.talk(name, pair.mirror, tmp_path / f"{name}-mirror") for name in ("lxc", "incus")}
    assert there["lxc"].fingerprints() == pair.files.keys()
    assert there["incus"].fingerprints() == set()
    assert here["lxc"].fingerprints() == here["incus"].fingerprints() == pair.files.keys()


@pytest.mark.parametrize("program", ["lxc", "incus"])
def test_a_client_exports_from_the_mirror_the_bytes_uploaded_to_its_source(
    pair: Pair, tmp_path: Path, program: str
) -> None:
    talk = pair.talk(program, pair.mirror, tmp_path)
    for fingerprint, files in pair.files.items():
        folder = tmp_path / fingerprint
        folder.mkdir()
        talk("image", "export", f"here:{fingerprint}", folder)
        assert sorted(sha256sum(list(folder.iterdir()))) == sorted(sha256sum(list(files.values())))


def test_incus_launches_from_the_mirror_an_image_that_its_source_lists_only_for_lxd(pair: Pair) -> None:
    need(daemon_of("incus"), "incus", root=True)
    with running_daemon("incus", pair.mirror.ca_file) as talk:
        talk.add_remote(pair.mirror.base_url)
        talk("launch", "here:alpine/mirrored-split", "c1", timeout=120)
        (instance,) = json.loads(talk("list", "--format", "json").stdout)
        assert (instance["name"], instance["status"]) == ("c1", "Running")
        assert talk.fingerprints("local:") <= pair.files.keys()


def test_clients_of_one_host_name_fail_over_to_the_mirror_when_its_source_is_down(
    image_builder: ImageBuilder, tmp_path: Path
) -> None:
    need("curl", "lxc")
    made = image_builder.split_squashfs("survivor")
    fingerprint = image_builder.sha256(*made.values())
    with local_stack("--empty") as origin, pytest.MonkeyPatch.context() as patch:
        origin.upload(version_prefix("survivor"), made)
        origin.wait_until_listed(fingerprint)
        patch.setenv("AWS_CA_BUNDLE", origin.ca_file)
        with local_stack("--empty") as mirror:
            command = (PROJECT / "scripts/admin", "--json", "--state-dir", mirror.folder / "state", "mirror")
            run(*command, "add", "origin", origin.base_url, "--only", "all", "--allow-private", timeout=120)
            mirror.wait_until_listed(fingerprint)
            with one_name(origin.base_url) as name, short_folder() as folder:
                both = folder / "both.pem"
                both.write_text("".join(Path(stack.ca_file).read_text() for stack in (origin, mirror)))
                talk = client("lxc", folder, str(both))
                talk.add_remote(name.base_url)
                assert talk.fingerprints() == {fingerprint}
                stop(origin.process, signal.SIGINT)
                assert talk("image", "list", "here:", check=False).returncode
                name.point_at(mirror.base_url)
                assert talk.fingerprints() == {fingerprint}
                (tmp_path / "failed-over").mkdir()
                talk("image", "export", f"here:{fingerprint}", tmp_path / "failed-over")
                exported = list((tmp_path / "failed-over").iterdir())
                assert sorted(sha256sum(exported)) == sorted(sha256sum(list(made.values())))
            report = json.loads(run(*command, "run", "origin", check=False, timeout=120).stdout)
            assert "localhost" in report["error"]
