"""Take the product off the list and delete it, with the operations of `scripts/admin` and maintain.

It is withdrawn first, and deleted when the catalog no longer names it. There is no grace time: a client with an older
catalog gets a 404 for an image that nobody needs. If the process is killed, the next smoke test does the rest.

The stream's products document stays, with nothing in it. A client may hold an index that names it for an hour, and a
missing document would fail its whole remote.
"""

from datetime import UTC, datetime
from typing import Final

from cli.smoke.image import PRODUCT
from cli.smoke.server import Server
from imageserver.operations.deletion import PruneContext, remove_empty, remove_withdrawn
from imageserver.operations.inventory import look
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import withdraw
from imageserver.storage.document_cache import DocumentCache

AT_ONCE: Final = datetime.max.replace(tzinfo=UTC)
"""Every withdrawn version of the product may be deleted now, even if an operator withdrew it with a grace time."""


def versions(server: Server) -> set[str]:
    """Return the names of the versions that have files or a record. Raise the store's errors."""
    product = look(server.store, PRODUCT)
    return {version.version for version in (*product.folders, *product.seen)}


def take_off(server: Server) -> list[str]:
    """Withdraw every version of the product and return the paths. Raise the errors of `withdraw`."""
    now = datetime.now(UTC)
    return withdraw(server.store, PRODUCT, now, 0, server.pause, "its smoke test has ended").versions


def delete(server: Server) -> bool:
    """Delete what the catalog no longer names. Return True once neither files nor records are left.

    Raise the errors of `take_off`. Call it again until it returns True: a file may arrive late, and the events of the
    deletion may write a record of an empty folder.
    """
    take_off(server)
    product = look(server.store, PRODUCT)
    if not (product.folders or product.seen):
        return True
    documents = DocumentCache(server.store).of(PRODUCT.stream)
    if PRODUCT.name not in documents.products.products:  # else publish is about to take it off the list
        context = PruneContext(server.store, server.deployment, server.deployment.invalidate, (), AT_ONCE, Run())
        remove_withdrawn(product, context)
        remove_empty(product, documents.unlisted.products.get(PRODUCT.name, {}), context)
    return False
