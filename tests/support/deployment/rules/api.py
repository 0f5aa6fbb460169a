"""The API: who may call which route, its throttle and its log."""

from collections.abc import Iterator
from typing import Final

from gates.stack import Stack
from tests.support.deployment.rules.registry import differ, rule

PUBLIC_ROUTES: Final = frozenset({("/openapi.json", "get")})


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
