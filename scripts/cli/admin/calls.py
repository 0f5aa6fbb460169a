"""The last request to AWS and its answer: what explains an error that nobody expected."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

MOST_SHOWN: Final = 240
"""Characters of a request, and of an answer."""
NO_ANSWER: Final = "; no answer came"


class Calls:
    """Hears every request of a session; `last` is the newest one in a sentence, empty while there was none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.last = ""

    @classmethod
    def of(cls, session: Any) -> Self:
        """Return what hears the requests of a boto3 session, of every client that is made from now on."""
        calls = cls()
        session.events.register_first("provide-client-params", calls._asked)
        session.events.register("after-call", calls._answered)
        return calls

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note on any exception from within what was asked last and what came."""
        try:
            yield
        except Exception as error:
            if self.last and not hasattr(error, "__notes__"):
                error.add_note(self.last)
            raise

    def asks(self, request: str) -> None:
        """Hear of a request that is sent now, also of one that boto3 does not send."""
        with self._lock:
            self.last = f"asked: {request}{NO_ANSWER}"

    def _asked(self, params: Mapping[str, Any], model: Any, **_: Any) -> None:
        self.asks(f"{_name(model)} {_short(dict(params))}")

    def _answered(self, parsed: Any, model: Any, **_: Any) -> None:
        if isinstance(parsed, Mapping):
            parsed = {name: value for name, value in parsed.items() if name != "ResponseMetadata"}
        with self._lock:
            asked = self.last.partition(NO_ANSWER)[0]
            if _name(model) not in asked:  # another thread asked something meanwhile
                asked = f"asked: {_name(model)}"
            self.last = f"{asked}; answered: {_short(parsed)}"


def _name(model: Any) -> str:
    return f"{model.service_model.service_name} {model.name}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
