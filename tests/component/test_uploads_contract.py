"""The running API and its own OpenAPI description: each status in it, and whatever schemathesis generates."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from imageserver.api.openapi import document
from imageserver.catalog.rights import Rights
from imageserver.format.keys import REQUEST_COUNTS
from imageserver.operations.view_documents import create_view
from imageserver.storage.s3 import S3Store
from tests.support import images, upload_api
from tests.support.extras import optional
from tests.support.upload_api import System
from tests.support.views import channel

schemathesis = optional("schemathesis", "contract")
from hypothesis import HealthCheck, settings  # noqa: E402  (schemathesis may be missing)

# One worker, so that the API is started once.
pytestmark = pytest.mark.xdist_group("uploads-contract")

DESCRIPTION: Final = json.loads(json.dumps(document()))
CONFIG: Final = {
    "checks": {
        # The schema of a path is a string: that it names a file, a real date, and something that is there, it cannot
        # say. But a request of the described shape is never "malformed".
        "positive_data_acceptance": {"expected-statuses": ["2xx", "403", "404", "409", "413", "422"]},
    }
}
api = schemathesis.openapi.from_dict(DESCRIPTION, config=schemathesis.Config.from_dict(CONFIG))
NOT_OURS: Final = [
    schemathesis.checks.ignored_auth,  # the authorizer is API Gateway's; the local stack believes a header
    schemathesis.checks.unsupported_method,  # so are routes: it answers 404 for an unknown one
]
OF_THE_GATEWAY: Final = {"500", "503"}
"""Statuses that only a storage fault causes. The unit tests of operations/withdraw.py cover those."""

PRODUCT: Final = "images/ubuntu/noble/amd64/default"
LISTED, WAITING, BROKEN, WITHDRAWN, TO_RESTORE, TO_WITHDRAW, DELETING = (
    f"{PRODUCT}/2026110{day}_10:00" for day in range(1, 8)
)
NEW: Final = f"{PRODUCT}/20261109_10:00"
EXAMPLE: Final = f"{PRODUCT}/20261123_10:00"
"""The one in the description: generated requests use it, so no case relies on its state."""
EAGER: Final = "eager"
"""A publisher that has used all its requests of the minute."""
PUBLISHERS: Final = {
    **upload_api.PUBLISHERS,
    "arn:aws:iam::123456789012:user/local": ["images*", "promote:stable", "promote:none", "check:boots"],
    f"arn:aws:iam::123456789012:user/{EAGER}": ["images/eager/"],
}
HUGE: Final = "x" * 300_000
ONE: Final = {"path": f"{NEW}/rootfs.squashfs", "size": 4096}
_METADATA, _ROOT = images.split_image(seed=LISTED).values()
RESULT: Final = {
    "path": LISTED,
    "check": "boots",
    "passed": True,
    "fingerprints": [images.sha256_hex(_METADATA + _ROOT)],
}
PROMOTION: Final = {"path": LISTED, "channel": "stable"}


def batch(version: str, **more: object) -> dict[str, object]:
    return {"version": version, "files": [{"file": "rootfs.squashfs", "size": 4096, **more}]}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Yield the API with versions that are listed, incomplete, refused, withdrawn and being deleted."""
    with upload_api.system(
        "local",
        tmp_path_factory.mktemp("contract"),
        AllowDeletes="true",
        MaxRequests="40",
        Publishers=json.dumps(PUBLISHERS),
        Views="true",
    ) as running:
        create_view(S3Store(running.s3, running.bucket), channel("stable"))
        for version in (LISTED, WITHDRAWN, TO_RESTORE, TO_WITHDRAW, DELETING, EXAMPLE):
            for name, body in images.split_image(seed=version).items():
                running.put(f"{version}/{name}", body)
        running.put(f"{WAITING}/rootfs.squashfs", images.squashfs(WAITING))
        running.put(f"{BROKEN}/incus.tar.xz", b"no tarball")
        for version in (LISTED, WAITING, BROKEN, WITHDRAWN, TO_RESTORE, TO_WITHDRAW, DELETING, EXAMPLE):
            running.ingest(version)
        for version in (WITHDRAWN, TO_RESTORE, DELETING):
            assert running.ask("DELETE", f"/{version}").status == 202
        record = running.stored(f"versions/{DELETING}.json")
        assert record
        final = record.replace(b'"since":', b'"final":true,"since":')  # as left by a killed prune
        running.s3.put_object(Bucket=running.bucket, Key=f"versions/{DELETING}.json", Body=final)
        yield running


def validated(system: System, case: Any, caller: str = "local", **headers: str) -> Any:
    """Send the request; check that the answer is as described, and return it."""
    return case.call_and_validate(
        base_url=system.api_url,
        headers={"X-Local-Caller": caller, **headers},
        verify=str(system.ca_file),
        timeout=60,
        excluded_checks=NOT_OURS,
    )


Sent = dict[str, Any]
CASES: Final[list[tuple[str, str, int, Sent]]] = [
    ("POST", "/uploads", 201, {"body": ONE}),
    ("POST", "/uploads", 201, {"body": {**ONE, "size": 200 << 20, "multipart": True}}),
    ("POST", "/uploads", 400, {"body": {"path": ONE["path"]}}),
    ("POST", "/uploads", 403, {"body": ONE, "caller": "team-a"}),
    ("POST", "/uploads", 409, {"body": {**ONE, "path": f"{LISTED}/rootfs.squashfs"}}),
    ("POST", "/uploads", 409, {"body": {**ONE, "path": f"{WITHDRAWN}/root.tar.xz"}}),
    ("POST", "/uploads", 413, {"body": {**ONE, "path": HUGE}}),
    ("POST", "/uploads", 422, {"body": {**ONE, "path": "images/ubuntu"}}),
    ("POST", "/uploads/batch", 201, {"body": batch(NEW)}),
    ("POST", "/uploads/batch", 400, {"body": {"version": NEW, "files": []}}),
    ("POST", "/uploads/batch", 403, {"body": batch(NEW), "caller": "team-a"}),
    ("POST", "/uploads/batch", 409, {"body": batch(LISTED, sha256="0" * 64)}),
    ("POST", "/uploads/batch", 413, {"body": batch(HUGE)}),
    ("POST", "/uploads/batch", 422, {"body": batch(f"{PRODUCT}/20261131_10:00")}),
    ("GET", "/versions/{path}", 200, {"path": LISTED}),
    ("GET", "/versions/{path}", 200, {"path": WAITING}),
    ("GET", "/versions/{path}", 200, {"path": BROKEN}),
    ("GET", "/versions/{path}", 200, {"path": WITHDRAWN}),
    ("GET", "/versions/{path}", 304, {"path": LISTED, "known": True}),
    ("GET", "/versions/{path}", 400, {"path": LISTED, "query": {"wait": "soon"}}),
    ("GET", "/versions/{path}", 403, {"path": LISTED, "caller": "team-a"}),
    ("GET", "/versions/{path}", 404, {"path": NEW}),
    ("GET", "/versions/{path}", 200, {"path": PRODUCT}),
    ("GET", "/versions/{path}", 422, {"path": "images/ubuntu"}),
    ("PATCH", "/versions/{path}", 200, {"path": TO_RESTORE, "body": {"withdrawn": False}}),
    ("PATCH", "/versions/{path}", 400, {"path": TO_RESTORE, "body": {"withdrawn": True}}),
    ("PATCH", "/versions/{path}", 403, {"path": TO_RESTORE, "body": {"withdrawn": False}, "caller": "team-a"}),
    ("PATCH", "/versions/{path}", 404, {"path": NEW, "body": {"withdrawn": False}}),
    ("PATCH", "/versions/{path}", 409, {"path": f"{WITHDRAWN}/rootfs.squashfs", "body": {"withdrawn": False}}),
    ("PATCH", "/versions/{path}", 413, {"path": TO_RESTORE, "body": {"withdrawn": HUGE}}),
    ("PATCH", "/versions/{path}", 422, {"path": "images/ubuntu", "body": {"withdrawn": False}}),
    ("DELETE", "/{path}", 202, {"path": TO_WITHDRAW}),
    ("DELETE", "/{path}", 403, {"path": LISTED, "caller": "team-a"}),
    ("DELETE", "/{path}", 404, {"path": NEW}),
    ("DELETE", "/{path}", 409, {"path": DELETING}),
    ("DELETE", "/{path}", 422, {"path": "images"}),
    ("GET", "/openapi.json", 200, {}),
    ("POST", "/promotions", 200, {"body": PROMOTION}),
    ("POST", "/promotions", 200, {"body": PROMOTION}),
    ("POST", "/promotions", 400, {"body": {**PROMOTION, "back": True, "require": ["boots"]}}),
    ("POST", "/promotions", 403, {"body": PROMOTION, "caller": "team-a"}),
    ("POST", "/promotions", 404, {"body": {**PROMOTION, "channel": "none"}}),
    ("POST", "/promotions", 409, {"body": {**PROMOTION, "path": WITHDRAWN}}),
    ("POST", "/promotions", 409, {"body": {**PROMOTION, "require": ["scan"]}}),
    ("POST", "/promotions", 413, {"body": {**PROMOTION, "path": HUGE}}),
    ("POST", "/promotions", 422, {"body": {**PROMOTION, "path": "images/ubuntu"}}),
    ("POST", "/promotions", 429, {"body": PROMOTION, "caller": EAGER}),
    ("POST", "/checks", 200, {"body": RESULT}),
    ("POST", "/checks", 400, {"body": {**RESULT, "fingerprints": []}}),
    ("POST", "/checks", 403, {"body": RESULT, "caller": "team-a"}),
    ("POST", "/checks", 404, {"body": {**RESULT, "path": NEW}}),
    ("POST", "/checks", 409, {"body": {**RESULT, "fingerprints": ["0" * 64]}}),
    ("POST", "/checks", 413, {"body": {**RESULT, "path": HUGE}}),
    ("POST", "/checks", 422, {"body": {**RESULT, "url": "javascript:x"}}),
    ("POST", "/checks", 429, {"body": RESULT, "caller": EAGER}),
    ("GET", "/versions/{path}", 200, {"path": LISTED}),
    ("POST", "/uploads", 429, {"body": ONE, "caller": EAGER}),
    ("POST", "/uploads/batch", 429, {"body": batch(NEW), "caller": EAGER}),
    ("GET", "/versions/{path}", 429, {"path": LISTED, "caller": EAGER}),
    ("PATCH", "/versions/{path}", 429, {"path": TO_RESTORE, "body": {"withdrawn": False}, "caller": EAGER}),
    ("DELETE", "/{path}", 429, {"path": LISTED, "caller": EAGER}),
]
"""Method, route, expected status, and what is sent."""


@pytest.mark.parametrize("accept", ["application/json", "text/plain"])
@pytest.mark.parametrize(("method", "route", "status", "sent"), CASES)
def test_every_status_of_the_description_is_answered_as_described(
    system: System, method: str, route: str, status: int, sent: Sent, accept: str
) -> None:
    case = api[route][method].Case(
        path_parameters={"path": sent["path"]} if "path" in sent else {},
        query=sent.get("query", {}),
        **({"body": sent["body"], "media_type": "application/json"} if "body" in sent else {}),
    )
    headers = {"Accept": accept}
    if sent.get("caller") == EAGER:
        spend(system)
    if "known" in sent:
        headers["If-None-Match"] = system.ask("GET", f"/versions/{sent['path']}").headers["etag"]
    answer = validated(system, case, sent.get("caller", "local"), **headers)
    assert answer.status_code == status, answer.text
    if status not in (304,) and route != "/openapi.json":
        assert answer.headers["content-type"][0].startswith("text/plain") == (accept == "text/plain")


def spend(system: System) -> None:
    """Make requests until every worker refuses them. The used-up count is written, since it would drain meanwhile."""
    publisher = Rights.parse(json.dumps(PUBLISHERS)).publisher(f"arn:aws:iam::123456789012:user/{EAGER}")
    key = f"{REQUEST_COUNTS}{hashlib.sha256(publisher.encode()).hexdigest()[:16]}.json"
    system.s3.put_object(Bucket=system.bucket, Key=key, Body=b'{"used": 1000000}')
    refused = 0
    while refused < 5:
        answer = system.ask("GET", f"/versions/{LISTED}", caller=EAGER)
        refused = refused + 1 if answer.status == 429 else 0


def test_every_status_of_the_description_has_a_case() -> None:
    tried: dict[tuple[str, str], set[str]] = defaultdict(set)
    for method, route, status, _ in CASES:
        tried[method, route].add(str(status))
    described = {
        (method.upper(), route): set(operation["responses"]) - OF_THE_GATEWAY
        for route, operations in DESCRIPTION["paths"].items()
        for method, operation in operations.items()
    }
    assert tried == described


def test_the_description_is_openapi() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DESCRIPTION).iter_errors()] == []


@api.parametrize()  # type: ignore[untyped-decorator]  # schemathesis has no types for it
@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_every_generated_request_is_answered_as_described(system: System, case: Any) -> None:
    case.query.pop("wait", None) if case.query else None  # another test covers waiting
    case.body = without_fractions(case.body)
    validated(system, case)


def without_fractions(value: Any) -> Any:
    """JSON Schema accepts 869.0 as an integer. The API requires 869, and its description says so in words."""
    if isinstance(value, dict):
        return {name: without_fractions(member) for name, member in value.items()}
    if isinstance(value, list):
        return [without_fractions(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
