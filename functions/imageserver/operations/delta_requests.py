"""Request deltas whose request was lost: publish died, or the queue failed, after it had listed a version.

Publish requests deltas only in the run that lists a version. So reconcile compares the listed deltas with the notes in
the record. A delta that was made or dropped is noted there and not requested again. One that fails without a note (its
message became a dead letter) is requested until its version is older than `since`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from imageserver.catalog import delta_plan
from imageserver.format.documents import Version
from imageserver.format.keys import ProductId
from imageserver.operations.inventory import ProductSnapshot
from imageserver.operations.runs import Run, Task


@dataclass(frozen=True, slots=True)
class DeltaRequests:
    """How to request deltas: `ask` has the delta function look at a product.

    `usual` is the number of deltas for a version whose metadata.json gives none. Versions with no upload since `since`
    are left alone, so a server that turns deltas on makes none for what it already lists.
    """

    usual: int
    since: datetime
    ask: Callable[[ProductId], object]


def ask_again(product: ProductSnapshot, listed: Mapping[str, Version], requests: DeltaRequests, run: Run) -> None:
    """Request the deltas that the newest `listed` version of a product lacks and its record does not mention."""
    known = {version.version: record for version, record in product.known.items()}
    for pair in delta_plan.unexplained(listed, known, requests.usual):
        target, base = pair.target.version.version, pair.base.version.version
        files = [*known[target].files.values(), *known[base].files.values()]
        if max(datetime.fromisoformat(facts.uploaded) for facts in files) < requests.since:
            continue
        why = f"{target} has no delta from {base}, and its record does not say why"
        run.do(Task("ask for deltas", product.id.path, why), partial(requests.ask, product.id))
        return  # one message covers all deltas of a product
