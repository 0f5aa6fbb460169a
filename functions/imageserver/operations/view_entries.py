"""Keep the edge's store as the documents of the views want it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from imageserver.errors import CatalogBusy
from imageserver.operations.view_documents import configured
from imageserver.storage.key_values import KeyValues
from imageserver.storage.port import Store
from imageserver.views.tokens import differences, entries

MOST_ROUNDS: Final = 5


@dataclass(slots=True)
class Synced:
    """The entries that were put and deleted, by their keys; no value is kept, since one may be a secret."""

    put: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


def sync(store: Store, edge: KeyValues, now: datetime) -> Synced:
    """Make the edge's store equal to what the documents say. It can be repeated after any end.

    The store is read before the documents: what it has then was in a document before, unless that is gone. So of two
    operators at once neither deletes what the other made. Raise CatalogBusy if they never rest.
    """
    done = Synced()
    for _ in range(MOST_ROUNDS):
        found = edge.read()
        put, delete = differences(found, entries(configured(store).values(), now))
        if not put and not delete:
            return done
        edge.change(put, delete)
        done.put |= put.keys()
        done.deleted |= set(delete)
    raise CatalogBusy(f"the edge's entries about views changed {MOST_ROUNDS} times meanwhile; try `admin view sync`")
