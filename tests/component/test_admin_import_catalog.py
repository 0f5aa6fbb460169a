"""`admin import` takes the images of another server by its catalog: from a folder, a bucket, or over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from cli.admin import arguments
from cli.admin.__main__ import main
from cli.admin.deployment import Deployment
from imageserver.format import documents
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import parse_version
from imageserver.operations.ingest import IngestServices, ingest
from imageserver.operations.publish import PublishServices, publish
from imageserver.storage.ranged_reader import hash_fan
from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from tests.support import images
from tests.support.memory_store import START
from tests.support.servers.s3 import BUCKET, REGION, S3Server, empty, running_s3

pytestmark = pytest.mark.xdist_group("admin-import")

SOURCE = "another-server"
VERSION = "20261101"
HERE = f"images-other/ubuntu/noble/amd64/default/{VERSION}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as running:
        running.client("s3").create_bucket(Bucket=SOURCE)
        yield running


@pytest.fixture
def deployment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    made = Deployment(boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION), BUCKET, server.endpoint)
    monkeypatch.setattr(arguments, "open_local", lambda _: made)
    yield made
    empty(made.s3, BUCKET, SOURCE)
    server.events()


class Quiet(SimpleHTTPRequestHandler):
    """A web server over a folder, without its log."""

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield a folder, and the address at which it is served: below a path, as some servers are."""
    root = tmp_path / "www"
    root.mkdir()
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield root, f"http://127.0.0.1:{served.server_port}/www"
    served.shutdown()
    thread.join()


IMAGE = images.split_image(seed="another server")


def flat(root: Path, **change: Any) -> dict[str, Any]:
    """Write a server of a flat layout, its files named by their digests; return its items."""
    items = {}
    for name, ftype in (("lxd.tar.xz", "lxd.tar.xz"), ("rootfs.squashfs", "squashfs")):
        sha256 = images.sha256_hex(IMAGE[name])
        items[name] = {"ftype": ftype, "path": f"images/{sha256}", "sha256": sha256, "size": len(IMAGE[name])}
        (root / "images").mkdir(exist_ok=True)
        (root / "images" / sha256).write_bytes(IMAGE[name])
    items["rootfs.squashfs"] |= change
    product = {
        "os": "Ubuntu", "release": "noble", "arch": "amd64", "aliases": "noble,ubuntu/lts",
        "release_title": "24.04 LTS", "requirements": {"secureboot": "false"},
        "versions": {VERSION: {"items": items}, "latest": {"items": items}},
    }  # fmt: skip
    write(root, {"com.example:server:24.04:amd64": product})
    return items


def write(root: Path, products: dict[str, Any]) -> None:
    (root / "streams/v1").mkdir(parents=True, exist_ok=True)
    entry = {"datatype": "image-downloads", "path": "streams/v1/all.json", "products": list(products)}
    (root / "streams/v1/index.json").write_text(json.dumps({"index": {"all": entry}}))
    (root / "streams/v1/all.json").write_text(json.dumps({"products": products}))


def as_folder(_deployment: Deployment, root: Path, _address: str) -> str:
    return str(root)


def as_bucket(deployment: Deployment, root: Path, _address: str) -> str:
    for path in root.rglob("*"):
        if path.is_file():
            key = f"a/b/{path.relative_to(root).as_posix()}"
            deployment.s3.put_object(Bucket=SOURCE, Key=key, Body=path.read_bytes())
    return f"s3://{SOURCE}/a/b"


def as_address(_deployment: Deployment, _root: Path, address: str) -> str:
    return address


WAYS = (as_folder, as_bucket, as_address)
Way = Callable[[Deployment, Path, str], str]


def admin(*line: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["--json", "import", *line])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def listed(deployment: Deployment, path: str) -> documents.Product:
    """Run digest and publish for a version; return its product as clients read it."""
    version, store = parse_version(path), deployment.store
    ingest(version, IngestServices(store, lambda: START, lambda _: None, 1 << 40, 900, hash_fan))
    publish(
        version.product.stream, [version.product], PublishServices(store, ALL_CLIENTS, lambda: START, lambda _: None)
    )
    seen = store.read(documents.products_key(version.product.stream))
    assert seen
    return documents.decode_products(seen.body, version.product.stream).products[version.product.name]


@pytest.mark.parametrize("way", WAYS)
def test_a_flat_layout_is_imported_with_its_fingerprints_aliases_and_titles(
    deployment: Deployment, site: tuple[Path, str], way: Way
) -> None:
    flat(site[0])
    source = way(deployment, *site)
    would = json.loads(admin(source, "--into", "images-other", code=1).stdout)
    assert (would["to copy"], deployment.store.read(f"{HERE}/metadata.json")) == (3, None)
    done = json.loads(admin(source, "--into", "images-other", "--yes", code=1).stdout)
    assert done["copied"] == 3
    (reason,) = done["left out"]
    assert reason.startswith("com.example:server:24.04:amd64/latest has no place here: ")
    product = listed(deployment, HERE)
    versions = documents.decode_versions(product)
    fingerprint = images.sha256_hex(IMAGE["lxd.tar.xz"], IMAGE["rootfs.squashfs"])
    assert documents.images(versions[VERSION]) == {fingerprint: "rootfs.squashfs"}
    assert {"noble", "ubuntu/lts", "ubuntu/noble"} <= set(product.aliases.split(","))
    assert (product.os, product.release_title) == ("Ubuntu", "24.04 LTS")
    assert product.requirements == {"secureboot": "false"}
    again = json.loads(admin(source, "--into", "images-other", "--yes", code=1).stdout)
    assert (again["copied"], again["already there"]) == (0, 3)


def several(root: Path) -> None:
    """Write a server with two versions of two products, one of them partly unreadable."""
    items = flat(root)
    about = {"os": "Ubuntu", "release_title": "x", "aliases": ""}
    versions = {name: {"items": items} for name in ("20261101", "20261102", "latest")}
    products = {
        f"ubuntu:{release}:amd64:{variant}": {
            **about, "release": release, "arch": "amd64", "variant": variant, "versions": versions
        }
        for release, variant in (("noble", "cloud"), ("jammy", "default"))
    }  # fmt: skip
    write(root, products)


@pytest.mark.parametrize("way", WAYS)
def test_a_filter_imports_its_versions_and_a_wider_one_the_rest(
    deployment: Deployment, site: tuple[Path, str], way: Way
) -> None:
    several(site[0])
    source = way(deployment, *site)
    narrow = json.loads(admin(source, "--only", "ubuntu:noble:*:cloud", "--keep", "1", "--yes", code=1).stdout)
    (left_out,) = narrow["left out"]
    assert left_out.startswith("ubuntu:noble:amd64:cloud/latest has no place here: ")
    created = {info.key for info in deployment.store.list("images/") if not info.key.endswith("metadata.json")}
    version = "images/ubuntu/noble/amd64/cloud/20261102"
    assert created == {f"{version}/lxd.tar.xz", f"{version}/rootfs.squashfs"}
    listed(deployment, version)  # from here on its digests are known
    wide = json.loads(admin(source, "--only", "ubuntu:noble", "--only", "release=jammy", "--yes", code=1).stdout)
    assert (wide["copied"], wide["already there"]) == (3 * 3, 3)
    assert len(wide["left out"]) == 2


def test_a_password_in_the_address_of_a_server_without_images_is_not_printed(
    deployment: Deployment, site: tuple[Path, str]
) -> None:
    several(site[0])
    scheme, _, rest = site[1].partition("://")
    for only in (["--only", "debian"], []):
        source = f"{scheme}://ci:sst_secret@{rest}"
        if not only:
            (site[0] / documents.INDEX_KEY).write_text('{"index": {}}')
        nothing = CliRunner().invoke(main, ["import", source, *only])
        assert (nothing.exit_code, "sst_secret" in nothing.output) == (4, False), nothing.output


def test_a_filter_that_matches_nothing_or_is_invalid_is_reported(
    deployment: Deployment, site: tuple[Path, str]
) -> None:
    several(site[0])
    nothing = CliRunner().invoke(main, ["import", str(site[0]), "--only", "debian"])
    assert (nothing.exit_code, "has nothing that --only takes" in nothing.output) == (4, True)
    for text, why in (("", "the filter is empty"), ("ubuntu,colour=red", "has the term 'colour=red'")):
        wrong = CliRunner().invoke(main, ["import", str(site[0]), "--only", text])
        assert wrong.exit_code == 2
        assert why in " ".join(wrong.output.split())
    assert list(deployment.store.list("images")) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_server_of_this_layout_is_imported_without_changes(
    deployment: Deployment, site: tuple[Path, str], way: Way
) -> None:
    root, _ = site
    path = "images/ubuntu/noble/amd64/default/20261101"
    items = {}
    for name, body in IMAGE.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / name).write_bytes(body)
        ftype = {"rootfs.squashfs": "squashfs"}.get(name, name)
        sha256 = images.sha256_hex(body)
        items[name] = {"ftype": ftype, "path": f"{path}/{name}", "sha256": sha256, "size": len(body)}
    about = {"os": "ubuntu", "release": "noble", "arch": "amd64", "release_title": "noble", "aliases": "ubuntu/noble"}
    write(root, {"ubuntu:noble:amd64:default": {**about, "versions": {"20261101": {"items": items}}}})
    done = json.loads(admin(way(deployment, *site), "--yes").stdout)
    assert (done["copied"], done["left out"]) == (2, [])
    assert sorted(info.key for info in deployment.store.list("images")) == [f"{path}/{name}" for name in sorted(IMAGE)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("change", "expected_reason"),
    [
        ({"sha256": "0" * 64}, "expected 0000"),
        ({"path": "images/none"}, "images/none"),
        ({"path": "../../secret"}, "is not a path below upstream's address"),
    ],
)
def test_bytes_that_differ_from_the_catalog_are_never_listed(
    deployment: Deployment, site: tuple[Path, str], way: Way, change: dict[str, Any], expected_reason: str
) -> None:
    (site[0].parent.parent / "secret").write_bytes(IMAGE["rootfs.squashfs"])
    flat(site[0], **change)
    done = admin(way(deployment, *site), "--into", "images-other", "--yes", code=1)
    version = parse_version(HERE)
    found = ingest(version, IngestServices(deployment.store, lambda: START, lambda _: None, 1 << 40, 900, hash_fan))
    reasons = [reason.sentence for reason in found.record.reasons] if found.record else []
    assert any(expected_reason in sentence for sentence in [*json.loads(done.stdout)["left out"], *reasons])
    assert found.record is None or found.record.state != "complete"


def test_a_download_of_another_size_leaves_no_object(deployment: Deployment, site: tuple[Path, str]) -> None:
    items = flat(site[0])
    size = items["rootfs.squashfs"]["size"]
    for wrong in (size - 1, size + 1):
        flat(site[0], size=wrong)
        done = json.loads(admin(site[1], "--into", "images-other", "--yes", code=1).stdout)
        assert any(f"expected {wrong:,} as its catalog says; run it again" in one for one in done["left out"]), done
        assert not list(deployment.store.list(f"{HERE}/rootfs.squashfs"))
    flat(site[0])
    assert json.loads(admin(site[1], "--into", "images-other", "--yes", code=1).stdout)["copied"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_file_whose_size_the_catalog_does_not_state_is_imported(
    deployment: Deployment, site: tuple[Path, str], way: Way
) -> None:
    flat(site[0], size=None)
    source = way(deployment, *site)
    would = json.loads(admin(source, "--into", "images-other", code=1).stdout)
    assert would["bytes"] > len(IMAGE["lxd.tar.xz"]) + len(IMAGE["rootfs.squashfs"]), would
    assert json.loads(admin(source, "--into", "images-other", "--yes", code=1).stdout)["copied"] == 3
    stored = deployment.store.read(f"{HERE}/rootfs.squashfs")
    assert stored
    assert stored.body == IMAGE["rootfs.squashfs"]


def test_a_file_without_a_size_that_the_server_does_not_have_is_reported(
    deployment: Deployment, site: tuple[Path, str]
) -> None:
    items = flat(site[0], size=None)
    (site[0] / items["rootfs.squashfs"]["path"]).unlink()
    done = json.loads(admin(site[1], "--into", "images-other", "--yes", code=1).stdout)
    expected = "is in the catalog without a size, and the server answers 404 for it, expected its size in bytes"
    assert any(expected in one for one in done["left out"]), done


def test_links_are_refused_by_name(deployment: Deployment, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "rootfs.squashfs").write_bytes(images.squashfs())
    root = tmp_path / "www"
    product = root / "images/ubuntu/noble/amd64/default"
    product.mkdir(parents=True)
    (product / VERSION).mkdir()
    (product / VERSION / "rootfs.squashfs").symlink_to(private / "rootfs.squashfs")
    (product / "20261102").symlink_to(private)
    (root / "images-linked").symlink_to(private)
    left_out = json.loads(admin(str(root), "--yes", code=1).stdout)["left out"]
    assert [sentence.partition(" is a symbolic link, which is not followed")[0] for sentence in left_out] == [
        f"images/ubuntu/noble/amd64/default/{VERSION}/rootfs.squashfs",
        "images/ubuntu/noble/amd64/default/20261102",
        "images-linked",
    ]
    assert not list(deployment.store.list("images"))


def test_a_link_in_the_way_of_a_catalogs_file_is_not_followed(deployment: Deployment, site: tuple[Path, str]) -> None:
    root, _ = site
    items = flat(root)
    file = root / items["rootfs.squashfs"]["path"]
    file.rename(root.parent / "elsewhere")
    file.symlink_to(root.parent / "elsewhere")
    done = json.loads(admin(str(root), "--into", "images-other", "--yes", code=1).stdout)
    assert any("over a symbolic link" in sentence for sentence in done["left out"])
    assert not list(deployment.store.list(f"{HERE}/rootfs.squashfs"))


@pytest.mark.parametrize("content", ["", "<html>", "[]", '{"index": 7}'])
def test_an_invalid_catalog_is_reported_and_the_tree_imported_without_it(
    deployment: Deployment, site: tuple[Path, str], content: str
) -> None:
    root, address = site
    path = root / "images/ubuntu/noble/amd64/default" / VERSION
    path.mkdir(parents=True)
    (path / "rootfs.squashfs").write_bytes(IMAGE["rootfs.squashfs"])
    (root / "streams/v1").mkdir(parents=True)
    (root / "streams/v1/index.json").write_text(content)
    done = json.loads(admin(str(root), "--yes", code=1).stdout)
    assert (done["copied"], len(done["left out"])) == (1, 1)
    assert done["left out"][0].startswith("the catalog cannot be used: its index cannot be read")
    refused = CliRunner().invoke(main, ["import", address])
    assert refused.exit_code not in (0, 1)
    assert "its index cannot be read" in refused.stderr


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "http://user:secret@127.0.0.1:9/x"])
def test_an_unresponsive_server_is_named_without_its_password(
    deployment: Deployment, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.admin.other_servers._RETRIES", 0)
    done = CliRunner().invoke(main, ["import", address])
    assert done.exit_code == 5
    assert "127.0.0.1 does not answer" in done.stderr
    assert "secret" not in done.output
