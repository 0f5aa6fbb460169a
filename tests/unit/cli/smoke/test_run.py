"""`scripts/smoke` over a bucket in memory: its steps, its interruptions, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from cli.smoke import __main__ as smoke
from cli.smoke import image
from cli.smoke.web import Answer
from tests.support import PROJECT
from tests.support import client_rules as clients
from tests.support.deployment.grants import requests
from tests.support.deployment.policy import Decision, decide
from tests.support.smoke_server import (
    EDGE,
    OWN,
    S3,
    Change,
    FakeServer,
    smoked,
    steps_of,
)


def test_a_working_server_passes_the_smoke_test_and_nothing_is_left_behind(fake: FakeServer) -> None:
    before = fake.system.streams()["streams/v1/images.json"]
    done = smoked("--json")
    printed = json.loads(done.stdout)
    assert (printed["ok"], printed["left"]) == (True, False)
    assert {name for name, (result, _) in steps_of(done).items() if result == "skipped"} == {"function", "lxc", "incus"}
    assert fake.left() == []
    assert fake.system.listed("images-smoke") == {}
    assert clients.read_catalog(fake.system.streams()["streams/v1/index.json"], fake.system.streams())
    assert fake.system.streams()["streams/v1/images.json"] == before
    assert set(fake.invalidated) == {f"{printed['version']}/lxd.tar.xz", f"{printed['version']}/rootfs.tar.xz"}


def test_the_smoke_test_changes_nothing_outside_its_product(fake: FakeServer) -> None:
    smoked()
    changed = {key for method, key in fake.recorder.calls if method in ("create", "replace", "delete")}
    assert changed
    assert {key for key in changed if not key.startswith(OWN)} == {image.LEASE_KEY}
    seen = {key for method, key in fake.recorder.calls if method in ("read", "list", "open")}
    own = (*OWN, image.LEASE_KEY, "streams/v1/images-smoke.")
    assert {key for key in seen if not key.startswith(own)} == set()


def test_the_version_is_listed_for_clients_while_the_test_runs(fake: FakeServer) -> None:
    smoked("--keep")
    names = {name for found in clients.read_catalog(*_served(fake)) for name in found.aliases}
    assert set(image.ALIASES) <= names


def _served(fake: FakeServer) -> tuple[bytes, Mapping[str, bytes]]:
    return fake.system.streams()["streams/v1/index.json"], fake.system.streams()


def test_keep_leaves_the_image_for_the_next_run_to_remove(fake: FakeServer) -> None:
    done = steps_of(smoked("--keep", "--json"))
    assert {done[name] for name in ("withdraw", "delisted", "remove", "gone")} == {("skipped", "--keep")}
    assert fake.left()
    printed = json.loads(smoked("--keep", "--json").stdout)
    assert (printed["kept"], printed["left"]) == (True, False)
    result, detail = steps_of(smoked("--json"))["tidy"]
    assert (result, detail[:8]) == ("ok", "removed ")
    assert fake.left() == []


def body(change: Callable[[bytes], bytes]) -> Change:
    return lambda answer: replace(answer, body=change(answer.body)) if answer.status == 200 else answer


FILES = f"GET {EDGE}/{OWN[0]}/2*"
INDEX = f"GET {EDGE}/streams/v1/index.json"
DOCUMENT = f"GET {EDGE}/streams/v1/images-smoke.json"


def nobody_reads(_: FakeServer) -> None:
    pass


def digest_reads(fake: FakeServer) -> None:
    for version in fake.system.versions():
        fake.system.ingest(version.path)


def digest_refuses(fake: FakeServer) -> None:
    for key in [key for key in fake.left() if key.endswith("rootfs.tar.xz")]:
        fake.system.store.put(key, b"no tarball")
    digest_reads(fake)


def edge_is_old(fake: FakeServer) -> None:
    fake.system.catch_up()
    fake.faults[INDEX] = body(lambda _: b'{"format":"index:1.0","index":{}}')


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (nobody_reads, "no record was written: digest has not read the files"),
        (digest_refuses, "its record says invalid: rootfs.tar.xz"),
        (digest_reads, "the catalog in the bucket does not list it (the queue changes, publish)"),
        (edge_is_old, f"the catalog in the bucket lists it, and {EDGE} does not (the edge)"),
    ],
)
def test_a_version_not_listed_in_time_is_reported_with_its_current_state(
    fake: FakeServer, happens: Callable[[FakeServer], None], words: str
) -> None:
    usual, fake.events = fake.events, happens

    def request(line: str) -> None:
        if line.startswith("GET http://"):  # the step after `listed`: the fault is over
            fake.events = usual
            fake.faults.clear()

    fake.on_request = request
    done = smoked("--json", code=1)
    result, detail = steps_of(done)["listed"]
    assert (result, words in detail) == ("failed", True), detail
    assert steps_of(done)["entry"] == ("skipped", "needs listed")
    assert fake.left() == []


def interrupt(fake: FakeServer, *requests: str) -> None:
    """Press Ctrl-C at the first request that matches each pattern in turn."""
    left = list(requests)

    def request(line: str) -> None:
        if left and fnmatchcase(line, left[0]):
            left.pop(0)
            raise KeyboardInterrupt

    fake.on_request = request


@pytest.mark.parametrize(
    ("where", "step"),
    [(f"PUT {S3}/*lxd.tar.xz", "upload"), (DOCUMENT, "listed"), (FILES, "download"), ("GET http://*", "redirect")],
)
def test_an_interrupted_run_cleans_up_at_once(fake: FakeServer, where: str, step: str) -> None:
    interrupt(fake, where)
    done = smoked("--json", code=smoke.INTERRUPTED)
    printed = steps_of(done)
    assert printed[step] == ("interrupted", "")
    assert {printed[name][0] for name in ("withdraw", "delisted", "remove", "gone")} == {"ok"}
    assert printed["page"] == ("skipped", "interrupted")
    assert "press Ctrl-C again to stop at once" in done.stderr
    assert fake.left() == []


def test_a_second_interrupt_stops_the_smoke_test_at_once_and_the_next_run_cleans_up(fake: FakeServer) -> None:
    interrupt(fake, FILES, INDEX)
    done = smoked("--json", code=smoke.INTERRUPTED)
    assert [steps_of(done)[name][0] for name in ("delisted", "remove", "gone")] == ["interrupted", "skipped", "skipped"]
    assert "may be left: run it again" in done.stderr
    assert fake.left()
    assert steps_of(smoked("--json"))["tidy"][1].startswith("removed ")
    assert fake.left() == []


def test_an_error_of_the_smoke_test_is_reported_in_full_and_the_image_is_still_removed(
    fake: FakeServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Answer) -> Answer:
        raise ZeroDivisionError("by design")

    fake.faults[FILES] = broken
    done = steps_of(smoked("--json", code=1))
    assert done["download"] == ("failed", "a fault of the smoke test itself: ZeroDivisionError('by design')")
    assert fake.left() == []


def test_the_rights_in_the_runbook_allow_each_call_to_the_bucket(fake: FakeServer) -> None:
    smoked()
    page = (PROJECT / "infra/RUNBOOK.md").read_text()
    (policy,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    statements = json.loads(policy)["Statement"]
    assert {"create", "delete", "history", "list", "read", "replace"} <= {method for method, _ in fake.recorder.calls}
    asked = requests(fake.recorder.calls, "arn:aws:s3:::BUCKET")
    assert [one for one in asked if decide(statements, one) is not Decision.ALLOWED] == []
