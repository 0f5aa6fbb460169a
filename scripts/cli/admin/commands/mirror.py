"""Commands that follow another server: mirror add, list, show, run, remove."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

import costs
from cli.admin import mirrors, output, views
from cli.admin.arguments import command, main, usage_error_for, yes_option
from cli.admin.deployment import Deployment
from cli.admin.errors import NOTHING, end, explain
from imageserver.errors import InvalidMirror
from imageserver.format.wording import counted
from imageserver.operations.mirror_documents import configure, configured
from imageserver.operations.mirror_plan import Followed
from imageserver.operations.runs import Run
from imageserver.upstream.mirrors import LEAST_BYTES_PER_S, MOST_CONNECTIONS, Mirror, check
from imageserver.upstream.signatures import encode_keyring

MOST_SHOWN = 20
"""Files and sentences that are printed; --json has all that are kept."""


@main.group()
def mirror() -> None:
    """Follow other image servers: copy what is new there, and withdraw here what is gone there.

    The scheduled function does the same as `mirror run`, with what `mirror add` wrote. Each image keeps its
    fingerprint. A mirror never replaces or withdraws what was uploaded here.

    add and run reach the other server through https_proxy or http_proxy unless no_proxy names it, and trust the
    authorities that AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE names. A proxy resolves names by
    itself, so it decides whether a name may lead to a private address. The functions use no proxy.
    """


@mirror.command()
@click.argument("name")
@click.argument("address", metavar="URL")
@click.option(
    "--only", multiple=True, required=True, metavar="FILTER", help="What to copy; `all` is everything. Repeatable."
)
@click.option(
    "--keep", type=click.IntRange(1), help="How many of the newest versions to copy of each product.  [default: all]"
)
@click.option("--into", metavar="STREAM", help="The stream for the images.  [default: images]")
@click.option("--channel", metavar="NAME", help="Show new versions in this channel, and in no public catalog.")
@click.option(
    "--grace-days", type=click.IntRange(0), default=7, show_default=True,
    help="How long a version stays listed after upstream or the filters drop it.",
)  # fmt: skip
@click.option("--allow-private", is_flag=True, help="Allow an address of a private network, and plain http.")
@click.option("--host", "hosts", multiple=True, help="Another host that URL may redirect to. Repeatable.")
@click.option(
    "--keyring",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="OpenPGP keys, as `gpg --export` writes them. Documents that none of them signed are refused.",
)
@click.option("--unsigned", is_flag=True, help="With --replace: no longer verify signatures.")
@click.option(
    "--connections",
    type=click.IntRange(1, MOST_CONNECTIONS),
    default=4,
    show_default=True,
    help="The most connections that read one file at once.",
)
@click.option(
    "--bytes-per-s",
    type=click.IntRange(LEAST_BYTES_PER_S),
    help="The highest speed at which one file is read.  [default: as fast as it comes]",
)
@click.option("--replace", is_flag=True, help="Change the mirror of that name. It keeps its images.")
@click.option("--dry-run", is_flag=True, help="Print what would be copied and its cost; write and copy nothing.")
@command
def add(
    deployment: Deployment,
    as_json: bool,
    name: str,
    address: str,
    only: tuple[str, ...],
    keep: int | None,
    into: str | None,
    channel: str | None,
    grace_days: int,
    allow_private: bool,
    hosts: tuple[str, ...],
    keyring: Path | None,
    unsigned: bool,
    connections: int,
    bytes_per_s: int | None,
    replace: bool,
    dry_run: bool,
) -> None:
    """Follow the image server at URL from now on, as NAME. The first comparison is made at once.

    A filter uses the names of this server: `ubuntu:noble:*:cloud`, `os=debian|alpine,arch=amd64`, or
    `ubuntu,ftype=squashfs,size<=2GB`. Metadata, deltas and overrides of a root come with it.

    With --channel a new version is shown in that channel, and in no public catalog until `admin promote` shows it in
    another channel. The channel must have been made with --newest, of a private stream; the images go into that stream.

    \b
    ./scripts/admin mirror add lxc https://images.linuxcontainers.org --only 'alpine:3.22:amd64' --keep 2 --dry-run
    ./scripts/admin mirror add ubuntu https://cloud-images.ubuntu.com/releases --only ubuntu:noble --into images-ubuntu
    ./scripts/admin mirror add up https://images.example.org --only debian --channel fresh
    ./scripts/admin mirror add signed https://images.example.net --only ubuntu --keyring keyring.gpg
    ./scripts/admin mirror add site https://images.example.org --only all --allow-private --bytes-per-s 5000000
    """
    with usage_error_for(InvalidMirror):
        stream = mirrors.stream_of_channel(deployment, channel, into) if channel else into or "images"
    wanted = Mirror(
        address=address,
        stream=stream,
        only=only,
        keep=keep,
        grace_days=grace_days,
        allow_private=allow_private,
        hosts=hosts,
        connections=connections,
        bytes_per_s=bytes_per_s,
        keyring=_keyring(keyring),
    )
    before = configured(deployment.store).get(name)
    if before and before.keyring and not (keyring or unsigned):
        raise click.UsageError(f"the mirror {name} verifies signatures: name its --keyring again, or say --unsigned")
    if not dry_run:
        _check_functions(deployment)
    with usage_error_for(InvalidMirror):
        check(name, wanted)
        with output.busy(f"looking at {address}"):
            mirrors.check_upstream(deployment, wanted)
        if not dry_run:
            configure(deployment.store, name, wanted, time.sleep, over=replace)
    _compare(deployment, as_json, {**configured(deployment.store), name: wanted}, name, Run(dry_run=dry_run))


@mirror.command(name="list")
@command
def list_(deployment: Deployment, as_json: bool) -> None:
    """List the servers that are followed, and whether everything chosen of them is here.

    \b
    ./scripts/admin mirror list
    """
    found = mirrors.rows(deployment.store)
    if as_json:
        output.print_json([row.as_json for row in found])
        return
    if not found:
        output.say("no server is followed; `admin mirror add` starts")
        return
    cells = [
        ((row.name, row.state, row.lag, row.stream, row.address), [row.error] if row.error else []) for row in found
    ]
    output.print_rows(("name", "state", "lag", "stream", "address"), cells)


@mirror.command()
@click.argument("name")
@command
def show(deployment: Deployment, as_json: bool, name: str) -> None:
    """Show one mirror: what is listed, how its last comparisons went, and the files that are still missing.

    \b
    ./scripts/admin mirror show ubuntu
    """
    found = _named(deployment, name)
    row, now = mirrors.row(deployment.store, name, found), mirrors.listed_now(deployment.store, name, found)
    where = mirrors.shown(deployment, found.stream)
    if as_json:
        output.print_json({**row.as_json, **asdict(now), "shown": asdict(where)})
        return
    keeps = f", the newest {row.keep} versions of each product" if row.keep else ""
    click.echo(f"{row.name}: {row.address} into {row.stream}: {' or '.join(row.only)}{keeps}")
    click.echo(f"  {row.state}; {counted(row.versions, 'version')} of {counted(row.products, 'product')}")
    click.echo(f"  listed now: {now.listed:,} of the {counted(now.held, 'version')} that it holds")
    if where.views:
        showing = [f"{one} (the newest)" if one in where.newest else one for one in where.views]
        click.echo(f"  shown in: {', '.join([*(['the public catalog'] if where.is_public else []), *showing])}")
    for what, when in (("looked at", row.looked), ("compared in full", row.compared), ("in step", row.in_step)):
        click.echo(f"  last {what}: {when or 'never'}")
    for key in row.keys:
        click.echo(f"  signed by: {key}{', or' if key != row.keys[-1] else ''}")
    if row.error:
        click.echo(f"  error: {output.one_line(row.error)}")
    for key, since in sorted(row.asked.items(), key=lambda one: one[0] not in row.refused)[:MOST_SHOWN]:
        why = f"; {output.one_line(row.refused[key])}" if key in row.refused else ""
        click.echo(f"  missing: {output.one_line(key)}, asked for on {since}{why}")
    _print_left_out(row.left_out, row.left_out_total)


@mirror.command()
@click.argument("name")
@click.option("--accept", is_flag=True, help="Accept that upstream shrank or went back in time, once you checked it.")
@click.option("--dry-run", is_flag=True, help="Print what would happen; write, copy and withdraw nothing.")
@command
def run(deployment: Deployment, as_json: bool, name: str, accept: bool, dry_run: bool) -> None:
    """Compare the mirror NAME now instead of at the next schedule.

    \b
    ./scripts/admin mirror run ubuntu --dry-run
    """
    _named(deployment, name)
    _compare(deployment, as_json, configured(deployment.store), name, Run(dry_run=dry_run), accept=accept)


@mirror.command()
@click.argument("name")
@click.option("--keep-images/--withdraw-images", "keep", default=None, help="Whether its images stay listed.")
@yes_option
@command
def remove(deployment: Deployment, as_json: bool, name: str, keep: bool | None, yes: bool) -> None:
    """Stop following a server. Say whether its images stay, as if they had been uploaded here, or are withdrawn.

    \b
    ./scripts/admin mirror remove ubuntu --keep-images --yes
    ./scripts/admin mirror remove ubuntu --withdraw-images --yes
    """
    if keep is None:
        raise click.UsageError("say whether its images stay: --keep-images or --withdraw-images")
    held = mirrors.held(deployment, name)
    if name not in configured(deployment.store) and not held:
        end(NOTHING, f"there is no mirror {name}; `admin mirror list` names them")
    if yes:
        views.tell_moved(mirrors.remove(deployment, name, withdraw=not keep))
    stay = "stay" if keep else f"are withdrawn, and deleted {deployment.rules.grace_hours} hours later"
    does = "is removed" if yes else "would be removed; add --yes to do it"
    output.answer(
        as_json,
        {"mirror": name, "dry_run": not yes, "keep_images": keep, "versions": held},
        f"{name} {does}: its images ({counted(len(held), 'version')}) {stay}",
    )


def _named(deployment: Deployment, name: str) -> Mirror:
    found = configured(deployment.store).get(name)
    if not found:
        end(NOTHING, f"there is no mirror {name}; `admin mirror list` names them")
    return found


def _keyring(file: Path | None) -> str:
    try:
        return encode_keyring(file.read_bytes()) if file else ""
    except InvalidMirror as error:
        raise click.UsageError(f"{file}: {error}") from error


def _check_functions(deployment: Deployment) -> None:
    if not deployment.copies_queue:
        end(NOTHING, f"this server has no function that copies: {mirrors.FOLLOWS}")


def _compare(
    deployment: Deployment,
    as_json: bool,
    configuration: dict[str, Mirror],
    name: str,
    run: Run,
    *,
    accept: bool = False,
) -> NoReturn:
    """Compare one mirror, print the result, and exit with the code of the first failure."""
    if not run.dry_run:
        _check_functions(deployment)
    with output.busy(f"comparing with {configuration[name].address}"):
        followed = mirrors.compare(deployment, configuration, name, run, accept=accept)
    faults = [(failure, explain(failure.error)) for failure in run.failed]
    if as_json:
        output.print_json(mirrors.plan_as_json(followed, run))
    else:
        _print_plan(followed, run)
        for failure, fault in faults:
            click.echo(f"failed: {failure.what} {failure.path}\n  {fault.what}; {fault.remedy}")
    sys.exit(faults[0][1].code if faults else 0)


def _print_plan(followed: Followed, run: Run) -> None:
    status = followed.status
    for task in run.tasks:
        click.echo(f"{task.what}: {task.path}\n  {output.one_line(task.why)}")
    _print_left_out(status.left_out, status.left_out_total)
    selected = f"selected: {counted(status.versions, 'version')} of {counted(status.products, 'product')}"
    if followed.unchanged:
        click.echo(f"{followed.name} is in step: upstream has not changed")
    elif not status.error and not status.missing:
        click.echo(f"{selected}; nothing is missing")
    elif not status.error:
        cost = costs.mirrored(status.missing, status.missing_bytes)
        missing = f"{counted(status.missing, 'file')}, {output.size(status.missing_bytes)}"
        click.echo(
            f"{selected}; missing: {missing}, about "
            f"${cost.dollars_once:.2f} once and ${cost.dollars_a_month:.2f} a month at list prices"
        )


def _print_left_out(sentences: tuple[str, ...], total: int) -> None:
    for sentence in sentences[:MOST_SHOWN]:
        click.echo(f"  left out: {output.one_line(sentence)}")
    if total > MOST_SHOWN:
        click.echo(f"  and {total - MOST_SHOWN:,} more are left out")
