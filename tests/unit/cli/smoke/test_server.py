"""How the smoke test calls the API."""

from __future__ import annotations

from dataclasses import replace

import boto3
import pytest

from cli.admin.deployment import Deployment
from cli.smoke.web import Answer
from tests.support.smoke_server import (
    API,
    FakeServer,
    found,
)


def test_a_busy_api_is_retried(fake: FakeServer) -> None:
    answers = iter([503, 429, 200])
    fake.faults[f"GET {API}/*"] = lambda answer: replace(answer, status=next(answers))
    assert found(fake).call("GET", "openapi.json").status == 200


def test_a_caller_in_aws_is_identified_by_a_signature_or_a_token(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[dict[str, str]] = []

    def ask(_url: str, _method: str, headers: dict[str, str], _body: bytes | None) -> Answer:
        received.append(headers)
        return Answer(200, {}, b"")

    monkeypatch.setattr(fake, "ask", ask)
    session = boto3.Session("AKIAEXAMPLE", "secret", "token", region_name="eu-central-1")
    caller = replace(found(fake), deployment=Deployment(session, "images-1"))
    caller.call("POST", "uploads/batch", b"{}")
    monkeypatch.setenv("SIMPLESTREAMS_TOKEN", "abc")
    caller.call("GET", "versions/x")
    signed, bearer = received
    assert "/eu-central-1/execute-api/aws4_request" in signed["Authorization"]
    assert signed["X-Amz-Security-Token"] == "token"
    assert bearer == {"Authorization": "Bearer abc"}
