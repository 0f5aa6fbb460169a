"""Point a channel to a version, and back. Nothing is copied: the channel's catalog is folded from the same records."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from imageserver.errors import InvalidView, NoVersion, OtherState
from imageserver.format.keys import ProductId, VersionId
from imageserver.operations.check_results import demand
from imageserver.operations.view_documents import change_view
from imageserver.storage.parallel import in_parallel
from imageserver.storage.port import Store
from imageserver.storage.retries import Pause
from imageserver.versions import records
from imageserver.versions.assessment import ahead_of_upload, assess
from imageserver.versions.records import Record
from imageserver.views.channels import may_show, promoted, promotions_of, standing, taken_back, unpromoted, usable
from imageserver.views.view import View


@dataclass(frozen=True, slots=True)
class Moved:
    """What a channel shows of a product before and after a change; empty for nothing."""

    channel: str
    product: ProductId
    before: str
    after: str


def promote(
    store: Store,
    channel: str,
    version: VersionId,
    now: datetime,
    by: str,
    pause: Pause,
    require: Collection[str] = (),
) -> Moved:
    """Point a channel to a version that is complete. `by` is who asked.

    It must have passed the checks of `require` and those that the channel requires; NotPassed names the missing ones.
    Raise InvalidView, also if the version was withdrawn at this moment, in which case the promotion is undone.
    """
    product, moment = version.product, now.isoformat(timespec="seconds")
    before = _records(store, product)
    _check(before, version)
    shown = ""

    def change(view: View) -> View:
        nonlocal shown
        shown = _first(view, product, before)
        after = promoted(view, version, moment, by)
        demand(store, version, {*require, *view.requires})
        return after

    view = change_view(store, channel, change, pause)
    after = _records(store, product)
    try:
        _check(after, version)
    except InvalidView:
        change_view(store, channel, lambda view: unpromoted(view, version, moment, by), pause)
        raise
    return Moved(channel, product, shown, _first(view, product, after))


def take_back(
    store: Store, channel: str, product: ProductId, now: datetime, by: str, pause: Pause, expected: str = ""
) -> Moved:
    """Point a channel to the version before the one that it shows. Raise InvalidView if it shows none.

    `expected` names the version that the channel shows. With it, a repeated call goes back one version and not two.
    Without it, that holds for what the channel shows at first: a write whose answer was lost is tried again.
    Raise OtherState if the channel shows another version and `expected` was never taken back.
    """
    known = _records(store, product)
    there, moment = usable(known), now.isoformat(timespec="seconds")
    shown = ""

    def change(view: View) -> View:
        nonlocal shown
        found = _first(view, product, known)
        shown = shown or found
        wanted = expected or shown
        if wanted and found != wanted:
            before = promotions_of(view, VersionId(product, wanted))
            if not before or not before[-1].back_at:
                raise OtherState(
                    f"the channel {view.name} shows {found or 'nothing'} of {product.path}, expected {wanted}; "
                    "nothing was taken back"
                )
            return view
        return taken_back(view, product, there, moment, by)

    view = change_view(store, channel, change, pause)
    return Moved(channel, product, shown, _first(view, product, known))


def shown_by_channels(store: Store, views: Iterable[View], product: ProductId) -> dict[str, str]:
    """Return the version of a product that each channel shows, by the channel's name; empty for none."""
    pointing = [one for one in views if may_show(one, product)]
    known = _records(store, product) if pointing else []
    return {view.name: _first(view, product, known) for view in pointing}


def moved(product: ProductId, before: Mapping[str, str], after: Mapping[str, str]) -> list[Moved]:
    """Return the channels that show another version of a product than before."""
    return [
        Moved(channel, product, version, after.get(channel, ""))
        for channel, version in sorted(before.items())
        if version != after.get(channel, "")
    ]


def _first(view: View, product: ProductId, known: Iterable[Record]) -> str:
    return next(iter(standing(view, product, usable(known))), "")


def _check(known: Iterable[Record], version: VersionId) -> None:
    record = next((record for record in known if record.id == version), None)
    if record is None:
        raise NoVersion(f"there is no {version.path}, or it has not been read yet: `admin list` shows what there is")
    if version.version not in usable([record]):
        why = ahead_of_upload(record) or f"it is {assess(record).state.value}, expected complete"
        raise OtherState(f"{version.path} cannot be shown: {why}; `admin show {version.path}` says more")


def _records(store: Store, product: ProductId) -> list[Record]:
    """Return the records of a product. Raise CatalogDamaged if one of them cannot be read."""
    keys = [info.key for info in store.list(product.records_prefix)]
    bodies = zip(keys, in_parallel(store.read, keys), strict=True)
    return [records.decode(seen.body, key) for key, seen in bodies if seen]
