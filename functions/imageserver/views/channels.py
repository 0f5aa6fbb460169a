"""Which version of a product a channel points to: the one promoted last that is still there.

Nothing moves a pointer but a promotion, and taking one back. A version that is withdrawn is passed over, so the channel
shows the version before it, and shows the withdrawn one again once it is restored.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from imageserver.errors import InvalidView
from imageserver.format.keys import ProductId, VersionId
from imageserver.versions.assessment import ahead_of_upload, assess
from imageserver.versions.records import Record
from imageserver.versions.state import State
from imageserver.views.view import Promotion, View

MOST_PROMOTIONS: Final = 20
"""Promotions of a product that a channel remembers, the newest."""
KEPT: Final = 2
"""Versions of a product that retention leaves to a channel: the one it points to, and the one it would go back to."""


def usable(versions: Iterable[Record]) -> frozenset[str]:
    """Return the names of the versions that a channel could show."""
    return frozenset(
        record.id.version
        for record in versions
        if assess(record).state is State.COMPLETE and not ahead_of_upload(record)
    )


def standing(view: View, product: ProductId, there: Collection[str]) -> list[str]:
    """Return the versions that a channel was pointed to and that are `there`, the newest promotion first.

    The first is what the channel shows; empty for a view that is no channel.
    """
    promotions = reversed((view.channel or {}).get(product.path, ()))
    return list(dict.fromkeys(one.version for one in promotions if not one.back_at and one.version in there))


def selected(view: View, product: ProductId, versions: Sequence[Record]) -> list[Record]:
    """Return the records of a product from which a view's catalog is folded."""
    if not view.takes(product):
        return []
    if view.channel is None:
        return list(versions)
    if product.path not in view.channel:
        return []
    shown = standing(view, product, usable(versions))[:1]
    return [record for record in versions if record.id.version in shown]


def kept(views: Iterable[View], product: ProductId, there: Collection[str]) -> dict[str, str]:
    """Return the versions of a product that retention must leave, each with the channel that needs it."""
    found: dict[str, str] = {}
    for view in views:
        if view.takes(product):
            found |= dict.fromkeys(standing(view, product, there)[:KEPT], view.name)
    return found


def promoted(view: View, version: VersionId, at: str, by: str) -> View:
    """Return the channel pointed to a version; unchanged when that was its last promotion. Raise InvalidView."""
    channel = _channel(view, version.product)
    before = channel.get(version.product.path, ())
    if before and before[-1].version == version.version and not before[-1].back_at:
        return view
    after = (*before, Promotion(version=version.version, at=at, by=by))[-MOST_PROMOTIONS:]
    return replace(view, channel={**channel, version.product.path: after})


def taken_back(view: View, product: ProductId, there: Collection[str], at: str, by: str) -> View:
    """Return the channel pointed to the version before the one that it shows. Raise InvalidView.

    `there` are the versions that could be shown. A later promotion, of a version that is not there, is taken back too.
    """
    before = _channel(view, product).get(product.path, ())
    shown = standing(view, product, there)
    if not shown:
        raise InvalidView(f"the channel {view.name} shows nothing of {product.path}; there is nothing to take back")
    last = max(number for number, one in enumerate(before) if one.version == shown[0] and not one.back_at)
    after = tuple(
        replace(one, back_at=at, back_by=by) if not one.back_at and (number >= last or one.version == shown[0]) else one
        for number, one in enumerate(before)
    )
    return replace(view, channel={**(view.channel or {}), product.path: after})


def _channel(view: View, product: ProductId) -> dict[str, tuple[Promotion, ...]]:
    """Return the pointers of a channel that may point to a product. Raise InvalidView."""
    if view.channel is None:
        raise InvalidView(f"the view {view.name} is no channel: it shows every version of what it selects")
    if not view.takes(product):
        only = f", filtered by {' or '.join(view.only)}" if view.only else ""
        raise InvalidView(
            f"the channel {view.name} does not take {product.path}, expected a product of "
            f"{' or '.join(view.streams)}{only}"
        )
    return view.channel
