"""The functions of mirrors as deployed, over a bucket and an upstream in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from imageserver.errors import StorageDenied, TasksFailed, UpstreamUnavailable
from imageserver.operations.mirror_documents import configure, refusals_of, state_of, status_of
from imageserver.upstream import messages
from imageserver.upstream.messages import MirrorMessage
from imageserver.upstream.mirrors import PUBLIC_KEY, Mirror
from imageserver.upstream.signatures import encode_keyring
from tests.support import images
from tests.support.gpg import gpg
from tests.support.handlers import Context, imported, sqs_batch
from tests.support.memory_store import MemoryStore, System
from tests.support.memory_upstream import MemoryUpstream

SITE = Mirror(address="https://images.example.org/", stream="images", only=("all",))
PATH = "images/tiny/1/amd64/default/20261101_1000"
KEY = f"{PATH}/rootfs.squashfs"


@dataclass
class Queue:
    """Accepts messages. `refuses` is how many of each call it refuses."""

    sent: list[str] = field(default_factory=list)
    refuses: int = 0

    def send_message_batch(self, *, Entries: list[dict[str, str]], **_: str) -> dict[str, Any]:
        taken = Entries[self.refuses :]
        self.sent += [entry["MessageBody"] for entry in taken]
        return {"Failed": [{"Id": entry["Id"], "Code": "Busy"} for entry in Entries[: self.refuses]]}

    def send_message(self, *, MessageBody: str, **_: str) -> None:
        self.sent.append(MessageBody)


@dataclass
class World:
    store: MemoryStore = field(default_factory=MemoryStore)
    upstream: MemoryUpstream = field(default_factory=MemoryUpstream)
    queue: Queue = field(default_factory=Queue)

    def __post_init__(self) -> None:
        origin = System()
        origin.upload(PATH, images.split_image(seed="tiny"))
        origin.catch_up()
        self.upstream.files |= {key: found.body for key, found in origin.store.objects.items()}
        configure(self.store, "site", SITE, lambda _: None)

    def wanted(self, key: str = KEY) -> MirrorMessage:
        return next(one for one in map(messages.decode, self.queue.sent) if one.key == key)


@pytest.fixture
def world() -> World:
    return World()


def patched(name: str, world: World) -> Iterator[ModuleType]:
    environment = {"BUCKET": "b", "BASE_URL": "https://here.example.org", "POWERTOOLS_SERVICE_NAME": name}
    with imported(f"imageserver.handlers.{name}", {**environment, "AWS_DEFAULT_REGION": "eu-central-1"}) as app:
        app.store = world.store  # type: ignore[attr-defined]  # the module is the world's
        # As above.
        app.RemoteServer = lambda _mirror, contact: world_upstream(world, contact)  # type: ignore[attr-defined]
        app.sqs_client = lambda: world.queue  # type: ignore[attr-defined]  # as above
        yield app


def world_upstream(world: World, contact: str) -> Any:
    assert contact == "https://here.example.org"
    upstream = world.upstream
    return SimpleNamespace(
        document=upstream.document, read=upstream.read, part_bytes=upstream.part_bytes, close=lambda: None
    )


@pytest.fixture
def mirror(world: World) -> Iterator[ModuleType]:
    yield from patched("mirror", world)


@pytest.fixture
def copy(world: World) -> Iterator[ModuleType]:
    yield from patched("copy", world)


def compare(app: ModuleType, **event: Any) -> Any:
    return app.handler({"task": "mirror", **event}, Context("mirror"))


def counted(output: str, metric: str) -> list[float]:
    """Return the values of a logged metric."""
    lines = [json.loads(line) for line in output.splitlines() if metric in line]
    return [value for line in lines if "_aws" in line for value in line[metric]]


def test_a_run_requests_missing_files_and_returns_their_number(
    world: World, mirror: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(mirror) == {"mirrors": {"site": {"missing": 2, "error": ""}}}
    assert {messages.decode(body).mirror for body in world.queue.sent} == {"site"}
    output = capsys.readouterr().out
    assert counted(output, "MirrorFilesMissing") == [2]
    assert counted(output, "UpstreamsRefused") == [0]
    (public,) = json.loads(world.store.objects[PUBLIC_KEY].body)["mirrors"]
    assert public["compared"] == status_of(world.store, "site").looked


def test_a_server_without_mirrors_costs_one_read(world: World, mirror: ModuleType) -> None:
    world.store.objects.clear()
    world.store.log.clear()
    assert compare(mirror) == {"mirrors": {}}
    assert world.store.log == [("read", "mirrors/mirrors.json")]


def test_mirrors_can_be_named_and_unknown_ones_are_ignored(world: World, mirror: ModuleType) -> None:
    assert compare(mirror, mirrors=["nobody"]) == {"mirrors": {}}
    assert list(compare(mirror, mirrors=["site", "nobody"])["mirrors"]) == ["site"]


def test_a_dry_run_changes_nothing(world: World, mirror: ModuleType) -> None:
    assert compare(mirror, dry_run=True)["mirrors"]["site"]["missing"] == 2
    assert list(world.store.objects) == ["mirrors/mirrors.json"]
    assert not world.queue.sent


def test_another_task_is_refused(mirror: ModuleType) -> None:
    with pytest.raises(ValueError, match="the task is 'prune', expected mirror"):
        mirror.handler({"task": "prune"}, Context("mirror"))


def test_a_refused_upstream_is_counted_and_does_not_fail_the_run(
    world: World, mirror: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    world.upstream.files.clear()
    assert "404" in compare(mirror)["mirrors"]["site"]["error"]
    assert counted(capsys.readouterr().out, "UpstreamsRefused") == [1]


def test_an_unresponsive_upstream_is_not_a_refusal(
    world: World, mirror: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(*_: object) -> None:
        raise UpstreamUnavailable("images.example.org does not answer")

    world.upstream.on = down
    assert "does not answer" in compare(mirror)["mirrors"]["site"]["error"]
    assert counted(capsys.readouterr().out, "UpstreamsRefused") == [0]


def test_a_failure_of_this_server_fails_the_run_after_the_other_mirrors(world: World, mirror: ModuleType) -> None:
    world.queue.refuses = 1
    with pytest.raises(TasksFailed, match="did not take 1 messages: Busy"):
        compare(mirror)
    assert "Busy" in status_of(world.store, "site").error


def test_a_requested_file_is_copied(world: World, mirror: ModuleType, copy: ModuleType) -> None:
    compare(mirror)
    assert copy.handler(sqs_batch(*world.queue.sent), Context("copy")) == {"batchItemFailures": []}
    assert world.store.objects[KEY].body == world.upstream.files[KEY]


def test_a_file_that_cannot_be_copied_is_acknowledged_and_noted(
    world: World, mirror: ModuleType, copy: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(mirror)
    world.upstream.files[KEY] = world.upstream.files[KEY][:-1] + b"?"
    assert copy.handler(sqs_batch(*world.queue.sent), Context("copy")) == {"batchItemFailures": []}
    assert KEY not in world.store.objects
    assert "has sha256" in refusals_of(world.store, "site")[KEY].reason
    assert '"reason":"upstream"' in capsys.readouterr().out.replace(" ", "")


def test_a_file_that_may_arrive_later_stays_in_the_queue(world: World, mirror: ModuleType, copy: ModuleType) -> None:
    compare(mirror)

    def down(method: str, _path: str) -> None:
        raise UpstreamUnavailable("images.example.org does not answer")

    world.upstream.on = down
    batch = sqs_batch(messages.encode(world.wanted()))
    assert copy.handler(batch, Context("copy")) == {"batchItemFailures": [{"itemIdentifier": "0"}]}


def test_a_file_that_takes_longer_than_a_run_is_handed_on(world: World, mirror: ModuleType, copy: ModuleType) -> None:
    compare(mirror)
    wanted = messages.encode(world.wanted())
    world.queue.sent.clear()
    assert copy.handler(sqs_batch(wanted), Context("copy", left_ms=30_000)) == {"batchItemFailures": []}
    assert world.queue.sent == [wanted]
    assert KEY not in world.store.objects


@pytest.mark.parametrize(
    "change",
    [{"mirror": "nobody"}, {"key": f"versions/{PATH}.json"}, {"key": f"images-other/{PATH}/x"}, {"key": "images/../x"}],
    ids=["a mirror that is gone", "a record", "another stream", "no file of a version"],
)
def test_a_message_can_choose_neither_the_source_of_a_file_nor_a_foreign_key(
    world: World, mirror: ModuleType, copy: ModuleType, change: dict[str, str]
) -> None:
    compare(mirror)
    body = json.dumps({**json.loads(messages.encode(world.wanted())), **change})
    before = dict(world.store.objects)
    assert copy.handler(sqs_batch(body), Context("copy")) == {"batchItemFailures": []}
    assert world.store.objects == before
    assert not world.upstream.bytes_read


def test_a_message_that_no_release_can_read_stays_for_the_dead_letters(copy: ModuleType) -> None:
    answer = copy.handler(sqs_batch('{"Records": []}', "no JSON"), Context("copy"))
    assert [one["itemIdentifier"] for one in answer["batchItemFailures"]] == ["0", "1"]


def test_a_storage_refusal_fails_the_message(world: World, mirror: ModuleType, copy: ModuleType) -> None:
    compare(mirror)

    def denied(method: str, _key: str) -> None:
        if method == "begin":
            raise StorageDenied("the role of this function needs that right")

    world.store.on = denied
    batch = sqs_batch(messages.encode(world.wanted()))
    assert len(copy.handler(batch, Context("copy"))["batchItemFailures"]) == 1


def test_an_upstream_without_a_good_signature_is_refused_and_counted(
    world: World, mirror: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    index = world.upstream.files["streams/v1/index.json"]
    with gpg() as keys:
        for name in ("good", "other"):
            keys.make_key(name)
        signed = replace(SITE, keyring=encode_keyring(keys.keyring("good")))
        configure(world.store, "site", signed, lambda _: None, over=True)
        products = world.upstream.files["streams/v1/images.json"]
        for path, body in (("index", index), ("images", products)):
            world.upstream.files[f"streams/v1/{path}.sjson"] = keys.clear_sign("good", body)
        assert compare(mirror) == {"mirrors": {"site": {"missing": 2, "error": ""}}}
        assert {messages.decode(body).signed_by for body in world.queue.sent} == set(keys.fingerprints("good"))
        held = state_of(world.store, "site").held
        for bad in (keys.clear_sign("other", products), products, b""):
            capsys.readouterr()
            world.upstream.files["streams/v1/images.sjson"] = bad
            (report,) = compare(mirror)["mirrors"].values()
            assert "streams/v1/images.sjson" in report["error"]
            assert counted(capsys.readouterr().out, "UpstreamsRefused") == [1]
            assert state_of(world.store, "site").held == held
