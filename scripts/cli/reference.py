"""The commands' own help texts, for the reference in scripts/README.md."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from cli import local, presign
from cli.admin.__main__ import main as admin
from cli.bench.__main__ import main as bench
from cli.smoke.__main__ import main as smoke

SCRIPTS: Final = Path(__file__).resolve().parents[1]
WIDTH: Final = 100


def reference() -> str:
    """Return Markdown with the help of every command, and of each command of admin and bench."""
    shell = subprocess.run([SCRIPTS / "upload", "--help"], capture_output=True, text=True, check=True)
    texts = [("upload", shell.stdout.rstrip())]
    commands = {"presign": presign.main, "local": local.main, "admin": admin, "smoke": smoke, "bench": bench}
    for name, command in commands.items():
        texts += _helps(f"scripts/{name}", command)
    return "\n\n".join(f"### `{name.removeprefix('scripts/')}`\n\n```text\n{text}\n```" for name, text in texts)


def _helps(path: str, command: click.Command, above: click.Context | None = None) -> Iterator[tuple[str, str]]:
    name = path if above is None else command.name
    settings = {**command.context_settings, "terminal_width": WIDTH}
    context = click.Context(command, info_name=name, parent=above, **settings)
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for _, below in sorted(command.commands.items()):
            yield from _helps(path, below, context)
