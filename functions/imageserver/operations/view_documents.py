"""Read and change the documents of views in the bucket."""

from collections.abc import Callable, Mapping
from functools import partial

from imageserver.errors import InvalidView, NoView
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store, write
from imageserver.storage.retries import RaceLost, retry
from imageserver.views.view import VIEWS, View, decode_view, encode_view, view_key, view_name

Pause = Callable[[float], object]
Views = Callable[[], Mapping[str, View]]
"""Reads the views of a server, as they are now."""


def no_views() -> Mapping[str, View]:
    """Return the views of a server that cannot have any, without reading anything."""
    return {}


def configured(store: Store) -> dict[str, View]:
    """Return the views of a server, by name. Raise CatalogDamaged."""
    return read_views(store)[0]


def read_views(store: Store) -> tuple[dict[str, View], dict[str, str]]:
    """Return the views of a server by name, and the revision of each of their documents by key.

    Raise CatalogDamaged.
    """
    revisions = {info.key: info.etag for info in store.list(VIEWS)}
    names = {key: name for key in revisions if (name := view_name(key))}
    views = {}
    for (key, name), found in zip(names.items(), in_parallel(store.read, list(names)), strict=True):
        if found:
            views[name], revisions[key] = decode_view(found.body, name), found.revision
        else:
            del revisions[key]
    return views, revisions


def create_view(store: Store, view: View) -> View:
    """Write the document of a new view, or return the existing one if it selects the same. Raise InvalidView.

    This includes a view that another operator made with this name at this moment, so a command can be repeated.
    """
    if store.create(view_key(view.name), encode_view(view)) is not None:
        return view
    before = view_of(store, view.name)
    if before is None or _selection(before) != _selection(view):
        raise InvalidView(f"there is a view {view.name} that selects something else; remove it first: admin view show")
    return before


def view_of(store: Store, name: str) -> View | None:
    """Return a view, or None where there is none. Raise CatalogDamaged."""
    found = store.read(view_key(name))
    return decode_view(found.body, name) if found else None


def change_view(store: Store, name: str, change: Callable[[View], View], pause: Pause) -> View:
    """Change a view and return it. Raise InvalidView if there is none; CatalogBusy, CatalogDamaged."""
    return retry(view_key(name), partial(_change, store, name, change), pause)


def delete_view(store: Store, name: str, pause: Pause) -> None:
    """Delete the document of a view, if it is there. Raise CatalogBusy."""

    def attempt() -> None:
        found = store.read(view_key(name))
        if found and not store.delete(view_key(name), found.revision):
            raise RaceLost

    retry(view_key(name), attempt, pause)


def _change(store: Store, name: str, change: Callable[[View], View]) -> View:
    found = store.read(view_key(name))
    if found is None:
        raise NoView(f"there is no view {name[:80]!r}; `admin view list` names them")
    before = decode_view(found.body, name)
    after = change(before)
    if after != before and write(store, view_key(name), encode_view(after), found) is None:
        raise RaceLost
    return after


def _selection(view: View) -> tuple[object, ...]:
    kind = (view.channel is None, view.follows_newest, view.expire_after_s, view.requires)
    return view.streams, view.only, view.is_private, view.private_streams, view.clients, kind
