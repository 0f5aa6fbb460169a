"""Who may do what: the policies of buckets and queues, and the roles."""

from collections.abc import Iterator
from itertools import product
from typing import Final

from gates.stack import Stack
from imageserver.storage.s3 import LISTED_TAG
from local_stack.template import ACCOUNT_ID
from tests.support.deployment import grants
from tests.support.deployment.policy import Decision, Request, decide, listed
from tests.support.deployment.rules.functions import has_views
from tests.support.deployment.rules.registry import differ, rule, stack_arn

LISTED: Final = {f"s3:ExistingObjectTag/{name}": value for name, value in LISTED_TAG.items()}
"""The tag of a listed upload."""


def edge_context(distribution: str = "images-Distribution") -> dict[str, str]:
    arn = f"arn:aws:cloudfront::{ACCOUNT_ID}:distribution/{distribution}"
    return {"aws:SourceArn": arn, "aws:SourceAccount": ACCOUNT_ID, "aws:SecureTransport": "true"}


@rule
def the_edge_reads_only_what_is_served(stack: Stack) -> Iterator[str]:
    statements = grants.resource_statements(
        stack, "AWS::S3::BucketPolicy", "Bucket", stack.properties("Bucket")["BucketName"]
    )
    edge = "cloudfront.amazonaws.com"
    keys = grants.things(stack)["key"]
    for tags in ({}, LISTED, {"s3:ExistingObjectTag/listed": "false"}):
        served = grants.served(stack) if tags == LISTED else grants.served(stack) - set(grants.IMAGES)
        for action, name in product(grants.ACTIONS["key"], grants.KEYS):
            expected = Decision.ALLOWED if action == "s3:GetObject" and name in served else Decision.NOT_GRANTED
            found = decide(statements, Request(action, keys[name], edge, edge_context() | tags))
            yield from differ(f"the edge: {action} on {name} with {tags or 'no tags'}", found, expected)
    for name, context in product(("images/", "streams/"), ({}, LISTED)):
        for who, request in {
            "another distribution": Request("s3:GetObject", keys[name], edge, edge_context("somebody") | context),
            "another service": Request("s3:GetObject", keys[name], "s3.amazonaws.com", edge_context() | context),
            "anybody": Request("s3:GetObject", keys[name], "*", {"aws:SecureTransport": "true"} | context),
        }.items():
            found = decide(statements, request)
            yield from differ(f"{who}: s3:GetObject on {name}", found, Decision.NOT_GRANTED)


@rule
def a_missing_key_is_404(stack: Stack) -> Iterator[str]:
    bucket = stack.properties("Bucket")["BucketName"]
    statements = grants.resource_statements(stack, "AWS::S3::BucketPolicy", "Bucket", bucket)
    request = Request("s3:ListBucket", f"arn:aws:s3:::{bucket}", "cloudfront.amazonaws.com", edge_context())
    if decide(statements, request) is not Decision.ALLOWED:
        yield "the edge lacks s3:ListBucket: a missing key would be 403"


@rule
def nothing_travels_in_clear_text(stack: Stack) -> Iterator[str]:
    clear = edge_context() | {"aws:SecureTransport": "false"}
    for name, bucket in (("Bucket", stack.properties("Bucket")["BucketName"]), ("LogsBucket", "images-logsbucket")):
        statements = grants.resource_statements(stack, "AWS::S3::BucketPolicy", "Bucket", bucket)
        for resource in (f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/images/x"):
            found = decide(statements, Request("s3:GetObject", resource, "cloudfront.amazonaws.com", clear))
            yield from differ(f"{name} without TLS", found, Decision.DENIED)
    for queue in ("ArrivalsQueue", "ChangesQueue", *(["AccessLogsQueue"] if has_views(stack) else [])):
        statements = grants.resource_statements(stack, "AWS::SQS::QueuePolicy", "Queues", f"images-{queue}")
        found = decide(statements, Request("sqs:SendMessage", stack_arn("sqs", queue), "s3.amazonaws.com", clear))
        yield from differ(f"{queue} without TLS", found, Decision.DENIED)


@rule
def logs_arrive_from_their_services_alone(stack: Stack) -> Iterator[str]:
    bucket = "arn:aws:s3:::images-logsbucket"
    statements = grants.resource_statements(stack, "AWS::S3::BucketPolicy", "Bucket", "images-logsbucket")
    delivery, secure = "delivery.logs.amazonaws.com", {"aws:SecureTransport": "true"}
    own = secure | {
        "aws:SourceArn": f"arn:aws:logs:us-east-1:{ACCOUNT_ID}:delivery-source:images-edge",
        "aws:SourceAccount": ACCOUNT_ID,
        "s3:x-amz-acl": "bucket-owner-full-control",
    }
    for who, action, key, principal, context, expected in (
        ("the edge's logs of version 2", "s3:PutObject", "edge/x.gz", delivery, own, Decision.ALLOWED),
        ("they elsewhere", "s3:PutObject", "bucket/x", delivery, own, Decision.NOT_GRANTED),
        ("they, reading", "s3:GetObject", "edge/x.gz", delivery, own, Decision.NOT_GRANTED),
        (
            "those of another account", "s3:PutObject", "edge/x.gz", delivery, own | {"aws:SourceAccount": "1"},
            Decision.NOT_GRANTED,
        ),
        ("anybody", "s3:PutObject", "edge/x.gz", "*", secure, Decision.NOT_GRANTED),
    ):  # fmt: skip
        found = decide(statements, Request(action, f"{bucket}/{key}", principal, context))
        yield from differ(f"{who}: {action} on {key} of the logs", found, expected)


@rule
def queues_take_messages_of_their_bucket_alone(stack: Stack) -> Iterator[str]:
    own = {"aws:SourceArn": f"arn:aws:s3:::{stack.properties('Bucket')['BucketName']}", "aws:SourceAccount": ACCOUNT_ID}
    own["aws:SecureTransport"] = "true"
    cases = [
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
    ]
    # The bucket of logs has a name of CloudFormation's, which its queue cannot name before it is made.
    in_account = [case for case in cases if case[0] != "another bucket"]
    tried = [("ArrivalsQueue", cases), ("ChangesQueue", cases)]
    tried += [("AccessLogsQueue", in_account)] if has_views(stack) else []
    for queue, some in tried:
        statements = grants.resource_statements(stack, "AWS::SQS::QueuePolicy", "Queues", f"images-{queue}")
        for who, action, principal, context, expected in some:
            found = decide(statements, Request(action, stack_arn("sqs", queue), principal, context))
            yield from differ(f"{queue}, {who}: {action}", found, expected)


@rule
def no_role_is_wider_than_its_table(stack: Stack) -> Iterator[str]:
    yield from differ("roles", stack.of_type("AWS::IAM::Role").keys(), grants.grants_of(stack).keys())
    known = {action for actions in grants.ACTIONS.values() for action in actions}
    for role, expected in grants.grants_of(stack).items():
        statements = grants.role_statements(stack, role)
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
