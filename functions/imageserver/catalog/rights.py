"""Rights of callers: where each may upload, and which names it may use. A pure rule; API Gateway authenticates.

The rule is a JSON object, caller -> list of path prefixes:

    {"arn:aws:iam::111122223333:role/ci": ["images/team-a/"], "repo:org/name:ref:refs/heads/main": ["debian/*"]}

Callers that are not listed cannot upload anything. A prefix ends between two folders, so `images/team` does not
cover `images/team-a`; without a stream in front it means `images/`. `*` stands for any characters up to the
next `/` (in a caller also `:`), and at the very end for all that follows.

An entry `alias:ubuntu/lts` is not a prefix: it grants a name that is not below the caller's prefixes
(`Rights.may_claim`). Nor are `promote:stable`, the right to point the channel stable to a version, and `check:boots`,
the right to post results of the check boots. Each applies to the caller's own prefixes; the form
`check:boots:images/ubuntu/` applies to that prefix, and gives no right to write there.

A `*` may not stand in the name of an owner. Anybody can register `octocat-2` with GitHub and ask for a token with any
audience, so `repo:octocat*/…` would let strangers in, and `*` alone the whole world.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from imageserver.format.keys import ProductId

# A "*" before the first separator, or before the "/" that ends the owner in the subject of a GitHub or GitLab job.
_ANY_OWNER = re.compile(r"[^:/]*\*|(repo|project_path):[^/]*\*")
_GRANT: Final = "alias:"
_RIGHT: Final = re.compile(r"(?P<right>promote|check):(?P<name>[a-z0-9][a-z0-9-]{0,62})(?::(?P<prefix>.+))?", re.DOTALL)
_RIGHTS: Final = ("promote:", "check:")

Right = Literal["promote", "check"]
_ASSUMED_ROLE = re.compile(r"arn:(?P<partition>[^:]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.+")


class BadRule(ValueError):
    """The rule cannot be read. The message says what is expected."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One caller: the patterns of its names, of the paths that it may write, and of the aliases that it was granted.

    `heads` are the literal beginnings of those path patterns. `named` maps a right and the name of a channel or check
    to the paths for which it was granted.
    """

    caller: re.Pattern[str]
    paths: tuple[re.Pattern[str], ...]
    aliases: tuple[re.Pattern[str], ...]
    heads: tuple[str, ...] = ()
    named: Mapping[tuple[str, str], tuple[re.Pattern[str], ...]] = field(default_factory=dict)

    def is_for(self, caller: str) -> bool:
        """Return whether the rule is for a caller, or for the role behind its session."""
        return any(self.caller.fullmatch(name) for name in {caller, role_of(caller)} - {""})

    def may_write(self, path: str) -> bool:
        """Return whether the caller may write at or below a path."""
        return any(prefix.fullmatch(path) for prefix in self.paths)

    def may_claim(self, stream: str, alias: str) -> bool:
        """Return whether the caller may use an alias in a stream."""
        return self.may_write(f"{stream}/{alias}") or any(grant.fullmatch(alias) for grant in self.aliases)

    def names(self, right: Right, path: str) -> set[str]:
        """Return the channels or checks for which the caller has a right at a path."""
        return {
            name
            for (granted, name), paths in self.named.items()
            if granted == right and any(prefix.fullmatch(path) for prefix in paths)
        }


@dataclass(frozen=True, slots=True)
class Rights:
    """What each caller may do."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Rights":
        """Read the rule.

        Raise BadRule unless it is a JSON object of callers and prefixes in which no caller could be anybody.
        """
        try:
            rule = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRule(f"PUBLISHERS is not JSON ({error}); expected {{caller: [path prefix, …]}}") from error
        if not isinstance(rule, dict):
            raise BadRule(f"PUBLISHERS is {type(rule).__name__}, expected an object {{caller: [path prefix, …]}}")
        for caller, prefixes in rule.items():
            if not (caller and isinstance(prefixes, list) and all(isinstance(p, str) and p for p in prefixes)):
                raise BadRule(f"PUBLISHERS gives {caller!r} {prefixes!r}, expected a list of path prefixes")
            for entry in prefixes:
                if entry.startswith(_RIGHTS) and not _RIGHT.fullmatch(entry):
                    right = entry.partition(":")[0]
                    raise BadRule(
                        f"PUBLISHERS gives {caller!r} {entry!r}, expected {right}:NAME or {right}:NAME:PREFIX, with a "
                        "name of a-z, 0-9 and -"
                    )
            if _ANY_OWNER.match(caller):
                raise BadRule(
                    f"PUBLISHERS has the caller {caller!r}, whose * also matches owners that are strangers to you; "
                    "write the owner in full: repo:octocat/*, repo:octocat@123456/*, arn:aws:iam::111122223333:*"
                )
        return cls(tuple(_rule(who, entries) for who, entries in rule.items()))

    def allow(self, caller: str, path: str) -> bool:
        """Return whether a caller may write at or below a path that one of the parsers of keys has accepted."""
        return any(rule.is_for(caller) and rule.may_write(path) for rule in self.rules)

    def names(self, caller: str, right: Right, path: str) -> frozenset[str]:
        """Return the channels a caller may promote a path to, or the checks whose results it may post for it."""
        return frozenset(name for rule in self.rules if rule.is_for(caller) for name in rule.names(right, path))

    def may_look(self, caller: str, path: str) -> bool:
        """Return whether a caller may ask about a path: it may write, promote or post results there."""
        rights: tuple[Right, ...] = ("promote", "check")
        return self.allow(caller, path) or any(self.names(caller, right, path) for right in rights)

    def publisher(self, caller: str) -> str:
        """Return the publisher that a caller is counted as: the entries that match it; "" if none does.

        Each session of a role, and each branch of a repository, is a separate caller, but the same publisher.
        """
        return " ".join(rule.caller.pattern for rule in self.rules if rule.is_for(caller))

    def is_operator(self, caller: str) -> bool:
        """Return whether a caller may write to whole streams. It has no quotas."""
        return any("/" not in prefix for prefix in self.prefixes(caller))

    def prefixes(self, caller: str) -> tuple[str, ...]:
        """Return prefixes of keys that cover everything a caller may write; "" covers all keys."""
        return tuple(dict.fromkeys(head for rule in self.rules if rule.is_for(caller) for head in rule.heads))

    def may_claim(self, product: ProductId, alias: str) -> bool:
        """Return whether a product may use an alias that is not from its path.

        Any caller that may write to the product could have asked for the alias. So each of them must have a prefix that
        covers `<stream>/<alias>`, or a grant of the operator. Where only the operator can write, every alias is
        allowed.
        """
        return all(rule.may_claim(product.stream, alias) for rule in self.rules if rule.may_write(product.path))

    def is_granted(self, product: ProductId, alias: str) -> bool:
        """Return whether the operator granted this alias to a caller that may write to a product."""
        return any(
            grant.fullmatch(alias) for rule in self.rules if rule.may_write(product.path) for grant in rule.aliases
        )


NOBODY: Final = Rights()
"""The rule of a server without publishers: only the operator can write, and may use every name."""


def _rule(caller: str, entries: list[str]) -> Rule:
    grants = [entry.removeprefix(_GRANT) for entry in entries if entry.startswith(_GRANT)]
    prefixes = [entry for entry in entries if not entry.startswith((_GRANT, *_RIGHTS))]
    paths = tuple(map(_path_pattern, prefixes))
    named: dict[tuple[str, str], tuple[re.Pattern[str], ...]] = {}
    for found in filter(None, map(_RIGHT.fullmatch, entries)):
        key = found["right"], found["name"]
        named[key] = (*named.get(key, ()), *((_path_pattern(found["prefix"]),) if found["prefix"] else paths))
    return Rule(
        _pattern(caller, ":/"),
        paths,
        tuple(_pattern(grant, "/") for grant in grants),
        tuple(_whole(prefix).partition("*")[0] for prefix in prefixes),
        named,
    )


def role_of(caller: str) -> str:
    """Return the ARN of the role behind an assumed-role session; each session has its own ARN.

    A session's ARN lacks the path of the role.
    """
    session = _ASSUMED_ROLE.fullmatch(caller)
    return f"arn:{session['partition']}:iam::{session['account']}:role/{session['role']}" if session else ""


def _path_pattern(prefix: str) -> re.Pattern[str]:
    whole = _whole(prefix)
    if whole.endswith("*"):
        return _pattern(whole, "/")
    return re.compile(_expression(whole.rstrip("/"), "/") + "(/.*)?", re.DOTALL)


def _whole(prefix: str) -> str:
    first = prefix.split("/", 1)[0]
    return prefix if first == "*" or first.startswith("images") else f"images/{prefix}"


def _pattern(text: str, separators: str) -> re.Pattern[str]:
    if text.endswith("*"):
        return re.compile(_expression(text[:-1], separators) + ".*", re.DOTALL)
    return re.compile(_expression(text, separators))


def _expression(text: str, separators: str) -> str:
    return f"[^{separators}]*".join(map(re.escape, text.split("*")))
