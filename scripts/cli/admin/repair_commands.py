"""Commands that make good what was missed, lost or damaged: reconcile, rebuild, redrive, undelete."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import click

from cli.admin import paths, redriving, repairing, restoring, shown
from cli.admin.base import clients as clients_option
from cli.admin.base import command, main, yes_anyway
from cli.admin.base import yes as yes_option
from cli.admin.faults import FOUND, NOTHING, end
from cli.admin.place import Place
from imageserver.operations.reconcile import reconcile as reconcile_bucket
from imageserver.operations.runs import Run
from imageserver.settings import CLIENT_CHOICES


@main.command()
@clients_option
@click.option("--dry-run", is_flag=True, help="Print what is missing, and send nothing, also with --yes.")
@yes_anyway
@command
def reconcile(place: Place, as_json: bool, clients: str | None, dry_run: bool) -> None:
    """Find what events missed and have it looked at again. Harmless at any time, so it is done without --yes."""
    notifier = place.notifier  # first: without its queues nothing is compared
    with shown.busy("comparing") as told:
        run = Run(dry_run=dry_run, limit=1 << 60, told=told)
        with shown.told_if_broken_off(run):
            reconcile_bucket(place.store, notifier, _chosen(place, clients), run)
    shown.end_of_run(as_json, run)


@main.group()
def rebuild() -> None:
    """Make the catalog again from the records, or records again from the images. Prints a plan without --yes."""


@rebuild.command(name="catalog")
@clients_option
@yes_option
@command
def rebuild_catalog(place: Place, as_json: bool, clients: str | None, yes: bool) -> None:
    """Fold all records into streams/v1 again; no image is read. A document that cannot be read is deleted first.

    For a catalog that is gone, with --bucket, say --clients if the server was deployed for one of them only.
    """
    with shown.busy("looking at the catalog"):
        steps = list(repairing.catalog_again(place.store, _chosen(place, clients), place.invalidate))
    _carry_out(as_json, yes, steps)


@rebuild.command(name="records")
@paths.below
@yes_option
@command
def rebuild_records(place: Place, as_json: bool, below: str, yes: bool) -> None:
    """Read the images whose record is missing, unreadable or out of date, here on this machine.

    PATH is a version or any folder above it. The edge invalidates what it holds of files whose record is made from
    nothing. Ends with exit code 1 when another worker was reading one of them: that one is to be looked at again.
    """
    with shown.busy("comparing records and images"):
        again = repairing.records_again(place.store, below, place.max_bytes)
    if below and not again.versions:
        end(NOTHING, f"there is no image and no record at or below {below}; it takes a version or any folder above it")
    _carry_out(as_json, yes, [*_forgetting(place, again.anew, yes), *again.steps])


def _forgetting(place: Place, keys: list[str], yes: bool) -> list[repairing.Step]:
    """The edge invalidates these before anything lists them again."""
    if keys and place.distribution:
        what = f"have the edge invalidate {len(keys):,} files: whether they held other bytes before, no record says"
        return [repairing.Step(what, partial(place.invalidate, keys))]
    if yes:
        place.invalidate(keys)  # notes that it cannot
    return []


@main.command()
@click.argument("queue", type=click.Choice(["arrivals", "changes", "maintain", "all"]), default="all")
@yes_option
@command
def redrive(place: Place, as_json: bool, queue: str, yes: bool) -> None:
    """Show the dead letters and why they died; with --yes send them back to be tried again.

    What cannot be tried again, --yes removes: a failed run of maintain (the next scheduled one goes on where it
    stopped) and a message that no release can read.
    """
    found: list[tuple[redriving.Letter, str]] = []
    with shown.busy("asking the queues"):
        try:
            for box in redriving.boxes(place, queue):
                redriving.read(box, yes, lambda letter, done: found.append((letter, done)))
        except Exception:  # what was sent back by then nobody else would ever know
            for letter, done in found if yes else ():
                shown.say(f"{letter.queue}: {', '.join(letter.keys)}  sent {letter.sent}  {done}")
            raise
    if as_json:
        told = [{**asdict(letter), "done": done} for letter, done in found]
        shown.as_json([{k: v for k, v in letter.items() if k not in ("receipt", "returns")} for letter in told])
        return
    for letter, done in found:
        about = ", ".join(letter.keys) or repr(letter.body[:80])
        click.echo(f"{letter.queue}: {about}  sent {letter.sent}{f'  {done}' if done else ''}")
        click.echo(f"  {letter.diagnosis}")
    after = "done with" if yes else "left where they are; --yes sends them back"
    click.echo(f"{len(found)} dead letters{f' {after}' if found else ''}")


@main.command()
@click.argument("path")
@yes_option
@command
def undelete(place: Place, as_json: bool, path: str, yes: bool) -> None:
    """Bring images below PATH back that somebody deleted, as long as the bucket keeps their last generation.

    Nothing is written over: a file that was uploaded again meanwhile stays. Records and the catalog are made anew
    instead (rebuild records, rebuild catalog), for old ones may name files that are gone.

    \b
    ./scripts/admin undelete images/ubuntu/noble/amd64/default/20261123_1000 --yes
    """
    restoring.check(path)
    path = paths.with_stream(path)
    found = restoring.deleted(place, path)
    if not found:
        end(NOTHING, f"the bucket keeps nothing deleted at or below {path}; it takes a file or any folder above it")
    if half := restoring.being_deleted(place, found):
        end(FOUND, f"the deletion of {', '.join(half)} has not ended: `admin prune --yes` ends it, then try again")
    there: list[str] = []
    if yes:
        with shown.bytes_progress() as progress:
            task = progress.add_task("copying", total=sum(file.size_bytes for file in found))
            there = restoring.bring_back(place, found, lambda count: progress.advance(task, count))
    for key in there:
        shown.say(f"left as it is: {key} was uploaded again meanwhile")
    _tell(as_json, yes, [f"bring back {f.key}, {shown.size(f.size_bytes)}" for f in found if f.key not in there])
    sys.exit(FOUND if there else 0)


def _chosen(place: Place, clients: str | None) -> tuple[str, ...]:
    return CLIENT_CHOICES[clients] if clients else place.clients


def _carry_out(as_json: bool, yes: bool, steps: list[repairing.Step]) -> None:
    """Take the steps if that is wanted, with progress; then tell them. Ends with 1 when one came to nothing."""
    done, left = [], []
    with shown.count_progress() as progress:
        for step in progress.track(steps, description="repairing") if yes else steps:
            came = step.do() if yes else None
            if isinstance(came, repairing.NotDone):
                left.append(came.why)
            else:
                done.append(step.what)
    for sentence in left:
        shown.say(f"not done: {sentence}")
    _tell(as_json, yes, done, left)
    sys.exit(FOUND if left else 0)


def _tell(as_json: bool, really: bool, done: list[str], left: Sequence[str] = ()) -> None:
    if as_json:
        shown.as_json({"done" if really else "would do": done, **({"not done": left} if left else {})})
        return
    for sentence in done:
        click.echo(sentence)
    click.echo(f"{len(done)} things {'done' if really else 'to do; add --yes to do them'}")
