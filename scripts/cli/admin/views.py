"""Carry out `scripts/admin view` and `promote`. Each writes the documents first, then the edge's entries for them.

A command that was stopped at any point is completed by running it again. `view sync` completes the work of all of them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from cli.admin import inventory, output
from cli.admin.deployment import Deployment
from cli.admin.token_use import LogUnavailable, Use, count
from imageserver.errors import InvalidView, SimplestreamsError
from imageserver.format import documents
from imageserver.format.keys import ProductId, VersionId, parse_version
from imageserver.operations.inventory import known_products
from imageserver.operations.promotion import Moved
from imageserver.operations.view_documents import change_view, configured, create_view, delete_view, view_of
from imageserver.operations.view_entries import Synced, sync
from imageserver.storage.document_cache import DocumentCache
from imageserver.storage.key_values import KeyValues
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store
from imageserver.versions.records import decode
from imageserver.views.catalogs import private_streams
from imageserver.views.channels import entered, usable
from imageserver.views.tokens import (
    RANDOM_BYTES,
    entries,
    token_hash,
    token_keys,
    token_text,
    with_token,
    without_token,
)
from imageserver.views.view import SECRET_BYTES, Token, View, check, secret_text, served_prefix

NEEDS: Final = "this server's edge cannot tell views apart; deploy it with the parameter Views=true"
LIFETIMES: Final = {
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
    "1y": timedelta(days=365),
    "never": None,
}


@dataclass(frozen=True)
class NewToken:
    """A token, which is shown only once, and the addresses that contain it."""

    view: str
    label: str
    token: str
    until: int
    address: str
    path_address: str


def plan(
    name: str,
    own: Iterable[str],
    shared: Iterable[str],
    only: tuple[str, ...],
    *,
    is_private: bool,
    is_channel: bool,
    clients: str = "",
    follows_newest: bool = False,
    expire_after: timedelta | None = None,
    require: tuple[str, ...] = (),
) -> View:
    """Return the view that a command line asks for. Raise InvalidView.

    The `own` streams of a private view are private, the `shared` ones are not. A channel has none of its own.
    """
    own, shared = tuple(own), tuple(shared)
    view = View(
        name=name,
        streams=(*own, *shared),
        secret=secret_text(secrets.token_bytes(SECRET_BYTES)),
        only=only,
        is_private=is_private,
        private_streams=own if is_private and not is_channel else (),
        channel={} if is_channel else None,
        clients=clients,
        follows_newest=follows_newest,
        expire_after_s=int(expire_after.total_seconds()) if expire_after else 0,
        requires=require,
        created=_now(),
    )
    check(view)
    return view


def create(deployment: Deployment, view: View, *, hide: bool) -> tuple[View, int]:
    """Write a view, update the edge, and have its catalog folded. Return the view and the count of products to fold.

    Raise InvalidView if a stream that becomes private is public now, unless `hide` is set, and if the edge cannot hold
    the entries: no later change would reach it.
    """
    edge, store = edge_of(deployment), deployment.store
    entries([*configured(store).values(), view], datetime.now(UTC))
    listed = sorted(stream for stream in view.private_streams if _is_listed(store, stream))
    is_new = view_of(store, view.name) is None
    if listed and is_new and not hide:
        raise InvalidView(
            f"{listed[0]} is listed for everybody: add --hide to take it off the public catalog, or name it with "
            "--with, which shows it in this view too"
        )
    if is_new:
        _delete_served(store, view.name)  # of an earlier view with this name, whose paths have another signature
    made = create_view(store, view)
    empty = documents.encode(documents.decode_index(None))
    store.create(f"{served_prefix(view.name)}{documents.INDEX_KEY}", empty)  # clients ask an empty server for it too
    sync(store, edge, datetime.now(UTC))
    # Versions that leave the public catalog may have held names and images that others wait for.
    return made, fold_again(deployment, (lambda _: True) if listed else made.takes)


def expire(deployment: Deployment, name: str, after: timedelta) -> tuple[View, int]:
    """Set the expiry of a channel, 0 for none, and have its catalog folded. Raise InvalidView if it is no channel."""
    seconds = int(after.total_seconds())
    changed = change_view(deployment.store, name, lambda view: replace(view, expire_after_s=seconds), time.sleep)
    return changed, fold_again(deployment, changed.takes)


def require(deployment: Deployment, name: str, checks: Iterable[str]) -> View:
    """Replace the checks that a channel requires. Raise InvalidView if it is no channel."""
    wanted = tuple(dict.fromkeys(checks))
    return change_view(deployment.store, name, lambda view: replace(view, requires=wanted), time.sleep)


def remove(deployment: Deployment, name: str) -> int:
    """Delete a view, its entries at the edge and its catalog. Return the count of products to fold again."""
    edge, store = edge_of(deployment), deployment.store
    view = view_of(store, name)
    delete_view(store, name, time.sleep)
    sync(store, edge, datetime.now(UTC))
    _delete_served(store, name)
    return fold_again(deployment, lambda _: True) if view and view.private_streams else 0


def public_streams(deployment: Deployment, streams: Iterable[str]) -> list[str]:
    """Return those of these streams that everybody sees."""
    return sorted(set(streams) - private_streams(configured(deployment.store).values()))


def losses(deployment: Deployment, view: View) -> tuple[list[str], list[str]]:
    """Return the private streams that would be public without a view, and the versions that nothing else shows.

    A stream with any file counts: the edge serves a withdrawn file until it is deleted.
    """
    store = deployment.store
    others = [one for one in configured(store).values() if one.name != view.name]
    still_private = {stream for one in others for stream in one.private_streams}
    freed = sorted(set(view.private_streams) - still_private)
    shown = _versions(DocumentCache(store, served_prefix(view.name)), view.streams)
    elsewhere = _versions(DocumentCache(store), set(view.streams) - still_private)
    for one in others:
        elsewhere |= _versions(DocumentCache(store, served_prefix(one.name)), set(view.streams) & set(one.streams))
    public = [s for s in freed if any(not info.key.endswith("/") for info in store.list(f"{s}/"))]
    return public, sorted(shown - elsewhere)


def add_token(deployment: Deployment, name: str, label: str, lifetime: timedelta | None) -> NewToken:
    """Make a token, write its hash and update the edge. Raise InvalidView.

    If the edge cannot be updated, the token is deleted: nobody has seen it, and the same command makes another one.
    """
    edge, now = edge_of(deployment), datetime.now(UTC)
    text = token_text(secrets.token_bytes(RANDOM_BYTES))
    token = Token(label=label, created=_now(), until=int((now + lifetime).timestamp()) if lifetime else 0)
    change_view(deployment.store, name, lambda view: with_token(view, token_hash(text), token), time.sleep)
    try:
        sync(deployment.store, edge, now)
    except SimplestreamsError:
        with suppress(InvalidView):
            change_view(deployment.store, name, lambda view: without_token(view, label), time.sleep)
        raise
    host = urlsplit(deployment.edge).netloc or "HOST"
    return NewToken(name, label, text, token.until, f"https://{label}:{text}@{host}", f"https://{host}/{text}")


def revoke_token(deployment: Deployment, name: str, label: str) -> None:
    """Delete a token and update the edge. Raise InvalidView if there is no such token.

    The edge is updated even then: an earlier revocation may have stopped before that, or its answer was lost. The
    token's entry is deleted first, since the documents of other views may be unreadable.
    """
    edge = edge_of(deployment)
    gone: set[str] = set()

    def change(view: View) -> View:
        after = without_token(view, label)
        gone.update(token_keys(view) - token_keys(after))
        return after

    try:
        change_view(deployment.store, name, change, time.sleep)
        edge.change({}, gone)
    except InvalidView:
        sync(deployment.store, edge, datetime.now(UTC))
        raise
    sync(deployment.store, edge, datetime.now(UTC))


def synchronise(deployment: Deployment) -> Synced:
    """Make the edge's entries match the documents of all views. Expired tokens are deleted."""
    return sync(deployment.store, edge_of(deployment), datetime.now(UTC))


def tell_moved(moves: Iterable[Moved]) -> None:
    """Print the channels that show another version after a withdrawal."""
    for one in moves:
        shows = f"{one.product.path}/{one.after}" if one.after else f"nothing of {one.product.path}"
        output.say(f"the channel {one.channel} goes back from {one.before}: it shows {shows}")


def edge_of(deployment: Deployment) -> KeyValues:
    """Return the store that the edge reads. Raise InvalidView if the server has none."""
    if deployment.view_store is None:
        raise InvalidView(NEEDS)
    return deployment.view_store


def shown(deployment: Deployment, view: View) -> list[tuple[str, str]]:
    """Return the path of each version that a channel lists, and when it entered the channel (ISO 8601, UTC)."""
    store = deployment.store
    paths = sorted(_versions(DocumentCache(store, served_prefix(view.name)), view.streams))
    versions = [parse_version(path) for path in paths]
    found = in_parallel(store.read, [version.record_key for version in versions])
    return [
        (version.path, since)
        for version, seen in zip(versions, found, strict=True)
        if seen
        for since in entered(view, version.product, usable([decode(seen.body, version.record_key)])).values()
    ]


def fold_again(deployment: Deployment, takes: Callable[[ProductId], bool]) -> int:
    """Have publish fold these products of the server. Return their count."""
    store = deployment.store
    known = known_products(store, DocumentCache(store), inventory.read_index(store), "")
    products = [product for product in known if takes(product)]
    for product in products:
        deployment.product_changed(product)
    return len(products)


def as_json(deployment: Deployment, view: View) -> dict[str, Any]:
    """Return a view for a program: neither its secret nor the hash of a token."""
    fields = inventory.plain(replace(view, tokens={}))
    return {name: value for name, value in fields.items() if name not in ("secret", "tokens", "schema")} | {
        "is_private": view.is_private,
        "address": address(deployment, view),
        "tokens": [inventory.plain(token) for token in tokens(view)],
    }


def token_uses(deployment: Deployment, view: View, days: int) -> dict[str, Use]:
    """Return the use of each token in the last days, by label. Raise LogUnavailable."""
    if deployment.edge_log is None:
        raise LogUnavailable("the log of the edge's function is not known; use --stack NAME")
    return count(deployment.edge_log.lines(view.name, datetime.now(UTC) - timedelta(days=days)), view)


def tokens(view: View) -> list[Token]:
    """Return the tokens of a view, by label."""
    return sorted(view.tokens.values(), key=lambda token: token.label)


def address(deployment: Deployment, view: View) -> str:
    """Return the address of a view that needs no token; empty for a private one."""
    return "" if view.is_private else f"{deployment.edge.rstrip('/')}/{view.name}/"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_listed(store: Store, stream: str) -> bool:
    entry = inventory.read_index(store).index.get(stream)
    return bool(entry and entry.products)


def _versions(cache: DocumentCache, streams: Iterable[str]) -> set[str]:
    """Return the paths of the versions that the documents of these streams list."""
    found = set()
    for stream in streams:
        for name, product in cache.products(stream).products.items():
            id_ = documents.product_id(stream, name)
            found |= {VersionId(id_, version).path for version in documents.decode_versions(product)}
    return found


def _delete_served(store: Store, name: str) -> None:
    for info in list(store.list(served_prefix(name))):
        store.delete(info.key, info.etag)
