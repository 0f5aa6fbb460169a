"""The deployed handlers inside a simulation: each run has its own execution environment, as in Lambda.

An environment is a fresh copy of a handler's module with the simulation's clients and clock in it. It is used
again for later runs, and discarded if its run was killed.
"""

from __future__ import annotations

import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import pytest

from tests.support.handlers import Context

_RUNTIME: Final = {
    "POWERTOOLS_METRICS_NAMESPACE": "Simplestreams",
    "POWERTOOLS_METRICS_DISABLED": "true",
    "POWERTOOLS_LOG_LEVEL": "CRITICAL",
}
ARRIVALS: Final = "https://sqs.eu-central-1.amazonaws.com/123456789012/arrivals"
CHANGES: Final = "https://sqs.eu-central-1.amazonaws.com/123456789012/changes"


def run_quietly(patch: pytest.MonkeyPatch) -> None:
    """Turn off logs and metrics of every handler: a simulation does not need them, and they are slow."""
    for name, value in _RUNTIME.items():
        patch.setenv(name, value)
    patch.setattr("imageserver.handlers.telemetry.count_refusal", lambda _reason: None)


_VARIABLES: Final = {
    "BUCKET": "images",
    "ARRIVALS_QUEUE_URL": ARRIVALS,
    "CHANGES_QUEUE_URL": CHANGES,
}
_QUEUES: Final = {"digest": ARRIVALS, "publish": CHANGES}


class Host:
    """The clock of one host. It stands in for the modules datetime and time of the code there.

    `now` is its time, `seconds` counts from an arbitrary moment, `sleep` pauses a run.
    """

    def __init__(
        self, now: Callable[[], datetime], seconds: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self.datetime = SimpleNamespace(now=lambda _zone: now(), fromisoformat=datetime.fromisoformat)
        self.time = SimpleNamespace(sleep=sleep, monotonic=seconds)


class Functions:
    """The functions of one deployment; `variables` are those of its parameters.

    Each environment is made on a host from `host`. `watch` is called with it before its first run.
    """

    def __init__(
        self, variables: Mapping[str, str], host: Callable[[], Host], watch: Callable[[Any], None] = lambda _: None
    ) -> None:
        self._variables = {**_VARIABLES, **variables}
        self._host = host
        self._watch = watch
        self._warm: dict[str, list[Any]] = defaultdict(list)

    def invoke(
        self, name: str, event: Mapping[str, Any], context: Context, store: object, sqs: object, **replaced: object
    ) -> Any:
        """Run a function with a store and an SQS client, and return its answer. `replaced` has names of its module."""
        warm = self._warm[name]
        app = warm.pop() if warm else self._start(name)
        for attribute, value in {"store": store, **replaced}.items():
            setattr(app, attribute, value)
        for module in (app, getattr(app, "batches", app)):
            module.sqs_client = lambda: sqs
        if hasattr(app, "cache"):
            app.cache.store = store
        try:
            answer = app.handler(event, context)
        except Exception:  # it ended, even if with an error: its environment is kept. One that was killed is not.
            warm.append(app)
            raise
        warm.append(app)
        return answer

    def _start(self, name: str) -> Any:
        with self._cold({"QUEUE_URL": _QUEUES.get(name, "")}):
            app = _copy_of(f"imageserver.handlers.{name}")
            if hasattr(app, "batches"):
                app.batches = _copy_of("imageserver.handlers.batches")
                app.batches.queues = _copy_of("imageserver.aws.queues")
                app.batches.queues.RENEW_S = 1e6  # a simulation renews on its own clock
        host = self._host()
        app.datetime, app.time = host.datetime, host.time
        if hasattr(app, "single_metric"):
            app.single_metric = lambda *_: nullcontext(SimpleNamespace(add_dimension=lambda *_: None))
        self._watch(app)
        return app

    @contextmanager
    def _cold(self, own: Mapping[str, str]) -> Iterator[None]:
        """Set the variables of a cold start, without boto3 clients: a run gets its store, and making one is slow."""
        variables = patch.dict(os.environ, {**self._variables, **own})
        with variables, patch("imageserver.aws.clients.s3_client", lambda **_: None), patch("gc.freeze"):
            yield


def _copy_of(name: str) -> Any:
    """Return a fresh copy of a module, apart from the imported one."""
    spec, code = _compiled(name)
    module = importlib.util.module_from_spec(spec)
    exec(code, module.__dict__)  # noqa: S102  (what importing it does)
    return module


@cache
def _compiled(name: str) -> tuple[ModuleSpec, CodeType]:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert isinstance(spec.loader, SourceFileLoader)
    code = spec.loader.get_code(name)
    assert code is not None
    return spec, code
