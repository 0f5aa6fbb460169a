"""The README is true: what it names is there, and what an operator has to know is in it."""

from __future__ import annotations

import re
from typing import get_args

import click
import pytest

from cli import presign
from cli.admin.__main__ import main as admin
from gates import stack as stacks
from imageserver.api import problems
from imageserver.versions.records import Fault
from tests.support import PROJECT

README = (PROJECT / "README.md").read_text()


def section(title: str) -> str:
    """What stands below a heading, up to the next of its level."""
    level = re.match("#+", title)
    assert level
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^{level[0]} |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {title!r}"
    return found[1]


def named(text: str) -> set[str]:
    """Everything between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def test_the_runbook_answers_every_alarm() -> None:
    alarms = {name.removesuffix("Alarm") for name in stacks.deployed().of_type("AWS::CloudWatch::Alarm")}
    assert alarms - named(section("## Runbook")) == set()


def test_every_parameter_is_described() -> None:
    parameters = set(stacks.deployed().raw["Parameters"])
    assert parameters - named(section("## Deploy")) == set()


def test_every_problem_of_the_api_is_explained() -> None:
    assert {kind.name for kind in problems.KINDS} - {"broken"} <= named(section("### What each refusal means"))


def test_the_scripts_that_upload_share_one_table_of_exit_codes() -> None:
    table = dict(re.findall(r"^\| (\d) \| (.*?) \|", section("### With the script"), re.MULTILINE))
    script = (PROJECT / "scripts/upload").read_text()
    told = re.search(r"^Exit codes: (.*?)^EOF", script, re.MULTILINE | re.DOTALL)
    assert told
    assert set(re.findall(r"\b(\d) ", told[1])) - {"0"} == set(re.findall(r"(?:fail|exit) (\d)\b", script)) - {"0"}
    assert (
        set(re.findall(r"\b(\d) ", presign.main.epilog or "")) <= set(table) == {"0", *re.findall(r"\b(\d) ", told[1])}
    )
    assert "no local stack" in table[str(presign.NO_STACK)]
    assert "credentials" in table[str(presign.NO_CREDENTIALS)]


def test_every_word_for_a_fault_is_explained() -> None:
    assert set(filter(None, get_args(Fault))) <= named(section("### What the functions say"))


@pytest.mark.parametrize("line", sorted({n for n in named(README) if re.match(r"(\./scripts/)?admin [a-z]", n)}))
def test_commands_are_as_they_are_written(line: str) -> None:
    """Each `admin …` names commands and options that there are."""
    words = line.removeprefix("./scripts/").split()[1:]
    command: click.Command = admin
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http|#)([^)]+)\)|srcset=\"([^\"]+)\"", README))))
def test_links_lead_somewhere(path: tuple[str, str]) -> None:
    assert (PROJECT / (path[0] or path[1])).exists()
