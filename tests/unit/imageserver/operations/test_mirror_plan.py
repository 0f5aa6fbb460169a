"""A mirror's run: its held versions are written first, then copies are requested and versions delisted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from imageserver.errors import CatalogBusy, CatalogDamaged, TasksFailed, UpstreamRefused, UpstreamUnavailable
from imageserver.format import documents
from imageserver.format.keys import parse_key, parse_product, parse_version
from imageserver.operations.mirror_copy import CopyServices, Outcome, copy
from imageserver.operations.mirror_documents import state_of, status_of
from imageserver.operations.mirror_plan import MOST_ASKED, Followed, MirrorServices, follow
from imageserver.operations.promotion import promote, take_back
from imageserver.operations.runs import Run
from imageserver.operations.view_documents import configured, create_view
from imageserver.operations.withdraw import restore, withdraw
from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.mirrors import HeldVersion, Mirror, state_key, status_key
from imageserver.upstream.port import Upstream
from imageserver.versions import records
from imageserver.versions.records import Record
from tests.support import images
from tests.support.memory_store import MemoryStore, System
from tests.support.memory_upstream import MemoryUpstream
from tests.support.views import channel

DAY = timedelta(days=1)
SITE = Mirror(address="https://images.example.org/", stream="images", only=("all",))
NOBLE = "ubuntu:noble:amd64:default"
PRODUCT = "images/ubuntu/noble/amd64/default"
D1, D2, D3 = (f"{PRODUCT}/2026110{day}_1000" for day in (1, 2, 3))

(METADATA,) = [file for file in images.split_image() if file.endswith(".tar.xz")]


@dataclass
class Origin:
    """Another server in memory, on which a test publishes versions."""

    system: System = field(default_factory=System)
    server: MemoryUpstream = field(default_factory=MemoryUpstream)

    def publish(self, *paths: str, **more: bytes) -> None:
        for path in paths:
            self.system.upload(path, {**images.split_image(seed=path), **more})
        self._serve()

    def withdraw(self, *paths: str) -> None:
        for path in paths:
            for key in [key for key in self.system.store.objects if key.startswith(path)]:
                self.system.store.remove(key)
        self._serve()

    def _serve(self) -> None:
        self.system.catch_up()
        self.server.files.clear()
        self.server.files.update({key: found.body for key, found in self.system.store.objects.items()})


@dataclass
class Site:
    """The server with the mirror. `asked` is the queue of files to copy."""

    origin: Origin = field(default_factory=Origin)
    system: System = field(default_factory=System)
    asked: list[UpstreamFile] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def store(self) -> MemoryStore:
        return self.system.store

    @property
    def services(self) -> MirrorServices:
        return MirrorServices(
            store=self.store,
            connect=self._connect,
            ask=self._ask,
            now=lambda: self.store.clock,
            pause=lambda _: None,
            grace_hours=24,
            views=lambda: configured(self.store),
        )

    def _connect(self, _mirror: Mirror) -> Upstream:
        self.origin.server.on = lambda _, path: self.requests.append(path)
        return self.origin.server

    def _ask(self, _name: str, files: Sequence[UpstreamFile]) -> None:
        self.asked += files

    def run(self, mirror: Mirror = SITE, run: Run | None = None, *, accept: bool = False) -> Followed:
        run = run or Run()
        (followed,) = follow({"site": mirror}, self.services, run, ["site"], accept=accept)
        return followed

    def copy(self) -> None:
        """Copy all requested files, then run digest and publish."""
        services = CopyServices(
            store=self.store,
            upstream=self.origin.server,
            now=lambda: self.store.clock,
            pause=lambda _: None,
            seconds_left=lambda: 900,
            host="images.example.net",
        )
        for file in self.asked:
            assert copy(file, services).outcome in (Outcome.COPIED, Outcome.PRESENT)
        self.asked.clear()
        self.system.catch_up()

    def in_step(self, mirror: Mirror = SITE) -> None:
        self.run(mirror)
        self.copy()
        assert self.run(mirror).status.missing == 0

    def later(self, days: float = 0, hours: float = 0) -> None:
        self.store.clock += timedelta(days=days, hours=hours)

    def listed(self) -> list[str]:
        return self.system.listed().get(NOBLE, [])


@pytest.fixture
def site() -> Site:
    return Site()


def names(*paths: str) -> list[str]:
    return [path.rpartition("/")[2] for path in paths]


def record(system: System, path: str) -> Record:
    key = parse_version(path).record_key
    return records.decode(system.store.objects[key].body, key)


def test_upstream_images_are_listed_here_with_the_same_fingerprints(site: Site) -> None:
    site.origin.publish(D1, D2)
    followed = site.run()
    assert {file.key for file in followed.missing} == {file.key for file in site.asked}
    assert (followed.status.products, followed.status.versions, followed.status.missing) == (1, 2, 4)
    site.copy()
    assert site.listed() == names(D1, D2)
    there, here = (documents.versions_of(one.products_document(), NOBLE) for one in (site.origin.system, site.system))
    origins = {name: (version.mirrored_from, version.upstream_signed_by) for name, version in here.items()}
    assert origins == dict.fromkeys(names(D1, D2), ("images.example.net", ""))
    assert there == {name: replace(version, mirrored_from="") for name, version in here.items()}
    status = site.run().status
    assert status.in_step == status.looked == status.compared


def test_the_record_keeps_the_source_of_each_file_and_its_fingerprint_there(site: Site) -> None:
    site.origin.publish(D1)
    site.in_step()
    files = record(site.system, D1).files
    metadata, root = (files[file] for file in (METADATA, "rootfs.squashfs"))
    assert metadata.origin == records.Origin("images.example.net")
    assert root.origin == records.Origin("images.example.net", tuple(root.combined.items()))


def test_a_root_with_a_combined_sha256_other_than_upstreams_is_refused_with_the_reason(site: Site) -> None:
    site.origin.publish(D1, D2)
    body = site.origin.server.files["streams/v1/images.json"]
    (ours,) = record(site.origin.system, D2).files["rootfs.squashfs"].combined.values()
    site.origin.server.files["streams/v1/images.json"] = body.replace(ours.encode(), b"0" * 64)
    site.in_step()
    assert site.listed() == names(D1)
    found = record(site.system, D2)
    assert found.state == "invalid"
    (reason,) = [one for one in found.reasons if one.kind == "error"]
    assert (reason.file, reason.fault) == ("rootfs.squashfs", "digest")
    assert (
        f"the combined sha256 {ours}, expected {'0' * 64} as the catalog of images.example.net says" in reason.sentence
    )


def test_a_version_with_one_file_uploaded_here_names_no_mirror(site: Site) -> None:
    site.origin.publish(D1)
    site.run()
    site.asked[:] = [file for file in site.asked if not file.key.endswith(".tar.xz")]
    site.store.put(f"{D1}/{METADATA}", images.split_image(seed=D1)[METADATA])
    site.copy()
    (version,) = documents.versions_of(site.system.products_document(), NOBLE).values()
    assert version.mirrored_from == ""


def test_an_upstream_that_has_not_changed_costs_a_conditional_request_for_each_document(site: Site) -> None:
    site.origin.publish(D1)
    site.in_step()
    site.requests.clear()
    site.store.log.clear()
    followed = site.run()
    assert followed.unchanged
    assert site.requests == ["streams/v1/index.json", "streams/v1/images.json"]
    assert {method for method, _ in site.store.log} == {"read", "replace"}
    assert followed.status.in_step == followed.status.looked


def test_a_full_comparison_is_at_most_a_day_old(site: Site) -> None:
    """It finds a file that was deleted here although nothing changed upstream."""
    site.origin.publish(D1)
    site.in_step()
    site.store.remove(f"{D1}/rootfs.squashfs")
    assert site.run().unchanged
    site.later(days=1)
    assert [file.key for file in site.run().missing] == [f"{D1}/rootfs.squashfs"]


def test_a_changed_configuration_is_compared_at_once(site: Site) -> None:
    site.origin.publish(D1, D2)
    newest = replace(SITE, keep=1)
    site.in_step(newest)
    assert site.listed() == names(D2)
    assert {file.key.rpartition("/")[0] for file in site.run().missing} == {D1}


def test_the_held_versions_are_written_before_any_copy_is_requested(site: Site) -> None:
    """Otherwise the run after a crash would take the mirror's own files for a local upload."""
    site.origin.publish(D1)
    services = site.services
    held: list[Mapping[str, HeldVersion]] = []

    def ask(*_: object) -> None:
        held.append(state_of(site.store, "site").held)
        raise UpstreamUnavailable("dies here")

    run = Run()
    list(follow({"site": SITE}, replace_services(services, ask), run, ["site"]))
    assert held == [{D1: HeldVersion()}]
    with pytest.raises(TasksFailed, match="dies here"):
        run.check()
    assert "dies here" in status_of(site.store, "site").error
    assert len(site.run().missing) == len(site.asked) == 2


def test_a_killed_run_is_repeated_although_upstream_has_not_changed(site: Site) -> None:
    """Its state says what it saw, but none of it was requested."""
    site.origin.publish(D1)
    site.in_step()
    site.origin.publish(D2)
    site.later(hours=1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(follow({"site": SITE}, replace_services(site.services, killed), Run(), ["site"]))
    assert D2 in state_of(site.store, "site").held
    assert {file.key.rpartition("/")[0] for file in site.run().missing} == {D2}
    assert len(site.asked) == 2


def replace_services(services: MirrorServices, ask: Callable[..., object]) -> MirrorServices:
    return dataclasses.replace(services, ask=ask)


def test_a_missing_copy_is_requested_once_a_day(site: Site) -> None:
    site.origin.publish(D1)
    site.run()
    assert len(site.asked) == 2
    site.later(days=0.9)
    assert site.run().status.missing == 2
    assert len(site.asked) == 2
    site.later(days=0.2)
    status = site.run().status
    assert len(site.asked) == 4
    assert set(status.asked.values()) == {status.looked}


def test_a_version_gone_from_upstream_is_delisted_after_the_grace_time(site: Site) -> None:
    site.origin.publish(D1, D2)
    site.in_step()
    site.origin.withdraw(D1)
    site.run()
    site.system.catch_up()
    assert site.listed() == names(D1, D2)
    site.later(days=SITE.grace_days)
    site.run()
    site.system.catch_up()
    assert site.listed() == names(D2)
    assert "the mirror site no longer takes it" in str(site.store.objects[f"versions/{D1}.json"].body)


def test_a_grace_time_ends_although_upstream_does_not_change(site: Site) -> None:
    """An unchanged upstream is compared in full at that time, but not a day earlier."""
    site.origin.publish(D1, D2)
    site.in_step()
    site.origin.withdraw(D1)
    site.run()
    site.later(days=SITE.grace_days - 0.5)
    site.run()
    site.later(days=0.5)
    assert not site.run().unchanged
    site.system.catch_up()
    assert site.listed() == names(D2)
    assert site.run().unchanged


def test_a_version_that_upstream_lists_again_is_restored(site: Site) -> None:
    site.origin.publish(D1, D2)
    site.in_step()
    site.origin.withdraw(D1)
    site.run()
    site.later(days=SITE.grace_days)
    site.run()
    site.system.catch_up()
    site.origin.publish(D1)
    assert not site.run().missing
    site.system.catch_up()
    assert site.listed() == names(D1, D2)


def test_a_version_withdrawn_by_an_operator_stays_withdrawn_and_can_be_restored(site: Site) -> None:
    site.origin.publish(D1, D2)
    site.in_step()
    withdraw(site.store, parse_version(D1), site.store.clock, 24, lambda _: None)
    site.system.catch_up()
    site.later(days=1)
    assert not site.run().missing
    assert state_of(site.store, "site").held == {D1: HeldVersion(refused=True), D2: HeldVersion()}
    restore(site.store, parse_version(D1), lambda _: None)
    site.system.catch_up()
    site.later(days=1)
    site.run()
    assert state_of(site.store, "site").held == {D1: HeldVersion(), D2: HeldVersion()}


@pytest.mark.parametrize("restores_first", [False, True])
def test_a_version_withdrawn_by_an_operator_after_the_mirror_stays_withdrawn(site: Site, restores_first: bool) -> None:
    site.origin.publish(D1, D2)
    site.in_step()
    site.origin.withdraw(D1)
    site.run()
    site.later(days=SITE.grace_days)
    site.run()
    if restores_first:
        restore(site.store, parse_version(D1), lambda _: None)
        site.system.catch_up()
    withdraw(site.store, parse_version(D1), site.store.clock, 240, lambda _: None, "leaks a key")
    site.system.catch_up()
    site.origin.publish(D1)
    run = Run()
    site.run(run=run)
    assert "restore" not in {task.what for task in run.tasks}
    site.system.catch_up()
    assert site.listed() == names(D2)
    restore(site.store, parse_version(D1), lambda _: None)
    site.system.catch_up()
    site.run()
    assert site.listed() == names(D1, D2)


def test_a_mirror_that_lists_a_version_again_leaves_a_withdrawn_file_withdrawn(site: Site) -> None:
    site.origin.publish(D1, D2)
    site.in_step()
    site.origin.withdraw(D1)
    site.run()
    withdraw(site.store, parse_key(f"{D1}/rootfs.squashfs"), site.store.clock, 2400, lambda _: None, "leaks a key")
    site.later(days=SITE.grace_days)
    site.run()
    site.origin.publish(D1)
    site.run()
    body = site.store.objects[parse_version(D1).record_key].body
    record = records.decode(body, parse_version(D1).record_key)
    assert record.withdrawn is None
    assert record.files["rootfs.squashfs"].withdrawn is not None


def test_a_mirror_neither_replaces_nor_withdraws_local_uploads(site: Site) -> None:
    site.system.upload(D1, images.split_image(seed="local"))
    site.system.catch_up()
    before = site.store.objects[f"{D1}/rootfs.squashfs"].body
    site.origin.publish(D1, D2)
    site.in_step()
    status = status_of(site.store, "site")
    assert [sentence for sentence in status.left_out if names(D1)[0] in sentence]
    assert site.store.objects[f"{D1}/rootfs.squashfs"].body == before
    site.origin.withdraw(D1)
    site.later(days=2 * SITE.grace_days)
    site.run()
    site.system.catch_up()
    assert site.listed() == names(D1, D2)


BREAKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a version": lambda products: products[NOBLE]["versions"].update({names(D1)[0]: {"items": 7}}),
    "a product": lambda products: products.update({NOBLE: {"versions": 7}}),
    "a product of another name": lambda products: products.update(
        {"com.example:server:24.04:x": products.pop(NOBLE) and 7}
    ),
}


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
def test_what_cannot_be_read_upstream_is_not_gone(site: Site, breaks: Callable[[dict[str, Any]], object]) -> None:
    other = D1.replace("noble", "jammy")
    site.origin.publish(D1, D2, other, other.replace("20261101", "20261102"), other.replace("20261101", "20261103"))
    site.in_step()
    document = json.loads(site.origin.server.files["streams/v1/images.json"])
    breaks(document["products"])
    site.origin.server.files["streams/v1/images.json"] = json.dumps(document).encode()
    assert not site.run().status.error
    site.later(days=2 * SITE.grace_days)
    assert not site.run().status.error
    site.system.catch_up()
    assert site.listed() == names(D1, D2)
    site.origin.withdraw(D1)
    site.run()
    site.later(days=SITE.grace_days)
    site.run()
    site.system.catch_up()
    assert site.listed() == names(D2), "it is gone once upstream can be read"


@pytest.mark.parametrize("paths", [(D1, D2, D3), (D2, D3)], ids=["empty", "less than half"])
def test_an_implausible_upstream_removes_nothing_and_is_reported(site: Site, paths: tuple[str, ...]) -> None:
    site.origin.publish(D1, D2, D3)
    site.in_step()
    site.origin.withdraw(*paths)
    site.later(days=2)
    before = site.store.objects[state_key("site")].body
    run = Run()
    followed = site.run(run=run)
    assert "nothing was removed" in followed.status.error
    assert isinstance(run.failed[0].error, UpstreamRefused)
    assert site.store.objects[state_key("site")].body == before
    assert followed.status.lag_s(site.store.clock) == pytest.approx(2 * 86400, abs=600)


def test_an_operator_may_accept_an_upstream_that_shrank(site: Site) -> None:
    site.origin.publish(D1, D2, D3)
    site.in_step()
    site.origin.withdraw(D2, D3)
    assert site.run().status.error
    assert not site.run(accept=True).status.error
    assert not site.run().status.error


def test_an_unresponsive_upstream_is_compared_next_time(site: Site) -> None:
    site.origin.publish(D1)
    site.in_step()
    before = status_of(site.store, "site").in_step

    def down(*_: object) -> None:
        raise UpstreamUnavailable("images.example.org does not answer")

    services = site.services
    site.later(days=1)
    site.origin.server.on = down
    run = Run()

    def connect(_: Mirror) -> MemoryUpstream:
        return site.origin.server

    (followed,) = follow({"site": SITE}, dataclasses.replace(services, connect=connect), run, ["site"])
    assert "does not answer" in followed.status.error
    assert followed.status.in_step == before
    assert not site.run().status.error


def test_a_failing_mirror_does_not_delay_the_others(site: Site) -> None:
    site.origin.publish(D1)
    mirrors = {"broken": replace(SITE, stream="images-broken"), "site": SITE}
    site.store.put(state_key("broken"), b"{}?")
    run = Run()
    broken, good = follow(mirrors, site.services, run, mirrors)
    assert "mirrors/broken.state.json cannot be read" in broken.status.error
    assert len(good.missing) == 2
    assert [failure.path for failure in run.failed] == ["broken"]


def test_a_product_with_a_damaged_record_does_not_delay_the_others(site: Site) -> None:
    other = "images/debian/trixie/amd64/default/20261101_1000"
    site.origin.publish(D1, other)
    site.in_step()
    withdraw(site.store, parse_version(D1), site.store.clock, 24, lambda _: None)
    site.system.catch_up()
    site.store.put(f"versions/{D1}.json", b"broken")
    site.later(days=1)
    site.store.remove(f"{other}/rootfs.squashfs")
    run = Run()
    followed = site.run(run=run)
    assert [file.key for file in followed.missing] == [f"{other}/rootfs.squashfs"]
    assert [failure.path for failure in run.failed] == [PRODUCT]
    assert D1 in state_of(site.store, "site").held


def test_two_mirrors_of_one_stream_do_not_take_each_others_versions(site: Site) -> None:
    site.origin.publish(D1)
    mirrors = {"a": SITE, "b": SITE}
    first, second = follow(mirrors, site.services, Run(), mirrors)
    assert (len(first.missing), len(second.missing)) == (2, 0)
    assert state_of(site.store, "b").held == {}


def test_two_runs_at_once_lose_nothing(site: Site) -> None:
    """The run whose state was overwritten stops before it acts."""
    site.origin.publish(D1)

    def overtaken(method: str, key: str) -> None:
        if method == "create" and key == state_key("site"):
            site.store.on = lambda *_: None
            site.run()

    site.store.on = overtaken
    run = Run()
    assert "at the same time" in site.run(run=run).status.error
    assert isinstance(run.failed[0].error, CatalogBusy)
    assert len(site.asked) == 2


def test_a_dry_run_writes_nothing(site: Site) -> None:
    site.origin.publish(D1)
    run = Run(dry_run=True)
    assert len(site.run(run=run).missing) == 2
    assert [task.what for task in run.tasks] == ["copy"]
    assert not site.asked
    assert not site.store.objects


def test_aliases_and_requirements_are_copied_once(site: Site) -> None:
    site.origin.publish(D1, **{"metadata.json": b'{"aliases": ["web"], "requirements": {"secureboot": "false"}}'})
    site.in_step()
    products = [one.products_document().products[NOBLE] for one in (site.origin.system, site.system)]
    assert [product.aliases.rpartition(",")[2] for product in products] == ["web", "web"]
    assert [product.requirements for product in products] == [{"secureboot": "false"}] * 2


def test_the_mirror_that_waits_longest_is_compared_first(site: Site) -> None:
    site.origin.publish(D1)
    mirrors = {"a": SITE, "b": replace(SITE, stream="images-b")}
    list(follow(mirrors, site.services, Run(), ["a"]))
    assert [one.name for one in follow(mirrors, site.services, Run(), mirrors)] == ["b", "a"]


def test_a_run_requests_a_limited_number_of_copies_and_the_next_one_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserver.operations.mirror_plan.MOST_ASKED", 3)
    assert MOST_ASKED > 3
    site.origin.publish(D1, D2)
    assert site.run().status.missing == 4
    assert len(site.asked) == 3
    site.run()
    assert len({file.key for file in site.asked}) == len(site.asked) == 4


def test_an_unreadable_status_is_not_taken_for_a_new_mirrors(site: Site) -> None:
    site.store.put(status_key("site"), b"[]")
    with pytest.raises(CatalogDamaged, match=r"mirrors/site\.status\.json cannot be read"):
        site.run()


def test_a_version_that_a_channel_points_to_stays_until_the_channel_has_moved_on() -> None:
    site = Site()
    create_view(site.store, channel())
    keeps_one = replace(SITE, keep=1)
    for path in (D1, D2):
        site.origin.publish(path)
        site.in_step(keeps_one)
        if path == D1:
            promote(site.store, "stable", parse_version(D1), site.store.clock, "ann", lambda _: None)
    site.later(days=8)
    assert site.run(keeps_one).status.delisted == 0
    assert state_of(site.store, "site").held[D1].needed
    site.requests.clear()
    site.later(hours=1)
    assert site.run(keeps_one).unchanged, "nothing is left to do for an upstream that has not changed"
    take_back(site.store, "stable", parse_product(PRODUCT), site.store.clock, "ann", lambda _: None)
    site.later(days=1)
    assert site.run(keeps_one).status.delisted == 1
    assert state_of(site.store, "site").held[D1].delisted
