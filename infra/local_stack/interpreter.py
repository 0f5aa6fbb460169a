"""Reads the wiring from the template's resources; resources/ has a module for each part of the system.

The interpreter knows exactly the types and properties that the template uses. Each is either applied or listed
as deliberately without effect on one machine. Anything else is a TemplateError that names it, so that a change
of the template cannot silently have no effect locally.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from local_stack.errors import TemplateError
from local_stack.resources.edge import read_edge
from local_stack.resources.functions import (
    check_rule,
    check_stage,
    read_functions,
    read_mapping,
    read_routes,
    read_schedule,
)
from local_stack.resources.storage import read_bucket, read_queue
from local_stack.template import (
    ACCOUNT_ID,
    Attribute,
    Resolver,
    Resource,
    StackIdentity,
    load,
    parameters,
    translate,
)
from local_stack.wiring import Wiring

INTERPRETED: Final = frozenset({
    "AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage", "AWS::CloudFront::CachePolicy",
    "AWS::CloudFront::Distribution", "AWS::CloudFront::Function", "AWS::CloudFront::KeyValueStore",
    "AWS::CloudFront::ResponseHeadersPolicy", "AWS::Events::Rule",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::EventSourceMapping", "AWS::Lambda::Function", "AWS::S3::Bucket", "AWS::S3::BucketPolicy",
    "AWS::SQS::Queue", "AWS::Scheduler::Schedule",
})  # fmt: skip

WITHOUT_COUNTERPART: Final[Mapping[str, str]] = {
    "AWS::SQS::QueuePolicy": "moto lets S3 send to any queue",
    "AWS::IAM::Role": "rights are tested by the policy evaluator over the template",
    "AWS::IAM::ManagedPolicy": "as roles",
    "AWS::Lambda::Permission": "the stack calls functions itself",
    "AWS::Logs::LogGroup": "logs are files in the state folder",
    "AWS::Logs::MetricFilter": "no metrics here",
    "AWS::CloudFront::OriginAccessControl": "the local CloudFront signs with its own credentials",
    "AWS::CloudWatch::Alarm": "no metrics here",
    "AWS::CloudWatch::CompositeAlarm": "no metrics here",
    "AWS::CloudWatch::Dashboard": "no metrics here",
    "AWS::CloudFront::MonitoringSubscription": "no metrics here",
    "AWS::SNS::Topic": "nobody to notify",
    "AWS::SNS::TopicPolicy": "nobody to notify",
    "AWS::SNS::Subscription": "nobody to notify",
    "AWS::Route53::RecordSetGroup": "localhost is the name",
    "AWS::Route53::RecordSet": "localhost is the name",
}


def local_names(identity: StackIdentity, endpoint: str, values: Mapping[str, Any], edge: str) -> Attribute:
    """Return the names and attributes that resources have on this machine, known before any of them is made."""
    region, stack_name = identity.region, identity.stack_name

    def name_of(logical_id: str, kind: str, attribute: str | None) -> str:
        # The name of a bucket is global and in lower case; the template names only the main one.
        bucket = f"{stack_name}-{logical_id.lower()}-{ACCOUNT_ID}"
        if logical_id == "Bucket":
            bucket = str(values.get("BucketName") or "") or f"{stack_name}-{ACCOUNT_ID}-{region}"
        table: dict[str, dict[str | None, str]] = {
            "AWS::S3::Bucket": {
                None: bucket,
                "Arn": f"arn:aws:s3:::{bucket}",
                "DomainName": f"{bucket}.s3.amazonaws.com",
                "RegionalDomainName": f"{bucket}.s3.{region}.amazonaws.com",
            },
            "AWS::SQS::Queue": {
                None: f"{endpoint}/{ACCOUNT_ID}/{logical_id}",
                "Arn": f"arn:aws:sqs:{region}:{ACCOUNT_ID}:{logical_id}",
                "QueueName": logical_id,
            },
            "AWS::Lambda::Function": {
                None: logical_id,
                "Arn": f"arn:aws:lambda:{region}:{ACCOUNT_ID}:function:{logical_id}",
            },
            "AWS::CloudFront::KeyValueStore": {
                None: logical_id,
                "Arn": f"arn:aws:cloudfront::{ACCOUNT_ID}:key-value-store/00000000-0000-4000-8000-000000000000",
            },
            # Empty, so that publish has no edge to invalidate: the local edge caches nothing.
            "AWS::CloudFront::Distribution": {None: "", "Id": "", "DomainName": edge},
        }
        if kind not in table:
            return logical_id if attribute is None else f"{logical_id}.{attribute}"
        if attribute not in table[kind]:
            raise TemplateError(f"{logical_id} ({kind}): the local stack does not know its attribute {attribute}")
        return table[kind][attribute]

    return name_of


def read_wiring(
    template: Path, given: Mapping[str, str], identity: StackIdentity, endpoint: str, edge: str = "localhost"
) -> Wiring:
    """Return the wiring of a template file.

    `endpoint` is the base address of S3 and SQS on this machine, `edge` the host that stands in for CloudFront's.
    """
    document = load(template)
    values = parameters(document, given)
    translated = translate(document, template.parent, identity.region)
    resolver = Resolver(translated, values, identity, local_names(identity, endpoint, values, edge))
    return interpret(resolver.resources(), identity)


def interpret(resources: Iterable[Resource], identity: StackIdentity) -> Wiring:
    """Return the wiring of resolved resources."""
    by_type: dict[str, list[Resource]] = defaultdict(list)
    for resource in resources:
        if resource.type not in INTERPRETED and resource.type not in WITHOUT_COUNTERPART:
            raise TemplateError(
                f"{resource.logical_id}: the local stack does not know the resource type {resource.type}; "
                "teach interpreter.py"
            )
        by_type[resource.type].append(resource)
    for stage in by_type["AWS::ApiGatewayV2::Stage"]:
        check_stage(stage)
    schedules = tuple(read_schedule(r) for r in by_type["AWS::Scheduler::Schedule"])
    for rule in by_type["AWS::Events::Rule"]:
        check_rule(rule, schedules)
    return Wiring(
        region=identity.region,
        buckets=tuple(read_bucket(r, identity.stack_name) for r in by_type["AWS::S3::Bucket"]),
        queues=tuple(read_queue(r) for r in by_type["AWS::SQS::Queue"]),
        functions=read_functions(
            by_type["AWS::Lambda::Function"], by_type["AWS::Lambda::EventInvokeConfig"], identity.region
        ),
        mappings=tuple(read_mapping(r) for r in by_type["AWS::Lambda::EventSourceMapping"]),
        schedules=schedules,
        routes=tuple(route for r in by_type["AWS::ApiGatewayV2::Api"] for route in read_routes(r)),
        edge=read_edge(
            distributions=by_type["AWS::CloudFront::Distribution"],
            cache_policies=by_type["AWS::CloudFront::CachePolicy"],
            headers_policies=by_type["AWS::CloudFront::ResponseHeadersPolicy"],
            bucket_policies=by_type["AWS::S3::BucketPolicy"],
            functions=by_type["AWS::CloudFront::Function"],
        ),
    )
