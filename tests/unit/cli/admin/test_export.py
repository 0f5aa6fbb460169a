"""`scripts/admin export`: a folder that is an image server behind any web server."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.admin import arguments
from cli.admin.__main__ import main
from cli.admin.deployment import Deployment
from cli.admin.errors import FOUND, NOTHING
from tests.support import images
from tests.support.client_rules import read_catalog
from tests.support.memory_store import System

OLD, NEW = (f"images/ubuntu/noble/amd64/default/{day}_1000" for day in ("20261101", "20261102"))
OTHER = "images-daily/debian/trixie/arm64/cloud/20261101_1000"


@dataclass
class World:
    """A server with three versions in two streams, and a folder."""

    folder: Path
    system: System = field(default_factory=System)
    deployment: Deployment = field(default_factory=lambda: Deployment([], "images-1", edge="https://here.example.org"))

    def admin(self, line: str, code: int = 0) -> Result:
        done = CliRunner().invoke(main, ["export", str(self.folder), *line.split()])
        assert done.exit_code == code, (line, done.output, done.exception)
        return done

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}

    def listed(self) -> dict[str, Any]:
        documents = {name: body for name, body in self.files().items() if name.startswith("streams/")}
        return {name: json.loads(body)["products"] for name, body in documents.items() if "index" not in name}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World(tmp_path / "export")
    for path in (OLD, NEW, OTHER):
        made.system.upload(path, images.split_image("arm64" if path == OTHER else "amd64", seed=path))
    made.system.catch_up()
    made.deployment.__dict__["store"] = made.system.store
    monkeypatch.setattr(arguments, "open_local", lambda _: made.deployment)
    return made


def test_an_export_writes_every_listed_file_as_it_is_served(world: World) -> None:
    assert "wrote 6 files" in world.admin("").stdout
    files, stored = world.files(), world.system.store.objects
    assert {name for name in files if not name.startswith("streams/")} == {
        f"{path}/{file}" for path in (OLD, NEW, OTHER) for file in images.split_image()
    }
    documents = {"streams/v1/index.json", "streams/v1/images.json", "streams/v1/images-daily.json"}
    assert documents == {name for name in files if name.startswith("streams/")}
    assert files == {name: stored[name].body for name in files}


@pytest.mark.parametrize("filters", ["", "--only ubuntu", "--keep 1"])
def test_clients_find_every_image_of_an_exported_folder(world: World, filters: str) -> None:
    world.admin(filters)
    files = world.files()
    found = read_catalog(files["streams/v1/index.json"], files)
    assert len(found) == {"": 3, "--only ubuntu": 2, "--keep 1": 2}[filters]
    for download in (one for image in found for one in image.files.values()):
        assert hashlib.sha256(files[download.path]).hexdigest() == download.sha256


def test_a_repeated_export_writes_only_missing_and_changed_files(world: World) -> None:
    world.admin("")
    whole = world.files()
    (world.folder / OLD / "rootfs.squashfs").unlink()
    (world.folder / NEW / "lxd.tar.xz").write_bytes(bytes(len(whole[f"{NEW}/lxd.tar.xz"])))
    would = world.admin("--dry-run").stdout
    assert "would write 2 files" in would
    assert "4 were there already" in would
    assert "wrote 2 files" in world.admin("").stdout
    assert world.files() == whole


def test_an_exported_catalog_names_only_the_versions_that_the_filters_take(world: World) -> None:
    assert "wrote 2 files" in world.admin("--only ubuntu:noble --keep 1").stdout
    listed = world.listed()
    assert {name: list(products) for name, products in listed.items()} == {
        "streams/v1/images.json": ["ubuntu:noble:amd64:default"]
    }
    versions = listed["streams/v1/images.json"]["ubuntu:noble:amd64:default"]["versions"]
    assert list(versions) == [NEW.rpartition("/")[2]]
    index = json.loads(world.files()["streams/v1/index.json"])["index"]
    assert {stream: entry["products"] for stream, entry in index.items()} == {"images": ["ubuntu:noble:amd64:default"]}


def test_a_filter_that_matches_nothing_writes_nothing(world: World) -> None:
    assert "nothing is listed that --only takes" in world.admin("--only fedora", NOTHING).stderr
    assert world.files() == {}


@pytest.mark.parametrize("damage", ["other bytes", "gone"])
def test_a_file_that_differs_from_the_catalog_keeps_the_old_catalog(world: World, damage: str) -> None:
    world.admin("")
    before = world.files()
    world.system.upload("images/alpine/3.22/amd64/default/20261103_1000", images.split_image(seed="alpine"))
    world.system.catch_up()
    key = "images/alpine/3.22/amd64/default/20261103_1000/rootfs.squashfs"
    there = world.system.store.objects.pop(key)
    if damage == "other bytes":
        world.system.store.objects[key] = replace(there, body=bytes(len(there.body)))
    done = world.admin("", FOUND)
    assert f"{key}: " in done.stdout
    assert "the catalog was not written" in done.stdout
    assert {name: world.files()[name] for name in before} == before
    assert not [name for name in world.files() if name.endswith(".part") or name == key]


def test_json_names_each_file(world: World) -> None:
    report = json.loads(world.admin("--json --only debian").stdout)
    assert report["files"] == [f"{OTHER}/{file}" for file in sorted(images.split_image())]
    assert (report["dry_run"], report["already"], report["failed"]) == (False, 0, [])
