"""Views for tests, each with its own reproducible secret."""

from __future__ import annotations

import hashlib
from typing import Any

from imageserver.format.keys import parse_version
from imageserver.operations.check_results import post_result
from imageserver.operations.view_documents import create_view
from imageserver.versions import records
from imageserver.views.checks import Result, fingerprints_of
from imageserver.views.view import View, secret_text
from tests.support.memory_store import System


def view(name: str = "staging", streams: tuple[str, ...] = ("images-staging",), **more: Any) -> View:
    """Return a view of everything in its streams."""
    secret = secret_text(hashlib.sha256(name.encode()).digest())
    return View(name=name, streams=streams, secret=secret, **more)


def private(name: str = "staging", streams: tuple[str, ...] = ("images-staging",), **more: Any) -> View:
    """Return a private view with private streams."""
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


def fingerprints(server: System, version: str) -> frozenset[str]:
    """Return the fingerprints of a version as its record has them."""
    key = parse_version(version).record_key
    return fingerprints_of(records.decode(server.store.objects[key].body, key))


def post(server: System, version: str, name: str, *, passed: bool = True) -> Result:
    """Post the result of a check that launched all images of a version."""
    tested, now = fingerprints(server, version), server.store.clock
    one = parse_version(version)
    return post_result(
        server.store, one, name, passed=passed, tested=tested, url="", now=now, by="ci", pause=lambda _: None
    )
