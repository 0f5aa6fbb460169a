"""Random lives of versions: the table allows every change of state that the operations make."""

from collections.abc import Iterable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from imageserver.format import documents
from imageserver.format.keys import ImageKey, VersionId, parse_version
from imageserver.operations.prune import Rules, prune
from imageserver.operations.runs import Run
from imageserver.operations.withdraw import restore, withdraw
from imageserver.versions import records
from imageserver.versions.retention import Rule
from imageserver.versions.state import TRANSITIONS, Event, State, visible_state
from tests.support import images
from tests.support.memory_store import Sent, System

VERSIONS = tuple(
    parse_version(f"images/{product}/r/amd64/default/{version}")
    for product in ("a", "b")
    for version in ("20261120", "20261121", "202611211000")
)
UPLOADS = {
    "image": images.split_image(),
    "another image": images.split_image(seed="another"),
    "metadata": {"lxd.tar.xz": images.metadata_tarball()},
    "root": {"rootfs.squashfs": images.squashfs()},
    "noise": {"lxd.tar.xz": b"noise"},
    "nothing": {},
}
RULES = Rules(Rule(versions=2, days=0), grace_hours=24, stale_days=7)
STEPS = st.tuples(
    st.sampled_from(["upload", "remove", "ingest", "publish", "withdraw", "withdraw a file", "restore", "prune"]),
    st.sampled_from(VERSIONS),
    st.sampled_from(sorted(UPLOADS)),
)


def recorded(system: System, version: VersionId) -> State:
    found = system.store.objects.get(version.record_key)
    return records.decode(found.body, version.record_key).state if found else State.EMPTY


def visible(system: System, version: VersionId) -> State:
    document = system.products_document()
    product = document.products.get(version.product.name)
    listed = bool(product) and version.version in documents.decode_versions(product) if product else False
    withheld = any(one.version == version.version for one in document.withheld.get(version.product.name, ()))
    return visible_state(recorded(system, version), listed=listed, withheld=withheld)


def do(system: System, step: str, version: VersionId, upload: str) -> tuple[Event, ...]:
    """Carry out one step; return the events that it may cause, in order."""
    store = system.store
    match step:
        case "upload":
            system.upload(version.path, UPLOADS[upload])
            return ()
        case "remove":
            for key in [key for key in store.objects if key.startswith(version.prefix)][:1]:
                store.remove(key)
            return ()
        case "ingest":
            system.ingest(version.path)
            return (Event.INGEST,)
        case "publish":
            system.publish(*system.products())
            return (Event.PUBLISH,)
        case "withdraw" | "withdraw a file":
            target = version if step == "withdraw" else images_file(version)
            withdraw(store, target, store.clock, 24, lambda _: None)
            return (Event.INGEST, Event.WITHDRAW)  # files without a record get one meanwhile
        case "restore":
            restore(store, version, lambda _: None)
            return (Event.INGEST, Event.RESTORE)
    store.clock += timedelta(days=8)
    prune(store, Sent(), RULES, store.clock, lambda _: None, Run())
    return (Event.WITHDRAW, Event.DELETE, Event.CLEAR)


def images_file(version: VersionId) -> ImageKey:
    return ImageKey(version, "rootfs.squashfs")


def reachable(state: State, events: Iterable[Event]) -> set[State]:
    """Return the states that may follow when each of the events happens or not, in this order."""
    found = {state}
    for event in events:
        found |= {after for before in found for after in TRANSITIONS[event].get(before, ())}
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_every_change_of_state_is_allowed_by_the_table(steps: list[tuple[str, VersionId, str]]) -> None:
    system = System()
    for step, version, upload in steps:
        before = {one: visible(system, one) for one in VERSIONS}
        events = do(system, step, version, upload)
        for one, state in before.items():
            # Until publish has rendered the record, the catalog still shows what it knew: the record says what changed.
            after = visible(system, one) if Event.PUBLISH in events else recorded(system, one)
            allowed = reachable(state, events) | (
                {State.COMPLETE} if state in (State.LISTED, State.WITHHELD) else set()
            )
            assert after in allowed, f"{step}: {one.path} went from {state} to {after}, expected one of {allowed}"
