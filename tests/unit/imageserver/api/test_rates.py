"""How many requests a publisher may make in a minute, counted over all environments of the function."""

from __future__ import annotations

from datetime import timedelta

import pytest

from imageserver.api.problems import Problem
from imageserver.api.rates import SHARES, Rates
from imageserver.catalog.rights import Rights
from tests.support.memory_store import MemoryStore

ROLE = "arn:aws:iam::111122223333:role/ci"
SESSION = "arn:aws:sts::111122223333:assumed-role/ci/job-{}"
RIGHTS = Rights.parse(
    f'{{"{ROLE}": ["images/team-a/"], "repo:octocat/*": ["images/cats/"], "arn:aws:iam::1:user/op": ["images*"]}}'
)


class Environments:
    """A store and several environments of the function, each with its own clock that runs with the store's."""

    def __init__(self, count: int, a_minute: int) -> None:
        self.store, self.now = MemoryStore(), 0.0
        self.all = [Rates(RIGHTS, a_minute, lambda: self.now, lambda _: None) for _ in range(count)]

    def ask(self, caller: str, times: int) -> tuple[int, int]:
        """Send requests to all environments in turn; return how many were answered, and the last requested pause."""
        answered = wait_s = 0
        for number in range(times):
            try:
                self.all[number % len(self.all)].check(self.store, caller.format(number))
                answered += 1
            except Problem as problem:
                wait_s = int(str(problem.extra["retry_after"]))
        return answered, wait_s

    def rest(self, seconds: float) -> None:
        self.now += seconds
        self.store.clock += timedelta(seconds=seconds)


@pytest.mark.parametrize("environments", [1, 7])
@pytest.mark.parametrize("caller", [ROLE, SESSION, "repo:octocat/x:ref:refs/heads/branch-{}"])
def test_a_publisher_gets_its_rate_and_at_most_one_share_more_for_each_environment(
    environments: int, caller: str
) -> None:
    world = Environments(environments, 600)
    share = 600 // SHARES
    answered, wait_s = world.ask(caller, 5000)
    assert 600 <= answered <= 600 + (environments + 1) * share
    assert 1 <= wait_s <= 60
    world.rest(wait_s)
    assert world.ask(caller, 1)[0] == 1, "as it was told"


def test_over_many_minutes_a_publisher_gets_its_rate() -> None:
    world = Environments(3, 60)
    answered = 0
    for _ in range(600):
        answered += world.ask(ROLE, 10)[0]
        world.rest(1)
    assert answered <= 60 * 11 + 3 * 11 * (60 // SHARES)


def test_one_publisher_does_not_use_the_rate_of_another() -> None:
    world = Environments(1, 60)
    world.ask(ROLE, 1000)
    assert world.ask("repo:octocat/x:environment:prod", 60)[0] == 60


def test_an_occasional_publisher_costs_no_request_to_the_store() -> None:
    world = Environments(1, 600)
    for _ in range(10):
        assert world.ask(ROLE, 600 // SHARES)[0] == 600 // SHARES
        world.rest(61)
    assert world.store.log == []


@pytest.mark.parametrize(
    ("caller", "a_minute"), [("arn:aws:iam::1:user/op", 1), ("repo:stranger/x:ref:refs/heads/main", 1), (ROLE, 0)]
)
def test_operators_callers_without_rights_and_servers_without_a_limit_are_not_counted(
    caller: str, a_minute: int
) -> None:
    world = Environments(1, a_minute)
    assert world.ask(caller, 100)[0] == 100
    assert world.store.log == []


@pytest.mark.parametrize("body", [b"{", b'{"x":' + b"[" * 100_000], ids=["torn", "nested"])
def test_an_unreadable_count_starts_over(body: bytes) -> None:
    world = Environments(1, 60)
    world.ask(ROLE, 4)
    (key,) = world.store.objects
    world.store.put(key, body)
    assert world.ask(ROLE, 10)[0] == 10
