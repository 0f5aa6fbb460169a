"""Races of promotions with retention and mirrors: a channel never points to a version withdrawn meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial

import pytest

from imageserver.errors import InvalidView
from imageserver.format.keys import ImageKey, parse_product, parse_version
from imageserver.operations.channel_needs import needed_by_channels, withdraw_unneeded
from imageserver.operations.promotion import promote
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.view_documents import configured
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions import records
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.memory_store import Sent, System
from tests.support.views import channel, system

PRODUCT = parse_product("images/ubuntu/noble/amd64/default")
OLD, MIDDLE, NEW = (parse_version(f"{PRODUCT.path}/202611{day}_1000") for day in (20, 21, 22))
KEEP_ONE = Rules(Rule(versions=1), 24, 7)


def pause(_seconds: float) -> None:
    """Do not wait."""


@pytest.fixture(scope="module")
def base() -> System:
    """Return three versions of which retention keeps the newest, and a channel that points to nothing."""
    made = system(channel())
    for version in (OLD, MIDDLE, NEW):
        made.upload(version.path, images.split_image(seed=version.version))
        made.ingest(version.path)
    made.publish(PRODUCT)
    return made


@pytest.fixture
def server(base: System) -> System:
    return deepcopy(base)


def retain(server: System) -> None:
    run = Run()
    prune(server.store, Sent(), KEEP_ONE, server.store.clock, pause, run, views=lambda: configured(server.store))
    run.check()


def to_stable(server: System) -> None:
    with suppress(InvalidView):
        promote(server.store, "stable", OLD, server.store.clock, "ann", pause)


def is_withdrawn(server: System) -> bool:
    return records.decode(server.store.objects[OLD.record_key].body, OLD.record_key).withdrawn is not None


def is_promoted(server: System) -> bool:
    found = configured(server.store)["stable"].channel
    return bool(found and found.get(PRODUCT.path))


def raced(base: System, one: Callable[[System], None], other: Callable[[System], None]) -> list[tuple[bool, bool]]:
    """Run `other` before each call of `one` in turn; yield whether the version is then withdrawn and promoted."""
    alone = deepcopy(base)
    alone.store.log.clear()
    one(alone)
    seen = []
    for number in range(len(alone.store.log)):
        server = deepcopy(base)
        server.store.log.clear()

        def on(_method: str, _key: str, server: System = server, number: int = number) -> None:
            if len(server.store.log) == number + 1:
                server.store.on = lambda *_: None
                other(server)

        server.store.on = on
        one(server)
        seen.append((is_withdrawn(server), is_promoted(server)))
    return seen


def test_concurrent_retention_and_promotion_never_leave_a_channel_at_a_withdrawn_version(base: System) -> None:
    for one, other in ((retain, to_stable), (to_stable, retain)):
        seen = raced(base, one, other)
        assert set(seen) == {(True, False), (False, True)}, "one of the two wins, and each does somewhere"


def test_a_concurrent_mirror_run_and_promotion_never_leave_a_channel_at_a_withdrawn_version(base: System) -> None:
    def lets_go(server: System) -> None:
        views = partial(configured, server.store)
        if OLD.path not in needed_by_channels(server.store, views, PRODUCT):
            withdraw_unneeded(server.store, OLD, server.store.clock, 24, pause, "upstream", views)

    for one, other in ((lets_go, to_stable), (to_stable, lets_go)):
        assert set(raced(base, one, other)) == {(True, False), (False, True)}


def test_promoting_a_version_withdrawn_meanwhile_leaves_no_pointer(server: System) -> None:
    server.store.meanwhile("replace", "private/views/stable.json", lambda: withdrawn(server))
    with pytest.raises(InvalidView, match="it is withdrawn, expected complete"):
        promote(server.store, "stable", OLD, server.store.clock, "ann", pause)
    restore(server.store, OLD, pause)
    server.publish(PRODUCT)
    assert server.listed(view="stable") == {}


def withdrawn(server: System) -> None:
    withdraw(server.store, OLD, server.store.clock, 24, pause, "does not boot")


def test_a_channel_pointer_does_not_restore_a_version_that_an_operator_withdrew(server: System) -> None:
    to_stable(server)
    withdrawn(server)
    withdraw_unneeded(server.store, OLD, server.store.clock, 24, pause, "too many", partial(configured, server.store))
    assert is_withdrawn(server)


def test_a_version_withdrawn_by_operator_and_retention_at_once_stays_withdrawn(base: System) -> None:
    """This holds even if a channel points to it, so that retention undoes its own withdrawal."""

    def promoted_and_withdrawn(server: System) -> None:
        server.store.on = lambda *_: None
        to_stable(server)

        def on(method: str, key: str) -> None:
            if (method, key) == ("read", "private/views/stable.json") and is_withdrawn(server):
                server.store.on = lambda *_: None
                withdrawn(server)

        server.store.on = on

    server = deepcopy(base)
    # The channel points to it after retention has looked; the operator acts after retention has withdrawn it.
    server.store.meanwhile("replace", OLD.record_key, lambda: promoted_and_withdrawn(server))
    retain(server)
    found = records.decode(server.store.objects[OLD.record_key].body, OLD.record_key).withdrawn
    assert found is not None, "the operator's withdrawal was taken back"
    assert found.reason == "does not boot"


def test_a_file_withdrawn_by_an_operator_stays_withdrawn_when_retention_undoes_its_own_withdrawal(base: System) -> None:
    server = deepcopy(base)
    server.upload(OLD.path, {"disk.qcow2": images.qcow2()})
    server.ingest(OLD.path)
    disk = ImageKey(OLD, "disk.qcow2")
    withdraw(server.store, disk, server.store.clock, 24, pause, "leaks a key")
    server.store.meanwhile("replace", OLD.record_key, lambda: to_stable(server))
    retain(server)
    record = records.decode(server.store.objects[OLD.record_key].body, OLD.record_key)
    assert record.withdrawn is None
    assert record.files["disk.qcow2"].withdrawn is not None, "retention restored a file that an operator withdrew"


def test_a_server_without_a_channel_of_a_product_reads_no_record_for_it(server: System) -> None:
    server.store.log.clear()
    assert needed_by_channels(server.store, lambda: {}, PRODUCT) == set()
    assert server.store.log == []
