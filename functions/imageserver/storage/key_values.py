"""The store in which the edge looks up views and tokens. CloudFront's is one."""

from collections.abc import Collection, Mapping
from typing import Protocol


class KeyValues(Protocol):
    """A small store of texts that the edge reads on each request and that seldom changes.

    Both methods raise StorageUnavailable when a later try may work, and StorageDenied when only a policy change helps.
    """

    def read(self) -> Mapping[str, str]:
        """Return all entries."""

    def change(self, put: Mapping[str, str], delete: Collection[str]) -> None:
        """Delete entries, then put others. Raise CatalogBusy if others keep changing the store."""
