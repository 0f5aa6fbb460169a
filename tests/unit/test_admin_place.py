"""What `scripts/admin` knows of a server before it does anything: a deployed stack, its clients, a dry run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import images
from cli.admin import doctor, looking, place
from cli.admin.dry import DryStore
from cli.admin.place import NOTHING, Place
from memory import System
from operations.withdrawals import restore, withdraw
from simplestreams.keys import parse_version

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
STACK = {
    "StackStatus": "UPDATE_COMPLETE",
    "Parameters": [{"ParameterKey": "Clients", "ParameterValue": "lxd"}],
    "Outputs": [
        {"OutputKey": "BucketName", "OutputValue": "images-1"},
        {"OutputKey": "Address", "OutputValue": "https://images.example.org"},
        {"OutputKey": "ApiUrl", "OutputValue": "https://api.example.org"},
    ],
}


class Session:
    """A boto3 session for which CloudFormation has one stack, and CloudWatch one alarm."""

    region_name = "eu-central-1"

    def __init__(self, stack: dict[str, Any] | None, alarms: tuple[dict[str, str], ...] = ()) -> None:
        self._stack, self._alarms = stack, alarms

    def client(self, service: str) -> Any:
        if service == "cloudformation":
            return SimpleNamespace(describe_stacks=self._describe)
        assert service == "cloudwatch"
        return SimpleNamespace(get_paginator=lambda _: SimpleNamespace(paginate=self._alarm_pages))

    def _describe(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        if self._stack is None:
            error = {"Code": "ValidationError", "Message": f"Stack with id {StackName} does not exist"}
            raise ClientError({"Error": error}, "DescribeStacks")
        return {"Stacks": [self._stack]}

    def _alarm_pages(self, AlarmNamePrefix: str, StateValue: str) -> Iterator[dict[str, Any]]:  # noqa: N803
        assert (AlarmNamePrefix, StateValue) == ("images-", "ALARM")
        yield {"MetricAlarms": list(self._alarms)}


def test_a_stack_is_known_by_its_outputs_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda: Session(STACK))
    found = place.deployed("images")
    assert (found.bucket, found.edge, found.api, found.clients) == (
        "images-1", "https://images.example.org", "https://api.example.org", ("lxd",)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stack", "says"),
    [
        (None, "there is no stack images in eu-central-1"),
        ({"StackStatus": "CREATE_COMPLETE"}, "has no output BucketName, so it was not made from infra/template.yaml"),
    ],
)
def test_another_stack_is_not_taken_for_ours(
    stack: dict[str, Any] | None, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boto3, "Session", lambda: Session(stack))
    with pytest.raises(SystemExit) as ended:
        place.deployed("images")
    assert ended.value.code == NOTHING
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("clients", [("incus", "lxd"), ("lxd",), ("incus",)])
@pytest.mark.parametrize("unified", [False, True])
def test_the_catalog_tells_whose_items_it_carries(clients: tuple[str, ...], unified: bool) -> None:
    system = System(clients=clients)
    files = {"x.tar.gz": images.unified_tarball("amd64", "gz", "x")} if unified else images.split_image()
    system.upload(PATH, files)
    assert looking.clients(system.store) == ("incus", "lxd"), "an empty catalog tells nothing"
    system.catch_up()
    assert looking.clients(system.store) == clients
    system.store.put("streams/v1/images-daily.json", b"{torn")
    assert looking.clients(system.store) == clients, "what cannot be read tells nothing"


def test_a_deployment_that_failed_and_alarms_that_ring_are_findings() -> None:
    alarm = {"AlarmName": "images-ArrivalsAge-1X", "StateReason": "1 datapoint was greater than 1800"}
    session = Session({**STACK, "StackStatus": "UPDATE_ROLLBACK_COMPLETE"}, (alarm,))
    found = list(doctor.CHECKS["deployment"](Place(session, "images-1", stack="images")))
    assert [what for what, _ in found] == [
        "the last deployment ended as UPDATE_ROLLBACK_COMPLETE",
        "images-ArrivalsAge-1X is in alarm: 1 datapoint was greater than 1800",
    ]
    assert all(remedy for _, remedy in found)
    assert list(doctor.CHECKS["deployment"](Place(Session(STACK), "images-1", stack="images"))) == []
    assert list(doctor.CHECKS["deployment"](Place(None, "images-1"))) == [], "nobody named a stack"


def test_a_dry_run_says_the_same_and_writes_nothing() -> None:
    system = System()
    system.upload(PATH, images.split_image())
    system.catch_up()
    version, now = parse_version(PATH), datetime(2026, 11, 23, 12, tzinfo=UTC)
    before = dict(system.store.objects)
    would = withdraw(DryStore(system.store), version, now, 24, lambda _: None, "a test")
    assert system.store.objects == before
    assert withdraw(system.store, version, now, 24, lambda _: None, "a test") == would
    before = dict(system.store.objects)
    assert restore(DryStore(system.store), version, lambda _: None).versions == [PATH]
    assert system.store.objects == before


@pytest.mark.parametrize(
    ("description", "stranger", "says"),
    [
        (200, 403, []),
        (200, 401, []),
        (503, 403, ["answers 503 for its own description"]),
        (200, 200, ["answers 200 to a stranger, expected 401 or 403"]),
        (200, 404, ["answers 404 to a stranger, expected 401 or 403"]),
    ],
)
def test_an_api_that_is_away_or_open_is_a_finding(
    description: int, stranger: int, says: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_place: Place, _base: str, path: str) -> tuple[int, bytes]:
        return (description if path == "openapi.json" else stranger), b""

    monkeypatch.setattr(doctor, "_get", get)
    found = [what for what, _ in doctor.CHECKS["api"](Place(None, "images-1", api="https://api.example.org"))]
    assert [sentence for sentence, said in zip(found, says, strict=True) if said not in sentence] == []
