"""Publishing a stream: races staged between a read and a write, and what a damaged document stops."""

import pytest

import images
from memory import System
from simplestreams import catalog
from simplestreams.errors import CatalogBusy, CatalogDamaged
from simplestreams.keys import parse_product

A, B = "images/a/r/amd64/default", "images/b/r/amd64/default"
VERSION = "20261123_10:00"
DOCUMENT = "streams/v1/images.json"
INDEX = "streams/v1/index.json"


@pytest.fixture
def system() -> System:
    """Two settled products, nothing published."""
    system = System()
    for path in (A, B):
        system.upload(f"{path}/{VERSION}", images.split_image(seed=path))
        system.settle(f"{path}/{VERSION}")
    return system


@pytest.mark.parametrize("method", ["create", "replace"])
@pytest.mark.parametrize("document", [DOCUMENT, INDEX])
def test_a_lost_race_keeps_what_the_winner_wrote(system: System, method: str, document: str) -> None:
    """Both publishers read the same revision; the second to write must start again, not overwrite."""
    first, second = (A, B)
    if method == "replace":
        extra = "images/c/r/amd64/default"
        system.upload(f"{extra}/{VERSION}", images.split_image(seed="3"))
        system.settle(f"{extra}/{VERSION}")
        system.publish(parse_product(extra))

    def winner(called: str, key: str) -> None:
        if (called, key) == (method, document):
            system.store.on = lambda *_: None
            system.publish(parse_product(second))

    system.store.on = winner
    (done,) = system.publish(parse_product(first))
    assert done.lost_races == 1
    assert {"a:r:amd64:default", "b:r:amd64:default"} <= set(system.listed())
    index = catalog.decode_index(system.streams()[INDEX])
    assert index.index["images"].products == sorted(system.listed())


def test_revisions_are_read_before_records(system: System) -> None:
    system.publish(parse_product(A))
    calls = [call for call in system.store.log if call[1].startswith(("streams/", "versions/"))]
    first_record = next(i for i, (method, key) in enumerate(calls) if method == "list" and key.startswith("versions/"))
    reads = [key for method, key in calls[:first_record] if method == "read" and key.startswith("streams/")]
    assert set(reads) == {DOCUMENT, INDEX, "streams/v1/images.unlisted.json"}


def test_a_batch_of_any_size_writes_each_document_once(system: System) -> None:
    for number in range(30):
        path = f"images/many/r{number}/amd64/default/{VERSION}"
        system.upload(path, images.split_image(seed=str(number)))
        system.settle(path)
    (done,) = system.publish(*system.products())
    assert done.writes == 2
    assert len(system.listed()) == 32


def test_the_index_is_left_alone_when_no_product_came_or_went(system: System) -> None:
    system.publish(parse_product(A))
    system.upload(f"{A}/20261124_10:00", images.split_image(seed="new"))
    system.settle(f"{A}/20261124_10:00")
    system.store.log.clear()
    (done,) = system.publish(parse_product(A))
    assert done.writes == 1
    assert ("replace", INDEX) not in system.store.log


def test_a_publisher_that_died_before_the_index_is_made_good_by_the_next(system: System) -> None:
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
    assert catalog.decode_index(system.streams()[INDEX]).index["images"].products == ["a:r:amd64:default"]


def test_losing_every_race_is_said(system: System) -> None:
    def always(method: str, key: str) -> None:
        if method in ("create", "replace") and key == DOCUMENT:
            body = catalog.encode(catalog.decode_products(None, "images"))
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


def test_a_damaged_record_holds_up_its_own_product_only(system: System) -> None:
    system.store.put(f"versions/{A}/{VERSION}.json", b"{torn")
    (done,) = system.publish(parse_product(A), parse_product(B))
    assert list(done.damaged) == [parse_product(A)]
    assert system.listed() == {"b:r:amd64:default": [VERSION]}


def test_a_product_whose_record_is_damaged_keeps_what_was_listed(system: System) -> None:
    system.publish(parse_product(A))
    system.store.put(f"versions/{A}/{VERSION}.json", b"{torn")
    system.publish(parse_product(A))
    assert system.listed() == {"a:r:amd64:default": [VERSION]}
