"""A run of maintain does what it can: a failed task does not end the run, and is named at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from imageserver.errors import (
    CatalogBusy,
    CatalogDamaged,
    InvalidationRefused,
    StorageDenied,
    StorageUnavailable,
    TasksFailed,
)
from imageserver.format import documents
from imageserver.format.keys import ProductId, VersionId, parse_product, parse_version
from imageserver.operations import runs
from imageserver.operations.prune import Rules, prune
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run, Task, resume
from imageserver.operations.withdraw import withdraw
from imageserver.site.layout import API_KEY, PAGE_KEY, PAGES, lay_out
from imageserver.versions import records
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.memory_store import START, Sent, System

PRODUCTS = [f"images/os/{name}/amd64/default" for name in ("a", "b~rc1", "c")]
OLD, NEW = "20261101_10:00", "20261102_10:00"
RULES = Rules(Rule(), grace_hours=1, stale_days=7)
LATER = START + timedelta(days=2)


def no_pause(_seconds: float) -> None:
    """Do not wait."""


@pytest.fixture
def system() -> System:
    """Return three products of two listed versions each."""
    system = System()
    for product in PRODUCTS:
        for version in (OLD, NEW):
            system.upload(f"{product}/{version}", images.split_image(seed=f"{product} {version}"))
    system.catch_up()
    return system


def withdrawn(system: System, *paths: str) -> None:
    for path in paths:
        withdraw(system.store, parse_version(path), START, 1, no_pause)
    system.publish(*system.products())


class Rejecting(Sent):
    """A queue that rejects messages about some products."""

    def __init__(self, rejected: Sequence[str]) -> None:
        super().__init__()
        self.rejected = rejected

    def version_changed(self, version: VersionId) -> None:
        self._check(version.product)
        super().version_changed(version)

    def product_changed(self, product: ProductId) -> None:
        self._check(product)
        super().product_changed(product)

    def _check(self, product: ProductId) -> None:
        if product.path in self.rejected:
            raise StorageUnavailable("the queue took no message")


def fail(system: System, method: str, prefix: str, error: Exception) -> None:
    def hook(called: str, key: str) -> None:
        if called == method and key.startswith(prefix):
            raise error

    system.store.on = hook


def test_a_version_whose_invalidation_fails_blocks_no_other_deletion(system: System) -> None:
    withdrawn(system, *(f"{product}/{OLD}" for product in PRODUCTS), f"{PRODUCTS[1]}/{NEW}")

    def invalidate(keys: Sequence[str]) -> None:
        if any(key.startswith(f"{PRODUCTS[1]}/{OLD}") for key in keys):
            raise InvalidationRefused("InvalidArgument")

    run = Run()
    prune(system.store, Sent(), RULES, LATER, no_pause, run, invalidate)
    deleted = [f"{PRODUCTS[0]}/{OLD}", f"{PRODUCTS[1]}/{NEW}", f"{PRODUCTS[2]}/{OLD}"]
    assert [task.path for task in run.tasks] == deleted, "also of the same product"
    assert run.ended
    with pytest.raises(TasksFailed) as failed:
        run.check()
    assert str(failed.value) == f"1 failed, the rest was done: delete {PRODUCTS[1]}/{OLD}: InvalidArgument"
    again = Run()
    prune(system.store, Sent(), RULES, LATER, no_pause, again)
    assert [task.path for task in again.tasks] == [f"{PRODUCTS[1]}/{OLD}"], (
        "its record stayed until the edge had invalidated"
    )
    again.check()


@pytest.mark.parametrize(
    "error",
    [
        StorageUnavailable("503"), StorageDenied("403"), CatalogBusy("races"), CatalogDamaged("a document"),
        IndexError("a fault of ours"),
    ],
)  # fmt: skip
def test_a_product_that_cannot_be_listed_blocks_retention_of_no_other_product(system: System, error: Exception) -> None:
    fail(system, "list", f"versions/{PRODUCTS[1]}/", error)
    run = Run()
    prune(system.store, Sent(), Rules(Rule(versions=1), 24, 7), LATER, no_pause, run)
    assert [(task.what, task.path) for task in run.tasks] == [
        ("withdraw", f"{PRODUCTS[0]}/{OLD}"),
        ("withdraw", f"{PRODUCTS[2]}/{OLD}"),
    ]
    assert [(f.what, f.path, f.error) for f in run.failed] == [("look at", PRODUCTS[1], error)]
    assert run.ended


def test_a_failing_withdrawal_blocks_no_other(system: System) -> None:
    fail(system, "replace", f"versions/{PRODUCTS[0]}/{OLD}", StorageUnavailable("503"))
    run = Run()
    prune(system.store, Sent(), Rules(Rule(versions=1), 24, 7), LATER, no_pause, run)
    assert [task.path for task in run.tasks] == [f"{PRODUCTS[1]}/{OLD}", f"{PRODUCTS[2]}/{OLD}"]
    assert [f.path for f in run.failed] == [f"{PRODUCTS[0]}/{OLD}"]


def test_reconcile_continues_after_a_failing_product(system: System) -> None:
    fail(system, "list", f"versions/{PRODUCTS[0]}/", StorageDenied("403"))
    system.store.remove(f"versions/{PRODUCTS[2]}/{OLD}.json")
    sent, run = Sent(), Run()
    reconcile(ReconcileServices(system.store, sent, system.clients), run)
    assert sent.paths == [f"{PRODUCTS[2]}/{OLD}"]
    assert [(f.what, f.path) for f in run.failed] == [("look at", PRODUCTS[0])]
    assert run.ended


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000], ids=range(6))
def test_a_run_with_an_unreadable_cursor_starts_from_the_first_product(system: System, note: bytes) -> None:
    system.store.put("maintain/prune.json", note)
    assert resume(system.store, "prune") == ""


def test_an_unreadable_page_blocks_neither_the_description_nor_the_reconcile(system: System) -> None:
    fail(system, "read", PAGE_KEY, StorageDenied("403"))
    run = Run()
    lay_out(system.store, run)
    reconcile(ReconcileServices(system.store, Sent(), system.clients), run)
    assert [task.path for task in run.tasks] == [*PAGES[1:], API_KEY]
    assert [f.path for f in run.failed] == [PAGE_KEY]
    assert run.ended


def test_a_reconcile_whose_messages_are_rejected_names_each_version(system: System) -> None:
    for product in PRODUCTS[:2]:
        system.store.remove(f"versions/{product}/{OLD}.json")
    run = Run()
    reconcile(ReconcileServices(system.store, Rejecting(PRODUCTS[:2]), system.clients), run)
    versions = [("look again", f"{product}/{OLD}") for product in PRODUCTS[:2]]
    products = [("fold again", product) for product in PRODUCTS[:2]]
    assert [(f.what, f.path) for f in run.failed] == versions + products
    assert run.tasks == [], "what failed was not done"


def test_a_rejected_message_about_a_product_blocks_no_other_product(system: System) -> None:
    document = documents.encode(documents.decode_products(None, "images"))
    system.store.put("streams/v1/images.json", document)  # somebody else's
    sent, run = Rejecting(PRODUCTS[:1]), Run()
    reconcile(ReconcileServices(system.store, sent, system.clients), run)
    assert [(f.what, f.path) for f in run.failed] == [("fold again", PRODUCTS[0])]
    assert [task.path for task in run.tasks] == PRODUCTS[1:]
    assert [product.path for product in sent.products] == PRODUCTS[1:]
    with pytest.raises(TasksFailed, match=f"fold again {PRODUCTS[0]}: the queue took no message"):
        run.check()


def test_a_message_of_prune_that_is_rejected_blocks_no_other_product(system: System) -> None:
    for product in PRODUCTS[:2]:
        withdraw(system.store, parse_version(f"{product}/{OLD}"), START, 1, no_pause)  # and publish is late
    sent, run = Rejecting(PRODUCTS[:1]), Run()
    prune(system.store, sent, RULES, LATER, no_pause, run)
    assert [(f.what, f.path) for f in run.failed] == [("wait", f"{PRODUCTS[0]}/{OLD}")]
    assert [product.path for product in sent.products] == PRODUCTS[1:2]


def test_an_unreadable_record_blocks_no_other_withdrawal_of_its_product(system: System) -> None:
    third = "20261103_10:00"
    system.upload(f"{PRODUCTS[0]}/{third}", images.split_image(seed="third"))
    system.catch_up()
    system.store.put(f"versions/{PRODUCTS[0]}/{NEW}.json", b"{torn")
    with pytest.raises(CatalogDamaged, match=NEW):
        withdraw(system.store, parse_product(PRODUCTS[0]), START, 1, no_pause)
    for version in (OLD, third):
        key = f"versions/{PRODUCTS[0]}/{version}.json"
        assert records.decode(system.store.objects[key].body, key).withdrawn


def test_a_run_in_which_everything_fails_stops_and_the_next_one_resumes_after_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_FAILED", 2)
    fail(system, "list", "versions/images/os/", StorageDenied("403"))
    run = Run()
    prune(system.store, Sent(), RULES, LATER, no_pause, run)
    assert ([f.path for f in run.failed], run.after, run.ended) == (PRODUCTS[:2], PRODUCTS[1], False)


def test_an_error_names_at_most_ten_failed_tasks() -> None:
    run = Run()

    def failing(number: int) -> Callable[[], object]:
        def action() -> None:
            raise StorageUnavailable(f"no {number}")

        return action

    for number in range(12):
        run.do(Task("delete", f"images/{number}", "why"), failing(number))
    with pytest.raises(TasksFailed, match=r"^12 failed, .*images/9: no 9; and 2 more, which the log names$"):
        run.check()


def test_a_programming_error_does_not_end_a_run_and_is_named_with_its_type() -> None:
    def broken() -> None:
        raise KeyError("a")

    run = Run()
    run.do(Task("delete", "images/a", "why"), broken)
    with run.looking_at("images/b"):
        broken()
    assert run.tasks == []
    with pytest.raises(TasksFailed, match=r"delete images/a: KeyError: 'a'; look at images/b: KeyError: 'a'$"):
        run.check()
