"""What notifies people: alarms and the dashboard."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gates.stack import IDENTITY, Stack
from tests.support.deployment.rules.functions import follows, functions_of, has_views, makes_deltas
from tests.support.deployment.rules.registry import differ, rule, stack_arn

METRICS: Final = frozenset(
    {
        "UploadToListedSeconds",
        "BytesHashed",
        "Refusals",
        "LostRaces",
        "CatalogBytes",
        "VersionsIngested",
        "CatalogWrites",
        "UnreadableRecords",
        "MaintainTasks",
    }
)
METRICS_OF_MIRRORS: Final = frozenset(
    {"MirrorLagSeconds", "MirrorFilesMissing", "UpstreamsRefused", "FilesCopied", "BytesCopied"}
)
METRICS_OF_DELTAS: Final = frozenset({"DeltasMade", "DeltasDropped", "DeltaBytesSaved"})


def _queues_besides(stack: Stack) -> list[str]:
    by_switch = (("Copies", follows), ("Deltas", makes_deltas), ("AccessLogs", has_views))
    return [queue for queue, is_on in by_switch if is_on(stack)]


@rule
def alarms_notify_somebody(stack: Stack) -> Iterator[str]:
    alarms = stack.of_type("AWS::CloudWatch::Alarm")
    watched = {
        (metric, dimension["Value"])
        for alarm in alarms.values()
        for metric, dimensions in metrics_of(alarm)
        for dimension in dimensions
    }
    expected = {
        ("ApproximateNumberOfMessagesVisible", f"images-{q}DeadLetters.QueueName")
        for q in (*("Arrivals", "Changes", "Maintain"), *_queues_besides(stack))
    }
    expected |= {("ApproximateAgeOfOldestMessage", f"images-{q}Queue.QueueName") for q in ("Arrivals", "Changes")}
    expected |= {
        (metric, f"images-{name}Function") for name in functions_of(stack) for metric in ("Errors", "Throttles")
    }
    expected |= {
        ("5xx", "images-UploadsApi"),
        ("UploadToListedSeconds", IDENTITY.stack_name),
        ("UnreadableRecords", IDENTITY.stack_name),
    }
    if follows(stack):
        expected |= {(metric, IDENTITY.stack_name) for metric in ("MirrorLagSeconds", "UpstreamsRefused")}
    if "EdgeErrorsAlarmCommand" not in stack.outputs:
        expected |= {("5xxErrorRate", "images-Distribution")}
    yield from (f"nothing watches {metric} of {name}" for metric, name in sorted(expected - watched))
    for name, alarm in alarms.items():
        yield from differ(f"{name} tells", alarm.get("AlarmActions"), [stack_arn("sns", "AlarmsTopic")])
        if not alarm.get("AlarmDescription"):
            yield f"{name} does not say what to do"
        for metric in alarm.get("Metrics", []):
            ids = [other["Id"] for other in alarm["Metrics"] if "MetricStat" in other]
            if bare := [i for i in ids if f"FILL({i}, 0)" not in metric.get("Expression", f"FILL({i}, 0)")]:
                yield f"{name}: a gap in {', '.join(bare)} would leave the whole sum without a value"
            if "FILL" in metric.get("Expression", ""):
                yield from _late_values_count(name, alarm)


def _late_values_count(name: str, alarm: Mapping[str, Any]) -> Iterator[str]:
    """FILL also fills the newest period while its metrics are late. CloudWatch's guide advises "M out of N" then."""
    if int(alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"])) >= int(alarm["EvaluationPeriods"]):
        yield f"{name}: one period whose metrics are late, and so filled with 0, would keep the alarm from going off"


def metrics_of(alarm: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, str]]]]:
    if "MetricName" in alarm:
        yield alarm["MetricName"], alarm["Dimensions"]
    for metric in (m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m):
        yield metric["MetricName"], metric["Dimensions"]


@rule
def the_dashboard_shows_every_metric(stack: Stack) -> Iterator[str]:
    body = stack.properties("Dashboard")["DashboardBody"]
    widgets = json.loads(body)["widgets"]
    ours = METRICS | METRICS_OF_MIRRORS | METRICS_OF_DELTAS
    shown = {name for name in ours if any(name in json.dumps(widget) for widget in widgets)}
    yield from differ("metrics of our own", shown, ours)
    for question in (
        "Is anything stuck?",
        "How long from upload to listed?",
        "What was refused?",
        "Are the mirrors up to date?",
        "What do deltas save?",
    ):
        if question not in body:
            yield f"the dashboard does not ask: {question}"


@rule
def each_stack_measures_itself(stack: Stack) -> Iterator[str]:
    """Stacks of one account and region share the namespace of the metrics; the dimension `service` tells them apart."""
    name = IDENTITY.stack_name
    for logical_id, function in stack.of_type("AWS::Lambda::Function").items():
        found = function["Environment"]["Variables"].get("POWERTOOLS_SERVICE_NAME")
        yield from differ(f"{logical_id} counts for", found, name)
    shown = [
        metric
        for widget in json.loads(stack.properties("Dashboard")["DashboardBody"])["widgets"]
        for metric in widget["properties"].get("metrics", ())
    ]
    for metric in (m for m in shown if m[0] == "Simplestreams"):
        yield from differ(f"the dashboard's {metric[1]} is of", metric[2:4], ["service", name])
    for expression in (m[0]["expression"] for m in shown if isinstance(m[0], Mapping)):
        if f'service="{name}"' not in expression:
            yield f"the dashboard's {expression} also finds the metrics of other stacks"
