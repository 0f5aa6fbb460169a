"""Follow other image servers: compare each with this one, and act on the differences.

A run reads the configuration and compares one mirror after the other. An upstream that has not changed costs one
conditional request a document and nothing else, unless a file is still missing, a grace time has ended, or the last
full comparison is a day old.

What a mirror holds is written before anything is copied or withdrawn (upstream.plan says why). Copies are requested
through a queue, one message a file. While its file is missing, a message is not repeated for a day: it waits its turn,
is being retried, or is in the dead-letter queue.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Final

from msgspec.structs import replace

from imageserver.errors import CatalogBusy
from imageserver.format.keys import parse_key
from imageserver.operations.channel_needs import withdraw_unneeded
from imageserver.operations.mirror_compare import Comparer, Comparison, Reader
from imageserver.operations.mirror_documents import state_of, status_of
from imageserver.operations.runs import Failure, Run, Task
from imageserver.operations.view_documents import Views, no_views
from imageserver.operations.withdraw import undo_withdrawal
from imageserver.storage.port import Store, write
from imageserver.storage.retries import Pause
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.mirrors import (
    Mirror,
    MirrorState,
    MirrorStatus,
    decode_state,
    decode_status,
    encode_document,
    state_key,
    status_key,
)
from imageserver.upstream.plan import ProductPlan, no_longer_taken
from imageserver.upstream.port import Upstream

ASK_AGAIN: Final = timedelta(days=1)
COMPARE_AGAIN: Final = timedelta(days=1)
"""How old a full comparison may get. Only a full one sees what changed only here, such as a deleted file."""
MOST_ASKED: Final = 10_000
"""Files that one run requests; the next run requests more."""


@dataclass(frozen=True, slots=True)
class MirrorServices:
    """Dependencies of a run.

    `connect` opens the server that a mirror follows; `ask` queues the copies of files for the mirror of that name.
    `grace_hours` is how long the files of a version stay after it left the list. A file of more than `most_bytes` is
    not copied; None: there is no limit. What a channel of the `views` points to is not withdrawn.
    """

    store: Store
    connect: Callable[[Mirror], Upstream]
    ask: Callable[[str, Sequence[UpstreamFile]], object]
    now: Callable[[], datetime]
    pause: Pause
    grace_hours: int
    most_bytes: int | None = None
    views: Views = no_views


@dataclass(frozen=True, slots=True)
class Followed:
    """One mirror after its comparison. `missing` are the files to copy. `unchanged`: no full comparison was needed."""

    name: str
    mirror: Mirror
    status: MirrorStatus
    missing: tuple[UpstreamFile, ...] = ()
    unchanged: bool = False


def follow(
    mirrors: Mapping[str, Mirror],
    services: MirrorServices,
    run: Run,
    names: Collection[str],
    *,
    accept: bool = False,
) -> Iterator[Followed]:
    """Compare the named ones of `mirrors`, and yield each. The one that has waited longest comes first.

    `accept` follows an upstream that shrank or went back in time, because an operator has checked it. A failure is
    noted in `run` and in the mirror's status, and the next mirror is compared. Raises StorageUnavailable,
    StorageDenied, and CatalogDamaged for a status.
    """
    looked = {name: status_of(services.store, name).looked for name in names}
    for name in sorted(looked, key=lambda name: (looked[name], name)):
        if not run.more():
            break
        yield _Comparison(name, mirrors, services, run).follow(accept)
        run.finished(name, 1)


class _Comparison:
    """One comparison of one mirror."""

    def __init__(self, name: str, mirrors: Mapping[str, Mirror], services: MirrorServices, run: Run) -> None:
        self._name, self._mirror, self._services, self._run = name, mirrors[name], services, run
        self._others = [one for one in mirrors if one != name and mirrors[one].stream == self._mirror.stream]
        self._now = services.now()
        self._store = services.store
        self._state_seen = self._store.read(state_key(name))
        self._status_seen = self._store.read(status_key(name))
        self._state = MirrorState()
        self._before = decode_status(self._status_seen.body, name) if self._status_seen else MirrorStatus()

    def follow(self, accept: bool) -> Followed:
        """Compare, write what the mirror holds, act, and write the status."""
        looked = self._now.isoformat(timespec="seconds")
        status = replace(self._before, looked=looked, began=self._before.began or looked, error="")
        missing: tuple[UpstreamFile, ...] = ()
        failed = len(self._run.failed)
        compared: Comparison | None = None
        try:
            if self._state_seen:
                self._state = decode_state(self._state_seen.body, self._name)
            reader = Reader(self._services.connect(self._mirror))
            if self._has_nothing_left() and reader.is_unchanged(self._state):
                status = replace(status, in_step=looked)
            else:
                of_others = {path for other in self._others for path in state_of(self._store, other).held}
                most, views = self._services.most_bytes, self._services.views
                comparer = Comparer(
                    self._name, self._mirror, self._state, of_others, self._store, self._run, self._now, most, views
                )
                compared = comparer.compare(reader, accept=accept)
                missing = compared.missing
                self._hold(compared, looked)
                status = self._carry_out(compared, missing, replace(status, compared=looked))
        except Exception as error:  # noqa: BLE001  (noted in the status, logged, and raised by `Run.check`)
            self._run.failed.append(Failure("follow", self._name, error))
        if len(self._run.failed) > failed:
            status = replace(status, error=str(self._run.failed[failed]))
        if not self._run.dry_run:  # if another run wrote a status at the same time, that stays: it is just as new
            write(self._store, status_key(self._name), encode_document(status), self._status_seen)
        return Followed(self._name, self._mirror, status, missing, unchanged=compared is None and not status.error)

    def _has_nothing_left(self) -> bool:
        """Return whether nothing is left to do while upstream is unchanged."""
        before = self._before
        if before.error or before.missing or not before.compared or self._state.mirror != self._mirror:
            return False
        if before.compared != self._state.compared:  # the run that wrote the state ended before it acted
            return False
        grace = timedelta(days=self._mirror.grace_days)
        ended = (
            held.gone_since
            and not (held.delisted or held.needed)
            and self._now - datetime.fromisoformat(held.gone_since) >= grace
            for held in self._state.held.values()
        )
        return self._now - datetime.fromisoformat(before.compared) < COMPARE_AGAIN and not any(ended)

    def _hold(self, compared: Comparison, looked: str) -> None:
        """Write what the mirror holds from now on. Raise CatalogBusy if another run wrote it meanwhile."""
        state = MirrorState(
            documents=compared.documents,
            held=compared.held,
            index_etag=compared.index_etag,
            mirror=self._mirror,
            compared=looked,
        )
        if self._run.dry_run:
            return
        if write(self._store, state_key(self._name), encode_document(state), self._state_seen) is None:
            raise CatalogBusy(f"another run compared {self._name} at the same time; the next one goes on from there")

    def _carry_out(self, compared: Comparison, missing: Sequence[UpstreamFile], status: MirrorStatus) -> MirrorStatus:
        """Carry out the plans, and return the status that results from them."""
        for plan in compared.plans.values():
            self._change_product(plan)
        comes = [one for plan in compared.plans.values() for one in plan.held.values() if not one.gone_since]
        return replace(
            status,
            in_step=status.in_step if missing else status.looked,
            products=sum(any(not one.gone_since for one in plan.held.values()) for plan in compared.plans.values()),
            versions=len(comes),
            missing=len(missing),
            missing_bytes=sum(file.size_bytes for file in missing),
            delisted=sum(len(plan.delist) for plan in compared.plans.values()),
            left_out=tuple(compared.left_out),
            left_out_total=compared.left_out_total,
            asked=self._ask(missing),
        )

    def _change_product(self, plan: ProductPlan) -> None:
        """Create the overrides of a product, withdraw what the mirror no longer takes, restore what it has again."""
        services, store, why = self._services, self._store, no_longer_taken(self._name)
        for key, body in plan.overrides.items():
            task = Task("create", key, f"what {self._name} says about the product", len(body))
            self._run.do(task, partial(store.create, key, body))
        for version in plan.delist:
            hours, pause, views = services.grace_hours, services.pause, services.views
            task = Task("withdraw", version.path, f"{why}; its files are deleted {hours} hours later")
            self._run.do(task, partial(withdraw_unneeded, store, version, self._now, hours, pause, why, views))
        for version in plan.relist:
            task = Task("restore", version.path, f"{self._name} has it again")
            self._run.do(task, partial(undo_withdrawal, store, version, why, services.pause))

    def _ask(self, missing: Sequence[UpstreamFile]) -> dict[str, str]:
        """Request the copies that were not requested lately. Return since when each missing file has been requested."""
        now = self._now.isoformat(timespec="seconds")
        before = self._before.asked
        asked = {file.key: before[file.key] for file in missing if file.key in before}
        waits = {key for key, since in asked.items() if self._now - datetime.fromisoformat(since) < ASK_AGAIN}
        due = [file for file in missing if file.key not in waits][:MOST_ASKED]
        for version, group in groupby(due, key=lambda file: parse_key(file.key).version):
            files = list(group)
            named = ", ".join(file.key.rpartition("/")[2] for file in files)
            task = Task("copy", version.path, named, sum(file.size_bytes for file in files))

            def ask(files: Sequence[UpstreamFile] = files) -> None:
                self._services.ask(self._name, files)
                asked.update({file.key: now for file in files})

            self._run.do(task, ask)
        return asked
