"""A test runs every command of a page unchanged, or a reason says why none can."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.support import PROJECT, documented

COMMANDS = documented.commands()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_a_page_is_run_by_a_test_or_has_a_reason(command: str) -> None:
    where = ", ".join(COMMANDS[command])
    fate = [command in documented.walked(), documented.not_run(command), documented.scenario_of(command)]
    assert any(fate), f"{where}: no test runs `{command}`; add it to a scenario of tests/support/documented.py"


def test_no_row_of_the_tables_is_left_without_a_command() -> None:
    patterns = [pattern for rows in documented.RUN.values() for pattern in rows]
    patterns += [pattern for pattern, _ in documented.NOT_RUN]
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, command) for command in COMMANDS)] == []


def test_every_scenario_is_run_by_the_test_that_is_named() -> None:
    assert documented.TESTED.keys() == documented.RUN.keys()
    for scenario, test in documented.TESTED.items():
        path, _, name = test.partition("::")
        text = (PROJECT / path).read_text()
        assert f"def {name}(" in text if name else f'documented.script("{scenario}")' in text, test


def test_commands_are_found_in_every_place_of_a_page() -> None:
    kinds = Counter(
        {
            "a block of sh": "sam delete" in COMMANDS,
            "behind a prompt": "lxc image export ubuntu-noble ." in COMMANDS,
            "an example of a help": "./scripts/admin list --unlisted" in COMMANDS,
            "in a sentence": "sudo sh -c 'rm -rf /var/cache/incus/*'" in COMMANDS,
            "with a document behind it": any(command.endswith("\nEOF") for command in COMMANDS),
            "on two lines": any(command.startswith("OLD=") and "--query" in command for command in COMMANDS),
        }
    )
    assert [kind for kind, found in kinds.items() if not found] == []
