"""The fuzzer's targets on mutated seeds, without the fuzzer, so that a broken target fails here."""

import random
from importlib.util import find_spec

import pytest

from imageserver.versions import records
from tests.fuzz import INSTRUMENTED
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_target_holds_on_its_seeds_and_their_mutations(name: str) -> None:
    target, seeds = TARGETS[name]
    chance = random.Random(name)
    for seed in seeds:
        target(seed)
        for _ in range(300):
            target(_mutated(seed, chance))


@pytest.mark.parametrize("name", INSTRUMENTED)
def test_every_package_that_guides_the_fuzzer_exists(name: str) -> None:
    assert find_spec(name), "the fuzzer would run a renamed package blindly"


def test_the_code_under_test_guides_the_fuzzer() -> None:
    assert records.__name__.partition(".")[0] in INSTRUMENTED


def _mutated(seed: bytes, chance: random.Random) -> bytes:
    body = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        start, end = sorted(chance.choices(range(len(body) + 1), k=2))
        how = chance.randrange(4)
        if how == 0:
            del body[start : min(end, start + 16)]
        elif how == 1:
            body[start:start] = body[start : min(end, start + 64)]
        elif how == 2 and start < len(body):
            body[start] = chance.randrange(256)
        else:
            body[start:start] = chance.choice((b"\0", b"\xff\xff", b"99999999999", b"null", b"[]", b'""', b"-1", b"{"))
    return bytes(body)
