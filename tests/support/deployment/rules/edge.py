"""CloudFront: its origin, what it answers and compresses, its cache lifetimes, and its log."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from edge.embed import FUNCTION
from gates.stack import Stack
from tests.support.deployment.rules.registry import differ, rule

# Seconds. The catalog's are short, because they are what a new image waits for; a file never changes.
MOST_CATALOG_S: Final = 60
IMAGE_S: Final = 365 * 24 * 3600
MOST_ERROR_S: Final = 10
SIGNED: Final = "signed/*"
IMAGES: Final = ("images*", SIGNED, f"*/{SIGNED}")
"""Path patterns of images."""
_LIFETIMES: Final = frozenset({"cache-control", "expires", "pragma"})
"""Headers that say how long an answer may be kept."""


def edge(stack: Stack) -> Mapping[str, Any]:
    config: Mapping[str, Any] = stack.properties("Distribution")["DistributionConfig"]
    return config


def behaviours(stack: Stack) -> dict[str, Mapping[str, Any]]:
    """Return path pattern → behaviour, in order; `*` is the default one."""
    config = edge(stack)
    return {b["PathPattern"]: b for b in config.get("CacheBehaviors", [])} | {"*": config["DefaultCacheBehavior"]}


def policy_of(stack: Stack, behaviour: Mapping[str, Any], which: str) -> Mapping[str, Any]:
    """Return the cache policy (`CachePolicy`) or headers policy (`ResponseHeadersPolicy`) of a behaviour."""
    logical_id = str(behaviour.get(f"{which}Id", "")).removeprefix("images-")
    config: Mapping[str, Any] = stack.properties(logical_id)[f"{which}Config"]
    return config


def has_views(stack: Stack) -> bool:
    return bool(stack.of_type("AWS::CloudFront::Function"))


@rule
def the_function_decides_each_request(stack: Stack) -> Iterator[str]:
    """With views it runs before the cache. Without them there is no function, no store and no reference to them."""
    functions = stack.of_type("AWS::CloudFront::Function")
    yield from differ("stores", len(stack.of_type("AWS::CloudFront::KeyValueStore")), len(functions))
    wanted = [{"EventType": "viewer-request", "FunctionARN": "images-ViewFunction.FunctionARN"}] if functions else None
    for pattern, behaviour in behaviours(stack).items():
        yield from differ(f"{pattern} function", behaviour.get("FunctionAssociations"), wanted)
    for function in functions.values():
        yield from differ("the function", function["FunctionCode"], FUNCTION.read_text())
        yield from differ("its runtime", function["FunctionConfig"]["Runtime"], "cloudfront-js-2.0")
        yield from differ("it is live", function["AutoPublish"], True)
    statements = stack.properties("BucketPolicy")["PolicyDocument"]["Statement"]
    of_views = [s["Resource"] for s in statements if "/views/" in str(s["Resource"])]
    bucket = stack.properties("Bucket")["BucketName"]
    expected = [f"arn:aws:s3:::{bucket}/views/*/streams/*"] if functions else []
    yield from differ("what it may read of views", of_views, expected)


@rule
def the_log_of_the_function_is_deleted_after_it(stack: Stack) -> Iterator[str]:
    """Lines that arrive after the group is deleted would make CloudFront create it again, and block the next stack."""
    waits = stack.raw["Resources"]["ViewFunction"].get("Metadata", {}).get("WaitsFor", {})
    if {"Ref": "ViewLogs"} not in waits.get("Fn::If", []):
        yield "ViewFunction must refer to ViewLogs, or the group may be deleted before the function"


@rule
def the_bucket_answers_the_edge_alone(stack: Stack) -> Iterator[str]:
    control = stack.of_type("AWS::CloudFront::OriginAccessControl")
    for origin in edge(stack)["Origins"]:
        name = str(origin.get("OriginAccessControlId", "")).removeprefix("images-").removesuffix(".Id")
        if name not in control:
            yield f"origin {origin['Id']} has no origin access control"
            continue
        config = control[name]["OriginAccessControlConfig"]
        found = (config["OriginAccessControlOriginType"], config["SigningBehavior"], config["SigningProtocol"])
        yield from differ("origin access control", found, ("s3", "always", "sigv4"))


@rule
def the_edge_speaks_https_and_only_reads(stack: Stack) -> Iterator[str]:
    config = edge(stack)
    yield from differ("HTTP versions", config.get("HttpVersion"), "http2and3")
    yield from differ("IPv6", config.get("IPV6Enabled"), True)
    yield from differ("the root", config.get("DefaultRootObject"), "index.html")
    of_views = [SIGNED, f"*/{SIGNED}", "*/streams/*"] if has_views(stack) else []
    yield from differ("path patterns", list(behaviours(stack)), ["streams/*", "images*", *of_views, "*"])
    for pattern, behaviour in behaviours(stack).items():
        wanted = "https-only" if pattern in of_views else "redirect-to-https"
        yield from differ(f"{pattern} protocol", behaviour["ViewerProtocolPolicy"], wanted)
        yield from differ(f"{pattern} methods", sorted(behaviour["AllowedMethods"]), ["GET", "HEAD"])
    certificate = config["ViewerCertificate"]
    if "AcmCertificateArn" in certificate and certificate.get("MinimumProtocolVersion", "") < "TLSv1.2_2021":
        yield f"TLS: {certificate.get('MinimumProtocolVersion')} admits less than 1.2"


@rule
def only_json_is_compressed(stack: Stack) -> Iterator[str]:
    for pattern, behaviour in behaviours(stack).items():
        wanted = pattern not in IMAGES
        key = policy_of(stack, behaviour, "CachePolicy")["ParametersInCacheKeyAndForwardedToOrigin"]
        yield from differ(f"{pattern} compression", behaviour.get("Compress"), wanted)
        yield from differ(f"{pattern} gzip", key["EnableAcceptEncodingGzip"], wanted)
        yield from differ(f"{pattern} query strings", key["QueryStringsConfig"]["QueryStringBehavior"], "none")


@rule
def lifetimes_are_short_for_the_catalog_and_long_for_images(stack: Stack) -> Iterator[str]:
    for pattern, behaviour in behaviours(stack).items():
        cache = policy_of(stack, behaviour, "CachePolicy")
        times = {name: int(cache[name]) for name in ("MinTTL", "DefaultTTL", "MaxTTL")}
        if not times["MinTTL"] <= times["DefaultTTL"] <= times["MaxTTL"]:
            yield f"{pattern}: lifetimes out of order: {times}"
        if pattern in IMAGES:
            yield from differ(f"{pattern} lifetime", times, {"MinTTL": 0, "DefaultTTL": IMAGE_S, "MaxTTL": IMAGE_S})
        elif times["MaxTTL"] > MOST_CATALOG_S:
            yield f"{pattern}: the edge may keep it for {times['MaxTTL']} s, at most {MOST_CATALOG_S} s is right"


@rule
def errors_carry_no_lifetime(stack: Stack) -> Iterator[str]:
    """CloudFront puts a headers policy on errors too. Each object is stored with its own lifetime instead."""
    for pattern, behaviour in behaviours(stack).items():
        policy = policy_of(stack, behaviour, "ResponseHeadersPolicy")
        for item in policy.get("CustomHeadersConfig", {}).get("Items", []):
            if item["Header"].lower() in _LIFETIMES:
                yield f"{pattern}: its headers policy says {item['Header']}: {item['Value']}, also for a 404"
        for item in policy.get("RemoveHeadersConfig", {}).get("Items", []):
            if item["Header"].lower() in _LIFETIMES:
                yield f"{pattern}: its headers policy takes the {item['Header']} of objects away"


@rule
def errors_stay_errors(stack: Stack) -> Iterator[str]:
    responses = {int(r["ErrorCode"]): r for r in edge(stack).get("CustomErrorResponses", [])}
    yield from differ("errors with a lifetime", responses.keys(), {403, 404, 500, 502, 503, 504})
    for code, response in responses.items():
        for key in ("ResponseCode", "ResponsePagePath"):
            if key in response:
                yield f"{code}: {key} {response[key]} puts a page in place of an error"
        if int(response.get("ErrorCachingMinTTL", 10)) > MOST_ERROR_S:
            yield f"{code} is remembered for {response['ErrorCachingMinTTL']} s, at most {MOST_ERROR_S} s is right"


@rule
def responses_carry_security_headers(stack: Stack) -> Iterator[str]:
    for pattern, behaviour in behaviours(stack).items():
        headers = policy_of(stack, behaviour, "ResponseHeadersPolicy").get("SecurityHeadersConfig", {})
        missing = {"ContentTypeOptions", "FrameOptions", "ReferrerPolicy", "StrictTransportSecurity"} - headers.keys()
        yield from (f"{pattern}: no {name}" for name in sorted(missing))
        policy = headers.get("ContentSecurityPolicy", {}).get("ContentSecurityPolicy", "")
        for directive in ("default-src 'none'", "frame-ancestors 'none'"):
            if directive not in policy.split("; "):
                yield f"{pattern}: Content-Security-Policy lacks {directive}"


@rule
def access_is_logged(stack: Stack) -> Iterator[str]:
    logs = edge(stack).get("Logging", {}).get("Bucket", "")
    yield from differ("the edge's access logs", logs.split(".")[0], "images-logsbucket")
    found = stack.properties("Bucket").get("LoggingConfiguration", {}).get("DestinationBucketName")
    yield from differ("the bucket's access logs", found, "images-logsbucket")
