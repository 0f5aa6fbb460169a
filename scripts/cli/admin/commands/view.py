"""Commands about private remotes and channels: view create, list, show, expire, remove, sync, token; promote."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from cli.admin import inventory, output, views
from cli.admin.arguments import command, find_target, main, usage_error_for, yes_option
from cli.admin.deployment import Deployment
from cli.admin.errors import FOUND, NOTHING, end
from cli.admin.token_use import LogUnavailable, Use
from imageserver.errors import InvalidView
from imageserver.format.file_kinds import ALL_CLIENTS
from imageserver.format.keys import ProductId, VersionId, path_of, product_of, without_file
from imageserver.format.wording import counted
from imageserver.operations.promotion import promote as point_to
from imageserver.operations.promotion import take_back
from imageserver.operations.view_documents import configured, view_of
from imageserver.views.channels import has_left, leaves_at
from imageserver.views.view import Token, View

MOST_SHOWN = 5
"""Versions that a refusal names."""


@main.group()
def view() -> None:
    """Manage views: private remotes, which need a token, and release channels.

    A view selects streams and products of this server. Its images are those of the server, with the same fingerprints;
    nothing is copied. The edge must be able to tell views apart: deploy with Views=true.
    """


class _Duration(click.ParamType[timedelta]):
    """Hours or days, such as `36h` and `14d`."""

    name = "TIME"

    def __init__(self, *, or_never: bool = False) -> None:
        self._never = {"never": timedelta()} if or_never else {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration, 0 for never, or end with what is expected."""
        if value in self._never:
            return self._never[value]
        found = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", str(value))
        if not found:
            never = ", or never" if self._never else ""
            self.fail(f"{value!r} is no duration, expected hours or days, such as 36h or 14d{never}", param, ctx)
        return timedelta(**{{"h": "hours", "d": "days"}[found[2]]: int(found[1])})


def _streams(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(stream for text in given for stream in text.split(",") if stream)


@view.command()
@click.argument("name")
@click.option(
    "--streams", multiple=True, required=True, callback=_streams, metavar="STREAM[,STREAM]", help="What it shows."
)
@click.option("--only", multiple=True, metavar="FILTER", help="Products, such as `ubuntu:noble`. Repeatable.")
@click.option("--private", "is_private", is_flag=True, help="Only a token opens it, and its streams are private.")
@click.option("--channel", "is_channel", is_flag=True, help="It shows the promoted version of each product.")
@click.option("--newest", "follows_newest", is_flag=True, help="A channel that always shows the newest version.")
@click.option(
    "--expire-after", type=_Duration(), metavar="TIME", help="When a version leaves the channel again, such as `14d`."
)
@click.option(
    "--with", "shared", multiple=True, callback=_streams, metavar="STREAM", help="Also show this stream, unchanged."
)
@click.option("--clients", type=click.Choice(ALL_CLIENTS), help="List one kind of client's items.  [default: server's]")
@click.option("--hide", is_flag=True, help="Take a stream that is public today off the public catalog.")
@click.option(
    "--require", multiple=True, metavar="CHECK", help="A check that each version must have passed. Repeatable."
)
@command
def create(
    deployment: Deployment,
    as_json: bool,
    name: str,
    streams: tuple[str, ...],
    only: tuple[str, ...],
    is_private: bool,
    is_channel: bool,
    follows_newest: bool,
    expire_after: timedelta | None,
    shared: tuple[str, ...],
    clients: str | None,
    hide: bool,
    require: tuple[str, ...],
) -> None:
    """Make the view NAME: a private remote, or a channel at https://HOST/NAME/.

    The streams of a private view are private from now on: they leave the public catalog, and their files need a token.
    If the command is stopped midway, run it again.

    In a channel with an expiry, a version leaves that long after its promotion, or with --newest after its upload. The
    channel then shows the version before it, unless that has left too. Retention may remove what left.

    \b
    ./scripts/admin view create staging --streams images-staging --private
    ./scripts/admin view create stable --channel --streams images
    ./scripts/admin view create fresh --channel --newest --expire-after 14d --streams images-fresh
    ./scripts/admin view create tested --channel --streams images --require boots
    ./scripts/admin view create partner --streams images-partner --with images --only ubuntu --private
    ./scripts/admin view create incus-only --streams images --clients incus
    """
    with usage_error_for(InvalidView):
        wanted = views.plan(
            name, streams, shared, only, is_private=is_private, is_channel=is_channel, clients=clients or "",
            follows_newest=follows_newest, expire_after=expire_after, require=require,
        )  # fmt: skip
        made, folded = views.create(deployment, wanted, hide=hide)
    if made.is_private and made.channel is not None:
        for stream in views.public_streams(deployment, streams):
            hides = f"./scripts/admin view create NAME --private --streams {stream}"
            output.say(f"everybody still sees {stream}, as a channel makes no stream private; this does: {hides}")
    if as_json:
        output.print_json(views.as_json(deployment, made) | {"products": folded})
        return
    click.echo(f"{name}: {_kind(made)} of {', '.join(made.streams)}; {counted(folded, 'product')} to list")
    if made.is_private:
        click.echo(f"next: ./scripts/admin view token add {name} LABEL")
    else:
        _print_remotes(name, views.address(deployment, made))


@view.command()
@click.argument("name")
@click.argument("checks", nargs=-1, metavar="[CHECK]...")
@click.option("--none", is_flag=True, help="Require no checks.")
@command
def require(deployment: Deployment, as_json: bool, name: str, checks: tuple[str, ...], none: bool) -> None:
    """Let the channel NAME take only versions that have passed these checks, instead of those it required before.

    Versions that it already shows stay.

    \b
    ./scripts/admin view require stable boots
    ./scripts/admin view require stable --none
    """
    if none == bool(checks):
        raise click.UsageError("name the checks, or give --none")
    _named(deployment, name)
    with usage_error_for(InvalidView):
        changed = views.require(deployment, name, checks)
    checks_now = f"the checks {', '.join(changed.requires)}" if changed.requires else "no check"
    output.answer(as_json, views.as_json(deployment, changed), f"{name} requires {checks_now}")


@view.command(name="list")
@command
def list_(deployment: Deployment, as_json: bool) -> None:
    """List the views of a server.

    \b
    ./scripts/admin view list
    """
    found = [one for _, one in sorted(configured(deployment.store).items())]
    if as_json:
        output.print_json([views.as_json(deployment, one) for one in found])
        return
    if not found:
        output.say("there is no view; `admin view create` makes one")
        return
    cells = [((one.name, _kind(one), ",".join(one.streams), _opened_by(deployment, one)), ()) for one in found]
    output.print_rows(("name", "kind", "streams", "opened by"), cells)


@view.command()
@click.argument("name")
@command
def show(deployment: Deployment, as_json: bool, name: str) -> None:
    """Show one view: what it selects, its tokens, and where a channel points to.

    \b
    ./scripts/admin view show stable
    """
    found = _named(deployment, name)
    if as_json:
        output.print_json(views.as_json(deployment, found))
        return
    only = f", only {' or '.join(found.only)}" if found.only else ""
    clients = f", for {found.clients} alone" if found.clients else ""
    click.echo(f"{name}: {_kind(found)} of {', '.join(found.streams)}{only}{clients}, made on {found.created}")
    if found.private_streams:
        click.echo(f"  private: {', '.join(found.private_streams)}")
    click.echo(f"  opened by {_opened_by(deployment, found)}")
    if found.follows_newest:
        click.echo("  shows the newest version of each product, but for what was taken back")
    if found.expire_after_s:
        click.echo(f"  a version leaves it after {_duration(found)}")
    if found.requires:
        click.echo(f"  requires the checks {', '.join(found.requires)}")
    _print_tokens(found)
    for path, promotions in sorted((found.channel or {}).items()):
        for one in promotions:
            left = "" if one.back_at else _leaves(found, one.at)
            click.echo(f"  {path}/{one.version}: {output.promoted(inventory.plain(one))}{left}")
    for path, since in views.shown(deployment, found) if found.follows_newest else ():
        click.echo(f"  {path}: came on {since}{_leaves(found, since)}")


@view.command()
@click.argument("name")
@click.argument("time", type=_Duration(or_never=True))
@command
def expire(deployment: Deployment, as_json: bool, name: str, time: timedelta) -> None:
    """Let versions leave the channel NAME this long after they entered it, or never.

    This also applies to versions already in the channel. A longer time brings back those that would not have left yet.

    \b
    ./scripts/admin view expire stable 30d
    ./scripts/admin view expire stable never
    """
    _named(deployment, name)
    with usage_error_for(InvalidView):
        changed, folded = views.expire(deployment, name, time)
    after = f"after {_duration(changed)}" if changed.expire_after_s else "never"
    sentence = f"{name}: a version leaves it {after}; the hourly run takes out those that are due"
    output.answer(as_json, views.as_json(deployment, changed) | {"products": folded}, sentence)


@view.command()
@click.argument("name")
@click.option("--make-public", is_flag=True, help="Make its private streams public.")
@click.option("--anyway", is_flag=True, help="Remove it even if nothing else shows one of its versions.")
@yes_option
@command
def remove(deployment: Deployment, as_json: bool, name: str, make_public: bool, anyway: bool, yes: bool) -> None:
    """Remove a view: its tokens stop working, and its catalog is deleted. Images stay.

    \b
    ./scripts/admin view remove staging --yes
    """
    found = view_of(deployment.store, name)
    freed, last = views.losses(deployment, found) if found else ([], [])
    if freed and not make_public:
        end(
            FOUND,
            f"{', '.join(freed)} would be public without {name}: withdraw what is there and wait until it is deleted, "
            "make another private view of it, or add --make-public",
        )
    if last and not anyway:
        more = f" and {len(last) - MOST_SHOWN:,} more" if len(last) > MOST_SHOWN else ""
        end(FOUND, f"nothing but {name} shows {', '.join(last[:MOST_SHOWN])}{more}; add --anyway to remove it")
    try:
        if yes:
            views.remove(deployment, name)
    except InvalidView as error:
        end(NOTHING, str(error))
    if not found:
        end(NOTHING, f"there is no view {name}; `admin view list` names them")
    sentence = f"{name} {'is removed' if yes else 'would be removed; add --yes to do it'}"
    output.answer(as_json, {"view": name, "dry_run": not yes, "made_public": freed, "last": last}, sentence)


@view.command()
@command
def sync(deployment: Deployment, as_json: bool) -> None:
    """Write the views and their tokens to the edge again, after a command was stopped. Expired tokens are deleted.

    \b
    ./scripts/admin view sync
    """
    try:
        done = views.synchronise(deployment)
    except InvalidView as error:
        end(NOTHING, str(error))
    sentence = f"entries of the edge: {len(done.put)} written, {len(done.deleted)} deleted"
    output.answer(as_json, {"put": sorted(done.put), "deleted": sorted(done.deleted)}, sentence)


@view.group()
def token() -> None:
    """Make and revoke the tokens that open a private view."""


@token.command(name="add")
@click.argument("name")
@click.argument("label")
@click.option(
    "--expires", type=click.Choice(list(views.LIFETIMES)), default="90d", show_default=True, help="How long it works."
)
@command
def add_token(deployment: Deployment, as_json: bool, name: str, label: str, expires: str) -> None:
    """Make a token for the private view NAME. LABEL says whom or what it is for. The token is shown once.

    Several tokens can open a view at the same time. To move a host to a new token, add the token, change the host's
    remote, delete the remote's images from the host and copy them again, which gives them the new address. Then revoke
    the old token.

    \b
    ./scripts/admin view token add staging ci --expires 30d
    """
    _named(deployment, name)
    with usage_error_for(InvalidView):
        made = views.add_token(deployment, name, label, views.LIFETIMES[expires])
    if as_json:
        output.print_json({field: getattr(made, field) for field in made.__dataclass_fields__})
        return
    click.echo(f"{made.token}\nshown once; {_expiry(made.until)}. Add the remote:")
    _print_remotes(name, made.address)
    click.echo(f"or, with the token in the path: {made.path_address}")


@token.command(name="list")
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How far back uses count.")
@command
def list_tokens(deployment: Deployment, as_json: bool, name: str, days: int) -> None:
    """List the tokens of a view by their labels, with their last use; a token itself is stored nowhere.

    A use is one read of the view's index; a client reads it at most once an hour. The edge's function logs it, and
    CloudFront delivers that within minutes. If the log cannot be read, the command says so, and uses are unknown.

    \b
    ./scripts/admin view token list staging
    ./scripts/admin view token list staging --days 7
    """
    found = _named(deployment, name)
    uses = _uses(deployment, found, days)
    if as_json:
        output.print_json([_token_as_json(one, uses) for one in views.tokens(found)])
    elif found.tokens:
        _print_tokens(found, uses, days)
    else:
        output.say(f"{name} has no token; `admin view token add {name} LABEL` makes one")


def _uses(deployment: Deployment, found: View, days: int) -> dict[str, Use] | None:
    """Return the use of each token, by label. If the log cannot be read, say so and return None."""
    if not found.tokens:
        return {}
    try:
        with output.busy(f"reading what the edge logged in {counted(days, 'day')}"):
            return views.token_uses(deployment, found, days)
    except LogUnavailable as error:
        output.say(f"last uses are unknown: {error}")
        return None


def _token_as_json(one: Token, uses: Mapping[str, Use] | None) -> dict[str, Any]:
    """Return a token for a program; `uses` and `last_use` (ISO 8601, UTC) are null where they are unknown."""
    use = uses[one.label] if uses is not None else None
    last = use.last.isoformat(timespec="seconds") if use and use.last else None
    return {**inventory.plain(one), "uses": use.uses if use else None, "last_use": last}


@token.command()
@click.argument("name")
@click.argument("label")
@command
def revoke(deployment: Deployment, as_json: bool, name: str, label: str) -> None:
    """Revoke a token: within seconds it opens neither the catalog nor a file.

    \b
    ./scripts/admin view token revoke staging ci
    """
    _named(deployment, name)
    try:
        views.revoke_token(deployment, name, label)
    except InvalidView as error:
        end(NOTHING, str(error))
    sentence = f"{label} no longer opens {name}; every edge location knows within seconds"
    output.answer(as_json, {"view": name, "label": label}, sentence)


@main.command()
@click.argument("path")
@click.option("--to", "channel", required=True, metavar="CHANNEL", help="The channel that shows it.")
@click.option("--back", is_flag=True, help="Go back to the previous version; PATH may be the product.")
@click.option("--require", multiple=True, metavar="CHECK", help="Only if this check has passed. Repeatable.")
@command
def promote(
    deployment: Deployment, as_json: bool, path: str, channel: str, back: bool, require: tuple[str, ...]
) -> None:
    """Let CHANNEL show the version PATH: the same files, with the same fingerprints. Nothing is copied.

    A version without a result of a required check has not passed it. Checks that the channel requires count too.

    \b
    ./scripts/admin promote images/ubuntu/noble/amd64/default/20261123_1000 --to stable
    ./scripts/admin promote images/ubuntu/noble/amd64/default/20261123_1000 --to stable --require boots
    ./scripts/admin promote ubuntu/noble/amd64/default --to stable --back
    """
    target, now = without_file(find_target(deployment, path)), datetime.now(UTC)
    if back and require:
        raise click.UsageError("--back asks for no check: leave --require out")
    if back:
        expected = target.version if isinstance(target, VersionId) else ""
        moved = take_back(deployment.store, channel, product_of(target), now, deployment.operator, time.sleep, expected)
    elif isinstance(target, ProductId):
        raise click.UsageError(f"{path_of(target)} is a product; name the version that {channel} is to show")
    else:
        moved = point_to(deployment.store, channel, target, now, deployment.operator, time.sleep, require)
    deployment.product_changed(moved.product)
    product = moved.product.path
    shows = f"shows {product}/{moved.after}" if moved.after else f"shows nothing of {product}"
    output.answer(
        as_json,
        {"channel": channel, "product": product, "before": moved.before, "after": moved.after},
        f"{channel} {shows}, before: {moved.before or 'nothing'}; listed in a moment",
    )


def _named(deployment: Deployment, name: str) -> View:
    found = view_of(deployment.store, name)
    if not found:
        end(NOTHING, f"there is no view {name}; `admin view list` names them")
    return found


def _kind(found: View) -> str:
    return f"{'private' if found.is_private else 'public'} {'view' if found.channel is None else 'channel'}"


def _duration(found: View) -> str:
    days, rest_s = divmod(found.expire_after_s, 24 * 3600)
    return counted(found.expire_after_s // 3600, "hour") if rest_s else counted(days, "day")


def _leaves(found: View, since: str) -> str:
    """Return when a version leaves a channel with an expiry, or when it was due to leave it."""
    leaves = leaves_at(found, since)
    if not leaves:
        return ""
    return f", {'left' if has_left(found, since) else 'leaves'} on {leaves.isoformat(timespec='seconds')}"


def _opened_by(deployment: Deployment, found: View) -> str:
    return counted(len(found.tokens), "token") if found.is_private else views.address(deployment, found)


def _print_tokens(found: View, uses: Mapping[str, Use] | None = None, days: int = 0) -> None:
    now = datetime.now(UTC).timestamp()
    for one in views.tokens(found):
        state = f"expired on {_moment(one.until)}" if one.until and one.until <= now else _expiry(one.until)
        if uses is None:
            used = ""
        elif (use := uses[one.label]).last is None:
            used = f", not used in {counted(days, 'day')}"
        else:
            last = use.last.isoformat(timespec="seconds")
            used = f", used {counted(use.uses, 'time')} in {counted(days, 'day')}, last on {last}"
        click.echo(f"  token {one.label}: made on {one.created}, {state}{used}")


def _expiry(until: int) -> str:
    return f"expires on {_moment(until)}" if until else "never expires"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _print_remotes(name: str, address: str) -> None:
    for client in ("lxc", "incus"):
        click.echo(f"  {client} remote add {name} {address} --protocol simplestreams")
