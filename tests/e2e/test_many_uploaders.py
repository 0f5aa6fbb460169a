"""Many publishers at once: every upload is listed once, with few writes of the catalog."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.client_rules import read_catalog
from tests.support.images import sha256_hex, split_image
from tests.support.processes import PATIENCE, need, short_folder
from tests.support.real_clients import client
from tests.support.stack import Stack, local_stack, put

pytestmark = [pytest.mark.e2e, pytest.mark.heavy, pytest.mark.xdist_group("lxd")]

VERSIONS = 200
UPLOADERS = 8
PRODUCTS = 10


def prefix(number: int) -> str:
    """Return the key prefix of one of the versions. Neighbours are in different products, of twenty versions each."""
    product, serial = number % PRODUCTS, number // PRODUCTS
    return f"images/alpine/many{product}/amd64/default/20261123_{serial:02}:00/"


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Yield a separate stack: uploads of other tests would count as writes."""
    need("curl", "sha256sum")
    # Two publishers and four digest workers race for the catalog and for the versions.
    with local_stack("--empty", "--publish-workers", "2", "--digest-workers", "4") as running:
        yield running


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Return key → file of all versions."""
    files = {}
    for number in range(VERSIONS):
        for name, body in split_image(seed=str(number)).items():
            files[prefix(number) + name] = tmp_path / f"{number}-{name}"
            files[prefix(number) + name].write_bytes(body)
    return files


def upload_all(stack: Stack, images: dict[str, Path]) -> None:
    """Upload by eight uploaders at once, each with its own signed URLs.

    The two files of a version never come from the same one.
    """
    keys = sorted(images, key=lambda key: (key.rpartition("/")[2], key))
    shares = [keys[i::UPLOADERS] for i in range(UPLOADERS)]
    # Shifted by one for the second kind of file, so that a version's root does not come from the sender of its
    # metadata.
    shares = [
        [key for key in share if key.endswith(".xz")] + [key for key in other if not key.endswith(".xz")]
        for share, other in zip(shares, shares[1:] + shares[:1], strict=True)
    ]

    def upload(share: list[str]) -> None:
        for upload in stack.presign(*share):
            put(images[upload["key"]], upload)

    with ThreadPoolExecutor(UPLOADERS) as pool:
        list(pool.map(upload, shares))


def writes(stack: Stack, key: str) -> int:
    """Return how often `key`, or any key below `key/`, was written: the bucket keeps every generation."""
    pages = stack.s3().get_paginator("list_object_versions").paginate(Bucket=stack.bucket, Prefix=key)
    return sum(found["Key"] == key or key.endswith("/") for page in pages for found in page.get("Versions", []))


@pytest.mark.timeout(600)
def test_eight_concurrent_publishers_lose_and_double_none_of_200_versions(
    stack: Stack, images: dict[str, Path], record_property: Callable[[str, object], None]
) -> None:
    started = time.monotonic()
    upload_all(stack, images)
    uploaded = time.monotonic()
    expected = {}
    for number in range(VERSIONS):
        parts = [images[prefix(number) + name] for name in ("lxd.tar.xz", "rootfs.squashfs")]
        expected[sha256_hex(*(part.read_bytes() for part in parts))] = prefix(number)
    stack.wait_until_listed(*expected, patience=3 * PATIENCE)
    listed_at = time.monotonic()

    for reader in ("lxd", "incus"):
        listed = Counter(image.fingerprint for image in read_catalog(*stack.catalog(), client=reader))
        assert listed == Counter(dict.fromkeys(expected, 1))
    for program in filter(shutil.which, ("lxc", "incus")):  # if the real clients are installed, they agree
        with short_folder() as folder:
            talk = client(program, folder, stack.ca_file)
            talk.add_remote(stack.base_url)
            assert Counter(image["fingerprint"] for image in talk.images()) == Counter(dict.fromkeys(expected, 1))
    for image in read_catalog(*stack.catalog()):
        assert image.files["root"].path == expected[image.fingerprint] + "rootfs.squashfs"

    catalog_writes = writes(stack, "streams/v1/images.json")
    record_property("seconds of uploading", round(uploaded - started, 1))
    record_property("seconds from the last upload until all were listed", round(listed_at - uploaded, 1))
    record_property("writes of images.json", catalog_writes)
    record_property("writes of index.json", writes(stack, "streams/v1/index.json"))
    record_property("writes of records, one at least for each version", writes(stack, "versions/"))
    assert 1 <= catalog_writes <= VERSIONS
