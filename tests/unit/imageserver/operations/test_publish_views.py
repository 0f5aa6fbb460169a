"""Publishing the catalogs of views together with the public one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from imageserver.format import documents
from imageserver.format.keys import parse_product, parse_version
from imageserver.format.signed_paths import key_of, signed_path
from imageserver.operations.promotion import promote, take_back
from imageserver.operations.view_documents import create_view
from imageserver.operations.withdraw import restore, withdraw
from imageserver.views.view import view_key
from tests.support import client_rules, images
from tests.support.memory_store import System
from tests.support.views import channel, private, system, view

NOBLE = "ubuntu/noble/amd64/default"
NAME = "ubuntu:noble:amd64:default"
OLD, NEW = "20261122_1000", "20261123_1000"


def upload(server: System, path: str, seed: str = "") -> str:
    server.upload(path, images.split_image(seed=seed or path))
    server.ingest(path)
    server.publish(parse_version(path).product)
    return path


def pause(_seconds: float) -> None:
    """Do not wait."""


def promoted(server: System, path: str, to: str = "stable") -> None:
    promote(server.store, to, parse_version(path), server.store.clock, "ann", pause)
    server.publish(parse_version(path).product)


def served(server: System, name: str) -> dict[str, bytes]:
    return {key: found.body for key, found in server.store.objects.items() if key.startswith(f"views/{name}/")}


def test_enabled_views_without_any_view_change_no_byte_and_cost_one_more_listing() -> None:
    without, able = System(), system()
    for server in (without, able):
        upload(server, f"images/{NOBLE}/{NEW}")
        server.store.log.clear()
        server.publish(parse_product(f"images/{NOBLE}"))
    assert without.streams() == able.streams()
    assert [call for call in able.store.log if call not in without.store.log] == [("list", "private/views/")]


def test_a_server_without_views_reads_none() -> None:
    server = System()
    upload(server, f"images/{NOBLE}/{NEW}")
    assert not [key for _, key in server.store.log if "views" in key]


def test_a_private_stream_is_in_its_view_and_not_in_the_public_index() -> None:
    server = system(private())
    upload(server, f"images-staging/{NOBLE}/{NEW}")
    upload(server, f"images/{NOBLE}/{OLD}")
    assert list(documents.decode_index(server.streams()[documents.INDEX_KEY]).index) == ["images"]
    assert server.listed("images-staging", "staging") == {NAME: [NEW]}
    index = documents.decode_index(served(server, "staging")["views/staging/streams/v1/index.json"])
    assert index.index["images-staging"].path == "streams/v1/images-staging.json"
    assert index.index["images-staging"].products == [NAME]


def test_a_view_has_all_four_documents_of_its_stream() -> None:
    server = system(private())
    upload(server, f"images-staging/{NOBLE}/{NEW}")
    server.upload(f"images-staging/{NOBLE}/{OLD}", {"rootfs.squashfs": images.squashfs("x")})
    server.catch_up()
    assert sorted(served(server, "staging")) == [
        "views/staging/streams/v1/images-staging.atom",
        "views/staging/streams/v1/images-staging.json",
        "views/staging/streams/v1/images-staging.unlisted.json",
        "views/staging/streams/v1/index.json",
    ]


def test_the_files_of_a_view_have_signed_paths_and_their_usual_digests() -> None:
    chosen = view("all", ("images",))
    server = system(chosen)
    path = upload(server, f"images/{NOBLE}/{NEW}")
    plain = documents.versions_of(server.products_document(), NAME)[NEW].items
    signed = documents.versions_of(server.products_document(view="all"), NAME)[NEW].items
    assert {name: replace(item, path=key_of(item.path)) for name, item in signed.items()} == plain
    assert signed["rootfs.squashfs"].path == signed_path("all", chosen.secret_bytes, f"{path}/rootfs.squashfs")
    strip = "views/all/"
    catalog = {key.removeprefix(strip): body for key, body in served(server, "all").items()}
    for client in ("lxd", "incus"):
        (image,) = client_rules.read_catalog(catalog[documents.INDEX_KEY], catalog, client)
        assert image.fingerprint


def test_streams_that_no_catalog_shows_together_do_not_compete_for_names_or_images() -> None:
    server = system(private())
    upload(server, f"images/{NOBLE}/{NEW}", seed="the same")
    upload(server, f"images-staging/{NOBLE}/{NEW}", seed="the same")
    assert server.products_document().withheld == {}
    assert server.products_document("images-staging", "staging").withheld == {}
    assert "staging" not in server.streams()["streams/v1/images.json"].decode()


def test_two_streams_of_one_view_list_an_image_once() -> None:
    server = system(private(), view("both", ("images", "images-staging"), is_private=True))
    upload(server, f"images/{NOBLE}/{NEW}", seed="the same")
    upload(server, f"images-staging/{NOBLE}/{NEW}", seed="the same")
    assert server.listed("images", "both") == {NAME: [NEW]}
    assert server.listed("images-staging", "both") == {}
    assert server.listed("images-staging", "staging") == {NAME: [NEW]}


def test_an_image_that_only_a_view_lists_is_served_by_the_edge_too() -> None:
    """The public catalog has it in the other stream; the view has only this stream."""
    server = system(view("one", ("images-b",)))
    upload(server, f"images/{NOBLE}/{NEW}", seed="the same")
    path = upload(server, f"images-b/{NOBLE}/{NEW}", seed="the same")
    assert server.listed("images-b") == {}
    assert server.listed("images-b", "one") == {NAME: [NEW]}
    assert server.store.is_tagged(f"{path}/rootfs.squashfs")


def test_a_view_with_filters_has_only_products_that_match_one_of_them() -> None:
    server = system(view("mine", ("images",), only=("debian", "ubuntu:noble:*:cloud")))
    for product in (NOBLE, "ubuntu/noble/amd64/cloud", "debian/trixie/amd64/default"):
        upload(server, f"images/{product}/{NEW}")
    assert set(server.listed("images", "mine")) == {"debian:trixie:amd64:default", "ubuntu:noble:amd64:cloud"}
    assert b"noble:amd64:default" not in b"".join(served(server, "mine").values())


@pytest.mark.parametrize("kind", ["incus", "lxd"])
@pytest.mark.parametrize("offered", [("incus", "lxd"), ("lxd",), ("incus",)], ids="+".join)
def test_a_view_for_one_kind_of_client_lists_only_the_items_of_that_kind(kind: str, offered: tuple[str, ...]) -> None:
    server = system(view("one", ("images",), clients=kind))
    server.clients = offered
    upload(server, f"images/{NOBLE}/{NEW}")
    catalog = {key.removeprefix("views/one/"): body for key, body in served(server, "one").items()}
    for client, seen in ((kind, 1), ("lxd" if kind == "incus" else "incus", 0)):
        assert len(client_rules.read_catalog(catalog[documents.INDEX_KEY], catalog, client)) == seen
    (product,) = server.products_document().products.values()
    listed = documents.decode_versions(product)[NEW].items
    assert {name.removesuffix(".tar.xz") for name in listed if name.endswith(".tar.xz")} == set(offered)


def test_a_virtual_machine_in_one_tarball_is_in_the_view_for_incus_and_withheld_in_the_one_for_lxd() -> None:
    server = system(view("one", ("images",), clients="incus"), view("other", ("images",), clients="lxd"))
    path = f"images/{NOBLE}/{NEW}"
    machine = images.tarball({"metadata.yaml": images.metadata_yaml(), "rootfs.img": images.qcow2()})
    server.upload(path, {"incus_combined.tar.gz": images.compress(machine, "gz")})
    server.ingest(path)
    server.publish(parse_version(path))
    assert server.listed("images", "one") == {NAME: [NEW]}
    assert server.listed("images", "other") == {}
    (withheld,) = server.products_document("images", "other").withheld[NAME]
    assert "LXD cannot launch" in withheld.reason


def test_a_channel_shows_one_version_and_moves_forward_and_back_without_another_upload() -> None:
    server = system(channel())
    old = upload(server, f"images/{NOBLE}/{OLD}")
    promoted(server, old)
    new = upload(server, f"images/{NOBLE}/{NEW}")
    assert server.listed("images", "stable") == {NAME: [OLD]}
    before = served(server, "stable")
    promoted(server, new)
    assert server.listed("images", "stable") == {NAME: [NEW]}
    take_back(server.store, "stable", parse_product(f"images/{NOBLE}"), server.store.clock, "bob", pause)
    server.publish(parse_product(f"images/{NOBLE}"))
    assert served(server, "stable") == before
    assert server.listed() == {NAME: [OLD, NEW]}


def test_a_channel_that_follows_the_newest_moves_with_each_upload_and_with_a_withdrawal() -> None:
    server = system(channel(follows_newest=True))
    upload(server, f"images/{NOBLE}/{OLD}")
    assert server.listed("images", "stable") == {NAME: [OLD]}
    new = parse_version(upload(server, f"images/{NOBLE}/{NEW}"))
    assert server.listed("images", "stable") == {NAME: [NEW]}
    withdraw(server.store, new, server.store.clock, 24, pause)
    server.publish(new)
    assert server.listed("images", "stable") == {NAME: [OLD]}


def test_a_channel_reveals_nothing_about_a_version_that_it_does_not_point_to() -> None:
    server = system(channel())
    promoted(server, upload(server, f"images/{NOBLE}/{OLD}"))
    upload(server, f"images/{NOBLE}/{NEW}")
    server.upload(f"images/{NOBLE}/20261120_1000", {"rootfs.squashfs": images.squashfs("x")})
    server.catch_up()
    everything = b"".join(served(server, "stable").values())
    assert NEW.encode() not in everything
    assert b"20261120_1000" not in everything


def test_withdrawing_the_version_of_a_channel_moves_it_back_and_restoring_it_forward() -> None:
    server = system(channel())
    for version in (OLD, NEW):
        promoted(server, upload(server, f"images/{NOBLE}/{version}"))
    target = parse_version(f"images/{NOBLE}/{NEW}")
    withdraw(server.store, target, server.store.clock, 24, pause)
    server.publish(target)
    assert server.listed("images", "stable") == {NAME: [OLD]}
    restore(server.store, target, pause)
    server.publish(target)
    assert server.listed("images", "stable") == {NAME: [NEW]}


def test_moving_a_channel_invalidates_nothing() -> None:
    server = system(channel())
    promoted(server, upload(server, f"images/{NOBLE}/{OLD}"))
    path = upload(server, f"images/{NOBLE}/{NEW}")
    promote(server.store, "stable", parse_version(path), server.store.clock, "ann", pause)
    (done,) = server.publish(parse_product(f"images/{NOBLE}"))
    assert not done.invalidated
    assert not done.listed
    assert not done.delisted


def test_an_unchanged_document_of_a_view_is_not_written() -> None:
    server = system(channel(), private())
    upload(server, f"images/{NOBLE}/{NEW}")
    (done,) = server.publish(parse_product(f"images/{NOBLE}"))
    assert done.writes == 0
    assert served(server, "staging") == {}


def test_a_view_that_changes_while_it_is_read_is_read_again() -> None:
    server = system(channel())
    path = upload(server, f"images/{NOBLE}/{NEW}")

    server.store.meanwhile(
        "read",
        "streams/v1/images.json",
        lambda: promote(server.store, "stable", parse_version(path), server.store.clock, "ann", pause),
    )
    (done,) = server.publish(parse_product(f"images/{NOBLE}"))
    assert done.lost_races == 1
    assert server.listed("images", "stable") == {NAME: [NEW]}


def test_a_view_document_written_after_the_records_were_read_is_not_overwritten() -> None:
    """The first publisher has read its records and the view; the second one promotes and publishes."""
    server = system(channel())
    promoted(server, upload(server, f"images/{NOBLE}/{OLD}"))
    path = upload(server, f"images/{NOBLE}/{NEW}")
    server.store.remove("streams/v1/images.json")  # something to write

    server.store.meanwhile("create", "streams/v1/images.json", lambda: promoted(server, path))
    (done,) = server.publish(parse_product(f"images/{NOBLE}"))
    assert done.lost_races == 1
    assert server.listed("images", "stable") == {NAME: [NEW]}


def test_the_catalog_of_a_view_is_made_from_records_read_after_its_revision() -> None:
    server = system(channel())
    promoted(server, upload(server, f"images/{NOBLE}/{OLD}"))
    path = upload(server, f"images/{NOBLE}/{NEW}")
    prefix = f"versions/images/{NOBLE}/"

    server.store.meanwhile("list", prefix, lambda: promoted(server, path))
    (done,) = server.publish(parse_product(f"images/{NOBLE}"))
    assert (done.attempts, done.lost_races) == (2, 1), "two documents of the view were lost, in one race"
    assert server.listed("images", "stable") == {NAME: [NEW]}


def test_a_view_that_changes_while_its_catalog_is_written_is_published_again() -> None:
    server = system(channel())
    promoted(server, upload(server, f"images/{NOBLE}/{OLD}"))
    path = f"images/{NOBLE}/{NEW}"
    server.upload(path, images.split_image(seed=path))
    server.ingest(path)

    server.store.meanwhile(
        "replace",
        "streams/v1/images.json",
        lambda: promote(server.store, "stable", parse_version(path), server.store.clock, "ann", pause),
    )
    (done,) = server.publish(parse_product(f"images/{NOBLE}"))
    assert done.repeats == 1
    assert server.listed("images", "stable") == {NAME: [NEW]}


def test_an_unreadable_view_stops_its_stream_and_hides_nothing() -> None:
    server = system(private())
    server.store.put(view_key("staging"), b"{}")
    path = f"images-staging/{NOBLE}/{NEW}"
    server.upload(path, images.split_image())
    server.ingest(path)
    with pytest.raises(Exception, match=r"private/views/staging\.json cannot be read"):
        server.publish(parse_version(path))
    assert server.streams() == {}


def test_a_stream_that_becomes_private_leaves_the_index_and_frees_the_names_that_it_had() -> None:
    server = system()
    upload(server, f"images-staging/{NOBLE}/{OLD}")
    server.store.clock += timedelta(seconds=1)
    upload(server, f"images/{NOBLE}/{NEW}")
    assert server.products_document().products[NAME].aliases == ""
    create_view(server.store, private())
    server.publish(*server.products())
    assert list(documents.decode_index(server.streams()[documents.INDEX_KEY]).index) == ["images"]
    assert "ubuntu/noble" in server.products_document().products[NAME].aliases.split(",")


def test_the_order_of_events_does_not_matter() -> None:
    paths = [f"{stream}/{NOBLE}/{version}" for stream in ("images", "images-staging") for version in (OLD, NEW)]
    results = []
    for order in (paths, paths[::-1]):
        server = system(channel(), private())
        for path in paths:
            server.upload(path, images.split_image(seed=path))
            server.ingest(path)
        for path in order:
            server.publish(parse_version(path))
        promoted(server, paths[0])
        results.append(served(server, "stable") | served(server, "staging") | server.streams())
    assert results[0] == results[1]
