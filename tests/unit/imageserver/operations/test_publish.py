"""Publishing a stream: races between a read and a write, and what a damaged document blocks."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from imageserver.errors import CatalogBusy, CatalogDamaged
from imageserver.format import documents
from imageserver.format.keys import ProductId, parse_product, parse_version, stream_lease_key
from imageserver.operations.publish import LEASE_S, Published, lease_wait_seconds, publish
from tests.support import images
from tests.support.memory_store import System

A, B = "images/a/r/amd64/default", "images/b/r/amd64/default"
VERSION = "20261123_10:00"
DOCUMENT = "streams/v1/images.json"
INDEX = "streams/v1/index.json"


@pytest.fixture
def system() -> System:
    """Two ingested products, nothing published."""
    system = System()
    for path in (A, B):
        system.upload(f"{path}/{VERSION}", images.split_image(seed=path))
        system.ingest(f"{path}/{VERSION}")
    return system


@pytest.mark.parametrize("method", ["create", "replace"])
@pytest.mark.parametrize("document", [DOCUMENT, INDEX])
def test_a_lost_race_keeps_what_the_winner_wrote(system: System, method: str, document: str) -> None:
    """Both publishers read the same revision; the second to write must start again, not overwrite."""
    first, second = (A, B)
    if method == "replace":
        extra = "images/c/r/amd64/default"
        system.upload(f"{extra}/{VERSION}", images.split_image(seed="3"))
        system.ingest(f"{extra}/{VERSION}")
        system.publish(parse_product(extra))

    def winner(called: str, key: str) -> None:
        if (called, key) == (method, document):
            system.store.on = lambda *_: None
            system.publish(parse_product(second))

    system.store.on = winner
    (done,) = system.publish(parse_product(first))
    assert done.lost_races == 1
    assert {"a:r:amd64:default", "b:r:amd64:default"} <= set(system.listed())
    index = documents.decode_index(system.streams()[INDEX])
    assert index.index["images"].products == sorted(system.listed())


def test_revisions_are_read_before_records(system: System) -> None:
    system.store.log.clear()
    system.publish(parse_product(A))
    calls = [call for call in system.store.log if call[1].startswith(("streams/", "versions/"))]
    first_record = next(i for i, (method, key) in enumerate(calls) if method == "list" and key.startswith("versions/"))
    reads = [key for method, key in calls[:first_record] if method == "read" and key.startswith("streams/")]
    assert set(reads) == {DOCUMENT, INDEX, "streams/v1/images.unlisted.json", "streams/v1/images.atom"}


def test_an_upload_may_be_served_before_the_catalog_lists_it(system: System) -> None:
    system.store.log.clear()
    system.publish(parse_product(A))
    written = system.store.log.index(("create", DOCUMENT))
    tagged = {key for method, key in system.store.log[:written] if method == "tag_listed"}
    assert tagged == {key for key in system.store.objects if key.startswith(A)}
    assert all(system.store.is_tagged(key) for key in tagged)
    assert not any(system.store.is_tagged(key) for key in system.store.objects if key.startswith(B))


def test_changed_bytes_may_be_served_once_they_are_listed_and_the_old_ones_invalidated(
    system: System,
) -> None:
    system.publish(parse_product(A))
    path, root = f"{A}/{VERSION}", f"{A}/{VERSION}/rootfs.squashfs"
    system.upload(path, {"rootfs.squashfs": images.squashfs("other")})
    assert not system.store.is_tagged(root), "nobody has looked at it yet"
    system.ingest(path)
    system.store.log.clear()
    invalidated: list[int] = []
    services = replace(system.publish_services, invalidate=lambda _: invalidated.append(len(system.store.log)))
    publish("images", [parse_version(path)], services)
    tagged = system.store.log.index(("tag_listed", root))
    assert invalidated[0] <= system.store.log.index(("replace", DOCUMENT)) < tagged
    assert system.store.is_tagged(root)


def test_the_same_bytes_uploaded_again_may_be_served_although_the_catalog_does_not_change(system: System) -> None:
    system.publish(parse_product(A))
    path, root, before = f"{A}/{VERSION}", f"{A}/{VERSION}/rootfs.squashfs", system.streams()
    for body in (images.squashfs("other"), system.store.objects[root].body):
        system.store.put(root, body)
    system.ingest(path)
    for subject in (parse_version(path), parse_product(A)):
        assert not system.store.is_tagged(root)
        publish("images", [subject], system.publish_services)
        assert system.store.is_tagged(root)
        system.store.objects[root].is_tagged = False
    assert system.streams() == before


def test_a_product_that_would_stay_unmarked_if_its_publisher_died_is_published_again(system: System) -> None:
    """A message about one version also lists changed bytes of another, about which no further message would come."""
    system.publish(parse_product(A))
    other = f"{A}/20261122_10:00"
    system.upload(other, images.split_image(seed="2"))
    system.ingest(other)
    system.upload(f"{A}/{VERSION}", {"rootfs.squashfs": images.squashfs("other")})
    system.ingest(f"{A}/{VERSION}")
    root, asked = f"{A}/{VERSION}/rootfs.squashfs", list[ProductId]()

    def die(method: str, key: str) -> None:
        if (method, key) == ("tag_listed", root):
            assert asked == [parse_product(A)]
            raise KeyboardInterrupt

    system.store.on = die
    with pytest.raises(KeyboardInterrupt):
        publish("images", [parse_version(other)], replace(system.publish_services, notify=asked.append))
    system.store.on = lambda *_: None
    publish("images", [parse_version(other)], system.publish_services)  # its message came back
    assert not system.store.is_tagged(root)
    publish("images", asked, system.publish_services)
    assert system.store.is_tagged(root)


def test_a_batch_of_any_size_writes_each_document_once(system: System) -> None:
    for number in range(30):
        path = f"images/many/r{number}/amd64/default/{VERSION}"
        system.upload(path, images.split_image(seed=str(number)))
        system.ingest(path)
    (done,) = system.publish(*system.products())
    assert done.writes == 3
    assert len(system.listed()) == 32


def test_the_index_is_not_written_if_no_product_came_or_went(system: System) -> None:
    system.publish(parse_product(A))
    system.upload(f"{A}/20261124_10:00", images.split_image(seed="new"))
    system.ingest(f"{A}/20261124_10:00")
    system.store.log.clear()
    (done,) = system.publish(parse_product(A))
    assert done.writes == 2
    assert ("replace", INDEX) not in system.store.log


def test_the_next_publisher_completes_an_index_that_a_dead_one_left(system: System) -> None:
    class Killed(Exception):
        pass

    def kill(method: str, key: str) -> None:
        if (method, key) == ("create", INDEX):
            raise Killed

    system.store.on = kill
    with pytest.raises(Killed):
        system.publish(parse_product(A))
    system.store.on = lambda *_: None
    assert INDEX not in system.streams()
    system.publish(parse_product(A))
    assert documents.decode_index(system.streams()[INDEX]).index["images"].products == ["a:r:amd64:default"]


def test_a_version_is_reported_as_listed_once_even_if_the_index_loses_a_race(system: System) -> None:
    """Its document is already written then, and the winning attempt finds nothing new in it."""

    def another(method: str, key: str) -> None:
        if (method, key) == ("create", INDEX):
            system.store.on = lambda *_: None
            system.store.put(INDEX, documents.encode(documents.decode_index(None)))

    system.store.on = another
    (done,) = system.publish(parse_product(A))
    assert done.lost_races == 1
    assert [record.version for record in done.listed] == [f"{A}/{VERSION}"]
    system.store.remove(f"{A}/{VERSION}/rootfs.squashfs")
    system.ingest(f"{A}/{VERSION}")
    (done,) = system.publish(parse_product(A))
    assert [version.path for version in done.delisted] == [f"{A}/{VERSION}"]


def test_losing_every_race_raises_catalog_busy(system: System) -> None:
    def always(method: str, key: str) -> None:
        if method in ("create", "replace") and key == DOCUMENT:
            body = documents.encode(documents.decode_products(None, "images"))
            system.store.put(DOCUMENT, body.replace(b"products:1.0", f"{len(system.store.log)}".encode()))

    system.store.on = always
    with pytest.raises(CatalogBusy, match="the catalog of images: 10 attempts"):
        system.publish(parse_product(A))


@pytest.mark.parametrize("document", [DOCUMENT, INDEX, "streams/v1/images.unlisted.json"])
@pytest.mark.parametrize("body", [b"", b"{torn", b"[]", b'{"products": 5}'])
def test_a_damaged_document_is_never_taken_for_empty(system: System, document: str, body: bytes) -> None:
    system.store.put(document, body)
    before = system.streams()
    with pytest.raises(CatalogDamaged, match=document):
        system.publish(parse_product(A))
    assert system.streams() == before


def test_a_damaged_record_blocks_only_its_own_product(system: System) -> None:
    system.store.put(f"versions/{A}/{VERSION}.json", b"{torn")
    (done,) = system.publish(parse_product(A), parse_product(B))
    assert list(done.damaged) == [parse_product(A)]
    assert system.listed() == {"b:r:amd64:default": [VERSION]}


def test_a_product_with_a_damaged_record_keeps_its_listed_versions(system: System) -> None:
    system.publish(parse_product(A))
    system.store.put(f"versions/{A}/{VERSION}.json", b"{torn")
    system.publish(parse_product(A))
    assert system.listed() == {"a:r:amd64:default": [VERSION]}


def test_a_damaged_record_blocks_products_that_share_its_image_and_no_others(system: System) -> None:
    """C has the same image as A, whose record is damaged, so whether C may list it is unknown. B is published."""
    c = "images/c/r/amd64/default"
    system.publish(parse_product(A))
    system.store.put(f"versions/{A}/{VERSION}.json", b"{torn")
    system.upload(f"{c}/{VERSION}", images.split_image(seed=A))
    system.ingest(f"{c}/{VERSION}")
    (done,) = system.publish(parse_product(B), parse_product(c))
    assert set(done.damaged) == {parse_product(A), parse_product(c)}
    assert "c:r:amd64:default shares an image with a:r:amd64:default" in str(done.damaged[parse_product(c)])
    assert system.listed() == {"a:r:amd64:default": [VERSION], "b:r:amd64:default": [VERSION]}
    system.store.remove(f"versions/{A}/{VERSION}.json")
    system.ingest(f"{A}/{VERSION}")
    (done,) = system.publish(parse_product(A), parse_product(c))
    assert done.damaged == {}
    assert system.listed().keys() == {"a:r:amd64:default", "b:r:amd64:default"}  # the first by name lists it


class WaitingPublisher:
    """A publisher of A while another holds the stream's lease for `seconds`. Time passes during its pauses."""

    def __init__(self, system: System, seconds: float) -> None:
        self.system, self.waited = system, 0.0
        system.store.put(MARK, json.dumps({"seconds": seconds, "token": "another"}).encode())

    def publish(self, lease_wait_s: float = LEASE_S) -> Published:
        return publish(
            "images",
            [parse_product(A)],
            replace(self.system.publish_services, pause=self.pause, lease_wait_s=lease_wait_s),
        )

    def pause(self, seconds: float) -> None:
        self.waited += seconds
        self.system.store.clock += timedelta(seconds=seconds)


MARK = stream_lease_key("images")


def test_a_publisher_holds_the_lease_only_while_it_writes(system: System) -> None:
    held = []

    def look(_method: str, key: str) -> None:
        if key == DOCUMENT:
            held.append(MARK in system.store.objects)

    system.store.on = look
    (done,) = system.publish(parse_product(A))
    assert done.had_lease
    assert held
    assert all(held)
    assert MARK not in system.store.objects


def test_a_publisher_waits_for_the_lease(system: System) -> None:
    waiting = WaitingPublisher(system, 300)

    def remove(method: str, key: str) -> None:
        if key == MARK and waiting.waited > 3:
            system.store.on = lambda *_: None
            system.store.remove(MARK)

    system.store.on = remove
    done = waiting.publish()
    assert (done.had_lease, done.attempts, 3 < waiting.waited < 4) == (True, 1, True)
    assert list(system.listed()) == ["a:r:amd64:default"]


def test_an_expired_lease_is_taken_over(system: System) -> None:
    waiting = WaitingPublisher(system, 5)
    assert waiting.publish().had_lease
    assert 5 <= waiting.waited < 6
    assert MARK not in system.store.objects


def test_a_publisher_that_waited_long_enough_writes_without_the_lease(system: System) -> None:
    waiting = WaitingPublisher(system, 300)
    done = waiting.publish(lease_wait_s=2.0)
    assert (done.had_lease, waiting.waited) == (False, 2.0)
    assert list(system.listed()) == ["a:r:amd64:default"]
    assert MARK in system.store.objects  # it is the other one's


@pytest.mark.parametrize(("left_s", "lease_wait_s"), [(900, 20.0), (60, 15.0), (4, 1.0)])
def test_the_lease_leaves_time_to_publish(left_s: float, lease_wait_s: float) -> None:
    assert lease_wait_seconds(left_s) == lease_wait_s
