"""The one table of differences between ministack and AWS, and how the tests work around them.

The template in infra/ is the one for AWS. An adaptation changes the emulator's copy of it, or what the emulator
answers. `test_adaptations.py` asks an emulator without any of them whether each difference is still there, and fails
once it is not. Only the standard library is imported here, because the emulator's process reads this table too.
"""

from __future__ import annotations

import json
import platform
import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

Template = dict[str, Any]
MINISTACK: Final = "1.5.33"
"""The version that each difference was last seen in; infra/gates/locks/ministack.txt pins it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """One difference. `template` changes a document, `clone` files of a folder, `answers` the running emulator."""

    name: str
    difference: str
    reason: str
    version: str = MINISTACK
    template: Callable[[Template], None] | None = None
    clone: Callable[[Path], None] | None = None
    answers: Callable[[], None] | None = None


def leave_out_metric_math(template: Template) -> None:
    """Remove the alarms over several metrics."""
    resources = template["Resources"]
    for name in [n for n, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"]:
        if "Metrics" in resources[name]["Properties"]:
            del resources[name]


def write_concurrency_as_numbers(template: Template) -> None:
    """Put a parameter's default in place of each `MaximumConcurrency: !Ref …`."""
    for resource in template["Resources"].values():
        for event in resource.get("Properties", {}).get("Events", {}).values():
            scaling = event["Properties"].get("ScalingConfig", {})
            if isinstance(given := scaling.get("MaximumConcurrency"), dict):
                scaling["MaximumConcurrency"] = int(template["Parameters"][given["Ref"]]["Default"])


def make_routes_of_the_body(template: Template) -> None:
    """Add what API Gateway creates from an HttpApi's OpenAPI body: integration, authorizer, a route for each path."""
    resources = template["Resources"]
    body = resources["UploadsApi"]["Properties"]["DefinitionBody"]
    api = {"Ref": "UploadsApi"}
    resources["EmulatedIntegration"] = {
        "Type": "AWS::ApiGatewayV2::Integration",
        "Properties": {
            "ApiId": api,
            "IntegrationType": "AWS_PROXY",
            "IntegrationUri": {"Fn::GetAtt": ["UploadsFunction", "Arn"]},
            "PayloadFormatVersion": "2.0",
        },
    }
    jwt = body["components"]["securitySchemes"]["Jwt"]["Fn::If"][1]["x-amazon-apigateway-authorizer"]
    resources["EmulatedAuthorizer"] = {
        "Type": "AWS::ApiGatewayV2::Authorizer",
        "Condition": "UsesJwt",
        "Properties": {
            "ApiId": api,
            "Name": "jwt",
            "AuthorizerType": "JWT",
            "IdentitySource": [jwt["identitySource"]],
            "JwtConfiguration": {
                "Issuer": jwt["jwtConfiguration"]["issuer"],
                "Audience": jwt["jwtConfiguration"]["audience"],
            },
        },
    }
    routes = [(path, method, route) for path, methods in body["paths"].items() for method, route in methods.items()]
    for number, (path, method, route) in enumerate(routes):
        properties = {
            "ApiId": api,
            "RouteKey": f"{method.upper()} {path}",
            "Target": {"Fn::Sub": "integrations/${EmulatedIntegration}"},
        }
        resources[f"EmulatedRoute{number}"] = {
            "Type": "AWS::ApiGatewayV2::Route",
            "Properties": properties | _authorization(route.get("security", [])),
        }


def _authorization(security: list[Any]) -> dict[str, Any]:
    """A route's authorization from the `security` of its operation: open, or what the template's condition chooses."""
    if not security:
        return {"AuthorizationType": "NONE"}
    ((condition, then, otherwise),) = (scheme["Fn::If"] for scheme in security)
    kinds = {"Jwt": "JWT", "Iam": "AWS_IAM"}
    return {
        "AuthorizationType": {"Fn::If": [condition, kinds[next(iter(then))], kinds[next(iter(otherwise))]]},
        "AuthorizerId": {"Fn::If": [condition, {"Ref": "EmulatedAuthorizer"}, {"Ref": "AWS::NoValue"}]},
    }


def split_record_set_groups(template: Template) -> None:
    """Turn each record of a RecordSetGroup into its own resource."""
    resources = template["Resources"]
    for name in [n for n, r in resources.items() if r["Type"] == "AWS::Route53::RecordSetGroup"]:
        group = resources.pop(name)
        zone = {"HostedZoneId": group["Properties"]["HostedZoneId"]}
        for record in group["Properties"]["RecordSets"]:
            single = {**group, "Type": "AWS::Route53::RecordSet", "Properties": zone | record}
            resources[f"Emulated{name}{record['Type']}"] = single


def build_for_this_machine(clone: Path) -> None:
    """Have functions/Makefile take wheels for this machine instead of Lambda's on arm64, once for all copies."""
    makefile = clone / "functions" / "Makefile"
    recipe, here = "$(PYTHON) -m gates.bundle ", "$(PYTHON) -P tests/support/ministack/packages.py "
    text = makefile.read_text()
    if recipe not in text:
        raise LookupError(f"{makefile} has no recipe {recipe!r}; write the adaptation anew")
    makefile.write_text(text.replace(recipe, here))


def answer_policy_status() -> None:
    """Answer GetBucketPolicyStatus with the emulator's own test for a public policy."""
    from ministack.services import s3

    usual = s3.handle_request

    async def handle(method: str, path: str, headers: Any, body: Any, query: dict[str, Any], *rest: Any) -> Any:
        bucket = path.strip("/")
        if method != "GET" or "policyStatus" not in query or "/" in bucket:
            return await usual(method, path, headers, body, query, *rest)
        status, fields, policy = await usual(method, path, headers, body, {"policy": [""]}, *rest)
        if status != 200:
            return status, fields, policy
        public = str(s3._policy_is_public(policy)).lower()
        answer = f'<?xml version="1.0" encoding="UTF-8"?><PolicyStatus><IsPublic>{public}</IsPublic></PolicyStatus>'
        return status, {"Content-Type": "application/xml"}, answer.encode()

    s3.handle_request = handle


def _edge_may(action: str, bucket: str, key: str, owner: str, source_arn: str, **known: str) -> bool:
    """Return whether the bucket's policy lets a distribution do this. `known` has condition keys besides its ARN."""
    from ministack.core import iam_evaluator
    from ministack.services import s3

    context = iam_evaluator.EvalContext(
        principal_arn="*",
        principal_type="Service",
        principal_account="",
        action=action,
        resource_arn=f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else ""),
        region="",
        service_context={"aws:sourcearn": source_arn, **known},
    )
    policy = s3._bucket_policies.get_scoped(owner, None, bucket)
    decided = iam_evaluator.evaluate_resource_policy(policy, context, service="cloudfront.amazonaws.com")
    return bool(decided.decision == "Allow")


def answer_404_at_the_edge() -> None:
    """Answer 404 for a missing key if the bucket's policy lets the distribution list the bucket."""
    from ministack.services import s3

    usual = s3.serve_cloudfront_origin_fetch

    def fetch(
        bucket: str, key: str, method: str, headers: Any, source_arn: str = "", oai_id: str = ""
    ) -> tuple[int, Any, Any]:
        answer: tuple[int, Any, Any] = usual(bucket, key, method, headers, source_arn, oai_id)
        if answer[0] != 403 or key in s3._buckets[bucket]["objects"]:
            return answer
        owner = s3._bucket_owner_account(bucket)
        readable = s3._cloudfront_origin_allows(owner, bucket, key, source_arn, oai_id)
        if not (readable and _edge_may("s3:ListBucket", bucket, "", owner, source_arn)):
            return answer
        missing: tuple[int, Any, Any] = s3._error("NoSuchKey", "The specified key does not exist.", 404, f"/{key}")
        return missing

    s3.serve_cloudfront_origin_fetch = fetch


def pass_tags_at_the_edge() -> None:
    """Give the bucket's policy the tags of an object that a distribution requests, as for any other caller."""
    from ministack.services import s3

    usual = s3._cloudfront_origin_allows

    def allows(owner: str, bucket: str, key: str, source_arn: str, oai_id: str) -> bool:
        there = key in s3._buckets[bucket]["objects"]
        tags = s3.object_tags_for_condition(bucket, key, {}) if there else {}
        known = {f"s3:existingobjecttag/{name.lower()}": value for name, value in tags.items()}
        return bool(
            usual(owner, bucket, key, source_arn, oai_id)
            or _edge_may("s3:GetObject", bucket, key, owner, source_arn, **known)
        )

    s3._cloudfront_origin_allows = allows


def allow_batches_of_messages() -> None:
    """Authorize a batch call of SQS by the action of the single call, which is the only one that IAM has."""
    from ministack.core import iam_actions

    usual = iam_actions._action_from_target

    def action(headers: dict[str, str]) -> str | None:
        found: str | None = usual(headers)
        in_batches = found in ("ChangeMessageVisibilityBatch", "DeleteMessageBatch", "SendMessageBatch")
        return found.removesuffix("Batch") if found and in_batches else found

    iam_actions._action_from_target = action


def serve_alternate_domain_names() -> None:
    """Serve a distribution under the names in its Aliases as well."""
    from ministack import app
    from ministack.services import cloudfront

    usual = app._parse_cloudfront_dataplane_host

    def parse(host: str) -> str | None:
        name = host.split(":", maxsplit=1)[0].lower()
        for distribution in cloudfront._distributions.values():
            if name in cloudfront._get_distribution_aliases(distribution):
                return str(distribution["DomainName"]).partition(".")[0]
        label: str | None = usual(host)
        return label

    app._parse_cloudfront_dataplane_host = parse


def send_stack_status_events() -> None:
    """Send EventBridge the events that CloudFormation sends about a stack: each status that ends a change."""
    from ministack.core.responses import get_account_id, get_region
    from ministack.services import eventbridge
    from ministack.services.cloudformation import stacks

    usual = stacks._add_event

    def add(stack_id: str, stack: str, logical_id: str, kind: str, status: str, *rest: Any, **more: Any) -> None:
        usual(stack_id, stack, logical_id, kind, status, *rest, **more)
        if kind == "AWS::CloudFormation::Stack" and status.endswith("_COMPLETE"):
            detail = {"stack-id": stack_id, "status-details": {"status": status, "status-reason": ""}}
            eventbridge._dispatch_event(
                {
                    "EventId": str(uuid.uuid4()),
                    "Source": "aws.cloudformation",
                    "DetailType": "CloudFormation Stack Status Change",
                    "Detail": json.dumps(detail),
                    "EventBusName": "default",
                    "Time": time.time(),
                    "Resources": [stack_id],
                    "Account": get_account_id(),
                    "Region": get_region(),
                }
            )

    stacks._add_event = add


def keep_modes_of_packages() -> None:
    """Unpack a function's package with the file modes stored in it."""
    from ministack.core import lambda_runtime
    from ministack.services.lambda_svc import _extract_zip_preserving_mode

    class ZipFile(zipfile.ZipFile):
        def extractall(self, path: Any = None, *_: Any) -> None:
            _extract_zip_preserving_mode(self, path)

    lambda_runtime.zipfile = SimpleNamespace(**vars(zipfile) | {"ZipFile": ZipFile})


ADAPTATIONS: Final[tuple[Adaptation, ...]] = (
    Adaptation(
        name="metric math",
        difference="An alarm over several metrics is refused: Properties.Metrics (metric math) is not supported.",
        reason="The deployment would end at ThrottlesAlarm. The copy goes without that alarm.",
        template=leave_out_metric_math,
    ),
    Adaptation(
        name="MaximumConcurrency",
        difference="A number that comes from a parameter stays text, and the poller of the queue stops comparing it.",
        reason="No function would ever run. The copy has the parameters' defaults as numbers.",
        template=write_concurrency_as_numbers,
    ),
    Adaptation(
        name="routes of an HttpApi",
        difference="The OpenAPI Body of an AWS::ApiGatewayV2::Api makes no routes.",
        reason="The upload API would answer 404 to everything. The copy has routes, derived from that body.",
        template=make_routes_of_the_body,
    ),
    Adaptation(
        name="RecordSetGroup",
        difference="Templates with an AWS::Route53::RecordSetGroup are refused once its condition holds.",
        reason="HostedZoneId could not be set. The copy has a RecordSet for each of its records.",
        template=split_record_set_groups,
    ),
    *(
        ()
        if platform.machine() in ("aarch64", "arm64")
        else (
            Adaptation(
                name="architecture",
                difference="Functions run on this machine's processor, whatever Architectures says.",
                reason="Native modules for arm64 do not load here. The copy's Makefile takes this machine's wheels.",
                clone=build_for_this_machine,
            ),
        )
    ),
    Adaptation(
        name="GetBucketPolicyStatus",
        difference="It is answered with an empty PolicyStatus.",
        reason="`admin doctor` asks whether the bucket's policy is public.",
        answers=answer_policy_status,
    ),
    Adaptation(
        name="missing key at the edge",
        difference="CloudFront answers 403 for a missing key, also where the bucket lets it list.",
        reason="A missing document must be 404 (Incus drops its cache on that), and `admin doctor` checks it.",
        answers=answer_404_at_the_edge,
    ),
    Adaptation(
        name="tags at the edge",
        difference="A distribution's request does not tell the bucket's policy which tags the object has.",
        reason="The edge may read an upload only with the tag of what is listed: it would be denied all of them.",
        answers=pass_tags_at_the_edge,
    ),
    Adaptation(
        name="batch calls of SQS",
        difference="ChangeMessageVisibilityBatch and its like are authorized as actions of their own.",
        reason="IAM has no such actions: a role is allowed the single call, and Lambda and we make batch calls.",
        answers=allow_batches_of_messages,
    ),
    Adaptation(
        name="alternate domain names",
        difference="A distribution answers under its cloudfront.net name alone, not under its Aliases.",
        reason="With DomainName the stack's address is that name, and clients are given it.",
        answers=serve_alternate_domain_names,
    ),
    Adaptation(
        name="stack status events",
        difference="CloudFormation tells EventBridge nothing of its stacks.",
        reason="The end of a deployment starts a run of maintain, which lays out the empty catalog.",
        answers=send_stack_status_events,
    ),
    Adaptation(
        name="modes of files",
        difference="A function's package is unpacked without the modes of its files: no program in it can be started.",
        reason="The delta function starts the xdelta3 of its package.",
        answers=keep_modes_of_packages,
    ),
)
