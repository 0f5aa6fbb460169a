"""The template as a whole: its parameters and outputs, and that no resource waits for itself."""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from gates.rules.registry import differ, rule
from gates.stack import PLACE, Stack, references

MOST_SERVED_BYTES: Final = 50_000_000_000
"""CloudFront: "Maximum cacheable file size per HTTP GET response". Clients ask for whole files."""
_NAMES_OF_OTHERS: Final = frozenset({"MetricName", "FunctionName", "StageName", "DomainName"})
"""What a resource is about or within, not what it is called."""


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
        if body["Type"] != "CommaDelimitedList" and not bounds & body.keys():
            yield f"parameter {name} takes anything"


@rule
def two_stacks_fit_into_an_account(stack: Stack) -> Iterator[str]:
    for logical_id, (kind, properties) in stack.resources.items():
        for key, name in _names(properties) if kind != "AWS::Route53::RecordSet" else ():
            if not name.startswith(PLACE.stack_name) and f"/{PLACE.stack_name}" not in name:
                yield f"{logical_id}: {key} {name!r} would be the same in a second stack"


def _names(properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a resource is called, in its own properties or in those of its one configuration."""
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
        f"lxc remote add images-of-ours {address} --protocol simplestreams",
    )
