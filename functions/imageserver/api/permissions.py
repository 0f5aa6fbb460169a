"""Who may upload what: a pure rule over names; authentication is API Gateway's.

The rule is a JSON object, caller -> list of path prefixes:

    {"arn:aws:iam::111122223333:role/ci": ["images/team-a/"], "repo:org/name:ref:refs/heads/main": ["debian/*"]}

Callers that are not listed cannot upload anything. A prefix ends between two folders, so `images/team` does not
cover `images/team-a`; without a stream in front it means `images/`. `*` stands for any characters up to the
next `/` (in a caller also `:`), and at the very end for all that follows.

A `*` may not stand where an owner is named. Everybody can register `octocat-2` with GitHub and ask for a token with
any audience, so `repo:octocat*/…` would let strangers in, and `*` alone the whole world.
"""

import json
import re
from dataclasses import dataclass

# A "*" before the first separator, or before the "/" that ends the owner in the subject of a GitHub or GitLab job.
_ANY_OWNER = re.compile(r"[^:/]*\*|(repo|project_path):[^/]*\*")
_ASSUMED_ROLE = re.compile(r"arn:(?P<partition>[^:]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.+")


class BadRule(ValueError):
    """The rule cannot be read; the message says what it should look like."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Patterns of callers, each with the patterns of the paths they may write.

    `heads` are those paths as far as they are the same for all that they match, in the order of the rules.
    """

    rules: tuple[tuple[re.Pattern[str], tuple[re.Pattern[str], ...]], ...]
    heads: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Rights":
        """Read the rule; BadRule if it is no JSON object of callers and prefixes, or a caller could be anybody."""
        try:
            rule = json.loads(text)
        except ValueError as error:
            raise BadRule(f"PUBLISHERS is not JSON ({error}); expected {{caller: [path prefix, …]}}") from error
        if not isinstance(rule, dict):
            raise BadRule(f"PUBLISHERS is {type(rule).__name__}, expected an object {{caller: [path prefix, …]}}")
        for caller, prefixes in rule.items():
            if not (caller and isinstance(prefixes, list) and all(isinstance(p, str) and p for p in prefixes)):
                raise BadRule(f"PUBLISHERS gives {caller!r} {prefixes!r}, expected a list of path prefixes")
            if _ANY_OWNER.match(caller):
                raise BadRule(
                    f"PUBLISHERS has the caller {caller!r}, whose * also matches owners that are strangers to you; "
                    "write the owner in full: repo:octocat/*, repo:octocat@123456/*, arn:aws:iam::111122223333:*"
                )
        rules = tuple((_pattern(who, ":/"), tuple(map(_path_pattern, p))) for who, p in rule.items())
        return cls(rules, tuple(tuple(_whole(prefix).partition("*")[0] for prefix in p) for p in rule.values()))

    def prefixes(self, caller: str) -> tuple[str, ...]:
        """Return prefixes of keys below which all lies that a caller may write; "" where that is everything."""
        names = {caller, role_of(caller)} - {""}
        mine = (heads for (who, _), heads in zip(self.rules, self.heads, strict=True) if any(map(who.fullmatch, names)))
        return tuple(dict.fromkeys(head for heads in mine for head in heads))

    def allow(self, caller: str, path: str) -> bool:
        """Return whether a caller may write at or below a path that keys.parse_… has accepted."""
        names = {caller, role_of(caller)} - {""}
        return any(
            any(who.fullmatch(name) for name in names) and any(prefix.fullmatch(path) for prefix in prefixes)
            for who, prefixes in self.rules
        )


def caller_of(authorizer: object) -> str:
    """Return the ARN (IAM) or subject (JWT) in the `authorizer` of a request's context; empty if there is none."""
    if not isinstance(authorizer, dict):
        return ""
    iam, jwt = authorizer.get("iam") or {}, authorizer.get("jwt") or {}
    return str(iam.get("userArn") or (jwt.get("claims") or {}).get("sub") or "")


def role_of(caller: str) -> str:
    """Return the ARN of the role behind the session of an assumed role, which has another ARN each time.

    The session's ARN lacks the role's path.
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
