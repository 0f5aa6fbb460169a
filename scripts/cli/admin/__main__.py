"""`scripts/admin`: the commands. What they do is in the modules beside this one."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

import notices
from cli.admin import checking, doctor, importing, looking, redriving, repairing, shown
from cli.admin.dry import DryStore
from cli.admin.place import EXIT_CODES, FOUND, NOTHING, Place, aws, deployed, end, errors_told, local
from maintain.retain import Rules, retain
from maintain.retention import Rule
from maintain.sweep import sweep as sweep_bucket
from maintain.work import Work
from settings import CLIENT_CHOICES, DEFAULT_MAX_BYTES
from simplestreams.keys import RECORDS as RECORD_PREFIX
from simplestreams.keys import ImageKey, VersionId
from uploads import withdrawals


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


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """A command gets the opened place, and its errors become sentences."""

    @wraps(function)
    @click.pass_obj
    def run(context: Context, *args: Any, **kwargs: Any) -> None:
        with errors_told():
            function(context.open(), context.as_json, *args, **kwargs)

    return run


_yes = click.option("--yes", is_flag=True, help="Really do it.")
_clients = click.option(
    "--clients",
    type=click.Choice(sorted(CLIENT_CHOICES)),
    help="Whose items the catalog carries.  [default: as the stack was deployed, else as the catalog has it]",
)


@main.command(name="list")
@click.argument("below", default="", metavar="[PATH]")
@click.option("--unlisted", is_flag=True, help="Only what clients do not see.")
@_command
def list_(place: Place, as_json: bool, below: str, unlisted: bool) -> None:
    """What is there: every version below PATH with its state, and why it is not listed.

    \b
    ./scripts/admin list images-daily
    ./scripts/admin list --unlisted
    """
    in_catalog = {entry.version.path for entry in looking.listed(place.store, below)}
    rows = [looking.described(found, in_catalog) for found in looking.seen(place.store, below)]
    rows = [row for row in rows if not (unlisted and row["listed"])]
    if as_json:
        shown.as_json(rows)
        return
    shown.table(("version", "state", "listed", "files", "size", "first reason"), map(_cells, rows))


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    is_listed = "yes" if row["listed"] else ""
    return (row["version"], row["state"], is_listed, row["files"], shown.size(row["bytes"]), *row["reasons"][:1])


@main.command()
@click.argument("path")
@_command
def show(place: Place, as_json: bool, path: str) -> None:
    """Everything known of PATH: a product, or one version with its files, reasons and catalog items.

    \b
    ./scripts/admin show images/ubuntu/noble/amd64/default
    ./scripts/admin --json show images/ubuntu/noble/amd64/default/20261123_10:00
    """
    target = withdrawals.parse_target(path)
    below = target.version.path if isinstance(target, ImageKey) else target.path
    is_product = not isinstance(target, VersionId | ImageKey)
    wanted = list(looking.seen(place.store, f"{below}/" if is_product else f"{below}.json"))
    if not wanted:
        end(NOTHING, f"nothing is known of {path}; `admin sweep` looks for what events missed")
    items = looking.listed(place.store, f"{below}/")
    found = [
        {
            "version": one.version.path,
            "record": looking.plain(one.record) if one.record else one.damage,
            "catalog": {e.name: looking.plain(e.item) for e in items if e.version == one.version},
        }
        for one in wanted
    ]
    if as_json:
        shown.as_json(found)
        return
    for one in found:
        click.echo(one["version"])
        if isinstance(one["record"], str):
            click.echo(f"  {one['record']}")
            continue
        click.echo(f"  {one['record']['state']}, {len(one['catalog'])} items listed")
        for file, facts in sorted(one["record"]["files"].items()):
            click.echo(f"  {file}  {shown.size(facts['size_bytes'])}  sha256 {facts.get('sha256') or 'not read'}")
        for reason in one["record"]["reasons"]:
            click.echo(f"  {reason['kind']}: {reason['sentence']}")


@main.command()
@click.argument("below", default="", metavar="[PATH]")
@click.option("--sample", type=click.IntRange(1), help="Only so many versions, chosen at random.")
@click.option("--seed", type=int, default=None, help="Choose the same sample again.")
@click.option("--through-edge", is_flag=True, help="Read through the address that clients know, not from the bucket.")
@_command
def verify(place: Place, as_json: bool, below: str, sample: int | None, seed: int | None, through_edge: bool) -> None:
    """Read the listed files below PATH and compare size, sha256 and the clients' combined sha256.

    Ends with exit code 1 and the name of each file that is not what the catalog says.

    \b
    ./scripts/admin verify
    ./scripts/admin verify --sample 20 --through-edge
    """
    items = looking.listed(place.store, below)
    versions = sorted({entry.version for entry in items})
    if sample and sample < len(versions):
        seed = random.randrange(1 << 32) if seed is None else seed  # noqa: S311
        shown.say(f"sample of {sample} of {len(versions)} versions with --seed {seed}")
        chosen = set(random.Random(seed).sample(versions, sample))  # noqa: S311
        items = [entry for entry in items if entry.version in chosen]
    if through_edge and not place.edge:
        raise click.UsageError("say the address that clients know with --url")
    read = checking.from_edge(place.edge, place.ca_file) if through_edge else checking.from_bucket(place.store)
    total = sum({entry.item.path: entry.item.size for entry in items}.values())
    with shown.bytes_progress() as progress:
        task = progress.add_task("reading", total=total)
        wrong = list(checking.verify(items, read, lambda count: progress.advance(task, count)))
    _tell_verified(as_json, {entry.version for entry in items}, total, wrong)


def _tell_verified(as_json: bool, versions: set[VersionId], total: int, wrong: list[checking.Mismatch]) -> None:
    if as_json:
        shown.as_json({"versions": len(versions), "bytes": total, "mismatches": [asdict(one) for one in wrong]})
    else:
        for one in wrong:
            click.echo(f"{one.path}: {one.what}")
        click.echo(f"{len(versions):,} versions, {shown.size(total)}: {len(wrong) or 'no'} mismatches")
    sys.exit(FOUND if wrong else 0)


@main.group()
def rebuild() -> None:
    """Make the catalog again from the records, or records again from the images. Prints a plan without --yes."""


@rebuild.command(name="catalog")
@_clients
@_yes
@_command
def rebuild_catalog(place: Place, as_json: bool, clients: str | None, yes: bool) -> None:
    """Fold all records into streams/v1 again; no image is read. A document that cannot be read is deleted first.

    For a catalog that is gone, with --bucket, say --clients if the server was deployed for one of them only.
    """
    with shown.busy("looking at the catalog"):
        steps = list(repairing.catalog_again(place.store, _chosen(place, clients)))
    _carry_out(as_json, yes, steps)


@rebuild.command(name="records")
@click.argument("below", default="", metavar="[PATH]")
@_yes
@_command
def rebuild_records(place: Place, as_json: bool, below: str, yes: bool) -> None:
    """Read the images whose record is missing, unreadable or out of date, here on this machine."""
    with shown.busy("comparing records and images"):
        steps = list(repairing.records_again(place.store, below, DEFAULT_MAX_BYTES))
    _carry_out(as_json, yes, steps)


@main.command()
@_clients
@click.option("--dry-run", is_flag=True, help="Print what is missing, and send nothing.")
@_command
def sweep(place: Place, as_json: bool, clients: str | None, dry_run: bool) -> None:
    """Find what events missed and have it looked at again. Harmless at any time."""
    url = place.queue("images").url

    def send(key: str) -> None:
        place.sqs.send_message(QueueUrl=url, MessageBody=notices.notice(place.bucket, key))

    with shown.busy("sweeping") as told:
        work = Work(dry_run=dry_run, limit=1 << 60, told=told)
        sweep_bucket(place.store, send, _chosen(place, clients), work)
    _tell_work(as_json, work)


@main.command()
@click.option("--keep-versions", type=click.IntRange(0), default=0, help="Keep so many versions of a product; 0: all.")
@click.option("--keep-days", type=click.IntRange(0), default=0, help="Keep versions for so many days; 0: for ever.")
@click.option("--grace-hours", type=click.IntRange(1), default=24, show_default=True)
@click.option("--stale-days", type=click.IntRange(0), default=7, show_default=True, help="0 keeps unfinished uploads.")
@click.option("--dry-run", is_flag=True, help="Print what would happen; so it is without --yes.")
@_yes
@_command
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
    _tell_work(as_json, work)


@main.command()
@click.argument("path")
@click.option("--reason", default="", help="Why; it is kept in the record.")
@click.option("--grace-hours", type=click.IntRange(1), default=24, show_default=True, help="Until it is deleted.")
@_yes
@_command
def withdraw(place: Place, as_json: bool, path: str, reason: str, grace_hours: int, yes: bool) -> None:
    """Take PATH (a product, a version or a file) off the list; its files are deleted after the grace time."""
    store = place.store if yes else DryStore(place.store)
    target = withdrawals.parse_target(path)
    done = withdrawals.withdraw(store, target, datetime.now(UTC), grace_hours, time.sleep, reason)
    will = f"withdrawn, deleted after {done.delete_after}"
    _tell_changed(as_json, path, done, will if yes else f"would be {will}; add --yes to do it")


@main.command()
@click.argument("path")
@click.option("--dry-run", is_flag=True, help="Print what would be back, and change nothing.")
@_command
def restore(place: Place, as_json: bool, path: str, dry_run: bool) -> None:
    """Put PATH (a product, a version or a file) back on the list, as long as it was not deleted."""
    store = DryStore(place.store) if dry_run else place.store
    done = withdrawals.restore(store, withdrawals.parse_target(path), time.sleep)
    _tell_changed(as_json, path, done, "would be on the list again" if dry_run else "on the list again")


@main.command()
@click.argument("path")
@_yes
@_command
def undelete(place: Place, as_json: bool, path: str, yes: bool) -> None:
    """Bring objects below PATH back that somebody deleted, as long as the bucket keeps their last generation.

    \b
    ./scripts/admin undelete images/ubuntu/noble/amd64/default/20261123_10:00 --yes
    ./scripts/admin undelete streams/v1/images.json --yes
    """
    found = importing.deleted(place, path)
    if not found:
        end(NOTHING, f"the bucket keeps nothing deleted below {path}")
    if yes:
        with shown.bytes_progress() as progress:
            task = progress.add_task("copying", total=sum(file.size_bytes for file in found))
            for file in found:
                file.copy(place, file.key, lambda count: progress.advance(task, count))
    _tell(as_json, yes, [f"bring back {file.key}, {shown.size(file.size_bytes)}" for file in found])


def _tell_changed(as_json: bool, path: str, done: withdrawals.Changed, what: str) -> None:
    if not (done.versions or done.files):
        end(NOTHING, f"there is no {path}, or its files are being deleted; `admin undelete` may bring them back")
    if as_json:
        shown.as_json(asdict(done))
        return
    for one in (*done.versions, *done.files):
        click.echo(f"{one}: {what}")


@main.command()
@click.argument("queue", type=click.Choice(["arrivals", "changes", "all"]), default="all")
@_yes
@_command
def redrive(place: Place, as_json: bool, queue: str, yes: bool) -> None:
    """Show the dead letters and why they died; with --yes send them back to be tried again."""
    wanted = {"arrivals": ["images"], "changes": [RECORD_PREFIX], "all": ["images", RECORD_PREFIX]}[queue]
    found = []
    for prefix in wanted:
        dead = place.queue(prefix)
        for letter in redriving.letters(place, prefix, dead):
            found.append(letter)
            if yes:
                redriving.send_back(place, dead, letter)
    if as_json:
        shown.as_json([{k: v for k, v in asdict(letter).items() if k != "receipt"} for letter in found])
        return
    for letter in found:
        click.echo(f"{', '.join(letter.keys) or letter.body[:80]!r}  sent {letter.sent}")
        click.echo(f"  {letter.diagnosis}")
    after = "sent back" if yes else f"shown; they are hidden for {redriving.HIDDEN_S} s; --yes sends them back"
    click.echo(f"{len(found)} dead letters{f' {after}' if found else ''}")


@main.command(name="doctor")
@_command
def doctor_(place: Place, as_json: bool) -> None:
    """Look the whole server over. Each finding names its remedy; exit code 1 if there is one."""
    found = []
    for name, findings in _watched(doctor.examine(place)):
        found += findings
        if not as_json:
            click.echo(f"{name}: {'ok' if not findings else f'{len(findings)} findings'}")
            for finding in findings[:20]:
                click.echo(f"  {finding.what}\n    -> {finding.remedy}")
    if as_json:
        shown.as_json([asdict(finding) for finding in found])
    sys.exit(FOUND if found else 0)


@main.command(name="import")
@click.argument("source", metavar="DIR|s3://BUCKET[/PREFIX]")
@_yes
@_command
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


def _watched(checks: Iterator[tuple[str, list[doctor.Finding]]]) -> Iterator[tuple[str, list[doctor.Finding]]]:
    """The same, with a sign that something is going on while each is made."""
    while True:
        with shown.busy("looking"):
            made = next(checks, None)
        if made is None:
            return
        yield made


def _chosen(place: Place, clients: str | None) -> tuple[str, ...]:
    return CLIENT_CHOICES[clients] if clients else place.clients


def _carry_out(as_json: bool, yes: bool, steps: list[repairing.Step]) -> None:
    """Take the steps if that is wanted, with progress; then tell them."""
    if yes:
        with shown.count_progress() as progress:
            for step in progress.track(steps, description="repairing"):
                step.do()
    _tell(as_json, yes, [step.what for step in steps])


def _tell(as_json: bool, really: bool, done: list[str]) -> None:
    if as_json:
        shown.as_json({"done" if really else "would do": done})
        return
    for sentence in done:
        click.echo(sentence)
    click.echo(f"{len(done)} things {'done' if really else 'to do; add --yes to do them'}")


def _tell_work(as_json: bool, work: Work) -> None:
    if as_json:
        tasks = [asdict(task) for task in work.tasks]
        shown.as_json({"dry_run": work.dry_run, "tasks": tasks, "unreadable": work.unreadable})
    else:
        for task in work.tasks:
            click.echo(f"{task.what}: {task.path}\n  {task.why}")
        for key in work.unreadable:
            click.echo(f"unreadable: {key}\n  admin rebuild records --yes reads its images again")
        click.echo(f"{len(work.tasks)} things {'to do' if work.dry_run else 'done'}")
    sys.exit(FOUND if work.unreadable else 0)


if __name__ == "__main__":
    main(prog_name="admin")
