"""A page of another site starts nothing on this machine, whatever host name it uses."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from local_stack.api_gateway import make_api
from local_stack.browsers import stranger
from local_stack.lambda_pool import Outcome
from local_stack.scheduler import Scheduler
from local_stack.wiring import Route

ROUTES = [Route("DELETE", "/{path+}", "Uploads", "iam"), Route("POST", "/uploads", "Uploads", "iam")]
HERE = {"host": "localhost:8443", "x-local-caller": "local"}
STRANGERS = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost.evil.example"},
    {"origin": "http://["},
    {"host": "rebound.evil.example:8443"},
    {"host": "rebound.evil.example:8443", "origin": "https://rebound.evil.example:8443"},
    {"host": "127.0.0.1.evil.example"},
]


class Started(Scheduler):
    """A scheduler that only records what it starts."""

    def __init__(self) -> None:
        self.started: list[str] = []

    @property
    def names(self) -> list[str]:
        return ["Prune"]

    def run(self, name: str) -> Outcome:
        self.started.append(name)
        return Outcome({"done": True})


def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, list[str]]:
    """Return the status, and which functions and schedules were started."""
    scheduler, invoked, sent = Started(), list[str](), list[dict[str, Any]]()

    def invoke(function: str, _event: Any) -> Outcome:
        invoked.append(function)
        return Outcome({"statusCode": 202, "body": "{}"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": encoded}
    app = make_api(ROUTES, invoke, scheduler, lambda *_: None)
    with ThreadPoolExecutor(1) as thread:  # tests in a browser leave a loop in the main thread
        thread.submit(lambda: asyncio.run(app(scope, receive, send))).result()
    return sent[0]["status"], [*invoked, *scheduler.started]


@pytest.mark.parametrize("headers", STRANGERS)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/_local/schedules/Prune"), ("DELETE", "/images/a"), ("POST", "/uploads")]
)
def test_a_page_of_another_site_starts_no_function(method: str, path: str, headers: dict[str, str]) -> None:
    assert ask(method, path, HERE | headers) == (403, [])


@pytest.mark.parametrize(
    "headers",
    [{}, {"host": "127.0.0.1:8443"}, {"host": "[::1]:8443"}, {"origin": "https://localhost:8444"}],
)
def test_programs_and_pages_of_this_machine_are_answered(headers: dict[str, str]) -> None:
    assert ask("POST", "/_local/schedules/Prune", HERE | headers) == (200, ["Prune"])
    assert ask("DELETE", "/images/a", HERE | headers) == (202, ["Uploads"])


@pytest.mark.parametrize("host", ["images.localhost:9000", "LOCALHOST", ""])
def test_names_below_localhost_are_this_machine(host: str) -> None:
    assert stranger(host, "") == ""
