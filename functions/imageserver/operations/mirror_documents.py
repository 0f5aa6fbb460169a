"""Read and change the documents of mirrors in the bucket: the configuration, and what a mirror holds."""

from collections.abc import Callable, Mapping
from datetime import datetime

from imageserver.errors import InvalidMirror
from imageserver.operations.view_documents import Views, no_views
from imageserver.storage.port import Store, write
from imageserver.storage.retries import Pause, RaceLost, retry
from imageserver.upstream.mirrors import (
    CONFIGURATION_KEY,
    MOST_REFUSALS,
    PUBLIC_KEY,
    Mirror,
    MirrorRefusals,
    MirrorState,
    MirrorStatus,
    Refusal,
    check,
    decode_mirrors,
    decode_refusals,
    decode_state,
    decode_status,
    encode_document,
    encode_mirrors,
    encode_public,
    refusals_key,
    state_key,
    status_key,
)
from imageserver.views.catalogs import private_streams


def configured(store: Store) -> dict[str, Mirror]:
    """Return the mirrors of a server, by name. Raise CatalogDamaged."""
    found = store.read(CONFIGURATION_KEY)
    return decode_mirrors(found.body) if found else {}


def state_of(store: Store, name: str) -> MirrorState:
    """Return what a mirror holds, an empty state for a new mirror. Raise CatalogDamaged."""
    found = store.read(state_key(name))
    return decode_state(found.body, name) if found else MirrorState()


def status_of(store: Store, name: str) -> MirrorStatus:
    """Return how a mirror's comparisons went, an empty status for a new mirror. Raise CatalogDamaged."""
    found = store.read(status_key(name))
    return decode_status(found.body, name) if found else MirrorStatus()


def refusals_of(store: Store, name: str) -> dict[str, Refusal]:
    """Return the files that could not be copied for a mirror, by key. Raise CatalogDamaged."""
    found = store.read(refusals_key(name))
    return decode_refusals(found.body, name).files if found else {}


def note_refusal(store: Store, name: str, key: str, reason: str, now: datetime, pause: Pause) -> None:
    """Note for the operator why a file cannot be copied; the newest MOST_REFUSALS are kept. Raise CatalogBusy."""

    def attempt() -> None:
        found = store.read(refusals_key(name))
        before = decode_refusals(found.body, name).files if found else {}
        files = {**before, key: Refusal(reason, now.isoformat(timespec="seconds"))}
        newest = sorted(files, key=lambda key: files[key].at)[-MOST_REFUSALS:]
        body = encode_document(MirrorRefusals(files={one: files[one] for one in newest}))
        if write(store, refusals_key(name), body, found) is None:
            raise RaceLost

    retry(refusals_key(name), attempt, pause)


def announce(store: Store, mirrors: Mapping[str, Mirror], pause: Pause, views: Views = no_views) -> None:
    """Publish which hosts are followed, and when each was compared. Write nothing if there never was a mirror.

    A mirror into a private stream of the `views` is left out. Raise CatalogBusy, CatalogDamaged.
    """
    hidden = private_streams(views().values())
    public = {name: mirror for name, mirror in mirrors.items() if mirror.stream not in hidden}

    def attempt() -> None:
        found = store.read(PUBLIC_KEY)
        body = encode_public(public, {name: status_of(store, name) for name in public})
        is_due = found.body != body if found else bool(public)
        if is_due and write(store, PUBLIC_KEY, body, found) is None:
            raise RaceLost

    retry(PUBLIC_KEY, attempt, pause)


def configure(store: Store, name: str, mirror: Mirror, pause: Pause, *, over: bool = False) -> dict[str, Mirror]:
    """Write one mirror into the configuration, and return all. With `over` it replaces one of that name.

    Raise InvalidMirror, CatalogBusy, CatalogDamaged.
    """
    check(name, mirror)

    def change(mirrors: dict[str, Mirror]) -> dict[str, Mirror]:
        before = mirrors.get(name)
        if before and before != mirror:
            if not over:
                raise InvalidMirror(f"there is a mirror {name} of {before.address}; change it with --replace")
            if before.stream != mirror.stream:
                raise InvalidMirror(
                    f"the mirror {name} brings images into {before.stream}, and {mirror.stream} is another stream: "
                    "remove it first, and say whether its images stay"
                )
        return {**mirrors, name: mirror}

    return _change(store, change, pause)


def unconfigure(store: Store, name: str, pause: Pause) -> dict[str, Mirror]:
    """Remove one mirror from the configuration, and return the others; its state is kept. Errors as `configure`."""
    return _change(store, lambda mirrors: {one: mirrors[one] for one in mirrors if one != name}, pause)


def forget(store: Store, name: str) -> None:
    """Delete the state of a mirror: its versions become ordinary uploads."""
    for key in (state_key(name), status_key(name), refusals_key(name)):
        if found := store.read(key):
            store.delete(key, found.revision)


def _change(store: Store, change: Callable[[dict[str, Mirror]], dict[str, Mirror]], pause: Pause) -> dict[str, Mirror]:
    def attempt() -> dict[str, Mirror]:
        found = store.read(CONFIGURATION_KEY)
        before = decode_mirrors(found.body) if found else {}
        after = change(before)
        if after != before and write(store, CONFIGURATION_KEY, encode_mirrors(after), found) is None:
            raise RaceLost
        return after

    return retry(CONFIGURATION_KEY, attempt, pause)
