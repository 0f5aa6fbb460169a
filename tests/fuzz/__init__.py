"""Coverage-guided fuzzing of everything that reads bytes from strangers."""

from typing import Final

INSTRUMENTED: Final = ("imageserver", "yaml", "tarfile", "json")
"""Packages and modules whose branches guide the fuzzer. It runs all others blindly."""
