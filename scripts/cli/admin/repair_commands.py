"""Commands that make good what was missed, lost or damaged: sweep, rebuild, redrive, undelete."""

from dataclasses import asdict

import click

import notices
from cli.admin import importing, redriving, repairing, shown
from cli.admin.base import clients as clients_option
from cli.admin.base import command, main
from cli.admin.base import yes as yes_option
from cli.admin.place import NOTHING, Place, end
from operations.sweep import sweep as sweep_bucket
from operations.work import Work
from settings import CLIENT_CHOICES, DEFAULT_MAX_BYTES
from simplestreams.keys import RECORDS as RECORD_PREFIX


@main.command()
@clients_option
@click.option("--dry-run", is_flag=True, help="Print what is missing, and send nothing.")
@command
def sweep(place: Place, as_json: bool, clients: str | None, dry_run: bool) -> None:
    """Find what events missed and have it looked at again. Harmless at any time."""
    url = place.queue("images").url

    def send(key: str) -> None:
        place.sqs.send_message(QueueUrl=url, MessageBody=notices.notice(place.bucket, key))

    with shown.busy("sweeping") as told:
        work = Work(dry_run=dry_run, limit=1 << 60, told=told)
        sweep_bucket(place.store, send, _chosen(place, clients), work)
    shown.end_of_work(as_json, work)


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
        steps = list(repairing.catalog_again(place.store, _chosen(place, clients)))
    _carry_out(as_json, yes, steps)


@rebuild.command(name="records")
@click.argument("below", default="", metavar="[PATH]")
@yes_option
@command
def rebuild_records(place: Place, as_json: bool, below: str, yes: bool) -> None:
    """Read the images whose record is missing, unreadable or out of date, here on this machine."""
    with shown.busy("comparing records and images"):
        steps = list(repairing.records_again(place.store, below, DEFAULT_MAX_BYTES))
    _carry_out(as_json, yes, steps)


@main.command()
@click.argument("queue", type=click.Choice(["arrivals", "changes", "all"]), default="all")
@yes_option
@command
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


@main.command()
@click.argument("path")
@yes_option
@command
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
