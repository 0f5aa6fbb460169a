"""The template as a whole: its parameters and outputs, and that no resource waits for itself."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from gates.rules.registry import differ, rule
from gates.stack import Stack, references


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
def outputs_say_where_everything_is(stack: Stack) -> Iterator[str]:
    expected = {"Address", "RemoteAdd", "BucketName", "ApiUrl", "DashboardUrl"}
    yield from (f"no output {name}" for name in sorted(expected - stack.outputs.keys()))
    address = stack.outputs.get("Address", "")
    yield from differ(
        "the remote",
        stack.outputs.get("RemoteAdd"),
        f"lxc remote add images-of-ours {address} --protocol simplestreams",
    )
