"""The running API against its own OpenAPI description, with requests that schemathesis makes up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from imageserver.api.openapi import document
from tests.support import upload_api
from tests.support.upload_api import System

schemathesis: Any = pytest.importorskip("schemathesis", reason="NOT TESTED, missing schemathesis: the group `contract`")
from hypothesis import HealthCheck, settings  # noqa: E402

api = schemathesis.openapi.from_dict(json.loads(json.dumps(document())))


NOT_OURS = [
    schemathesis.checks.ignored_auth,  # the authorizer is API Gateway's; the local stack believes a header
    schemathesis.checks.unsupported_method,  # so are routes; it answers 404 where there is none
    schemathesis.checks.positive_data_acceptance,  # that a date is real, a schema cannot say
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with upload_api.system("local", tmp_path_factory.mktemp("contract"), AllowDeletes="true") as running:
        yield running


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def _answer_is_as_described(system: System, case: Any) -> None:
    case.query.pop("wait", None) if case.query else None  # waiting is another test's too
    case.call_and_validate(
        base_url=system.api_url,
        headers={"X-Local-Caller": "local"},
        verify=str(system.ca_file),
        timeout=60,
        excluded_checks=NOT_OURS,
    )


# Not as a decorator: where schemathesis is missing it has no type, and mypy takes the function's too.
test_every_answer_is_as_described = api.parametrize()(_answer_is_as_described)
