"""The edge's function, run by CloudFront itself: what it decides, and how much of the allowed time it takes.

TestFunction runs the published code with the real store of views. No request passes the edge, and no token is needed.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cli.admin import aws_api
from cli.smoke import reader
from cli.smoke.run import Failed, Run, Skipped

MOST_PERCENT: Final = 70
"""CloudFront may throttle a function that takes more.

Source: CloudFront Developer Guide, "Understand compute utilization".
"""
LIVE: Final = "LIVE"
WRONG_TOKEN: Final = f"sst_{'x' * 32}"
"""Has the form of a token, so that the function takes the steps of a right one."""


class Probe(NamedTuple):
    """One request, and the status that the function must answer it with; 0: the request goes on unchanged."""

    doing: str
    uri: str
    status: int
    headers: Mapping[str, str] = {}


_BASIC: Final = f"Basic {base64.b64encode(f'smoke:{WRONG_TOKEN}'.encode()).decode()}"
PROBES: Final = (
    Probe("a public document", f"/{reader.INDEX}", 0),
    Probe("a wrong token in the path", f"/{WRONG_TOKEN}/{reader.INDEX}", 404),
    Probe("a wrong token as password", f"/{reader.INDEX}", 401, {"authorization": _BASIC}),
    Probe("a view's document by its key", f"/views/smoke/{reader.INDEX}", 404),
    Probe("a signed file without a token", f"/signed/{'x' * 22}/images/smoke", 401),
)


def edge_function(run: Run) -> str:
    """Check the function's decisions for requests without a right, and its compute utilization."""
    name = run.server.deployment.edge_function
    if not name:
        raise Skipped("this server's edge runs no function in CloudFront: it has no views there")
    cloudfront: Any = run.server.deployment.session.client("cloudfront")
    etag = aws_api.read(cloudfront.describe_function(Name=name, Stage=LIVE), aws_api.DescribedFunction).etag
    used = {probe.doing: _test(cloudfront, name, etag, probe) for probe in PROBES}
    slowest = max(used, key=lambda doing: used[doing])
    if used[slowest] > MOST_PERCENT:
        raise Failed(
            f"{name} takes {used[slowest]} % of the time that CloudFront allows for {slowest}, expected at most "
            f"{MOST_PERCENT} %: CloudFront may throttle it"
        )
    return f"at most {used[slowest]} % of the allowed time, for {slowest}"


def _test(cloudfront: Any, name: str, etag: str, probe: Probe) -> int:
    """Run the function for one request. Return its compute utilization in percent; Failed for a wrong decision."""
    # A viewer's request. Source: CloudFront Developer Guide, "CloudFront Functions event structure".
    headers = {name: {"value": value} for name, value in probe.headers.items()}
    request = {"method": "GET", "uri": probe.uri, "querystring": {}, "headers": headers, "cookies": {}}
    about = {"eventType": "viewer-request"}
    event = {"version": "1.0", "context": about, "viewer": {"ip": "192.0.2.1"}, "request": request}
    answer = cloudfront.test_function(Name=name, IfMatch=etag, Stage=LIVE, EventObject=json.dumps(event).encode())
    result = aws_api.read(answer, aws_api.TestedFunction).test_result
    if result.function_error_message:
        raise Failed(f"{name} fails for {probe.doing}: {result.function_error_message}")
    output = json.loads(result.function_output)
    found = output["response"]["statusCode"] if "response" in output else 0
    if found != probe.status or (found == 0 and output["request"]["uri"] != probe.uri):
        expected = f"an answer {probe.status}" if probe.status else "the request unchanged"
        raise Failed(f"{name} returns {json.dumps(output)[:200]} for {probe.doing}, expected {expected}")
    return int(result.compute_utilization)
