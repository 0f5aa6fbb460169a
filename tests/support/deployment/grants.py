"""Who may do what: the whole table, and every call that it is checked against.

Each role's row lists the only calls it may make. `calls()` tries every relevant action on every kind of
resource. So it finds rights that are missing from the table as well as rights that were lost.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Final

from gates.stack import REGION, Stack
from local_stack.template import ACCOUNT_ID
from tests.support.deployment.policy import Decision, Request, Statement, decide

Call = tuple[str, str]
"""An action and the short name of what it is done to: ("s3:GetObject", "images/")."""

# Short name → key, one for each kind of key that is treated alike.
KEYS: Final = {
    "images/": "images/ubuntu/noble/amd64/default/20261123_1000/rootfs.squashfs",
    "images-*/": "images-daily/ubuntu/noble/amd64/default/20261123_1000/disk.qcow2",
    "imagesX": "images.txt",
    "streams/": "streams/v1/images.json",
    "streams/v1/index.json": "streams/v1/index.json",
    "versions/": "versions/images/ubuntu/noble/amd64/default/20261123_1000.json",
    "leases/": "leases/images/ubuntu/noble/amd64/default/20261123_1000.json",
    "leases/streams/": "leases/streams/images.json",
    "leases/mirrors/": "leases/mirrors/images/ubuntu/noble/amd64/default/20261123_1000/rootfs.squashfs.json",
    "leases/waits/": "leases/waits/0123456789abcdef-0.json",
    "leases/requests/": "leases/requests/0123456789abcdef.json",
    "maintain/": "maintain/cursor.json",
    "mirrors/": "mirrors/ubuntu.state.json",
    "mirrors/copies/": "mirrors/copies/images/ubuntu/noble/amd64/default/20261123_1000/rootfs.squashfs.json",
    "mirrors/refused": "mirrors/ubuntu.refused.json",
    "mirrors/mirrors.json": "mirrors/mirrors.json",
    "streams/mirrors.json": "streams/mirrors.json",
    "a delta": "images/ubuntu/noble/amd64/default/20261123_1000/rootfs.20261122_1000.vcdiff",
    "a delta of a disk": "images/ubuntu/noble/amd64/default/20261123_1000/disk.20261122_1000.qcow2.vcdiff",
    "metadata.json": "images/ubuntu/noble/amd64/default/20261123_1000/metadata.json",
    "private/views/": "private/views/staging.json",
    "private/checks/": "private/checks/images/ubuntu/noble/amd64/default/20261123_1000.json",
    "views/*/streams/": "views/staging/streams/v1/images.json",
    "index.html": "index.html",
    "api.html": "api.html",
    "openapi.json": "openapi.json",
    "another key": "notes.txt",
}
LOG: Final = "edge/x.gz"
"""A key in the bucket of logs."""
SERVED: Final = frozenset(
    {
        "images/",
        "images-*/",
        "metadata.json",
        "a delta",
        "a delta of a disk",
        "streams/",
        "streams/v1/index.json",
        "streams/mirrors.json",
        "index.html",
        "api.html",
        "openapi.json",
    }
)

ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "key": (
        *("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:GetObjectVersion", "s3:DeleteObjectVersion"),
        *("s3:PutObjectAcl", "s3:RestoreObject", "s3:ReplicateObject"),
        *("s3:GetObjectTagging", "s3:PutObjectTagging", "s3:PutObjectVersionTagging", "s3:DeleteObjectTagging"),
        *("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
    ),
    "bucket": (
        *("s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads", "s3:DeleteBucket"),
        *("s3:PutBucketPolicy", "s3:PutBucketNotification", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration"),
    ),
    "queue": (
        *("sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
        *("sqs:ChangeMessageVisibility", "sqs:PurgeQueue", "sqs:SetQueueAttributes", "sqs:StartMessageMoveTask"),
    ),
    "distribution": (
        *("cloudfront:CreateInvalidation", "cloudfront:GetInvalidation", "cloudfront:ListInvalidations"),
        *("cloudfront:UpdateDistribution", "cloudfront:DeleteDistribution"),
    ),
    "function": ("lambda:InvokeFunction", "lambda:UpdateFunctionCode", "lambda:GetFunction"),
    "log": ("logs:CreateLogStream", "logs:PutLogEvents", "logs:GetLogEvents", "logs:DeleteLogGroup"),
    "topic": ("sns:Publish",),
    "role": ("iam:PassRole", "iam:PutRolePolicy", "sts:AssumeRole"),
    "trace": ("xray:PutTraceSegments", "xray:PutTelemetryRecords", "xray:GetTraceSummaries"),
}

TAKE: Final = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility")
TRACE: Final = {("xray:PutTraceSegments", "*"), ("xray:PutTelemetryRecords", "*")}
COUNTS: Final = ("leases/waits/", "leases/requests/")
FOLDERS: Final = ("images/", "images-*/")
IMAGES: Final = (*FOLDERS, "metadata.json", "a delta", "a delta of a disk")
COPYING: Final = ("leases/mirrors/", "mirrors/copies/")
MIRRORS: Final = ("mirrors/", "mirrors/copies/", "mirrors/refused", "mirrors/mirrors.json")
STREAMS: Final = ("streams/", "streams/v1/index.json", "streams/mirrors.json")
PREFIXES: Final = (
    *(*FOLDERS, "streams/", "versions/", "leases/", "leases/streams/", "leases/mirrors/", *COUNTS),
    *("maintain/", "mirrors/", "mirrors/copies/", "private/views/", "private/checks/", "views/*/streams/"),
)
PAGE: Final = ("streams/v1/index.json", "index.html", "api.html", "openapi.json")


def _may(actions: Iterable[str], things: Iterable[str]) -> set[Call]:
    return set(product(actions, things))


def _log(function: str) -> set[Call]:
    return _may(("logs:CreateLogStream", "logs:PutLogEvents"), (f"{function}Logs",))


# A listing of "images/" stands for one with that prefix, of "missing" for the right to a 404.
GRANTS: Final[Mapping[str, set[Call]]] = {
    "DigestRole": (
        _may(["s3:GetObject"], [*IMAGES, "versions/", "leases/"])
        | _may(["s3:PutObject"], ["versions/", "leases/"])
        | _may(["s3:DeleteObject"], ["leases/"])
        | _may(["s3:ListBucket"], ["missing", *FOLDERS, "versions/", "leases/"])
        | _may(["s3:ListBucketVersions"], FOLDERS)
        | _may([*TAKE, "sqs:SendMessage"], ["ArrivalsQueue"])
        | _log("Digest")
        | TRACE
    ),
    "PublishRole": (
        _may(["s3:GetObject"], ["versions/", *STREAMS, "leases/streams/"])
        | _may(["s3:PutObject"], [*STREAMS, "leases/streams/"])
        | _may(["s3:PutObjectVersionTagging"], IMAGES)
        | _may(["s3:DeleteObject"], ["leases/streams/"])
        | _may(["s3:ListBucket"], ["missing", "versions/", "streams/", "leases/streams/"])
        | _may([*TAKE, "sqs:SendMessage"], ["ChangesQueue"])
        | _may(["cloudfront:CreateInvalidation", "cloudfront:GetInvalidation"], ["Distribution"])
        | _log("Publish")
        | TRACE
    ),
    "UploadsRole": (
        _may(["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"], IMAGES)
        | _may(["s3:GetObject"], [*IMAGES, "versions/", *STREAMS, *COUNTS])
        | _may(["s3:PutObject"], ["versions/", *COUNTS])
        | _may(["s3:DeleteObject"], ["leases/waits/"])
        | _may(["s3:ListBucket"], ["missing", *FOLDERS, "versions/", "streams/", *COUNTS])
        | _may(["s3:ListBucketVersions"], FOLDERS)
        | _log("Uploads")
        | TRACE
    ),
    "MaintainRole": (
        _may(["s3:DeleteObject"], [*IMAGES, "versions/", "maintain/"])
        | _may(["s3:GetObject"], [*IMAGES, "versions/", "maintain/", *STREAMS, *PAGE])
        | _may(["s3:PutObject"], [*IMAGES, "versions/", "maintain/", *PAGE])
        | _may(["s3:ListBucket"], ["missing", *PREFIXES, "everything"])
        | _may(["s3:ListBucketVersions"], ["Bucket", *PREFIXES])
        | _may(["s3:GetObjectVersion"], [*IMAGES, "versions/"])
        | _may(["s3:GetObjectTagging"], IMAGES)
        | _may(["sqs:SendMessage"], ["ArrivalsQueue", "ChangesQueue", "MaintainDeadLetters"])
        | _may(["cloudfront:CreateInvalidation"], ["Distribution"])
        | _log("Maintain")
        | TRACE
    ),
    "ScheduleRole": _may(["lambda:InvokeFunction"], ["MaintainFunction"])
    | _may(["sqs:SendMessage"], ["MaintainDeadLetters"]),
}

FOLLOWING: Final[Mapping[str, set[Call]]] = {
    "MirrorRole": (
        _may(["s3:GetObject"], ["versions/", *STREAMS, *MIRRORS])
        | _may(["s3:PutObject"], ["metadata.json", "versions/", "streams/mirrors.json", *MIRRORS])
        | _may(["s3:ListBucket"], ["missing", *FOLDERS, "streams/", "versions/", "mirrors/", "mirrors/copies/"])
        | _may(["s3:ListBucketVersions"], FOLDERS)
        | _may(["sqs:SendMessage"], ["CopiesQueue"])
        | _log("Mirror")
        | TRACE
    ),
    "CopyRole": (
        _may(["s3:PutObject", "s3:AbortMultipartUpload"], IMAGES)
        | _may(["s3:GetObject"], ["mirrors/mirrors.json", "mirrors/refused", *COPYING])
        | _may(["s3:PutObject"], ["mirrors/refused", *COPYING])
        | _may(["s3:DeleteObject"], COPYING)
        | _may(["s3:ListBucket"], ["missing", *FOLDERS, "mirrors/", *COPYING])
        | _may(["s3:ListBucketVersions"], FOLDERS)
        | _may([*TAKE, "sqs:SendMessage"], ["CopiesQueue"])
        | _log("Copy")
        | TRACE
    ),
    "ScheduleRole": GRANTS["ScheduleRole"] | _may(["lambda:InvokeFunction"], ["MirrorFunction"]),
}
"""More grants of a stack with mirrors."""


VIEWING: Final[Mapping[str, set[Call]]] = {
    "PublishRole": _may(["s3:GetObject"], ["private/views/", "views/*/streams/"])
    | _may(["s3:PutObject"], ["views/*/streams/"])
    | _may(["s3:ListBucket"], ["private/views/", "views/*/streams/"]),
    "MaintainRole": _may(["s3:GetObject"], ["private/views/", "views/*/streams/", "private/checks/"])
    | _may(["s3:PutObject"], ["private/views/"])
    | _may(["s3:DeleteObject"], ["private/checks/"]),
    "MirrorRole": _may(["s3:GetObject", "s3:ListBucket"], ["private/views/"]),
    "UploadsRole": _may(["s3:GetObject", "s3:PutObject"], ["private/views/", "private/checks/"])
    | _may(["s3:ListBucket"], ["private/views/"])
    | _may(["sqs:SendMessage"], ["ChangesQueue"]),
    "RedactRole": _may(["s3:GetObject", "s3:PutObject"], ["access logs"])
    | _may(["s3:ListBucket"], ["access logs", "LogsBucket"])
    | _may(TAKE, ["AccessLogsQueue"])
    | _log("Redact")
    | TRACE,
}
"""More grants of a stack with views."""


MAKING_DELTAS: Final[Mapping[str, set[Call]]] = {
    "DeltaRole": (
        _may(["s3:GetObject"], ["images/", "versions/", *STREAMS])
        | _may(["s3:PutObject", "s3:AbortMultipartUpload"], ["a delta"])
        | _may(["s3:PutObject"], ["versions/"])
        | _may(["s3:ListBucket"], ["missing", *FOLDERS, "versions/", "streams/"])
        | _may(TAKE, ["DeltasQueue"])
        | _log("Delta")
        | TRACE
    ),
    "PublishRole": _may(["sqs:SendMessage"], ["DeltasQueue"]),
    "MaintainRole": _may(["sqs:SendMessage"], ["DeltasQueue"]),
}
"""More grants of a stack that makes deltas."""


KEEPING_FETCHED: Final[Mapping[str, set[Call]]] = {
    "MaintainRole": _may(["s3:GetObject"], ["access logs"]) | _may(["s3:ListBucket"], ["access logs", "LogsBucket"]),
}
"""More grants of maintain if retention reads the access logs."""


def grants_of(stack: Stack) -> Mapping[str, set[Call]]:
    """Return the table for a stack."""
    table = {**GRANTS, **FOLLOWING} if "MirrorRole" in stack.resources else dict(GRANTS)
    for sign, more in (("ViewFunction", VIEWING), ("DeltaRole", MAKING_DELTAS)):
        if sign in stack.resources:
            roles = more.keys() & stack.resources.keys()
            table |= {role: table.get(role, set()) | more[role] for role in roles}
    if "KEEP_FETCHED_WITHIN_DAYS" in stack.properties("MaintainFunction")["Environment"]["Variables"]:
        table |= {role: table[role] | calls for role, calls in KEEPING_FETCHED.items()}
    return table


def served(stack: Stack) -> frozenset[str]:
    """Return the keys that the edge may read."""
    return SERVED | ({"views/*/streams/"} if "ViewFunction" in stack.resources else frozenset())


def things(stack: Stack) -> dict[str, dict[str, str]]:
    """Return every resource that a call may name, by kind: short name → ARN."""
    bucket, logs = stack.properties("Bucket")["BucketName"], "images-logsbucket"
    edge = f"arn:aws:cloudfront::{ACCOUNT_ID}:distribution/images-Distribution"

    def arns(kind: str, service: str) -> dict[str, str]:
        own = {name: f"arn:aws:{service}:{REGION}:{ACCOUNT_ID}:{{}}images-{name}" for name in stack.of_type(kind)}
        return {**own, "somebody's": f"arn:aws:{service}:{REGION}:{ACCOUNT_ID}:{{}}somebody"}

    def named(of: Mapping[str, str], part: str, end: str = "") -> dict[str, str]:
        return {name: arn.format(part) + end for name, arn in of.items()}

    return {
        "key": {name: f"arn:aws:s3:::{bucket}/{key}" for name, key in KEYS.items()}
        | {
            "access logs": f"arn:aws:s3:::{logs}/{LOG}",
            "other logs": f"arn:aws:s3:::{logs}/bucket/x",
            "somebody's": "arn:aws:s3:::somebody/images/x",
        },
        "bucket": {"Bucket": f"arn:aws:s3:::{bucket}", "LogsBucket": f"arn:aws:s3:::{logs}"},
        "queue": named(arns("AWS::SQS::Queue", "sqs"), ""),
        "distribution": {"Distribution": edge, "somebody's": f"{edge}X"},
        "function": named(arns("AWS::Lambda::Function", "lambda"), "function:"),
        "log": named(arns("AWS::Logs::LogGroup", "logs"), "log-group:", ":log-stream:x"),
        "topic": named(arns("AWS::SNS::Topic", "sns"), ""),
        "role": {name: f"arn:aws:iam::{ACCOUNT_ID}:role/images-{name}" for name in stack.of_type("AWS::IAM::Role")},
        "trace": {"*": "*"},
    }


def calls(stack: Stack) -> Iterator[tuple[Call, Request]]:
    """Yield every call with its name in the table."""
    for kind, named in things(stack).items():
        for action, (name, arn) in product(ACTIONS[kind], named.items()):
            if (action, name) != ("s3:ListBucket", "Bucket"):
                yield (action, name), Request(action, arn)
    bucket = things(stack)["bucket"]["Bucket"]
    # Without a prefix in it: what S3 asks before it says 404 instead of 403.
    yield ("s3:ListBucket", "missing"), Request("s3:ListBucket", bucket)
    for action, name in product(("s3:ListBucket", "s3:ListBucketVersions"), PREFIXES):
        prefix = KEYS[name].rsplit("/", 1)[0] + "/"
        yield (action, name), Request(action, bucket, context={"s3:prefix": prefix})
    yield (
        ("s3:ListBucket", "access logs"),
        Request("s3:ListBucket", things(stack)["bucket"]["LogsBucket"], context={"s3:prefix": "edge/"}),
    )
    yield ("s3:ListBucket", "everything"), Request("s3:ListBucket", bucket, context={"s3:prefix": ""})


_ACTIONS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "read": ("s3:GetObject",),
    "open": ("s3:GetObject",),
    "create": ("s3:PutObject",),
    "replace": ("s3:PutObject", "s3:GetObject"),  # If-Match also takes the right to read
    "delete": ("s3:DeleteObject", "s3:GetObject"),
    "bring_back": ("s3:GetObjectVersion", "s3:PutObject"),
    "tag_listed": ("s3:PutObjectVersionTagging",),
    "is_tagged": ("s3:GetObjectTagging",),
}
"""Method of the store → the actions on its key that IAM must allow."""


def requests(log: Iterable[tuple[str, str]], bucket: str) -> list[Request]:
    """Return calls of the store, (method, key), as IAM sees them; `bucket` is the ARN."""
    found = [Request("s3:ListBucket", bucket)]  # a missing key is 404 only for a caller that may list
    for method, key in sorted(set(log)):
        if method == "history" or (method == "list" and key.startswith("images")):
            found.append(Request("s3:ListBucketVersions", bucket, context={"s3:prefix": key}))
        elif method == "list":
            found.append(Request("s3:ListBucket", bucket, context={"s3:prefix": key}))
        elif method != "chunk":
            found += [Request(action, f"{bucket}/{key}") for action in _ACTIONS_OF[method]]
    return found


def granted(statements: list[Statement], stack: Stack) -> set[Call]:
    """Return the calls that the statements allow."""
    return {call for call, request in calls(stack) if decide(statements, request) is Decision.ALLOWED}


def role_statements(stack: Stack, logical_id: str) -> list[Statement]:
    """Return what a role may do. A managed policy would be a right that no table sees, so it counts as `*`."""
    role = stack.properties(logical_id)
    managed: list[Statement] = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"} for _ in role.get("ManagedPolicyArns", [])
    ]
    return managed + [s for policy in role.get("Policies", []) for s in policy["PolicyDocument"]["Statement"]]


def resource_statements(stack: Stack, kind: str, holder: str, name: str) -> list[Statement]:
    """Return every statement of the policies of type `kind` whose `holder` names the bucket or queue `name`."""
    policies = stack.of_type(kind).values()
    return [s for p in policies if name in str(p[holder]) for s in p["PolicyDocument"]["Statement"]]
