"""What every command of `scripts/admin` shares: the group, how a server is named, how a command gets it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from cli.admin.place import EXIT_CODES, Place, aws, deployed, errors_told, local
from settings import CLIENT_CHOICES


@dataclass(frozen=True)
class Context:
    """What every command is told."""

    open: Callable[[], Place]
    as_json: bool


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EXIT_CODES)
@click.option("--stack", help="A stack in AWS, by its name, with the usual credentials and region.")
@click.option("--bucket", help="A bucket in AWS whose stack is gone or not yours to ask.")
@click.option(
    "--url", default="", help="With --bucket: the address that clients know, such as https://images.example.org."
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The state folder of the local stack.  [default: .local in the project folder]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def main(
    context: click.Context, stack: str | None, bucket: str | None, url: str, state_dir: Path | None, as_json: bool
) -> None:
    """Look at a server, check it, repair it.

    Without --stack or --bucket it is the local stack that ./scripts/local started. Nothing is deleted, withdrawn or
    rebuilt without --yes; without it these commands print what they would do, and why.

    \b
    ./scripts/admin list                                   what is there, and what waits for what
    ./scripts/admin show images/ubuntu/noble/amd64/default/20261123_10:00
    ./scripts/admin verify --sample 20                     read 20 listed versions again and compare every digest
    ./scripts/admin doctor                                 is everything as it should be? if not, what helps?
    ./scripts/admin withdraw images/ubuntu/noble/amd64/default/20261123_10:00 --reason "does not boot" --yes
    ./scripts/admin --stack images verify --through-edge
    """
    if (stack and bucket) or (url and not bucket):
        raise click.UsageError("name the server by --stack, or by --bucket and --url")

    def open_place() -> Place:
        if stack:
            return deployed(stack)
        return aws(bucket, url) if bucket else local(state_dir)

    context.obj = Context(open_place, as_json)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command gets the opened place, and its errors become sentences."""

    @wraps(function)
    @click.pass_obj
    def run(context: Context, *args: Any, **kwargs: Any) -> None:
        with errors_told():
            function(context.open(), context.as_json, *args, **kwargs)

    return run


yes = click.option("--yes", is_flag=True, help="Really do it.")
clients = click.option(
    "--clients",
    type=click.Choice(sorted(CLIENT_CHOICES)),
    help="Whose items the catalog carries.  [default: as the stack was deployed, else as the catalog has it]",
)
