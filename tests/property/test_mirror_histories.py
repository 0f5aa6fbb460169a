"""Random histories of another server, its copies and the operator's filters: what a mirror lists at each point."""

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from imageserver.format.keys import VersionId, parse_product, parse_version
from imageserver.inspection.overrides import Overrides
from imageserver.upstream.filters import parse_filter
from imageserver.upstream.mapping import UpstreamFile, UpstreamVersion
from imageserver.upstream.mirrors import MirrorState, decode_state, encode_document
from imageserver.upstream.plan import LocalProduct, Rules, plan_product

PRODUCT = parse_product("images/ubuntu/noble/amd64/cloud")
PATHS = [f"{PRODUCT.path}/2026110{day}" for day in range(1, 4)]
"""Few, so that random steps affect the same version."""
FILES = ("lxd.tar.xz", "rootfs.squashfs")
GRACE = timedelta(days=3)


class Mirroring(RuleBasedStateMachine):
    """One product of a mirror. Two sets are the oracle's alone.

    `absent`: since when each version is gone from upstream. `by_operator`: versions that the operator withdrew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 11, 10, tzinfo=UTC)
        self.upstream: set[str] = set()
        self.only, self.keep = "all", 1
        self.objects: dict[str, int] = {}
        self.queue: list[UpstreamFile] = []
        self.withdrawn: set[str] = set()
        self.local: set[str] = set()
        self.mirrored: set[str] = set()
        self.state = MirrorState()
        self.absent: dict[str, datetime] = {}
        self.copied: set[str] = set()
        self.by_operator: set[str] = set()

    def versions_here(self) -> set[str]:
        return LocalProduct(self.objects, ()).versions

    def listed(self) -> set[str]:
        complete = {path for path in self.versions_here() if all(f"{path}/{file}" in self.objects for file in FILES)}
        return complete - self.withdrawn

    def wanted(self) -> set[str]:
        """Return what must be copied, computed without the filters: all or nothing, and the newest versions."""
        return set(sorted(self.upstream if self.only == "all" else ())[-self.keep :])

    @initialize(versions=st.sets(st.sampled_from(PATHS)))
    def is_in_step(self, versions: set[str]) -> None:
        self.upstream |= versions
        self.mirror_runs(dies=False)
        self.copies_succeed(99)

    @rule(path=st.sampled_from(PATHS), is_there=st.booleans())
    def upstream_changes(self, path: str, is_there: bool) -> None:
        (self.upstream.add if is_there else self.upstream.discard)(path)

    @rule(only=st.sampled_from(["all", "all", "debian"]), keep=st.integers(1, 2))
    def operator_changes_filters(self, only: str, keep: int) -> None:
        self.only, self.keep = only, keep

    @rule(path=st.sampled_from(PATHS))
    def publisher_uploads(self, path: str) -> None:
        if path not in self.versions_here() | self.mirrored:
            self.local.add(path)
            self.objects |= {f"{path}/{file}": 1 for file in FILES}

    @rule(days=st.integers(2, 4))
    def time_passes(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule(some=st.integers(0, 3))
    def copies_succeed(self, some: int) -> None:
        for file in self.queue[:some]:
            self.objects.setdefault(file.key, file.size_bytes)
        self.queue = self.queue[some:]

    @rule()
    def withdrawn_files_are_deleted(self) -> None:
        self.objects = {key: size for key, size in self.objects.items() if key.rpartition("/")[0] not in self.withdrawn}
        self.withdrawn.clear()

    @rule(path=st.sampled_from(PATHS))
    def operator_withdraws(self, path: str) -> None:
        if path in self.mirrored and path in self.listed():
            self.withdrawn.add(path)
            self.mirror_runs(dies=False)  # within the grace time of a withdrawal, which is a day
            self.by_operator.add(path)

    @rule(path=st.sampled_from(PATHS))
    def operator_restores(self, path: str) -> None:
        if path in self.withdrawn and path in self.by_operator:
            self.withdrawn.discard(path)
            self.by_operator.discard(path)

    @rule(dies=st.booleans())
    def mirror_runs(self, dies: bool) -> None:
        before, wanted = self.listed(), self.wanted()
        here = LocalProduct(self.objects, before, self.withdrawn)
        plan = plan_product(
            PRODUCT, map(_version, sorted(self.upstream)), here, self.state.held,
            Rules([parse_filter(self.only)], self.keep, GRACE), self.now,
        )  # fmt: skip
        self.absent = {
            path: self.absent.get(path, self.now)
            for path in self.mirrored | self.state.held.keys()
            if path not in wanted
        }
        delisted = {version.path for version in plan.delist}
        assert not delisted & (self.local | wanted)
        assert all(self.now - self.absent[path] >= GRACE for path in delisted)
        assert not wanted or not delisted or (before - delisted) & wanted, "the product would list nothing that comes"
        missing = {file.key for file in plan.missing}
        comes = wanted - self.local - self.by_operator
        assert missing == {f"{path}/{file}" for path in comes for file in FILES} - self.objects.keys()
        self.state = decode_state(encode_document(MirrorState(held=dict(plan.held))), "m")
        self.mirrored = set(plan.held)
        self.by_operator &= self.mirrored
        if dies:  # after the state was written, as plan.py demands
            return
        self.queue = list(plan.missing)
        self.withdrawn |= delisted
        self.withdrawn -= {version.path for version in plan.relist}

    @invariant()
    def nothing_of_others_is_touched(self) -> None:
        assert all(f"{path}/{file}" in self.objects for path in self.local for file in FILES)
        assert not self.local & self.withdrawn
        assert not self.local & self.mirrored

    def teardown(self) -> None:
        """Let everything finish: copies succeed, time passes, and exactly the expected versions are listed."""
        for _ in range(4):
            self.now += 2 * GRACE
            self.mirror_runs(dies=False)
            self.copies_succeed(99)
        comes = self.local | self.wanted() - self.by_operator
        assert comes <= self.listed()
        has_no_newer = not comes & self.wanted() and self.wanted() & self.by_operator
        assert comes == self.listed() or has_no_newer, "an older one stays where the operator withdrew the newer"


def _version(path: str) -> UpstreamVersion:
    id_: VersionId = parse_version(path)
    files = tuple(UpstreamFile(f"{path}/{file}", f"{path}/{file}", "a" * 64, 1) for file in FILES)
    return UpstreamVersion(path, id_, files, Overrides())


TestMirroring = Mirroring.TestCase
TestMirroring.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
