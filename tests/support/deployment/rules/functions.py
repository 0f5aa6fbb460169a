"""The functions: their settings, their handlers, and what starts maintain."""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Final

from gates.stack import IDENTITY, INFRA, REGION, Stack, bucket_name
from local_stack.template import ACCOUNT_ID
from tests.support.deployment.grants import KEYS, LOG, role_statements
from tests.support.deployment.policy import Decision, Request, decide
from tests.support.deployment.rules.registry import differ, rule, stack_arn

FUNCTIONS: Final = ("Digest", "Publish", "Uploads", "Maintain")
COMMON: Final = frozenset({"BUCKET", "POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_LOG_LEVEL"})
ENVIRONMENT: Final[Mapping[str, frozenset[str]]] = {
    "Digest": COMMON | {"MAX_UPLOAD_BYTES", "MAX_FILES", "MAX_VERSIONS", "QUEUE_URL"},
    "Publish": COMMON | {"DELTAS_QUEUE_URL", "CLIENTS", "DISTRIBUTION_ID", "PUBLISHERS", "QUEUE_URL"},
    "Uploads": COMMON
    | {"ALLOW_OVERWRITES", "ALLOW_DELETES", "PUBLISHERS", "MAX_UPLOAD_BYTES", "GRACE_HOURS"}
    | {"MAX_FILES", "MAX_VERSIONS", "MAX_PRODUCTS", "MAX_STORED_BYTES", "MAX_REQUESTS"},
    "Maintain": COMMON
    | {
        "ARRIVALS_QUEUE_URL",
        "CHANGES_QUEUE_URL",
        "CLIENTS",
        "DISTRIBUTION_ID",
        "PUBLISHERS",
        "RETAIN_VERSIONS",
        "RETAIN_DAYS",
        "GRACE_HOURS",
        "STALE_DAYS",
        "BASE_URL",
        "REFUSED_DAYS",
        "DELTAS",
        "DELTAS_QUEUE_URL",
    },
    "Mirror": COMMON | {"BASE_URL", "COPIES_QUEUE_URL", "GRACE_HOURS", "MAX_UPLOAD_BYTES"},
    "Copy": COMMON | {"BASE_URL", "QUEUE_URL", "MAX_UPLOAD_BYTES"},
    "Delta": COMMON | {"DELTAS", "QUEUE_URL"},
    "Redact": COMMON | {"LOGS_BUCKET", "QUEUE_URL"},
}


def follows(stack: Stack) -> bool:
    """Return whether the stack has mirrors: only then does it have their resources."""
    return "MirrorFunction" in stack.resources


def makes_deltas(stack: Stack) -> bool:
    """Return whether the stack makes deltas: only then does it have their resources."""
    return "DeltaFunction" in stack.resources


def has_views(stack: Stack) -> bool:
    """Return whether the stack has views: only then does it have their resources."""
    return "ViewFunction" in stack.resources


def keeps_fetched(stack: Stack) -> bool:
    """Return whether retention reads the access logs: only then may maintain read them."""
    return "KEEP_FETCHED_WITHIN_DAYS" in stack.properties("MaintainFunction")["Environment"]["Variables"]


def functions_of(stack: Stack) -> tuple[str, ...]:
    """Return the functions that the stack must have."""
    following = ("Mirror", "Copy") if follows(stack) else ()
    deltas = ("Delta",) if makes_deltas(stack) else ()
    return (*FUNCTIONS, *following, *deltas, *(("Redact",) if has_views(stack) else ()))


def environment_of(stack: Stack, name: str) -> frozenset[str]:
    """Return the variables of a function. Some include whether there are views, and maintain's where the logs are."""
    views = {
        "Publish": {"VIEWS"},
        "Maintain": {"VIEWS"},
        "Mirror": {"VIEWS"},
        "Uploads": {"VIEWS", "CHANGES_QUEUE_URL"},
    }
    asks = name == "Maintain" and keeps_fetched(stack)
    return (
        ENVIRONMENT[name]
        | (views.get(name, set()) if has_views(stack) else set())
        | ({"KEEP_FETCHED_WITHIN_DAYS", "LOGS_BUCKET"} if asks else set())
    )


@rule
def functions_are_as_decided(stack: Stack) -> Iterator[str]:
    functions = stack.of_type("AWS::Lambda::Function")
    yield from differ("functions", functions.keys(), {f"{name}Function" for name in functions_of(stack)})
    for name in functions_of(stack):
        function = functions.get(f"{name}Function", {})
        for what, found, expected in (
            ("runtime", function.get("Runtime"), "python3.13"),
            ("architecture", function.get("Architectures"), ["arm64"]),
            ("tracing", function.get("TracingConfig"), {"Mode": "Active"}),
            ("log format", function.get("LoggingConfig", {}).get("LogFormat"), "JSON"),
            ("log group", function.get("LoggingConfig", {}).get("LogGroup"), f"images-{name}Logs"),
            ("role", function.get("Role"), f"arn:aws:iam::{ACCOUNT_ID}:role/images-{name}Role"),
            ("environment", function.get("Environment", {}).get("Variables", {}).keys(), environment_of(stack, name)),
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


@rule
def only_functions_that_feed_themselves_may_loop(stack: Stack) -> Iterator[str]:
    """Lambda stops a function after about 16 runs in one chain of events, unless the function says Allow."""
    starts = {f"{name}Function": _starts(stack, f"{name}Role") for name in functions_of(stack)}
    for name, started in starts.items():
        reached = set(started)
        while more := {other for between in reached for other in starts[between]} - reached:
            reached |= more
        allowed = stack.properties(name).get("RecursiveLoop") == "Allow"
        if name in reached and not allowed:
            yield f"{name} causes events that start it again: without RecursiveLoop: Allow Lambda stops the chain"
        if allowed and name not in reached:
            yield f"{name} never starts itself: RecursiveLoop: Allow would only hide a loop made by mistake"


def notifications(stack: Stack) -> Iterator[tuple[str, str, str, str]]:
    """Yield each notification: logical id of the bucket, prefix of keys, event, ARN of the queue."""
    for bucket, properties in stack.of_type("AWS::S3::Bucket").items():
        for entry in properties.get("NotificationConfiguration", {}).get("QueueConfigurations", []):
            for filter_rule in entry["Filter"]["S3Key"]["Rules"]:
                yield bucket, filter_rule["Value"], entry["Event"], entry["Queue"]


def _starts(stack: Stack, role: str) -> set[str]:
    """Return the functions that this role can start: by a message to their queue, or by a key with an event to it."""
    mappings = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    causes = [(m["EventSourceArn"], Request("sqs:SendMessage", m["EventSourceArn"])) for m in mappings]
    for bucket, prefix, event, queue in notifications(stack):
        action = "s3:PutObject" if "Created" in event else "s3:DeleteObject"
        name = bucket_name(bucket)
        keys = [f"arn:aws:s3:::{name}/{key}" for key in (*KEYS.values(), LOG) if key.startswith(prefix)]
        causes += [(queue, Request(action, key)) for key in keys]
    statements = role_statements(stack, role)
    queues = {queue for queue, request in causes if decide(statements, request) is Decision.ALLOWED}
    return {m["FunctionName"].removeprefix("images-") for m in mappings if m["EventSourceArn"] in queues}


@rule
def functions_run_on_schedule(stack: Stack) -> Iterator[str]:
    runs = {"reconcile": "MaintainFunction", "prune": "MaintainFunction"}
    runs |= {"mirror": "MirrorFunction"} if follows(stack) else {}
    schedules = stack.of_type("AWS::Scheduler::Schedule").values()
    tasks = {
        json.loads(s["Target"]["Input"])["task"]: s["Target"]["Arn"]
        for s in schedules
        if s.get("State", "ENABLED") == "ENABLED"
    }
    expected = {task: stack_arn("lambda", function, "function:") for task, function in runs.items()}
    yield from differ("scheduled tasks", tasks, expected)
    for schedule in schedules:
        target = schedule["Target"]
        yield from differ("schedule is real", json.loads(target["Input"]).get("dry_run"), False)
        letters = target.get("DeadLetterConfig", {}).get("Arn")
        yield from differ("schedule dead letters", letters, stack_arn("sqs", "MaintainDeadLetters"))


@rule
def a_deployment_ends_with_a_sweep(stack: Stack) -> Iterator[str]:
    rules = stack.of_type("AWS::Events::Rule")
    yield from differ("rules of EventBridge", rules.keys(), {"MaintainFunctionDeployed"})
    for found in rules.values():
        pattern = found["EventPattern"]
        kinds = (pattern.get("source"), pattern.get("detail-type"))
        yield from differ("the event", kinds, (["aws.cloudformation"], ["CloudFormation Stack Status Change"]))
        detail = pattern.get("detail", {})
        yield from differ("whose deployment", detail.get("stack-id"), [IDENTITY.pseudo()["AWS::StackId"]])
        statuses = set(detail.get("status-details", {}).get("status", []))
        yield from differ("the ends", statuses, {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"})
        for target in found["Targets"]:
            yield from differ("it runs", target["Arn"], stack_arn("lambda", "MaintainFunction", "function:"))
            yield from differ("its task", json.loads(target["Input"]), {"task": "reconcile", "dry_run": False})


@rule
def functions_run_for_their_own_sources_alone(stack: Stack) -> Iterator[str]:
    sources = {
        "UploadsFunction": (
            "apigateway.amazonaws.com",
            f"arn:aws:execute-api:{REGION}:{ACCOUNT_ID}:images-UploadsApi/*",
        ),
        "MaintainFunction": ("events.amazonaws.com", stack_arn("events", "MaintainFunctionDeployed", "rule/")),
    }
    found = {
        p["FunctionName"].removeprefix("images-"): (p["Principal"], p.get("SourceArn"))
        for p in stack.of_type("AWS::Lambda::Permission").values()
    }
    yield from differ("who may invoke functions", found, sources)
