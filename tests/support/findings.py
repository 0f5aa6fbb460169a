"""What a check of `admin doctor` found, for tests that expect nothing but faults."""

from __future__ import annotations

from cli.admin.checks import Findings


def only_faults(findings: Findings) -> list[tuple[str, str]]:
    """Return each fault with its remedy. A hint, or a thing that could not be checked, fails the test."""
    found = []
    for finding in findings:
        assert isinstance(finding, tuple), finding
        found.append(finding)
    return found
