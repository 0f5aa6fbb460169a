"""Commands that change what is listed or stored: withdraw, restore, delta, prune, import."""

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Final, NoReturn

import click

from cli import aws
from cli.admin import import_plan, inventory, other_servers, output, source_records, transfer, views
from cli.admin.arguments import chosen_options, command, find_target, ignored_yes_option, main, yes_option
from cli.admin.deployment import Deployment, DryStore
from cli.admin.errors import FOUND, NOTHING, end
from cli.admin.other_servers import Bucket, Folder, Web
from cli.admin.source_records import SourceRecords
from cli.admin.transfer import File
from imageserver.catalog.delta_plan import RunCapacity
from imageserver.format.documents import INDEX_KEY
from imageserver.format.keys import ProductId, Target, VersionId, path_of, product_of
from imageserver.format.wording import counted
from imageserver.inspection.overrides import MOST_DELTAS
from imageserver.operations import withdraw as withdrawals
from imageserver.operations.make_deltas import DeltaServices, Outcome, make_deltas
from imageserver.operations.promotion import moved, shown_by_channels
from imageserver.operations.prune import Rules
from imageserver.operations.prune import prune as prune_server
from imageserver.operations.recent_fetches import ReasonToKeep, fetched_within, no_reason
from imageserver.operations.runs import Run
from imageserver.programs.xdelta3 import find_xdelta3
from imageserver.upstream.filters import ALL, Filter, parse_filter
from imageserver.upstream.mapping import LeftOut
from imageserver.versions.retention import Rule

_PATIENCE_S: Final = 24 * 3600.0
"""How long a delta may take on an operator's machine."""
AS_DEPLOYED: Final = "[default: as the stack was deployed"


@main.command()
@click.argument("path")
@click.option("--reason", default="", help="Why; it is kept in the record.")
@click.option("--grace-hours", type=click.IntRange(1), help=f"Hours until deletion.  {AS_DEPLOYED}, else 24]")
@yes_option
@command
def withdraw(deployment: Deployment, as_json: bool, path: str, reason: str, grace_hours: int | None, yes: bool) -> None:
    """Take PATH (a product, a version or a file) off the list; its files are deleted after the grace time.

    What is already withdrawn keeps its date and its reason, unless retention or a mirror withdrew it.

    \b
    ./scripts/admin withdraw 0f1a2b3c4d5e --reason "does not boot" --yes    an image by its fingerprint
    """
    store = deployment.store if yes else DryStore(deployment.store)
    target = find_target(deployment, path)
    hours = deployment.rules.grace_hours if grace_hours is None else grace_hours
    product = product_of(target)
    before = shown_by_channels(store, deployment.views().values(), product)
    done = withdrawals.withdraw(store, target, datetime.now(UTC), hours, time.sleep, reason)
    after = shown_by_channels(store, deployment.views().values(), product) if yes else before
    views.tell_moved(moved(product, before, after))
    will = f"withdrawn, deleted after {done.delete_after}"
    _print_changed(as_json, not yes, target, done, will if yes else f"would be {will}; add --yes to do it")


@main.command()
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Print what would be restored and change nothing, even with --yes.")
@ignored_yes_option
@command
def restore(deployment: Deployment, as_json: bool, path: str, dry_run: bool) -> None:
    """List PATH (a product, a version or a file) again, as long as it was not deleted.

    It loses nothing, so it does not ask for --yes.
    """
    store = DryStore(deployment.store) if dry_run else deployment.store
    target = find_target(deployment, path, of_records=True)
    done = withdrawals.restore(store, target, time.sleep)
    _print_changed(as_json, dry_run, target, done, "would be on the list again" if dry_run else "on the list again")


def _print_changed(as_json: bool, dry_run: bool, target: Target, done: withdrawals.Changed, what: str) -> None:
    """Print each version and file that is now as requested. `what` says so of those that were not before."""
    if not (done.versions or done.files):
        _end_unchanged(target, done)
    if as_json:
        untouched = {
            name: {path: inventory.plain(withdrawal) for path, withdrawal in found.items()}
            for name, found in (("already", done.already), ("deleting", done.deleting))
        }
        output.print_json(
            {"dry_run": dry_run, "versions": done.versions, "files": done.files, "delete_after": done.delete_after}
            | untouched
        )
        return
    for one in (*done.versions, *done.files):
        if before := done.already.get(one):
            why = f' because "{output.one_line(before.reason)}"' if before.reason else ""
            stays = f"its date and reason stay, and it is deleted after {before.delete_after}"
            click.echo(f"{one}: was withdrawn already on {before.since}{why}; {stays}")
        elif one in done.not_withdrawn:
            click.echo(f"{one}: is not withdrawn")
        else:
            click.echo(f"{one}: {what}")


def _end_unchanged(target: Target, done: withdrawals.Changed) -> NoReturn:
    """Exit with the reason why nothing of a target is as requested."""
    if done.held:
        version, withdrawal = next(iter(done.held.items()))
        end(
            FOUND,
            f"{version} is withdrawn as a whole, until {withdrawal.delete_after}, and stays so: `admin restore "
            f"{version}`, then withdraw again the files that you do not want",
        )
    if done.deleting:
        path, withdrawal = next(iter(done.deleting.items()))
        end(
            FOUND,
            f"{path} was withdrawn on {withdrawal.since} and its files are being deleted: `admin prune --yes` ends "
            f"that, and `admin undelete {path} --yes` brings them back",
        )
    end(NOTHING, f"there is no {path_of(target)}; if it was deleted, `admin undelete` may bring it back")


@main.command()
@click.argument("path")
@click.option(
    "--count",
    type=click.IntRange(1, MOST_DELTAS),
    default=1,
    show_default=True,
    help="From how many earlier versions. One delta is listed; the others replace it when its base goes.",
)
@ignored_yes_option
@command
def delta(deployment: Deployment, as_json: bool, path: str, count: int) -> None:
    """Make a delta for PATH, a listed version or the newest one of a product, from the version before it.

    It is made on this machine, with its own xdelta3, as on a server with the parameter Deltas: of the squashfs, decoded
    once as a check, kept if it is smaller than half of the root, and listed seconds later. Nothing is overwritten, and
    a publisher's own delta stays. The key `deltas` of metadata.json is ignored.

    \b
    ./scripts/admin delta ubuntu/noble/amd64/default                  of the newest version
    ./scripts/admin delta ubuntu/noble/amd64/default/20261123_1000    of this one
    """
    target = find_target(deployment, path)
    if not isinstance(target, VersionId | ProductId):
        raise click.UsageError(f"{path} is a file, expected a version or a product")
    encoder = find_xdelta3()
    if encoder is None:
        end(FOUND, "there is no xdelta3 on this machine; install it, on Debian and Ubuntu: sudo apt install xdelta3")
    folder = Path(gettempdir())

    def capacity() -> RunCapacity:
        return RunCapacity(shutil.disk_usage(folder).free, 0, _PATIENCE_S)

    services = DeltaServices(deployment.store, encoder, time.sleep, capacity, folder, count, by_hand=True)
    with output.busy(f"making deltas for {path_of(target)}"):
        made = make_deltas(product_of(target), services, target.version if isinstance(target, VersionId) else "")
    if not made:
        end(NOTHING, f"{path_of(target)} is not listed with a squashfs, or no version before it is")
    if as_json:
        output.print_json([{**asdict(one), "version": one.version.path} for one in made])
    for one in made if not as_json else ():
        result = (
            one.reason or f"{output.size(one.size_bytes)}, which saves {output.size(one.saved_bytes)} for each host"
        )
        click.echo(f"{one.version.path} from {one.base}: {one.outcome}: {result}")
    sys.exit(FOUND if any(one.outcome is Outcome.DROPPED for one in made) else 0)


@main.command()
@click.option(
    "--keep-versions", type=click.IntRange(0), help=f"Versions to keep of each product; 0: all.  {AS_DEPLOYED}, else 0]"
)
@click.option("--keep-days", type=click.IntRange(0), help=f"Days to keep them; 0: for ever.  {AS_DEPLOYED}, else 0]")
@click.option("--grace-hours", type=click.IntRange(1), help=f"Hours until deletion.  {AS_DEPLOYED}, else 24]")
@click.option("--stale-days", type=click.IntRange(0), help=f"0 keeps unfinished uploads.  {AS_DEPLOYED}, else 7]")
@click.option(
    "--keep-fetched-within",
    type=click.IntRange(0),
    metavar="DAYS",
    help=f"Keep versions fetched in the last DAYS days, by the access logs; 0: ignore them.  {AS_DEPLOYED}, else 0]",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would happen, even with --yes. This is the default without it."
)
@yes_option
@command
def prune(deployment: Deployment, as_json: bool, dry_run: bool, yes: bool, **given: int | None) -> None:
    """Apply retention; delete what was withdrawn and is past its grace time, and uploads that were never finished.

    With --stack and none of these options it does the same as the scheduled maintain, with RetainVersions, RetainDays,
    GraceHours, StaleDays, RefusedDays and KeepFetchedWithinDays of the stack. An option overrides them.

    The newest listed version of a product always stays. A version that retention withdraws is off the list at once and
    deleted by a later run, after the grace time; until then `admin restore` lists it again. With --keep-fetched-within
    a version stays as long as it is fetched, and also if logs of those days are missing or cannot be read.

    \b
    ./scripts/admin --stack images prune --dry-run
    ./scripts/admin prune --keep-versions 5 --dry-run
    ./scripts/admin prune --keep-versions 5 --keep-fetched-within 30 --dry-run
    """
    rules = _rules(deployment.rules, **given)
    kept = rules.retention
    output.say(
        f"RetainVersions {kept.versions}, RetainDays {kept.days}, GraceHours {rules.grace_hours}, "
        f"StaleDays {rules.stale_days}, RefusedDays {rules.refused_days}"
        + (f", KeepFetchedWithinDays {rules.keep_fetched_days}" if rules.keep_fetched_days else "")
    )

    def apply(run: Run) -> None:
        now, invalidate = datetime.now(UTC), deployment.request_invalidation
        keep: ReasonToKeep = no_reason
        if rules.keep_fetched_days:
            keep = fetched_within(rules.keep_fetched_days, deployment.logs, now, lambda: True)
        prune_server(deployment.store, deployment, rules, now, time.sleep, run, invalidate, deployment.views, keep)

    output.carry_out("looking at", apply, in_json=as_json, dry_run=dry_run or not yes)


def _rules(
    usual: Rules,
    keep_versions: int | None,
    keep_days: int | None,
    grace_hours: int | None,
    stale_days: int | None,
    keep_fetched_within: int | None,
) -> Rules:
    """Return the deployment's rules, overridden by what the command line gives."""
    return Rules(
        Rule(
            usual.retention.versions if keep_versions is None else keep_versions,
            usual.retention.days if keep_days is None else keep_days,
        ),
        usual.grace_hours if grace_hours is None else grace_hours,
        usual.stale_days if stale_days is None else stale_days,
        usual.refused_days,
        usual.keep_fetched_days if keep_fetched_within is None else keep_fetched_within,
    )


@main.command(name="import")
@click.argument("source", metavar="DIR|s3://BUCKET[/PREFIX]|https://HOST[/PATH]")
@click.option("--into", default="images", show_default=True, help="The stream for images of the source's catalog.")
@chosen_options("import")
@yes_option
@command
def import_(
    deployment: Deployment,
    as_json: bool,
    source: str,
    into: str,
    only: tuple[Filter, ...],
    keep: int | None,
    yes: bool,
) -> None:
    """Copy the images of another server: a folder such as /var/www/simplestreams, a bucket, or an address.

    Files below images* that are in this server's layout keep their place. Files that the source's catalog (streams/v1)
    lists elsewhere go into the stream --into, by os, release, architecture and variant; aliases and titles become
    metadata.json. Every image keeps its fingerprint: each file must have the sha256 that the catalog gives.

    Nothing is overwritten: a file that exists with other bytes is named and left out. Also left out are images that
    the source's records (versions/) call withdrawn, with reason and date, versions whose record cannot be read, and
    symbolic links. An interrupted import can be repeated. Without --yes it prints what it would copy.

    A filter uses the names of this server: `ubuntu:noble:*:cloud`, `os=debian|alpine,arch=amd64`, or
    `ubuntu,ftype=squashfs,size<=2GB`. Metadata, deltas and overrides of a root come with it. Repeated with a wider
    filter, the command copies only what is missing.

    \b
    ./scripts/admin import /var/www/simplestreams --yes
    ./scripts/admin import https://images.example.org --into images-other
    ./scripts/admin import https://images.example.org --only 'ubuntu:noble:*:cloud' --keep 2 --yes
    """
    if not source.startswith(("s3://", "https://", "http://")) and not Path(source).is_dir():
        end(NOTHING, f"there is no folder {source} on this machine; a bucket is named s3://BUCKET/PREFIX")
    with output.busy("comparing") as advance:
        files, known = _tree(deployment, source, into)
        if only or keep:
            files = other_servers.only_chosen(files, only or (parse_filter(ALL),), keep)
        todo = import_plan.plan(deployment, files, advance, known)
    shown = Web(source).host if source.startswith(("https://", "http://")) else source  # the rest may hold a password
    if todo.is_empty and only:
        end(NOTHING, f"{shown} has nothing that --only takes: `lxc image list` of it shows what there is")
    if todo.is_empty:
        end(
            NOTHING,
            f"there is no image in {shown}: neither a file below images* nor a catalog, {INDEX_KEY}; name the folder, "
            "bucket or address that holds one of them",
        )
    if yes:
        with output.bytes_progress() as progress:
            task = progress.add_task("copying", total=todo.size_bytes)
            todo = import_plan.carry_out(deployment, todo, lambda count: progress.advance(task, count))
    _print_import(as_json, yes, todo, known.is_empty)


def _tree(deployment: Deployment, source: str, into: str) -> tuple[Iterator[File | LeftOut], SourceRecords]:
    """Return the files of a source and its records. A bucket in AWS may be in another region."""
    if source.startswith(("https://", "http://")):
        return other_servers.by_catalog(Web(source), into), SourceRecords()
    if not source.startswith("s3://"):
        root = Path(source)
        found = other_servers.with_catalog(transfer.folder(root), Folder(root), into)
        return found, source_records.of_folder(root)
    bucket, prefix = transfer.address_of(source)
    s3 = deployment.s3 if deployment.endpoint else aws.session_for_bucket(bucket).client("s3", config=aws.s3_config())
    found = other_servers.with_catalog(transfer.bucket(s3, source), Bucket(s3, bucket, prefix), into)
    return found, source_records.of_bucket(s3, bucket, prefix)


def _print_import(as_json: bool, really: bool, todo: import_plan.Plan, has_no_records: bool) -> NoReturn:
    left_out = todo.left_out
    for sentence in left_out:
        output.say(f"left out: {sentence}")
    for one in todo.withdrawn:
        output.say(f"stays out: {output.one_line(one.sentence)}")
    for note in todo.notes:
        output.say(f"note: {output.one_line(note)}")
    if has_no_records:
        output.say("note: the source has no records (versions/), so nothing of it counts as withdrawn")
    if as_json:
        output.print_json(
            {
                "copied" if really else "to copy": len(todo.files),
                "bytes": todo.size_bytes,
                "already there": len(todo.already),
                "left out": left_out,
                "withdrawn": [
                    {"path": one.path, "files": one.files, **inventory.plain(one.withdrawal)} for one in todo.withdrawn
                ],
                "notes": todo.notes,
            }
        )
    else:
        what = f"{counted(len(todo.files), 'file')}, {output.size(todo.size_bytes)}"
        did = "copied" if really else "would copy"
        out = sum(one.files for one in todo.withdrawn)
        stay = f"; {out:,} stay out, withdrawn on the source (admin restore there includes them)" if out else ""
        click.echo(f"{did} {what}; {len(todo.already):,} were there already{stay}")
    sys.exit(FOUND if left_out else 0)
