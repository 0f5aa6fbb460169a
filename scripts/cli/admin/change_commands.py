"""Commands that change what is there: withdraw, restore, prune, import."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click

from cli import aws
from cli.admin import importing, looking, paths, shown, source_records
from cli.admin.base import command, main, yes_anyway
from cli.admin.base import yes as yes_option
from cli.admin.dry import DryStore
from cli.admin.faults import FOUND, NOTHING, end
from cli.admin.place import Place
from cli.admin.source_records import SourceRecords
from imageserver.format.keys import Target, path_of
from imageserver.operations import withdraw as withdrawals
from imageserver.operations.prune import Rules
from imageserver.operations.prune import prune as prune_server
from imageserver.operations.runs import Run
from imageserver.versions.retention import Rule

AS_DEPLOYED: Final = "[default: as the stack was deployed"


@main.command()
@click.argument("path")
@click.option("--reason", default="", help="Why; it is kept in the record.")
@click.option("--grace-hours", type=click.IntRange(1), help=f"Until it is deleted.  {AS_DEPLOYED}, else 24]")
@yes_option
@command
def withdraw(place: Place, as_json: bool, path: str, reason: str, grace_hours: int | None, yes: bool) -> None:
    """Take PATH (a product, a version or a file) off the list; its files are deleted after the grace time."""
    store = place.store if yes else DryStore(place.store)
    target = paths.target(path)
    hours = place.rules.grace_hours if grace_hours is None else grace_hours
    done = withdrawals.withdraw(store, target, datetime.now(UTC), hours, time.sleep, reason)
    will = f"withdrawn, deleted after {done.delete_after}"
    _tell_changed(as_json, not yes, target, done, will if yes else f"would be {will}; add --yes to do it")


@main.command()
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Print what would be back, and change nothing, also with --yes.")
@yes_anyway
@command
def restore(place: Place, as_json: bool, path: str, dry_run: bool) -> None:
    """Put PATH (a product, a version or a file) back on the list, as long as it was not deleted.

    It is done at once, without --yes: nothing is lost by it.
    """
    store = DryStore(place.store) if dry_run else place.store
    target = paths.target(path)
    done = withdrawals.restore(store, target, time.sleep)
    _tell_changed(as_json, dry_run, target, done, "would be on the list again" if dry_run else "on the list again")


def _tell_changed(as_json: bool, dry_run: bool, target: Target, done: withdrawals.Changed, what: str) -> None:
    if not (done.versions or done.files):
        end(
            NOTHING,
            f"there is no {path_of(target)}, or its files are being deleted; `admin undelete` may bring them back",
        )
    if as_json:
        shown.as_json({"dry_run": dry_run, **asdict(done)})
        return
    for one in (*done.versions, *done.files):
        click.echo(f"{one}: {what}")


@main.command()
@click.option(
    "--keep-versions", type=click.IntRange(0), help=f"Keep so many of a product; 0: all.  {AS_DEPLOYED}, else 0]"
)
@click.option(
    "--keep-days", type=click.IntRange(0), help=f"Keep them for so long; 0: for ever.  {AS_DEPLOYED}, else 0]"
)
@click.option("--grace-hours", type=click.IntRange(1), help=f"Until it is deleted.  {AS_DEPLOYED}, else 24]")
@click.option("--stale-days", type=click.IntRange(0), help=f"0 keeps unfinished uploads.  {AS_DEPLOYED}, else 7]")
@click.option("--dry-run", is_flag=True, help="Print what would happen, also with --yes; so it is without --yes.")
@yes_option
@command
def prune(place: Place, as_json: bool, dry_run: bool, yes: bool, **given: int | None) -> None:
    """Apply retention, delete what was withdrawn for long enough, and what was never finished.

    With --stack and none of these options it is what the scheduled maintain does: RetainVersions, RetainDays,
    GraceHours and StaleDays are those of the stack. An option goes before them.

    The newest listed version of a product always stays. What retention takes is off the list at once and deleted
    by a later run, after the grace time; until then `admin restore` brings it back.

    \b
    ./scripts/admin --stack images prune --dry-run
    ./scripts/admin prune --keep-versions 5 --dry-run
    """
    rules = _rules(place.rules, **given)
    kept = rules.retention
    shown.say(
        f"RetainVersions {kept.versions}, RetainDays {kept.days}, GraceHours {rules.grace_hours}, "
        f"StaleDays {rules.stale_days}"
    )
    with shown.busy("looking at") as told:
        run = Run(dry_run=dry_run or not yes, limit=1 << 60, told=told)
        with shown.told_if_broken_off(run):
            prune_server(place.store, place, rules, datetime.now(UTC), time.sleep, run, place.forget_soon)
    shown.end_of_run(as_json, run)


def _rules(
    usual: Rules, keep_versions: int | None, keep_days: int | None, grace_hours: int | None, stale_days: int | None
) -> Rules:
    """The server's own rules, with what was said on the command line in their place."""
    return Rules(
        Rule(
            usual.retention.versions if keep_versions is None else keep_versions,
            usual.retention.days if keep_days is None else keep_days,
        ),
        usual.grace_hours if grace_hours is None else grace_hours,
        usual.stale_days if stale_days is None else stale_days,
    )


@main.command(name="import")
@click.argument("source", metavar="DIR|s3://BUCKET[/PREFIX]")
@yes_option
@command
def import_(place: Place, as_json: bool, source: str, yes: bool) -> None:
    """Copy the images of an existing server: a folder such as /var/www/simplestreams, or another bucket.

    What lies below images* is taken; the catalog is made anew. Nothing that is there is replaced: a file that is
    there with other bytes is named and left out. What the records of the source (versions/) call withdrawn stays out,
    by name, with the reason and the date; so does a version whose record cannot be read. A run that was stopped goes
    on where it was. Without --yes it prints what it would copy.

    \b
    ./scripts/admin import /var/www/simplestreams --yes
    """
    if not (source.startswith("s3://") or Path(source).is_dir()):
        end(NOTHING, f"there is no folder {source} on this machine; a bucket is named s3://BUCKET/PREFIX")
    with shown.busy("comparing") as told:
        files, known = _tree(place, source)
        todo = importing.plan(place, files, told, known)
    if todo.is_empty:
        end(
            NOTHING,
            f"there is no file below images* in {source}; name the folder or bucket that holds the folder images",
        )
    if yes:
        with shown.bytes_progress() as progress:
            task = progress.add_task("copying", total=todo.size_bytes)
            todo = importing.carry_out(place, todo, lambda count: progress.advance(task, count))
    _tell_imported(as_json, yes, todo, known.is_empty)


def _tree(place: Place, source: str) -> tuple[Iterator[importing.File], SourceRecords]:
    """The files of a source, and what its records say of them; a bucket in AWS may be in another region."""
    if not source.startswith("s3://"):
        return importing.folder(Path(source)), source_records.of_folder(Path(source))
    bucket, prefix = importing.address_of(source)
    s3 = place.s3 if place.endpoint else aws.session_for_bucket(bucket).client("s3", config=aws.s3_config())
    return importing.bucket(s3, source), source_records.of_bucket(s3, bucket, prefix)


def _tell_imported(as_json: bool, really: bool, todo: importing.Plan, has_no_records: bool) -> NoReturn:
    left_out = todo.left_out
    for sentence in left_out:
        shown.say(f"left out: {sentence}")
    for one in todo.withdrawn:
        shown.say(f"stays out: {shown.one_line(one.sentence)}")
    for note in todo.notes:
        shown.say(f"note: {shown.one_line(note)}")
    if has_no_records:
        shown.say("note: the source has no records (versions/), so nothing of it counts as withdrawn")
    if as_json:
        shown.as_json(
            {
                "copied" if really else "to copy": len(todo.files),
                "bytes": todo.size_bytes,
                "already there": len(todo.already),
                "left out": left_out,
                "withdrawn": [
                    {"path": one.path, "files": one.files, **looking.plain(one.withdrawal)} for one in todo.withdrawn
                ],
                "notes": todo.notes,
            }
        )
    else:
        did = f"{'copied' if really else 'would copy'} {len(todo.files):,} files, {shown.size(todo.size_bytes)}"
        click.echo(f"{did}; {len(todo.already):,} were there already{_tell_withdrawn(todo)}")
    sys.exit(FOUND if left_out else 0)


def _tell_withdrawn(todo: importing.Plan) -> str:
    count = sum(one.files for one in todo.withdrawn)
    return f"; {count:,} stay out, withdrawn on the source (admin restore there brings them along)" if count else ""
