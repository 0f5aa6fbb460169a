"""Packages that only some tests use, in their own dependency groups."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

REQUIRED = os.environ.get("SIMPLESTREAMS_REQUIRE_EXTRAS") == "1"


def optional(module: str, group: str) -> Any:
    """Return the module, or skip the calling test or file; raise ImportError where extras are required."""
    if REQUIRED:
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"NOT TESTED, missing {module}: uv sync --group {group}")
