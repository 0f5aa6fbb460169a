"""The GitHub Action: its step, run like by a runner, with a test server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import PROJECT, images, upload_api
from tests.support.processes import need
from tests.support.upload_api import System

# One worker, so that the API is started once.
pytestmark = pytest.mark.xdist_group("uploads-action")
ACTION = PROJECT / "infra/action/action.yml"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with upload_api.system("local", tmp_path_factory.mktemp("action")) as running:
        yield running


def run_step(system: System, folder: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run the action's only step with these inputs; return the process and the outputs that it set."""
    need("curl")
    action: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    (step,) = action["runs"]["steps"]
    given = {name: about.get("default", "") for name, about in action["inputs"].items()} | inputs
    context = {f"${{{{ inputs.{name} }}}}": value for name, value in given.items()}
    context["${{ github.action_path }}"] = str(ACTION.parent)
    variables = {name: context[value] for name, value in step["env"].items()}
    output = folder / "output"
    output.touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    about = {"GITHUB_OUTPUT": str(output), "CURL_CA_BUNDLE": str(system.ca_file), "HOME": str(folder)}
    done = subprocess.run(
        ("sh", "-e", "-c", step["run"]), cwd=folder, env=kept | variables | about, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    return done, dict(line.split("=", 1) for line in output.read_text().splitlines())


def test_the_step_uploads_what_its_inputs_name(system: System, tmp_path: Path) -> None:
    (tmp_path / "my build").mkdir()
    for name, content in images.split_image(seed="action").items():
        (tmp_path / "my build" / name).write_bytes(content)
    to = {"to": "action/one/amd64/default", "version": "20261123_10:00", "wait": "0", "api": system.api_url}
    done, outputs = run_step(system, tmp_path, **to, files="my build/*.xz\nmy build/rootfs.squashfs\n")
    assert done.returncode == 0, done.stderr
    version = "images/action/one/amd64/default/20261123_10:00"
    assert outputs["path"] == version
    system.ingest(version)
    assert system.status(version)["status"] == "listed"
    done, outputs = run_step(system, tmp_path, **to | {"wait": "20"}, files="my build")
    assert (done.returncode, outputs["launch"]) == (0, "lxc launch mine:action/one")
    assert outputs["fingerprint"] == system.status(version)["fingerprints"][0]


def test_the_step_does_not_wait_for_a_version_it_cannot_complete(system: System, tmp_path: Path) -> None:
    (tmp_path / "rootfs.squashfs").write_bytes(images.squashfs("alone"))
    to = {"to": "images-daily/action/alone/amd64/default", "version": "20261123_10:00", "api": system.api_url}
    version = "images-daily/action/alone/amd64/default/20261123_10:00"
    assert run_step(system, tmp_path, **to, wait="0", files="rootfs.squashfs")[0].returncode == 0
    system.invoke("DigestFunction", f"{version}/x")
    done, outputs = run_step(system, tmp_path, **to, files="rootfs.squashfs")
    assert (done.returncode, outputs["path"]) == (8, version)


def test_an_input_is_never_run_as_part_of_the_script(system: System, tmp_path: Path) -> None:
    (tmp_path / "lxd.tar.xz").write_bytes(images.metadata_tarball())
    evil = '$(touch evil)"; touch evil; "'
    done, _ = run_step(
        system, tmp_path, to=evil, version=evil, api=system.api_url, files=f"lxd.tar.xz\n{evil}", wait="0"
    )
    assert done.returncode == 2
    done, _ = run_step(system, tmp_path, to=evil, version=evil, api=system.api_url, files="lxd.tar.xz", wait="0")
    assert done.returncode == 3
    assert "parts between slashes" in done.stderr or "folders, expected 5" in done.stderr
    assert not (tmp_path / "evil").exists()


def test_every_expression_is_in_a_variable_and_none_in_the_script() -> None:
    action = yaml.safe_load(ACTION.read_text())
    assert all("${{" not in step["run"] for step in action["runs"]["steps"])
