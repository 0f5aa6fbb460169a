"""Views for tests: each with a secret of its own that is easy to make again."""

from __future__ import annotations

import hashlib
from typing import Any

from imageserver.operations.view_documents import create_view
from imageserver.views.view import View, secret_text
from tests.support.memory_store import System


def view(name: str = "staging", streams: tuple[str, ...] = ("images-staging",), **more: Any) -> View:
    """Return a view of everything in its streams."""
    secret = secret_text(hashlib.sha256(name.encode()).digest())
    return View(name=name, streams=streams, secret=secret, **more)


def private(name: str = "staging", streams: tuple[str, ...] = ("images-staging",), **more: Any) -> View:
    """Return a private view with streams of its own."""
    return view(name, streams, is_private=True, private_streams=streams, **more)


def channel(name: str = "stable", streams: tuple[str, ...] = ("images",), **more: Any) -> View:
    """Return a channel that points to nothing yet."""
    return view(name, streams, channel={}, **more)


def system(*views: View) -> System:
    """Return a server with these views."""
    made = System(views=True)
    for one in views:
        create_view(made.store, one)
    return made
