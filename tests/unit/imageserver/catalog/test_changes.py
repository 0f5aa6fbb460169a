"""Which uploads publish lets the edge serve, and when: before the catalog is written, or after it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace as change

import pytest
from msgspec.structs import replace

from imageserver.catalog.changes import ListedUpload, UploadsToTag, uploads_to_tag
from imageserver.catalog.fold import fold
from imageserver.catalog.rights import NOBODY
from imageserver.catalog.streams import ALONE
from imageserver.format import documents
from imageserver.format.documents import Products
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId, VersionId, parse_version
from imageserver.versions import records
from imageserver.versions.records import Record
from tests.support import images
from tests.support.memory_store import System

VERSION = parse_version("images/ubuntu/noble/amd64/default/20261123_10:00")
KEYS = [f"{VERSION.prefix}{file}" for file in ("lxd.tar.xz", "rootfs.squashfs")]
EMPTY = documents.decode_products(None, "images")


def record_of(seed: str) -> Record:
    """Return the record of a version with the image of a seed, in its first upload."""
    system = System()
    system.upload(VERSION.path, {**images.split_image(seed=seed), "notes.txt": b"hello"})
    system.ingest(VERSION.path)
    return records.decode(system.store.objects[VERSION.record_key].body, VERSION.record_key)


A, B = record_of("a"), record_of("b")


def with_upload(record: Record, version_id: str, *replaced: str) -> Record:
    files = {file: replace(facts, version_id=version_id) for file, facts in record.files.items()}
    return replace(record, files=files, replaced=replaced)


def listed(record: Record) -> Products:
    return fold(EMPTY, {VERSION.product: [record]}, ALL_CLIENTS, NOBODY, ALONE).document


def found(before: Products, record: Record, asked: Collection[ProductId | VersionId] = ()) -> UploadsToTag:
    return uploads_to_tag(before, listed(record), {VERSION.product: [record]}, asked)


def uploads(version_id: str, *keys: str) -> set[ListedUpload]:
    return {ListedUpload(key, version_id) for key in keys or KEYS}


@pytest.mark.parametrize("asked", [[], [VERSION], [VERSION.product]])
def test_a_version_that_is_listed_for_the_first_time_is_marked_before_its_catalog(
    asked: list[ProductId | VersionId],
) -> None:
    assert found(EMPTY, with_upload(A, "v1"), asked) == UploadsToTag(first=uploads("v1"))


@pytest.mark.parametrize("asked", [[VERSION], [VERSION.product]])
def test_the_same_bytes_uploaded_again_are_marked_if_their_message_asks_for_it(
    asked: list[ProductId | VersionId],
) -> None:
    assert found(listed(A), with_upload(A, "v2")) == UploadsToTag()
    assert found(listed(A), with_upload(A, "v2"), asked) == UploadsToTag(then=uploads("v2"))


def test_other_bytes_of_a_key_that_was_listed_are_marked_after_their_catalog() -> None:
    overwritten = with_upload(B, "v2", "lxd.tar.xz", "rootfs.squashfs")
    assert found(listed(A), overwritten) == UploadsToTag(then=uploads("v2"), uncertain={VERSION.product})
    assert found(listed(A), overwritten, [VERSION]) == UploadsToTag(then=uploads("v2"))


def test_a_key_that_held_other_bytes_is_marked_after_the_catalog_lists_it_again() -> None:
    back = with_upload(A, "v3", "rootfs.squashfs")
    expected = UploadsToTag(first=uploads("v3", KEYS[0]), then=uploads("v3", KEYS[1]), uncertain={VERSION.product})
    assert found(EMPTY, back) == expected
    assert found(EMPTY, back, [VERSION]) == change(expected, uncertain=set())


def test_unlisted_files_and_files_of_an_unknown_upload_are_not_marked() -> None:
    assert found(EMPTY, with_upload(A, ""), [VERSION]) == UploadsToTag()
    everything = uploads_to_tag(listed(A), EMPTY, {VERSION.product: [A]}, [VERSION])
    assert everything == UploadsToTag()
