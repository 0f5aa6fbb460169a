"""How the edge's function handles each request. The deployed text runs in QuickJS."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from edge.embed import FUNCTION, TEMPLATE, embedded
from gates import stack
from local_stack.cloudfront_function import LARGEST_FUNCTION_BYTES
from tests.support.edge_views import (
    EXPIRED,
    FILE,
    LAB,
    ORPHAN,
    PRIVATE,
    PUBLIC,
    REVOKED,
    STABLE,
    STAGING,
    Edge,
    basic,
    mac,
    signed,
    token,
)

INDEX = "streams/v1/index.json"
WRONG = token("w")
UNUSABLE = {"wrong": WRONG, "expired": EXPIRED, "revoked": REVOKED, "of a view that is gone": ORPHAN}


@pytest.fixture(scope="module")
def shared() -> Edge:
    return Edge()


@pytest.fixture
def edge() -> Edge:
    return Edge()


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("/", "index.html"),
        ("/index.html", "index.html"),
        ("/api.html", "api.html"),
        ("/openapi.json", "openapi.json"),
        ("/streams/mirrors.json", "streams/mirrors.json"),  # the page reads when each server was last compared
        (f"/{INDEX}", INDEX),
        ("/streams/v1/images.json", "streams/v1/images.json"),
        ("/streams/v1/images.unlisted.json", "streams/v1/images.unlisted.json"),
        ("/streams/v1/images.atom", "streams/v1/images.atom"),
        (f"/{PUBLIC}", PUBLIC),
        (f"/{PUBLIC}".replace(":", "%3A"), PUBLIC),
        (f"/{PUBLIC}".replace("/", "%2f").replace("%2f", "/", 1), PUBLIC),
        ("/images/a~b/x", "images/a~b/x"),
        ("/images/a%7Eb/x", "images/a~b/x"),
        ("/images-daily/x", "images-daily/x"),
    ],
)
def test_public_documents_are_served_as_without_views(shared: Edge, uri: str, key: str) -> None:
    assert shared.ask(uri).key == key


@pytest.mark.parametrize("authorization", ["Bearer abc", "Digest username=x", "", "basicx YTpi"])
def test_a_scheme_that_is_not_basic_names_no_view(shared: Edge, authorization: str) -> None:
    assert shared.ask(f"/{PUBLIC}", authorization).key == PUBLIC


@pytest.mark.parametrize(
    "uri",
    [
        f"/{PRIVATE}",
        f"/{PRIVATE}".replace("-", "%2D"),
        "/images-staging",
        "/images-staging/",
        "/streams/v1/images-staging.json",
        "/streams/v1/images-staging.unlisted.json",
        "/streams/v1/images-staging.atom",
        "/streams/v1/images-st%61ging.json",
        f"/views/staging/{INDEX}",
        f"/%76iews/staging/{INDEX}",
        f"/views%2Fstaging/{INDEX}",
        "/views/staging.json",
        f"/views/stable/{INDEX}",
        "/versions/images/x.json",
        "/leases/x",
        "/mirrors/mirrors.json",
        "/maintain/x",
        f"/staging/{INDEX}",
        "/staging/",
        "/staging",
        f"/staging/{signed('staging', PRIVATE)}",
        f"/stable/{signed('staging', PRIVATE)}",
        f"/stable/{PRIVATE}",
        "/stable/views/staging.json",
        f"/stable/{STAGING}/{INDEX}",
        f"/STABLE/{INDEX}",
        "/images//x",
        "/images/../x",
        "/images/x/..",
        "/favicon.ico",
        "/images.txt",
        "/streams/v2/index.json",
        "/streams/v1/",
        "/streams/v1/a/images-staging.json",
        f"//stable/{INDEX}",
        f"/stable//{INDEX}",
        f"/stable/./{INDEX}",
        f"/stable/../views/staging/{INDEX}",
        f"/images/%2e%2e/views/staging/{INDEX}",
        f"/images/%252e/views/staging/{INDEX}",
        f"/images%5Cviews/{INDEX}",
        f"/images/a b/{INDEX}",
        f"/images/a+b/{INDEX}",
        f"/images/%00/{INDEX}",
        f"/images/%zz/{INDEX}",
        f"/images/%C3%A4/{INDEX}",
        f"/images/\u00e4/{INDEX}",
        "/images/" + "a" * 1200,
        "images/x",
        "",
    ],
)
def test_any_other_path_is_404_without_a_login(shared: Edge, uri: str) -> None:
    assert shared.ask(uri).status == 404


@pytest.mark.parametrize(
    "uri", [f"/{signed('staging', PRIVATE)}", f"/signed/{'x' * 22}/{PUBLIC}", "/signed", "/signed/"]
)
def test_a_file_of_a_view_without_a_token_asks_for_one(shared: Edge, uri: str) -> None:
    found = shared.ask(uri)
    assert (found.status, found.headers["www-authenticate"]) == (401, 'Basic realm="images", charset="UTF-8"')


BELOW = [
    ("", "index.html"),
    ("index.html", "index.html"),
    ("api.html", "api.html"),
    ("openapi.json", "openapi.json"),
    (INDEX, f"views/VIEW/{INDEX}"),
    ("streams/v1/images.unlisted.json", "views/VIEW/streams/v1/images.unlisted.json"),
    ("streams/v1/images-staging.json", "views/VIEW/streams/v1/images-staging.json"),
]


@pytest.mark.parametrize(("below", "key"), BELOW)
def test_an_address_with_a_right_gives_the_documents_of_its_view(shared: Edge, below: str, key: str) -> None:
    assert shared.ask(f"/{below}", basic(STAGING)).key == key.replace("VIEW", "staging")
    assert shared.ask(f"/{STAGING}/{below}").key == key.replace("VIEW", "staging")
    assert shared.ask(f"/{LAB}/{below}").key == key.replace("VIEW", "lab")
    assert shared.ask(f"/stable/{below}").key == key.replace("VIEW", "stable")
    assert shared.ask(f"/{STABLE}/{below}").key == key.replace("VIEW", "stable")


@pytest.mark.parametrize("key", [PRIVATE, PUBLIC, "images-lab/x~y/z", f"images-a-b/{FILE}"])
def test_a_file_is_served_to_the_view_that_signed_it(shared: Edge, key: str) -> None:
    for view, secret in (("staging", STAGING), ("lab", LAB), ("stable", STABLE)):
        path = signed(view, key)
        assert shared.ask(f"/{path}", basic(secret)).key == key
        assert shared.ask(f"/{secret}/{path}").key == key
        assert shared.ask(f"/{secret}/{path}".replace(":", "%3a")).key == key
    assert shared.ask(f"/stable/{signed('stable', key)}").key == key


@pytest.mark.parametrize(
    "below",
    [
        PRIVATE,
        PUBLIC,
        f"signed/{mac('lab', PRIVATE)}/{PRIVATE}",
        f"signed/{mac('staging', PRIVATE)}/{PUBLIC}",
        f"signed/{mac('staging', PRIVATE)[:-1]}/{PRIVATE}",
        f"signed/{mac('staging', PRIVATE)}x/{PRIVATE}",
        f"signed/{mac('staging', PRIVATE).swapcase()}/{PRIVATE}",
        f"signed//{PRIVATE}",
        f"signed/{mac('staging', 'versions/x.json')}/versions/x.json",
        f"signed/{mac('staging', 'views/lab.json')}/views/lab.json",
        f"signed/{mac('staging', 'images/')}/images/",
        "views/staging/streams/v1/index.json",
        "streams/v1/",
        "streams/v1/../../views/lab.json",
        "streams/v1/a/b.json",
        "streams/v2/index.json",
        "favicon.ico",
        f"{STAGING}/{INDEX}",
    ],
)
def test_a_token_opens_nothing_but_its_view(shared: Edge, below: str) -> None:
    assert shared.ask(f"/{below}", basic(STAGING)).status == 404
    assert shared.ask(f"/{STAGING}/{below}").status == 404


@pytest.mark.parametrize("below", ["", "index.html", INDEX, signed("staging", PRIVATE), PUBLIC, "nonsense"])
def test_wrong_expired_and_revoked_tokens_get_the_same_answer_after_the_same_look_ups(edge: Edge, below: str) -> None:
    with_login, in_path = set(), set()
    for secret in UNUSABLE.values():
        with_login.add((str(edge.ask(f"/{below}", basic(secret))), len(edge.reads)))
        in_path.add((str(edge.ask(f"/{secret}/{below}")), len(edge.reads)))
    assert len(with_login) == len(in_path) == 1
    assert edge.ask(f"/{below}", basic(WRONG)).status == 401
    assert edge.ask(f"/{WRONG}/{below}").status == 404
    edge.ask(f"/{below}", basic(STAGING))
    assert len(edge.reads) == 4, "as many as of a right token"
    edge.ask(f"/{WRONG}/{below}")
    assert len(edge.reads) == 4
    assert not any(secret in read for secret in UNUSABLE.values() for read in edge.reads), "hashes alone are looked up"


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic " + "QUJD" * 200,
        basic(STAGING) + " ",
        basic(STAGING) + ", " + basic(STAGING),
        basic(STAGING).replace("Basic ", "Basic\t"),
        basic(STAGING + "x"),
        basic(STAGING[:-1]),
        basic(" " + STAGING),
        basic(STAGING.upper()),
        basic("", STAGING),
        basic(STAGING, "a:b"),
        "Basic " + STAGING,
    ],
)
def test_a_login_of_another_form_is_refused(shared: Edge, authorization: str) -> None:
    assert shared.ask(f"/{INDEX}", authorization).status == 401


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "Basic  "])
def test_a_scheme_is_read_in_any_case(shared: Edge, scheme: str) -> None:
    authorization = basic(STAGING).replace("Basic", scheme, 1)
    assert shared.ask(f"/{INDEX}", authorization).key == f"views/staging/{INDEX}"


def test_two_logins_in_one_request_are_refused(shared: Edge) -> None:
    assert shared.ask(f"/{INDEX}", basic(STAGING), basic(STAGING)).status == 401


def test_any_label_will_do(shared: Edge) -> None:
    for label in ("", "host-2", "\u00e4"):
        assert shared.ask(f"/{INDEX}", basic(STAGING, label)).key == f"views/staging/{INDEX}"


def test_an_address_without_its_slash_leads_to_the_one_with_it(shared: Edge) -> None:
    for path in (f"/{STAGING}", "/stable"):
        found = shared.ask(path)
        assert (found.status, found.headers["location"]) == (302, f"{path}/")


def test_a_token_that_expires_closes_catalogs_and_files_at_once(edge: Edge) -> None:
    asked = [f"/{INDEX}", f"/{signed('staging', PRIVATE)}", "/"]
    assert all(edge.ask(uri, basic(STAGING)).key for uri in asked)
    edge.store = {key: value for key, value in edge.store.items() if not key.startswith("token:")}
    assert [edge.ask(uri, basic(STAGING)).status for uri in asked] == [401, 401, 401]


def test_each_index_that_a_token_opens_is_logged_by_the_tokens_label_and_nothing_else(edge: Edge) -> None:
    line = '{"view":"staging","label":"ci"}'
    for uri, login in ((f"/{INDEX}", basic(STAGING, "another")), (f"/{STAGING}/{INDEX}", "")):
        edge.ask(uri, *([login] if login else []))
        assert edge.logged == [line]
    for uri in ("/", "/streams/v1/images-staging.json", f"/{signed('staging', PRIVATE)}", "/nonsense"):
        edge.ask(uri, basic(STAGING))
        assert edge.logged == []
    for uri, secret in (
        (f"/{INDEX}", ""),
        (f"/stable/{INDEX}", ""),
        *((f"/{INDEX}", one) for one in UNUSABLE.values()),
    ):
        edge.ask(uri, *([basic(secret)] if secret else []))
        assert edge.logged == []


@pytest.mark.parametrize("label", [None, 7, "", "A b", "x" * 64, '"}', "a\n{}"])
def test_an_entry_without_a_label_opens_its_view_and_logs_nothing(edge: Edge, label: object) -> None:
    value = json.dumps({"view": "staging", "until": 0} | ({} if label is None else {"label": label}))
    edge.store = {key: value if key.startswith("token:") else kept for key, kept in edge.store.items()}
    assert edge.ask(f"/{INDEX}", basic(STAGING)).key == f"views/staging/{INDEX}"
    assert edge.logged == []


@pytest.mark.parametrize(
    "value",
    [
        *("", "x", "null", "[]", "{}", '{"view": "staging"}', '{"view": "staging", "until": "0"}'),
        *('{"view": "a/b", "until": 0}', '{"view": 7, "until": 0}'),
    ],
)
def test_an_unreadable_entry_opens_nothing(edge: Edge, value: str) -> None:
    edge.store = {key: value if key.startswith("token:") else kept for key, kept in edge.store.items()}
    assert edge.ask(f"/{INDEX}", basic(STAGING)).status == 401


def test_a_malformed_token_opens_nothing_even_if_the_store_has_it(edge: Edge) -> None:
    for secret in ("", "short", STAGING + "x", "sst_" + "+" * 32):
        entry = f"token:{hashlib.sha256(secret.encode()).hexdigest()}"
        edge.store[entry] = '{"view": "staging", "until": 0}'
        assert edge.ask(f"/{INDEX}", basic(secret)).status == 401


@pytest.mark.parametrize("value", ["x", "{}", '{"key": "AAAA", "public": true}', '{"key": 7, "public": true}'])
def test_an_unreadable_view_is_closed(edge: Edge, value: str) -> None:
    edge.store |= {"view:stable": value, "view:staging": value}
    assert edge.ask(f"/stable/{INDEX}").status == 404
    assert edge.ask(f"/{INDEX}", basic(STAGING)).status == 401


def test_an_empty_store_serves_what_is_public_and_denies_every_view(edge: Edge) -> None:
    edge.store = {}
    assert edge.ask(f"/{PUBLIC}").key == PUBLIC
    assert edge.ask(f"/{INDEX}").key == INDEX
    assert edge.ask(f"/{INDEX}", basic(STAGING)).status == 401
    assert edge.ask(f"/stable/{INDEX}").status == edge.ask(f"/{STAGING}/{INDEX}").status == 404


@pytest.mark.parametrize("value", ["", "x", "{}", '"images-staging"', "null"])
def test_no_stream_is_served_while_the_private_ones_cannot_be_read(edge: Edge, value: str) -> None:
    edge.store["private"] = value
    assert edge.ask(f"/{PUBLIC}").status == 503
    assert edge.ask("/streams/v1/images.json").status == 503
    assert edge.ask("/").key == "index.html"


def test_no_refusal_is_cached(shared: Edge) -> None:
    for uri in ("/views/x", "/signed/x", f"/{STAGING}"):
        assert shared.ask(uri).headers["cache-control"] == "no-store"


def test_the_template_embeds_this_text() -> None:
    template = TEMPLATE.read_text()
    assert template == embedded(template, FUNCTION.read_text()), "run python -m edge.embed"


def test_the_log_group_with_a_retention_is_the_one_that_cloudfront_writes_to() -> None:
    resources = stack.template()["Resources"]
    group, name = resources["ViewLogs"], resources["ViewFunction"]["Properties"]["Name"]["Fn::Sub"]
    assert group["Properties"]["LogGroupName"] == {"Fn::Sub": f"/aws/cloudfront/function/{name}"}
    assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert group["Condition"] == "HasViewLogs"


def test_the_text_is_small_enough_and_uses_only_syntax_of_the_runtime() -> None:
    """CloudFront Developer Guide, "JavaScript runtime 2.0 features": no await in an argument or a closure."""
    text = FUNCTION.read_text()
    assert len(text.encode()) <= LARGEST_FUNCTION_BYTES
    code = re.sub(r"//.*", "", text)
    assert all(
        re.fullmatch(r" *(const \w+ = )?await [\w.]+\(.*\);", line) for line in code.splitlines() if "await" in line
    )
    for absent in ("...", "?.", "??", "class ", " of ", "async (", "async function (", "Promise", "eval", "setTimeout"):
        assert absent not in code, absent
