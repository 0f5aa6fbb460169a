"""Quotas: the products and stored bytes of a publisher, counted in the bucket below its prefixes.

There is no database to ask. Listing the caller's prefixes costs one request for each thousand files, so each
environment of the function does it at most once in five minutes, and stops after MOST_LISTED files. The numbers may
therefore be some minutes old, and too low for a publisher with more files than that. The limits protect against floods;
nobody is billed by them. A caller that may write to whole streams is an operator and has no limits.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from imageserver.api import problems
from imageserver.api.problems import Problem
from imageserver.catalog.rights import Rights
from imageserver.format.keys import ProductId
from imageserver.storage.port import Store
from imageserver.versions.limits import Limits

KEPT_S: Final = 300.0
MOST_LISTED: Final = 20_000


@dataclass(slots=True)
class Usage:
    """Usage of one publisher: paths of products, and bytes. `counted_at` is in seconds of the clock."""

    counted_at: float
    products: set[str] = field(default_factory=set)
    stored_bytes: int = 0


@dataclass(slots=True)
class Quotas:
    """The usage of each publisher, as this environment knows it."""

    rights: Rights
    limits: Limits
    clock: Callable[[], float]
    known: dict[str, Usage] = field(default_factory=dict)

    def check(self, store: Store, caller: str, product: ProductId, more_bytes: int) -> None:
        """Raise Problem if the caller would exceed a quota of products or bytes; otherwise count the new ones."""
        if self.rights.is_operator(caller):
            return
        publisher = self.rights.publisher(caller)
        usage = self.known.get(publisher)
        if usage is None or self.clock() - usage.counted_at > KEPT_S:
            usage = self.known[publisher] = self._counted(store, self.rights.prefixes(caller))
        if product.path not in usage.products and len(usage.products) >= self.limits.products:
            raise Problem(
                problems.LIMIT,
                f"{caller} has {len(usage.products):,} products, which is the most that a publisher may have (the "
                f"operator sets MaxProducts); {product.path} would be one more",
            )
        if usage.stored_bytes + more_bytes > self.limits.stored_bytes:
            raise Problem(
                problems.LIMIT,
                f"{caller} has {usage.stored_bytes:,} bytes stored, and {more_bytes:,} more are above the "
                f"{self.limits.stored_bytes:,} that a publisher may have (the operator sets MaxStoredBytes); withdraw "
                "versions that nobody needs",
            )
        usage.products.add(product.path)
        usage.stored_bytes += more_bytes

    def _counted(self, store: Store, prefixes: tuple[str, ...]) -> Usage:
        usage = Usage(self.clock())
        # One prefix may contain another: a file below both counts once.
        apart = [p for p in prefixes if not any(p != other and p.startswith(other) for other in prefixes)]
        found = (info for prefix in sorted(set(apart)) for info in store.list(prefix))
        for info in islice(found, MOST_LISTED):
            usage.products.add("/".join(info.key.split("/")[:5]))
            usage.stored_bytes += info.size_bytes
        return usage
