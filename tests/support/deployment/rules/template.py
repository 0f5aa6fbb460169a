"""The template as a whole: its parameters and outputs, and that no resource waits for itself."""

from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from gates.stack import IDENTITY, Stack
from tests.support.deployment.rules.registry import differ, rule

MOST_SERVED_BYTES: Final = 50_000_000_000
"""CloudFront: "Maximum cacheable file size per HTTP GET response". Clients ask for whole files."""
_NAMES_OF_OTHERS: Final = frozenset({"MetricName", "FunctionName", "StageName", "DomainName"})
"""Properties that refer to other resources rather than name the resource itself."""
_BOOLEAN_IN_RULES: Final = frozenset(
    f"Fn::{name}" for name in ("And", "Contains", "EachMemberEquals", "EachMemberIn", "Equals", "Not", "Or")
)
_TAKEN_IN_RULES: Final = _BOOLEAN_IN_RULES | {"Ref", "Fn::RefAll", "Fn::ValueOf", "Fn::ValueOfAll"}
"""The only functions that CloudFormation takes in `Rules`. It documents Fn::If there as well, and refuses it."""


@rule
def nothing_waits_for_itself(stack: Stack) -> Iterator[str]:
    try:
        TopologicalSorter(references(stack.raw)).prepare()
    except CycleError as cycle:
        yield f"resources wait for each other: {' → '.join(cycle.args[1])}"


@rule
def parameters_explain_and_bound_themselves(stack: Stack) -> Iterator[str]:
    for name, body in stack.raw["Parameters"].items():
        if "Default" not in body or not body.get("Description"):
            yield f"parameter {name} needs a default and a description"
        bounds = {"AllowedPattern", "AllowedValues", "MinValue", "MaxValue"}
        if not bounds & body.keys():
            yield f"parameter {name} takes anything"


@rule
def rules_use_only_functions_that_cloudformation_takes_there(stack: Stack) -> Iterator[str]:
    for name, body in stack.raw.get("Rules", {}).items():
        yield from (f"rule {name}: unknown key {key}" for key in sorted(body.keys() - {"RuleCondition", "Assertions"}))
        expressions = [("RuleCondition", body["RuleCondition"])] if "RuleCondition" in body else []
        expressions += [(f"Assertions.{i}", a["Assert"]) for i, a in enumerate(body["Assertions"])]
        for where, expression in expressions:
            if not isinstance(expression, Mapping) or not _BOOLEAN_IN_RULES & expression.keys():
                yield f"rule {name}, {where}: expected one of {', '.join(sorted(_BOOLEAN_IN_RULES))}"
            for finding in _refused_in_rules(expression, stack.raw["Parameters"].keys()):
                yield f"rule {name}, {where}: {finding}"


def _refused_in_rules(node: Any, parameters: Collection[str]) -> Iterator[str]:
    """Yield what CloudFormation refuses in an expression of a rule, at any depth."""
    if isinstance(node, list):
        for item in node:
            yield from _refused_in_rules(item, parameters)
    if not isinstance(node, Mapping):
        return
    for function, argument in node.items():
        if function not in _TAKEN_IN_RULES:
            yield f"CloudFormation does not take {function} in a rule"
        named = argument[0] if function == "Fn::ValueOf" else argument
        if function in {"Ref", "Fn::ValueOf"} and named not in parameters:
            yield f"{function} {named!r}: a rule may refer to parameters alone"
        yield from _refused_in_rules(argument, parameters)


@rule
def two_stacks_fit_into_an_account(stack: Stack) -> Iterator[str]:
    for logical_id, (kind, properties) in stack.resources.items():
        for key, name in _names(properties) if kind != "AWS::Route53::RecordSet" else ():
            if not name.startswith(IDENTITY.stack_name) and f"/{IDENTITY.stack_name}" not in name:
                yield f"{logical_id}: {key} {name!r} would be the same in a second stack"


def _names(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of a resource, in its own properties or in those of its one configuration."""
    nested = (value for key, value in properties.items() if key.endswith("Config") and isinstance(value, Mapping))
    for level in (properties, *nested):
        for key, value in level.items():
            if key.endswith("Name") and key not in _NAMES_OF_OTHERS and isinstance(value, str):
                yield key, value


@rule
def limits_are_those_of_aws(stack: Stack) -> Iterator[str]:
    parameters = stack.raw["Parameters"]
    most = int(parameters["MaxUploadBytes"]["MaxValue"])
    if most > MOST_SERVED_BYTES:
        yield f"MaxUploadBytes may be {most}, but CloudFront serves {MOST_SERVED_BYTES} bytes in one answer"
    # Lambda knows WARN and no WARNING; above INFO it drops the metrics, whose lines have no level.
    yield from differ("LogLevel", parameters["LogLevel"]["AllowedValues"], ["DEBUG", "INFO"])


@rule
def outputs_say_where_everything_is(stack: Stack) -> Iterator[str]:
    expected = {"Address", "EdgeName", "RemoteAdd", "BucketName", "ApiUrl", "DashboardUrl"}
    yield from (f"no output {name}" for name in sorted(expected - stack.outputs.keys()))
    address = stack.outputs.get("Address", "")
    yield from differ(
        "the remote",
        stack.outputs.get("RemoteAdd"),
        f"lxc remote add mine {address} --protocol simplestreams",
    )


def references(raw: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return which resources each resource waits for: those it refers to, and its DependsOn."""
    names = raw["Resources"].keys()
    return {
        name: {target for target in _referred(body) if target in names and target != name}
        for name, body in raw["Resources"].items()
    }


def _referred(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _referred(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key == "Ref":
            yield str(value)
        elif key == "Fn::GetAtt":
            yield str(value[0] if isinstance(value, list) else value).split(".")[0]
        elif key == "Fn::Sub":
            text = value if isinstance(value, str) else value[0]
            yield from (part.split("}")[0].split(".")[0] for part in text.split("${")[1:])
            yield from _referred(value)
        elif key == "DependsOn":
            yield from (value if isinstance(value, list) else [value])
        else:
            yield from _referred(value)
