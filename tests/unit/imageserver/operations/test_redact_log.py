"""A log is rewritten once, only over the upload that was read, and nothing else is lost."""

from __future__ import annotations

import gzip

import pytest

from imageserver.errors import UnreadableLog
from imageserver.operations import redact_log as module
from imageserver.operations.access_logs import count_requests
from imageserver.operations.redact_log import redact_log
from imageserver.views.tokens import RANDOM_BYTES, token_text
from tests.support.edge_logs import ROOT, line, log
from tests.support.memory_store import MemoryStore

KEY = "edge/E1.2026-11-28-01.0a1b2c3d.gz"
TOKEN = token_text(b"x" * RANDOM_BYTES)
LOG = log([line(cs_uri_stem=f"/{TOKEN}/{ROOT}"), line()])


def etag_of(store: MemoryStore) -> str:
    (found,) = store.list(KEY)
    return found.etag


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore(chunk=50)
    made.put(KEY, LOG)
    return made


def test_a_log_is_rewritten_without_tokens_and_the_event_of_that_write_changes_nothing(store: MemoryStore) -> None:
    assert redact_log(store, KEY, etag_of(store))
    text = gzip.decompress(store.objects[KEY].body).decode()
    assert TOKEN not in text
    assert len(text.splitlines()) == len(gzip.decompress(LOG).splitlines())
    assert not redact_log(store, KEY, etag_of(store))
    assert [method for method, _ in store.log].count("replace") == 1


def test_a_replaced_or_deleted_log_is_left_to_its_own_event(store: MemoryStore) -> None:
    before = etag_of(store)
    store.put(KEY, log([line()]))
    assert not redact_log(store, KEY, before)
    assert store.objects[KEY].body == log([line()])
    store.remove(KEY)
    assert not redact_log(store, KEY, before)
    assert KEY not in store.objects


def test_a_write_that_lost_to_one_that_lost_too_is_tried_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = store.replace, [None, None]

    def replace(key: str, body: bytes, revision: str) -> str | None:
        return refused.pop() if refused else real(key, body, revision)

    monkeypatch.setattr(store, "replace", replace)
    assert redact_log(store, KEY, etag_of(store), lambda _: None)
    assert TOKEN not in gzip.decompress(store.objects[KEY].body).decode()


def test_an_unreadable_log_is_kept_and_the_error_names_the_remedy(store: MemoryStore) -> None:
    store.put(KEY, LOG[:-9])
    with pytest.raises(UnreadableLog, match=r"edge/E1.*may hold tokens: delete it"):
        redact_log(store, KEY, etag_of(store))
    assert store.objects[KEY].body == LOG[:-9]


def test_an_empty_object_holds_no_token(store: MemoryStore) -> None:
    store.put("edge/", b"")
    assert not redact_log(store, "edge/", store.objects["edge/"].etag)


def test_a_log_that_is_too_large_is_kept_and_the_error_names_its_size(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(UnreadableLog, match=rf"has {len(LOG)} bytes, expected at most 10"):
        redact_log(store, KEY, etag_of(store))


def test_a_log_redacted_during_a_count_is_counted_once(store: MemoryStore) -> None:
    files = list(store.list(KEY))
    assert redact_log(store, KEY, files[0].etag)
    counts = count_requests(store, files)
    assert not counts.damaged
    assert counts.requests == 2
