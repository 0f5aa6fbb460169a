"""What `scripts/admin` reads of a server before it acts: a deployed stack, its clients, a dry run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, NoRegionError
from click import ClickException
from click.testing import CliRunner

from cli.admin import checks, inventory
from cli.admin.__main__ import main
from cli.admin.checks import Hint, Unchecked
from cli.admin.deployment import Deployment, DryStore, open_stack
from cli.admin.errors import AGAIN, NO_CREDENTIALS, NOTHING, STORAGE
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import parse_version
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions.retention import Rule
from tests.support import images
from tests.support.findings import only_faults
from tests.support.memory_store import Sent, System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"
STACK = {
    "StackStatus": "UPDATE_COMPLETE",
    "Parameters": [
        {"ParameterKey": name, "ParameterValue": value}
        for name, value in {
            "Clients": "lxd",
            "RetainVersions": "2",
            "RetainDays": "0",
            "GraceHours": "48",
            "StaleDays": "3",
            "MaxUploadBytes": "30000000000",
        }.items()
    ],
    "Outputs": [
        {"OutputKey": "BucketName", "OutputValue": "images-1"},
        {"OutputKey": "Address", "OutputValue": "https://images.example.org"},
        {"OutputKey": "ApiUrl", "OutputValue": "https://api.example.org"},
        {"OutputKey": "DistributionId", "OutputValue": "E123"},
    ],
}


INVALIDATED: list[str] = []


class Session:
    """A boto3 session for which CloudFormation has one stack, and CloudWatch one alarm."""

    region_name = "eu-central-1"
    events = SimpleNamespace(register=lambda *_: None, register_first=lambda *_: None)

    def __init__(self, stack: dict[str, Any] | None, alarms: tuple[dict[str, str], ...] = ()) -> None:
        self._stack, self._alarms = stack, alarms

    def client(self, service: str) -> Any:
        if service == "cloudformation":
            return SimpleNamespace(describe_stacks=self._describe)
        if service == "cloudfront":
            return SimpleNamespace(create_invalidation=self._invalidate)
        assert service == "cloudwatch"
        return SimpleNamespace(get_paginator=lambda _: SimpleNamespace(paginate=self._alarm_pages))

    def _invalidate(self, DistributionId: str, InvalidationBatch: dict[str, Any]) -> dict[str, Any]:
        assert DistributionId == "E123"
        INVALIDATED.extend(InvalidationBatch["Paths"]["Items"])
        return {"Invalidation": {"Id": "I1", "Status": "Completed"}}

    def _describe(self, StackName: str) -> dict[str, Any]:
        if self._stack is None:
            message = f"Stack with id {StackName} does not exist"
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "DescribeStacks")
        return {"Stacks": [self._stack]}

    def _alarm_pages(self, AlarmNamePrefix: str, StateValue: str) -> Iterator[dict[str, Any]]:
        assert (AlarmNamePrefix, StateValue) == ("images-", "ALARM")
        yield {"MetricAlarms": list(self._alarms)}


def test_a_stack_is_read_from_its_outputs_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(STACK))
    found = open_stack("images")
    assert (found.bucket, found.edge, found.api, found.clients) == (
        "images-1", "https://images.example.org", "https://api.example.org", ("lxd",)
    )  # fmt: skip
    assert found.max_bytes == 30_000_000_000


def logging_to(target: str) -> Any:
    """Return a session whose S3 returns where the access logs of a bucket go."""
    answer = {"LoggingEnabled": {"TargetBucket": target, "TargetPrefix": "bucket/"}} if target else {}
    s3 = SimpleNamespace(get_bucket_logging=lambda Bucket: answer if Bucket == "images-1" else None)
    return SimpleNamespace(client=lambda *_, **__: s3)


def test_the_log_bucket_is_the_stacks_own_or_the_target_of_the_buckets_logging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Deployment(None, "images-1", local_logs="local-logs").logs_bucket == "local-logs"
    assert Deployment(logging_to("images-logs"), "images-1").logs_bucket == "images-logs"
    monkeypatch.setattr(Deployment, "_physical_id", lambda _, logical_id: f"images-{logical_id.lower()}")
    assert Deployment(None, "images-1", stack="images").logs_bucket == "images-logsbucket"


def test_a_bucket_that_logs_nowhere_needs_its_stack_for_statistics() -> None:
    with pytest.raises(ClickException, match=r"writes no access logs.*name the stack with --stack"):
        _ = Deployment(logging_to(""), "images-1").logs_bucket


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (None, "there is no stack images in eu-central-1"),
        ({"StackStatus": "CREATE_COMPLETE"}, "has no output BucketName, so it was not made from infra/template.yaml"),
    ],
)
def test_a_stack_of_another_template_is_refused(
    stack: dict[str, Any] | None, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(stack))
    with pytest.raises(SystemExit) as ended:
        open_stack("images")
    assert ended.value.code == NOTHING
    assert message in capsys.readouterr().err


def test_a_dry_run_of_prune_uses_the_retention_rules_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(STACK))
    system = three_versions()
    monkeypatch.setattr(Deployment, "store", system.store)
    run = Run(dry_run=True)
    prune(system.store, Sent(), Rules(Rule(2, 0), 48, 3), datetime.now(UTC), lambda _: None, run)
    assert run.tasks
    before = dict(system.store.objects)
    assert pruned("--stack images prune --dry-run") == [asdict(task) for task in run.tasks]
    assert "48 hours later" in run.tasks[0].why
    assert pruned("prune --stack images --keep-versions 0") == [], "an option goes before the stack's own"
    later = pruned("--stack images prune --grace-hours 5")
    assert "5 hours later" in later[0]["why"]
    assert system.store.objects == before


def test_a_withdrawn_version_keeps_the_grace_time_of_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(STACK))
    system = three_versions()
    monkeypatch.setattr(Deployment, "store", system.store)
    for given, hours in (("", 48), (" --grace-hours 5", 5)):
        done = CliRunner().invoke(main, f"--json --stack images withdraw {PATH}{given}".split())
        report = json.loads(done.stdout)
        left = datetime.fromisoformat(report["delete_after"]) - datetime.now(UTC)
        assert round(left.total_seconds() / 3600) == hours
        assert report["dry_run"] is True


def test_a_command_invalidates_the_files_it_deletes_as_maintain_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(STACK))
    INVALIDATED.clear()
    system = three_versions()
    monkeypatch.setattr(Deployment, "store", system.store)
    withdraw(system.store, parse_version(PATH), datetime(2020, 11, 20, tzinfo=UTC), 24, lambda _: None)
    system.catch_up()
    assert CliRunner().invoke(main, ["--stack", "images", "prune", "--yes"]).exit_code == 0
    assert f"{PATH}/rootfs.squashfs" not in system.store.objects
    assert f"/{PATH}/rootfs.squashfs" in INVALIDATED


def plucky_fails(system: System, error: Exception) -> None:
    """Add a second product whose records cannot be listed."""

    def fail(method: str, key: str) -> None:
        if method == "list" and key == "versions/images/ubuntu/plucky/amd64/default/":
            raise error

    system.upload("images/ubuntu/plucky/amd64/default/20261123_10:00", images.split_image(seed="plucky"))
    system.catch_up()
    system.store.on = fail


def test_a_prune_with_a_failing_product_names_it_and_finishes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(STACK))
    system = three_versions()
    monkeypatch.setattr(Deployment, "store", system.store)
    plucky_fails(system, StorageUnavailable("503"))
    done = CliRunner().invoke(main, ["--json", "--stack", "images", "prune", "--yes"])
    report = json.loads(done.stdout)
    assert done.exit_code == STORAGE
    assert [task["path"] for task in report["tasks"]] == [f"{PATH[:-14]}20261121_10:00"]
    failed = {"what": "look at", "path": "images/ubuntu/plucky/amd64/default", "why": "503", "remedy": AGAIN}
    assert report["failed"] == [failed]
    done = CliRunner().invoke(main, ["--stack", "images", "prune", "--yes"])
    assert done.exit_code == STORAGE
    assert f"failed: look at images/ubuntu/plucky/amd64/default\n  503; {AGAIN}" in done.stdout


def test_an_interrupted_prune_reports_what_it_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "Session", lambda **_: Session(STACK))
    system = three_versions()
    monkeypatch.setattr(Deployment, "store", system.store)
    plucky_fails(system, NoRegionError())
    done = CliRunner().invoke(main, ["--json", "--stack", "images", "prune", "--yes"])
    assert done.exit_code == NO_CREDENTIALS
    report = json.loads(done.stdout)
    assert [task["path"] for task in report["tasks"]] == [f"{PATH[:-14]}20261121_10:00"]
    assert [failure["why"] for failure in report["failed"]] == ["no AWS region is set"]


def three_versions() -> System:
    system = System()
    for day in (1, 2):
        system.upload(f"{PATH[:-14]}2026112{day}_10:00", images.split_image(seed=str(day)))
    system.upload(PATH, images.split_image())
    system.catch_up()
    return system


def pruned(line: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(main, ["--json", *line.split()])
    assert done.exit_code == 0, done.output
    tasks: list[dict[str, Any]] = json.loads(done.stdout)["tasks"]
    return tasks


@pytest.mark.parametrize("clients", [("incus", "lxd"), ("lxd",), ("incus",)])
@pytest.mark.parametrize("unified", [False, True])
def test_the_client_kinds_are_read_from_the_catalog(clients: tuple[str, ...], unified: bool) -> None:
    system = System(clients=clients)
    files = {"x.tar.gz": images.unified_tarball("amd64", "gz", "x")} if unified else images.split_image()
    system.upload(PATH, files)
    assert inventory.clients(system.store) == ("incus", "lxd"), "an empty catalog tells nothing"
    system.catch_up()
    assert inventory.clients(system.store) == clients
    system.store.put("streams/v1/images-daily.json", b"{torn")
    assert inventory.clients(system.store) == clients, "what cannot be read tells nothing"


def test_a_failed_deployment_and_active_alarms_are_findings() -> None:
    alarm = {"AlarmName": "images-ArrivalsAge-1X", "StateReason": "1 datapoint was greater than 1800"}
    session = Session({**STACK, "StackStatus": "UPDATE_FAILED"}, (alarm,))
    found = only_faults(checks.CHECKS["deployment"](Deployment(session, "images-1", stack="images")))
    assert [what for what, _ in found] == [
        "the last deployment ended as UPDATE_FAILED",
        "images-ArrivalsAge-1X is in alarm: 1 datapoint was greater than 1800",
    ]
    assert all(remedy for _, remedy in found)
    assert list(checks.CHECKS["deployment"](Deployment(Session(STACK), "images-1", stack="images"))) == []
    (unseen,) = checks.CHECKS["deployment"](Deployment(None, "images-1"))
    assert isinstance(unseen, Unchecked), "nobody named a stack"


def test_a_deployment_that_was_undone_is_a_hint() -> None:
    """The server works, and deploying the same again would change nothing."""
    session = Session({**STACK, "StackStatus": "UPDATE_ROLLBACK_COMPLETE"})
    (hint,) = checks.CHECKS["deployment"](Deployment(session, "images-1", stack="images"))
    assert isinstance(hint, Hint)
    assert hint.what == (
        "the last deployment failed (UPDATE_ROLLBACK_COMPLETE): CloudFormation returns the stack to what it was before"
    )
    assert "describe-stack-events --stack-name images" in hint.remedy


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED", "DELETE_FAILED"])
def test_an_incomplete_stack_is_a_fault(status: str) -> None:
    session = Session({**STACK, "StackStatus": status})
    assert len(only_faults(checks.CHECKS["deployment"](Deployment(session, "images-1", stack="images")))) == 1


def test_an_alias_like_a_fingerprint_is_a_hint_despite_other_problems_in_its_document() -> None:
    system = System()
    aliases = [*(f"no alias {number}" for number in range(300)), "deadbeefcafe"]
    noise = ", ".join('"os": "x"' for _ in range(300))
    document = f'{{"a": {{}}, "a": {{}}, {noise}, "aliases": {json.dumps(aliases)}}}'.encode()
    system.upload(PATH, {**images.split_image(), "metadata.json": document})
    system.catch_up()
    deployment = Deployment(None, "images-1")
    deployment.__dict__["store"] = system.store
    (hint,) = checks.CHECKS["withheld"](deployment)
    assert isinstance(hint, Hint)
    assert hint.what.startswith(f"{PATH}/metadata.json asks for a fingerprint: the alias deadbeefcafe is ignored")


def test_a_dry_run_reports_the_same_changes_and_writes_nothing() -> None:
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
    ("description", "stranger", "parts"),
    [
        (200, 403, []),
        (200, 401, []),
        (503, 403, ["answers 503 for its own description"]),
        (200, 200, ["answers 200 to a stranger, expected 401 or 403"]),
        (200, 404, ["answers 404 to a stranger, expected 401 or 403"]),
    ],
)
def test_an_api_that_is_unreachable_or_open_is_a_finding(
    description: int, stranger: int, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(deployment: Deployment, _base: str, path: str) -> tuple[int, bytes]:
        return (description, b'{"openapi": "3.1.0"}') if path == "openapi.json" else (stranger, b"")

    monkeypatch.setattr(checks, "_get", get)
    found = [
        what
        for what, _ in only_faults(checks.CHECKS["api"](Deployment(None, "images-1", api="https://api.example.org")))
    ]
    assert [sentence for sentence, part in zip(found, parts, strict=True) if part not in sentence] == []
