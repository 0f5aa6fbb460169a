"""How the admin tool reports external faults: each class has its own remedy and exit code."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import botocore.exceptions as aws
import click
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from cli.admin import arguments, checks, doctor, errors
from cli.admin.__main__ import main
from cli.admin.checks import Unchecked
from cli.admin.deployment import Deployment, Notified, Queue
from cli.admin.errors import AGAIN, CATALOG, EARLIER, EDGE, NO_CREDENTIALS, NOTHING, RECORD, RIGHTS, STORAGE, WAY
from cli.aws import LOG_IN, LOG_IN_AGAIN
from imageserver.errors import CatalogBusy, CatalogDamaged, InvalidationRefused, StorageDenied, StorageUnavailable
from imageserver.storage.s3 import S3Error
from tests.support import images
from tests.support.findings import only_faults
from tests.support.memory_store import System

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")


def through_the_adapter(cause: Exception) -> Exception:
    """Return an error as imageserver.storage.s3 raises it."""
    try:
        try:
            if not isinstance(cause, ClientError):
                raise StorageUnavailable(f"no answer about x: {cause}") from cause
            raise S3Error(cause, "images-1", "x") from cause
        except S3Error as error:
            raise error.error from error
    except (StorageUnavailable, StorageDenied) as error:
        return error


CONNECTION = aws.EndpointConnectionError(endpoint_url="https://s3.example.org")


@pytest.mark.parametrize(
    ("error", "remedy", "code"),
    [
        (CatalogDamaged("streams/v1/images.json is not a document of ours"), CATALOG, STORAGE),
        (CatalogDamaged("versions/images/x.json is not a record"), RECORD, STORAGE),
        (CatalogDamaged("private/views/stable.json cannot be read; put back its previous version"), EARLIER, STORAGE),
        (CatalogDamaged("private/checks/images/x.json cannot be read; delete it"), EARLIER, STORAGE),
        (CatalogDamaged("mirrors/mirrors.json cannot be used; put back its previous version"), EARLIER, STORAGE),
        (StorageUnavailable("503"), AGAIN, STORAGE),
        (CatalogBusy("races"), AGAIN, STORAGE),
        (StorageDenied("403"), RIGHTS, STORAGE),
        (InvalidationRefused("the edge was not told"), EDGE, STORAGE),
        (through_the_adapter(refused("SlowDown")), AGAIN, STORAGE),
        (through_the_adapter(refused("AccessDenied")), RIGHTS, STORAGE),
        (through_the_adapter(refused("ExpiredToken")), LOG_IN_AGAIN, NO_CREDENTIALS),
        (
            through_the_adapter(refused("NoSuchBucket")),
            "name a bucket that is there, with --bucket or --stack",
            NOTHING,
        ),
        (through_the_adapter(aws.NoCredentialsError()), LOG_IN, NO_CREDENTIALS),
        (through_the_adapter(CONNECTION), WAY, STORAGE),
        (refused("AccessDenied"), RIGHTS, STORAGE),
        (refused("QueueDoesNotExist"), "deploy the template again", STORAGE),
        (aws.NoCredentialsError(), LOG_IN, NO_CREDENTIALS),
        (aws.ProfileNotFound(profile="x"), "set AWS_PROFILE to one that is there (none), or unset it", NO_CREDENTIALS),
        (CONNECTION, WAY, STORAGE),
        (aws.ConnectTimeoutError(endpoint_url="https://s3.example.org"), WAY, STORAGE),
        (aws.ReadTimeoutError(endpoint_url="https://s3.example.org"), WAY, STORAGE),
        (http.client.BadStatusLine("x"), WAY, STORAGE),
        (ConnectionRefusedError(111, "Connection refused"), WAY, STORAGE),
        (PermissionError(13, "Permission denied", "/srv/rootfs"), "look at that file and its rights", STORAGE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_fault_has_the_remedy_of_its_class(error: Exception, remedy: str, code: int) -> None:
    fault = errors.explain(error)
    assert (fault.remedy, fault.code) == (remedy, code)
    assert fault.what


def test_a_connection_that_fails_is_not_called_missing_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors.exit_on_error():
        raise CONNECTION
    assert ended.value.code == STORAGE
    output = capsys.readouterr().err
    assert "https://s3.example.org" in output
    assert "credentials" not in output


def checked(deployment: Deployment, name: str, monkeypatch: pytest.MonkeyPatch) -> doctor.Checked:
    monkeypatch.setattr(checks, "CHECKS", {name: checks.CHECKS[name]})
    (found,) = doctor.examine(deployment)
    return found


class FakeDeployment(Deployment):
    """A server whose bucket is in memory."""

    @classmethod
    def over(cls, system: System, **about: Any) -> FakeDeployment:
        deployment = cls(None, "images-1", **about)
        deployment.__dict__["store"] = system.store
        deployment.__dict__["clients"] = system.clients
        return deployment


@pytest.mark.parametrize("check", ["documents", "agreement"])
def test_the_doctor_recommends_a_rebuild_for_a_damaged_catalog(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System()
    system.upload(PATH, images.split_image())
    system.catch_up()
    system.store.put("streams/v1/images.json", b'{"products": [')
    (finding,) = checked(FakeDeployment.over(system), check, monkeypatch).findings
    assert finding.remedy == "admin rebuild catalog --yes"


def test_the_doctor_reports_ok_only_after_comparing_every_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of maintain ends after a number of records. The doctor checks the rest too."""
    monkeypatch.setattr(checks, "Run", limited_run(1))
    system = System()
    for name in ("a", "b", "c"):
        system.upload(f"images/{name}/1/amd64/default/20261123", images.split_image(seed=name))
    system.catch_up()
    system.store.remove("versions/images/c/1/amd64/default/20261123.json")
    found = checked(FakeDeployment.over(system), "agreement", monkeypatch).findings
    assert any(f.what.startswith("images/c/1/amd64/default/20261123: its record is lost;") for f in found)


def test_the_doctor_names_a_product_that_could_not_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System()
    for name in ("a", "b"):
        system.upload(f"images/{name}/1/amd64/default/20261123", images.split_image(seed=name))
    system.catch_up()
    system.store.remove("versions/images/b/1/amd64/default/20261123.json")

    def fail(method: str, key: str) -> None:
        if (method, key) == ("list", "versions/images/a/1/amd64/default/"):
            raise StorageDenied("403 for a")

    system.store.on = fail
    found = checked(FakeDeployment.over(system), "agreement", monkeypatch).findings
    assert {(finding.what.partition(";")[0], finding.remedy) for finding in found} >= {
        ("images/a/1/amd64/default could not be compared: 403 for a", RIGHTS),
        ("images/b/1/amd64/default/20261123: its record is lost", "admin reconcile"),
    }


def limited_run(most: int) -> Any:
    """Return a `Run` with a low default limit, as if there were many records."""
    from imageserver.operations.runs import Run

    return lambda **about: Run(**{"limit": most, **about})


def test_an_edge_that_refuses_connections_is_named_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # bound and not listening: always refused
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        (finding,) = checked(FakeDeployment.over(System(), edge=address), "edge", monkeypatch).findings
    assert address in finding.what
    assert finding.remedy == WAY


def test_a_skipped_check_is_reported_and_is_not_ok() -> None:
    found = {check.name: check.not_seen for check in doctor.examine(unreachable())}
    assert "only with --stack" in found["deployment"][0]
    assert "--url" in found["edge"][0]
    assert found["api"] == ["the upload API: only with --stack"]


def unreachable() -> Deployment:
    """Return an unreachable bucket in AWS."""

    class Session:
        def client(self, *_: Any, **__: Any) -> Any:
            raise CONNECTION

    return Deployment(Session(), "images-1")


def test_a_check_that_fails_is_a_finding_and_the_next_one_still_runs() -> None:
    checked = list(doctor.examine(unreachable()))
    assert [check.name for check in checked] == list(checks.CHECKS)
    assert {finding.remedy for check in checked for finding in check.findings} == {WAY}


ALLOWED = {
    "Effect": "Allow",
    "Principal": {"Service": "s3.amazonaws.com"},
    "Action": "sqs:SendMessage",
    "Condition": {"ArnEquals": {"aws:SourceArn": "arn:aws:s3:::images-1"}},
}


@pytest.mark.parametrize(
    ("statements", "fine"),
    [
        ([ALLOWED], True),
        ([{"Effect": "Deny", "Principal": "*", "Action": "sqs:*"}, ALLOWED], True),
        ([{**ALLOWED, "Condition": {}, "Action": ["SQS:SendMessage"]}], True),
        ([], False),
        ([{**ALLOWED, "Effect": "Deny"}], False),
        ([{**ALLOWED, "Principal": {"Service": "sns.amazonaws.com"}}], False),
        ([{**ALLOWED, "Action": "sqs:ReceiveMessage"}], False),
        ([{**ALLOWED, "Condition": {"ArnEquals": {"aws:SourceArn": "arn:aws:s3:::another"}}}], False),
    ],
)
def test_a_queue_that_the_bucket_cannot_send_to_is_a_finding(statements: list[Any], fine: bool) -> None:
    found = only_faults(checks.check_wiring(queued({"Policy": json.dumps({"Statement": statements})})))
    assert [what for what, _ in found if "does not let S3 send" in what] == (
        [] if fine else [f"the policy of the queue of {p}* does not let S3 send to it: uploads stay unseen"
                         for p in ("images", "versions/")]
    )  # fmt: skip


def queued(attributes: dict[str, str], session: Any = None, stack: str = "", counts: int = 0) -> Deployment:
    """Return a server in AWS with both queues and these attributes. `counts` is the dead letters of each."""
    deployment = FakeDeployment.over(System(), stack=stack)
    deployment = replace(deployment, session=session)
    attributes = {"ApproximateNumberOfMessages": "0", **attributes}
    queue = Queue("https://sqs/1/images-ArrivalsQueue-X", attributes, "dead")
    notified = Notified("arn:aws:sqs:eu-central-1:1:images-ArrivalsQueue-X", checks.EVENTS)
    answer = {"Attributes": {"ApproximateNumberOfMessages": str(counts)}}
    deployment.__dict__.update(
        wiring={"images": notified, "versions/": notified},
        queue=lambda _: queue,
        sqs=SimpleNamespace(get_queue_attributes=lambda **_: answer, list_queues=lambda **_: {"QueueUrls": []}),
    )
    return deployment


class FakeCloudWatch:
    """CloudWatch with one age, CloudFormation with one resource or none."""

    def __init__(self, age: float, resource: str) -> None:
        self._age, self._resource = age, resource

    def client(self, service: str) -> Any:
        if service == "cloudwatch":
            return SimpleNamespace(get_metric_statistics=self._statistics)
        return SimpleNamespace(describe_stack_resource=self._describe)

    def _statistics(self, **asked: Any) -> dict[str, Any]:
        assert asked["Dimensions"] == [{"Name": "QueueName", "Value": "images-ArrivalsQueue-X"}]
        moment = datetime(2026, 11, 23, 12, tzinfo=UTC)
        old = {"Timestamp": moment.replace(hour=11), "Maximum": 99999.0}
        return {"Datapoints": [{"Timestamp": moment, "Maximum": self._age}, old]}

    def _describe(self, StackName: str, LogicalResourceId: str) -> dict[str, Any]:
        assert (StackName, LogicalResourceId) == ("images", "MaintainDeadLetters")
        if not self._resource:
            raise refused("ValidationError")
        return {"StackResourceDetail": {"PhysicalResourceId": self._resource}}


@pytest.mark.parametrize(("age", "prefixes"), [(30.0, []), (1200.0, ["versions/"]), (1900.0, ["images", "versions/"])])
def test_one_event_that_waits_too_long_is_a_finding(age: float, prefixes: list[str]) -> None:
    found = only_faults(checks.check_queues(queued({}, FakeCloudWatch(age, "dead of maintain"), "images")))
    waits = [what for what, _ in found if "the oldest message" in what]
    assert waits == [f"the oldest message of {prefix}* has waited for {age / 60:.0f} minutes" for prefix in prefixes]


def test_a_maintain_without_a_dead_letter_queue_is_a_finding() -> None:
    found = only_faults(checks.check_queues(queued({}, FakeCloudWatch(0, ""), "images")))
    assert [what for what, _ in found] == ["maintain has no dead-letter queue: a failed schedule stays unseen"]


def test_dead_letters_of_maintain_are_a_finding_with_the_command_that_shows_them() -> None:
    found = dict(
        only_faults(checks.check_queues(queued({}, FakeCloudWatch(0, "dead of maintain"), "images", counts=3)))
    )
    assert found["3 dead letters of maintain"] == "admin redrive maintain shows why, and what to do"


def test_one_dead_letter_is_one() -> None:
    found = dict(
        only_faults(checks.check_queues(queued({}, FakeCloudWatch(0, "dead of maintain"), "images", counts=1)))
    )
    assert "1 dead letter of maintain" in found


def test_without_a_stack_the_skipped_age_check_is_reported() -> None:
    found = list(checks.check_queues(queued({})))
    assert [one.why.split(":")[0] for one in found if isinstance(one, Unchecked)] == [
        "how long the oldest message waits",
        "the dead letters of maintain",
    ]


def lines(group: click.Group) -> Iterator[str]:
    """Yield each command of a group as typed, including those of nested groups."""
    for name, found in group.commands.items():
        yield from (f"{name} {one}" for one in lines(found)) if isinstance(found, click.Group) else (name,)


COMMANDS = sorted(lines(main))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_has_a_help_text_and_the_common_options(line: str) -> None:
    done = CliRunner().invoke(main, [*line.split(), "--help"])
    assert done.exit_code == 0
    about = done.output.split("Options:")[0].splitlines()
    assert any(text.strip() for text in about[1:]), "it says what it does"
    assert all(option in done.output for option in ("--json", "--stack", "--bucket", "--url", "--state-dir"))


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Collect the server that each command would open."""
    found: list[Any] = []

    def open_(*named: Any) -> Deployment:
        found.append(named)
        return FakeDeployment.over(System())

    for name in ("open_stack", "open_bucket", "open_local"):
        monkeypatch.setattr(arguments, name, lambda *named, name=name: open_(name, *named))
    yield found


@pytest.mark.parametrize(
    "line", ["--json --stack images list", "list --json --stack images", "--stack images list --json"]
)
def test_common_options_are_accepted_before_and_after_the_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch) as servers:
        done = CliRunner().invoke(main, line.split())
    assert (done.exit_code, servers) == (0, [("open_stack", "images")])
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    "line",
    [
        "list --stack a --bucket b",
        "--stack a list --bucket b",
        "list --url https://x",
        "list --stack a --state-dir .",
        "list --bucket b --url images.example.org",
    ],
)
def test_naming_two_servers_or_half_of_one_is_wrong_usage(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch) as servers:
        assert CliRunner().invoke(main, line.split()).exit_code == 2
    assert servers == []
