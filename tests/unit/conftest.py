"""What keeps a unit test a unit test: it listens nowhere."""

from __future__ import annotations

import socket
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_listening_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts a server; such a test belongs in tests/component."""

    def listen(*_: object) -> NoReturn:
        raise AssertionError("a unit test may not listen on a socket; move the test to tests/component")

    monkeypatch.setattr(socket.socket, "listen", listen)
