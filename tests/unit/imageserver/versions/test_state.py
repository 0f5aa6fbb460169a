"""The table of states, and that the documentation shows the same one."""

import itertools

import pytest

from imageserver.versions.state import TRANSITIONS, Event, State, allows, diagram, recorded_state, visible_state
from tests.support import PROJECT

FACTS = [
    dict(zip(("present", "withdrawn", "deleting", "usable", "refused"), values, strict=True))
    for values in itertools.product([False, True], repeat=5)
]


def test_every_state_has_a_way_in_and_a_way_out() -> None:
    arrows = {(before, after) for rows in TRANSITIONS.values() for before, targets in rows.items() for after in targets}
    for state in State:
        assert any(before == state != after for before, after in arrows), f"no way out of {state}"
        assert any(after == state != before for before, after in arrows), f"no way into {state}"


@pytest.mark.parametrize("facts", FACTS, ids=str)
def test_a_record_never_has_a_state_that_only_the_catalog_knows(facts: dict[str, bool]) -> None:
    assert recorded_state(**facts) not in (State.LISTED, State.WITHHELD)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, State.EMPTY),
        ({"present": True}, State.INCOMPLETE),
        ({"present": True, "refused": True}, State.INVALID),
        ({"present": True, "refused": True, "usable": True}, State.COMPLETE),
        ({"present": True, "usable": True, "withdrawn": True}, State.WITHDRAWN),
        ({"present": True, "usable": True, "withdrawn": True, "deleting": True}, State.DELETING),
        ({"withdrawn": True, "deleting": True}, State.EMPTY),
    ],
)
def test_the_facts_of_a_version_determine_one_state(facts: dict[str, bool], state: State) -> None:
    assert recorded_state(**{**FACTS[0], **facts}) is state


@pytest.mark.parametrize("state", [state for state in State if state is not State.COMPLETE])
def test_only_a_complete_version_can_be_listed_or_withheld(state: State) -> None:
    assert visible_state(state, listed=True, withheld=True) is state


def test_a_partly_listed_version_is_listed() -> None:
    assert visible_state(State.COMPLETE, listed=True, withheld=True) is State.LISTED
    assert visible_state(State.COMPLETE, listed=False, withheld=True) is State.WITHHELD
    assert visible_state(State.COMPLETE, listed=False, withheld=False) is State.COMPLETE


def test_a_version_being_deleted_cannot_be_restored() -> None:
    assert [state for state in State if allows(state, Event.RESTORE)] == [State.WITHDRAWN]


def test_the_documentation_shows_the_table() -> None:
    text = (PROJECT / "functions" / "README.md").read_text()
    assert f"```mermaid\n{diagram()}```" in text, "functions/README.md: paste what versions.state.diagram() returns"
