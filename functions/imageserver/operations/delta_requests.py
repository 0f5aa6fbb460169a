"""Ask again for deltas that nobody was asked for: publish died, or the queue was away, after it had listed a version.

Publish asks when it lists a version and finds nothing to ask for afterwards. So reconcile compares what is listed with
what the record notes. What was made or dropped is noted there, and not asked for again. What fails without a note
(its message became a dead letter) is asked for until its version is older than `since`, and no longer.
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
from imageserver.versions.records import Record


@dataclass(frozen=True, slots=True)
class DeltaRequests:
    """How deltas are asked for: `ask` has the delta function look at a product.

    `usual` is how many deltas a version gets whose metadata.json says nothing. Versions of which nothing was uploaded
    from `since` on are left alone: a server on which deltas are switched on makes none of what it lists already.
    """

    usual: int
    since: datetime
    ask: Callable[[ProductId], object]


def ask_again(product: ProductSnapshot, listed: Mapping[str, Version], requests: DeltaRequests, run: Run) -> None:
    """Have the deltas made that the newest of a product's `listed` versions lacks, without a word in its record."""
    known = {version.version: record for version, record in product.known.items()}
    for pair in delta_plan.unexplained(listed, known, requests.usual):
        target, base = pair.target.version.version, pair.base.version.version
        if max(map(_uploaded, (known[target], known[base]))) < requests.since:
            continue
        why = f"{target} has no delta from {base}, and its record does not say why"
        run.do(Task("ask for deltas", product.id.path, why), partial(requests.ask, product.id))
        return  # one message is about all deltas of a product


def _uploaded(record: Record) -> datetime:
    return max(datetime.fromisoformat(facts.uploaded) for facts in record.files.values())
