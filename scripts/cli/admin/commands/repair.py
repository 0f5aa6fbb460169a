"""Commands that repair what was missed, lost or damaged: reconcile, rebuild, redrive, undelete."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

import click

from cli.admin import dead_letters, output, recovery
from cli.admin.arguments import (
    below_argument,
    clients_option,
    command,
    ignored_yes_option,
    main,
    with_stream,
    yes_option,
)
from cli.admin.deployment import Deployment
from cli.admin.errors import FOUND, NOTHING, end
from imageserver.format.wording import counted
from imageserver.operations.reconcile import ReconcileServices
from imageserver.operations.reconcile import reconcile as reconcile_bucket
from imageserver.operations.runs import Run
from imageserver.settings import CLIENT_CHOICES


@main.command()
@clients_option
@click.option("--dry-run", is_flag=True, help="Print what is missing, and send nothing, even with --yes.")
@ignored_yes_option
@command
def reconcile(deployment: Deployment, as_json: bool, clients: str | None, dry_run: bool) -> None:
    """Find what events missed and send it to be processed. Always safe, so it does not ask for --yes.

    Where the server makes deltas, it also requests those that a version of the last two days lacks for no known reason.
    """
    notifier = deployment.notifier  # first: nothing is compared unless its queues are known

    def compare(run: Run) -> None:
        clients_served = _chosen(deployment, clients)
        services = ReconcileServices(
            deployment.store,
            notifier,
            clients_served,
            deployment.rights,
            deployment.invalidate,
            views=deployment.views,
            deltas=deployment.delta_requests,
            now=datetime.now(UTC),
            pause=time.sleep,
        )
        reconcile_bucket(services, run)

    output.carry_out("comparing", compare, in_json=as_json, dry_run=dry_run)


@main.group()
def rebuild() -> None:
    """Rebuild the catalog from the records, or records from the images. Without --yes it prints a plan."""


@rebuild.command(name="catalog")
@clients_option
@yes_option
@command
def rebuild_catalog(deployment: Deployment, as_json: bool, clients: str | None, yes: bool) -> None:
    """Fold all records into streams/v1 again; no image is read. A document that cannot be read is deleted first.

    If the catalog is gone and you use --bucket, give --clients unless the server was deployed for both.
    """
    with output.busy("looking at the catalog"):
        steps = list(recovery.plan_catalog(deployment, _chosen(deployment, clients)))
    _carry_out(as_json, yes, steps)


@rebuild.command(name="records")
@below_argument
@yes_option
@command
def rebuild_records(deployment: Deployment, as_json: bool, below: str, yes: bool) -> None:
    """Read the images whose record is missing, unreadable or out of date, here on this machine.

    PATH is a version or any folder above it. Withdrawals are kept as in the last readable generation of a record;
    if the bucket keeps none, the plan says so. Files without a readable record are invalidated at the edge. The exit
    code is 1 if a version could not be read, or if another worker was reading it: then repeat the command.
    """
    with output.busy("comparing records and images"):
        again = recovery.plan_records(deployment.store, below, deployment.max_bytes)
    if below and not again.versions:
        end(NOTHING, f"there is no image and no record at or below {below}; it takes a version or any folder above it")
    steps = again.steps
    if again.anew and deployment.distribution:
        files = counted(len(again.anew), "file")
        what = f"have the edge invalidate {files}: no record says whether they held other bytes before"
        # First: nothing may list these files again before the edge has dropped them.
        steps = [recovery.Step(what, partial(deployment.invalidate, again.anew)), *steps]
    elif yes:
        deployment.invalidate(again.anew)  # the command for it is printed at the end
    _carry_out(as_json, yes, steps)


@main.command()
@click.argument(
    "queue",
    type=click.Choice(["arrivals", "changes", "copies", "deltas", "access-logs", "maintain", "all"]),
    default="all",
)
@yes_option
@command
def redrive(deployment: Deployment, as_json: bool, queue: str, yes: bool) -> None:
    """Show the dead letters and why they failed; with --yes send them back to be processed again.

    --yes removes what cannot be processed again: a failed run of maintain, which the next scheduled run continues,
    and a message that no release can read.
    """
    found: list[tuple[dead_letters.DeadLetter, str]] = []
    with output.busy("asking the queues"):
        try:
            for dead_letter_queue in dead_letters.queues_of(deployment, queue):
                dead_letters.read(dead_letter_queue, yes, lambda letter, done: found.append((letter, done)))
        except Exception:  # nothing else records which letters were already sent back
            for letter, done in found if yes else ():
                output.say(f"{letter.queue}: {', '.join(letter.keys)}  sent {letter.sent}  {done}")
            raise
    if as_json:
        report = [{**asdict(letter), "done": done} for letter, done in found]
        output.print_json([{k: v for k, v in letter.items() if k not in ("receipt", "returns")} for letter in report])
        return
    for letter, done in found:
        about = ", ".join(letter.keys) or repr(letter.body[:80])
        click.echo(f"{letter.queue}: {about}  sent {letter.sent}{f'  {done}' if done else ''}")
        click.echo(f"  {letter.diagnosis}")
    after = " dealt with" if yes else ", which --yes sends back"
    click.echo(f"{counted(len(found), 'dead letter')}{after if found else ''}")


@main.command()
@click.argument("path")
@yes_option
@command
def undelete(deployment: Deployment, as_json: bool, path: str, yes: bool) -> None:
    """Bring back deleted images at or below PATH, as long as the bucket keeps their last generation.

    Nothing is overwritten: a file that was uploaded again stays. Records and the catalog cannot be brought back,
    because old ones may name files that are gone; rebuild them.

    \b
    ./scripts/admin undelete images/ubuntu/noble/amd64/default/20261123_1000 --yes
    """
    recovery.check_path(path)
    path = with_stream(path)
    found = recovery.deleted(deployment, path)
    if not found:
        end(NOTHING, f"the bucket keeps nothing deleted at or below {path}; it takes a file or any folder above it")
    if half := recovery.being_deleted(deployment, found):
        end(FOUND, f"the deletion of {', '.join(half)} has not ended: `admin prune --yes` ends it, then try again")
    there: list[str] = []
    if yes:
        with output.bytes_progress() as progress:
            task = progress.add_task("copying", total=sum(file.size_bytes for file in found))
            there = recovery.bring_back(deployment, found, lambda count: progress.advance(task, count))
    for key in there:
        output.say(f"left as it is: {key} was uploaded again meanwhile")
    _print_steps(
        as_json, yes, [f"bring back {f.key}, {output.size(f.size_bytes)}" for f in found if f.key not in there]
    )
    sys.exit(FOUND if there else 0)


def _chosen(deployment: Deployment, clients: str | None) -> tuple[str, ...]:
    return CLIENT_CHOICES[clients] if clients else deployment.clients


def _carry_out(as_json: bool, yes: bool, steps: list[recovery.Step]) -> None:
    """Carry out the steps if `yes`, and print them. Exit with 1 if one could not be done."""
    done, left = [], []
    with output.count_progress() as progress:
        for step in progress.track(steps, description="repairing") if yes else steps:
            came = step.do() if yes else None
            if isinstance(came, recovery.StepFailed):
                left.append(came.why)
            else:
                done.append(step.what)
    for sentence in left:
        output.say(f"not done: {sentence}")
    _print_steps(as_json, yes, done, left)
    sys.exit(FOUND if left else 0)


def _print_steps(as_json: bool, really: bool, done: list[str], left: Sequence[str] = ()) -> None:
    if as_json:
        output.print_json({"done" if really else "would do": done, **({"not done": left} if left else {})})
        return
    for sentence in done:
        click.echo(sentence)
    click.echo(f"{counted(len(done), 'step')} {'done' if really else 'to do; add --yes'}")
