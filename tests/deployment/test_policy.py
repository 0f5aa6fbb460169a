"""The policy evaluator decides as AWS documents it, and refuses to guess."""

from typing import Any

import pytest

from tests.support.deployment.policy import Decision, PolicyError, Request, decide

ALLOWED, DENIED, NOT_GRANTED = Decision.ALLOWED, Decision.DENIED, Decision.NOT_GRANTED
KEY = "arn:aws:s3:::b/images/x"


def allow(**elements: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", **elements}


def without(statement: dict[str, Any], element: str) -> dict[str, Any]:
    return {key: value for key, value in statement.items() if key != element}


def when(operator: str, key: str, value: object) -> dict[str, Any]:
    return allow(Condition={operator: {key: value}})


@pytest.mark.parametrize(
    ("statement", "action", "resource", "expected"),
    [
        (allow(), "s3:GetObject", KEY, ALLOWED),
        (allow(), "S3:getobject", KEY, ALLOWED),
        (allow(), "s3:PutObject", KEY, NOT_GRANTED),
        (allow(Action="s3:Get*"), "s3:GetObjectVersion", KEY, ALLOWED),
        (allow(Action=["s3:PutObject", "s3:Get?bject"]), "s3:GetObject", KEY, ALLOWED),
        (allow(Action="s3:Get?"), "s3:GetObject", KEY, NOT_GRANTED),
        (allow(Resource="arn:aws:s3:::b/images/*"), "s3:GetObject", KEY, ALLOWED),
        (allow(Resource="arn:aws:s3:::b/Images/*"), "s3:GetObject", KEY, NOT_GRANTED),
        (allow(Resource="arn:aws:s3:::b"), "s3:GetObject", KEY, NOT_GRANTED),
        (without(allow(NotAction="s3:PutObject"), "Action"), "s3:GetObject", KEY, ALLOWED),
        (without(allow(NotAction="s3:Get*"), "Action"), "s3:GetObject", KEY, NOT_GRANTED),
        (without(allow(NotResource="arn:aws:s3:::b/images/*"), "Resource"), "s3:GetObject", KEY, NOT_GRANTED),
        (without(allow(NotResource="arn:aws:s3:::c/*"), "Resource"), "s3:GetObject", KEY, ALLOWED),
    ],
)
def test_a_statement_applies_to_its_actions_and_resources(
    statement: dict[str, Any], action: str, resource: str, expected: Decision
) -> None:
    assert decide([statement], Request(action, resource)) is expected


@pytest.mark.parametrize(
    ("operator", "value", "context", "expected"),
    [
        ("StringEquals", "a", {"aws:x": "a"}, ALLOWED),
        ("StringEquals", ["b", "a"], {"aws:x": "a"}, ALLOWED),
        ("StringEquals", "a*", {"aws:x": "ab"}, NOT_GRANTED),
        ("StringEquals", "a", {"AWS:X": "a"}, ALLOWED),
        ("StringEquals", "a", {}, NOT_GRANTED),
        ("StringEqualsIfExists", "a", {}, ALLOWED),
        ("StringEqualsIfExists", "a", {"aws:x": "b"}, NOT_GRANTED),
        ("StringNotEquals", ["a", "b"], {"aws:x": "b"}, NOT_GRANTED),
        ("StringNotEquals", "a", {}, ALLOWED),
        ("StringLike", "images/*", {"aws:x": "images/ubuntu"}, ALLOWED),
        ("StringNotLike", "images/*", {"aws:x": "images/ubuntu"}, NOT_GRANTED),
        ("ArnEquals", "arn:aws:s3:::b", {"aws:x": "arn:aws:s3:::b"}, ALLOWED),
        ("ArnLike", "arn:aws:s3:::*", {"aws:x": "arn:aws:s3:::b"}, ALLOWED),
        ("ArnLike", "arn:aws:s3:::c", {"aws:x": "arn:aws:s3:::b"}, NOT_GRANTED),
        ("Bool", "false", {"aws:x": "false"}, ALLOWED),
        ("Bool", "false", {"aws:x": "true"}, NOT_GRANTED),
        ("Bool", "false", {}, NOT_GRANTED),
    ],
)
def test_each_condition_operator_is_evaluated(
    operator: str, value: object, context: dict[str, str], expected: Decision
) -> None:
    assert decide([when(operator, "aws:x", value)], Request("s3:GetObject", KEY, context=context)) is expected


def test_all_conditions_must_hold() -> None:
    both = allow(Condition={"StringEquals": {"a": "1", "b": "2"}, "Bool": {"c": "true"}})
    holds = {"a": "1", "b": "2", "c": "true"}
    assert decide([both], Request("s3:GetObject", KEY, context=holds)) is ALLOWED
    for key in holds:
        assert decide([both], Request("s3:GetObject", KEY, context=holds | {key: "no"})) is NOT_GRANTED


def test_a_deny_wins_over_any_allow() -> None:
    deny = allow(Effect="Deny", Action="s3:*")
    assert decide([allow(), deny, allow(Action="*")], Request("s3:GetObject", KEY)) is DENIED


@pytest.mark.parametrize(
    ("principal", "caller", "expected"),
    [
        ("*", "anybody", ALLOWED),
        ({"AWS": "*"}, "anybody", ALLOWED),
        ({"Service": "s3.amazonaws.com"}, "s3.amazonaws.com", ALLOWED),
        ({"Service": ["sns.amazonaws.com", "s3.amazonaws.com"]}, "s3.amazonaws.com", ALLOWED),
        ({"Service": "s3.amazonaws.com"}, "sns.amazonaws.com", NOT_GRANTED),
    ],
)
def test_a_statement_applies_to_its_principals(principal: object, caller: str, expected: Decision) -> None:
    assert decide([allow(Principal=principal)], Request("s3:GetObject", KEY, caller)) is expected


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (when("NumericLessThan", "s3:max-keys", "1"), "NumericLessThan"),
        (when("ForAnyValue:StringEquals", "aws:TagKeys", "x"), "ForAnyValue:StringEquals"),
        (when("StringLike", "s3:prefix", "${aws:username}/*"), "aws:username"),
        (allow(Resource="arn:aws:s3:::b/${aws:username}"), "aws:username"),
        (allow(NotPrincipal={"AWS": "*"}), "NotPrincipal"),
        (allow(NotAction="s3:PutObject"), "Action or NotAction"),
        (without(allow(), "Resource"), "Resource or NotResource"),
        (allow(Principal="*"), "names no Principal"),
        (allow(Effect="allow"), "Effect"),
    ],
)
def test_an_unknown_statement_element_is_an_error(statement: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError, match=named.replace("$", r"\$")):
        decide([statement], Request("s3:GetObject", KEY, context={"s3:prefix": "x"}))


def test_an_unknown_operator_does_not_hide_behind_another_action() -> None:
    statement = when("DateLessThan", "aws:CurrentTime", "2030-01-01") | {"Action": "s3:PutObject"}
    with pytest.raises(PolicyError, match="DateLessThan"):
        decide([statement], Request("s3:GetObject", KEY))


def test_a_resource_policy_must_name_its_principal() -> None:
    with pytest.raises(PolicyError, match="must name a Principal"):
        decide([allow()], Request("s3:GetObject", KEY, "s3.amazonaws.com"))
