"""What every command of `scripts/admin` shares: the group, how a server is named, how a command gets it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from cli.admin.faults import EXIT_CODES, errors_told, show_tracebacks
from cli.admin.place import Place, aws, deployed, local
from imageserver.settings import CLIENT_CHOICES


@dataclass(frozen=True)
class Named:
    """Which server, and how to answer, as far as it was said."""

    stack: str = ""
    bucket: str = ""
    url: str = ""
    state_dir: Path | None = None
    as_json: bool = False
    debug: bool = False

    def over(self, other: "Named") -> "Named":
        """The same, with what was not said here as the other says it."""
        return Named(
            self.stack or other.stack,
            self.bucket or other.bucket,
            self.url or other.url,
            self.state_dir or other.state_dir,
            self.as_json or other.as_json,
            self.debug or other.debug,
        )

    def open(self) -> Place:
        """The server; a usage error when two are named."""
        if sum(map(bool, (self.stack, self.bucket, self.state_dir))) > 1 or (self.url and not self.bucket):
            raise click.UsageError("name one server: --stack, or --bucket with --url, or --state-dir")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise click.UsageError(f"--url is {self.url!r}, expected an address such as https://images.example.org")
        if self.stack:
            return deployed(self.stack)
        return aws(self.bucket, self.url) if self.bucket else local(self.state_dir)


OPTIONS = (
    click.option("--stack", default="", help="A stack in AWS, by its name, with the usual credentials and region."),
    click.option("--bucket", default="", help="A bucket in AWS whose stack is gone or not yours to ask."),
    click.option(
        "--url", default="", help="With --bucket: the address that clients know, such as https://images.example.org."
    ),
    click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="The state folder of the local stack.  [default: .local in the project folder]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
    click.option("--debug", is_flag=True, help="Also print the traceback of each error, for a report."),
)


def common(function: Callable[..., None]) -> Callable[..., None]:
    """Options that may stand before a command and behind it."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EXIT_CODES)
@common
@click.pass_context
def main(context: click.Context, /, **named: Any) -> None:
    """Look at a server, check it, repair it.

    Without --stack or --bucket it is the local stack that ./scripts/local started. Nothing is deleted, withdrawn or
    rebuilt without --yes; without it these commands print what they would do, and why. restore and reconcile
    lose nothing and act at once. With --dry-run nothing is changed, even with --yes. A PATH without its stream
    means images/.

    \b
    ./scripts/admin list                                   what is there, and what waits for what
    ./scripts/admin show images/ubuntu/noble/amd64/default/20261123_1000
    ./scripts/admin verify --sample 20                     read 20 listed versions again and compare every digest
    ./scripts/admin doctor                                 is everything as it should be? if not, what helps?
    ./scripts/admin withdraw images/ubuntu/noble/amd64/default/20261123_1000 --reason "does not boot" --yes
    ./scripts/admin verify --through-edge --stack images
    """
    context.obj = Named(**named)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command gets the opened place, and its errors become sentences."""

    @common
    @wraps(function)
    @click.pass_obj
    def run(
        before: Named,
        /,
        *args: Any,
        stack: str,
        bucket: str,
        url: str,
        state_dir: Path | None,
        as_json: bool,
        debug: bool,
        **kwargs: Any,
    ) -> None:
        named = Named(stack, bucket, url, state_dir, as_json, debug).over(before)
        if named.debug:
            show_tracebacks()
        with errors_told():
            place = named.open()
            try:
                with place.calls.noted():
                    function(place, named.as_json, *args, **kwargs)
            finally:  # also when it broke off: what was done by then the edge does not know either
                place.say_untold()

    return run


yes_anyway = click.option(
    "--yes", is_flag=True, expose_value=False, help="Accepted as everywhere else: it is done without it too."
)
yes = click.option("--yes", is_flag=True, help="Really do it.")
clients = click.option(
    "--clients",
    type=click.Choice(sorted(CLIENT_CHOICES)),
    help="Whose items the catalog carries.  [default: as the stack was deployed, else as the catalog has it]",
)
