"""The template as it would be deployed: translated, with parameters filled in and references made concrete."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from local_stack.template import ACCOUNT_ID, Resolver, StackIdentity, load, parameters, translate

INFRA: Final = Path(__file__).resolve().parents[1]
TEMPLATE: Final = INFRA / "template.yaml"
REGION: Final = "eu-central-1"
IDENTITY: Final = StackIdentity(stack_name="images", region=REGION)

_SERVICES: Final = {
    "AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{{}}",
    "AWS::Lambda::Function": f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{{}}",
    "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT_ID}:role/{{}}",
    "AWS::Logs::LogGroup": f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:{{}}:*",
    "AWS::CloudFront::KeyValueStore": f"arn:aws:cloudfront::{ACCOUNT_ID}:key-value-store/{{}}",
    "AWS::SNS::Topic": f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:{{}}",
    "AWS::Events::Rule": f"arn:aws:events:{REGION}:{ACCOUNT_ID}:rule/{{}}",
}
# For these, Ref returns an ARN or an address, and for others a name.
_REF_IS_ARN: Final = frozenset({"AWS::SNS::Topic"})


@dataclass(frozen=True, slots=True)
class Stack:
    """A deployed stack. `raw` is the translation, `resources` maps logical ids to type and resolved properties."""

    raw: Mapping[str, Any]
    resources: Mapping[str, tuple[str, Mapping[str, Any]]]
    outputs: Mapping[str, str]

    def properties(self, logical_id: str) -> Mapping[str, Any]:
        if logical_id not in self.resources:
            raise LookupError(f"the template has no resource {logical_id}; it has {', '.join(sorted(self.resources))}")
        return self.resources[logical_id][1]

    def of_type(self, kind: str) -> dict[str, Mapping[str, Any]]:
        return {name: properties for name, (found, properties) in self.resources.items() if found == kind}


@cache
def source() -> dict[str, Any]:
    """Return the template as written. Do not change it: `template()` returns a copy for that."""
    return load(TEMPLATE)


def template() -> dict[str, Any]:
    return copy.deepcopy(source())


def translated(document: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the template without SAM's own types, but with intrinsics."""
    logging.getLogger("samtranslator").setLevel(logging.ERROR)  # it warns that it publishes no metrics of itself
    return translate(document or template(), INFRA, REGION)


def deployed(document: dict[str, Any] | None = None, **given: str) -> Stack:
    """Return the stack from `document` (by default the template) with these parameters."""
    raw = translated(document)
    resolver = Resolver(raw, parameters(raw, given), IDENTITY, physical)
    resources = {r.logical_id: (r.type, r.properties) for r in resolver.resources()}
    outputs = {
        name: str(resolver.value(body["Value"]))
        for name, body in raw.get("Outputs", {}).items()
        if "Condition" not in body or resolver.value({"Condition": body["Condition"]})
    }
    return Stack(raw, resources, outputs)


def physical(logical_id: str, kind: str, wanted: str | None) -> str:
    """Return names and ARNs as AWS would assign them, different for every resource, so that a mix-up shows."""
    name = bucket_name(logical_id) if kind == "AWS::S3::Bucket" else f"images-{logical_id}"
    if kind == "AWS::S3::Bucket":
        return {None: name, "Arn": f"arn:aws:s3:::{name}"}.get(wanted, f"{name}.s3.{REGION}.amazonaws.com")
    if wanted == "Arn" or (wanted is None and kind in _REF_IS_ARN):
        return _SERVICES[kind].format(name)
    return name if wanted is None else f"{name}.{wanted}"


def bucket_name(logical_id: str) -> str:
    """Return the name of a bucket: derived as in the template for the images, generated for any other."""
    return f"{IDENTITY.stack_name}-{ACCOUNT_ID}-{REGION}" if logical_id == "Bucket" else f"images-{logical_id.lower()}"
