"""Protect the versions that channels show: retention and mirrors withdraw through this module.

A promotion writes the pointer and then reads the record; this module withdraws the record and then reads the pointers.
If both happen at once, at least one sees the other: the promotion is taken back and reports it, or the version is
restored, or both. No withdrawal by retention or a mirror goes unnoticed by a channel that points to the version.
"""

from datetime import datetime

from imageserver.format.keys import ProductId, VersionId
from imageserver.operations.inventory import look
from imageserver.operations.view_documents import Views
from imageserver.operations.withdraw import undo_withdrawal, withdraw
from imageserver.storage.port import Store
from imageserver.storage.retries import Pause
from imageserver.versions.withdrawal import without_withdrawal
from imageserver.views.channels import kept, may_show, usable


def needed_by_channels(store: Store, views: Views, product: ProductId, version: VersionId | None = None) -> set[str]:
    """Return the paths of a product's versions that channels point to now or would go back to.

    `version` counts as if it were not withdrawn. No record is read if no channel shows the product.
    """
    channels = [view for view in views().values() if may_show(view, product)]
    if not channels:
        return set()
    known = look(store, product).known
    there = usable(without_withdrawal(record) if version == record.id else record for record in known.values())
    return {VersionId(product, name).path for name in kept(channels, product, there)}


def withdraw_unneeded(
    store: Store, version: VersionId, now: datetime, grace_hours: int, pause: Pause, reason: str, views: Views
) -> None:
    """Withdraw a version that no channel needed when it was looked at. Take that back if a channel needs it now.

    What others withdrew before or meanwhile, and single withdrawn files, stay withdrawn. A run that ends in
    between leaves it withdrawn, for an operator to restore. Errors as of withdraw.
    """
    done = withdraw(store, version, now, grace_hours, pause, reason, automatic=True)
    if version.path in done.already or version.path not in done.versions:
        return
    if version.path in needed_by_channels(store, views, version.product, version):
        undo_withdrawal(store, version, reason, pause)
