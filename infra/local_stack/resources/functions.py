"""Functions and their triggers: event source mappings, schedules, and the end of a deployment."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from local_stack.errors import TemplateError
from local_stack.resources.properties import take
from local_stack.template import ACCOUNT_ID, CODE_BUCKET, Resource
from local_stack.wiring import Function, Schedule, SourceMapping


def read_functions(functions: list[Resource], invoke_configs: list[Resource], region: str) -> Mapping[str, Function]:
    """Return the functions by logical id, with the retries of their invoke configurations."""
    retries = {
        r.properties["FunctionName"]: int(_invoke_config(r).get("MaximumRetryAttempts", 2)) for r in invoke_configs
    }
    return {r.logical_id: _function(r, retries, region) for r in functions}


def _invoke_config(resource: Resource) -> Mapping[str, Any]:
    return take(resource.logical_id, resource.properties, ["FunctionName", "MaximumRetryAttempts", "Qualifier"],
                ["DestinationConfig", "MaximumEventAgeInSeconds"])  # fmt: skip


def _function(resource: Resource, retries: Mapping[str, int], region: str) -> Function:
    p = take(
        resource.logical_id, resource.properties, ["Code", "Handler", "Environment", "Timeout", "MemorySize"],
        # RecursiveLoop: chains of events are not tracked here, so none is ever stopped.
        ["Architectures", "Description", "LoggingConfig", "RecursiveLoop", "Role", "Runtime", "Tags", "TracingConfig",
         "ReservedConcurrentExecutions", "FunctionName", "EphemeralStorage", "Layers", "SnapStart"],
    )  # fmt: skip
    code = p["Code"]
    if code.get("S3Bucket") != CODE_BUCKET:
        raise TemplateError(f"{resource.logical_id}: its code is {code}, expected a CodeUri that is a local folder")
    return Function(
        logical_id=resource.logical_id,
        arn=f"arn:aws:lambda:{region}:{ACCOUNT_ID}:function:{resource.logical_id}",
        code=Path("/") / code["S3Key"],
        handler=p["Handler"],
        environment={k: str(v) for k, v in p.get("Environment", {}).get("Variables", {}).items()},
        timeout_s=int(p.get("Timeout", 3)),
        memory_mb=int(p.get("MemorySize", 128)),
        retries=retries.get(resource.logical_id, 2),
    )


def read_mapping(resource: Resource) -> SourceMapping:
    """Return the function that gets a queue's messages, and how many at once."""
    p = take(
        resource.logical_id, resource.properties,
        ["BatchSize", "EventSourceArn", "FunctionName", "FunctionResponseTypes", "MaximumBatchingWindowInSeconds",
         "ScalingConfig"],
        ["Tags"],
    )  # fmt: skip
    responses = p.get("FunctionResponseTypes", [])
    if responses not in ([], ["ReportBatchItemFailures"]):
        raise TemplateError(f"{resource.logical_id}: FunctionResponseTypes is {responses}")
    scaling = take(resource.logical_id, p.get("ScalingConfig", {}), ["MaximumConcurrency"])
    return SourceMapping(
        resource.logical_id,
        p["EventSourceArn"],
        p["FunctionName"],
        int(p.get("BatchSize", 10)),
        float(p.get("MaximumBatchingWindowInSeconds", 0)),
        int(scaling.get("MaximumConcurrency", 1000)),
        bool(responses),
    )


def read_schedule(resource: Resource) -> Schedule:
    """Return when a function starts, and with which event."""
    p = take(resource.logical_id, resource.properties,
             ["ScheduleExpression", "ScheduleExpressionTimezone", "Target", "State"],
             ["Description", "FlexibleTimeWindow", "Name", "GroupName"])  # fmt: skip
    if p.get("ScheduleExpressionTimezone", "UTC") != "UTC" or p.get("State", "ENABLED") != "ENABLED":
        raise TemplateError(f"{resource.logical_id}: the local stack knows only enabled schedules in UTC")
    target = take(f"{resource.logical_id}.Target", p["Target"], ["Arn", "Input"],
                  ["RoleArn", "DeadLetterConfig", "RetryPolicy"])  # fmt: skip
    event = json.loads(target.get("Input", "{}"))
    return Schedule(resource.logical_id, target["Arn"].rsplit(":", 1)[1], p["ScheduleExpression"], event)


def check_rule(resource: Resource, schedules: Iterable[Schedule]) -> None:
    """Raise TemplateError unless the rule does, after a deployment, what one of the schedules does.

    Schedules run once when the local stack has started, so such a rule needs nothing more here.
    """
    p = take(resource.logical_id, resource.properties, ["EventPattern", "Targets"], ["Description", "Name", "State"])
    pattern = p["EventPattern"]
    kinds = (pattern.get("source"), pattern.get("detail-type"))
    if kinds != (["aws.cloudformation"], ["CloudFormation Stack Status Change"]):
        raise TemplateError(f"{resource.logical_id}: the local stack knows only the end of a deployment, not {kinds}")
    started = [(schedule.function, schedule.event) for schedule in schedules]
    for rule_target in p["Targets"]:
        target = take(f"{resource.logical_id}.Targets", rule_target, ["Arn", "Input"], ["Id", "RetryPolicy"])
        if (target["Arn"].rsplit(":", 1)[1], json.loads(target["Input"])) not in started:
            raise TemplateError(f"{resource.logical_id}: no schedule does what it does: {target['Input']}")
