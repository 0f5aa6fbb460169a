"""Commands that change what is there: withdraw, restore, prune, import."""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from cli.admin import importing, shown
from cli.admin.base import command, main
from cli.admin.base import yes as yes_option
from cli.admin.dry import DryStore
from cli.admin.place import FOUND, NOTHING, Place, end
from operations import withdrawals
from operations.retain import Rules, retain
from operations.work import Work
from simplestreams.keys import parse_target
from simplestreams.retention import Rule


@main.command()
@click.argument("path")
@click.option("--reason", default="", help="Why; it is kept in the record.")
@click.option("--grace-hours", type=click.IntRange(1), default=24, show_default=True, help="Until it is deleted.")
@yes_option
@command
def withdraw(place: Place, as_json: bool, path: str, reason: str, grace_hours: int, yes: bool) -> None:
    """Take PATH (a product, a version or a file) off the list; its files are deleted after the grace time."""
    store = place.store if yes else DryStore(place.store)
    target = parse_target(path)
    done = withdrawals.withdraw(store, target, datetime.now(UTC), grace_hours, time.sleep, reason)
    will = f"withdrawn, deleted after {done.delete_after}"
    _tell_changed(as_json, path, done, will if yes else f"would be {will}; add --yes to do it")


@main.command()
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Print what would be back, and change nothing.")
@command
def restore(place: Place, as_json: bool, path: str, dry_run: bool) -> None:
    """Put PATH (a product, a version or a file) back on the list, as long as it was not deleted."""
    store = DryStore(place.store) if dry_run else place.store
    done = withdrawals.restore(store, parse_target(path), time.sleep)
    _tell_changed(as_json, path, done, "would be on the list again" if dry_run else "on the list again")


def _tell_changed(as_json: bool, path: str, done: withdrawals.Changed, what: str) -> None:
    if not (done.versions or done.files):
        end(NOTHING, f"there is no {path}, or its files are being deleted; `admin undelete` may bring them back")
    if as_json:
        shown.as_json(asdict(done))
        return
    for one in (*done.versions, *done.files):
        click.echo(f"{one}: {what}")


@main.command()
@click.option("--keep-versions", type=click.IntRange(0), default=0, help="Keep so many versions of a product; 0: all.")
@click.option("--keep-days", type=click.IntRange(0), default=0, help="Keep versions for so many days; 0: for ever.")
@click.option("--grace-hours", type=click.IntRange(1), default=24, show_default=True)
@click.option("--stale-days", type=click.IntRange(0), default=7, show_default=True, help="0 keeps unfinished uploads.")
@click.option("--dry-run", is_flag=True, help="Print what would happen; so it is without --yes.")
@yes_option
@command
def prune(
    place: Place,
    as_json: bool,
    keep_versions: int,
    keep_days: int,
    grace_hours: int,
    stale_days: int,
    dry_run: bool,
    yes: bool,
) -> None:
    """Apply retention, delete what was withdrawn for long enough, and what was never finished.

    The newest listed version of a product always stays. What retention takes is off the list at once and deleted
    by a later run, after the grace time; until then `admin restore` brings it back.

    \b
    ./scripts/admin prune --keep-versions 5 --dry-run
    """
    rules = Rules(Rule(keep_versions, keep_days), grace_hours, stale_days)
    with shown.busy("looking at") as told:
        work = Work(dry_run=dry_run or not yes, limit=1 << 60, told=told)
        retain(place.store, rules, datetime.now(UTC), time.sleep, work)
    shown.end_of_work(as_json, work)


@main.command(name="import")
@click.argument("source", metavar="DIR|s3://BUCKET[/PREFIX]")
@yes_option
@command
def import_(place: Place, as_json: bool, source: str, yes: bool) -> None:
    """Copy the images of an existing server: a folder such as /var/www/simplestreams, or another bucket.

    What lies below images* is taken; the catalog is made anew. Nothing that is there is replaced, and a run that
    was stopped goes on where it was. Without --yes it prints what it would copy.

    \b
    ./scripts/admin import /var/www/simplestreams --yes
    """
    files = importing.bucket(place.s3, source) if source.startswith("s3://") else importing.folder(Path(source))
    todo = importing.plan(place, files)
    if todo.is_empty:
        end(
            NOTHING,
            f"there is no file below images* in {source}; name the folder or bucket that holds the folder images",
        )
    for sentence in (*todo.refused, *todo.taken):
        shown.say(f"left out: {sentence}")
    if yes:
        with shown.bytes_progress() as progress:
            task = progress.add_task("copying", total=todo.size_bytes)
            for file in todo.files:
                file.copy(place, file.key, lambda count: progress.advance(task, count))
    answer = {
        "copied" if yes else "to copy": len(todo.files),
        "bytes": todo.size_bytes,
        "already there": todo.already,
        "left out": [*todo.refused, *todo.taken],
    }
    if as_json:
        shown.as_json(answer)
    else:
        did = f"{'copied' if yes else 'would copy'} {len(todo.files):,} files, {shown.size(todo.size_bytes)}"
        click.echo(f"{did}; {todo.already:,} were there already")
    sys.exit(FOUND if answer["left out"] else 0)
