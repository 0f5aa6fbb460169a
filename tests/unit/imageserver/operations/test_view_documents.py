"""The documents of views: concurrent changes are all kept, and an unreadable document is never taken for none."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogDamaged, InvalidView
from imageserver.operations.view_documents import (
    KnownViews,
    change_view,
    configured,
    create_view,
    delete_view,
    no_views,
    read_views,
    view_of,
)
from imageserver.views.view import VIEWS, secret_text, view_key
from tests.support.memory_store import MemoryStore
from tests.support.views import channel, private, view


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def pause(_seconds: float) -> None:
    """Do not wait."""


def test_views_are_found_by_their_names(store: MemoryStore) -> None:
    assert configured(store) == no_views() == {}
    for made in (channel(), private()):
        assert create_view(store, made) == made
    assert configured(store) == {"stable": channel(), "staging": private()}
    assert view_of(store, "other") is None


def test_another_object_below_the_prefix_is_not_a_view_and_its_revision_is_noted(store: MemoryStore) -> None:
    create_view(store, channel())
    store.put(f"{VIEWS}notes.txt", b"mine")
    views, revisions = read_views(store)
    assert views.keys() == {"stable"}
    assert revisions == {key: found.etag for key, found in store.objects.items()}


def test_a_document_that_cannot_be_read_is_damaged(store: MemoryStore) -> None:
    store.put(view_key("staging"), b"{}")
    for read in (lambda: configured(store), lambda: view_of(store, "staging")):
        with pytest.raises(CatalogDamaged):
            read()


def test_making_the_same_selection_again_keeps_the_view_that_is_there(store: MemoryStore) -> None:
    create_view(store, channel())
    again = replace(channel(), secret=secret_text(bytes(32)))
    assert create_view(store, again) == channel()
    with pytest.raises(InvalidView, match="there is a view stable that selects something else"):
        create_view(store, view("stable", ("images",)))


def test_two_concurrent_changes_are_both_kept(store: MemoryStore) -> None:
    create_view(store, view())

    def other(method: str, _key: str) -> None:
        if method == "replace":
            store.on = lambda *_: None
            change_view(store, "staging", lambda found: replace(found, created="then"), pause)

    store.on = other
    changed = change_view(store, "staging", lambda found: replace(found, only=("ubuntu",)), pause)
    assert (changed.created, changed.only) == ("then", ("ubuntu",))
    assert view_of(store, "staging") == changed


def test_a_change_that_changes_nothing_is_not_written(store: MemoryStore) -> None:
    create_view(store, view())
    store.log.clear()
    change_view(store, "staging", lambda found: found, pause)
    assert [method for method, _ in store.log] == ["read"]


def test_a_missing_view_cannot_be_changed_and_deleting_it_succeeds(store: MemoryStore) -> None:
    with pytest.raises(InvalidView, match="there is no view 'staging'"):
        change_view(store, "staging", lambda found: found, pause)
    delete_view(store, "staging", pause)
    create_view(store, view())
    delete_view(store, "staging", pause)
    assert store.objects == {}


def test_a_known_view_is_read_again_only_when_it_has_changed(store: MemoryStore) -> None:
    known: KnownViews = {}
    for name in ("one", "two"):
        create_view(store, view(name))
    first = read_views(store, known)
    store.log.clear()
    assert read_views(store, known) == first
    assert store.log == [("list", "private/views/")]
    change_view(store, "one", lambda one: replace(one, only=("debian",)), pause)
    delete_view(store, "two", pause)
    assert read_views(store, known) == read_views(store)
    assert list(known) == [view_key("one")]
