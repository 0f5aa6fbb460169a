"""The edge's function in engines other than the tests' own: it uses only syntax of small runtimes.

njs is one of them: ES5.1 with the parts of later editions that CloudFront Functions name, and with its own `crypto`
and `Buffer`. It must decide like QuickJS.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.embed import FUNCTION
from tests.support.edge_views import (
    EXPIRED,
    LAB,
    PRIVATE,
    PUBLIC,
    STABLE,
    STAGING,
    Answer,
    answer,
    basic,
    entries,
    shared,
    signed,
    token,
)
from tests.support.processes import need, run

INDEX = "streams/v1/index.json"
SECRETS = (STAGING, LAB, STABLE, EXPIRED, token("w"), "short")
REQUESTS = [
    (uri, login)
    for below in ("", "index.html", INDEX, PUBLIC, PRIVATE, "views/lab.json", "nonsense", "a/../b", "%2e%2e",
                  *(signed(view, key) for view in ("staging", "lab", "stable") for key in (PUBLIC, PRIVATE)))
    for uri in (f"/{below}", f"/stable/{below}", f"/{STAGING}/{below}", f"/{EXPIRED}/{below}",
                f"/{below}".replace(":", "%3A").replace("-", "%2d"))
    for login in ("", "Bearer x", "Basic !", *(basic(secret) for secret in SECRETS))
]  # fmt: skip
HARNESS = """
async function all() {
    for (let i = 0; i < REQUESTS.length; i++) {
        const headers = REQUESTS[i][1] ? { authorization: { value: REQUESTS[i][1] } } : {};
        const result = await handler({ request: { method: 'GET', uri: REQUESTS[i][0], headers: headers } });
        console.log(JSON.stringify({ decided: result }));
    }
}
all();
"""
STORE = """
const cf = { kvs: () => ({
    get: async (key) => { if (!(key in ENTRIES)) { throw new Error('KeyNotFound'); } return ENTRIES[key]; },
    exists: async (key) => key in ENTRIES,
}) };
"""


def decided(engine: str, folder: Path) -> list[Answer]:
    """Return what the function decides in an engine for each request."""
    known = f"const ENTRIES = {json.dumps(entries())};\nconst REQUESTS = {json.dumps(REQUESTS)};\n"
    script = folder / "views.js"
    script.write_text(known + STORE + FUNCTION.read_text().replace("import cf from 'cloudfront';\n", "") + HARNESS)
    lines = [json.loads(line) for line in run(engine, script).stdout.splitlines()]
    return [answer(line["decided"]) for line in lines if "decided" in line]  # the others are what the function logs


@pytest.mark.parametrize("engine", ["njs", "node"])
def test_every_engine_decides_the_same(engine: str, tmp_path: Path) -> None:
    need(engine)
    expected = [shared().ask(uri, *([login] if login else [])) for uri, login in REQUESTS]
    assert decided(engine, tmp_path) == expected
    assert {found.status for found in expected} == {0, 401, 404}
