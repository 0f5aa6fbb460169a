"""The table of rules, how a rule enters it, and helpers for rules of several themes."""

from collections.abc import Callable, Iterator
from typing import Final

from gates.stack import REGION, Stack
from local_stack.template import ACCOUNT_ID

Rule = Callable[[Stack], Iterator[str]]
RULES: Final[dict[str, Rule]] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def differ(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"{what}: expected {expected!r}, found {found!r}"


def stack_arn(service: str, name: str, kind: str = "") -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT_ID}:{kind}images-{name}"
