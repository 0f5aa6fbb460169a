"""What the edge must invalidate, and when: before the catalog says something new about a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.stub import ANY, Stubber

from imageserver.aws.cloudfront import invalidate, request_invalidation
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import parse_product, parse_version
from imageserver.operations.publish import publish
from imageserver.operations.withdraw import restore, withdraw
from tests.support import images
from tests.support.memory_store import System

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient

NOBLE = "images/ubuntu/noble/amd64/default"
PATH = f"{NOBLE}/20261123_10:00"


def published(system: System) -> list[tuple[str, bytes]]:
    """Publish; what was invalidated, with the catalog as it was served at that moment."""
    invalidated: list[tuple[str, bytes]] = []

    def remember(keys: object) -> None:
        assert isinstance(keys, list)
        invalidated.extend((key, system.streams()["streams/v1/images.json"]) for key in keys)

    publish("images", [parse_product(NOBLE)], replace(system.publish_tools, invalidate=remember))
    return invalidated


@pytest.fixture
def system() -> System:
    system = System()
    system.upload(PATH, images.split_image(seed="old"))
    system.ingest(PATH)
    published(system)
    return system


def test_nothing_is_forgotten_while_files_only_come(system: System) -> None:
    system.upload(f"{NOBLE}/20261124_10:00", images.split_image(seed="more"))
    system.ingest(f"{NOBLE}/20261124_10:00")
    assert published(system) == []


def test_an_overwritten_file_is_forgotten_before_its_new_digest_is_served(system: System) -> None:
    root = images.squashfs("new")
    system.upload(PATH, {"rootfs.squashfs": root})
    system.ingest(PATH)
    ((key, served),) = published(system)
    assert key == f"{PATH}/rootfs.squashfs"
    assert images.sha256_hex(root).encode() not in served
    assert images.sha256_hex(root).encode() in system.streams()["streams/v1/images.json"]
    assert published(system) == []


def test_a_deleted_file_is_forgotten_and_again_before_another_one_is_listed_in_its_place(system: System) -> None:
    system.store.remove(f"{PATH}/lxd.tar.xz")
    system.ingest(PATH)
    assert [key for key, _ in published(system)] == [f"{PATH}/lxd.tar.xz"]
    system.upload(PATH, {"lxd.tar.xz": images.metadata_tarball(serial="another")})
    system.ingest(PATH)
    assert [key for key, _ in published(system)] == [f"{PATH}/lxd.tar.xz"]


def test_bytes_that_were_never_listed_are_forgotten_before_others_are_in_their_place(system: System) -> None:
    path = f"{NOBLE}/20261124_10:00"
    files = images.split_image(seed="corrected")
    system.upload(path, files | {"rootfs.squashfs": b"this is no squashfs" * 10})  # somebody may have looked at it
    system.ingest(path)
    assert published(system) == []
    system.upload(path, {"rootfs.squashfs": files["rootfs.squashfs"]})
    system.ingest(path)
    assert [key for key, _ in published(system)] == [f"{path}/rootfs.squashfs"]


def test_what_is_withdrawn_is_kept_while_its_files_are_there(system: System) -> None:
    withdraw(system.store, parse_version(PATH), system.store.clock, 24, lambda _: None)
    assert published(system) == []
    restore(system.store, parse_version(PATH), lambda _: None)
    assert published(system) == []


def test_a_publisher_that_loses_its_race_while_the_edge_forgets_does_not_ask_it_twice(system: System) -> None:
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("new")})
    system.ingest(PATH)
    asked: list[list[str]] = []

    def invalidate(keys: Sequence[str]) -> None:
        asked.append(list(keys))
        if len(asked) == 1:  # it takes long, and another publisher writes meanwhile
            document = system.store.objects["streams/v1/images.json"]
            system.store.put("streams/v1/images.json", document.body + b"\n")

    done = publish("images", [parse_product(NOBLE)], replace(system.publish_tools, invalidate=invalidate))
    assert (asked, done.lost_races) == ([[f"{PATH}/rootfs.squashfs"]], 1)


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
        invalidate(client, "D1", [f"{PATH}/rootfs.squashfs", f"{PATH}/lxd.tar.xz"], waited.append, 100)
    assert waited == [2, 2]


def test_an_edge_that_does_not_answer_or_is_too_slow_is_tried_again_later(client: CloudFrontClient) -> None:
    with Stubber(client) as stub:
        stub.add_client_error("create_invalidation", "Throttling", "slow down", 400)
        with pytest.raises(StorageUnavailable, match=f"was not told to invalidate /{PATH}/lxd.tar.xz"):
            invalidate(client, "D1", [f"{PATH}/lxd.tar.xz"], lambda _: None, 100)
    with Stubber(client) as stub:
        stub.add_response("create_invalidation", invalidation("InProgress"))
        for _ in range(3):
            stub.add_response("get_invalidation", invalidation("InProgress"))
        with pytest.raises(StorageUnavailable, match="has not invalidated 1 paths within 6 s"):
            invalidate(client, "D1", ["images/x"], lambda _: None, 5.5)


def test_very_many_paths_become_whole_streams(client: CloudFrontClient) -> None:
    with Stubber(client) as stub:
        paths = {"Quantity": 2, "Items": ["/images-daily/*", "/images/*"]}
        expected = {"DistributionId": "D1", "InvalidationBatch": {"Paths": paths, "CallerReference": ANY}}
        stub.add_response("create_invalidation", invalidation("Completed"), expected)
        invalidate(
            client, "D1", [f"{s}/{n}" for s in ("images", "images-daily") for n in range(600)], lambda _: None, 100
        )


def test_who_does_not_wait_asks_again_while_the_edge_has_too_much_to_do(client: CloudFrontClient) -> None:
    waited: list[float] = []
    with Stubber(client) as stub:
        stub.add_client_error("create_invalidation", "TooManyInvalidationsInProgress", "wait", 400)
        stub.add_response("create_invalidation", invalidation("InProgress"))
        request_invalidation(client, "D1", ["images/x"], waited.append, 10)
    assert waited == [2]
    with Stubber(client) as stub:
        for _ in range(3):
            stub.add_client_error("create_invalidation", "TooManyInvalidationsInProgress", "wait", 400)
        with pytest.raises(StorageUnavailable, match="was not told to invalidate /images/x"):
            request_invalidation(client, "D1", ["images/x"], lambda _: None, 4)
