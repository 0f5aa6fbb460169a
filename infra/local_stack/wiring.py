"""What the template wires, as values, and the interpreter that reads them from its resources.

The interpreter knows exactly the types and properties that the template uses. Each is either acted upon or listed
here as deliberately without effect on one machine; anything else is a TemplateError that names it, so that a change
of the template can never be silently different locally.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from local_stack.errors import TemplateError
from local_stack.template import ACCOUNT_ID, CODE_BUCKET, Place, Resolver, Resource, load, parameters, translate

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


@dataclass(frozen=True, slots=True)
class Notification:
    """Objects under `prefix` that see one of `events` (S3's names, `s3:ObjectCreated:*`) are told to a queue."""

    queue_arn: str
    events: tuple[str, ...]
    prefix: str


@dataclass(frozen=True, slots=True)
class Bucket:
    logical_id: str
    name: str
    versioned: bool
    notifications: tuple[Notification, ...]


@dataclass(frozen=True, slots=True)
class Queue:
    """Times in seconds; `dead_letters_arn` is empty for a queue that keeps what fails."""

    logical_id: str
    name: str
    visibility_s: int
    dead_letters_arn: str
    max_receive_count: int


@dataclass(frozen=True, slots=True)
class Function:
    """`code` is the folder that Lambda would unpack, `handler` is `module.path.function`."""

    logical_id: str
    arn: str
    code: Path
    handler: str
    environment: Mapping[str, str]
    timeout_s: int
    memory_mb: int
    retries: int


@dataclass(frozen=True, slots=True)
class SourceMapping:
    """An event source mapping from a queue to a function."""

    logical_id: str
    queue_arn: str
    function: str
    batch_size: int
    window_s: float
    max_concurrency: int
    partial_failures: bool

    def with_window(self, longest_s: float) -> "SourceMapping":
        """The same with a batching window of at most `longest_s`."""
        return replace(self, window_s=min(self.window_s, longest_s))


@dataclass(frozen=True, slots=True)
class Schedule:
    """`expression` is `rate(1 hour)` or `cron(20 3 * * ? *)`, in UTC."""

    logical_id: str
    function: str
    expression: str
    event: Any


@dataclass(frozen=True, slots=True)
class Route:
    """`path` may hold `{name}` and, last, `{name+}`; `auth` is "iam", "jwt" or "none"."""

    method: str
    path: str
    function: str
    auth: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the edge does with paths that match `pattern` (`*` is any text, without the leading slash)."""

    pattern: str
    methods: frozenset[str]
    encodings: tuple[str, ...]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Edge:
    """The distribution: behaviours in order of precedence, the default last; keys that it may read, as patterns."""

    root: str
    behaviours: tuple[Behaviour, ...]
    readable: tuple[str, ...]
    sees_missing: bool

    def behaviour(self, path: str) -> Behaviour:
        """The first behaviour whose pattern matches a path without its leading slash."""
        return next(b for b in self.behaviours if fnmatchcase(path, b.pattern))

    def may_read(self, key: str) -> bool:
        """Whether the bucket's policy lets the edge read `key`."""
        return any(fnmatchcase(key, pattern) for pattern in self.readable)


@dataclass(frozen=True, slots=True)
class Wiring:
    """Everything that the local stack does."""

    region: str
    buckets: tuple[Bucket, ...]
    queues: tuple[Queue, ...]
    functions: Mapping[str, Function]
    mappings: tuple[SourceMapping, ...]
    schedules: tuple[Schedule, ...]
    routes: tuple[Route, ...]
    edge: Edge

    @property
    def bucket(self) -> Bucket:
        """The bucket with the images: the one that tells queues of its objects."""
        return next(bucket for bucket in self.buckets if bucket.notifications)


def read_wiring(template: Path, given: Mapping[str, str], place: Place, endpoint: str) -> Wiring:
    """The wiring of a template file; `endpoint` is the base address of S3 and SQS on this machine."""
    document = load(template)
    values = parameters(document, given)
    translated = translate(document, template.parent, place.region)
    resolver = Resolver(translated, values, place, Names(place, endpoint, values).of)
    return interpret(resolver.resources(), place)


class Names:
    """Physical names and attributes of resources, known before any of them is made."""

    def __init__(self, place: Place, endpoint: str, values: Mapping[str, Any]) -> None:
        self._place = place
        self._endpoint = endpoint
        self._values = values

    def of(self, logical_id: str, kind: str, attribute: str | None, _body: Mapping[str, Any]) -> str:
        """The Ref (attribute None) or GetAtt of a resource."""
        region = self._place.region
        bucket = self.bucket(logical_id)
        table: dict[str, dict[str | None, str]] = {
            "AWS::S3::Bucket": {
                None: bucket,
                "Arn": f"arn:aws:s3:::{bucket}",
                "DomainName": f"{bucket}.s3.amazonaws.com",
                "RegionalDomainName": f"{bucket}.s3.{region}.amazonaws.com",
            },
            "AWS::SQS::Queue": {
                None: f"{self._endpoint}/{ACCOUNT_ID}/{logical_id}",
                "Arn": f"arn:aws:sqs:{region}:{ACCOUNT_ID}:{logical_id}",
                "QueueName": logical_id,
            },
            "AWS::Lambda::Function": {
                None: logical_id,
                "Arn": f"arn:aws:lambda:{region}:{ACCOUNT_ID}:function:{logical_id}",
            },
            # Empty, so that publish has no edge to invalidate: the local one caches nothing.
            "AWS::CloudFront::Distribution": {None: "", "Id": "", "DomainName": "localhost"},
        }
        if kind not in table:
            return logical_id if attribute is None else f"{logical_id}.{attribute}"
        if attribute not in table[kind]:
            raise TemplateError(f"{logical_id} ({kind}): the local stack does not know its attribute {attribute}")
        return table[kind][attribute]

    def bucket(self, logical_id: str) -> str:
        """Bucket names are global and lower case; only the main one is named by the template."""
        if logical_id == "Bucket":
            return str(self._values.get("BucketName") or "") or (
                f"{self._place.stack_name}-{ACCOUNT_ID}-{self._place.region}"
            )
        return f"{self._place.stack_name}-{logical_id.lower()}-{ACCOUNT_ID}"


def take(
    where: str, properties: Mapping[str, Any], used: Iterable[str], without_effect: Iterable[str] = ()
) -> Mapping[str, Any]:
    """`properties`, after checking that each is known; TemplateError names the first that is not."""
    unknown = sorted(set(properties) - set(used) - set(without_effect))
    if unknown:
        raise TemplateError(f"{where}: the local stack does not know the property {unknown[0]}; teach wiring.py")
    return properties


INTERPRETED: Final = frozenset({
    "AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage", "AWS::CloudFront::CachePolicy",
    "AWS::CloudFront::Distribution", "AWS::CloudFront::ResponseHeadersPolicy", "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::EventSourceMapping", "AWS::Lambda::Function", "AWS::S3::Bucket", "AWS::S3::BucketPolicy",
    "AWS::SQS::Queue", "AWS::Scheduler::Schedule",
})  # fmt: skip

Resources = Callable[[str], list[Resource]]
"""The resources of a type."""


def interpret(resources: Iterable[Resource], place: Place) -> Wiring:
    """The wiring of resolved resources."""
    by_type: dict[str, list[Resource]] = {}
    for resource in resources:
        by_type.setdefault(resource.type, []).append(resource)
    _refuse_unknown(by_type)

    def of(kind: str) -> list[Resource]:
        return by_type.get(kind, [])

    for stage in of("AWS::ApiGatewayV2::Stage"):
        _check_stage(stage)
    return Wiring(
        region=place.region,
        buckets=tuple(_bucket(r) for r in of("AWS::S3::Bucket")),
        queues=tuple(_queue(r) for r in of("AWS::SQS::Queue")),
        functions=_functions(of, place.region),
        mappings=tuple(_mapping(r) for r in of("AWS::Lambda::EventSourceMapping")),
        schedules=tuple(_schedule(r) for r in of("AWS::Scheduler::Schedule")),
        routes=tuple(route for r in of("AWS::ApiGatewayV2::Api") for route in _routes(r)),
        edge=_edge(of),
    )


def _refuse_unknown(by_type: Mapping[str, list[Resource]]) -> None:
    for kind, found in by_type.items():
        if kind not in INTERPRETED and kind not in WITHOUT_COUNTERPART:
            raise TemplateError(
                f"{found[0].logical_id}: the local stack does not know the resource type {kind}; teach wiring.py"
            )


def _check_stage(stage: Resource) -> None:
    take(
        stage.logical_id,
        stage.properties,
        ["ApiId", "StageName", "AutoDeploy"],
        ["AccessLogSettings", "DefaultRouteSettings", "Tags"],
    )
    if stage.properties["StageName"] != "$default":
        raise TemplateError(f"{stage.logical_id}: the local stack serves only the stage $default")


def _functions(of: Resources, region: str) -> Mapping[str, Function]:
    retries = {
        r.properties["FunctionName"]: int(_invoke_config(r).get("MaximumRetryAttempts", 2))
        for r in of("AWS::Lambda::EventInvokeConfig")
    }
    return {r.logical_id: _function(r, retries, region) for r in of("AWS::Lambda::Function")}


def _bucket(resource: Resource) -> Bucket:
    p = take(
        resource.logical_id, resource.properties,
        ["BucketName", "VersioningConfiguration", "NotificationConfiguration"],
        # Access is bound to loopback, and nothing here lives long enough to expire.
        ["PublicAccessBlockConfiguration", "OwnershipControls", "BucketEncryption", "LoggingConfiguration",
         "LifecycleConfiguration", "Tags"],
    )  # fmt: skip
    config = take(resource.logical_id, p.get("NotificationConfiguration", {}), ["QueueConfigurations"])
    notifications = tuple(_notification(resource.logical_id, c) for c in config.get("QueueConfigurations", []))
    versioned = p.get("VersioningConfiguration", {}).get("Status") == "Enabled"
    name = p.get("BucketName") or f"{resource.logical_id.lower()}-{ACCOUNT_ID}"
    return Bucket(resource.logical_id, name, versioned, notifications)


def _notification(where: str, config: Mapping[str, Any]) -> Notification:
    take(f"{where}.NotificationConfiguration", config, ["Event", "Queue", "Filter"])
    prefix = ""
    for rule in config.get("Filter", {}).get("S3Key", {}).get("Rules", []):
        if rule["Name"] != "prefix":
            raise TemplateError(f"{where}: the local stack does not know the notification filter {rule['Name']}")
        prefix = rule["Value"]
    return Notification(config["Queue"], (config["Event"],), prefix)


def _queue(resource: Resource) -> Queue:
    p = take(
        resource.logical_id, resource.properties, ["VisibilityTimeout", "RedrivePolicy"],
        # Retention is days; the pollers choose their own waits; nothing here is encrypted.
        ["MessageRetentionPeriod", "ReceiveMessageWaitTimeSeconds", "SqsManagedSseEnabled", "KmsMasterKeyId",
         "RedriveAllowPolicy", "Tags"],
    )  # fmt: skip
    redrive = p.get("RedrivePolicy", {})
    return Queue(
        resource.logical_id,
        resource.logical_id,
        int(p.get("VisibilityTimeout", 30)),
        redrive.get("deadLetterTargetArn", ""),
        int(redrive.get("maxReceiveCount", 0)),
    )


def _invoke_config(resource: Resource) -> Mapping[str, Any]:
    return take(resource.logical_id, resource.properties, ["FunctionName", "MaximumRetryAttempts", "Qualifier"],
                ["DestinationConfig", "MaximumEventAgeInSeconds"])  # fmt: skip


def _function(resource: Resource, retries: Mapping[str, int], region: str) -> Function:
    p = take(
        resource.logical_id, resource.properties, ["Code", "Handler", "Environment", "Timeout", "MemorySize"],
        ["Architectures", "Description", "LoggingConfig", "Role", "Runtime", "Tags", "TracingConfig",
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


def _mapping(resource: Resource) -> SourceMapping:
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


def _schedule(resource: Resource) -> Schedule:
    p = take(resource.logical_id, resource.properties,
             ["ScheduleExpression", "ScheduleExpressionTimezone", "Target", "State"],
             ["Description", "FlexibleTimeWindow", "Name", "GroupName"])  # fmt: skip
    if p.get("ScheduleExpressionTimezone", "UTC") != "UTC" or p.get("State", "ENABLED") != "ENABLED":
        raise TemplateError(f"{resource.logical_id}: the local stack knows only enabled schedules in UTC")
    target = take(f"{resource.logical_id}.Target", p["Target"], ["Arn", "Input"],
                  ["RoleArn", "DeadLetterConfig", "RetryPolicy"])  # fmt: skip
    event = json.loads(target.get("Input", "{}"))
    return Schedule(resource.logical_id, target["Arn"].rsplit(":", 1)[1], p["ScheduleExpression"], event)


def _routes(resource: Resource) -> Iterable[Route]:
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


def _edge(of: Resources) -> Edge:
    distributions = of("AWS::CloudFront::Distribution")
    if len(distributions) != 1:
        raise TemplateError(f"the template has {len(distributions)} distributions, expected one")
    config = take(
        "Distribution", distributions[0].properties["DistributionConfig"],
        ["Enabled", "DefaultRootObject", "DefaultCacheBehavior", "CacheBehaviors", "CustomErrorResponses"],
        # Of the network, the name and the certificate there is only one kind here; one origin; nothing is cached.
        ["Aliases", "Comment", "HttpVersion", "IPV6Enabled", "Logging", "Origins", "PriceClass", "Restrictions",
         "ViewerCertificate", "WebACLId"],
    )  # fmt: skip
    for response in config.get("CustomErrorResponses", []):
        take("Distribution.CustomErrorResponses", response, [], ["ErrorCode", "ErrorCachingMinTTL"])
    encodings = {r.logical_id: _encodings(r) for r in of("AWS::CloudFront::CachePolicy")}
    headers = {r.logical_id: _headers(r) for r in of("AWS::CloudFront::ResponseHeadersPolicy")}
    declared = [*config.get("CacheBehaviors", []), {"PathPattern": "*", **config["DefaultCacheBehavior"]}]
    readable, sees_missing = _readable(of("AWS::S3::BucketPolicy"))
    return Edge(
        root=config.get("DefaultRootObject", ""),
        behaviours=tuple(_behaviour(b, encodings, headers) for b in declared),
        readable=readable,
        sees_missing=sees_missing,
    )


def _behaviour(
    b: Mapping[str, Any], encodings: Mapping[str, tuple[str, ...]], headers: Mapping[str, Mapping[str, str]]
) -> Behaviour:
    where = f"Distribution behaviour {b['PathPattern']}"
    take(where, b, ["PathPattern", "AllowedMethods", "Compress", "CachePolicyId", "ResponseHeadersPolicyId"],
         ["TargetOriginId", "ViewerProtocolPolicy", "CachedMethods"])  # fmt: skip
    for name, table in (("CachePolicyId", encodings), ("ResponseHeadersPolicyId", headers)):
        if b.get(name) and b[name] not in table:
            raise TemplateError(f"{where}: {name} is {b[name]}, which is no policy of this template")
    compressed = encodings.get(b.get("CachePolicyId", ""), ()) if b.get("Compress") else ()
    own_headers = headers.get(b.get("ResponseHeadersPolicyId", ""), {})
    methods = frozenset(b.get("AllowedMethods", ["GET", "HEAD"]))
    return Behaviour(b["PathPattern"].lstrip("/"), methods, compressed, own_headers)


def _encodings(resource: Resource) -> tuple[str, ...]:
    """Encodings the policy lets the edge use. Its lifetimes have no effect: the local edge keeps nothing."""
    config = take(resource.logical_id, resource.properties["CachePolicyConfig"],
                  ["ParametersInCacheKeyAndForwardedToOrigin"],
                  ["Name", "Comment", "MinTTL", "DefaultTTL", "MaxTTL"])  # fmt: skip
    key = take(resource.logical_id, config["ParametersInCacheKeyAndForwardedToOrigin"],
               ["EnableAcceptEncodingBrotli", "EnableAcceptEncodingGzip"],
               ["CookiesConfig", "HeadersConfig", "QueryStringsConfig"])  # fmt: skip
    return tuple(
        name
        for name, flag in (("br", "EnableAcceptEncodingBrotli"), ("gzip", "EnableAcceptEncodingGzip"))
        if key.get(flag)
    )


def _headers(resource: Resource) -> Mapping[str, str]:
    config = take(resource.logical_id, resource.properties["ResponseHeadersPolicyConfig"],
                  ["CustomHeadersConfig", "SecurityHeadersConfig", "CorsConfig"],
                  ["Name", "Comment", "RemoveHeadersConfig"])  # fmt: skip
    headers = {item["Header"]: item["Value"] for item in config.get("CustomHeadersConfig", {}).get("Items", [])}
    # Strict-Transport-Security is left out: a browser would apply it to everything else that runs on localhost.
    security = take(resource.logical_id, config.get("SecurityHeadersConfig", {}),
                    ["ContentTypeOptions", "FrameOptions", "ReferrerPolicy", "ContentSecurityPolicy"],
                    ["StrictTransportSecurity"])  # fmt: skip
    if "CorsConfig" in config:
        origins = config["CorsConfig"]["AccessControlAllowOrigins"]["Items"]
        headers["Access-Control-Allow-Origin"] = origins[0]
    if "ContentTypeOptions" in security:
        headers["X-Content-Type-Options"] = "nosniff"
    if "FrameOptions" in security:
        headers["X-Frame-Options"] = security["FrameOptions"]["FrameOption"]
    if "ReferrerPolicy" in security:
        headers["Referrer-Policy"] = security["ReferrerPolicy"]["ReferrerPolicy"]
    if "ContentSecurityPolicy" in security:
        headers["Content-Security-Policy"] = security["ContentSecurityPolicy"]["ContentSecurityPolicy"]
    return headers


def _readable(policies: Iterable[Resource]) -> tuple[tuple[str, ...], bool]:
    """The keys (as patterns) that CloudFront may read, and whether it may learn that a key is missing."""
    patterns: list[str] = []
    sees_missing = False
    for policy in policies:
        take(policy.logical_id, policy.properties, ["Bucket", "PolicyDocument"])
        for statement in policy.properties["PolicyDocument"]["Statement"]:
            service = statement["Principal"].get("Service") if isinstance(statement["Principal"], dict) else None
            if statement["Effect"] != "Allow" or service != "cloudfront.amazonaws.com":
                continue  # transport security, and log delivery: neither exists here
            actions, resources = _listed(statement["Action"]), _listed(statement["Resource"])
            if "s3:GetObject" in actions:
                patterns += [resource.split("/", 1)[1] for resource in resources if "/" in resource]
            sees_missing = sees_missing or "s3:ListBucket" in actions
    return tuple(patterns), sees_missing


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
