"""A server mirrors another one: two local stacks, each with the functions as deployed.

Nothing here knows how a mirror works inside: tests add one with `scripts/admin`, and read both catalogs like clients.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support import PROJECT, images
from tests.support.client_rules import read_catalog
from tests.support.stack import Stack, local_stack

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("mirror")]


@pytest.fixture(scope="module")
def origin() -> Iterator[Stack]:
    with local_stack("--empty") as running:
        yield running


@pytest.fixture(scope="module")
def site(origin: Stack) -> Iterator[Stack]:
    """Yield a second stack, which trusts the first one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_CA_BUNDLE", origin.ca_file)
        with local_stack("--empty") as running:
            yield running


@pytest.fixture
def product(request: pytest.FixtureRequest) -> str:
    """Return a separate product for each test."""
    return f"images/{re.sub('[^a-z]+', '-', request.node.name)[5:60].strip('-')}/1/amd64/default"


def admin(stack: Stack, *arguments: str, code: int = 0) -> Any:
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(stack.folder / "state"), "--json", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout or "null")


def upload(stack: Stack, path: str, files: Mapping[str, bytes]) -> None:
    for name, body in files.items():
        stack.s3().put_object(Bucket=stack.bucket, Key=f"{path}/{name}", Body=body)


def fingerprints(stack: Stack, path: str) -> set[str]:
    """Return the images of a product as LXD and Incus see them."""
    name = ":".join(path.split("/")[1:5])
    index, documents = stack.catalog()
    return {
        f"{client} {image.fingerprint}"
        for client in ("lxd", "incus")
        for image in read_catalog(index, documents, client)
        if image.product == name
    }


def wait_for(stack: Stack, path: str, expected: set[str]) -> None:
    stack.wait_until(lambda: fingerprints(stack, path) == expected or None, f"{path} lists {expected}")


def test_a_mirror_lists_the_images_of_its_source_with_the_same_fingerprints(
    origin: Stack, site: Stack, product: str
) -> None:
    upload(origin, f"{product}/20261101_1000", images.split_image(seed=product))
    origin.wait_until(lambda: len(fingerprints(origin, product)) == 2 or None, "the origin lists it")
    only = product.split("/")[1]
    planned = admin(site, "mirror", "add", "plan", origin.base_url, "--only", only, "--allow-private", "--dry-run")
    assert (planned["versions"], planned["files"]) == (1, 2)
    assert not fingerprints(site, product)
    admin(site, "mirror", "add", "first", origin.base_url, "--only", only, "--allow-private")
    wait_for(site, product, fingerprints(origin, product))
    assert admin(site, "mirror", "run", "first")["files"] == 0
    assert admin(site, "mirror", "show", "first")["state"] == "in step"


def test_an_address_of_a_private_network_is_refused_unless_it_is_allowed(origin: Stack, site: Stack) -> None:
    command = (str(PROJECT / "scripts/admin"), "--state-dir", str(site.folder / "state"))
    done = subprocess.run(
        (*command, "mirror", "add", "private", origin.base_url, "--only", "all"),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 5
    assert "not on the public internet" in done.stderr
    assert "private" not in {row["name"] for row in admin(site, "mirror", "list")}


def test_a_file_that_differs_from_the_catalog_is_not_copied_and_the_reason_is_shown(
    origin: Stack, site: Stack, product: str
) -> None:
    path = f"{product}/20261101_1000"
    upload(origin, path, images.split_image(seed=product))
    origin.wait_until(lambda: len(fingerprints(origin, product)) == 2 or None, "the origin lists it")
    with origin.damaged(f"{path}/rootfs.squashfs", lambda body: body[:-1] + bytes([body[-1] ^ 1])):
        only = product.split("/")[1]
        admin(site, "mirror", "add", "damaged", origin.base_url, "--only", only, "--allow-private")
        key = f"{path}/rootfs.squashfs"
        site.wait_until(lambda: admin(site, "mirror", "show", "damaged")["refused"].get(key), "the refusal is noted")
        assert "has sha256" in admin(site, "mirror", "show", "damaged")["refused"][key]
        assert not site.s3().list_objects_v2(Bucket=site.bucket, Prefix=key).get("Contents")
        assert not fingerprints(site, product)


def test_the_state_of_a_mirror_is_not_served(origin: Stack, site: Stack) -> None:
    """Any earlier test of this module has written the configuration."""
    admin(site, "mirror", "add", "served", origin.base_url, "--only", "nothing", "--allow-private")
    keys = [found["Key"] for found in site.s3().list_objects_v2(Bucket=site.bucket, Prefix="mirrors/")["Contents"]]
    assert "mirrors/mirrors.json" in keys
    assert [site.get(f"/{key}")[0] for key in keys] == [404] * len(keys)


def test_new_versions_enter_a_channel_and_reach_another_by_a_promotion(
    origin: Stack, product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = f"{product}/20261101_1000"
    upload(origin, version, images.split_image(seed=product))
    origin.wait_until(lambda: len(fingerprints(origin, product)) == 2 or None, "the origin lists it")
    monkeypatch.setenv("AWS_CA_BUNDLE", origin.ca_file)
    with local_stack("--empty", "--parameter", "Views=true") as site:
        stream = ("--streams", "images-fresh")
        admin(site, "view", "create", "candidates", "--private", *stream)
        admin(site, "view", "create", "fresh", "--channel", "--newest", "--expire-after", "14d", *stream)
        admin(site, "view", "create", "stable", "--channel", *stream)
        only = product.split("/")[1]
        admin(site, "mirror", "add", "up", origin.base_url, "--only", only, "--allow-private", "--channel", "fresh")
        site.wait_until(lambda: shown(site, "fresh") == {"20261101_1000"} or None, "the channel shows it")
        assert shown(site, "stable") == set()
        assert site.get("streams/v1/images-fresh.json")[0] in (401, 404)
        assert json.loads(site.get("streams/v1/index.json")[1])["index"] == {}
        assert site.get("streams/mirrors.json")[0] == 404
        assert admin(site, "mirror", "show", "up")["shown"]["newest"] == ["fresh"]
        admin(site, "promote", version.replace("images/", "images-fresh/"), "--to", "stable")
        site.wait_until(lambda: shown(site, "stable") == {"20261101_1000"} or None, "the other channel shows it")


def shown(stack: Stack, channel: str) -> set[str]:
    """Return the versions that a public channel shows."""
    status, body = stack.get(f"{channel}/streams/v1/images-fresh.json")[:2]
    products = json.loads(body)["products"] if status == 200 else {}
    return {version for product in products.values() for version in product["versions"]}
