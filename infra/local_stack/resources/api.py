"""The API's routes: which function answers which path, and who may call it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from local_stack.errors import TemplateError
from local_stack.resources.properties import take
from local_stack.template import Resource
from local_stack.wiring import Route


def check_stage(stage: Resource) -> None:
    """Raise TemplateError unless the stage is the default one, which is served without a prefix."""
    take(
        stage.logical_id,
        stage.properties,
        ["ApiId", "StageName", "AutoDeploy"],
        ["AccessLogSettings", "DefaultRouteSettings", "Tags"],
    )
    if stage.properties["StageName"] != "$default":
        raise TemplateError(f"{stage.logical_id}: the local stack serves only the stage $default")


def read_routes(resource: Resource) -> Iterable[Route]:
    """Yield the routes of the API's OpenAPI body."""
    p = take(resource.logical_id, resource.properties, ["Body"], ["Tags", "Description"])
    body = take(f"{resource.logical_id}.Body", p["Body"], ["openapi", "info", "components", "paths", "security"],
                ["tags", "x-anchors"])  # fmt: skip
    schemes = body.get("components", {}).get("securitySchemes", {})
    for path, operations in body["paths"].items():
        for method, operation in operations.items():
            where = f"{resource.logical_id} {method.upper()} {path}"
            take(where, operation, ["security", "x-amazon-apigateway-integration"], ["responses", "operationId"])
            security = operation.get("security", body.get("security", []))
            yield Route(method.upper(), path, _integration(where, operation), _auth(where, security, schemes))


def _integration(where: str, operation: Mapping[str, Any]) -> str:
    integration = take(where, operation["x-amazon-apigateway-integration"],
                       ["type", "payloadFormatVersion", "uri"], ["httpMethod"])  # fmt: skip
    if (integration["type"], integration.get("payloadFormatVersion")) != ("aws_proxy", "2.0"):
        raise TemplateError(f"{where}: the local stack knows only aws_proxy with payload format 2.0")
    found = re.search(r"function:([^/:]+)/invocations$", integration["uri"])
    if not found:
        raise TemplateError(f"{where}: no function in {integration['uri']}")
    return found.group(1)


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
