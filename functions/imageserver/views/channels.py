"""Select the version of a product that a channel shows: the last promoted one that is still there, or the newest one.

Only a promotion, and taking one back, moves a pointer. A channel that follows the newest version has a pointer only
where a version was taken back. A withdrawn version is skipped: the channel shows the version before it until the
withdrawn one is restored. A version that has been in a channel for longer than its expiry is skipped too.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec.structs import replace

from imageserver.errors import InvalidView, OtherState
from imageserver.format.file_kinds import Role
from imageserver.format.keys import ProductId, VersionId, version_moment
from imageserver.versions.assessment import ahead_of_upload, assess
from imageserver.versions.records import Record, kind_of
from imageserver.versions.state import State
from imageserver.views.view import Promotion, View

MOST_PROMOTIONS: Final = 20
"""How many promotions of a product a channel remembers: the newest ones, and as many that were not taken back."""
NEWEST: Final = "the channel itself"
"""The promoter on record for a version that a channel showed as the newest."""
KEPT: Final = 2
"""Versions of a product that retention keeps for a channel: the one it points to, and the one it would go back to."""


There = Mapping[str, str]
"""The versions that could be shown, by name, each with when the last file of its image arrived (ISO 8601, UTC)."""
_OF_AN_IMAGE: Final = frozenset({Role.METADATA, Role.ROOT, Role.UNIFIED})


def usable(versions: Iterable[Record]) -> dict[str, str]:
    """Return the versions that a channel could show."""
    return {
        record.id.version: _complete_since(record)
        for record in versions
        if assess(record).state is State.COMPLETE and not ahead_of_upload(record)
    }


def _complete_since(record: Record) -> str:
    """Return when the last file of an image arrived; a delta that came later does not count. Empty where unknown."""
    arrived = (facts.uploaded for file, facts in record.files.items() if kind_of(file, facts).role in _OF_AN_IMAGE)
    return max(filter(None, arrived), key=datetime.fromisoformat, default="")


def standing(view: View, product: ProductId, there: There) -> list[str]:
    """Return the versions that a channel could show and that are `there`, the shown one first.

    Empty for a view that is not a channel.
    """
    return [version for version, since in entered(view, product, there).items() if not has_left(view, since)]


def entered(view: View, product: ProductId, there: There) -> dict[str, str]:
    """Return when each version that is `there` entered a channel, in the order of `standing`; also those that left.

    That is the time of its last promotion or, in a channel that follows the newest version, the arrival of its files
    (ISO 8601, UTC).
    """
    promotions = (view.channel or {}).get(product.path, ())
    last = {one.version: one for one in promotions if view.follows_newest or not one.back_at}
    if not view.follows_newest:
        newest_first = dict.fromkeys(one.version for one in reversed(promotions) if not one.back_at)
        return {version: last[version].at for version in newest_first if version in there}
    by_age = sorted(there, key=lambda version: (version_moment(version), version), reverse=True)
    since = {version: last[version].at if version in last else there[version] for version in by_age}
    return {version: at for version, at in since.items() if version not in last or not last[version].back_at}


def leaves_at(view: View, since: str) -> datetime | None:
    """Return when a version leaves a channel that it entered at `since`; None for never."""
    if not (view.expire_after_s and since):
        return None
    return datetime.fromisoformat(since) + timedelta(seconds=view.expire_after_s)


def has_left(view: View, since: str) -> bool:
    """Return whether a version has left a channel that it entered at `since`."""
    leaves = leaves_at(view, since) if view.expired_at else None
    return leaves is not None and leaves <= datetime.fromisoformat(view.expired_at)


def expired(view: View, now: datetime) -> View:
    """Return a channel without the versions that have expired; unchanged if it keeps its versions."""
    if not view.expire_after_s or (view.expired_at and datetime.fromisoformat(view.expired_at) >= now):
        return view
    return replace(view, expired_at=now.astimezone(UTC).isoformat(timespec="seconds"))


def may_show(view: View, product: ProductId) -> bool:
    """Return whether a view is a channel that may show a version of a product, regardless of which exist."""
    return view.channel is not None and view.takes(product) and (view.follows_newest or product.path in view.channel)


def promotions_of(view: View, version: VersionId) -> list[Promotion]:
    """Return the promotions of a version that a channel remembers, oldest first."""
    return [one for one in (view.channel or {}).get(version.product.path, ()) if one.version == version.version]


def selected(view: View, product: ProductId, versions: Sequence[Record]) -> list[Record]:
    """Return the records of a product from which a view's catalog is folded."""
    if not view.takes(product):
        return []
    if view.channel is None:
        return list(versions)
    if not may_show(view, product):
        return []
    shown = standing(view, product, usable(versions))[:1]
    return [record for record in versions if record.id.version in shown]


def kept(views: Iterable[View], product: ProductId, there: There) -> dict[str, str]:
    """Return the versions of a product that retention must keep, each with the channel that needs it."""
    found: dict[str, str] = {}
    for view in views:
        if view.takes(product):
            found |= dict.fromkeys(standing(view, product, there)[:KEPT], view.name)
    return found


def promoted(view: View, version: VersionId, at: str, by: str) -> View:
    """Return the channel, pointed to a version; unchanged if that was its last promotion. Raise InvalidView.

    A version that has left the channel, or was due to leave it, enters it again.
    """
    channel = _channel(view, version.product)
    before = channel.get(version.product.path, ())
    if view.follows_newest and not any(one.version == version.version and one.back_at for one in before):
        raise InvalidView(f"the channel {view.name} follows the newest version of each product by itself")
    last = before[-1] if before else None
    is_last = last is not None and last.version == version.version and not last.back_at
    if last and is_last and not has_left(view, last.at):
        leaves = leaves_at(view, last.at)
        if leaves is None or datetime.fromisoformat(at) < leaves:
            return view
    after = _remembered(view, (*before, Promotion(version=version.version, at=at, by=by)), None)
    return replace(view, channel={**channel, version.product.path: after})


def unpromoted(view: View, version: VersionId, at: str, by: str) -> View:
    """Return the channel without one promotion; unchanged if it has none of that time."""
    channel, path = view.channel or {}, version.product.path
    before = channel.get(path, ())
    after = tuple(one for one in before if one != Promotion(version=version.version, at=at, by=by))
    if after == before:
        return view
    others = {product: promotions for product, promotions in channel.items() if product != path}
    return replace(view, channel=others | ({path: after} if after else {}))


def taken_back(view: View, product: ProductId, there: There, at: str, by: str) -> View:
    """Return the channel, pointed to the version before the one that it shows. Raise InvalidView.

    `there` are the versions that could be shown. A later promotion, of a version that is not there, is taken back too.
    """
    before = _channel(view, product).get(product.path, ())
    shown = standing(view, product, there)
    if not shown:
        raise OtherState(f"the channel {view.name} shows nothing of {product.path}; there is nothing to take back")
    numbers = [number for number, one in enumerate(before) if one.version == shown[0] and not one.back_at]
    if not numbers:  # it was shown as the newest
        newest = Promotion(version=shown[0], at=there[shown[0]], by=NEWEST, back_at=at, back_by=by)
        after = _remembered(view, (*before, newest), there)
    else:
        after = tuple(
            replace(one, back_at=at, back_by=by)
            if not one.back_at and (number >= numbers[-1] or one.version == shown[0])
            else one
            for number, one in enumerate(before)
        )
    return replace(view, channel={**(view.channel or {}), product.path: after})


def _remembered(view: View, promotions: tuple[Promotion, ...], there: There | None) -> tuple[Promotion, ...]:
    """Return the newest promotions, and those without which another version would be shown.

    In a channel that follows the newest these are the last ones of the versions that are `there`, None for all.
    """
    if view.follows_newest:
        last = {one.version: one for one in promotions}
        needed = [one for one in last.values() if there is None or one.version in there]
    else:
        needed = [one for one in promotions if not one.back_at][-MOST_PROMOTIONS:]
    return tuple(one for one in promotions if one in {*promotions[-MOST_PROMOTIONS:], *needed})


def _channel(view: View, product: ProductId) -> dict[str, tuple[Promotion, ...]]:
    """Return the pointers of a channel that may point to a product. Raise InvalidView."""
    if view.channel is None:
        raise InvalidView(f"the view {view.name} is not a channel: it shows every version of what it selects")
    if not view.takes(product):
        only = f", filtered by {' or '.join(view.only)}" if view.only else ""
        raise InvalidView(
            f"the channel {view.name} does not take {product.path}, expected a product of "
            f"{' or '.join(view.streams)}{only}"
        )
    return view.channel
