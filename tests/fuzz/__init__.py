"""Coverage-guided fuzzing of everything that reads untrusted bytes."""

from typing import Final

INSTRUMENTED: Final = ("imageserver", "yaml", "tarfile", "json")
"""Packages and modules whose branches guide the fuzzer. All others run without guidance."""
