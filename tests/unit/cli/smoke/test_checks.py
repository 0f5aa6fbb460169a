"""Each fault of a server fails the step of the smoke test that checks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from cli.smoke import checks, image
from cli.smoke.web import Answer
from tests.support.smoke_server import (
    API,
    EDGE,
    FOREIGN,
    OWN,
    S3,
    Change,
    FakeServer,
    smoked,
    steps_of,
)


def header(**changed: str) -> Change:
    """Return a fault that changes headers; an empty value removes one. Names have _ for -."""
    names = {name.replace("_", "-"): value for name, value in changed.items()}
    return lambda answer: replace(
        answer, headers={name: value for name, value in {**answer.headers, **names}.items() if value}
    )


def body(change: Callable[[bytes], bytes]) -> Change:
    return lambda answer: replace(answer, body=change(answer.body)) if answer.status == 200 else answer


def code(status: int) -> Change:
    return lambda answer: replace(answer, status=status)


def no_answer(_: Answer) -> Answer:
    raise ConnectionError("refused")


FILES = f"GET {EDGE}/{OWN[0]}/2*"
INDEX = f"GET {EDGE}/streams/v1/index.json"
DOCUMENT = f"GET {EDGE}/streams/v1/images-smoke.json"


@pytest.mark.parametrize(
    ("where", "fault", "step", "words"),
    [
        (FILES, body(lambda b: b[:-1] + bytes([b[-1] ^ 1])), "download", "has sha256"),
        (FILES, body(lambda b: b[:-1]), "download", "bytes, expected"),
        (FILES, header(content_encoding="gzip"), "download", "which breaks its sha256"),
        (FILES, header(content_type="text/html"), "download", "expected application/octet-stream"),
        (FILES, header(cache_control=""), "download", "expected immutable and a long max-age"),
        (FILES, code(200), "missing", "answers 200, expected 404"),
        (f"GET {EDGE}/streams/v1/no-such*", code(403), "missing", "answers 403, expected 404"),
        (FILES, header(cache_control="public, max-age=31536000, immutable"), "missing", "would outlive an upload"),
        (f"GET {EDGE}/streams/v1/no-such*", code(200), "missing", "answers 200, expected 404"),
        (f"GET {EDGE}/streams/v1/images.json", code(503), "catalog", "images.json answers 503, expected 200"),
        (f"GET {EDGE}/streams/v1/images.json", body(lambda b: b.replace(b'"size":', b'"size":"1","s":')), "catalog",
         "no client can read it"),
        (INDEX, header(content_type="text/plain"), "catalog", "expected application/json"),
        (INDEX, header(cache_control="max-age=31536000, immutable"), "catalog", "expected at most 300 s"),
        (INDEX, header(content_encoding="br"), "catalog", "Content-Encoding br"),
        (INDEX, header(content_encoding="gzip"), "catalog", "says that it is gzip, and is not"),
        (DOCUMENT, body(lambda b: b.replace(b'"sha256":"', b'"sha256":"0')), "entry", "other files, sizes or digests"),
        (DOCUMENT, body(lambda b: b.replace(b'rootxz_sha256":"', b'rootxz_sha256":"0')), "entry", "the fingerprint 0"),
        (DOCUMENT, body(lambda b: b.replace(b'"ftype":"incus.tar.xz"', b'"ftype":"other"')), "entry",
         "listed for lxd, expected once for each of incus, lxd"),
        (DOCUMENT, body(lambda b: b.replace(b"smoke-test/deployment/check", b"smoke-test/other")), "entry", "aliases"),
        (f"GET {EDGE}/", code(404), "page", "answers 404, expected the page"),
        (f"GET {EDGE}/", body(lambda _: b"{}"), "page", "is no HTML document"),
        (f"GET {API}/openapi.json", code(500), "api", "answers 500, expected 200"),
        (f"GET {API}/openapi.json", body(lambda _: b"[]"), "api", "is no OpenAPI document"),
        (f"GET {API}/versions/*", code(200), "stranger", "expected 401 or 403"),
        (f"GET {API}/versions/*", body(lambda b: b.replace(b"listed", b"incomplete")), "status", "says incomplete"),
        (f"POST {API}/*", code(500), "upload", "the API answers 500 for an upload"),
        (f"PUT {S3}/*", code(403), "upload", "S3 answers 403 for the PUT of images-smoke/"),
        ("GET http://*", code(200), "redirect", "answers 200"),
        ("GET http://*", header(location=f"{EDGE}/elsewhere"), "redirect", "expected a redirect to https"),
        ("GET http://*", no_answer, "redirect", "so port 80 must answer"),
    ],
)  # fmt: skip
def test_each_fault_fails_its_step_and_the_image_is_still_removed(
    fake: FakeServer, where: str, fault: Change, step: str, words: str
) -> None:
    fake.faults[where] = fault
    done = smoked("--json", code=1)
    result, detail = steps_of(done)[step]
    assert (result, words in detail) == ("failed", True), detail
    assert json.loads(done.stdout)["left"] is False
    assert fake.left() == []


def test_a_product_that_has_an_alias_of_the_test_image_is_named_and_nothing_is_uploaded(fake: FakeServer) -> None:
    taken = json.dumps({"aliases": [image.ALIASES[1]]}).encode()
    fake.system.upload(FOREIGN, {"metadata.json": taken})
    fake.system.catch_up()
    done = smoked("--json", code=1)
    result, detail = steps_of(done)["upload"]
    assert (result, f"has the alias {image.ALIASES[1]}" in detail) == ("failed", True)
    assert steps_of(done)["withdraw"] == ("skipped", "nothing was uploaded")
    assert fake.left() == []


def test_an_empty_server_without_an_index_fails_only_the_catalog_step(fake: FakeServer) -> None:
    fake.system.store.objects.clear()
    done = steps_of(smoked("--json", code=1))
    assert {name for name, (result, _) in done.items() if result == "failed"} == {"catalog"}
    assert "`admin reconcile` lays it out" in done["catalog"][1]


def test_a_distribution_that_still_serves_deleted_files_is_found(fake: FakeServer) -> None:
    kept: list[Answer] = []

    def keep(answer: Answer) -> Answer:
        if answer.status == 200:
            kept.append(answer)
        return kept[0]

    fake.faults[f"{FILES}.tar.xz"] = keep
    done = smoked("--json", code=1)
    result, detail = steps_of(done)["gone"]
    assert (result, "the edge still has it" in detail) == ("failed", True)


def test_a_server_that_answers_403_for_missing_keys_passes_with_that_check_skipped(fake: FakeServer) -> None:
    fake.faults[f"GET {EDGE}/*"] = lambda answer: replace(answer, status=403) if answer.status == 404 else answer
    assert "expected 404" in steps_of(smoked("--json", code=1))["missing"][1]
    smoked("--skip", "missing")


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [("public, max-age=31536000, immutable", 31536000), ("s-maxage=9,max-age=30", 30), ("no-store", 0), ("", 0)],
)
def test_each_kind_of_answer_has_its_lifetime(cache_control: str, seconds: int) -> None:
    assert checks.max_age_s({"cache-control": cache_control}) == seconds
