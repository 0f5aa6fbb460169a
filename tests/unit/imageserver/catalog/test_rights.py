"""Who may upload what: each rule, each caller, and the rules that are refused."""

from __future__ import annotations

import json

import pytest

from imageserver.api import uploads
from imageserver.api.permissions import caller_of
from imageserver.api.problems import Problem
from imageserver.catalog.rights import BadRule, Rights, role_of
from imageserver.format.keys import parse_product

PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"


CI = "arn:aws:iam::111122223333:role/ci"
ALLOWED = [
    (["images/team-a/"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["images/team-a"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["images/team-a/*"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["team-a/*"], "images/team-a/noble/amd64/default/20261123/x", True),
    (["team-a"], "images/team-a/noble/amd64/default", True),
    (["images/team-a/noble/arm64"], "images/team-a/noble/amd64/default", False),
    (["images/*/noble"], "images/any/noble/amd64/default", True),
    (["images/*/noble"], "images/any/thing/noble/amd64/default", False),
    (["*"], "images-daily/a/b/amd64/d", True),
    (["images*"], "images-daily/a/b/amd64/d", True),
    (["images"], "images-daily/a/b/amd64/d", False),
    (["images-daily/"], "images/a/b/amd64/d", False),
    (["images/team"], "images/team-a/noble/amd64/default", False),
    (["images/team-a/noble"], "images/team-a", False),
    (["images/team.a"], "images/teamXa/noble/amd64/default", False),
    ([], "images/a/b/amd64/d", False),
    (["debian", "images/a/"], "images/a/b/amd64/d", True),
    (["*/noble/amd64"], "images-daily/noble/amd64/default", True),
    (["images/*/noble*"], "images/any/noble-beta/amd64/default", True),
    (["images/*/noble*"], "images/any/thing/noble/amd64/default", False),
    (["images/*/noble*"], "images/X/noble/amd64/default", True),
    (["images/*/noble"], "images/X/noble/amd64/default", True),
    (["images/TEX/"], "images/TEX/noble/amd64/default", True),
]


@pytest.mark.parametrize(("prefixes", "path", "expected"), ALLOWED)
def test_a_caller_can_write_only_below_its_prefixes(prefixes: list[str], path: str, expected: bool) -> None:
    assert Rights.parse(f'{{"{CI}": {prefixes}}}'.replace("'", '"')).allow(CI, path) is expected


CALLERS = [
    (CI, CI, True),
    (CI, "arn:aws:iam::111122223333:role/ci-other", False),
    (CI, "arn:aws:sts::111122223333:assumed-role/ci/session-1", True),
    (CI, "arn:aws:sts::999999999999:assumed-role/ci/session-1", False),
    (CI, "arn:aws:sts::111122223333:assumed-role/admin/ci", False),
    ("repo:org/name:ref:refs/heads/main", "repo:org/name:ref:refs/heads/main", True),
    ("repo:org/name:ref:refs/heads/main", "repo:org/name:ref:refs/heads/main2", False),
    ("repo:org/*:ref:refs/heads/main", "repo:org/other:ref:refs/heads/main", True),
    ("repo:org/*:ref:refs/heads/main", "repo:org/x:ref:refs/heads/evil:ref:refs/heads/main", False),
    ("repo:org/name:*", "repo:org/name:pull_request", True),
    ("repo:org/*:ref:refs/heads/*", "repo:org/x:ref:refs/heads/main", True),
    ("repo:org/*:ref:refs/heads/*", "repo:org/x:evil:ref:refs/heads/main", False),
    ("repo:org/*:ref:refs/heads/*", "repo:org/x/y:ref:refs/heads/main", False),
    ("repo:org/*:ref:refs/heads/main", "repo:org/X:ref:refs/heads/main", True),
    ("repo:org/name:*", "repo:org/name2:ref:refs/heads/main", False),
    ("repo:org@1/name@22:ref:refs/heads/main", "repo:org@1/name@22:ref:refs/heads/main", True),
    ("repo:org@1/name@22:ref:refs/heads/main", "repo:org@9/name@22:ref:refs/heads/main", False),
    ("repo:org@1/*", "repo:org@1/other@33:ref:refs/heads/main", True),
    ("repo:org@1/*", "repo:org@11/other@33:ref:refs/heads/main", False),
    ("repo:org/*", "repo:org@1/other@33:ref:refs/heads/main", False),
    ("project_path:group/*:ref_type:branch:ref:main", "project_path:group/a:ref_type:branch:ref:main", True),
    ("arn:aws:iam::111122223333:*", CI, True),
    ("arn:aws:iam::111122223333:*", "", False),
    ("system:serviceaccount:images:*", "system:serviceaccount:images:builder", True),
]


@pytest.mark.parametrize(("named", "caller", "expected"), CALLERS)
def test_a_rule_applies_to_the_callers_it_names(named: str, caller: str, expected: bool) -> None:
    assert Rights.parse(f'{{"{named}": ["*"]}}').allow(caller, PATH) is expected


def test_without_rules_every_caller_is_refused() -> None:
    assert not Rights.parse("{}").allow(CI, PATH)


BAD_RULES = ["[" * 100_000, "", "[]", "nonsense", '{"a": "images/"}', '{"a": [1]}', '{"": ["images/"]}', '{"a": [""]}']


def test_a_rule_of_another_type_is_refused_with_what_was_found() -> None:
    with pytest.raises(BadRule, match=r"PUBLISHERS is list, expected an object \{caller"):
        Rights.parse("[]")


ANYBODY = ["*", "r*", "*:me/images", "repo:*", "repo:*/images:*", "repo:octocat*/images", "repo:octocat@*/images@1"]
ANYBODY += ["repo:octocat*", "project_path:*", "project_path:group*/images:ref_type:branch:ref:main"]


@pytest.mark.parametrize("caller", ANYBODY)
def test_a_rule_that_matches_any_caller_is_refused(caller: str) -> None:
    """A stranger may register an owner whose name starts with yours."""
    with pytest.raises(BadRule, match=r"to you; write the owner in full: .*:\*$"):
        Rights.parse(json.dumps({caller: ["images/"]}))


@pytest.mark.parametrize(
    "caller",
    [
        CI,
        "arn:aws:sts::111122223333:assumed-role/ci/session-1",
        "repo:octocat@123456/images@456789:ref:refs/heads/main",
    ],
)
def test_a_refusal_shows_how_a_rule_names_the_caller(caller: str) -> None:
    with pytest.raises(Problem, match="may not write") as refusal:
        uploads.allowed(Rights.parse("{}"), caller, PATH)
    named = refusal.value.detail.rsplit('"', 2)[1]
    assert "session" not in named
    uploads.allowed(Rights.parse(json.dumps({named: ["images/"]})), caller, PATH)


@pytest.mark.parametrize("rule", BAD_RULES, ids=range(len(BAD_RULES)))
def test_an_invalid_rule_is_reported_and_allows_nothing(rule: str) -> None:
    with pytest.raises(BadRule, match="PUBLISHERS"):
        Rights.parse(rule)


@pytest.mark.parametrize(
    ("authorizer", "expected"),
    [
        ({"iam": {"userArn": CI}}, CI),
        ({"jwt": {"claims": {"sub": "repo:a/b"}, "scopes": None}}, "repo:a/b"),
        ({"jwt": {"claims": None}}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_caller_is_the_arn_or_the_subject(authorizer: object, expected: str) -> None:
    assert caller_of(authorizer) == expected
    assert role_of(expected) == ""


NOBLE = "images/ubuntu/noble/amd64/default/20261123_1000"
DEBIAN = "images/debian/13/amd64/default/20261123_1000"
NAMED = [
    (["ubuntu/", "promote:stable"], NOBLE, {"stable"}, set()),
    (["ubuntu/", "promote:stable"], DEBIAN, set(), set()),
    (["promote:stable"], NOBLE, set(), set()),
    (["ubuntu/", "promote:stable", "promote:beta", "check:boots"], NOBLE, {"stable", "beta"}, {"boots"}),
    (["check:boots:images/ubuntu/"], NOBLE, set(), {"boots"}),
    (["check:boots:ubuntu"], NOBLE, set(), {"boots"}),
    (["check:boots:ubuntu", "check:boots:debian"], DEBIAN, set(), {"boots"}),
    (["debian/", "check:boots:ubuntu"], DEBIAN, set(), set()),
    (["promote:stable:*"], DEBIAN, {"stable"}, set()),
    (["images*"], NOBLE, set(), set()),
    (["*"], NOBLE, set(), set()),
]


@pytest.mark.parametrize(("entries", "path", "channels", "checks"), NAMED)
def test_a_caller_promotes_and_posts_results_only_as_it_was_granted_by_name(
    entries: list[str], path: str, channels: set[str], checks: set[str]
) -> None:
    rights = Rights.parse(json.dumps({CI: entries}))
    session = "arn:aws:sts::111122223333:assumed-role/ci/session-1"
    for caller in (CI, session):
        assert rights.names(caller, "promote", path) == channels
        assert rights.names(caller, "check", path) == checks
    assert rights.names("arn:aws:iam::111122223333:role/ci-other", "promote", path) == frozenset()
    may_write = any(not entry.startswith(("promote:", "check:")) for entry in entries) and rights.allow(CI, path)
    assert rights.may_look(CI, path) is bool(channels or checks or may_write)


def test_a_named_right_gives_no_right_to_write_no_alias_and_no_operator_role() -> None:
    rights = Rights.parse(json.dumps({CI: ["promote:stable:*", "check:boots", "promote:stable"]}))
    assert not rights.allow(CI, NOBLE)
    assert rights.prefixes(CI) == ()
    assert not rights.is_operator(CI)
    assert rights.may_claim(parse_product("images/ubuntu/noble/amd64/default"), "anything")  # as without writers


@pytest.mark.parametrize(
    "entry", ["promote:", "promote:*", "promote:Stable", "check::ubuntu/", "check:-boots", "check:a:"]
)
def test_a_named_right_without_a_valid_name_is_refused_with_the_expected_form(entry: str) -> None:
    right = entry.partition(":")[0]
    with pytest.raises(BadRule, match=f"expected {right}:NAME or {right}:NAME:PREFIX"):
        Rights.parse(json.dumps({CI: ["ubuntu/", entry]}))
