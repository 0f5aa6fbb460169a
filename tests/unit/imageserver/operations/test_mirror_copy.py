"""A file of another server becomes an object with its bytes, or nothing does."""

from __future__ import annotations

import hashlib
import random

import pytest

from imageserver.operations.mirror_copy import CopyServices, Outcome, copy
from imageserver.upstream.mapping import UpstreamFile
from tests.support.memory_store import MemoryStore
from tests.support.memory_upstream import MemoryUpstream

PATH = "server/noble/disk1.img"
KEY = "images/ubuntu/noble/amd64/default/20261123/disk1.img"
BODY = random.Random(1).randbytes(4500)


def file_of(body: bytes, *, sha256: str = "", size_bytes: int = -1) -> UpstreamFile:
    size = len(body) if size_bytes < 0 else size_bytes
    return UpstreamFile(PATH, KEY, sha256 or hashlib.sha256(body).hexdigest(), size)


def services(store: MemoryStore, upstream: MemoryUpstream, seconds: float = 900) -> CopyServices:
    return CopyServices(store=store, upstream=upstream, seconds_left=lambda: seconds)


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 4500])
def test_a_file_is_copied_once_with_its_bytes(size: int) -> None:
    store, upstream = MemoryStore(), MemoryUpstream({PATH: BODY[:size]})
    copied = copy(file_of(BODY[:size]), services(store, upstream))
    assert (copied.outcome, copied.bytes_read) == (Outcome.COPIED, size)
    assert store.objects[KEY].body == BODY[:size]
    assert store.uploads == {}
    assert copy(file_of(BODY[:size]), services(store, upstream)).outcome is Outcome.PRESENT
    assert upstream.bytes_read == {PATH: size}


def test_what_is_here_already_is_not_asked_for() -> None:
    store, upstream = MemoryStore(), MemoryUpstream()
    store.put(KEY, b"somebody's own")
    assert copy(file_of(BODY), services(store, upstream)).outcome is Outcome.PRESENT
    assert store.objects[KEY].body == b"somebody's own"


@pytest.mark.parametrize("size", [900, 4500])
def test_other_bytes_than_the_catalog_promises_are_refused_and_leave_nothing(size: int) -> None:
    store, upstream = MemoryStore(), MemoryUpstream({PATH: BODY[:size]})
    copied = copy(file_of(BODY[:size], sha256="0" * 64), services(store, upstream))
    assert copied.outcome is Outcome.REFUSED
    assert f"expected {'0' * 64} as upstream's catalog says" in copied.reason
    assert hashlib.sha256(BODY[:size]).hexdigest() in copied.reason
    assert (KEY in store.objects, store.uploads) == (False, {})


def test_another_size_than_the_catalog_promises_is_refused_and_leaves_nothing() -> None:
    store, upstream = MemoryStore(), MemoryUpstream({PATH: BODY})
    copied = copy(file_of(BODY, size_bytes=4501), services(store, upstream))
    assert (copied.outcome, "4,500 bytes, expected 4,501" in copied.reason) == (Outcome.REFUSED, True)
    assert store.objects == {}


def test_a_file_without_a_size_in_the_catalog_is_copied_too() -> None:
    store, upstream = MemoryStore(), MemoryUpstream({PATH: BODY})
    assert copy(file_of(BODY, size_bytes=0), services(store, upstream)).outcome is Outcome.COPIED


def test_a_file_that_upstream_no_longer_has_is_refused() -> None:
    copied = copy(file_of(BODY), services(MemoryStore(), MemoryUpstream()))
    assert (copied.outcome, "404" in copied.reason) == (Outcome.REFUSED, True)
