"""Decides what IAM policy statements allow, conditions included.

Covers what this project's template uses, in AWS's order: an explicit deny wins, then any allow; else nothing is
granted. An unknown operator, policy variable or element is an error and never a guess, because a
guess in a test of least privilege is worse than no test.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

Statement = Mapping[str, Any]
"""One statement of a policy document, without intrinsics."""

_ELEMENTS: Final = frozenset(
    {"Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)


class PolicyError(ValueError):
    """A statement that this evaluator cannot decide."""


class Decision(Enum):
    ALLOWED = "allowed"
    DENIED = "denied"
    """An explicit deny, which no other statement overrides."""
    NOT_GRANTED = "not granted"


@dataclass(frozen=True, slots=True)
class Request:
    """One call: `action` is `s3:GetObject`, `resource` an ARN, `principal` a service's name or an ARN.

    `principal` is None if the policy belongs to the caller, whose statements name none. Context keys are as
    AWS spells them (`aws:SourceArn`, `s3:prefix`); case does not matter.
    """

    action: str
    resource: str
    principal: str | None = None
    context: Mapping[str, str] = field(default_factory=dict)


def decide(statements: Iterable[Statement], request: Request) -> Decision:
    """Return what the statements together decide about one request. Raise PolicyError for what cannot be decided."""
    effects = {statement["Effect"] for statement in statements if _applies(statement, request)}
    if not effects <= {"Allow", "Deny"}:
        raise PolicyError(f"Effect must be Allow or Deny, found {', '.join(sorted(effects))}")
    if "Deny" in effects:
        return Decision.DENIED
    return Decision.ALLOWED if effects else Decision.NOT_GRANTED


def _applies(statement: Statement, request: Request) -> bool:
    unknown = statement.keys() - _ELEMENTS
    if unknown:
        raise PolicyError(f"statement has {', '.join(sorted(unknown))}, which the evaluator does not know")
    # Conditions are looked at first: one that cannot be decided must not hide behind an action that differs.
    conditions = [
        _holds(operator, key, listed(values), request.context)
        for operator, tests in statement.get("Condition", {}).items()
        for key, values in tests.items()
    ]
    return (
        all(conditions)
        and _principal_matches(statement, request.principal)
        and _element_matches(statement, "Action", request.action.lower(), str.lower)
        and _element_matches(statement, "Resource", request.resource, str)
    )


def _principal_matches(statement: Statement, principal: str | None) -> bool:
    stated = statement.get("Principal")
    if (stated is None) != (principal is None):
        kind = "a resource's policy must name a Principal" if stated is None else "a role's policy names no Principal"
        raise PolicyError(f"{kind}: {statement.get('Sid', statement)}")
    if stated is None or stated == "*":
        return True
    unknown = stated.keys() - {"Service", "AWS"}
    if unknown:
        raise PolicyError(f"Principal has {', '.join(sorted(unknown))}, which the evaluator does not know")
    return any(name in ("*", principal) for names in stated.values() for name in listed(names))


def _element_matches(statement: Statement, element: str, value: str, fold: Callable[[str], str]) -> bool:
    stated, negated = statement.get(element), statement.get(f"Not{element}")
    if (stated is None) == (negated is None):
        raise PolicyError(f"statement needs {element} or Not{element}, and not both: {statement.get('Sid', statement)}")
    if stated is not None:
        return any(like(fold(pattern), value) for pattern in listed(stated))
    return not any(like(fold(pattern), value) for pattern in listed(negated))


def like(pattern: str, value: str) -> bool:
    """Match IAM's wildcards: `*` is any characters, including `/` and `:`, and `?` is one."""
    if "${" in pattern:
        raise PolicyError(f"policy variables are not supported: {pattern}")
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)
    return re.fullmatch("".join(parts), value, re.DOTALL) is not None


def _equal(pattern: str, value: str) -> bool:
    if "${" in pattern:
        raise PolicyError(f"policy variables are not supported: {pattern}")
    return pattern == value


# Operator: (comparison, negated). A negated one holds when no value matches, and so when the key is absent.
_OPERATORS: Final[Mapping[str, tuple[Callable[[str, str], bool], bool]]] = {
    "StringEquals": (_equal, False),
    "StringNotEquals": (_equal, True),
    "StringLike": (like, False),
    "StringNotLike": (like, True),
    "ArnEquals": (like, False),  # AWS: ArnEquals and ArnLike behave alike
    "ArnLike": (like, False),
    "ArnNotEquals": (like, True),
    "ArnNotLike": (like, True),
    "Bool": (_equal, False),
}


def _holds(operator: str, key: str, expected: list[str], context: Mapping[str, str]) -> bool:
    name = operator.removesuffix("IfExists")
    if name not in _OPERATORS:
        raise PolicyError(f"condition operator {operator} is not supported")
    compare, negated = _OPERATORS[name]
    found = next((value for present, value in context.items() if present.lower() == key.lower()), None)
    matches = [found is not None and compare(str(value), found) for value in expected]  # all, for their errors
    if found is None and operator != name:
        return True
    return any(matches) != negated


def listed(value: Any) -> list[Any]:
    """Return a JSON value that may be one item or a list of items, as a list."""
    return list(value) if isinstance(value, list) else [value]
