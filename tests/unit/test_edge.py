"""What the edge must forget, and when: before the catalog says something new about a path."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.stub import ANY, Stubber

import images
from memory import System
from publish.commit import publish
from simplestreams.errors import StorageUnavailable
from simplestreams.keys import parse_product
from storage.edge import PATIENCE_S, forget

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient

NOBLE = "images/ubuntu/noble/amd64/default"
PATH = f"{NOBLE}/20261123_10:00"


def published(system: System) -> list[tuple[str, bytes]]:
    """Publish; what was forgotten, with the catalog as it was served at that moment."""
    forgotten: list[tuple[str, bytes]] = []

    def remember(keys: object) -> None:
        assert isinstance(keys, list)
        forgotten.extend((key, system.streams()["streams/v1/images.json"]) for key in keys)

    publish("images", [parse_product(NOBLE)], replace(system.publish_tools, forget=remember))
    return forgotten


@pytest.fixture
def system() -> System:
    system = System()
    system.upload(PATH, images.split_image(seed="old"))
    system.settle(PATH)
    published(system)
    return system


def test_nothing_is_forgotten_while_files_only_come(system: System) -> None:
    system.upload(f"{NOBLE}/20261124_10:00", images.split_image(seed="more"))
    system.settle(f"{NOBLE}/20261124_10:00")
    assert published(system) == []


def test_an_overwritten_file_is_forgotten_before_its_new_digest_is_served(system: System) -> None:
    root = images.squashfs("new")
    system.upload(PATH, {"rootfs.squashfs": root})
    system.settle(PATH)
    ((key, served),) = published(system)
    assert key == f"{PATH}/rootfs.squashfs"
    assert images.sha256_hex(root).encode() not in served
    assert images.sha256_hex(root).encode() in system.streams()["streams/v1/images.json"]
    assert published(system) == []


def test_files_that_leave_the_list_are_forgotten_since_they_may_be_uploaded_anew(system: System) -> None:
    system.store.remove(f"{PATH}/lxd.tar.xz")
    system.settle(PATH)
    assert [key for key, _ in published(system)] == [f"{PATH}/lxd.tar.xz", f"{PATH}/rootfs.squashfs"]


@pytest.fixture
def client() -> CloudFrontClient:
    return boto3.client("cloudfront", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


def invalidation(status: str) -> dict[str, object]:
    batch = {"Paths": {"Quantity": 1, "Items": ["/x"]}, "CallerReference": "r"}
    return {"Invalidation": {"Id": "I1", "Status": status, "CreateTime": "2026-11-23", "InvalidationBatch": batch}}


def test_exactly_the_paths_are_invalidated_and_waited_for(client: CloudFrontClient) -> None:
    waited: list[float] = []
    paths = {"Quantity": 2, "Items": [f"/{PATH}/lxd.tar.xz", f"/{PATH}/rootfs.squashfs"]}
    with Stubber(client) as stub:
        expected = {"DistributionId": "D1", "InvalidationBatch": {"Paths": paths, "CallerReference": ANY}}
        stub.add_response("create_invalidation", invalidation("InProgress"), expected)
        stub.add_response("get_invalidation", invalidation("InProgress"), {"DistributionId": "D1", "Id": "I1"})
        stub.add_response("get_invalidation", invalidation("Completed"), {"DistributionId": "D1", "Id": "I1"})
        forget(client, "D1", [f"{PATH}/rootfs.squashfs", f"{PATH}/lxd.tar.xz"], waited.append)
    assert waited == [2, 2]


def test_an_edge_that_does_not_answer_or_is_too_slow_is_tried_again_later(client: CloudFrontClient) -> None:
    with Stubber(client) as stub:
        stub.add_client_error("create_invalidation", "Throttling", "slow down", 400)
        with pytest.raises(StorageUnavailable, match=f"was not told to forget /{PATH}/lxd.tar.xz"):
            forget(client, "D1", [f"{PATH}/lxd.tar.xz"], lambda _: None)
    with Stubber(client) as stub:
        stub.add_response("create_invalidation", invalidation("InProgress"))
        for _ in range(PATIENCE_S // 2):
            stub.add_response("get_invalidation", invalidation("InProgress"))
        with pytest.raises(StorageUnavailable, match="has not forgotten 1 paths"):
            forget(client, "D1", ["images/x"], lambda _: None)


def test_very_many_paths_become_whole_streams(client: CloudFrontClient) -> None:
    with Stubber(client) as stub:
        paths = {"Quantity": 2, "Items": ["/images-daily/*", "/images/*"]}
        expected = {"DistributionId": "D1", "InvalidationBatch": {"Paths": paths, "CallerReference": ANY}}
        stub.add_response("create_invalidation", invalidation("Completed"), expected)
        forget(client, "D1", [f"{s}/{n}" for s in ("images", "images-daily") for n in range(600)], lambda _: None)
