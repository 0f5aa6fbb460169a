"""Part size, number of connections, buffers and broken bodies never change the bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from imageserver.storage.ranged_reader import HELD, ReadPlan, read_object
from tests.support.servers.ranged_object import ETAG, Fault, serving

plans = st.builds(
    ReadPlan,
    part_bytes=st.integers(1, 700),
    workers=st.integers(1, 9),
    buffers=st.integers(HELD + 1, 12),
    retries=st.just(20),
    pause_s=st.just(0.0),
)
faults = st.builds(Fault, status=st.sampled_from([206, 206, 503]), cut_after=st.none() | st.integers(0, 700))


@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=3000), plan=plans, broken=st.lists(faults, max_size=15))
def test_no_read_plan_and_no_fault_changes_the_bytes(content: bytes, plan: ReadPlan, broken: list[Fault]) -> None:
    with serving(content) as server:
        server.faults = broken
        chunks = read_object(server, "b", "k", ETAG, len(content), plan)
        assert b"".join(bytes(chunk) for chunk in chunks) == content
