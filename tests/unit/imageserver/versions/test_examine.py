"""A file whose uploader declared another digest."""

from __future__ import annotations

import dataclasses

from msgspec.structs import replace

from imageserver.api import status
from imageserver.format.keys import parse_version
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.port import Opened
from imageserver.versions import examine
from imageserver.versions.records import FileFacts, Origin
from tests.support import images
from tests.support.memory_store import MemoryStore, System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"


VERSION = parse_version(PATH)


def test_a_digest_that_differs_from_the_declared_one_is_refused_with_both() -> None:
    facts = FileFacts(etag="e", size_bytes=1, modified="", sha256="a" * 64, combined={"m": "c"})
    refused = examine.compare_declared(facts, "b" * 64, None)
    assert refused.refusal == f"has sha256 {'a' * 64}, expected {'b' * 64} as its uploader declared; upload it again"
    assert (refused.sha256, refused.combined) == ("", {})
    assert examine.compare_declared(facts, "a" * 64, None) == facts
    assert examine.compare_declared(facts, "A" * 64, None) == facts
    assert examine.compare_declared(facts, "", None) == facts


def test_the_combined_sha256_of_another_server_is_compared_with_ours() -> None:
    m, c, other = "a" * 64, "c" * 64, "d" * 64
    facts = FileFacts(etag="e", size_bytes=1, modified="", sha256="b" * 64, combined={m: c})
    assert examine.compare_declared(facts, "", None) == facts
    for combined in ((), ((m, c),), ((other, other),), ((m, c), (other, c))):
        origin = Origin("images.example.net", combined)
        assert examine.compare_declared(facts, "", origin) == replace(facts, origin=origin)
    for combined in (((m, other),), ((m, c), (m, other)), ((m, other), (m, c))):
        origin = Origin("images.example.net", combined)
        refused = examine.compare_declared(facts, "", origin)
        assert (refused.sha256, refused.fault, refused.origin) == ("", "digest", origin)
        assert refused.refusal == (
            f"has the combined sha256 {c}, expected {other} as the catalog of images.example.net says: that catalog "
            "contradicts itself; tell its operator, or upload the image yourself as a new version"
        )


class Declaring(MemoryStore):
    """A bucket in which the uploader of each root declared a digest that is wrong."""

    def open(self, key: str, etag: str) -> Opened:
        declared = "b" * 64 if key.endswith(".squashfs") else ""
        return dataclasses.replace(super().open(key, etag), declared_sha256=declared)


def test_a_root_with_another_digest_than_declared_is_never_listed() -> None:
    system = System(store=Declaring())
    system.upload(PATH, images.split_image())
    system.catch_up()
    assert system.listed() == {}
    found = status.look(system.store, DocumentCache(system.store), VERSION)
    assert found
    assert found.status == "invalid"
    assert f"expected {'b' * 64} as its uploader declared" in found.reasons[0].sentence
