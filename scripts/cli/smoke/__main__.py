"""`scripts/smoke`: the command."""

import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn
from uuid import uuid4

import click

from cli import network
from cli.admin.errors import end, exit_on_error
from cli.admin.output import print_json, say
from cli.folders import state_dir_option
from cli.json_errors import JsonErrors
from cli.smoke import image, lease, removing, report, server
from cli.smoke.run import Done, Run, take
from cli.smoke.steps import STEPS

FAILED: Final = 1
LEFT: Final = 3
RUNNING: Final = 8
INTERRUPTED: Final = 130
STEPS_THAT_WAIT: Final = 6
"""At most this many steps wait for up to `--wait` seconds each; the lease covers them all."""
SKIPPABLE: Final = [step.name for step in STEPS if step.can_skip]
EXIT_CODES: Final = (
    "Exit codes: 0 every step is ok; 1 a step failed, and nothing is left of the image; 2 wrong usage; 3 something of "
    "the image is left, and the last line says what to do; 4 there is no such stack; 5 AWS refused or cannot be "
    "reached before the first step; 6 no local stack is running; 7 no usable AWS credentials or region; 8 another "
    "smoke test of this server is running; 130 interrupted."
)


@click.command(
    cls=JsonErrors,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES,
)
@click.option("--stack", default="", help="A stack in AWS, by its name, with the usual credentials and region.")
@state_dir_option
@click.option("--address", default="", metavar="URL", help="Where clients find the server.  [default: as deployed]")
@click.option("--api", default="", metavar="URL", help="The address of the upload API.  [default: as deployed]")
@click.option(
    "--wait",
    type=click.IntRange(1, 3600),
    default=300,
    show_default=True,
    help="Seconds to wait for the image to be listed, and for it to be gone.",
)
@click.option(
    "--skip",
    multiple=True,
    metavar="STEP",
    type=click.Choice(SKIPPABLE),
    help=f"Leave out {', '.join(SKIPPABLE)}; may be repeated. Without `api`, the upload does not use the API either.",
)
@click.option("--keep", is_flag=True, help="Leave the image where it is. The next run removes it.")
@click.option("--take-over", is_flag=True, help="Run although another smoke test holds the lease, if it was killed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    stack: str,
    state_dir: Path | None,
    address: str,
    api: str,
    wait: int,
    skip: Sequence[str],
    keep: bool,
    take_over: bool,
    as_json: bool,
) -> None:
    """Upload a tiny image to a server, read it back as clients do, and take it away again.

    Run it after each deployment; it is safe on a live server. Without --stack it tests the local stack that
    ./scripts/local started.

    Only the product images-smoke/smoke-test/deployment/amd64/check is written and deleted. It has a stream of its
    own, so no products document of yours changes. For a minute clients see one image more, as
    smoke-test/deployment/check. The next run removes what a killed run left.

    The upload goes through the API if you are a publisher of images-smoke/ (SIMPLESTREAMS_TOKEN, or your AWS
    credentials), else it is signed with your AWS credentials. These must be allowed to do what scripts/admin does.
    SSL_CERT_FILE names a private certificate authority of the edge.

    \b
    ./scripts/smoke                                  the local stack
    ./scripts/smoke --stack images                   the stack `images` in AWS
    ./scripts/smoke --stack images --json | jq .ok   for a pipeline
    ./scripts/smoke --stack images --skip lxc --skip incus
    ./scripts/smoke --stack images --keep            and then: lxc launch REMOTE:smoke-test/deployment/check
    """
    if stack and state_dir:
        raise click.UsageError("name one server: --stack or --state-dir")
    for option, url in (("--address", address), ("--api", api)):
        if url and not url.startswith(("https://", "http://")):
            raise click.UsageError(f"{option} is {url!r}, expected an address such as https://images.example.org")
    if not stack:
        network.reach_loopback_directly()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled job cleans up too
    try:
        with exit_on_error():
            try:
                _test(server.find(stack, state_dir, address, api), wait, set(skip), keep, take_over, as_json)
            except lease.Running as running:
                end(RUNNING, str(running))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _test(found: server.Server, wait: int, skip: set[str], keep: bool, take_over: bool, as_json: bool) -> NoReturn:
    with lease.held(found.store, wait * STEPS_THAT_WAIT, take_over):
        made = image.build(datetime.now(UTC), removing.versions(found), uuid4().hex)
        run = Run(found, made, wait, direct="api" in skip, strict_missing="missing" not in skip)
        done = take(STEPS, run, skip, keep, report.watch)
        left = is_left(run, done, keep)
        kept = run.sent and keep
        if as_json:
            print_json(report.document(run, done, kept, left))
        else:
            click.echo(f"{report.table(done)}\n{report.summary(done)}")
        if kept:
            say(f"smoke: {made.version.path} is kept; the next run removes it, also one with --keep")
        if left:
            stack = f" --stack {found.deployment.stack}" if found.deployment.stack else ""
            remedy = f"./scripts/admin{stack} withdraw {image.PRODUCT.path} --yes"
            say(f"smoke: something below {image.PRODUCT.path} may be left: run it again, or {remedy}")
    sys.exit(exit_code(done, left))


def is_left(run: Run, done: Sequence[Done], keep: bool) -> bool:
    """Return whether anything is left on the server of this run's image or of an earlier one."""
    results = {row.step: row.result for row in done}
    if results["tidy"] != "ok":
        return True
    return run.sent and not keep and results["remove"] != "ok"


def exit_code(done: Sequence[Done], left: bool) -> int:
    """Return the exit code of the command; see EXIT_CODES."""
    if any(row.result == "interrupted" for row in done):
        return INTERRUPTED
    if left:
        return LEFT
    return FAILED if report.unfinished(done) else 0


if __name__ == "__main__":
    main(prog_name="smoke")
