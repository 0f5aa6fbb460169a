"""Functions and their triggers: event source mappings, schedules, the end of a deployment, and the API's routes."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from local_stack.errors import TemplateError
from local_stack.template import ACCOUNT_ID, CODE_BUCKET, Resource, take
from local_stack.wiring import Function, Route, Schedule, SourceMapping


def read_functions(functions: list[Resource], invoke_configs: list[Resource], region: str) -> Mapping[str, Function]:
    """Return the functions by logical id. Their invoke configurations have no effect: nothing here invokes later."""
    for resource in invoke_configs:
        resource.take([], ["FunctionName", "MaximumRetryAttempts", "Qualifier", "DestinationConfig",
                           "MaximumEventAgeInSeconds"])  # fmt: skip
    found = {}
    for resource in functions:
        p = resource.take(
            ["Code", "Handler", "Environment", "Timeout", "MemorySize"],
            # RecursiveLoop: chains of events are not tracked here, so none is ever stopped.
            ["Architectures", "Description", "LoggingConfig", "RecursiveLoop", "Role", "Runtime", "Tags",
             "TracingConfig", "ReservedConcurrentExecutions", "FunctionName", "EphemeralStorage", "Layers",
             "SnapStart"],
        )  # fmt: skip
        name, code = resource.logical_id, p["Code"]
        if code.get("S3Bucket") != CODE_BUCKET:
            raise TemplateError(f"{name}: its code is {code}, expected a CodeUri that is a local folder")
        found[name] = Function(
            logical_id=name,
            arn=f"arn:aws:lambda:{region}:{ACCOUNT_ID}:function:{name}",
            code=Path("/") / code["S3Key"],
            handler=p["Handler"],
            environment={k: str(v) for k, v in p.get("Environment", {}).get("Variables", {}).items()},
            timeout_s=int(p.get("Timeout", 3)),
            memory_mb=int(p.get("MemorySize", 128)),
        )
    return found


def read_mapping(resource: Resource) -> SourceMapping:
    """Return the function that gets a queue's messages, and how many at once."""
    p = resource.take(
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
    p = resource.take(["ScheduleExpression", "ScheduleExpressionTimezone", "Target", "State"],
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
    p = resource.take(["EventPattern", "Targets"], ["Description", "Name", "State"])
    pattern = p["EventPattern"]
    kinds = (pattern.get("source"), pattern.get("detail-type"))
    if kinds != (["aws.cloudformation"], ["CloudFormation Stack Status Change"]):
        raise TemplateError(f"{resource.logical_id}: the local stack knows only the end of a deployment, not {kinds}")
    started = [(schedule.function, schedule.event) for schedule in schedules]
    for rule_target in p["Targets"]:
        target = take(f"{resource.logical_id}.Targets", rule_target, ["Arn", "Input"], ["Id", "RetryPolicy"])
        if (target["Arn"].rsplit(":", 1)[1], json.loads(target["Input"])) not in started:
            raise TemplateError(f"{resource.logical_id}: no schedule does what it does: {target['Input']}")


def check_stage(stage: Resource) -> None:
    """Raise TemplateError unless the stage is the default one, which is served without a prefix."""
    stage.take(["ApiId", "StageName", "AutoDeploy"], ["AccessLogSettings", "DefaultRouteSettings", "Tags"])
    if stage.properties["StageName"] != "$default":
        raise TemplateError(f"{stage.logical_id}: the local stack serves only the stage $default")


def read_routes(resource: Resource) -> Iterable[Route]:
    """Yield the routes of the API's OpenAPI body."""
    p = resource.take(["Body"], ["Tags", "Description"])
    body = take(f"{resource.logical_id}.Body", p["Body"], ["openapi", "info", "components", "paths", "security"],
                ["tags", "x-anchors"])  # fmt: skip
    schemes = body.get("components", {}).get("securitySchemes", {})
    for path, operations in body["paths"].items():
        for method, operation in operations.items():
            where = f"{resource.logical_id} {method.upper()} {path}"
            take(where, operation, ["security", "x-amazon-apigateway-integration"], ["responses", "operationId"])
            security = operation.get("security", body.get("security", []))
            integration = take(where, operation["x-amazon-apigateway-integration"],
                               ["type", "payloadFormatVersion", "uri"], ["httpMethod"])  # fmt: skip
            if (integration["type"], integration.get("payloadFormatVersion")) != ("aws_proxy", "2.0"):
                raise TemplateError(f"{where}: the local stack knows only aws_proxy with payload format 2.0")
            found = re.search(r"function:([^/:]+)/invocations$", integration["uri"])
            if not found:
                raise TemplateError(f"{where}: no function in {integration['uri']}")
            yield Route(method.upper(), path, found.group(1), _auth(where, security, schemes))


def _auth(where: str, security: list[Mapping[str, Any]], schemes: Mapping[str, Any]) -> str:
    names = [name for requirement in security for name in requirement]
    if not names:
        return "none"
    scheme = schemes[names[0]]
    if scheme.get("x-amazon-apigateway-authtype") == "awsSigv4":
        return "iam"
    if scheme.get("x-amazon-apigateway-authorizer", {}).get("type") == "jwt":
        return "jwt"
    raise TemplateError(f"{where}: the local stack does not know the authorizer {names[0]}")
