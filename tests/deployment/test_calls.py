"""The roles allow every storage call of the functions: otherwise a missing right would show only on AWS."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from gates import stack as stacks
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import parse_product
from imageserver.operations.access_logs import PREFIX
from imageserver.operations.prune import Rules, prune
from imageserver.operations.reconcile import ReconcileServices, reconcile
from imageserver.operations.runs import Run, remember, resume
from imageserver.site.layout import lay_out
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.deployment.grants import requests, role_statements
from tests.support.deployment.policy import Decision, Request, decide
from tests.support.memory_store import Sent, System

PRODUCT = "images/ubuntu/noble/amd64/default"
VERSIONS = (f"{PRODUCT}/20261122_10:00", f"{PRODUCT}/20261123_10:00")


def ingest_all(system: System) -> None:
    for path in VERSIONS:
        system.ingest(path)


def publish_all(system: System) -> None:
    system.publish(parse_product(PRODUCT))


def maintain_all(system: System) -> None:
    """Run a reconcile that finds nothing to do, then retention: withdraw, later delete."""
    run = Run()
    lay_out(system.store, run)
    for task in ("reconcile", "prune"):
        run.after = resume(system.store, task)
        remember(system.store, task, run)
    reconcile(
        ReconcileServices(system.store, Sent(), ALL_CLIENTS, tagged_since=system.store.clock - timedelta(days=2)), run
    )

    def upload_again(method: str, key: str) -> None:
        if method == "delete" and key.startswith("images"):  # so that it hides an upload of the same bytes
            system.store.put(key, system.store.objects[key].body)

    for days in (0, 3):
        now = system.store.clock + timedelta(days=days)
        system.store.on = upload_again if days else system.store.on
        prune(system.store, Sent(), Rules(Rule(1, 0), 24, 7), now, lambda _: None, Run())
        asked = list(system.store.log)
        publish_all(system)  # a version is delisted before it is deleted; these are not maintain's calls
        system.store.log[:] = asked


@pytest.mark.parametrize(
    ("role", "run"), [("DigestRole", ingest_all), ("PublishRole", publish_all), ("MaintainRole", maintain_all)]
)
def test_each_role_allows_the_calls_of_its_function(role: str, run: Callable[[System], None]) -> None:
    system = System()
    for path in VERSIONS:
        system.upload(path, images.split_image(seed=path))
    if run is not ingest_all:
        ingest_all(system)
    if run is maintain_all:
        publish_all(system)
    system.store.log.clear()
    run(system)
    statements = role_statements(stacks.deployed(), role)
    asked = requests(system.store.log, f"arn:aws:s3:::{stacks.deployed().properties('Bucket')['BucketName']}")
    assert {request.action for request in asked} >= {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"}
    denied = [request for request in asked if decide(statements, request) is not Decision.ALLOWED]
    assert denied == []
    asked_for = {method for method, _ in system.store.log}
    assert (run is publish_all) == ("tag_listed" in asked_for)
    assert (run is maintain_all) == ("is_tagged" in asked_for)
    assert (run is maintain_all) == ("bring_back" in asked_for)


def test_maintain_may_list_and_read_the_edges_logs_where_retention_asks_for_fetches() -> None:
    bucket = f"arn:aws:s3:::{stacks.bucket_name('LogsBucket')}"
    asked = (
        Request("s3:ListBucket", bucket, context={"s3:prefix": PREFIX}),
        Request("s3:GetObject", f"{bucket}/{PREFIX}E1.2026-11-27-10.0a.gz"),
    )
    asking = stacks.deployed(KeepFetchedWithinDays="30")
    with_it, without = (role_statements(stack, "MaintainRole") for stack in (asking, stacks.deployed()))
    assert [decide(with_it, request) for request in asked] == [Decision.ALLOWED] * 2
    assert [decide(without, request) for request in asked] == [Decision.NOT_GRANTED] * 2
    variables = asking.properties("MaintainFunction")["Environment"]["Variables"]
    assert (variables["KEEP_FETCHED_WITHIN_DAYS"], variables["LOGS_BUCKET"]) == ("30", "images-logsbucket")
