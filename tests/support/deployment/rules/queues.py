"""The way from bucket to function: notifications, queues, and the mappings that feed functions from them."""

from collections.abc import Iterator
from typing import Final

from gates.stack import Stack
from tests.support.deployment.policy import listed
from tests.support.deployment.rules.functions import follows, has_views, makes_deltas, notifications
from tests.support.deployment.rules.registry import differ, rule, stack_arn


@rule
def notifications_reach_their_queues(stack: Stack) -> Iterator[str]:
    expected = {
        ("Bucket", prefix, event, stack_arn("sqs", queue))
        for prefix, queue in (("images", "ArrivalsQueue"), ("versions/", "ChangesQueue"))
        for event in ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
    }
    if has_views(stack):
        expected |= {("LogsBucket", "edge/", "s3:ObjectCreated:*", stack_arn("sqs", "AccessLogsQueue"))}
    yield from differ("notifications", set(notifications(stack)), expected)


@rule
def queues_admit_the_bucket_before_it_is_made(stack: Stack) -> Iterator[str]:
    waits = stack.raw["Resources"]["Bucket"].get("DependsOn", [])
    for policy in ("ArrivalsQueuePolicy", "ChangesQueuePolicy"):
        if policy not in listed(waits):
            yield f"Bucket must depend on {policy}, or setting its notifications fails"
    waits = stack.raw["Resources"]["LogsBucket"].get("Metadata", {}).get("WaitsFor", {})
    if {"Ref": "AccessLogsQueuePolicy"} not in waits.get("Fn::If", []):
        yield "LogsBucket must refer to AccessLogsQueuePolicy, or setting its notifications fails"


def fed(stack: Stack) -> list[tuple[str, str]]:
    """Return each queue and the function that it feeds."""
    always = [("ArrivalsQueue", "DigestFunction"), ("ChangesQueue", "PublishFunction")]
    copies = [("CopiesQueue", "CopyFunction")] if follows(stack) else []
    deltas = [("DeltasQueue", "DeltaFunction")] if makes_deltas(stack) else []
    return [*always, *copies, *deltas, *([("AccessLogsQueue", "RedactFunction")] if has_views(stack) else [])]


@rule
def queues_outlast_their_functions(stack: Stack) -> Iterator[str]:
    windows = {
        mapping["EventSourceArn"]: int(mapping.get("MaximumBatchingWindowInSeconds", 0))
        for mapping in stack.of_type("AWS::Lambda::EventSourceMapping").values()
    }
    for queue, function in fed(stack):
        letters = f"{queue.removesuffix('Queue')}DeadLetters"
        properties, timeout = stack.properties(queue), int(stack.properties(function)["Timeout"])
        window, visibility = windows.get(stack_arn("sqs", queue), 0), int(properties["VisibilityTimeout"])
        if visibility < 6 * timeout + window:
            yield f"{queue}: visibility {visibility} s, less than 6 x {function}'s {timeout} s + {window} s"
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
    expected = {(stack_arn("sqs", queue), f"images-{function}") for queue, function in fed(stack)}
    yield from differ("queue → function", found, expected)
    for mapping in mappings:
        name = mapping["FunctionName"]
        yield from differ(
            f"{name} answers for each message", mapping.get("FunctionResponseTypes"), ["ReportBatchItemFailures"]
        )
        if int(mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0)) < 2:
            yield f"{name}: MaximumConcurrency must be given, and 2 is the least that AWS takes"
        if int(mapping["BatchSize"]) > 10 and int(mapping.get("MaximumBatchingWindowInSeconds", 0)) < 1:
            yield f"{name}: a batch of more than ten needs a window"


NEW_ACCOUNT_RUNS: Final = 10
"""How many function runs a new account may have at once, in total, until AWS raises the limit on request."""
RUNS_LEFT: Final = 4
"""The share of functions without their own limit: the upload API, and maintain, which takes one or two."""


@rule
def defaults_leave_the_api_some_of_a_new_accounts_runs(stack: Stack) -> Iterator[str]:
    parameters = stack.raw["Parameters"].items()
    defaults = {name: int(body["Default"]) for name, body in parameters if name.endswith("Concurrency")}
    copies = defaults.pop("CopyConcurrency")  # a new account that follows others lowers one of them: its README says so
    if sum(defaults.values()) > NEW_ACCOUNT_RUNS - RUNS_LEFT:
        yield f"{defaults} leave less than {RUNS_LEFT} of a new account's {NEW_ACCOUNT_RUNS} runs to the upload API"
    mappings = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    bounds = sorted(int(mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0)) for mapping in mappings)
    least = [2] * (makes_deltas(stack) + has_views(stack))  # these can wait: the least that AWS takes, no parameter
    expected = sorted([*defaults.values(), *([copies] if follows(stack) else []), *least])
    yield from differ("the bounds of the event source mappings", bounds, expected)
    for name, function in stack.of_type("AWS::Lambda::Function").items():
        if "ReservedConcurrentExecutions" in function:
            yield f"{name} reserves runs, which fails to deploy in a new account"
