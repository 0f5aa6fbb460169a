"""`sam build` without access to Debian's mirror: it uses kept packages, can leave out xdelta3, or names the remedy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from gates import xdelta3
from tests.support.ministack.clone import Clone

pytestmark = [pytest.mark.xdist_group("ministack"), pytest.mark.timeout(600)]


def build(clone: Clone, folder: Path, code: int = 0, **variables: str) -> str:
    """Build the package of delta into a folder, in a network with only the package index."""
    usual = clone.emulator.environment()["no_proxy"].split(",")
    near = ",".join(host for host in usual if not host.endswith("debian.org"))
    command = " ".join([*(f"{name}={value}" for name, value in variables.items()), "sam build DeltaFunction"])
    offline: Mapping[str, str] = {"no_proxy": near, "NO_PROXY": near}
    return clone.run(f"{command} --build-dir {folder}", code=code, environment=offline)


def test_a_package_is_built_from_the_packages_of_a_folder(built: Clone, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(xdelta3.USUAL_PACKAGES, kept)
    build(built, tmp_path / "build", XDELTA3_PACKAGES=str(kept))
    assert (tmp_path / "build/DeltaFunction/xdelta3/xdelta3").stat().st_mode & 0o111


def test_a_package_is_built_without_xdelta3(built: Clone, tmp_path: Path) -> None:
    build(built, tmp_path / "build", XDELTA3="no", XDELTA3_PACKAGES=str(tmp_path / "nothing"))
    assert (tmp_path / "build/DeltaFunction/imageserver/handlers/delta.py").exists()
    assert not (tmp_path / "build/DeltaFunction/xdelta3").exists()


def test_a_build_that_cannot_get_xdelta3_names_the_remedy(built: Clone, tmp_path: Path) -> None:
    output = build(built, tmp_path / "build", code=1, XDELTA3_PACKAGES=str(tmp_path / "nothing"))
    assert "XDELTA3=no sam build" in output
    assert "put it into" in output
    assert "https://snapshot.debian.org/file/" in output
    assert "Traceback" not in output
