"""The folder in which commands keep the state of the local stack."""

from pathlib import Path

import click

from environment import working_folder


def default_state_folder() -> Path:
    """Return `.local` in the project folder; in the user's cache if the project folder is read-only."""
    return working_folder() / ".local"


state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The state folder of the local stack.  [default: .local in the project folder]",
)
