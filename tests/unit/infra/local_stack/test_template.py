"""The template's parameters and intrinsics, and the wiring read from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from local_stack.errors import TemplateError
from local_stack.interpreter import interpret, local_names
from local_stack.scheduler import next_run
from local_stack.stack import TEMPLATE
from local_stack.template import Resolver, StackIdentity, load, parameters, translate
from local_stack.wiring import Wiring

IDENTITY = StackIdentity("local", "eu-west-3")


def resolver(**sections: Any) -> Resolver:
    def attribute(name: str, kind: str, asked: str | None) -> str:
        return f"<{name} {kind} {asked}>"

    document = {"Resources": {"Queue": {"Type": "Q"}}, **sections}
    return Resolver(document, {"Colour": "red", "Empty": "", "List": ["a", "b"]}, IDENTITY, attribute)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"Ref": "Colour"}, "red"),
        ({"Ref": "AWS::Region"}, "eu-west-3"),
        ({"Ref": "Queue"}, "<Queue Q None>"),
        ({"Ref": "List"}, ["a", "b"]),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "<Queue Q Arn>"),
        ({"Fn::GetAtt": "Queue.Arn"}, "<Queue Q Arn>"),
        ({"Fn::Sub": "${AWS::StackName}-${Colour} ${Queue} ${Queue.Arn} ${!Literal}"},
         "local-red <Queue Q None> <Queue Q Arn> ${Literal}"),
        ({"Fn::Sub": ["${a}${Colour}", {"a": {"Ref": "Empty"}}]}, "red"),
        ({"Fn::Join": ["-", ["x", {"Ref": "Colour"}]]}, "x-red"),
        ({"Fn::Select": [1, {"Ref": "List"}]}, "b"),
        ({"Fn::Split": [",", "a,b"]}, ["a", "b"]),
        ({"Fn::FindInMap": ["Table", {"Ref": "Colour"}, "Column"]}, 7),
        ({"Fn::If": ["IsRed", 1, 2]}, 1),
        ({"Fn::If": ["IsNotRed", 1, 2]}, 2),
        ({"keep": 1, "drop": {"Fn::If": ["IsNotRed", 1, {"Ref": "AWS::NoValue"}]}}, {"keep": 1}),
        ([{"Ref": "AWS::NoValue"}, 3], [3]),
        ({"Fn::And": [{"Condition": "IsRed"}, {"Fn::Not": [{"Condition": "IsNotRed"}]}]}, True),
        ({"Fn::Or": [{"Condition": "IsNotRed"}, {"Fn::Equals": [1, 2]}]}, False),
    ],
)  # fmt: skip
def test_intrinsic_functions_are_resolved(node: Any, expected: Any) -> None:
    sections = {
        "Mappings": {"Table": {"red": {"Column": 7}}},
        "Conditions": {
            "IsRed": {"Fn::Equals": [{"Ref": "Colour"}, "red"]},
            "IsNotRed": {"Fn::Not": [{"Condition": "IsRed"}]},
        },
    }
    assert resolver(**sections).value(node) == expected


@pytest.mark.parametrize(
    ("node", "names"),
    [
        ({"Fn::Cidr": ["10.0.0.0/8"]}, "Fn::Cidr"),
        ({"Ref": "Nobody"}, "Nobody"),
        ({"Fn::If": ["NoSuchCondition", 1, 2]}, "NoSuchCondition"),
    ],
)
def test_an_unknown_intrinsic_reference_or_condition_is_named(node: Any, names: str) -> None:
    with pytest.raises(TemplateError, match=names):
        resolver().value(node)


def test_a_resource_whose_condition_is_false_is_omitted() -> None:
    resources = {"A": {"Type": "Q"}, "B": {"Type": "Q", "Condition": "Never"}}
    found = resolver(Resources=resources, Conditions={"Never": {"Fn::Equals": [1, 2]}}).resources()
    assert [resource.logical_id for resource in found] == ["A"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Clients": "debian"}, "Clients is 'debian', expected one of both, lxd, incus"),
        ({"NoSuch": "1"}, "no parameter NoSuch"),
        ({"RetainDays": "-1"}, "RetainDays is -1"),
        ({"RetainDays": "soon"}, "RetainDays is 'soon', expected a number"),
        ({"BucketName": "Not A Bucket"}, "BucketName is 'Not A Bucket', expected to match"),
    ],
)
def test_a_parameter_that_cloudformation_would_refuse_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        parameters(load(TEMPLATE), given)


def wire(change: Any = None, given: Mapping[str, str] | None = None) -> Wiring:
    document = load(TEMPLATE)
    values = parameters(document, given or {})
    if change:
        change(document["Resources"])
    translated = translate(document, TEMPLATE.parent, IDENTITY.region)
    return interpret(
        Resolver(translated, values, IDENTITY, local_names(IDENTITY, "http://s3", values, "localhost")).resources(),
        IDENTITY,
    )


def test_the_template_wires_uploads_to_digest_and_records_to_publish() -> None:
    wiring = wire()
    queues = {(n.prefix, n.queue_arn.rsplit(":", 1)[1]) for n in wiring.bucket.notifications}
    assert queues == {("images", "ArrivalsQueue"), ("versions/", "ChangesQueue")}
    assert {m.queue_arn.rsplit(":", 1)[1]: m.function for m in wiring.mappings} == {
        "ArrivalsQueue": "DigestFunction",
        "ChangesQueue": "PublishFunction",
    }
    assert all(mapping.partial_failures for mapping in wiring.mappings)
    assert wiring.functions["DigestFunction"].environment["BUCKET"] == wiring.bucket.name
    assert wiring.functions["DigestFunction"].code == TEMPLATE.parent.parent / "functions"
    assert wiring.bucket.versioned


def test_visibility_follows_the_timeout_parameter() -> None:
    queues = {queue.name: queue.visibility_s for queue in wire(given={"DigestTimeout": "30"}).queues}
    assert queues["ArrivalsQueue"] == 182


def test_the_edge_can_read_served_objects_and_nothing_private() -> None:
    edge = wire().edge
    listed, anything = frozenset({("listed", "true")}), frozenset[tuple[str, str]]()
    served = {"images/a/b": listed, "images-daily/a": listed, "streams/v1/index.json": anything, "index.html": anything}
    assert {key: edge.needed_tags(key) for key in served} == served
    private = ("versions/images/a.json", "leases/x", "maintain/x", "")
    assert [key for key in private if edge.needed_tags(key) is not None] == []
    assert edge.behaviour("images/a/b").encodings == ()
    assert "gzip" in edge.behaviour("streams/v1/index.json").encodings
    assert not [b.pattern for b in edge.behaviours if "Cache-Control" in b.headers], "it would be that of errors too"


def test_every_api_route_except_the_description_requires_a_caller() -> None:
    routes = wire().routes
    assert {route.path for route in routes if route.auth == "none"} <= {"/openapi.json"}
    assert {route.auth for route in wire(given={"JwtIssuer": "https://i", "JwtAudience": "a"}).routes} == {
        "jwt",
        "none",
    }


def _swap_queues(resources: dict[str, Any]) -> None:
    for configuration in resources["Bucket"]["Properties"]["NotificationConfiguration"]["QueueConfigurations"]:
        swapped = {"ArrivalsQueue": "ChangesQueue", "ChangesQueue": "ArrivalsQueue"}
        configuration["Queue"] = {"Fn::GetAtt": [swapped[configuration["Queue"]["Fn::GetAtt"][0]], "Arn"]}


def test_swapped_queues_in_the_template_are_swapped_locally_too() -> None:
    queues = {(n.prefix, n.queue_arn.rsplit(":", 1)[1]) for n in wire(_swap_queues).bucket.notifications}
    assert queues == {("images", "ChangesQueue"), ("versions/", "ArrivalsQueue")}


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        (["Table"], {"Type": "AWS::DynamoDB::Table", "Properties": {}}, "AWS::DynamoDB::Table"),
        (["Bucket", "Properties", "ReplicationConfiguration"], {}, "Bucket: .*ReplicationConfiguration"),
        (["ArrivalsQueue", "Properties", "DelaySeconds"], 5, "ArrivalsQueue: .*DelaySeconds"),
        (["DigestFunction", "Properties", "Events", "Arrivals", "Properties", "FilterCriteria"],
         {"Filters": [{"Pattern": "{}"}]}, "FilterCriteria"),
        (["Distribution", "Properties", "DistributionConfig", "DefaultCacheBehavior", "LambdaFunctionAssociations"], [],
         "LambdaFunctionAssociations"),
        (["Distribution", "Properties", "DistributionConfig", "CustomErrorResponses"],
         [{"ErrorCode": 404, "ResponseCode": 200, "ResponsePagePath": "/index.html"}], "ResponseCode"),
        (["Distribution", "Properties", "DistributionConfig", "DefaultCacheBehavior", "CachePolicyId"], "managed",
         "CachePolicyId is managed"),
        (["MaintainFunction", "Properties", "Events", "Deployed", "Properties", "Pattern", "source"], ["aws.s3"],
         "only the end of a deployment, not .*aws.s3"),
        (["MaintainFunction", "Properties", "Events", "Deployed", "Properties", "Input"], '{"task": "all"}',
         "no schedule does what it does: .*all"),
    ],
)  # fmt: skip
def test_an_unsupported_property_is_an_error_that_names_it(path: list[str], value: Any, names: str) -> None:
    def change(resources: dict[str, Any]) -> None:
        holder = resources
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = value

    with pytest.raises(TemplateError, match=names):
        wire(change)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(1 hour)", "2026-11-23T11:00:30+00:00"),
        ("rate(5 minutes)", "2026-11-23T10:05:30+00:00"),
        ("cron(20 3 * * ? *)", "2026-11-24T03:20:00+00:00"),
        ("cron(1 10 * * ? *)", "2026-11-23T10:01:00+00:00"),
    ],
)
def test_schedule_expressions_become_seconds(expression: str, expected: str) -> None:
    from datetime import UTC, datetime

    assert next_run(expression, datetime(2026, 11, 23, 10, 0, 30, tzinfo=UTC)).isoformat() == expected


def test_an_unknown_schedule_is_named() -> None:
    from datetime import UTC, datetime

    with pytest.raises(TemplateError, match=r"cron\(0 0 1 \* \? \*\)"):
        next_run("cron(0 0 1 * ? *)", datetime.now(UTC))


def test_an_invalid_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("a: [")
    with pytest.raises(TemplateError, match=r"t\.yaml"):
        load(tmp_path / "t.yaml")
