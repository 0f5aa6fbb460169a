"""Read and change the documents of views in the bucket."""

from collections.abc import Callable, Mapping
from functools import partial

from imageserver.errors import InvalidView, NoView
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store, write
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.views.view import VIEWS, View, decode_view, encode_view, view_key, view_name

Views = Callable[[], Mapping[str, View]]
"""Reads the views of a server, as they are now."""

KnownViews = dict[str, tuple[str, View]]
"""Views as they were last read, by key, each with its ETag. Equal ETags are equal bytes."""


def no_views() -> Mapping[str, View]:
    """Return the views of a server that cannot have any, without reading anything."""
    return {}


def configured(store: Store) -> dict[str, View]:
    """Return the views of a server, by name. Raise CatalogDamaged."""
    return read_views(store)[0]


def read_views(store: Store, known: KnownViews | None = None) -> tuple[dict[str, View], dict[str, str]]:
    """Return the views of a server by name, and the revision of all that is stored there, by key. Raise CatalogDamaged.

    A view that is `known` is read again only when its ETag has changed; what was read is known from then on.
    """
    known = {} if known is None else known
    revisions = {info.key: info.etag for info in store.list(VIEWS)}
    for key in known.keys() - revisions.keys():
        del known[key]
    names = {key: name for key in revisions if (name := view_name(key))}
    unread = [key for key in names if key not in known or known[key][0] != revisions[key]]
    for key, found in zip(unread, in_parallel(store.read, unread) if unread else [], strict=True):
        known.pop(key, None)
        if found:
            revisions[key], known[key] = found.revision, (found.revision, decode_view(found.body, names[key]))
        else:
            del revisions[key]
    return {name: known[key][1] for key, name in names.items() if key in known}, revisions


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
