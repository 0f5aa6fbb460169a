"""Each adaptation is still needed: an emulator without them is tested for what it should lack."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from environment import IMPORT_FOLDERS
from gates import tools
from tests.support import PROJECT, ministack
from tests.support.ministack import emulator
from tests.support.ministack.adaptations import ADAPTATIONS, MINISTACK, Template
from tests.support.ministack.clone import load_template
from tests.support.ministack.emulator import ACCOUNT, Emulator
from tests.support.processes import short_folder, wait_for

pytestmark = [pytest.mark.xdist_group("ministack"), pytest.mark.timeout(900)]
BUCKET = "probe"


@pytest.fixture(scope="module")
def bare(tooling: None) -> Iterator[Emulator]:
    """Yield the unadapted emulator, with a bucket that only a distribution may list."""
    with short_folder() as folder, emulator.running(folder, as_it_is=True) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield running


def created(aws: Emulator, name: str, resources: Template, **other: Any) -> dict[str, Any]:
    """Create a stack of these resources and wait for it; return CloudFormation's description, including events."""
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(
        StackName=name, TemplateBody=json.dumps({"Resources": resources, **other}), Capabilities=["CAPABILITY_IAM"]
    )

    def ended() -> dict[str, Any] | None:
        (found,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        return found if found["StackStatus"] in ("CREATE_COMPLETE", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED") else None

    found = wait_for(ended, f"the end of {name}")
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    return found | {"reasons": " ".join(str(event.get("ResourceStatusReason")) for event in events)}


def refuses_metric_math(aws: Emulator) -> bool:
    plain = {"Period": 300, "Stat": "Sum", "Metric": {"Namespace": "AWS/Lambda", "MetricName": "Throttles"}}
    properties = {
        "ComparisonOperator": "GreaterThanThreshold",
        "EvaluationPeriods": 1,
        "Threshold": 0,
        "Metrics": [
            {"Id": "sum", "Expression": "FILL(m, 0)", "Label": "sum"},
            {"Id": "m", "ReturnData": False, "MetricStat": plain},
        ],
    }
    found = created(aws, "metric-math", {"Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}})
    return "metric math" in found["reasons"]


FUNCTION: Template = {
    "Role": {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
                ],
            },
            "Policies": [
                {
                    "PolicyName": "queue",
                    "PolicyDocument": {
                        "Version": "2012-10-17",
                        "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}],
                    },
                }
            ],
        },
    },
    "Function": {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Runtime": "python3.13",
            "Architectures": ["arm64"],
            "Handler": "index.handler",
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "Code": {"ZipFile": "import platform\n\ndef handler(event, context):\n    return platform.machine()\n"},
        },
    },
}


def stops_polling_for_a_concurrency_from_a_parameter(aws: Emulator) -> bool:
    """Return whether the poller stops at its comparison instead of receiving a message."""
    mapping = {
        "FunctionName": {"Ref": "Function"},
        "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]},
        "ScalingConfig": {"MaximumConcurrency": {"Ref": "Most"}},
    }
    created(
        aws, "concurrency",
        FUNCTION | {
            "Queue": {"Type": "AWS::SQS::Queue"},
            "Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping},
        },
        Parameters={"Most": {"Type": "Number", "Default": 2}},
        Outputs={"Queue": {"Value": {"Ref": "Queue"}}},
    )  # fmt: skip
    stacks = aws.client("cloudformation").describe_stacks(StackName="concurrency")["Stacks"]
    queue = stacks[0]["Outputs"][0]["OutputValue"]
    sqs = aws.client("sqs")
    sqs.send_message(QueueUrl=queue, MessageBody="x")

    def seen() -> str | None:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        if "not supported between instances of 'int' and 'str'" in aws.log:
            return "stopped"
        return None if any(int(attributes[name]) for name in names) else "taken"

    return wait_for(seen, "the poller takes the message or stops") == "stopped"


def makes_no_routes_of_a_body(aws: Emulator) -> bool:
    body = {"openapi": "3.0.1", "info": {"title": "probe", "version": "1"}, "paths": {"/here": {"get": {}}}}
    created(aws, "routes", {"Api": {"Type": "AWS::ApiGatewayV2::Api", "Properties": {"Body": body, "Name": "probe"}}})
    gateway = aws.client("apigatewayv2")
    (api,) = (found["ApiId"] for found in gateway.get_apis()["Items"])
    return not gateway.get_routes(ApiId=api)["Items"]


def runs_functions_on_this_machines_processor(aws: Emulator) -> bool:
    name = created(aws, "processor", FUNCTION, Outputs={"Name": {"Value": {"Ref": "Function"}}})["Outputs"][0]
    answer = aws.client("lambda").invoke(FunctionName=name["OutputValue"])
    return json.loads(answer["Payload"].read()) not in ("aarch64", "arm64")


def answers_no_policy_status(aws: Emulator) -> bool:
    s3 = aws.client("s3")
    s3.delete_public_access_block(Bucket=BUCKET)
    allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/*"}
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    return s3.get_bucket_policy_status(Bucket=BUCKET)["PolicyStatus"].get("IsPublic") is not True


def knows_no_record_set_group(aws: Emulator) -> bool:
    zone = aws.client("route53").create_hosted_zone(Name="example.org", CallerReference="probe")["HostedZone"]["Id"]
    record = {"Name": "images.example.org", "Type": "TXT", "TTL": "60", "ResourceRecords": ['"x"']}
    group = {"HostedZoneId": zone.rpartition("/")[2], "RecordSets": [record]}
    try:
        created(aws, "records", {"Records": {"Type": "AWS::Route53::RecordSetGroup", "Properties": group}})
    except ClientError as refused:
        return "Unrecognized resource types" in str(refused)
    return False


def distribution(aws: Emulator, name: str, **other: Any) -> str:
    """Create a distribution over the bucket, which lets it read and list; return its cloudfront.net name."""
    config = {
        "Enabled": True,
        "DefaultCacheBehavior": {
            "TargetOriginId": "s3",
            "ViewerProtocolPolicy": "allow-all",
            "CachePolicyId": "658327ea-f89d-4fab-a63d-7e88639e58f6",  # CloudFront's own CachingOptimized
        },
        "Origins": [
            {
                "Id": "s3",
                "DomainName": f"{BUCKET}.s3.eu-central-1.amazonaws.com",
                "S3OriginConfig": {"OriginAccessIdentity": ""},
                "OriginAccessControlId": {"Fn::GetAtt": ["Control", "Id"]},
            }
        ],
        **other,
    }
    control = {
        "Name": name,
        "OriginAccessControlOriginType": "s3",
        "SigningBehavior": "always",
        "SigningProtocol": "sigv4",
    }
    resources = {
        "Control": {
            "Type": "AWS::CloudFront::OriginAccessControl",
            "Properties": {"OriginAccessControlConfig": control},
        },
        "Edge": {"Type": "AWS::CloudFront::Distribution", "Properties": {"DistributionConfig": config}},
    }
    outputs = {"Host": {"Value": {"Fn::GetAtt": ["Edge", "DomainName"]}}, "Id": {"Value": {"Ref": "Edge"}}}
    found = {o["OutputKey"]: o["OutputValue"] for o in created(aws, name, resources, Outputs=outputs)["Outputs"]}
    s3 = aws.client("s3")
    allow = {
        "Effect": "Allow",
        "Principal": {"Service": "cloudfront.amazonaws.com"},
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
        "Condition": {"StringEquals": {"aws:SourceArn": f"arn:aws:cloudfront::{ACCOUNT}:distribution/{found['Id']}"}},
    }
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    s3.put_object(Bucket=BUCKET, Key="there", Body=b"x")
    assert aws.status(f"https://{found['Host']}/there") == 200
    return str(found["Host"])


def answers_403_for_a_missing_key_at_the_edge(aws: Emulator) -> bool:
    """This holds even if CloudFront may list the bucket, as in the template."""
    return aws.status(f"https://{distribution(aws, 'missing')}/missing") == 403


def denies_an_object_whatever_its_tags_at_the_edge(aws: Emulator) -> bool:
    host, s3 = distribution(aws, "tags"), aws.client("s3")
    policy = json.loads(s3.get_bucket_policy(Bucket=BUCKET)["Policy"])
    policy["Statement"][0]["Condition"]["StringEquals"]["s3:ExistingObjectTag/listed"] = "true"
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    s3.put_object(Bucket=BUCKET, Key="listed", Body=b"x", Tagging="listed=true")
    return aws.status(f"https://{host}/listed") == 403


def answers_under_the_name_of_cloudfront_alone(aws: Emulator) -> bool:
    arn = f"arn:aws:acm:us-east-1:{ACCOUNT}:certificate/01234567-89ab-cdef-0123-456789abcdef"
    certificate = {"AcmCertificateArn": arn, "SslSupportMethod": "sni-only"}
    distribution(aws, "alias", Aliases=["alias.example.org"], ViewerCertificate=certificate)
    return aws.status("https://alias.example.org/there") != 200


def sends_eventbridge_nothing_of_stacks(aws: Emulator) -> bool:
    """Return whether a queue for events of every stack is still empty some time after one was made."""
    watching = created(
        aws,
        "watching",
        {
            "Queue": {"Type": "AWS::SQS::Queue"},
            "Rule": {
                "Type": "AWS::Events::Rule",
                "Properties": {
                    "EventPattern": {"source": ["aws.cloudformation"]},
                    "Targets": [{"Id": "queue", "Arn": {"Fn::GetAtt": ["Queue", "Arn"]}}],
                },
            },
        },
        Outputs={"Queue": {"Value": {"Ref": "Queue"}}},
    )
    created(aws, "watched", {"Topic": {"Type": "AWS::SNS::Topic"}})
    answer = aws.client("sqs").receive_message(QueueUrl=watching["Outputs"][0]["OutputValue"], WaitTimeSeconds=3)
    return not answer.get("Messages")


def refuses_a_batch_to_who_may_delete_a_message(aws: Emulator) -> bool:
    iam, queue = aws.client("iam"), aws.client("sqs").create_queue(QueueName="batches")["QueueUrl"]
    iam.create_user(UserName="worker")
    allow = {"Effect": "Allow", "Action": "sqs:DeleteMessage", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_user_policy(UserName="worker", PolicyName="delete", PolicyDocument=document)
    key = iam.create_access_key(UserName="worker")["AccessKey"]
    sqs = aws.client("sqs", (key["AccessKeyId"], key["SecretAccessKey"]))
    try:
        sqs.delete_message_batch(QueueUrl=queue, Entries=[{"Id": "1", "ReceiptHandle": "none"}])
    except ClientError as error:
        return error.response["Error"]["Code"].startswith("AccessDenied")
    return False


def forgets_that_a_file_of_a_package_can_be_run(aws: Emulator) -> bool:
    code = "import os\n\ndef handler(event, _):\n    return os.access(f'{os.path.dirname(__file__)}/program', 1)\n"
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as file:
        file.writestr("index.py", code)
        program = zipfile.ZipInfo("program")
        program.external_attr = 0o755 << 16
        file.writestr(program, "#!/bin/sh\n")
    trust = FUNCTION["Role"]["Properties"]["AssumeRolePolicyDocument"]
    role = aws.client("iam").create_role(RoleName="program", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    functions, how = aws.client("lambda"), {"Runtime": "python3.13", "Handler": "index.handler", "Role": role}
    functions.create_function(FunctionName="program", Code={"ZipFile": package.getvalue()}, **how)
    return json.loads(functions.invoke(FunctionName="program")["Payload"].read()) is False


STILL_LACKS: dict[str, Callable[[Emulator], bool]] = {
    "metric math": refuses_metric_math,
    "MaximumConcurrency": stops_polling_for_a_concurrency_from_a_parameter,
    "routes of an HttpApi": makes_no_routes_of_a_body,
    "RecordSetGroup": knows_no_record_set_group,
    "architecture": runs_functions_on_this_machines_processor,
    "GetBucketPolicyStatus": answers_no_policy_status,
    "missing key at the edge": answers_403_for_a_missing_key_at_the_edge,
    "tags at the edge": denies_an_object_whatever_its_tags_at_the_edge,
    "batch calls of SQS": refuses_a_batch_to_who_may_delete_a_message,
    "alternate domain names": answers_under_the_name_of_cloudfront_alone,
    "stack status events": sends_eventbridge_nothing_of_stacks,
    "modes of files": forgets_that_a_file_of_a_package_can_be_run,
}


@pytest.mark.parametrize("name", [adaptation.name for adaptation in ADAPTATIONS])
def test_the_emulator_still_needs_each_adaptation(bare: Emulator, name: str) -> None:
    assert STILL_LACKS[name](bare), f"ministack does this as AWS now: remove the adaptation {name!r}"


def test_every_adaptation_has_a_description_a_reason_and_the_pinned_version() -> None:
    lock = (tools.LOCKS / "ministack.txt").read_text()
    assert f"\nministack=={MINISTACK} " in lock
    for adaptation in ADAPTATIONS:
        assert adaptation.version == MINISTACK, f"{adaptation.name}: look whether {MINISTACK} still does it"
        assert adaptation.difference
        assert adaptation.reason
        changes = [adaptation.template, adaptation.clone, adaptation.answers]
        assert sum(change is not None for change in changes) == 1, adaptation.name


def test_adaptations_change_only_the_declared_parts_of_the_copy() -> None:
    """The emulator's copy differs from the template only as the table says."""
    template, copy = load_template(), load_template()
    for adaptation in ADAPTATIONS:
        if adaptation.template:
            adaptation.template(copy)
    before, after = template["Resources"], copy["Resources"]
    assert before.keys() - after.keys() == {"ThrottlesAlarm", "DomainRecord"}
    assert all(name.startswith("Emulated") for name in after.keys() - before.keys())
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == {"CopyFunction", "DigestFunction", "PublishFunction"}
    assert {key for key in template if template[key] != copy[key]} == {"Resources"}


def test_nothing_here_uses_the_local_stack() -> None:
    """Otherwise its mistakes would confirm themselves."""
    folder = Path(str(ministack.__file__)).parent
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "emulated"}
    modules = [f"tests.support.ministack.{name}" for name in names]
    code = f"import sys, {', '.join(modules)}; print(*(n for n in sys.modules if n.split('.')[0] in {STANDS_IN!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=PATHS)
    assert found.stdout.split() == []


STANDS_IN = ("local_stack", "moto")
PATHS = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, *(PROJECT / name for name in IMPORT_FOLDERS))))}
