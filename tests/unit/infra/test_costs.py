"""The bill counts what the code does and what the template has. test_generated.py checks that its tables are fresh."""

import subprocess
import sys
from collections import Counter
from datetime import timedelta
from math import ceil

import pytest

import costs
from cli.bench.folding import EDGE_COMPRESSES_BYTES
from gates import stack as stacks
from imageserver.api import status
from imageserver.aws import queues
from imageserver.format.keys import parse_product, parse_version
from imageserver.operations.prune import Rules, prune
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import withdraw
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.ranged_reader import LARGE
from imageserver.upstream.mirrors import HeldVersion, MirrorState, encode_document
from imageserver.versions.retention import Rule
from tests.support import PROJECT, edge_views, images
from tests.support.deployment.rules.alarms import METRICS, METRICS_OF_DELTAS, METRICS_OF_MIRRORS, metrics_of
from tests.support.memory_store import Sent, System

PRODUCTS = [f"images/os{number}/r/amd64/default" for number in range(3)]
PRODUCT, VERSIONS = PRODUCTS[1], 20
FILES = 3
WRITES, LISTS, READS = ("create", "replace"), ("list",), ("read", "open")
"""Each open is a HEAD, which costs as much as a GET; the parts of the body are counted by size."""


def upload(system: System, path: str) -> None:
    system.upload(path, {**images.split_image(seed=path), "disk.qcow2": images.qcow2(path)})


@pytest.fixture
def system() -> System:
    """Return a server with one version fewer in the middle product. Its set-up is not counted."""
    system = System()
    for product in PRODUCTS:
        for day in range(1, VERSIONS + (product != PRODUCT)):
            upload(system, f"{product}/202610{day:02d}_10:00")
    system.catch_up()
    system.store.log.clear()
    return system


def counted(system: System) -> tuple[int, int, int]:
    """Return the writes, listings and reads since the last time."""
    calls = Counter(method for method, _ in system.store.log)
    system.store.log.clear()
    # One sum for each of the three kinds.
    return tuple(sum(calls[method] for method in methods) for methods in (WRITES, LISTS, READS))  # type: ignore[return-value]


def tidy(system: System) -> list[str]:
    run = Run()
    prune(system.store, Sent(), Rules(Rule(), 24, 7), system.store.clock + timedelta(days=2), lambda _: None, run)
    return [task.what for task in run.tasks]


def test_the_bill_has_the_requests_that_a_version_costs(system: System) -> None:
    path, product = f"{PRODUCT}/20261101_10:00", parse_product(PRODUCT)
    status.look(system.store, DocumentCache(system.store), parse_version(path))  # before its URLs are signed
    upload(system, path)
    for _ in range(FILES):
        system.ingest(path)
    system.publish(product)
    withdraw(system.store, parse_version(path), system.store.clock, 24, lambda _: None)
    system.publish(product)
    before = counted(system)
    assert tidy(system) == ["delete"]
    deletion = counted(system)
    assert tidy(system) == []
    regular = counted(system)
    for _ in range(FILES):
        system.ingest(path)
    system.publish(product)  # its record was made final
    system.publish(product)  # and deleted
    after = counted(system)
    found = [a + b - c + d for a, b, c, d in zip(before, deletion, regular, after, strict=True)]
    siblings = costs.GETS_FOR_EACH_SIBLING * VERSIONS
    billed = (costs.PUTS - FILES, costs.LISTS, costs.GETS + siblings)  # the publisher's own PUTs are not in the log
    assert found == pytest.approx(billed, abs=FILES)


def test_a_status_request_of_a_waiting_publisher_is_billed(system: System) -> None:
    path = f"{PRODUCT}/20261101_10:00"
    upload(system, path)
    cache, version = DocumentCache(system.store), parse_version(path)
    status.look(system.store, cache, version)
    first = counted(system)
    system.ingest(path)
    status.look(system.store, cache, version)
    counted(system)
    status.look(system.store, cache, version)
    last = counted(system)
    assert (first, last) == ((0, 1, 1), (0, 2, 1))
    assert (first[1] + last[1]) / 2 == costs.LISTS_A_POLL
    assert costs.POLL_S == status.POLL_S


def test_the_bill_has_the_requests_that_a_run_of_maintain_costs(system: System) -> None:
    kept = len(PRODUCTS) * VERSIONS - 1
    reconcile(ReconcileServices(system.store, Sent(), ("incus", "lxd")), Run())
    assert counted(system) == (0, 2 * len(PRODUCTS) + 7, kept + 4)
    assert tidy(system) == []
    assert counted(system) == (0, 4 * len(PRODUCTS) + 5, kept + 3)


def test_the_bill_uses_the_numbers_of_the_template() -> None:
    stack = stacks.deployed()
    default = {name: body["Default"] for name, body in stack.raw["Parameters"].items()}
    assert int(default["NoncurrentDays"]) == costs.SMALL.noncurrent_days
    assert int(default["GraceHours"]) == costs.SMALL.grace_hours
    memory = {name: int(stack.properties(f"{name}Function")["MemorySize"]) / 1024 for name in ("Digest", "Publish")}
    assert memory == {"Digest": costs.DIGEST_GB, "Publish": costs.PUBLISH_GB}
    assert int(stack.properties("UploadsFunction")["MemorySize"]) / 1024 == costs.UPLOADS_GB
    assert int(stack.properties("MaintainFunction")["MemorySize"]) / 1024 == costs.MAINTAIN_GB
    assert LARGE.part_bytes == costs.PART_BYTES
    alarms = stack.of_type("AWS::CloudWatch::Alarm").values()
    at_the_edge = int("EdgeErrorsAlarmCommand" in stack.outputs)  # in us-east-1 an alarm of its own
    assert sum(len(list(metrics_of(alarm))) for alarm in alarms) + at_the_edge == costs.ALARM_METRICS
    without_dimension = METRICS - {"Refusals", "MaintainTasks", "CatalogBytes"}
    assert len(without_dimension) + 3 + 2 == costs.OWN_METRICS


def test_the_bill_adds_what_mirrors_add_to_the_template() -> None:
    alone, following = stacks.deployed(), stacks.deployed(MirrorSchedule="rate(1 hour)")
    watched = [
        sum(len(list(metrics_of(alarm))) for alarm in stack.of_type("AWS::CloudWatch::Alarm").values())
        for stack in (alone, following)
    ]
    assert watched[1] - watched[0] == costs.MIRROR_ALARM_METRICS
    assert len(METRICS_OF_MIRRORS) + 1 == costs.MIRROR_METRICS
    memory = {name: int(following.properties(f"{name}Function")["MemorySize"]) / 1024 for name in ("Mirror", "Copy")}
    assert memory == {"Mirror": costs.MIRROR_GB, "Copy": costs.COPY_GB}
    assert following.properties("CopiesQueue")["ReceiveMessageWaitTimeSeconds"] == 20
    version = {f"images/ubuntu/noble/amd64/default/2026{number:04}_1000": HeldVersion() for number in range(100)}
    assert len(encode_document(MirrorState(held=version))) / 100 == pytest.approx(costs.HELD_BYTES, rel=0.2)


def test_the_bill_adds_the_reads_that_views_cost_at_the_edge() -> None:
    edge = edge_views.Edge()
    for asked in (
        [f"/{edge_views.signed('staging', edge_views.PRIVATE)}", edge_views.basic(edge_views.STAGING)],
        [f"/{edge_views.STAGING}/streams/v1/index.json"],
    ):
        assert edge.ask(*asked).key
        assert len(edge.reads) == costs.LOOK_UPS
    edge.ask(f"/{edge_views.PUBLIC}")
    assert len(edge.reads) <= costs.LOOK_UPS
    assert [row.dollars for row in costs.viewing(10)][:3] == pytest.approx([0.8, 1.2, 0.25])


def test_the_bill_adds_what_redaction_adds_to_the_template() -> None:
    alone, viewing = stacks.deployed(), stacks.deployed(Views="true")
    watched = [
        sum(len(list(metrics_of(alarm))) for alarm in stack.of_type("AWS::CloudWatch::Alarm").values())
        for stack in (alone, viewing)
    ]
    assert watched[1] - watched[0] == costs.REDACT_ALARM_METRICS
    assert int(viewing.properties("RedactFunction")["MemorySize"]) / 1024 == costs.REDACT_GB
    assert viewing.properties("AccessLogsQueue")["ReceiveMessageWaitTimeSeconds"] == 20


def test_the_bill_adds_what_deltas_add_to_the_template() -> None:
    alone, making = stacks.deployed(), stacks.deployed(Deltas="1")
    watched = [
        sum(len(list(metrics_of(alarm))) for alarm in stack.of_type("AWS::CloudWatch::Alarm").values())
        for stack in (alone, making)
    ]
    assert watched[1] - watched[0] == costs.DELTA_ALARM_METRICS
    assert len(METRICS_OF_DELTAS) == costs.DELTA_METRICS
    function = making.properties("DeltaFunction")
    assert int(function["MemorySize"]) / 1024 == costs.DELTA_GB
    assert int(function["EphemeralStorage"]["Size"]) / 1024 - 0.5 == costs.DELTA_DISK_GB
    assert making.properties("DeltasQueue")["ReceiveMessageWaitTimeSeconds"] == 20


def test_a_large_server_splits_its_stream_where_the_edge_stops_compressing() -> None:
    assert ceil(costs.LARGE.kept * costs.VERSION_BYTES / EDGE_COMPRESSES_BYTES) == costs.LARGE.streams


def test_deleted_images_are_billed_until_their_retention_ends() -> None:
    server = costs.Server(versions=3650 // 12, kept=100, served_gb=0, products=1, version_gb=1.0)
    (deleted,) = [row for row in costs.bill(server) if "deleted images" in row.what]
    a_day = server.versions / (365 / 12)
    assert deleted.dollars == pytest.approx(a_day * 31 * 0.023, rel=0.01)


def test_the_calculator_accepts_other_numbers() -> None:
    arguments = ["--versions", "5000", "--kept", "10000", "--served-gb", "50000"]
    done = subprocess.run(
        [sys.executable, PROJECT / "infra/costs.py", *arguments], capture_output=True, text=True, check=True
    )
    together = sum(row.dollars for row in costs.bill(costs.LARGE))
    assert done.stdout.endswith(f"| **total** | | **{together:,.2f}** |\n")


def test_other_pages_quote_the_figures_of_the_bill() -> None:
    small, large = costs.bill(costs.SMALL), costs.bill(costs.LARGE)
    readme = (PROJECT / "README.md").read_text()
    assert f"[about ${sum(row.dollars for row in small):.0f} a month](infra/COSTS.md)" in readme
    (sqs,) = [row.dollars for row in small if row.what.startswith("SQS")]
    assert f"cost about ${sqs:.2f} a month" in (PROJECT / "functions/decisions/0001-two-queues.md").read_text()
    (reconciled,) = [row.dollars for row in large if "reconcile" in row.what]
    assert f"that costs ${reconciled:.0f} a month" in (PROJECT / "functions/decisions/0003-no-dynamodb.md").read_text()
    (generations,) = [row for row in large if "generations" in row.what]
    assert f"keeps {float(generations.amount.split()[0]):.0f} GB, or ${generations.dollars:.2f}" in (
        (PROJECT / "infra/COSTS.md").read_text()
    )


def test_the_calls_to_the_queues_are_billed() -> None:
    assert costs.RENEW_S == queues.RENEW_S
    server = costs.Server(versions=1_000_000, kept=1, served_gb=0, products=1)
    (row,) = [row for row in costs.bill(server) if row.what.startswith("SQS")]
    runs = costs.DIGEST_RUNS + costs.PUBLISH_RUNS
    assert float(row.amount.split()[0]) >= costs.MESSAGES + 3 * runs, "each is received, hidden and deleted"
