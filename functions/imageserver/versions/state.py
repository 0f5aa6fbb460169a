"""The lifecycle of a version: its states, the events that change them, and the state that people see.

A version is nothing but its files and its record. Its state is never stored on its own and never computed from
the state before: `recorded_state` derives it from the record's facts, and `visible_state` adds what the catalog says.
So no event can leave a version in a state that its facts contradict. TRANSITIONS states which changes may be seen
around each event. `allows` consults it before an event is acted on, and randomised tests compare every change with it.

The first six states are written into the record. LISTED and WITHHELD are not: a record knows nothing of other
versions, and which of two equal images is listed follows from all records together (imageserver.catalog).

    ingest     digest compared the folder with the record: files arrived, were replaced, read, refused or removed
    publish    publish rendered the product into the catalog
    withdraw   a publisher, an operator or retention took the version off the list
    restore    a withdrawal was taken back within the grace period
    delete     prune found the grace period over, or that the version made no image for too long, and deletes the files
    clear      prune deleted the last file and the record
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a version is in its lifecycle; the API, the tools, the logs and the page show the value."""

    EMPTY = "empty"  # no file is left; the record only remembers that there were some
    INCOMPLETE = "incomplete"  # a file that clients need has not arrived or has not been read yet
    INVALID = "invalid"  # a file was refused, and the others make no image
    COMPLETE = "complete"  # clients can use it; publish has not rendered it yet
    LISTED = "listed"  # clients see it
    WITHHELD = "withheld"  # clients could use it, but another version has its image or its place
    WITHDRAWN = "withdrawn"  # off the list on request; its files stay until the grace period ends
    DELETING = "deleting"  # its files are being deleted; nothing can bring it back


class Event(StrEnum):
    """What can change the state of a version."""

    INGEST = "ingest"
    PUBLISH = "publish"
    WITHDRAW = "withdraw"
    RESTORE = "restore"
    DELETE = "delete"
    CLEAR = "clear"


_S = State
_ASSESSED: Final = frozenset({_S.INCOMPLETE, _S.INVALID, _S.COMPLETE})
_UNLISTED: Final = frozenset({_S.EMPTY, *_ASSESSED})

TRANSITIONS: Final[Mapping[Event, Mapping[State, frozenset[State]]]] = {
    Event.INGEST: {
        _S.EMPTY: _UNLISTED,
        _S.INCOMPLETE: _UNLISTED,
        _S.INVALID: _UNLISTED,
        _S.COMPLETE: _UNLISTED,
        _S.LISTED: _UNLISTED | {_S.LISTED},
        _S.WITHHELD: _UNLISTED | {_S.WITHHELD},
        _S.WITHDRAWN: frozenset({_S.WITHDRAWN, _S.EMPTY}),
        _S.DELETING: _UNLISTED | {_S.DELETING},  # new files begin the version anew; the old ones still go
    },
    Event.PUBLISH: {
        _S.COMPLETE: frozenset({_S.LISTED, _S.WITHHELD}),
        _S.LISTED: frozenset({_S.LISTED, _S.WITHHELD}),
        _S.WITHHELD: frozenset({_S.LISTED, _S.WITHHELD}),
    },
    Event.WITHDRAW: {state: frozenset({_S.WITHDRAWN}) for state in (*sorted(_ASSESSED), _S.LISTED, _S.WITHHELD)},
    Event.RESTORE: {_S.WITHDRAWN: _ASSESSED},
    Event.DELETE: {state: frozenset({_S.DELETING}) for state in (_S.WITHDRAWN, _S.INCOMPLETE, _S.INVALID)},
    Event.CLEAR: {_S.EMPTY: frozenset({_S.EMPTY}), _S.DELETING: frozenset({_S.EMPTY})},
}
"""Event -> state before -> every state that may follow. An event without a row for a state does not apply to it."""


def allows(state: State, event: Event) -> bool:
    """Return whether an event applies to a version in this state."""
    return state in TRANSITIONS[event]


def recorded_state(*, present: bool, withdrawn: bool, deleting: bool, usable: bool, refused: bool) -> State:
    """Return the state that a record's facts amount to.

    `present`: a file is there. `withdrawn` and `deleting` hold for the whole version, or for every file that is
    left of it. `usable`: the files make an image. `refused`: at least one file was refused.
    """
    if not present:
        return State.EMPTY
    if withdrawn:
        return State.DELETING if deleting else State.WITHDRAWN
    if usable:
        return State.COMPLETE
    return State.INVALID if refused else State.INCOMPLETE


def visible_state(recorded: State, *, listed: bool, withheld: bool) -> State:
    """Return the state that people see: the recorded one, or for a complete version what the catalog says.

    `listed`: the catalog names the version. `withheld`: the catalog names it as withheld.
    """
    if recorded is not State.COMPLETE:
        return recorded
    if listed:
        return State.LISTED
    return State.WITHHELD if withheld else State.COMPLETE


def diagram() -> str:
    """Return TRANSITIONS as a Mermaid state diagram, without arrows from a state to itself."""
    arrows: dict[tuple[State, State], list[Event]] = {}
    for event, rows in TRANSITIONS.items():
        for before, after in rows.items():
            for state in sorted(after - {before}, key=list(State).index):
                arrows.setdefault((before, state), []).append(event)
    lines = [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> empty", *lines]) + "\n"
