"""The Atom feed of a stream: RFC 4287's rules, the newest versions, the same bytes for the same catalog."""

from xml.etree import ElementTree as ET

from imageserver.catalog.feeds import ENTRIES, feed_key, render_feed
from imageserver.format import documents
from imageserver.format.documents import Item, Product, Products, Version

ATOM = "{http://www.w3.org/2005/Atom}"


def version(seed: str) -> Version:
    return Version(
        items={"u": Item(ftype="lxd_combined.tar.gz", path=f"images/{seed}.tar.gz", sha256=seed * 64, size=1)}
    )


def catalog(versions: dict[str, Version], title: str = "24.04") -> Products:
    product = Product(
        aliases="ubuntu/noble", arch="amd64", os="Ubuntu", release="noble", release_title=title, variant="default",
        versions=documents.encode_versions(versions),
    )  # fmt: skip
    empty = documents.decode_products(None, "images")
    return Products(
        content_id="images",
        datatype=empty.datatype,
        format=empty.format,
        products={"ubuntu:noble:amd64:default": product},
    )


def read(body: bytes) -> tuple[ET.Element, list[ET.Element]]:
    feed = ET.fromstring(body)  # noqa: S314  (our own)
    return feed, feed.findall(f"{ATOM}entry")


def test_a_feed_and_its_entries_have_what_atom_requires() -> None:
    feed, entries = read(render_feed(catalog({"20261123_1000": version("a")}), "bucket"))
    assert feed.tag == f"{ATOM}feed"
    for element in (feed, *entries):
        for name in ("id", "title", "updated"):
            assert len(element.findall(f"{ATOM}{name}")) == 1
        assert str(element.findtext(f"{ATOM}id")).startswith("urn:uuid:")
    assert feed.find(f"{ATOM}author/{ATOM}name") is not None
    assert [link.get("href") for link in feed.findall(f"{ATOM}link")] == ["images.atom", "../../"]
    (entry,) = entries
    assert entry.findtext(f"{ATOM}title") == "Ubuntu 24.04 amd64 default, 20261123_1000"
    assert entry.findtext(f"{ATOM}updated") == "2026-11-23T10:00:00Z"
    assert "a" * 64 in str(entry.findtext(f"{ATOM}summary"))


def test_the_newest_versions_come_first_and_the_feed_is_bounded() -> None:
    names = [f"20261123_{hour:02}{minute:02}" for hour in range(3) for minute in range(60)]
    feed, entries = read(render_feed(catalog({name: version("b") for name in names}), "bucket"))
    titles = [str(entry.findtext(f"{ATOM}title")) for entry in entries]
    assert [title.rpartition(" ")[2] for title in titles] == sorted(names, reverse=True)[:ENTRIES]
    assert feed.findtext(f"{ATOM}updated") == "2026-11-23T02:59:00Z"


def test_equal_catalogs_give_equal_bytes_and_other_images_other_entries() -> None:
    one = catalog({"20261122": version("a"), "20261123": version("b")})
    other_order = catalog({"20261123": version("b"), "20261122": version("a")})
    assert render_feed(one, "bucket") == render_feed(other_order, "bucket")
    ids = {read(render_feed(catalog({"20261123": version(s)}), "bucket"))[1][0].findtext(f"{ATOM}id") for s in "ab"}
    assert len(ids) == 2
    feeds = {read(render_feed(one, server))[0].findtext(f"{ATOM}id") for server in ("bucket", "another")}
    assert len(feeds) == 2


def test_names_chosen_by_a_publisher_are_escaped_as_valid_xml() -> None:
    _, (entry,) = read(render_feed(catalog({"20261123": version("a")}, "<b>\x1b\ud800&"), "bucket"))
    assert "<b>\ufffd\ufffd&" in str(entry.findtext(f"{ATOM}title"))


def test_an_empty_stream_has_an_empty_feed() -> None:
    feed, entries = read(render_feed(documents.decode_products(None, "images"), "bucket"))
    assert (entries, feed.findtext(f"{ATOM}updated")) == ([], "1970-01-01T00:00:00Z")
    assert feed_key("images") == "streams/v1/images.atom"
