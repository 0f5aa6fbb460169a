"""One smoke test at a time."""

from __future__ import annotations

import json
import os
import socket

from cli.smoke import __main__ as smoke
from cli.smoke import image, lease
from tests.support.smoke_server import (
    FakeServer,
    smoked,
)


def test_a_running_smoke_test_excludes_others_until_its_lease_is_taken_over(fake: FakeServer) -> None:
    with lease.held(fake.recorder, 600, take_over=False):
        done = smoked(code=smoke.RUNNING)
        assert f"process {os.getpid()} on {socket.gethostname()}" in done.stderr
        assert "add --take-over" in done.stderr
        smoked("--take-over")
    assert fake.left() == []


def test_the_lease_of_a_killed_process_of_this_machine_does_not_block(fake: FakeServer) -> None:
    gone = json.dumps({"until": "2126-01-01T00:00:00+00:00", "token": f"{socket.gethostname()} 4194305 x"})
    fake.system.store.put(image.LEASE_KEY, gone.encode())
    smoked()


def test_the_lease_of_a_process_of_another_machine_blocks(fake: FakeServer) -> None:
    other = json.dumps({"until": "2126-01-01T00:00:00+00:00", "token": f"not-{socket.gethostname()} 1 x"})
    fake.system.store.put(image.LEASE_KEY, other.encode())
    assert "2126-01-01" in smoked(code=smoke.RUNNING).stderr
