"""What must hold of the deployed stack and no linter says: each rule names what is wrong, and nothing when all is well.

A rule sees the stack with every reference made concrete, so that it does not matter how the template spells a thing.
`tests/infra` breaks the template on purpose, once for each rule and more, and requires the rule to notice.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from gates import grants
from gates.policy import Decision, Request, decide, listed
from gates.stack import INFRA, REGION, Stack, references
from local_stack.template import ACCOUNT_ID

Rule = Callable[[Stack], Iterator[str]]
RULES: Final[dict[str, Rule]] = {}

# Seconds. The catalog's are short, because they are what a new image waits for; a file never changes.
MOST_CATALOG_S: Final = 60
IMAGE_S: Final = 365 * 24 * 3600
MOST_ERROR_S: Final = 10

PUBLIC_ROUTES: Final = frozenset({("/openapi.json", "get")})
FUNCTIONS: Final = ("Digest", "Publish", "Uploads", "Maintain")
COMMON: Final = frozenset({"BUCKET", "POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_LOG_LEVEL"})
ENVIRONMENT: Final[Mapping[str, frozenset[str]]] = {
    "Digest": COMMON | {"MAX_UPLOAD_BYTES", "QUEUE_URL"},
    "Publish": COMMON | {"CLIENTS", "DISTRIBUTION_ID", "QUEUE_URL"},
    "Uploads": COMMON | {"ALLOW_OVERWRITES", "ALLOW_DELETES", "PUBLISHERS", "MAX_UPLOAD_BYTES", "GRACE_HOURS"},
    "Maintain": COMMON
    | {"ARRIVALS_QUEUE_URL", "CLIENTS", "RETAIN_VERSIONS", "RETAIN_DAYS", "GRACE_HOURS", "STALE_DAYS"},
}
METRICS: Final = frozenset(
    {
        "UploadToListedSeconds",
        "BytesHashed",
        "Refusals",
        "LostRaces",
        "CatalogBytes",
        "VersionsSettled",
        "CatalogWrites",
        "UnreadableRecords",
        "MaintainTasks",
    }
)


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def differ(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"{what}: expected {expected!r}, found {found!r}"


# ── Storage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@rule
def buckets_are_private_and_outlive_the_stack(stack: Stack) -> Iterator[str]:
    owners = {"Bucket": "BucketOwnerEnforced", "LogsBucket": "BucketOwnerPreferred"}
    yield from differ("buckets", stack.of_type("AWS::S3::Bucket").keys(), owners.keys())
    for name, bucket in stack.of_type("AWS::S3::Bucket").items():
        blocked = bucket.get("PublicAccessBlockConfiguration", {})
        for setting in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"):
            yield from differ(f"{name} {setting}", blocked.get(setting), True)
        yield from differ(f"{name} ownership", bucket["OwnershipControls"]["Rules"][0]["ObjectOwnership"], owners[name])
        if not bucket.get("BucketEncryption"):
            yield f"{name} is not encrypted"
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            yield from differ(f"{name} {policy}", stack.raw["Resources"][name].get(policy), "Retain")


@rule
def old_generations_are_kept_for_a_while(stack: Stack) -> Iterator[str]:
    bucket = stack.properties("Bucket")
    yield from differ("versioning", bucket.get("VersioningConfiguration", {}).get("Status"), "Enabled")
    rules = [r for r in bucket["LifecycleConfiguration"]["Rules"] if r["Status"] == "Enabled"]
    whole = [r for r in rules if "Prefix" not in r]
    if not any(int(r.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0)) >= 1 for r in whole):
        yield "old generations never expire"
    if not any("AbortIncompleteMultipartUpload" in r for r in whole):
        yield "incomplete multipart uploads are never aborted"
    expiring = {r.get("Prefix", "") for r in rules if "ExpirationInDays" in r}
    yield from differ("prefixes whose objects expire", expiring, {"claims/"})


@rule
def notifications_reach_their_queues(stack: Stack) -> Iterator[str]:
    expected = {
        (prefix, event, stack_arn("sqs", queue))
        for prefix, queue in (("images", "ArrivalsQueue"), ("versions/", "ChangesQueue"))
        for event in ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
    }
    found = {
        (filter_rule["Value"], entry["Event"], entry["Queue"])
        for entry in stack.properties("Bucket").get("NotificationConfiguration", {}).get("QueueConfigurations", [])
        for filter_rule in entry["Filter"]["S3Key"]["Rules"]
    }
    yield from differ("notifications", found, expected)


@rule
def queues_admit_the_bucket_before_it_is_made(stack: Stack) -> Iterator[str]:
    waits = stack.raw["Resources"]["Bucket"].get("DependsOn", [])
    for policy in ("ArrivalsQueuePolicy", "ChangesQueuePolicy"):
        if policy not in listed(waits):
            yield f"Bucket must depend on {policy}, or setting its notifications fails"


@rule
def nothing_waits_for_itself(stack: Stack) -> Iterator[str]:
    try:
        TopologicalSorter(references(stack.raw)).prepare()
    except CycleError as cycle:
        yield f"resources wait for each other: {' → '.join(cycle.args[1])}"


# ── Policies of resources ────────────────────────────────────────────────────────────────────────────────────────────


def stack_arn(service: str, name: str, kind: str = "") -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT_ID}:{kind}images-{name}"


def edge_context(distribution: str = "images-Distribution") -> dict[str, str]:
    arn = f"arn:aws:cloudfront::{ACCOUNT_ID}:distribution/{distribution}"
    return {"aws:SourceArn": arn, "aws:SourceAccount": ACCOUNT_ID, "aws:SecureTransport": "true"}


@rule
def the_edge_reads_only_what_is_served(stack: Stack) -> Iterator[str]:
    statements = stack.resource_statements("AWS::S3::BucketPolicy", "Bucket", stack.properties("Bucket")["BucketName"])
    edge = "cloudfront.amazonaws.com"
    keys = grants.things(stack)["key"]
    for action in grants.ACTIONS["key"]:
        for name in grants.KEYS:
            expected = Decision.ALLOWED if action == "s3:GetObject" and name in grants.SERVED else Decision.NOT_GRANTED
            found = decide(statements, Request(action, keys[name], edge, edge_context()))
            yield from differ(f"the edge: {action} on {name}", found, expected)
    key = keys["images/"]
    for who, request in {
        "another distribution": Request("s3:GetObject", key, edge, edge_context("somebody")),
        "another service": Request("s3:GetObject", key, "s3.amazonaws.com", edge_context()),
        "anybody": Request("s3:GetObject", key, "*", {"aws:SecureTransport": "true"}),
    }.items():
        yield from differ(f"{who}: s3:GetObject", decide(statements, request), Decision.NOT_GRANTED)


@rule
def a_missing_key_is_404(stack: Stack) -> Iterator[str]:
    bucket = stack.properties("Bucket")["BucketName"]
    statements = stack.resource_statements("AWS::S3::BucketPolicy", "Bucket", bucket)
    request = Request("s3:ListBucket", f"arn:aws:s3:::{bucket}", "cloudfront.amazonaws.com", edge_context())
    if decide(statements, request) is not Decision.ALLOWED:
        yield "the edge lacks s3:ListBucket: a missing key would be 403"


@rule
def nothing_travels_in_clear_text(stack: Stack) -> Iterator[str]:
    clear = edge_context() | {"aws:SecureTransport": "false"}
    for name, bucket in (("Bucket", stack.properties("Bucket")["BucketName"]), ("LogsBucket", "images-logsbucket")):
        statements = stack.resource_statements("AWS::S3::BucketPolicy", "Bucket", bucket)
        for resource in (f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/images/x"):
            found = decide(statements, Request("s3:GetObject", resource, "cloudfront.amazonaws.com", clear))
            yield from differ(f"{name} without TLS", found, Decision.DENIED)
    for queue in ("ArrivalsQueue", "ChangesQueue"):
        statements = stack.resource_statements("AWS::SQS::QueuePolicy", "Queues", f"images-{queue}")
        found = decide(statements, Request("sqs:SendMessage", stack_arn("sqs", queue), "s3.amazonaws.com", clear))
        yield from differ(f"{queue} without TLS", found, Decision.DENIED)


@rule
def queues_take_messages_of_their_bucket_alone(stack: Stack) -> Iterator[str]:
    own = {"aws:SourceArn": f"arn:aws:s3:::{stack.properties('Bucket')['BucketName']}", "aws:SourceAccount": ACCOUNT_ID}
    own["aws:SecureTransport"] = "true"
    cases = (
        ("its bucket", "sqs:SendMessage", "s3.amazonaws.com", own, Decision.ALLOWED),
        ("its bucket, reading", "sqs:ReceiveMessage", "s3.amazonaws.com", own, Decision.NOT_GRANTED),
        (
            "another bucket",
            "sqs:SendMessage",
            "s3.amazonaws.com",
            own | {"aws:SourceArn": "arn:aws:s3:::x"},
            Decision.NOT_GRANTED,
        ),
        (
            "another account",
            "sqs:SendMessage",
            "s3.amazonaws.com",
            own | {"aws:SourceAccount": "1"},
            Decision.NOT_GRANTED,
        ),
        ("another service", "sqs:SendMessage", "sns.amazonaws.com", own, Decision.NOT_GRANTED),
        ("anybody", "sqs:SendMessage", "*", {"aws:SecureTransport": "true"}, Decision.NOT_GRANTED),
    )
    for queue in ("ArrivalsQueue", "ChangesQueue"):
        statements = stack.resource_statements("AWS::SQS::QueuePolicy", "Queues", f"images-{queue}")
        for who, action, principal, context, expected in cases:
            found = decide(statements, Request(action, stack_arn("sqs", queue), principal, context))
            yield from differ(f"{queue}, {who}: {action}", found, expected)


@rule
def no_role_is_wider_than_its_table(stack: Stack) -> Iterator[str]:
    yield from differ("roles", stack.of_type("AWS::IAM::Role").keys(), grants.GRANTS.keys())
    known = {action for actions in grants.ACTIONS.values() for action in actions}
    for role, expected in grants.GRANTS.items():
        statements = stack.role_statements(role)
        for action in (a for s in statements for a in listed(s.get("Action", []))):
            if action not in known:
                yield f"{role}: {action} is not among the actions that the table is checked against"
        found = grants.granted(statements, stack)
        yield from (
            f"{role} may {action} on {name}, which its table lacks" for action, name in sorted(found - expected)
        )
        yield from (f"{role} may not {action} on {name}, which it needs" for action, name in sorted(expected - found))


@rule
def only_the_service_that_needs_a_role_takes_it(stack: Stack) -> Iterator[str]:
    for name, role in stack.of_type("AWS::IAM::Role").items():
        service = "scheduler.amazonaws.com" if name == "ScheduleRole" else "lambda.amazonaws.com"
        statements = role["AssumeRolePolicyDocument"]["Statement"]
        principals = {str(s["Principal"]) for s in statements}
        yield from differ(f"{name} is taken by", principals, {str({"Service": service})})


# ── Queues and functions ─────────────────────────────────────────────────────────────────────────────────────────────


@rule
def queues_outlast_their_functions(stack: Stack) -> Iterator[str]:
    for queue, letters, function in (
        ("ArrivalsQueue", "ArrivalsDeadLetters", "DigestFunction"),
        ("ChangesQueue", "ChangesDeadLetters", "PublishFunction"),
    ):
        properties, timeout = stack.properties(queue), int(stack.properties(function)["Timeout"])
        if int(properties["VisibilityTimeout"]) < 6 * timeout:
            visibility = properties["VisibilityTimeout"]
            yield f"{queue}: visibility {visibility} s, less than six times {function}'s {timeout} s"
        redrive = properties.get("RedrivePolicy", {})
        yield from differ(f"{queue} dead letters", redrive.get("deadLetterTargetArn"), stack_arn("sqs", letters))
        if int(redrive.get("maxReceiveCount", 0)) < 5:
            yield f"{queue}: a message must be tried at least five times, as AWS advises for Lambda"
    for name, properties in stack.of_type("AWS::SQS::Queue").items():
        yield from differ(f"{name} encryption", properties.get("SqsManagedSseEnabled"), True)
        # A dead letter keeps its age, so it must be allowed to grow older than the queue let it.
        days = 14 if name.endswith("DeadLetters") else 4
        yield from differ(f"{name} retention", properties.get("MessageRetentionPeriod"), days * 24 * 3600)


@rule
def queues_feed_their_functions(stack: Stack) -> Iterator[str]:
    mappings = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    found = {(m["EventSourceArn"], m["FunctionName"]) for m in mappings}
    expected = {("ArrivalsQueue", "DigestFunction"), ("ChangesQueue", "PublishFunction")}
    yield from differ("queue → function", found, {(stack_arn("sqs", q), f"images-{f}") for q, f in expected})
    for mapping in mappings:
        name = mapping["FunctionName"]
        yield from differ(
            f"{name} answers for each message", mapping.get("FunctionResponseTypes"), ["ReportBatchItemFailures"]
        )
        if int(mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0)) < 2:
            yield f"{name}: MaximumConcurrency must be given, and 2 is the least that AWS takes"
        if int(mapping["BatchSize"]) > 10 and int(mapping.get("MaximumBatchingWindowInSeconds", 0)) < 1:
            yield f"{name}: a batch of more than ten needs a window"


@rule
def functions_are_as_decided(stack: Stack) -> Iterator[str]:
    functions = stack.of_type("AWS::Lambda::Function")
    yield from differ("functions", functions.keys(), {f"{name}Function" for name in FUNCTIONS})
    for name in FUNCTIONS:
        function = functions.get(f"{name}Function", {})
        for what, found, expected in (
            ("runtime", function.get("Runtime"), "python3.13"),
            ("architecture", function.get("Architectures"), ["arm64"]),
            ("tracing", function.get("TracingConfig"), {"Mode": "Active"}),
            ("log format", function.get("LoggingConfig", {}).get("LogFormat"), "JSON"),
            ("log group", function.get("LoggingConfig", {}).get("LogGroup"), f"images-{name}Logs"),
            ("role", function.get("Role"), f"arn:aws:iam::{ACCOUNT_ID}:role/images-{name}Role"),
            ("environment", function.get("Environment", {}).get("Variables", {}).keys(), ENVIRONMENT[name]),
        ):
            yield from differ(f"{name}Function {what}", found, expected)
    for name, group in stack.of_type("AWS::Logs::LogGroup").items():
        if not group.get("RetentionInDays"):
            yield f"{name} keeps its logs for ever"


@rule
def handlers_exist(stack: Stack) -> Iterator[str]:
    for name, function in stack.of_type("AWS::Lambda::Function").items():
        module, _, attribute = function["Handler"].rpartition(".")
        source = INFRA.parent / "functions" / f"{module.replace('.', '/')}.py"
        if not source.is_file():
            yield f"{name}: handler {function['Handler']} has no file"
            continue
        defined = {n.name for n in ast.parse(source.read_text()).body if isinstance(n, ast.FunctionDef)}
        assigned = {
            t.id
            for n in ast.parse(source.read_text()).body
            if isinstance(n, ast.Assign)
            for t in n.targets
            if isinstance(t, ast.Name)
        }
        if attribute not in defined | assigned:
            yield f"{name}: {source.name} has no {attribute}"


# ── The edge ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def edge(stack: Stack) -> Mapping[str, Any]:
    config: Mapping[str, Any] = stack.properties("Distribution")["DistributionConfig"]
    return config


def behaviours(stack: Stack) -> dict[str, Mapping[str, Any]]:
    """Path pattern → behaviour, in their order; `*` is the default one."""
    config = edge(stack)
    return {b["PathPattern"]: b for b in config.get("CacheBehaviors", [])} | {"*": config["DefaultCacheBehavior"]}


def policy_of(stack: Stack, behaviour: Mapping[str, Any], which: str) -> Mapping[str, Any]:
    """The cache policy (`CachePolicy`) or headers policy (`ResponseHeadersPolicy`) of a behaviour."""
    logical_id = str(behaviour.get(f"{which}Id", "")).removeprefix("images-")
    config: Mapping[str, Any] = stack.properties(logical_id)[f"{which}Config"]
    return config


@rule
def the_bucket_answers_the_edge_alone(stack: Stack) -> Iterator[str]:
    control = stack.of_type("AWS::CloudFront::OriginAccessControl")
    for origin in edge(stack)["Origins"]:
        name = str(origin.get("OriginAccessControlId", "")).removeprefix("images-").removesuffix(".Id")
        if name not in control:
            yield f"origin {origin['Id']} has no origin access control"
            continue
        config = control[name]["OriginAccessControlConfig"]
        found = (config["OriginAccessControlOriginType"], config["SigningBehavior"], config["SigningProtocol"])
        yield from differ("origin access control", found, ("s3", "always", "sigv4"))


@rule
def the_edge_speaks_https_and_only_reads(stack: Stack) -> Iterator[str]:
    config = edge(stack)
    yield from differ("HTTP versions", config.get("HttpVersion"), "http2and3")
    yield from differ("IPv6", config.get("IPV6Enabled"), True)
    yield from differ("the root", config.get("DefaultRootObject"), "index.html")
    yield from differ("path patterns", list(behaviours(stack)), ["streams/*", "images*", "*"])
    for pattern, behaviour in behaviours(stack).items():
        yield from differ(f"{pattern} protocol", behaviour["ViewerProtocolPolicy"], "redirect-to-https")
        yield from differ(f"{pattern} methods", sorted(behaviour["AllowedMethods"]), ["GET", "HEAD"])
    certificate = config["ViewerCertificate"]
    if "AcmCertificateArn" in certificate and certificate.get("MinimumProtocolVersion", "") < "TLSv1.2_2021":
        yield f"TLS: {certificate.get('MinimumProtocolVersion')} admits less than 1.2"


@rule
def only_json_is_compressed(stack: Stack) -> Iterator[str]:
    for pattern, behaviour in behaviours(stack).items():
        wanted = pattern != "images*"
        key = policy_of(stack, behaviour, "CachePolicy")["ParametersInCacheKeyAndForwardedToOrigin"]
        yield from differ(f"{pattern} compression", behaviour.get("Compress"), wanted)
        yield from differ(f"{pattern} gzip", key["EnableAcceptEncodingGzip"], wanted)
        yield from differ(f"{pattern} query strings", key["QueryStringsConfig"]["QueryStringBehavior"], "none")


@rule
def lifetimes_are_short_for_the_catalog_and_long_for_images(stack: Stack) -> Iterator[str]:
    for pattern, behaviour in behaviours(stack).items():
        cache = policy_of(stack, behaviour, "CachePolicy")
        times = {name: int(cache[name]) for name in ("MinTTL", "DefaultTTL", "MaxTTL")}
        header = header_of(stack, behaviour, "Cache-Control")
        if not times["MinTTL"] <= times["DefaultTTL"] <= times["MaxTTL"]:
            yield f"{pattern}: lifetimes out of order: {times}"
        if pattern == "images*":
            yield from differ(f"{pattern} lifetime", times, {"MinTTL": 0, "DefaultTTL": IMAGE_S, "MaxTTL": IMAGE_S})
            yield from differ(f"{pattern} Cache-Control", header, f"public, max-age={IMAGE_S}, immutable")
            continue
        if times["MaxTTL"] > MOST_CATALOG_S:
            yield f"{pattern}: the edge may keep it for {times['MaxTTL']} s, at most {MOST_CATALOG_S} s is right"
        age = re.fullmatch(r"public, max-age=(\d+), stale-while-revalidate=(\d+)", header)
        if not age or max(map(int, age.groups())) > MOST_CATALOG_S:
            yield f"{pattern}: Cache-Control {header!r} lacks a short max-age and stale-while-revalidate"


def header_of(stack: Stack, behaviour: Mapping[str, Any], name: str) -> str:
    items = policy_of(stack, behaviour, "ResponseHeadersPolicy").get("CustomHeadersConfig", {}).get("Items", [])
    return next((str(item["Value"]) for item in items if item["Header"] == name), "")


@rule
def errors_stay_errors(stack: Stack) -> Iterator[str]:
    responses = {int(r["ErrorCode"]): r for r in edge(stack).get("CustomErrorResponses", [])}
    yield from differ("errors with a lifetime", responses.keys(), {403, 404, 500, 502, 503, 504})
    for code, response in responses.items():
        for key in ("ResponseCode", "ResponsePagePath"):
            if key in response:
                yield f"{code}: {key} {response[key]} puts a page in place of an error"
        if int(response.get("ErrorCachingMinTTL", 10)) > MOST_ERROR_S:
            yield f"{code} is remembered for {response['ErrorCachingMinTTL']} s, at most {MOST_ERROR_S} s is right"


@rule
def responses_carry_security_headers(stack: Stack) -> Iterator[str]:
    for pattern, behaviour in behaviours(stack).items():
        headers = policy_of(stack, behaviour, "ResponseHeadersPolicy").get("SecurityHeadersConfig", {})
        missing = {"ContentTypeOptions", "FrameOptions", "ReferrerPolicy", "StrictTransportSecurity"} - headers.keys()
        yield from (f"{pattern}: no {name}" for name in sorted(missing))
        policy = headers.get("ContentSecurityPolicy", {}).get("ContentSecurityPolicy", "")
        for directive in ("default-src 'none'", "frame-ancestors 'none'"):
            if directive not in policy.split("; "):
                yield f"{pattern}: Content-Security-Policy lacks {directive}"


@rule
def access_is_logged(stack: Stack) -> Iterator[str]:
    logs = edge(stack).get("Logging", {}).get("Bucket", "")
    yield from differ("the edge's access logs", logs.split(".")[0], "images-logsbucket")
    found = stack.properties("Bucket").get("LoggingConfiguration", {}).get("DestinationBucketName")
    yield from differ("the bucket's access logs", found, "images-logsbucket")


# ── The API, schedules, alarms ───────────────────────────────────────────────────────────────────────────────────────


@rule
def every_route_asks_who_calls(stack: Stack) -> Iterator[str]:
    body = stack.properties("UploadsApi")["Body"]
    schemes = body["components"]["securitySchemes"]
    scheme = "Jwt" if "Jwt" in schemes else "Iam"
    routes = {(path, method): route for path, methods in body["paths"].items() for method, route in methods.items()}
    for (path, method), route in routes.items():
        expected: list[dict[str, list[str]]] = [] if (path, method) in PUBLIC_ROUTES else [{scheme: []}]
        yield from differ(f"{method.upper()} {path} is called by", route.get("security", []), expected)
        if "images-UploadsFunction" not in route["x-amazon-apigateway-integration"]["uri"]:
            yield f"{method.upper()} {path} does not reach uploads"
    yield from differ("IAM scheme", schemes["Iam"].get("x-amazon-apigateway-authtype"), "awsSigv4")
    if scheme == "Jwt":
        jwt = schemes["Jwt"]["x-amazon-apigateway-authorizer"]["jwtConfiguration"]
        if not jwt.get("issuer") or not all(jwt.get("audience", [""])):
            yield f"the JWT authorizer takes any token: {jwt}"


@rule
def the_api_is_throttled_and_logged(stack: Stack) -> Iterator[str]:
    (stage,) = stack.of_type("AWS::ApiGatewayV2::Stage").values()
    settings = stage.get("DefaultRouteSettings", {})
    if not (0 < settings.get("ThrottlingRateLimit", 0) <= 100 and 0 < settings.get("ThrottlingBurstLimit", 0) <= 200):
        yield "the API is not throttled"
    if "AccessLogSettings" not in stage:
        yield "the API keeps no access log"
    elif "querystring" in str(stage["AccessLogSettings"]).lower():
        yield "the API logs query strings, which may carry signatures"
    api = stack.properties("UploadsApi")
    if "CorsConfiguration" in api or "x-amazon-apigateway-cors" in api["Body"]:
        yield "the API answers other sites' pages (CORS)"


@rule
def maintain_runs_on_schedule(stack: Stack) -> Iterator[str]:
    schedules = stack.of_type("AWS::Scheduler::Schedule").values()
    tasks = {json.loads(s["Target"]["Input"])["task"] for s in schedules if s.get("State", "ENABLED") == "ENABLED"}
    yield from differ("scheduled tasks", tasks, {"sweep", "retain"})
    for schedule in schedules:
        target = schedule["Target"]
        yield from differ("schedule runs", target["Arn"], stack_arn("lambda", "MaintainFunction", "function:"))
        yield from differ("schedule is real", json.loads(target["Input"]).get("dry_run"), False)
        letters = target.get("DeadLetterConfig", {}).get("Arn")
        yield from differ("schedule dead letters", letters, stack_arn("sqs", "MaintainDeadLetters"))


@rule
def alarms_tell_somebody(stack: Stack) -> Iterator[str]:
    alarms = stack.of_type("AWS::CloudWatch::Alarm")
    watched = {
        (metric, dimension["Value"])
        for alarm in alarms.values()
        for metric, dimensions in metrics_of(alarm)
        for dimension in dimensions
    }
    expected = {
        ("ApproximateNumberOfMessagesVisible", f"images-{q}DeadLetters.QueueName")
        for q in ("Arrivals", "Changes", "Maintain")
    }
    expected |= {("ApproximateAgeOfOldestMessage", f"images-{q}Queue.QueueName") for q in ("Arrivals", "Changes")}
    expected |= {(metric, f"images-{name}Function") for name in FUNCTIONS for metric in ("Errors", "Throttles")}
    expected |= {
        ("5xx", "images-UploadsApi"),
        ("UploadToListedSeconds", "simplestreams"),
        ("UnreadableRecords", "simplestreams"),
    }
    if "EdgeErrorsAlarmCommand" not in stack.outputs:
        expected |= {("5xxErrorRate", "images-Distribution")}
    yield from (f"nothing watches {metric} of {name}" for metric, name in sorted(expected - watched))
    for name, alarm in alarms.items():
        yield from differ(f"{name} tells", alarm.get("AlarmActions"), [stack_arn("sns", "AlarmsTopic")])
        if not alarm.get("AlarmDescription"):
            yield f"{name} does not say what to do"


def metrics_of(alarm: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, str]]]]:
    if "MetricName" in alarm:
        yield alarm["MetricName"], alarm["Dimensions"]
    for metric in (m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m):
        yield metric["MetricName"], metric["Dimensions"]


@rule
def the_dashboard_shows_every_metric(stack: Stack) -> Iterator[str]:
    body = stack.properties("Dashboard")["DashboardBody"]
    widgets = json.loads(body)["widgets"]
    shown = {name for name in METRICS if any(name in json.dumps(widget) for widget in widgets)}
    yield from differ("metrics of our own", shown, METRICS)
    for question in ("Is anything stuck?", "How long from upload to listed?", "What was refused?"):
        if question not in body:
            yield f"the dashboard does not ask: {question}"


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
