"""The template obeys every rule, and every rule notices a template broken on purpose."""

from collections.abc import Callable
from typing import Any

import pytest

from gates import stack
from tests.support.deployment import rules
from tests.support.deployment.rules import RULES

Template = dict[str, Any]
Mutation = Callable[[Template], object]

CERTIFICATE = "arn:aws:acm:us-east-1:111122223333:certificate/01234567-89ab-cdef-0123-456789abcdef"
VARIANTS: dict[str, dict[str, str]] = {
    "defaults": {},
    "everything optional": {
        "DomainName": "images.example.org",
        "CertificateArn": CERTIFICATE,
        "HostedZoneId": "Z0123456789",
        "JwtIssuer": "https://token.example.org",
        "JwtAudience": "images",
        "AlarmEmail": "ops@example.org",
        "GeoRestriction": "whitelist",
        "GeoLocations": "DE,FR",
    },
    "following others": {"MirrorSchedule": "rate(1 hour)"},
    "views": {"Views": "true"},
    "with deltas": {"Deltas": "1"},
    "keeping what is fetched": {"KeepFetchedWithinDays": "30"},
    "short runs": {"DigestTimeout": "5", "PublishTimeout": "30"},
}


EVERYTHING = VARIANTS["following others"] | VARIANTS["views"]
"""With these values every function, queue and role exists."""


@pytest.fixture(scope="module", params=VARIANTS)
def deployed(request: pytest.FixtureRequest) -> stack.Stack:
    return stack.deployed(stack.template(), **VARIANTS[request.param])


@pytest.mark.parametrize("name", RULES)
def test_the_template_obeys_every_rule(deployed: stack.Stack, name: str) -> None:
    assert list(RULES[name](deployed)) == []


def resource(document: Template, name: str) -> Any:
    return document["Resources"][name]["Properties"]


def edge(document: Template) -> Any:
    return resource(document, "Distribution")["DistributionConfig"]


def statements(document: Template, role: str) -> Any:
    return resource(document, role)["Policies"][0]["PolicyDocument"]["Statement"]


def widen(role: str, sid: str, **change: Any) -> Mutation:
    """Return a mutation that changes elements of one statement of a role."""

    def mutate(document: Template) -> None:
        (statement,) = (s for s in statements(document, role) if s.get("Sid") == sid)
        statement.update(change)

    return mutate


def drop_statement(policy: str, sid: str) -> Mutation:
    def mutate(document: Template) -> None:
        holder = resource(document, policy)["PolicyDocument"]
        kept = [s for s in holder["Statement"] if s.get("Sid") != sid]
        assert len(kept) == len(holder["Statement"]) - 1
        holder["Statement"] = kept

    return mutate


def drop_condition(policy: str, sid: str, operator: str, key: str = "") -> Mutation:
    """Return a mutation that removes an operator, or one key of it, from a condition."""

    def mutate(document: Template) -> None:
        (statement,) = (s for s in resource(document, policy)["PolicyDocument"]["Statement"] if s.get("Sid") == sid)
        if key:
            del statement["Condition"][operator][key]
        else:
            del statement["Condition"][operator]

    return mutate


def reach(document: Template, name: str, path: str) -> tuple[Any, str | int]:
    """Return the container and key of the element at `path` (dotted, numbers for lists) in a resource's properties."""
    *above, last = (int(step) if step.isdigit() else step for step in path.split("."))
    node = resource(document, name)
    for step in above:
        node = node[step]
    return node, last


def put(name: str, path: str, to: Any) -> Mutation:
    def mutate(document: Template) -> None:
        node, last = reach(document, name, path)
        assert node[last] != to
        node[last] = to

    return mutate


def remove(name: str, path: str) -> Mutation:
    def mutate(document: Template) -> None:
        node, last = reach(document, name, path)
        del node[last]

    return mutate


def swap_queues(document: Template) -> None:
    for entry in resource(document, "Bucket")["NotificationConfiguration"]["QueueConfigurations"]:
        other = "Changes" if entry["Queue"]["Fn::GetAtt"][0] == "ArrivalsQueue" else "Arrivals"
        entry["Queue"] = {"Fn::GetAtt": [f"{other}Queue", "Arn"]}


def forget_dependency(document: Template) -> None:
    document["Resources"]["Bucket"]["DependsOn"].remove("ArrivalsQueuePolicy")


def close_the_circle(document: Template) -> None:
    policy = resource(document, "ArrivalsQueuePolicy")["PolicyDocument"]["Statement"][0]
    policy["Condition"]["ArnEquals"]["aws:SourceArn"] = {"Fn::GetAtt": ["Bucket", "Arn"]}


def open_a_route(document: Template) -> None:
    del resource(document, "UploadsApi")["DefinitionBody"]["paths"]["/{path+}"]["delete"]["security"]


def delete_with_the_stack(document: Template) -> None:
    document["Resources"]["Bucket"]["DeletionPolicy"] = "Delete"


def widen_the_timeout(document: Template) -> None:
    document["Mappings"]["VisibilityTimeouts"]["900"]["Arrivals"] = 900


def serve_a_page_for_errors(document: Template) -> None:
    edge(document)["CustomErrorResponses"][1].update(ResponseCode=200, ResponsePagePath="/index.html")


def publish_records(document: Template) -> None:
    for statement in resource(document, "BucketPolicy")["PolicyDocument"]["Statement"]:
        if statement.get("Sid") == "EdgeReadsWhatIsServed":
            statement["Resource"] = {"Fn::Sub": "${Bucket.Arn}/*"}


def read_logs_always(document: Template) -> None:
    for statement in statements(document, "MaintainRole"):
        if statement.get("Fn::If", [""])[0] == "KeepsFetched":
            statement["Fn::If"][2] = statement["Fn::If"][1]


def remove_for_views(path: str, name: str) -> Mutation:
    def mutate(document: Template) -> None:
        node, last = reach(document, "Distribution", f"{path}.{name}")
        del node[last]

    return mutate


def decide_later(document: Template) -> None:
    association = edge(document)["DefaultCacheBehavior"]["FunctionAssociations"]["Fn::If"][1][0]
    association["EventType"] = "viewer-response"


def serve_documents_of_views(document: Template) -> None:
    for statement in resource(document, "BucketPolicy")["PolicyDocument"]["Statement"]:
        if statement.get("Fn::If", [""])[0] == "HasViews":
            statement["Fn::If"][1]["Resource"] = {"Fn::Sub": "${Bucket.Arn}/views/*"}


def attach_managed_policy(document: Template) -> None:
    resource(document, "DigestRole")["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/AmazonS3FullAccess"]


def add_a_role(document: Template) -> None:
    document["Resources"]["SpareRole"] = document["Resources"]["DigestRole"]


def log_queries(document: Template) -> None:
    settings = resource(document, "UploadsApi")["AccessLogSettings"]
    settings["Format"] = settings["Format"].replace("$context.path", "$context.path$context.querystring")


def on_the_dashboard(before: str, after: str) -> Mutation:
    def mutate(document: Template) -> None:
        body = resource(document, "Dashboard")["DashboardBody"]
        assert before in body["Fn::Sub"]
        body["Fn::Sub"] = body["Fn::Sub"].replace(before, after)

    return mutate


def lifetime(policy: str, value: str) -> Mutation:
    """Return a headers policy that sets a lifetime for every answer."""
    item = {"Header": "Cache-Control", "Value": value, "Override": True}

    def mutate(document: Template) -> None:
        config = resource(document, policy)["ResponseHeadersPolicyConfig"]
        config["CustomHeadersConfig"] = {"Items": [item]}

    return mutate


def assert_instead(expression: Any) -> Mutation:
    """Replace the assertion of a rule in `Rules` by another expression."""

    def mutate(document: Template) -> None:
        document["Rules"]["RestrictionNeedsLocations"]["Assertions"][0]["Assert"] = expression

    return mutate


IMAGE_BEHAVIOUR = "DistributionConfig.CacheBehaviors.1"
A_DAY_S = 86400
ALL_OBJECTS = {"Fn::Sub": "${Bucket.Arn}/*"}

# Rule → what is done to the template → how.
MUTATIONS: dict[str, dict[str, Mutation]] = {
    "buckets_are_private_and_outlive_the_stack": {
        "public bucket": put("Bucket", "PublicAccessBlockConfiguration.BlockPublicPolicy", to=False),
        "ACLs on": put("Bucket", "OwnershipControls.Rules.0.ObjectOwnership", to="ObjectWriter"),
        "no encryption": remove("Bucket", "BucketEncryption"),
        "bucket goes with the stack": delete_with_the_stack,
        "bucket outlives a stack that never was": lambda t: t["Resources"]["Bucket"].update(DeletionPolicy="Retain"),
    },
    "old_generations_are_kept_for_a_while": {
        "no versioning": put("Bucket", "VersioningConfiguration.Status", to="Suspended"),
        "no abort of uploads": remove("Bucket", "LifecycleConfiguration.Rules.1"),
        "versions/ expires": put("Bucket", "LifecycleConfiguration.Rules.2.Prefix", to="versions/"),
        "what is followed expires": put("Bucket", "LifecycleConfiguration.Rules.3.Prefix", to="mirrors/"),
    },
    "notifications_reach_their_queues": {
        "notification dropped": remove("Bucket", "NotificationConfiguration.QueueConfigurations.1"),
        "queues swapped": swap_queues,
        "prefix of one stream only": put(
            "Bucket", "NotificationConfiguration.QueueConfigurations.0.Filter.S3Key.Rules.0.Value", to="images/"
        ),
        "misspelled event": put(
            "Bucket", "NotificationConfiguration.QueueConfigurations.0.Event", to="s3:ObjectCreate:*"
        ),
        "logs are not redacted": remove("LogsBucket", "NotificationConfiguration"),
    },
    "queues_admit_the_bucket_before_it_is_made": {
        "DependsOn invalidated": forget_dependency,
        "logs do not wait for their queue": lambda t: t["Resources"]["LogsBucket"].pop("Metadata"),
    },
    "nothing_waits_for_itself": {
        "cycle of bucket and queue": close_the_circle,
    },
    "the_edge_reads_only_what_is_served": {
        "records served": publish_records,
        "any distribution": drop_condition("BucketPolicy", "EdgeReadsWhatIsServed", "StringEquals"),
        "any distribution reads images": drop_condition("BucketPolicy", "EdgeReadsListedUploads", "StringEquals"),
        "what is not listed": drop_condition(
            "BucketPolicy", "EdgeReadsListedUploads", "StringEquals", "s3:ExistingObjectTag/listed"
        ),
    },
    "the_function_decides_each_request": {
        "a path without it": remove_for_views("DistributionConfig.CacheBehaviors.1", "FunctionAssociations"),
        "after the cache": decide_later,
        "a view's own document": serve_documents_of_views,
        "another text": put("ViewFunction", "FunctionCode", to="function handler(e) { return e.request; }"),
    },
    "a_missing_key_is_404": {
        "missing is 403": drop_statement("BucketPolicy", "EdgeLearnsWhatIsMissing"),
    },
    "nothing_travels_in_clear_text": {
        "plain http": drop_statement("BucketPolicy", "OnlyTls"),
        "plain http to a queue": drop_statement("ChangesQueuePolicy", "OnlyTls"),
        "plain http to the queue of logs": drop_statement("AccessLogsQueuePolicy", "OnlyTls"),
    },
    "logs_arrive_from_their_services_alone": {
        "no logs of version 2": drop_statement("LogsBucketPolicy", "EdgeLogsOfVersion2"),
        "logs of any account": drop_condition("LogsBucketPolicy", "EdgeLogsOfVersion2", "StringEquals"),
    },
    "queues_take_messages_of_their_bucket_alone": {
        "queue open to any bucket": drop_condition("ArrivalsQueuePolicy", "BucketSends", "ArnEquals"),
        "queue open to any account": drop_condition("ChangesQueuePolicy", "BucketSends", "StringEquals"),
        "queue of logs open to any account": drop_condition("AccessLogsQueuePolicy", "BucketSends", "StringEquals"),
    },
    "no_role_is_wider_than_its_table": {
        "digest writes the catalog": widen("DigestRole", "KeepRecords", Resource=ALL_OBJECTS),
        "publish reads images": widen("PublishRole", "ReadRecords", Resource=ALL_OBJECTS),
        "uploads deletes": widen("UploadsRole", "SignUploads", Action=["s3:PutObject", "s3:DeleteObject"]),
        "uploads tags": widen("UploadsRole", "SignUploads", Action=["s3:PutObject", "s3:PutObjectTagging"]),
        "uploads signs anywhere": widen("UploadsRole", "SignUploads", Resource=ALL_OBJECTS),
        "maintain always reads the access logs": read_logs_always,
        "everything of S3": widen("MaintainRole", "DeleteImages", Action="s3:*"),
        "any cache at the edge": widen("PublishRole", "ForgetAtTheEdge", Resource="*"),
        "mirror writes images": widen("MirrorRole", "DescribeProducts", Resource=ALL_OBJECTS),
        "mirror deletes": widen(
            "MirrorRole", "KeepRecords", Action=["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        ),
        "copy writes records": widen("CopyRole", "CreateImages", Resource=ALL_OBJECTS),
        "copy changes what is followed": widen(
            "CopyRole", "ReadWhatIsFollowed", Action=["s3:GetObject", "s3:PutObject"]
        ),
        "copy reads what mirrors hold": widen(
            "CopyRole", "ReadWhatIsFollowed", Resource={"Fn::Sub": "${Bucket.Arn}/mirrors/*"}
        ),
        "delta writes any image": widen("DeltaRole", "CreateDeltas", Resource=ALL_OBJECTS),
        "delta writes deltas of disks": widen(
            "DeltaRole", "CreateDeltas", Resource={"Fn::Sub": "${Bucket.Arn}/images/*.vcdiff"}
        ),
        "delta deletes": widen("DeltaRole", "KeepRecords", Action=["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]),
        "redact writes any log": widen("RedactRole", "RedactAccessLogs", Resource={"Fn::Sub": "${LogsBucket.Arn}/*"}),
        "redact reads images": widen("RedactRole", "RedactAccessLogs", Resource=ALL_OBJECTS),
        "redact deletes": widen(
            "RedactRole", "RedactAccessLogs", Action=["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        ),
        "a right lost": widen("PublishRole", "KeepTheCatalog", Action=["s3:PutObject"]),
        "maintain cannot ask publish": widen(
            "MaintainRole", "AskForAnotherLook", Resource={"Fn::GetAtt": ["ArrivalsQueue", "Arn"]}
        ),
        "maintain sends anywhere": widen("MaintainRole", "AskForAnotherLook", Resource="*"),
        "listing all": widen("DigestRole", "ListAndTellMissingFromForbidden", Condition={}),
        "managed policy": attach_managed_policy,
        "a role without a table": add_a_role,
    },
    "only_the_service_that_needs_a_role_takes_it": {
        "anybody takes the role": put(
            "MaintainRole", "AssumeRolePolicyDocument.Statement.0.Principal", to={"AWS": "*"}
        ),
    },
    "queues_outlast_their_functions": {
        "visibility too short": widen_the_timeout,
        "visibility without the window": put(
            "ChangesQueue", "VisibilityTimeout", to={"Fn::FindInMap": ["VisibilityTimeouts", "120", "Arrivals"]}
        ),
        "copies without dead letters": remove("CopiesQueue", "RedrivePolicy"),
        "deltas without dead letters": remove("DeltasQueue", "RedrivePolicy"),
        "logs without dead letters": remove("AccessLogsQueue", "RedrivePolicy"),
        "no dead letters": remove("ChangesQueue", "RedrivePolicy"),
        "dead letters swapped": put(
            "ChangesQueue", "RedrivePolicy.deadLetterTargetArn", to={"Fn::GetAtt": ["ArrivalsDeadLetters", "Arn"]}
        ),
        "queue not encrypted": put("ArrivalsQueue", "SqsManagedSseEnabled", to=False),
    },
    "queues_feed_their_functions": {
        "sources swapped": put(
            "DigestFunction", "Events.Arrivals.Properties.Queue", to={"Fn::GetAtt": ["ChangesQueue", "Arn"]}
        ),
        "whole batches fail": remove("DigestFunction", "Events.Arrivals.Properties.FunctionResponseTypes"),
        "serialised": put("PublishFunction", "Events.Changes.Properties.ScalingConfig.MaximumConcurrency", to=1),
        "large batch without window": put(
            "PublishFunction", "Events.Changes.Properties.MaximumBatchingWindowInSeconds", to=0
        ),
    },
    "defaults_leave_the_api_some_of_a_new_accounts_runs": {
        "copies without bound": remove("CopyFunction", "Events.Copies.Properties.ScalingConfig"),
        "deltas without bound": remove("DeltaFunction", "Events.Deltas.Properties.ScalingConfig"),
        "logs without bound": remove("RedactFunction", "Events.AccessLogs.Properties.ScalingConfig"),
        "digest takes all": lambda t: t["Parameters"]["DigestConcurrency"].update(Default=8),
        "publish without bound": remove("PublishFunction", "Events.Changes.Properties.ScalingConfig"),
        "runs reserved": lambda t: resource(t, "UploadsFunction").update(ReservedConcurrentExecutions=2),
    },
    "functions_are_as_decided": {
        "shared role": put("DigestFunction", "Role", to={"Fn::GetAtt": ["MaintainRole", "Arn"]}),
        "logs for ever": remove("PublishLogs", "RetentionInDays"),
        "variable misspelled": put("PublishFunction", "Environment.Variables", to={"CLIENT": "both"}),
    },
    "only_functions_that_feed_themselves_may_loop": {
        "Lambda stops digest": remove("DigestFunction", "RecursiveLoop"),
        "Lambda stops copy": remove("CopyFunction", "RecursiveLoop"),
        "Lambda stops delta": remove("DeltaFunction", "RecursiveLoop"),
        "Lambda stops redact": remove("RedactFunction", "RecursiveLoop"),
        "Lambda stops publish": remove("PublishFunction", "RecursiveLoop"),
        "a loop of maintain would not be noticed": lambda t: resource(t, "MaintainFunction").update(
            RecursiveLoop="Allow"
        ),
        "publish no longer starts itself": widen(
            "PublishRole",
            "TakeChanges",
            Action=["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"],
        ),
    },
    "handlers_exist": {
        "handler misspelled": put("DigestFunction", "Handler", to="imageserver.handlers.digest.handle"),
        "handler nowhere": put("DigestFunction", "Handler", to="imageserver.handlers.digests.handler"),
    },
    "the_log_of_the_function_is_deleted_after_it": {
        "deleted at the same time": lambda t: t["Resources"]["ViewFunction"]["Metadata"].pop("WaitsFor"),
    },
    "the_bucket_answers_the_edge_alone": {
        "no OAC on the origin": remove("Distribution", "DistributionConfig.Origins.0.OriginAccessControlId"),
        "OAC does not sign": put("OriginAccessControl", "OriginAccessControlConfig.SigningBehavior", to="never"),
    },
    "the_edge_speaks_https_and_only_reads": {
        "plain http to clients": put("Distribution", f"{IMAGE_BEHAVIOUR}.ViewerProtocolPolicy", to="allow-all"),
        "writes through the edge": put(
            "Distribution",
            "DistributionConfig.DefaultCacheBehavior.AllowedMethods",
            to=["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
        ),
        "catalog behind the default": remove("Distribution", "DistributionConfig.CacheBehaviors.0"),
    },
    "only_json_is_compressed": {
        "images compressed": put("Distribution", f"{IMAGE_BEHAVIOUR}.Compress", to=True),
    },
    "lifetimes_are_short_for_the_catalog_and_long_for_images": {
        "catalog for a day": put("CatalogCachePolicy", "CachePolicyConfig.MaxTTL", to=A_DAY_S),
        "images for a minute": put("ImagesCachePolicy", "CachePolicyConfig.DefaultTTL", to=60),
        "MinTTL above DefaultTTL": put("CatalogCachePolicy", "CachePolicyConfig.MinTTL", to=45),
    },
    "errors_carry_no_lifetime": {
        "images for a year, and their errors": lifetime("FilesHeadersPolicy", "public, max-age=31536000, immutable"),
        "the page for a moment, and its errors": lifetime("PageHeadersPolicy", "public, max-age=30"),
        "no lifetime at all": lambda t: resource(t, "FilesHeadersPolicy")["ResponseHeadersPolicyConfig"].update(
            RemoveHeadersConfig={"Items": [{"Header": "cache-control"}]}
        ),
    },
    "errors_stay_errors": {
        "a page for a missing key": serve_a_page_for_errors,
        "errors for an hour": put(
            "Distribution", "DistributionConfig.CustomErrorResponses.1.ErrorCachingMinTTL", to=3600
        ),
    },
    "responses_carry_security_headers": {
        "no HSTS": remove(
            "PageHeadersPolicy", "ResponseHeadersPolicyConfig.SecurityHeadersConfig.StrictTransportSecurity"
        ),
        "scripts from anywhere": put(
            "PageHeadersPolicy",
            "ResponseHeadersPolicyConfig.SecurityHeadersConfig.ContentSecurityPolicy.ContentSecurityPolicy",
            to="default-src *",
        ),
    },
    "access_is_logged": {
        "no access log": remove("Distribution", "DistributionConfig.Logging"),
    },
    "every_route_asks_who_calls": {
        "a route without authorizer": open_a_route,
    },
    "the_api_is_throttled_and_logged": {
        "no throttle": remove("UploadsApi", "DefaultRouteSettings"),
        "signatures logged": log_queries,
        "CORS": lambda t: resource(t, "UploadsApi").update(CorsConfiguration={"AllowOrigins": ["*"]}),
    },
    "functions_run_on_schedule": {
        "nobody compares": remove("MirrorFunction", "Events.Compare"),
        "no reconcile": remove("MaintainFunction", "Events.Reconcile"),
        "a dry schedule": put(
            "MaintainFunction", "Events.Prune.Properties.Input", to='{"task": "prune", "dry_run": true}'
        ),
    },
    "a_deployment_ends_with_a_sweep": {
        "nobody lays out the catalog": remove("MaintainFunction", "Events.Deployed"),
        "after an update nothing": put(
            "MaintainFunction",
            "Events.Deployed.Properties.Pattern.detail.status-details.status",
            to=["CREATE_COMPLETE"],
        ),
        "any stack's deployment": remove("MaintainFunction", "Events.Deployed.Properties.Pattern.detail.stack-id"),
        "only a plan": put(
            "MaintainFunction", "Events.Deployed.Properties.Input", to='{"task": "reconcile", "dry_run": true}'
        ),
    },
    "functions_run_for_their_own_sources_alone": {
        "any API": remove("UploadsApiPermission", "SourceArn"),
        "anybody's Lambda": put("UploadsApiPermission", "Principal", to="*"),
    },
    "alarms_notify_somebody": {
        "alarm without ear": put("ChangesAgeAlarm", "AlarmActions", to=[]),
        "a gap hides the rest": put(
            "ThrottlesAlarm", "Metrics.0.Expression", to="digest + publish + uploads + maintain"
        ),
        "late values keep the alarm quiet": remove("ThrottlesAlarm", "DatapointsToAlarm"),
        "dead letters unwatched": lambda t: t["Resources"].pop("ChangesDeadLettersAlarm"),
    },
    "the_dashboard_shows_every_metric": {
        "metric renamed": on_the_dashboard("Refusals", "Refused"),
    },
    "each_stack_measures_itself": {
        "functions of all stacks count as one": lambda t: t["Globals"]["Function"]["Environment"]["Variables"].update(
            POWERTOOLS_SERVICE_NAME="simplestreams"
        ),
        "the dashboard shows another stack": on_the_dashboard('"service", "${AWS::StackName}"', '"service", "other"'),
        "the dashboard searches all stacks": on_the_dashboard('service=\\"${AWS::StackName}\\" ', ""),
    },
    "two_stacks_fit_into_an_account": {
        "schedule with a name of SAM's": lambda t: resource(t, "MaintainFunction")["Events"]["Reconcile"][
            "Properties"
        ].pop("OmitName"),
        "cache policy with a plain name": put("CatalogCachePolicy", "CachePolicyConfig.Name", to="catalog"),
    },
    "limits_are_those_of_aws": {
        "more than the edge serves": lambda t: t["Parameters"]["MaxUploadBytes"].update(MaxValue=67_500_000_000),
        "metrics dropped": lambda t: t["Parameters"]["LogLevel"]["AllowedValues"].append("ERROR"),
    },
    "parameters_explain_and_bound_themselves": {
        "parameter takes anything": lambda t: t["Parameters"]["DomainName"].pop("AllowedPattern"),
        "list takes anything": lambda t: t["Parameters"].update(
            GeoLocations={"Type": "CommaDelimitedList", "Default": "", "Description": "Country codes."}
        ),
    },
    "rules_use_only_functions_that_cloudformation_takes_there": {
        "Join in an assertion": assert_instead(
            {"Fn::Not": [{"Fn::Equals": [{"Fn::Join": ["", {"Ref": "GeoLocations"}]}, ""]}]}
        ),
        "If, which is documented there": assert_instead({"Fn::If": ["HasDomain", True, False]}),
        "Sub deep below functions that are taken": assert_instead(
            {"Fn::And": [{"Fn::Or": [{"Fn::Equals": [{"Fn::Sub": "${DomainName}"}, ""]}]}, {"Fn::Not": [True]}]}
        ),
        "a condition by its name": assert_instead({"Fn::Not": [{"Condition": "HasDomain"}]}),
        "FindInMap in a rule's condition": lambda t: t["Rules"]["IssuerNeedsAudience"].update(
            RuleCondition={"Fn::Equals": [{"Fn::FindInMap": ["VisibilityTimeouts", "5", "Arrivals"]}, "32"]}
        ),
        "Ref to a resource": assert_instead({"Fn::Equals": [{"Ref": "Bucket"}, ""]}),
        "Ref to a pseudo parameter": assert_instead({"Fn::Equals": [{"Ref": "AWS::Region"}, "us-east-1"]}),
        "ValueOf a resource": assert_instead({"Fn::Equals": [{"Fn::ValueOf": ["Bucket", "Name"]}, ""]}),
        "no function at all": assert_instead(True),
        "a second assertion": lambda t: t["Rules"]["ZoneNeedsDomain"]["Assertions"].append(
            {"Assert": {"Fn::Select": [0, [True]]}}
        ),
        "a misspelled condition": lambda t: t["Rules"]["ZoneNeedsDomain"].update(Condition={"Fn::Equals": ["", ""]}),
    },
    "outputs_say_where_everything_is": {
        "no remote line": lambda t: t["Outputs"].pop("RemoteAdd"),
    },
}


@pytest.mark.parametrize(("rule", "mutation"), [(rule, name) for rule, table in MUTATIONS.items() for name in table])
def test_each_mutation_of_the_template_breaks_its_rule(rule: str, mutation: str) -> None:
    document = stack.template()
    MUTATIONS[rule][mutation](document)
    variants = (EVERYTHING, VARIANTS["with deltas"])
    assert any(list(RULES[rule](stack.deployed(document, **variant))) for variant in variants)


def test_a_route_without_authorizer_is_noticed_with_tokens_too() -> None:
    document = stack.template()
    open_a_route(document)
    broken = stack.deployed(document, JwtIssuer="https://token.example.org", JwtAudience="images")
    assert list(rules.every_route_asks_who_calls(broken)) != []


def test_an_old_protocol_on_a_custom_domain_is_noticed() -> None:
    document = stack.template()
    edge(document)["ViewerCertificate"]["Fn::If"][1]["MinimumProtocolVersion"] = "TLSv1.1_2016"
    broken = stack.deployed(document, DomainName="images.example.org", CertificateArn=CERTIFICATE)
    assert list(rules.the_edge_speaks_https_and_only_reads(broken)) != []


def test_every_rule_has_a_mutation() -> None:
    assert RULES.keys() == MUTATIONS.keys()
