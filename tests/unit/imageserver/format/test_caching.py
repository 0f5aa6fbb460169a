"""How long each served object may be cached."""

from __future__ import annotations

import pytest

from gates import stack as stacks
from imageserver.format.caching import BRIEF, IMMUTABLE, cache_control
from imageserver.format.file_kinds import ALL_CLIENTS
from tests.support.deployment.grants import KEYS, SERVED
from tests.support.deployment.rules.edge import IMAGE_S

VERSION = "images/ubuntu/noble/amd64/default/20261123_10:00"


@pytest.mark.parametrize(
    "file",
    [
        *(f"{client}.tar.xz" for client in ALL_CLIENTS),
        "rootfs.squashfs",
        "disk.qcow2",
        "root.tar.xz",
        "lxd_combined.tar.gz",
        "rootfs.20261101_10:00.vcdiff",
    ],
)
@pytest.mark.parametrize("stream", ["images", "images-daily"])
def test_a_listed_file_is_cached_as_immutable(stream: str, file: str) -> None:
    assert cache_control(f"{stream}{VERSION.removeprefix('images')}/{file}") == IMMUTABLE


@pytest.mark.parametrize("file", ["metadata.json", "image.yaml", "SHA256SUMS", "README", "read me"])
def test_files_that_a_publisher_can_correct_are_cached_briefly(file: str) -> None:
    assert cache_control(f"{VERSION}/{file}") == BRIEF


@pytest.mark.parametrize("name", KEYS)
def test_served_objects_carry_a_lifetime_and_private_ones_do_not(name: str) -> None:
    served = name in SERVED or "/" not in KEYS[name]  # at the top of the bucket only the page and the API's description
    assert bool(cache_control(KEYS[name])) == served


def test_the_edge_caches_an_image_for_the_lifetime_in_its_header() -> None:
    assert f"public, max-age={IMAGE_S}, immutable" == IMMUTABLE
    cache = stacks.deployed().properties("ImagesCachePolicy")["CachePolicyConfig"]
    assert (cache["MinTTL"], cache["MaxTTL"]) == (0, IMAGE_S), "a document's 30 s hold there too"
