"""The step that lets CloudFront run the edge's function: botocore makes the requests, the real function the answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final
from xml.etree import ElementTree

import boto3
import pytest

from cli.smoke import edge_function as step
from cli.smoke import server
from cli.smoke.image import build
from cli.smoke.run import Failed, Run, Skipped
from cli.smoke.web import Web
from local_stack.cloudfront_function import EdgeFunction
from tests.support import PROJECT
from tests.support.smoke_server import EDGE, FakeServer, smoked, steps_of

SOURCE: Final = (PROJECT / "infra/edge/views.js").read_text()
NAME: Final = "images-eu-central-1"
_XML: Final = "{http://cloudfront.amazonaws.com/doc/2020-05-31/}"


class CloudFront:
    """Answers botocore's requests before they are sent. `run` returns the function's output for an event."""

    def __init__(self, run: Callable[[dict[str, Any]], dict[str, Any]], percent: int = 21) -> None:
        self.run, self.percent, self.error = run, percent, ""
        self.session = boto3.Session("AKIAEXAMPLE", "secret", region_name="eu-central-1")
        events: Any = self.session.events  # botocore's stubs know no handler that returns an answer
        events.register("before-call.cloudfront.DescribeFunction", self._describe)
        events.register("before-call.cloudfront.TestFunction", self._test)
        self.events: list[dict[str, Any]] = []

    def _describe(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        assert params["url_path"] == f"/2020-05-31/function/{NAME}/describe"
        assert params["query_string"] == {"Stage": "LIVE"}
        return SimpleNamespace(status_code=200), {"ETag": "E1", "FunctionSummary": {"Name": NAME}}

    def _test(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        assert (params["url_path"], params["headers"]["If-Match"]) == (f"/2020-05-31/function/{NAME}/test", "E1")
        sent = ElementTree.fromstring(params["body"]).findtext(f"{_XML}EventObject")  # noqa: S314 - botocore made it
        assert sent
        self.events.append(json.loads(base64.b64decode(sent)))
        result = {"ComputeUtilization": str(self.percent), "FunctionErrorMessage": self.error}
        return SimpleNamespace(status_code=200), {
            "TestResult": {**result, "FunctionOutput": json.dumps(self.run(self.events[-1]))}
        }


def decided(event: dict[str, Any], source: str = SOURCE) -> dict[str, Any]:
    """Return what the function makes of an event, in the shape of FunctionOutput."""
    request = event["request"]
    headers = [(name, about["value"]) for name, about in request["headers"].items()]
    found = dict(EdgeFunction(source, lambda _: None).run(request["method"], request["uri"], headers))
    return {"response": found} if "statusCode" in found else {"request": found}


def run_of(cloudfront: CloudFront, name: str = NAME) -> Run:
    deployment: Any = SimpleNamespace(session=cloudfront.session, edge_function=name)
    return Run(server.Server(deployment, EDGE, "", Web("")), build(datetime(2026, 11, 25, tzinfo=UTC), (), "t"), 1)


def test_the_function_that_is_deployed_decides_every_probe_as_expected() -> None:
    cloudfront = CloudFront(decided)
    assert step.edge_function(run_of(cloudfront)) == "at most 21 % of the allowed time, for a public document"
    assert [event["request"]["uri"] for event in cloudfront.events] == [probe.uri for probe in step.PROBES]
    assert {event["context"]["eventType"] for event in cloudfront.events} == {"viewer-request"}


@pytest.mark.parametrize(
    ("good", "bad", "doing"),
    [
        ("return view === NOBODY ? challenge() : serve(request, key);", "return serve(request, path);", "as password"),
        ("if (view === NOBODY) {", "if (false) {", "in the path"),
        ("if (first === 'signed') {", "if (false) {", "a signed file"),
        ("return document !== null || PAGE.test(path.slice(1));", "return true;", "a view's document"),
        ("return document !== null || PAGE.test(path.slice(1));", "return false;", "a public document"),
        ("    request.uri = path;\n", "    request.uri = '/index.html';\n", "a public document"),
    ],
    ids=["password", "path", "signed", "key", "public", "rewritten"],
)
def test_a_function_that_decides_wrongly_fails_the_step(good: str, bad: str, doing: str) -> None:
    assert SOURCE.count(good) == 1
    broken = SOURCE.replace(good, bad)
    if doing == "in the path":
        broken = broken.replace("return slash < 0 ? redirect(path + '/') : serve(request, key);", "return request;")
    with pytest.raises(Failed, match=f"returns .* for .*{doing}.*, expected"):
        step.edge_function(run_of(CloudFront(lambda event: decided(event, broken))))


@pytest.mark.parametrize(("percent", "is_fast"), [(70, True), (71, False)])
def test_a_function_that_takes_too_much_of_its_time_fails_the_step(percent: int, is_fast: bool) -> None:
    run = run_of(CloudFront(decided, percent))
    if is_fast:
        assert step.edge_function(run).startswith("at most 70 %")
    else:
        with pytest.raises(Failed, match="takes 71 % of the time that CloudFront allows"):
            step.edge_function(run)


def test_a_function_that_throws_fails_the_step_with_its_error() -> None:
    cloudfront = CloudFront(lambda _: {})
    cloudfront.error = "ReferenceError: kvs is not defined"
    with pytest.raises(Failed, match="fails for a public document: ReferenceError"):
        step.edge_function(run_of(cloudfront))


def test_a_server_without_views_skips_the_step(fake: FakeServer) -> None:
    assert fake
    with pytest.raises(Skipped, match="no views"):
        step.edge_function(run_of(CloudFront(decided), name=""))
    assert steps_of(smoked("--json"))["function"][0] == "skipped"
