"""How the smoke test handles an image that it cannot remove."""

from __future__ import annotations

import json

from cli.smoke import __main__ as smoke
from cli.smoke import image
from imageserver.errors import StorageDenied
from imageserver.operations.withdraw import withdraw
from tests.support.smoke_server import (
    NOW,
    OWN,
    FakeServer,
    smoked,
    steps_of,
)


def test_a_version_withdrawn_by_hand_is_removed_before_its_grace_time_ends(fake: FakeServer) -> None:
    smoked("--keep")
    withdraw(fake.recorder, image.PRODUCT, NOW, 24 * 365 * 100, lambda _: None, "by hand")
    smoked()
    assert fake.left() == []


def nobody_reads(_: FakeServer) -> None:
    pass


def refuse_records(method: str, key: str) -> None:
    if method in ("create", "replace") and key.startswith("versions/"):
        raise StorageDenied(f"{method} of {key}: AccessDenied")


def test_a_refused_withdrawal_is_reported_with_the_command_that_helps(fake: FakeServer) -> None:
    fake.recorder.refuse = refuse_records
    done = smoked("--json", code=smoke.LEFT)
    printed = steps_of(done)
    assert (printed["withdraw"][0], "AccessDenied" in printed["withdraw"][1]) == ("failed", True)
    assert printed["remove"] == ("skipped", "needs withdraw")
    assert json.loads(done.stdout)["left"] is True
    assert f"./scripts/admin withdraw {OWN[0]} --yes" in done.stderr
    assert fake.left()
    fake.recorder.refuse = lambda *_: None
    smoked()
    assert fake.left() == []


def test_a_failed_cleanup_blocks_the_next_upload(fake: FakeServer) -> None:
    smoked("--keep")
    before = fake.left()
    fake.recorder.refuse = refuse_records
    done = steps_of(smoked("--json", code=smoke.LEFT))
    assert (done["tidy"][0], done["upload"]) == ("failed", ("skipped", "needs tidy"))
    assert fake.left() == before


def test_no_file_is_deleted_while_the_catalog_lists_it(fake: FakeServer) -> None:
    fake.recorder.refuse = lambda method, key: stop_events(fake, method, key)
    done = steps_of(smoked("--json", code=smoke.LEFT))
    assert (done["withdraw"][0], done["delisted"][0], done["remove"][0]) == ("ok", "failed", "failed")
    assert "may still name it (publish)" in done["remove"][1]
    assert len([key for key in fake.left() if key.startswith("images-smoke/")]) == 2


def stop_events(fake: FakeServer, method: str, key: str) -> None:
    """Stop publishing once a record is withdrawn."""
    if (method, key[:9]) == ("replace", "versions/"):
        fake.events = nobody_reads
