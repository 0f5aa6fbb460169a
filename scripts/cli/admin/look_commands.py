"""Commands that only look: list, show, verify, doctor."""

import random
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from cli.admin import checking, doctor, looking, paths, shown
from cli.admin.base import command, main
from cli.admin.faults import FOUND, NOTHING, end
from cli.admin.place import Place
from imageserver.format.keys import ImageKey, VersionId

MOST_SHOWN = 20
"""Findings of one check that a person reads."""


@main.command(name="list")
@paths.below
@click.option("--unlisted", is_flag=True, help="Only what clients do not see.")
@command
def list_(place: Place, as_json: bool, below: str, unlisted: bool) -> None:
    """What is there: every version below PATH with its state, and why it, or a file of it, is not listed.

    PATH is a version or any folder above it; without its stream in front it means images/. On a terminal the
    reasons stand below each version; a program gets one line a version, with tabs between: version, state, listed,
    files, size, reasons.

    \b
    ./scripts/admin list images-daily
    ./scripts/admin list ubuntu/noble
    ./scripts/admin list --unlisted
    """
    there = looking.catalogued(place.store, below)
    in_catalog = {entry.version.path for entry in there.items}
    seen = looking.seen(place.store, below)
    rows = [looking.described(found, there, found.version.path in in_catalog) for found in seen]
    if below and not rows:
        end(NOTHING, f"{_unknown(below)}; it takes a version or any folder above it")
    rows = [row for row in rows if not (unlisted and row["listed"])]
    if as_json:
        shown.as_json(rows)
        return
    shown.listing(("version", "state", "listed", "files", "size"), [(_cells(row), row["reasons"]) for row in rows])


def _unknown(path: str) -> str:
    return f"nothing is known of {path}; `admin reconcile` looks for what events missed"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    is_listed = "yes" if row["listed"] else "no"
    return (row["version"], row["state"], is_listed, str(row["files"]), shown.size(row["bytes"]))


@main.command()
@click.argument("path")
@command
def show(place: Place, as_json: bool, path: str) -> None:
    """Everything known of PATH: a product, or one version with its files, reasons and catalog items.

    \b
    ./scripts/admin show images/ubuntu/noble/amd64/default
    ./scripts/admin --json show images/ubuntu/noble/amd64/default/20261123_1000
    """
    target = paths.target(path)
    below = target.version.path if isinstance(target, ImageKey) else target.path
    there = looking.catalogued(place.store, below)
    found = [_known(one, there) for one in looking.seen(place.store, below)]
    if not found:
        end(NOTHING, _unknown(below))
    if as_json:
        shown.as_json(found)
        return
    for one in found:
        _tell_known(one)


def _known(one: looking.Seen, there: looking.Catalogued) -> dict[str, Any]:
    items = {entry.name: looking.plain(entry.item) for entry in there.items if entry.version == one.version}
    return {
        "version": one.version.path,
        "record": looking.plain(one.record) if one.record else one.damage,
        "catalog": items,
        "withheld": looking.plain(there.withheld.get(one.version.path, [])),
        "reasons": [asdict(why) for why in looking.reasons(one, there, bool(items))],
    }


def _tell_known(one: dict[str, Any]) -> None:
    click.echo(one["version"])
    if not isinstance(one["record"], str):
        click.echo(f"  {one['record']['state']}, {len(one['catalog'])} items listed")
        for file, facts in sorted(one["record"]["files"].items()):
            sha256 = facts.get("sha256") or "not read"
            click.echo(f"  {shown.one_line(file)}  {shown.size(facts['size_bytes'])}  sha256 {sha256}")
    for why in one["reasons"]:
        click.echo(f"  {why['kind']}: {shown.one_line(why['sentence'])}")


@main.command()
@paths.below
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
    """Look the whole server over. Each finding names its remedy; exit code 1 if there is one.

    A hint is what may well be meant so, such as an image that is not listed because another product lists it; it
    leaves the exit code as it is.
    """
    found: list[doctor.Finding] = []
    for checked in _watched(doctor.examine(place)):
        found += [*checked.findings, *checked.hints]
        if as_json:
            for why in checked.not_seen:
                shown.say(f"{checked.name}: not looked at: {why}")
        else:
            _tell_checked(checked)
    if as_json:
        shown.as_json([asdict(finding) for finding in found])
    sys.exit(FOUND if any(not finding.hint for finding in found) else 0)


def _tell_checked(checked: doctor.Checked) -> None:
    ok = "ok, as far as it was looked at" if checked.not_seen else "ok"
    said = _counted(len(checked.findings), "finding") if checked.findings else ok
    hints = f"; {_counted(len(checked.hints), 'hint')}" if checked.hints else ""
    click.echo(f"{checked.name}: {said}{hints}")
    for found in (checked.findings, checked.hints):
        for finding in found[:MOST_SHOWN]:
            what = f"{'hint: ' if finding.hint else ''}{shown.one_line(finding.what)}"
            click.echo(f"  {what}\n    -> {shown.one_line(finding.remedy)}")
        if len(found) > MOST_SHOWN:
            click.echo(f"  and {len(found) - MOST_SHOWN:,} more; --json has all of them")
    for why in checked.not_seen:
        click.echo(f"  not looked at: {shown.one_line(why)}")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def _watched(checks: Iterator[doctor.Checked]) -> Iterator[doctor.Checked]:
    """The same, with a sign that something is going on while each is made."""
    while True:
        with shown.busy("looking"):
            made = next(checks, None)
        if made is None:
            return
        yield made
