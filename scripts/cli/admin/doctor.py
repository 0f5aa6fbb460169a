"""Examine a whole server: run every check and collect the findings, each with its remedy."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import click

from cli.admin import checks
from cli.admin.checks import DEPLOY, Hint, Unchecked
from cli.admin.deployment import Deployment
from cli.admin.errors import explain


@dataclass(frozen=True)
class Finding:
    """One fault, and what to do about it. A `hint` may be intentional."""

    check: str
    what: str
    remedy: str
    hint: bool = False


@dataclass
class Checked:
    """The outcome of one check. `not_seen` says what it could not check, which is no fault of the server."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    hints: list[Finding] = field(default_factory=list)
    not_seen: list[str] = field(default_factory=list)


def examine(deployment: Deployment) -> Iterator[Checked]:
    """Run every check. A check that fails counts as a finding, and its earlier findings are kept."""
    for name, check in checks.CHECKS.items():
        checked = Checked(name)
        try:
            with deployment.requests.noted():
                for found in check(deployment):
                    if isinstance(found, Unchecked):
                        checked.not_seen.append(found.why)
                    elif isinstance(found, Hint):
                        checked.hints.append(Finding(name, found.what, found.remedy, hint=True))
                    else:
                        checked.findings.append(Finding(name, *found))
        except click.ClickException as error:
            checked.findings.append(Finding(name, error.message, DEPLOY))
        except Exception as error:  # noqa: BLE001 - the other checks run, whatever stopped this one
            fault = explain(error)
            checked.findings.append(Finding(name, f"it could not be looked at: {fault.what}", fault.remedy))
        yield checked
