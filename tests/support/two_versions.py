"""Two listed versions of one product, and their status in the API."""

from __future__ import annotations

from imageserver.api import status
from imageserver.api.schema import VersionStatus
from imageserver.format.keys import parse_version
from imageserver.storage.document_cache import DocumentCache
from tests.support import images
from tests.support.memory_store import System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
OTHER = "images/ubuntu/noble/amd64/default/20261122_10:00"
VERSION = parse_version(PATH)


def two_versions() -> System:
    """Return a server that lists both."""
    system = System()
    system.upload(OTHER, images.split_image(seed="old"))
    system.upload(PATH, images.split_image(seed="new"))
    system.catch_up()
    assert system.listed() == {VERSION.product.name: ["20261122_10:00", "20261123_10:00"]}
    return system


def status_of(system: System, path: str = PATH) -> VersionStatus:
    """Return the status of a version that exists."""
    found = status.look(system.store, DocumentCache(system.store), parse_version(path))
    assert found
    return found
