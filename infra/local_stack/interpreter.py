"""Reads the wiring from the template's resources; resources/ has a module for each part of the system.

The interpreter knows exactly the types and properties that the template uses. Each is either applied or listed
as deliberately without effect on one machine. Anything else is a TemplateError that names it, so that a change
of the template cannot silently have no effect locally.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from local_stack.errors import TemplateError
from local_stack.names import Names
from local_stack.resources.api import check_stage, read_routes
from local_stack.resources.edge import read_edge
from local_stack.resources.functions import check_rule, read_functions, read_mapping, read_schedule
from local_stack.resources.storage import read_bucket, read_queue
from local_stack.template import Resolver, Resource, StackIdentity, load, parameters, translate
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
    "AWS::CloudFront::OriginAccessControl": "the front signs with its own credentials",
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


def read_wiring(
    template: Path, given: Mapping[str, str], identity: StackIdentity, endpoint: str, edge: str = "localhost"
) -> Wiring:
    """Return the wiring of a template file.

    `endpoint` is the base address of S3 and SQS on this machine, `edge` the host that stands in for CloudFront's.
    """
    document = load(template)
    values = parameters(document, given)
    translated = translate(document, template.parent, identity.region)
    resolver = Resolver(translated, values, identity, Names(identity, endpoint, values, edge).of)
    return interpret(resolver.resources(), identity)


def interpret(resources: Iterable[Resource], identity: StackIdentity) -> Wiring:
    """Return the wiring of resolved resources."""
    by_type: dict[str, list[Resource]] = {}
    for resource in resources:
        by_type.setdefault(resource.type, []).append(resource)
    _refuse_unknown(by_type)

    def of(kind: str) -> list[Resource]:
        return by_type.get(kind, [])

    for stage in of("AWS::ApiGatewayV2::Stage"):
        check_stage(stage)
    schedules = tuple(read_schedule(r) for r in of("AWS::Scheduler::Schedule"))
    for rule in of("AWS::Events::Rule"):
        check_rule(rule, schedules)
    return Wiring(
        region=identity.region,
        buckets=tuple(read_bucket(r, identity.stack_name) for r in of("AWS::S3::Bucket")),
        queues=tuple(read_queue(r) for r in of("AWS::SQS::Queue")),
        functions=read_functions(of("AWS::Lambda::Function"), of("AWS::Lambda::EventInvokeConfig"), identity.region),
        mappings=tuple(read_mapping(r) for r in of("AWS::Lambda::EventSourceMapping")),
        schedules=schedules,
        routes=tuple(route for r in of("AWS::ApiGatewayV2::Api") for route in read_routes(r)),
        edge=read_edge(
            distributions=of("AWS::CloudFront::Distribution"),
            cache_policies=of("AWS::CloudFront::CachePolicy"),
            headers_policies=of("AWS::CloudFront::ResponseHeadersPolicy"),
            bucket_policies=of("AWS::S3::BucketPolicy"),
            functions=of("AWS::CloudFront::Function"),
        ),
    )


def _refuse_unknown(by_type: Mapping[str, list[Resource]]) -> None:
    for kind, found in by_type.items():
        if kind not in INTERPRETED and kind not in WITHOUT_COUNTERPART:
            raise TemplateError(
                f"{found[0].logical_id}: the local stack does not know the resource type {kind}; teach interpreter.py"
            )
