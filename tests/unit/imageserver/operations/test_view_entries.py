"""The edge's entries follow the documents while other operators change them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from imageserver.errors import CatalogBusy
from imageserver.operations.view_documents import create_view, delete_view
from imageserver.operations.view_entries import sync
from tests.support.memory_store import MemoryKeyValues
from tests.support.views import channel, private, system

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def pause(_seconds: float) -> None:
    """Do not wait."""


def test_the_edge_gets_the_entries_of_the_documents_and_a_second_sync_changes_nothing() -> None:
    server, edge = system(channel(), private()), MemoryKeyValues({"view:gone": "{}", "other": "x"})
    done = sync(server.store, edge, NOW)
    assert (done.put, done.deleted) == ({"view:stable", "view:staging", "private"}, {"view:gone"})
    assert edge.entries.keys() == {"view:stable", "view:staging", "private", "other"}
    again = sync(server.store, edge, NOW)
    assert (again.put, again.deleted) == (set(), set())


def test_a_view_that_another_operator_makes_meanwhile_keeps_its_entry() -> None:
    server, edge = system(channel()), MemoryKeyValues()

    def other(method: str) -> None:
        if method == "change":
            edge.on = lambda _: None
            create_view(server.store, private())
            sync(server.store, edge, NOW)

    edge.on = other
    sync(server.store, edge, NOW)
    assert edge.entries.keys() == {"view:stable", "view:staging", "private"}


def test_a_view_that_another_operator_removes_meanwhile_leaves_no_entry() -> None:
    server, edge = system(channel(), private()), MemoryKeyValues()

    def other(method: str) -> None:
        if method == "change":
            edge.on = lambda _: None
            delete_view(server.store, "staging", pause)
            sync(server.store, edge, NOW)

    edge.on = other
    sync(server.store, edge, NOW)
    assert edge.entries.keys() == {"view:stable"}


def test_a_sync_gives_up_on_entries_that_keep_changing() -> None:
    server, edge = system(channel()), MemoryKeyValues()
    edge.on = lambda method: edge.entries.clear() if method == "read" else None
    with pytest.raises(CatalogBusy, match="changed 5 times meanwhile"):
        sync(server.store, edge, NOW)
