"""The documents of mirrors: nothing is lost if two operators or workers write at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogDamaged, InvalidMirror
from imageserver.operations.mirror_documents import (
    announce,
    configure,
    configured,
    forget,
    note_refusal,
    refusals_of,
    state_of,
    status_of,
    unconfigure,
)
from imageserver.upstream.mirrors import (
    CONFIGURATION_KEY,
    MOST_REFUSALS,
    PUBLIC_KEY,
    Mirror,
    MirrorState,
    MirrorStatus,
    Refusal,
    encode_document,
    state_key,
    status_key,
)
from tests.support.memory_store import MemoryStore
from tests.support.views import private

SITE = Mirror(address="https://images.example.org/", stream="images", only=("all",))
OTHER = replace(SITE, stream="images-other")
NOW = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def pause(_seconds: float) -> None:
    """Do not wait."""


def test_a_server_without_a_configuration_has_no_mirrors(store: MemoryStore) -> None:
    assert configured(store) == {}
    assert (state_of(store, "site"), status_of(store, "site")) == (MirrorState(), MirrorStatus())
    assert [method for method, _ in store.log] == ["read"] * 3


def test_two_mirrors_added_at_once_are_both_kept(store: MemoryStore) -> None:
    def at_once(method: str, _key: str) -> None:
        if method == "create":
            store.on = lambda *_: None
            configure(store, "other", OTHER, pause)

    store.on = at_once
    assert configure(store, "site", SITE, pause) == {"site": SITE, "other": OTHER}
    assert configured(store) == {"site": SITE, "other": OTHER}


def test_an_existing_mirror_is_changed_only_with_over(store: MemoryStore) -> None:
    configure(store, "site", SITE, pause)
    narrower = replace(SITE, only=("ubuntu",))
    with pytest.raises(InvalidMirror, match=r"a mirror site of .*; change it with --replace"):
        configure(store, "site", narrower, pause)
    assert configure(store, "site", SITE, pause) == {"site": SITE}
    assert configure(store, "site", narrower, pause, over=True) == {"site": narrower}


def test_a_mirror_stays_in_its_stream(store: MemoryStore) -> None:
    """Its images are in the old one, and nothing would delist them there."""
    configure(store, "site", SITE, pause)
    with pytest.raises(InvalidMirror, match="into images, and images-other is another stream: remove it first"):
        configure(store, "site", OTHER, pause, over=True)


def test_a_configuration_that_cannot_be_read_is_not_written_over(store: MemoryStore) -> None:
    store.put(CONFIGURATION_KEY, b"{}")
    with pytest.raises(CatalogDamaged):
        configure(store, "site", SITE, pause)
    with pytest.raises(CatalogDamaged):
        unconfigure(store, "site", pause)
    assert store.objects[CONFIGURATION_KEY].body == b"{}"


def test_the_state_of_a_mirror_outlives_its_configuration_until_it_is_forgotten(store: MemoryStore) -> None:
    configure(store, "site", SITE, pause)
    store.put(state_key("site"), encode_document(MirrorState(index_etag="e")))
    store.put(status_key("site"), encode_document(MirrorStatus()))
    assert unconfigure(store, "site", pause) == {}
    assert state_of(store, "site").index_etag == "e"
    forget(store, "site")
    assert list(store.objects) == [CONFIGURATION_KEY]


def test_the_reasons_of_two_copies_that_fail_at_once_are_both_kept(store: MemoryStore) -> None:
    def at_once(method: str, _key: str) -> None:
        if method == "create":
            store.on = lambda *_: None
            note_refusal(store, "site", "images/b", "is longer", NOW, pause)

    store.on = at_once
    note_refusal(store, "site", "images/a", "is shorter", NOW, pause)
    at = NOW.isoformat()
    assert refusals_of(store, "site") == {"images/a": Refusal("is shorter", at), "images/b": Refusal("is longer", at)}


def test_the_newest_reasons_are_kept(store: MemoryStore) -> None:
    for number in range(MOST_REFUSALS + 1):
        note_refusal(store, "site", f"images/{number}", "is gone", NOW + timedelta(seconds=number), pause)
    kept = refusals_of(store, "site")
    assert len(kept) == MOST_REFUSALS
    assert "images/0" not in kept


def public(store: MemoryStore) -> object:
    return json.loads(store.objects[PUBLIC_KEY].body)


def test_the_public_document_names_only_hosts_streams_and_times_of_comparison(store: MemoryStore) -> None:
    site = replace(SITE, address="https://images.example.org:8443/a-token/")
    looked = MirrorStatus(looked="2026-11-27T02:00:00+00:00", compared="2026-11-26T01:00:00+00:00")
    store.put(status_key("site"), encode_document(looked))
    failed = replace(looked, error="no answer", in_step="2026-11-27T01:00:00+00:00")
    store.put(status_key("other"), encode_document(failed))
    announce(store, {"site": site, "other": OTHER, "new": replace(SITE, address="https://new.example.org")}, pause)
    assert public(store) == {
        "format": "mirrors:1.0",
        "mirrors": [
            {"host": "images.example.org", "stream": "images", "compared": "2026-11-27T02:00:00+00:00"},
            {"host": "new.example.org", "stream": "images"},
            {"host": "images.example.org", "stream": "images-other", "compared": "2026-11-27T01:00:00+00:00"},
        ],
    }


def test_a_server_without_mirrors_announces_nothing_and_one_that_stopped_an_empty_list(store: MemoryStore) -> None:
    announce(store, {}, pause)
    assert store.objects == {}
    announce(store, {"site": SITE}, pause)
    store.log.clear()
    announce(store, {"site": SITE}, pause)
    assert ("replace", PUBLIC_KEY) not in store.log
    announce(store, {}, pause)
    assert public(store) == {"format": "mirrors:1.0", "mirrors": []}


def test_an_announcement_that_loses_a_race_is_repeated(store: MemoryStore) -> None:
    def other_run(method: str, key: str) -> None:
        if (method, key) == ("create", PUBLIC_KEY):
            store.on = lambda *_: None
            store.put(PUBLIC_KEY, b"{}")

    store.on = other_run
    announce(store, {"site": SITE}, pause)
    assert public(store) == {
        "format": "mirrors:1.0",
        "mirrors": [{"host": "images.example.org", "stream": "images"}],
    }


def test_a_mirror_into_a_private_stream_is_not_announced(store: MemoryStore) -> None:
    hidden = private("hidden", (SITE.stream,))
    announce(store, {"site": SITE}, pause, lambda: {"hidden": hidden})
    assert store.objects == {}
    announce(store, {"site": SITE, "other": OTHER}, pause, lambda: {"hidden": hidden})
    assert public(store) == {
        "format": "mirrors:1.0",
        "mirrors": [{"host": "images.example.org", "stream": "images-other"}],
    }
