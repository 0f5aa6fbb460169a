"""Commands that change nothing on the server: list, show, verify, export, doctor."""

import random
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from cli.admin import doctor, inventory, output, verification
from cli.admin import export as exporting
from cli.admin.arguments import below_argument, chosen_options, command, find_target, folder_of, main
from cli.admin.deployment import Deployment
from cli.admin.errors import FOUND, NOTHING, end
from imageserver.format.keys import without_file
from imageserver.format.wording import counted
from imageserver.operations.check_results import results_below
from imageserver.operations.view_documents import configured
from imageserver.upstream.filters import Filter
from imageserver.views.channels import promotions_of
from imageserver.views.checks import Results, counts, fingerprints_of
from imageserver.views.view import View

MOST_SHOWN = 20
"""Findings of one check that are printed; --json has all of them."""


@main.command(name="list")
@below_argument
@click.option("--unlisted", is_flag=True, help="Only versions that clients do not see.")
@command
def list_(deployment: Deployment, as_json: bool, below: str, unlisted: bool) -> None:
    """List every version below PATH with its state, and why it or a file of it is not listed.

    PATH is a version or any folder above it; without a stream it means images/. On a terminal the reasons are
    below each version. Otherwise each version is one line of fields separated by tabs: version, state, listed, files,
    size, reasons.

    \b
    ./scripts/admin list images-daily
    ./scripts/admin list ubuntu/noble
    ./scripts/admin list --unlisted
    """
    below = folder_of(deployment, below)
    there = inventory.read_catalog(deployment.store, below)
    in_catalog = {entry.version.path for entry in there.items}
    seen = inventory.read_records(deployment.store, below)
    rows = [inventory.summary(found, there, found.version.path in in_catalog) for found in seen]
    if below and not rows:
        end(NOTHING, f"{_unknown(below)}; it takes a version or any folder above it")
    rows = [row for row in rows if not (unlisted and row["listed"])]
    if as_json:
        output.print_json(rows)
        return
    cells = [
        (row["version"], row["state"], "yes" if row["listed"] else "no", str(row["files"]), output.size(row["bytes"]))
        for row in rows
    ]
    reasons = [row["reasons"] for row in rows]
    columns = ("version", "state", "listed", "files", "size")
    output.print_rows(columns, list(zip(cells, reasons, strict=True)))


def _unknown(path: str) -> str:
    return f"nothing is known of {path}; `admin reconcile` looks for what events missed"


@main.command()
@click.argument("path")
@command
def show(deployment: Deployment, as_json: bool, path: str) -> None:
    """Show everything known of PATH: a product, or one version with its files, reasons and catalog items.

    \b
    ./scripts/admin show images/ubuntu/noble/amd64/default
    ./scripts/admin --json show images/ubuntu/noble/amd64/default/20261123_1000
    ./scripts/admin show 0f1a2b3c4d5e              by fingerprint, as clients show it
    """
    target = find_target(deployment, path)
    below = without_file(target).path
    there = inventory.read_catalog(deployment.store, below)
    tested, pointing = results_below(deployment.store, below), configured(deployment.store)
    found = [
        _known(one, there, tested.get(one.version.path), pointing.values())
        for one in inventory.read_records(deployment.store, below)
    ]
    if not found:
        end(NOTHING, _unknown(below))
    if as_json:
        output.print_json(found)
        return
    for one in found:
        _tell_known(one)


def _known(
    one: inventory.RecordState, there: inventory.Catalog, tested: Results | None, views: Iterable[View]
) -> dict[str, Any]:
    """Return what is known of a version; the results of its checks, and its promotions by channel, if there are any.

    A check `counts` if it tested the bytes that the version has now.
    """
    items = {entry.name: inventory.plain(entry.item) for entry in there.items if entry.version == one.version}
    now = fingerprints_of(one.record) if one.record else frozenset()
    checks = {
        name: inventory.plain(result) | {"counts": counts(result, now)}
        for name, result in sorted((tested.results if tested else {}).items())
    }
    promotions = {view.name: found for view in views if (found := promotions_of(view, one.version))}
    channels = {name: [inventory.plain(each) for each in found] for name, found in sorted(promotions.items())}
    return {
        "version": one.version.path,
        "record": inventory.plain(one.record) if one.record else one.damage,
        "catalog": items,
        "withheld": inventory.plain(there.withheld.get(one.version.path, [])),
        "reasons": [asdict(why) for why in inventory.reasons(one, there, bool(items))],
        **({"checks": checks} if checks else {}),
        **({"channels": channels} if channels else {}),
    }


def _tell_known(one: dict[str, Any]) -> None:
    click.echo(one["version"])
    if not isinstance(one["record"], str):
        click.echo(f"  {one['record']['state']}, {counted(len(one['catalog']), 'item')} listed")
        for file, facts in sorted(one["record"]["files"].items()):
            sha256 = facts.get("sha256") or "not read"
            click.echo(f"  {output.one_line(file)}  {output.size(facts['size_bytes'])}  sha256 {sha256}")
    for name, result in one.get("checks", {}).items():
        outcome = "passed" if result["passed"] else "failed"
        other = "" if result["counts"] else ", with other bytes: it does not count"
        run = f" ({output.one_line(result['url'])})" if "url" in result else ""
        click.echo(
            f"  check {name}: {outcome} on {result['at']}, posted by {output.one_line(result['by'])}{run}{other}"
        )
    for name, promotions in one.get("channels", {}).items():
        for each in promotions:
            click.echo(f"  {name}: {output.promoted(each)}")
    for why in one["reasons"]:
        click.echo(f"  {why['kind']}: {output.one_line(why['sentence'])}")


@main.command()
@below_argument
@click.option("--sample", type=click.IntRange(1), help="Read only this many versions, chosen at random.")
@click.option("--seed", type=int, default=None, help="Choose the same sample again.")
@click.option("--through-edge", is_flag=True, help="Read through the address that clients know, not from the bucket.")
@command
def verify(
    deployment: Deployment, as_json: bool, below: str, sample: int | None, seed: int | None, through_edge: bool
) -> None:
    """Read the listed files below PATH again; compare size, sha256 and the clients' combined sha256.

    Print each file that differs from the catalog. If there is one, the exit code is 1.

    \b
    ./scripts/admin verify
    ./scripts/admin verify 0f1a2b3c4d5e            one version, by a fingerprint
    ./scripts/admin verify --sample 20 --through-edge
    """
    below = folder_of(deployment, below)
    if through_edge and not deployment.edge:
        raise click.UsageError("name the address that clients know with --url")
    items = inventory.read_catalog(deployment.store, below).items
    if below and not items:
        end(NOTHING, f"the catalog lists nothing at or below {below}; `admin list` says what is there")
    versions = sorted({entry.version for entry in items})
    if sample and sample < len(versions):
        seed = random.randrange(1 << 32) if seed is None else seed  # noqa: S311  (a sample, no secret)
        output.say(f"sample of {sample} of {counted(len(versions), 'version')} with --seed {seed}")
        chosen = set(random.Random(seed).sample(versions, sample))  # noqa: S311  (as above)
        items = [entry for entry in items if entry.version in chosen]
    read = verification.from_bucket(deployment.store)
    if through_edge:
        read = verification.from_edge(deployment.edge, deployment.trust)
    total = sum({entry.item.path: entry.item.size for entry in items}.values())
    with output.bytes_progress() as progress:
        task = progress.add_task("reading", total=total)
        wrong = list(verification.verify(items, read, lambda count: progress.advance(task, count)))
    count = len({entry.version for entry in items})
    if as_json:
        output.print_json({"versions": count, "bytes": total, "mismatches": [asdict(one) for one in wrong]})
    else:
        for one in wrong:
            click.echo(f"{one.path}: {one.what}")
        mismatches = counted(len(wrong), "mismatch") if wrong else "no mismatches"
        click.echo(f"{counted(count, 'version')}, {output.size(total)}: {mismatches}")
    sys.exit(FOUND if wrong else 0)


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@chosen_options("export")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@command
def export(
    deployment: Deployment, as_json: bool, folder: Path, only: tuple[Filter, ...], keep: int | None, dry_run: bool
) -> None:
    """Write what is listed into the folder DIR, with its catalog, so that any web server can serve it.

    For a site without a network: carry the folder there, and serve or `import` it. A repeated export writes only what
    is missing or differs. Nothing is deleted from DIR. The catalog is written last, and only if every file was.

    \b
    ./scripts/admin export images-for-site
    ./scripts/admin export images-for-site --only ubuntu:noble --keep 1 --dry-run
    """
    export = exporting.choose(deployment.store, only, keep)
    if not export.files:
        end(NOTHING, f"nothing is listed{' that --only takes' if only else ''}; `admin list` says what is there")
    read = verification.from_bucket(deployment.store)
    with output.bytes_progress() as progress:
        task = progress.add_task("comparing" if dry_run else "writing", total=export.size_bytes)
        write = exporting.compare if dry_run else partial(exporting.write, read=read)
        written = write(export, folder, advance=lambda count: progress.advance(task, count))
    _print_export(as_json, dry_run, export, written)


def _print_export(as_json: bool, dry_run: bool, export: exporting.Export, written: exporting.Written) -> NoReturn:
    size_bytes = sum(export.files[path].size for path in written.files)
    if as_json:
        output.print_json(
            {
                "dry_run": dry_run,
                "files": written.files,
                "bytes": size_bytes,
                "already": len(written.already),
                "failed": [asdict(one) for one in written.failed],
            }
        )
    else:
        for one in written.failed:
            click.echo(f"{one.path}: {one.what}")
        did = "would write" if dry_run else "wrote"
        already = f"; {len(written.already):,} were there already" if written.already else ""
        click.echo(f"{did} {counted(len(written.files), 'file')}, {output.size(size_bytes)}{already}")
        if written.failed:
            click.echo("the catalog was not written: run it again")
    sys.exit(FOUND if written.failed else 0)


@main.command(name="doctor")
@command
def doctor_(deployment: Deployment, as_json: bool) -> None:
    """Check the whole server. Each finding names its remedy; the exit code is 1 if there is one.

    A hint may be intentional, such as an image that is not listed because another product lists it. Hints do not
    change the exit code.
    """
    found: list[doctor.Finding] = []
    checks = doctor.examine(deployment)
    while True:
        with output.busy("looking"):
            checked = next(checks, None)
        if checked is None:
            break
        found += [*checked.findings, *checked.hints]
        if as_json:
            for why in checked.not_seen:
                output.say(f"{checked.name}: not looked at: {why}")
        else:
            _tell_checked(checked)
    if as_json:
        output.print_json([asdict(finding) for finding in found])
    sys.exit(FOUND if any(not finding.hint for finding in found) else 0)


def _tell_checked(checked: doctor.Checked) -> None:
    ok = "ok, as far as it was looked at" if checked.not_seen else "ok"
    summary = counted(len(checked.findings), "finding") if checked.findings else ok
    hints = f"; {counted(len(checked.hints), 'hint')}" if checked.hints else ""
    click.echo(f"{checked.name}: {summary}{hints}")
    for found in (checked.findings, checked.hints):
        for finding in found[:MOST_SHOWN]:
            what = f"{'hint: ' if finding.hint else ''}{output.one_line(finding.what)}"
            click.echo(f"  {what}\n    -> {output.one_line(finding.remedy)}")
        if len(found) > MOST_SHOWN:
            click.echo(f"  and {len(found) - MOST_SHOWN:,} more; --json has all of them")
    for why in checked.not_seen:
        click.echo(f"  not looked at: {output.one_line(why)}")
