"""Invariants for any input: order and repetition of events, size of chunks, keys."""

import hashlib
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from imageserver.errors import InvalidUpload
from imageserver.format.keys import parse_key, parse_product, parse_record_key, version_of
from imageserver.inspection.digests import Digests
from imageserver.storage.ranged_reader import hash_fan
from tests.support import images
from tests.support.client_rules import read_catalog
from tests.support.memory_store import System

PRODUCTS = ("images/a/r/amd64/default", "images/b/r/amd64/default", "images/b/r/arm64/cloud", "images-x/a/r/amd64/v")
VERSIONS = ("20261120", "20261121", "20261121.2", "20261121.10", "202611211000")
SEEDS = ("1", "2", "3")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, str, str]]:
    """Draw uploads and deletions: (path of a version, action, seed). There are few seeds, so fingerprints collide."""
    paths = st.builds("{}/{}".format, st.sampled_from(PRODUCTS), st.sampled_from(VERSIONS))
    doing = st.sampled_from(["image", "disk", "metadata", "no root", "delete", "aliases"])
    return draw(st.lists(st.tuples(paths, doing, st.sampled_from(SEEDS)), max_size=14))


def act(system: System, path: str, doing: str, seed: str) -> None:
    arch = path.split("/")[3]
    if doing == "delete":
        for key in [key for key in system.store.objects if key.startswith(f"{path}/")]:
            system.store.remove(key)
    files = {
        "image": images.split_image(arch, seed),
        "disk": {"disk.qcow2": images.qcow2(seed)},
        "metadata": {"lxd.tar.xz": images.metadata_tarball(arch, serial=seed)},
        "no root": {"rootfs.squashfs": images.squashfs(seed)},
        "aliases": {"metadata.json": f'{{"aliases": ["shared", "b/r", "own-{seed}"]}}'.encode()},
    }
    system.upload(path, files.get(doing, {}))


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_any_order_and_repetition_of_events_ends_in_the_bytes_of_a_rebuild(
    history: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    """Products are folded one by one in the order of events, and all at once from nothing."""
    system = System()
    for path, doing, seed in history:
        act(system, path, doing, seed)
        if data.draw(st.booleans()):
            system.ingest(path)
        if data.draw(st.booleans()):
            known = [product for product in system.products() if product == version_of(f"{path}/").product]
            system.publish(*known)
    events = [path for path, _, _ in history] * data.draw(st.integers(1, 2))
    for path in data.draw(st.permutations(events)):
        system.ingest(path)
        system.publish(version_of(f"{path}/").product)
    served = system.streams()
    system.publish(*system.products())
    assert system.streams() == served, "folding again changed something"
    for key in served:
        system.store.remove(key)
    system.publish(*system.products())
    assert _with_content(system.streams()) == _with_content(served)


def _with_content(streams: dict[str, bytes]) -> dict[str, bytes]:
    """Return the documents with content: a rebuild makes no empty document and no feed without an entry."""
    empty = (b'"products":{}', b'"index":{}', b"<updated>1970-01-01T00:00:00Z</updated>")
    return {key: body for key, body in streams.items() if not any(nothing in body for nothing in empty)}


@settings(max_examples=60, deadline=None)
@given(histories())
def test_clients_read_every_catalog_without_a_fault(history: list[tuple[str, str, str]]) -> None:
    system = System()
    for path, doing, seed in history:
        act(system, path, doing, seed)
    system.catch_up()
    streams = system.streams()
    if not streams:
        return
    for client in ("lxd", "incus"):
        documents = {key: body for key, body in streams.items() if not key.endswith("unlisted.json")}
        found = read_catalog(streams["streams/v1/index.json"], documents, client)
        by_stream = itertools.groupby(sorted(i.files["meta"].path.split("/")[0] + i.fingerprint for i in found))
        assert [name for name, same in by_stream if len(list(same)) > 1] == []
        for image in found:
            for download in image.files.values():
                body = system.store.objects[download.path].body
                assert (len(body), hashlib.sha256(body).hexdigest()) == (download.size_bytes, download.sha256)


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.integers(1, 700), st.booleans())
def test_the_size_of_chunks_never_changes_a_digest(metadata: bytes, root: bytes, size: int, threads: bool) -> None:
    first = Digests()
    for _ in first.tee([metadata]):
        pass
    prefixes = {first.sha256: first.state}
    digests = Digests(prefixes, spread=hash_fan) if threads else Digests(prefixes)
    chunks = [root[start : start + size] for start in range(0, len(root), size)]
    assert b"".join(digests.tee(chunks)) == root
    assert digests.sha256 == images.sha256_hex(root)
    assert digests.combined == {images.sha256_hex(metadata): images.sha256_hex(metadata, root)}


KEY_TEXT = st.text(st.sampled_from("aZ09._-~:+/% \\\x00é"), max_size=8)


@given(st.lists(KEY_TEXT, min_size=1, max_size=8))
def test_a_key_is_parsed_into_itself_or_refused(parts: list[str]) -> None:
    key = "images/" + "/".join(parts)
    try:
        parsed = parse_key(key)
    except InvalidUpload:
        return
    assert parsed.key == key
    assert parse_record_key(parsed.version.record_key) == parsed.version
    assert parse_product(parsed.version.product.path) == parsed.version.product
