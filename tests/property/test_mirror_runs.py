"""Random histories of another server and a mirror's runs over them: files, queue, records and catalog together.

The other server runs this project, so its documents are real. The oracle is its catalog: after some runs and
copies this server lists the same versions with the same items, plus only local uploads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from imageserver.errors import UpstreamUnavailable
from imageserver.format import documents
from imageserver.operations.mirror_copy import CopyServices, copy
from imageserver.operations.mirror_plan import Followed, MirrorServices, follow
from imageserver.operations.runs import Run
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.mirrors import Mirror
from tests.support import images
from tests.support.memory_store import System
from tests.support.memory_upstream import MemoryUpstream

SITE = Mirror(address="https://images.example.org/", stream="images", only=("all",), grace_days=1)
VERSIONS = [f"images/{os}/1/amd64/default/2026110{day}_1000" for os in ("alpine", "debian") for day in (1, 2)]
LOCAL = "images/local/1/amd64/default/20261101_1000"


class Killed(BaseException):
    """The process ended."""


class MirrorRuns(RuleBasedStateMachine):
    """`queue` holds requested files that are not copied yet."""

    def __init__(self) -> None:
        super().__init__()
        self.origin, self.here = System(), System()
        self.upstream = MemoryUpstream()
        self.queue: list[UpstreamFile] = []
        self.kill_after = 1_000
        self.here.upload(LOCAL, images.split_image(seed="local"))
        self.here.catch_up()
        self._serve()

    def _serve(self) -> None:
        self.origin.catch_up()
        self.upstream.files = {key: found.body for key, found in self.origin.store.objects.items()}

    @initialize(versions=st.sets(st.sampled_from(VERSIONS), min_size=1))
    def is_in_step(self, versions: set[str]) -> None:
        for version in sorted(versions):
            self.upstream_publishes(version)
        self.a_day_passes()
        self.copies_succeed(99)

    @rule(version=st.sampled_from(VERSIONS))
    def upstream_publishes(self, version: str) -> None:
        self.origin.upload(version, images.split_image(seed=version))
        self._serve()

    @rule(version=st.sampled_from(VERSIONS))
    def upstream_deletes(self, version: str) -> None:
        for key in [key for key in self.origin.store.objects if key.startswith(f"{version}/")]:
            self.origin.store.remove(key)
        self._serve()

    @rule()
    def a_day_passes(self) -> None:
        """Let a day pass, so that a grace time may end and lost messages are noticed."""
        self.here.store.clock += timedelta(days=1, minutes=1)
        self.mirror_runs()

    @rule()
    def messages_are_lost(self) -> None:
        """Lose messages, for example to the dead-letter queue."""
        self.queue.clear()

    @rule(some=st.sampled_from([1, 3, 99]))
    def copies_succeed(self, some: int) -> None:
        done, self.queue = self.queue[:some], self.queue[some:]
        for file in done:
            copy(file, self._copying)
        self.here.catch_up()

    @rule(calls=st.integers(0, 12))
    def a_run_is_killed(self, calls: int) -> None:
        """Kill a run at one of its calls of storage or of the queue."""
        left = iter(range(calls))

        def die(*_: object) -> None:
            if next(left, None) is None:
                raise Killed

        self.here.store.on = die
        try:
            self.run_mirror()
        except Killed:
            pass
        finally:
            self.here.store.on = lambda *_: None
        self.here.catch_up()

    @rule()
    def upstream_is_down(self) -> None:
        def down(*_: object) -> None:
            raise UpstreamUnavailable("it does not answer")

        before = self.here.listed()
        self.upstream.on = down
        assert self.run_mirror().status.error
        self.upstream.on = lambda *_: None
        self.here.catch_up()
        assert self.here.listed() == before

    @rule()
    def mirror_runs(self) -> None:
        self.run_mirror()
        self.here.catch_up()

    def run_mirror(self, *, accept: bool = False) -> Followed:
        services = MirrorServices(
            store=self.here.store,
            connect=lambda _: self.upstream,
            ask=self._ask,
            now=lambda: self.here.store.clock,
            pause=lambda _: None,
            grace_hours=24,
        )
        (followed,) = follow({"site": SITE}, services, Run(), ["site"], accept=accept)
        return followed

    def _ask(self, _name: str, files: Sequence[UpstreamFile]) -> None:
        self.queue += files

    @property
    def _copying(self) -> CopyServices:
        return CopyServices(
            store=self.here.store,
            upstream=self.upstream,
            now=lambda: self.here.store.clock,
            pause=lambda _: None,
            seconds_left=lambda: 900,
            host="images.example.net",
        )

    @invariant()
    def what_people_uploaded_stays_listed(self) -> None:
        assert self.here.listed()["local:1:amd64:default"] == ["20261101_1000"]

    @invariant()
    def only_what_upstream_had_is_here(self) -> None:
        for name, versions in self.here.listed().items():
            for version in versions if not name.startswith("local:") else ():
                (os, release, arch, variant) = name.split(":")
                path = f"images/{os}/{release}/{arch}/{variant}/{version}"
                made = images.split_image(seed=path)
                assert {file: self.here.store.objects[f"{path}/{file}"].body for file in made} == made

    def teardown(self) -> None:
        """Let an operator accept upstream, copies succeed and grace times end: both list the same."""
        if not self.origin.listed():
            self.upstream_publishes(VERSIONS[0])
        for _ in range(4):
            self.here.store.clock += timedelta(days=3)
            self.run_mirror(accept=True)
            while self.queue:
                self.copies_succeed(99)
            self.here.catch_up()
        there, here = (one.products_document().products for one in (self.origin, self.here))
        here = {name: product for name, product in here.items() if not name.startswith("local:")}
        assert here.keys() == there.keys()
        for name in there:
            found = documents.decode_versions(here[name])
            assert {version.mirrored_from for version in found.values()} == {"images.example.net"}
            plain = {version: msgspec.structs.replace(one, mirrored_from="") for version, one in found.items()}
            assert plain == documents.decode_versions(there[name])


TestMirrorRuns = MirrorRuns.TestCase
TestMirrorRuns.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
