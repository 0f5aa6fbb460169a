"""Keep the edge's store in step with the documents of the views."""

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
    """Make the edge's store equal to the documents. It can be repeated, however it ended.

    The store is read before the documents, so whatever it has is also in a document, unless that was deleted. Two
    operators at once therefore never delete what the other made. Raise CatalogBusy if they keep changing it.
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
