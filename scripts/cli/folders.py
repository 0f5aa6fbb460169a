"""Folders in which commands keep their state."""

from pathlib import Path

from environment import working_folder


def default_state_folder() -> Path:
    """Return `.local` in the project folder; in the user's cache if the project folder is read-only."""
    return working_folder() / ".local"
