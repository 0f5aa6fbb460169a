"""The findings of a check of `admin doctor`, for tests that expect only faults."""

from __future__ import annotations

from cli.admin.checks import Findings


def only_faults(findings: Findings) -> list[tuple[str, str]]:
    """Return each fault with its remedy. A hint, or anything that could not be checked, fails the test."""
    found = []
    for finding in findings:
        assert isinstance(finding, tuple), finding
        found.append(finding)
    return found
