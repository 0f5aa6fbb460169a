"""The server for each test of the smoke test."""

from __future__ import annotations

import pytest

from cli.smoke import server
from tests.support import images
from tests.support.smoke_server import (
    FOREIGN,
    FakeServer,
    found,
)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Return a server that lists one image of another publisher."""
    made = FakeServer()
    made.system.upload(FOREIGN, images.split_image(seed="foreign"))
    made.system.catch_up()
    monkeypatch.setattr(server, "find", lambda *_: found(made))
    return made
