"""The distribution: its behaviours, their policies, and its read rights to the bucket."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from local_stack.errors import TemplateError
from local_stack.template import Resource, take
from local_stack.wiring import Behaviour, Edge, EdgeCode


def read_edge(
    distributions: list[Resource],
    cache_policies: list[Resource],
    headers_policies: list[Resource],
    bucket_policies: list[Resource],
    functions: list[Resource],
) -> Edge:
    """Return the one distribution, with the policies that its behaviours name and its read rights to buckets."""
    if len(distributions) != 1:
        raise TemplateError(f"the template has {len(distributions)} distributions, expected one")
    config = take(
        "Distribution", distributions[0].properties["DistributionConfig"],
        ["Enabled", "DefaultRootObject", "DefaultCacheBehavior", "CacheBehaviors", "CustomErrorResponses", "Logging"],
        # Network, name and certificate are fixed here; there is one origin; nothing is cached.
        ["Aliases", "Comment", "HttpVersion", "IPV6Enabled", "Origins", "PriceClass", "Restrictions",
         "ViewerCertificate", "WebACLId"],
    )  # fmt: skip
    for response in config.get("CustomErrorResponses", []):
        take("Distribution.CustomErrorResponses", response, [], ["ErrorCode", "ErrorCachingMinTTL"])
    encodings = {r.logical_id: _encodings(r) for r in cache_policies}
    headers = {r.logical_id: _headers(r) for r in headers_policies}
    declared = [*config.get("CacheBehaviors", []), {"PathPattern": "*", **config["DefaultCacheBehavior"]}]
    readable, sees_missing = _readable(bucket_policies)
    logs = None
    if "Logging" in config:
        p = take("Distribution.Logging", config["Logging"], ["Bucket", "Prefix"], ["IncludeCookies"])
        logs = (p["Bucket"].split(".")[0], p.get("Prefix", ""))
    return Edge(
        root=config.get("DefaultRootObject", ""),
        behaviours=tuple(_behaviour(b, encodings, headers) for b in declared),
        readable=readable,
        sees_missing=sees_missing,
        function=_function(functions),
        logs=logs,
    )


def _function(resources: list[Resource]) -> EdgeCode | None:
    """Return the one function, or None if the template has none."""
    if not resources:
        return None
    if len(resources) > 1:
        raise TemplateError(f"the template has {len(resources)} functions at the edge, expected one at most")
    p = resources[0].take(["FunctionCode", "FunctionConfig"], ["AutoPublish", "Name"])
    config = take(f"{resources[0].logical_id}.FunctionConfig", p["FunctionConfig"],
                  ["KeyValueStoreAssociations", "Runtime"], ["Comment"])  # fmt: skip
    if config["Runtime"] != "cloudfront-js-2.0":
        raise TemplateError(f"{resources[0].logical_id}: the local stack knows only the runtime cloudfront-js-2.0")
    (store,) = config["KeyValueStoreAssociations"]
    return EdgeCode(p["FunctionCode"], store["KeyValueStoreARN"])


def _behaviour(
    b: Mapping[str, Any], encodings: Mapping[str, tuple[str, ...]], headers: Mapping[str, Mapping[str, str]]
) -> Behaviour:
    where = f"Distribution behaviour {b['PathPattern']}"
    take(where, b, ["PathPattern", "AllowedMethods", "Compress", "CachePolicyId", "ResponseHeadersPolicyId",
                    "FunctionAssociations"],
         ["TargetOriginId", "ViewerProtocolPolicy", "CachedMethods"])  # fmt: skip
    for name, table in (("CachePolicyId", encodings), ("ResponseHeadersPolicyId", headers)):
        if b.get(name) and b[name] not in table:
            raise TemplateError(f"{where}: {name} is {b[name]}, which is not a policy of this template")
    compressed = encodings.get(b.get("CachePolicyId", ""), ()) if b.get("Compress") else ()
    own_headers = headers.get(b.get("ResponseHeadersPolicyId", ""), {})
    methods = frozenset(b.get("AllowedMethods", ["GET", "HEAD"]))
    associations = b.get("FunctionAssociations", [])
    for association in associations:
        take(f"{where}.FunctionAssociations", association, ["EventType"], ["FunctionARN"])
        if association["EventType"] != "viewer-request":
            raise TemplateError(f"{where}: the local stack runs a function only for viewer-request")
    return Behaviour(b["PathPattern"].lstrip("/"), methods, compressed, own_headers, bool(associations))


def _encodings(resource: Resource) -> tuple[str, ...]:
    """Return the encodings that the policy allows. Its lifetimes have no effect: the local edge caches nothing."""
    config = take(resource.logical_id, resource.properties["CachePolicyConfig"],
                  ["ParametersInCacheKeyAndForwardedToOrigin"],
                  ["Name", "Comment", "MinTTL", "DefaultTTL", "MaxTTL"])  # fmt: skip
    key = take(resource.logical_id, config["ParametersInCacheKeyAndForwardedToOrigin"],
               ["EnableAcceptEncodingBrotli", "EnableAcceptEncodingGzip"],
               ["CookiesConfig", "HeadersConfig", "QueryStringsConfig"])  # fmt: skip
    return tuple(
        name
        for name, flag in (("br", "EnableAcceptEncodingBrotli"), ("gzip", "EnableAcceptEncodingGzip"))
        if key.get(flag)
    )


def _headers(resource: Resource) -> Mapping[str, str]:
    config = take(resource.logical_id, resource.properties["ResponseHeadersPolicyConfig"],
                  ["CustomHeadersConfig", "SecurityHeadersConfig", "CorsConfig"],
                  ["Name", "Comment", "RemoveHeadersConfig"])  # fmt: skip
    headers = {item["Header"]: item["Value"] for item in config.get("CustomHeadersConfig", {}).get("Items", [])}
    # Strict-Transport-Security is left out: a browser would apply it to everything else that runs on localhost.
    security = take(resource.logical_id, config.get("SecurityHeadersConfig", {}),
                    ["ContentTypeOptions", "FrameOptions", "ReferrerPolicy", "ContentSecurityPolicy"],
                    ["StrictTransportSecurity"])  # fmt: skip
    if "CorsConfig" in config:
        origins = config["CorsConfig"]["AccessControlAllowOrigins"]["Items"]
        headers["Access-Control-Allow-Origin"] = origins[0]
    if "ContentTypeOptions" in security:
        headers["X-Content-Type-Options"] = "nosniff"
    if "FrameOptions" in security:
        headers["X-Frame-Options"] = security["FrameOptions"]["FrameOption"]
    if "ReferrerPolicy" in security:
        headers["Referrer-Policy"] = security["ReferrerPolicy"]["ReferrerPolicy"]
    if "ContentSecurityPolicy" in security:
        headers["Content-Security-Policy"] = security["ContentSecurityPolicy"]["ContentSecurityPolicy"]
    return headers


_TAG: Final = "s3:ExistingObjectTag/"


def _readable(policies: Iterable[Resource]) -> tuple[tuple[tuple[str, frozenset[tuple[str, str]]], ...], bool]:
    """Return what CloudFront may read (see Edge.readable), and whether it may learn that a key is missing."""
    patterns: list[tuple[str, frozenset[tuple[str, str]]]] = []
    sees_missing = False
    for policy in policies:
        for statement in policy.take(["Bucket", "PolicyDocument"])["PolicyDocument"]["Statement"]:
            service = statement["Principal"].get("Service") if isinstance(statement["Principal"], dict) else None
            if statement["Effect"] != "Allow" or service != "cloudfront.amazonaws.com":
                continue  # transport security, and log delivery: neither exists here
            actions, resources = _listed(statement["Action"]), _listed(statement["Resource"])
            if "s3:GetObject" in actions:
                equal = statement.get("Condition", {}).get("StringEquals", {})
                tags = frozenset((n.removeprefix(_TAG), v) for n, v in equal.items() if n.startswith(_TAG))
                patterns += [(resource.split("/", 1)[1], tags) for resource in resources if "/" in resource]
            sees_missing = sees_missing or "s3:ListBucket" in actions
    return tuple(patterns), sees_missing


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
