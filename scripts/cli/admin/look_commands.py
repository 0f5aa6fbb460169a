"""Commands that only look: list, show, verify, doctor."""

import random
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from cli.admin import checking, doctor, looking, shown
from cli.admin.base import command, main
from cli.admin.faults import FOUND, NOTHING, end
from cli.admin.place import Place
from simplestreams.keys import ImageKey, VersionId, parse_target

MOST_SHOWN = 20
"""Findings of one check that a person reads."""


@main.command(name="list")
@click.argument("below", default="", metavar="[PATH]")
@click.option("--unlisted", is_flag=True, help="Only what clients do not see.")
@command
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
@command
def show(place: Place, as_json: bool, path: str) -> None:
    """Everything known of PATH: a product, or one version with its files, reasons and catalog items.

    \b
    ./scripts/admin show images/ubuntu/noble/amd64/default
    ./scripts/admin --json show images/ubuntu/noble/amd64/default/20261123_10:00
    """
    target = parse_target(path)
    below = target.version.path if isinstance(target, ImageKey) else target.path
    wanted = list(looking.seen(place.store, below))
    if not wanted:
        end(NOTHING, f"nothing is known of {path}; `admin sweep` looks for what events missed")
    items = looking.listed(place.store, below)
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
@command
def verify(place: Place, as_json: bool, below: str, sample: int | None, seed: int | None, through_edge: bool) -> None:
    """Read the listed files below PATH and compare size, sha256 and the clients' combined sha256.

    Ends with exit code 1 and the name of each file that is not what the catalog says.

    \b
    ./scripts/admin verify
    ./scripts/admin verify --sample 20 --through-edge
    """
    if through_edge and not place.edge:
        raise click.UsageError("say the address that clients know with --url")
    items = looking.listed(place.store, below)
    if below and not items:
        end(NOTHING, f"the catalog lists nothing at or below {below}; `admin list` says what is there")
    versions = sorted({entry.version for entry in items})
    if sample and sample < len(versions):
        seed = random.randrange(1 << 32) if seed is None else seed  # noqa: S311
        shown.say(f"sample of {sample} of {len(versions)} versions with --seed {seed}")
        chosen = set(random.Random(seed).sample(versions, sample))  # noqa: S311
        items = [entry for entry in items if entry.version in chosen]
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


@main.command(name="doctor")
@command
def doctor_(place: Place, as_json: bool) -> None:
    """Look the whole server over. Each finding names its remedy; exit code 1 if there is one."""
    found: list[doctor.Finding] = []
    for checked in _watched(doctor.examine(place)):
        found += checked.findings
        if as_json:
            for why in checked.not_seen:
                shown.say(f"{checked.name}: not looked at: {why}")
        else:
            _tell_checked(checked)
    if as_json:
        shown.as_json([asdict(finding) for finding in found])
    sys.exit(FOUND if found else 0)


def _tell_checked(checked: doctor.Checked) -> None:
    count, shortened = len(checked.findings), len(checked.findings) - MOST_SHOWN
    ok = "ok, as far as it was looked at" if checked.not_seen else "ok"
    said = f"{count} finding{'s' if count > 1 else ''}" if count else ok
    click.echo(f"{checked.name}: {said}")
    for finding in checked.findings[:MOST_SHOWN]:
        click.echo(f"  {finding.what}\n    -> {finding.remedy}")
    if shortened > 0:
        click.echo(f"  and {shortened:,} more; --json has all of them")
    for why in checked.not_seen:
        click.echo(f"  not looked at: {why}")


def _watched(checks: Iterator[doctor.Checked]) -> Iterator[doctor.Checked]:
    """The same, with a sign that something is going on while each is made."""
    while True:
        with shown.busy("looking"):
            made = next(checks, None)
        if made is None:
            return
        yield made
