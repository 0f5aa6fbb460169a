"""The store in which the edge looks up views and tokens. CloudFront's is one."""

from collections.abc import Collection, Mapping
from typing import Protocol


class KeyValues(Protocol):
    """A small store of texts, read by the edge on each request and changed seldom.

    Both methods raise StorageUnavailable when a later try may work and StorageDenied when only a policy helps.
    """

    def read(self) -> Mapping[str, str]:
        """Return all entries."""

    def change(self, put: Mapping[str, str], delete: Collection[str]) -> None:
        """Delete entries, then put others. Raise CatalogBusy if others change it all the time."""
