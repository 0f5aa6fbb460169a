"""The template as it would be deployed: translated, with parameters filled in and references made concrete."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from gates.policy import Statement
from local_stack.template import ACCOUNT_ID, Place, Resolver, load, parameters, translate

INFRA: Final = Path(__file__).resolve().parents[1]
TEMPLATE: Final = INFRA / "template.yaml"
REGION: Final = "eu-central-1"
PLACE: Final = Place(stack_name="images", region=REGION)

_SERVICES: Final = {
    "AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{{}}",
    "AWS::Lambda::Function": f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{{}}",
    "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT_ID}:role/{{}}",
    "AWS::Logs::LogGroup": f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:{{}}:*",
    "AWS::SNS::Topic": f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:{{}}",
    "AWS::Events::Rule": f"arn:aws:events:{REGION}:{ACCOUNT_ID}:rule/{{}}",
}
# What Ref gives is an ARN or an address for these, and a name for the others.
_REF_IS_ARN: Final = frozenset({"AWS::SNS::Topic"})


@dataclass(frozen=True, slots=True)
class Stack:
    """`raw` is the translation, `resources` maps logical id to type and properties without any intrinsic."""

    document: Mapping[str, Any]
    raw: Mapping[str, Any]
    resources: Mapping[str, tuple[str, Mapping[str, Any]]]
    outputs: Mapping[str, str]

    def properties(self, logical_id: str) -> Mapping[str, Any]:
        if logical_id not in self.resources:
            raise LookupError(f"the template has no resource {logical_id}; it has {', '.join(sorted(self.resources))}")
        return self.resources[logical_id][1]

    def of_type(self, kind: str) -> dict[str, Mapping[str, Any]]:
        return {name: properties for name, (found, properties) in self.resources.items() if found == kind}

    def role_statements(self, logical_id: str) -> list[Statement]:
        """What a role may do. A managed policy would be a right that no table sees, so it counts as `*`."""
        role = self.properties(logical_id)
        managed: list[Statement] = [
            {"Effect": "Allow", "Action": "*", "Resource": "*"} for _ in role.get("ManagedPolicyArns", [])
        ]
        return managed + [s for policy in role.get("Policies", []) for s in policy["PolicyDocument"]["Statement"]]

    def resource_statements(self, kind: str, holder: str, name: str) -> list[Statement]:
        """The policy of a bucket or queue: every statement of the policies of type `kind` whose `holder` names it."""
        policies = self.of_type(kind).values()
        return [s for p in policies if name in str(p[holder]) for s in p["PolicyDocument"]["Statement"]]


@cache
def source() -> dict[str, Any]:
    """The template as written. Not to be changed: `template()` gives a copy that may be."""
    return load(TEMPLATE)


def template() -> dict[str, Any]:
    return copy.deepcopy(source())


def translated(document: dict[str, Any] | None = None) -> dict[str, Any]:
    """The template without SAM's own types, intrinsics left in it."""
    logging.getLogger("samtranslator").setLevel(logging.ERROR)  # it warns that it publishes no metrics of itself
    return translate(document or template(), INFRA, REGION)


def deployed(document: dict[str, Any] | None = None, **given: str) -> Stack:
    """The stack that `document` (the template, unless told) makes with these parameters."""
    raw = translated(document)
    resolver = Resolver(raw, parameters(raw, given), PLACE, physical())
    resources = {r.logical_id: (r.type, r.properties) for r in resolver.resources()}
    outputs = {
        name: str(resolver.value(body["Value"]))
        for name, body in raw.get("Outputs", {}).items()
        if "Condition" not in body or resolver.value({"Condition": body["Condition"]})
    }
    return Stack(document or source(), raw, resources, outputs)


def physical() -> Callable[[str, str, str | None, Mapping[str, Any]], str]:
    """Names and ARNs such as AWS would give; every resource's is different, so that a swap shows."""

    def attribute(logical_id: str, kind: str, wanted: str | None, _body: Mapping[str, Any]) -> str:
        name = bucket_name(logical_id) if kind == "AWS::S3::Bucket" else f"images-{logical_id}"
        if kind == "AWS::S3::Bucket":
            return {None: name, "Arn": f"arn:aws:s3:::{name}"}.get(wanted, f"{name}.s3.{REGION}.amazonaws.com")
        if wanted == "Arn" or (wanted is None and kind in _REF_IS_ARN):
            return _SERVICES[kind].format(name)
        return name if wanted is None else f"{name}.{wanted}"

    return attribute


def bucket_name(logical_id: str) -> str:
    """The bucket of images has the name that the template derives; the other one a generated name."""
    return f"{PLACE.stack_name}-{ACCOUNT_ID}-{REGION}" if logical_id == "Bucket" else f"images-{logical_id.lower()}"


def references(raw: Mapping[str, Any]) -> dict[str, set[str]]:
    """Which resources each resource waits for: what it refers to, and its DependsOn."""
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
