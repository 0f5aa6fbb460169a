"""The catalogs of a server: their products, the keys of their documents, and what the public one leaves out."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from imageserver.format import documents
from imageserver.format.keys import parse_product
from imageserver.format.signed_paths import key_of, signed_path
from imageserver.versions import records
from imageserver.views.catalogs import EVERYBODY, Catalog, catalogs, private_streams
from tests.support import images
from tests.support.memory_store import System
from tests.support.views import channel, private, view

NOBLE = "ubuntu/noble/amd64/default"
NAME, OTHER = "ubuntu:noble:amd64:default", "ubuntu:jammy:amd64:default"
VERSION = "20261123_1000"
STAGING = Catalog(private(), frozenset({"images-staging"}))


@pytest.fixture(scope="module")
def document() -> documents.Products:
    """Return the products document of a stream with two products."""
    server = System()
    for product in (NOBLE, NOBLE.replace("noble", "jammy")):
        path = f"images-staging/{product}/{VERSION}"
        server.upload(path, images.split_image(seed=product))
        server.ingest(path)
    server.publish(*server.products())
    return server.products_document("images-staging")


def index_of(*streams: str) -> documents.Index:
    entry = documents.IndexEntry(datatype="image-downloads", format="products:1.0", path="x", products=["a"])
    return documents.Index(index=dict.fromkeys(streams, entry), format="index:1.0")


def paths(document: documents.Products, name: str) -> list[str]:
    return [item.path for item in documents.decode_versions(document.products[name])[VERSION].items.values()]


def test_the_public_catalog_comes_first_and_those_of_views_follow_by_name() -> None:
    views = {"stable": channel(), "staging": private()}
    found = catalogs(dict(reversed(views.items())))
    hidden = frozenset({"images-staging"})
    assert found == [Catalog(None, hidden), Catalog(views["stable"], hidden), Catalog(views["staging"], hidden)]
    assert private_streams(views.values()) == hidden
    assert catalogs({}) == [EVERYBODY]


def test_the_documents_of_a_view_are_below_its_name() -> None:
    assert (EVERYBODY.prefix, STAGING.prefix) == ("", "views/staging/")


def test_a_view_takes_only_its_products_and_streams_and_the_public_catalog_all() -> None:
    mine, other = parse_product(f"images-staging/{NOBLE}"), parse_product(f"images/{NOBLE}")
    assert EVERYBODY.takes(mine)
    assert EVERYBODY.has("images-staging")
    assert (STAGING.takes(mine), STAGING.takes(other)) == (True, False)
    assert (STAGING.has("images-staging"), STAGING.has("images")) == (True, False)


def test_a_view_lists_the_servers_kinds_of_client_unless_it_is_for_one() -> None:
    served = ("incus", "lxd")
    assert EVERYBODY.clients(served) == STAGING.clients(served) == served
    assert Catalog(view(clients="lxd")).clients(served) == ("lxd",)


def test_streams_that_clients_read_together_are_compared() -> None:
    index = index_of("images", "images-a", "images-staging")
    public = Catalog(private=frozenset({"images-staging"}))
    assert public.others(index, "images") == ["images-a"]
    assert public.others(index, "images-staging") == []
    assert STAGING.others(index, "images-staging") == ["images", "images-a"]


def test_the_index_of_a_view_names_private_streams_and_the_public_one_does_not(document: documents.Products) -> None:
    before = index_of("images", "images-staging")
    public = Catalog(private=frozenset({"images-staging"})).index(before, document)
    assert list(public.index) == ["images"]
    assert public.format == before.format
    for catalog in (STAGING, EVERYBODY):
        assert catalog.index(before, document).index["images-staging"].products == sorted((NAME, OTHER))


def test_a_view_signs_the_paths_of_the_named_products_once(document: documents.Products) -> None:
    assert EVERYBODY.signed(document, [NAME]) == document
    once = STAGING.signed(document, [NAME])
    assert paths(once, OTHER) == paths(document, OTHER)
    secret = private().secret_bytes
    assert paths(once, NAME) == [signed_path("staging", secret, path) for path in paths(document, NAME)]
    assert [key_of(path) for path in paths(once, NAME)] == paths(document, NAME)
    assert STAGING.signed(once, [NAME]) == once
    assert replace(once, products={}) == replace(document, products={})


def test_a_view_is_folded_from_the_records_that_it_selects() -> None:
    server, product = System(), parse_product(f"images-staging/{NOBLE}")
    server.upload(f"{product.path}/{VERSION}", images.split_image())
    server.ingest(f"{product.path}/{VERSION}")
    key = f"{product.records_prefix}{VERSION}.json"
    known = [records.decode(server.store.objects[key].body, key)]
    assert STAGING.records(product, known) == EVERYBODY.records(product, known) == known
    assert STAGING.records(parse_product(f"images/{NOBLE}"), known) == []
    assert Catalog(channel(streams=("images-staging",))).records(product, known) == []
