"""API Gateway's part: the route, the caller, the function's event and the caller's response."""

import base64
import json
from typing import Any

import pytest
from starlette.requests import Request

from local_stack.api_gateway import caller, match, proxy_answer, proxy_event
from local_stack.lambda_pool import Outcome
from local_stack.wiring import Route

ROUTES = [
    Route("DELETE", "/{path+}", "F", "iam"),
    Route("POST", "/uploads", "F", "iam"),
    Route("GET", "/uploads/{id}", "F", "iam"),
    Route("GET", "/versions/{path+}", "F", "iam"),
    Route("GET", "/uploads/latest", "F", "none"),
]


@pytest.mark.parametrize(
    ("method", "path", "route", "parameters"),
    [
        ("POST", "/uploads", "/uploads", {}),
        ("GET", "/uploads", None, {}),
        ("GET", "/uploads/7", "/uploads/{id}", {"id": "7"}),
        ("GET", "/uploads/latest", "/uploads/latest", {}),
        ("GET", "/uploads/7/x", None, {}),
        ("GET", "/versions/images/a/b", "/versions/{path+}", {"path": "images/a/b"}),
        ("GET", "/versions/", None, {}),
        ("DELETE", "/versions/x", "/{path+}", {"path": "versions/x"}),
        ("PUT", "/uploads", None, {}),
    ],
)
def test_requests_reach_the_route_that_matches(
    method: str, path: str, route: str | None, parameters: dict[str, str]
) -> None:
    found = match(ROUTES, method, path)
    assert (found and (found[0].path, found[1])) == (route and (route, parameters))


@pytest.mark.parametrize(
    ("headers", "arn"),
    [
        ({"x-local-caller": "local"}, "arn:aws:iam::123456789012:user/local"),
        ({"x-local-caller": "arn:aws:iam::1:role/ci"}, "arn:aws:iam::1:role/ci"),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=ci/20261123/us-east-1/execute-api/aws4_request, …"},
         "arn:aws:iam::123456789012:user/ci"),
        ({"authorization": "Bearer x"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_authorizer_identifies_the_caller(headers: dict[str, str], arn: str | None) -> None:
    found = caller("iam", headers)
    assert (found and found["iam"]["userArn"]) == arn


def test_token_claims_are_passed_as_text() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "repo:a", "n": 1}).encode()).decode().rstrip("=")
    found = caller("jwt", {"authorization": f"Bearer x.{claims}.y"})
    assert found == {"jwt": {"claims": {"sub": "repo:a", "n": "1"}, "scopes": None}}
    assert caller("jwt", {"authorization": "Bearer nonsense"}) is None
    assert caller("jwt", {"authorization": "Bearer x.W10.y"}) is None, "the claims are a list"
    assert caller("none", {}) == {}


def request(path: str = "/uploads", query: bytes = b"") -> Request:
    return Request({
        "type": "http", "method": "POST", "path": path, "query_string": query, "client": ("127.0.0.1", 5),
        "server": ("localhost", 443), "scheme": "https", "headers": [(b"content-type", b"application/json")],
    })  # fmt: skip


def test_the_event_has_format_2_0() -> None:
    event = proxy_event(request(query=b"a=1&a=2&b=3"), ROUTES[1], {"id": "7"}, {"iam": {"userArn": "x"}}, b'{"k": 1}')
    assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", "POST /uploads", "/uploads")
    assert event["queryStringParameters"] == {"a": "1,2", "b": "3"}
    assert event["pathParameters"] == {"id": "7"}
    assert (event["body"], event["isBase64Encoded"]) == ('{"k": 1}', False)
    assert event["requestContext"]["http"]["method"] == "POST"
    assert event["requestContext"]["authorizer"] == {"iam": {"userArn": "x"}}


def test_a_binary_body_is_base64_and_an_absent_one_is_omitted() -> None:
    event = proxy_event(request(), ROUTES[1], {}, {}, b"\xff\x00")
    assert (base64.b64decode(event["body"]), event["isBase64Encoded"]) == (b"\xff\x00", True)
    bare = proxy_event(request(), ROUTES[1], {}, {}, b"")
    assert not {"body", "queryStringParameters", "pathParameters"} & set(bare)
    assert "authorizer" not in bare["requestContext"]


@pytest.mark.parametrize(
    ("outcome", "status", "body"),
    [
        (Outcome(None, "ValueError: secret"), 500, b'{"message":"Internal Server Error"}'),
        (Outcome({"statusCode": 201, "body": "x", "headers": {"Content-Type": "text/plain"}}), 201, b"x"),
        (Outcome({"statusCode": 200, "body": "eA==", "isBase64Encoded": True}), 200, b"x"),
        (Outcome({"no": "status"}), 200, b'{"no":"status"}'),
        (Outcome({"statusCode": 204}), 204, b""),
    ],
)
def test_responses_are_translated_as_api_gateway_does(outcome: Outcome, status: int, body: bytes) -> None:
    answer: Any = proxy_answer(outcome)
    assert (answer.status_code, answer.body) == (status, body)
