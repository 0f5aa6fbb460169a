"""What must be invalidated, and when: before the catalog says something new about a path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import ANY
from hypothesis import given
from hypothesis import strategies as st

from imageserver.aws.cloudfront import (
    MOST_FILES,
    MOST_WILDCARDS,
    everything_below,
    invalidate,
    invalidation_paths,
    request_invalidation,
)
from imageserver.errors import InvalidationRefused, SimplestreamsError, StorageDenied, StorageUnavailable
from imageserver.format import documents
from imageserver.format.keys import parse_product, parse_version
from imageserver.operations.publish import Published, publish
from imageserver.operations.withdraw import restore, withdraw
from tests.support import images
from tests.support.memory_store import System
from tests.support.stubs import stubbed

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient

NOBLE = "images/ubuntu/noble/amd64/default"
PATH = f"{NOBLE}/20261123_10:00"


def published(system: System) -> list[tuple[str, bytes]]:
    """Publish; return the invalidated paths, with the catalog served at that moment."""
    invalidated: list[tuple[str, bytes]] = []

    def remember(keys: object) -> None:
        assert isinstance(keys, list)
        invalidated.extend((key, system.streams()["streams/v1/images.json"]) for key in keys)

    publish("images", [parse_product(NOBLE)], replace(system.publish_services, invalidate=remember))
    return invalidated


@pytest.fixture
def system() -> System:
    system = System()
    system.upload(PATH, images.split_image(seed="old"))
    system.ingest(PATH)
    published(system)
    return system


def test_new_files_need_no_invalidation(system: System) -> None:
    system.upload(f"{NOBLE}/20261124_10:00", images.split_image(seed="more"))
    system.ingest(f"{NOBLE}/20261124_10:00")
    assert published(system) == []


def test_an_overwritten_file_is_invalidated_before_its_new_digest_is_listed(system: System) -> None:
    root = images.squashfs("new")
    system.upload(PATH, {"rootfs.squashfs": root})
    system.ingest(PATH)
    ((key, served),) = published(system)
    assert key == f"{PATH}/rootfs.squashfs"
    assert images.sha256_hex(root).encode() not in served
    assert images.sha256_hex(root).encode() in system.streams()["streams/v1/images.json"]
    assert published(system) == []


def test_a_deleted_file_is_invalidated_and_again_before_its_replacement_is_listed(system: System) -> None:
    system.store.remove(f"{PATH}/lxd.tar.xz")
    system.ingest(PATH)
    assert [key for key, _ in published(system)] == [f"{PATH}/lxd.tar.xz"]
    system.upload(PATH, {"lxd.tar.xz": images.metadata_tarball(serial="another")})
    system.ingest(PATH)
    assert [key for key, _ in published(system)] == [f"{PATH}/lxd.tar.xz"]


def test_unlisted_bytes_are_invalidated_before_their_replacement_is_listed(system: System) -> None:
    path = f"{NOBLE}/20261124_10:00"
    files = images.split_image(seed="corrected")
    system.upload(path, files | {"rootfs.squashfs": b"this is no squashfs" * 10})  # a reader may have fetched it
    system.ingest(path)
    assert published(system) == []
    system.upload(path, {"rootfs.squashfs": files["rootfs.squashfs"]})
    system.ingest(path)
    assert [key for key, _ in published(system)] == [f"{path}/rootfs.squashfs"]


def test_a_withdrawal_invalidates_nothing_while_its_files_exist(system: System) -> None:
    withdraw(system.store, parse_version(PATH), system.store.clock, 24, lambda _: None)
    assert published(system) == []
    restore(system.store, parse_version(PATH), lambda _: None)
    assert published(system) == []


def test_a_publisher_that_loses_its_race_does_not_invalidate_twice(system: System) -> None:
    system.upload(PATH, {"rootfs.squashfs": images.squashfs("new")})
    system.ingest(PATH)
    asked: list[list[str]] = []

    def invalidate(keys: Sequence[str]) -> None:
        asked.append(list(keys))
        if len(asked) == 1:  # it takes long, and another publisher writes meanwhile
            document = system.store.objects["streams/v1/images.json"]
            system.store.put("streams/v1/images.json", document.body + b"\n")

    done = publish("images", [parse_product(NOBLE)], replace(system.publish_services, invalidate=invalidate))
    assert (asked, done.lost_races) == ([[f"{PATH}/rootfs.squashfs"]], 1)


# ── a product whose invalidation fails ────────────────────────────────────────────────────────────────────────────

JAMMY, PLUCKY = (f"images/ubuntu/{release}/amd64/default" for release in ("jammy", "plucky"))


class Edge:
    """An edge that fails for every request about one product."""

    def __init__(self, broken: str, error: SimplestreamsError) -> None:
        self.broken, self.error = broken, error
        self.asked: list[list[str]] = []

    def invalidate(self, keys: Sequence[str]) -> None:
        self.asked.append(list(keys))
        if any(key.startswith(self.broken) for key in keys):
            raise self.error


def overwritten(system: System, seed: str) -> bytes:
    """Upload a new root for the version of noble, digested and not yet published."""
    root = images.squashfs(seed)
    system.upload(PATH, {"rootfs.squashfs": root})
    system.ingest(PATH)
    return root


def uploaded(system: System, product: str, files: dict[str, bytes], version: str = "20261123_10:00") -> None:
    system.upload(f"{product}/{version}", files)
    system.ingest(f"{product}/{version}")


def published_all(system: System, edge: Edge) -> Published:
    return publish("images", system.products(), replace(system.publish_services, invalidate=edge.invalidate))


@pytest.mark.parametrize("error", [InvalidationRefused("400"), StorageUnavailable("503"), StorageDenied("403")])
def test_a_version_whose_invalidation_fails_is_held_back_and_the_batch_is_published(
    system: System, error: SimplestreamsError
) -> None:
    root = overwritten(system, "new")
    uploaded(system, NOBLE, images.split_image(seed="newer"), "20261124_10:00")
    uploaded(system, JAMMY, images.split_image(seed="jammy"))
    edge = Edge(PATH, error)
    done = published_all(system, edge)
    assert (done.failed, list(done.held)) == ({parse_product(NOBLE): error}, [parse_version(PATH)])
    assert system.listed() == {
        "ubuntu:noble:amd64:default": ["20261124_10:00"],  # the listed file has other bytes now
        "ubuntu:jammy:amd64:default": ["20261123_10:00"],
    }
    edge.broken = "none"
    assert published_all(system, edge).failed == {}
    assert system.listed()["ubuntu:noble:amd64:default"] == ["20261123_10:00", "20261124_10:00"]
    assert images.sha256_hex(root).encode() in system.streams()["streams/v1/images.json"]
    assert edge.asked == [[f"{PATH}/rootfs.squashfs"]] * 2


def test_the_index_names_a_new_product_although_another_failed(system: System) -> None:
    overwritten(system, "new")
    uploaded(system, JAMMY, images.split_image(seed="jammy"))
    published_all(system, Edge(NOBLE, StorageUnavailable("503")))
    index = documents.decode_index(system.streams()["streams/v1/index.json"])
    assert index.index["images"].products == ["ubuntu:jammy:amd64:default"]


def test_a_deleted_file_is_delisted_at_once_and_invalidated_before_its_version_is_listed_again(
    system: System,
) -> None:
    system.upload(PATH, {"disk.qcow2": images.qcow2()})
    system.ingest(PATH)
    published(system)
    system.store.remove(f"{PATH}/disk.qcow2")
    system.ingest(PATH)
    edge = Edge(PATH, StorageUnavailable("503"))
    assert parse_product(NOBLE) in published_all(system, edge).failed
    assert system.listed() == {}
    edge.broken = "none"
    assert published_all(system, edge).failed == {}
    assert system.listed() == {"ubuntu:noble:amd64:default": ["20261123_10:00"]}
    assert edge.asked == [[f"{PATH}/disk.qcow2"]] * 2


def test_a_product_known_only_to_the_catalog_stays_unchanged(system: System) -> None:
    """Somebody deleted the record. Once delisted, nothing would remember that the edge has other bytes."""
    before = system.products_document().products["ubuntu:noble:amd64:default"]
    system.store.remove(f"versions/{PATH}.json")
    root = overwritten(system, "new")
    uploaded(system, JAMMY, images.split_image(seed="jammy"))
    edge = Edge(NOBLE, StorageUnavailable("503"))
    done = published_all(system, edge)
    assert list(done.damaged) == [parse_product(NOBLE)]
    assert system.products_document().products["ubuntu:noble:amd64:default"] == before
    assert "ubuntu:jammy:amd64:default" in system.listed()
    edge.broken = "none"
    published_all(system, edge)
    assert edge.asked == [[f"{PATH}/rootfs.squashfs"]] * 2
    assert images.sha256_hex(root).encode() in system.streams()["streams/v1/images.json"]


def test_an_image_of_a_held_back_version_is_listed_by_another_product_meanwhile(system: System) -> None:
    root = overwritten(system, "new")
    uploaded(system, PLUCKY, {**images.split_image(seed="old"), "rootfs.squashfs": root})  # sorts after noble
    edge = Edge(NOBLE, StorageUnavailable("503"))
    published_all(system, edge)
    assert system.listed().keys() == {"ubuntu:plucky:amd64:default"}
    edge.broken = "none"
    published_all(system, edge)
    assert system.listed().keys() == {"ubuntu:noble:amd64:default"}


def test_a_failed_invalidation_is_not_repeated_after_a_lost_race(system: System) -> None:
    overwritten(system, "new")
    uploaded(system, JAMMY, images.split_image(seed="jammy"))
    edge = Edge(NOBLE, StorageUnavailable("no answer in 100 s"))

    def another(method: str, key: str) -> None:
        if (method, key) == ("replace", "streams/v1/images.json"):
            system.store.on = lambda *_: None
            document = system.store.objects["streams/v1/images.json"]
            system.store.put("streams/v1/images.json", document.body + b"\n")

    system.store.on = another
    done = published_all(system, edge)
    assert (done.lost_races, len(edge.asked), list(done.failed)) == (1, 1, [parse_product(NOBLE)])
    assert "ubuntu:jammy:amd64:default" in system.listed()


# ── CloudFront ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("keys", "paths"),
    [
        ([f"{PATH}/lxd.tar.xz"], [f"/{PATH}/lxd.tar.xz"]),
        ([f"{PATH}/a_b-c.1:2"], [f"/{PATH}/a_b-c.1:2"]),
        (["images/a~b/1/amd64/default/20261123/x"], ["/images/a*"]),
        ([f"images/a/1.0~rc1/amd64/default/20261123/{f}" for f in ("x", "y")], ["/images/a/1.0*"]),
        ([f"{PATH}/disk~1.qcow2", f"{PATH}/rootfs.squashfs"], [f"/{PATH}/disk*", f"/{PATH}/rootfs.squashfs"]),
        ([f"{PATH}/disk~1.qcow2", f"{PATH}/disk.qcow2"], [f"/{PATH}/disk*"]),
        (["images/a~b/x", "images/ab~c/y", "images-daily/a/z"], ["/images-daily/a/z", "/images/a*"]),
        ([f"{PATH}/read me", f"{PATH}/100%", f"{PATH}/100*"], [f"/{PATH}/100*", f"/{PATH}/read*"]),
        ([f"{PATH}/\u00fc", f"{PATH}/a+b"], [f"/{PATH}/*"]),
    ],
)
def test_an_invalidation_path_ends_before_a_character_that_cloudfront_can_encode_differently(
    keys: list[str], paths: list[str]
) -> None:
    assert invalidation_paths(keys) == paths


def test_more_wildcards_than_cloudfront_accepts_at_once_become_whole_streams() -> None:
    def named(count: int, stream: str = "images") -> list[str]:
        return [f"{stream}/os{number}~1/1/amd64/default/20261123/x" for number in range(count)]

    assert len(invalidation_paths(named(MOST_WILDCARDS))) == MOST_WILDCARDS
    assert invalidation_paths([*named(MOST_WILDCARDS + 1), "images-daily/a/x"]) == ["/images-daily/*", "/images/*"]
    streams = [key for number in range(MOST_WILDCARDS + 1) for key in named(1, f"images-{number}")]
    assert invalidation_paths(streams) == ["/images*"]


@given(
    st.lists(
        st.builds(
            "{}/{}".format,
            st.sampled_from(["images", "images-daily", "images-7"]),
            st.text(st.sampled_from("ab~:/._-* %+\u00fc"), min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_every_key_is_covered_by_a_path_that_cloudfront_accepts(keys: list[str]) -> None:
    paths = invalidation_paths(keys)
    assert all(re.fullmatch(r"/[A-Za-z0-9._:/-]*\*?", path) for path in paths)
    assert all(any(fnmatchcase(f"/{key}", path) for path in paths) for key in keys)
    assert sum(path.endswith("*") for path in paths) <= MOST_WILDCARDS
    assert len(paths) <= MOST_FILES + MOST_WILDCARDS


def test_everything_below_a_prefix_is_one_path() -> None:
    assert everything_below(f"{PATH}/") == f"/{PATH}/*"
    assert everything_below("images/a/1.0~rc1/amd64/") == "/images/a/1.0*"


@pytest.fixture
def client() -> CloudFrontClient:
    return boto3.client("cloudfront", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


def invalidation(status: str) -> dict[str, object]:
    batch = {"Paths": {"Quantity": 1, "Items": ["/x"]}, "CallerReference": "r"}
    return {"Invalidation": {"Id": "I1", "Status": status, "CreateTime": "2026-11-23", "InvalidationBatch": batch}}


def test_exactly_the_changed_paths_are_invalidated_and_awaited(client: CloudFrontClient) -> None:
    waited: list[float] = []
    paths = {"Quantity": 2, "Items": [f"/{PATH}/lxd.tar.xz", f"/{PATH}/rootfs.squashfs"]}
    with stubbed(client) as stub:
        expected = {"DistributionId": "D1", "InvalidationBatch": {"Paths": paths, "CallerReference": ANY}}
        stub.add_response("create_invalidation", invalidation("InProgress"), expected)
        stub.add_response("get_invalidation", invalidation("InProgress"), {"DistributionId": "D1", "Id": "I1"})
        stub.add_response("get_invalidation", invalidation("Completed"), {"DistributionId": "D1", "Id": "I1"})
        invalidate(client, "D1", [f"{PATH}/rootfs.squashfs", f"{PATH}/lxd.tar.xz"], waited.append, 100)
    assert waited == [2, 2]


def test_each_invalidation_has_a_reference_of_its_own(client: CloudFrontClient) -> None:
    """CloudFront answers a known reference with the old invalidation, and invalidates nothing."""
    references: list[str] = []

    def remember(params: dict[str, Any], **_: object) -> None:
        references.append(params["InvalidationBatch"]["CallerReference"])

    client.meta.events.register("provide-client-params.cloudfront.CreateInvalidation", remember)
    with stubbed(client) as stub:
        for _ in range(3):
            stub.add_response("create_invalidation", invalidation("Completed"))
            request_invalidation(client, "D1", ["images/x"], lambda _: None, 100)
    assert len(set(references)) == 3


def test_an_invalidation_that_fails_or_is_too_slow_is_retried_later(client: CloudFrontClient) -> None:
    with stubbed(client) as stub:
        stub.add_client_error("create_invalidation", "Throttling", "slow down", 400)
        with pytest.raises(StorageUnavailable, match=f"was not asked to invalidate /{PATH}/lxd.tar.xz"):
            invalidate(client, "D1", [f"{PATH}/lxd.tar.xz"], lambda _: None, 100)
    with stubbed(client) as stub:
        stub.add_response("create_invalidation", invalidation("InProgress"))
        for _ in range(3):
            stub.add_response("get_invalidation", invalidation("InProgress"))
        with pytest.raises(StorageUnavailable, match="has not invalidated 1 path within 6 s"):
            invalidate(client, "D1", ["images/x"], lambda _: None, 5.5)


def expected(*paths: str) -> dict[str, object]:
    batch = {"Paths": {"Quantity": len(paths), "Items": list(paths)}, "CallerReference": ANY}
    return {"DistributionId": "D1", "InvalidationBatch": batch}


def test_a_path_refused_by_cloudfront_is_invalidated_with_its_whole_stream(client: CloudFrontClient) -> None:
    with stubbed(client) as stub:
        stub.add_client_error(
            "create_invalidation",
            "InvalidArgument",
            "invalid paths",
            400,
            expected_params=expected("/b/c", f"/{PATH}/a"),
        )
        stub.add_response("create_invalidation", invalidation("Completed"), expected("/b/*", "/images/*"))
        invalidate(client, "D1", [f"{PATH}/a", "b/c"], lambda _: None, 100)


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("InvalidArgument", InvalidationRefused),
        ("BatchTooLarge", InvalidationRefused),
        ("AccessDenied", StorageDenied),
        ("NoSuchDistribution", StorageDenied),
        ("ServiceUnavailable", StorageUnavailable),
    ],
)
def test_each_refusal_names_who_can_act(client: CloudFrontClient, code: str, raised: type[SimplestreamsError]) -> None:
    with stubbed(client) as stub:
        stub.add_client_error("create_invalidation", code, "no", 400, expected_params=expected("/images/*"))
        with pytest.raises(raised, match=rf"was not asked to invalidate /images/\*: .*{code}"):
            request_invalidation(
                client, "D1", [f"images/{number}/x" for number in range(MOST_FILES + 1)], lambda _: None, 100
            )


def test_an_error_about_many_paths_names_three(client: CloudFrontClient) -> None:
    with stubbed(client) as stub:
        stub.add_client_error("create_invalidation", "Throttling", "slow down", 400)
        with pytest.raises(StorageUnavailable, match=r"to invalidate /images/a, /images/b, /images/c and 2 more: "):
            request_invalidation(client, "D1", [f"images/{name}" for name in "abcde"], lambda _: None, 100)


def test_many_paths_are_invalidated_as_whole_streams(client: CloudFrontClient) -> None:
    with stubbed(client) as stub:
        paths = {"Quantity": 2, "Items": ["/images-daily/*", "/images/*"]}
        expected = {"DistributionId": "D1", "InvalidationBatch": {"Paths": paths, "CallerReference": ANY}}
        stub.add_response("create_invalidation", invalidation("Completed"), expected)
        invalidate(
            client, "D1", [f"{s}/{n}" for s in ("images", "images-daily") for n in range(600)], lambda _: None, 100
        )


def test_an_invalidation_without_waiting_is_retried_while_cloudfront_throttles(client: CloudFrontClient) -> None:
    waited: list[float] = []
    with stubbed(client) as stub:
        stub.add_client_error("create_invalidation", "TooManyInvalidationsInProgress", "wait", 400)
        stub.add_response("create_invalidation", invalidation("InProgress"))
        request_invalidation(client, "D1", ["images/x"], waited.append, 10)
    assert waited == [2]
    with stubbed(client) as stub:
        for _ in range(3):
            stub.add_client_error("create_invalidation", "TooManyInvalidationsInProgress", "wait", 400)
        with pytest.raises(StorageUnavailable, match="was not asked to invalidate /images/x"):
            request_invalidation(client, "D1", ["images/x"], lambda _: None, 4)
