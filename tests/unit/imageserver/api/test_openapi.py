"""The description of the API agrees with itself, the template and the function."""

from __future__ import annotations

import pytest

from imageserver.api.openapi import document
from local_stack.interpreter import read_wiring
from local_stack.template import StackIdentity
from tests.support import PROJECT


def test_the_description_resolves_all_its_references() -> None:
    described = document()

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

    names = {ref.removeprefix("#/components/schemas/") for ref in references(described)}
    assert names
    assert names <= described["components"]["schemas"].keys()


def test_the_description_has_exactly_the_routes_of_the_template_and_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routes = {
        f"{method.upper()} {path.replace('{path}', '{path+}')}"
        for path, methods in document()["paths"].items()
        for method in methods
    }
    template = PROJECT / "infra/template.yaml"
    wiring = read_wiring(template, {}, StackIdentity("uploads", "us-east-1"), "http://127.0.0.1:1")
    assert {f"{route.method} {route.path}" for route in wiring.routes} == routes
    monkeypatch.setenv("BUCKET", "bucket")
    from imageserver.handlers import uploads

    assert {*uploads.ROUTES, "GET /openapi.json"} == routes
