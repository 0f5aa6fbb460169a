"""The page of published names matches the code, so that no name others depend on is changed by accident."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import yaml

from cli.admin.__main__ import main as admin
from imageserver.api import problems
from imageserver.catalog.rights import Right
from imageserver.versions.records import Fault, FileFacts, Reason, Record
from imageserver.versions.state import State
from tests.support import PROJECT
from tests.support.deployment.rules.alarms import METRICS, METRICS_OF_DELTAS, METRICS_OF_MIRRORS

PAGE: Path = PROJECT / "functions/decisions/0008-published-names.md"
ROWS: dict[str, set[str]] = {
    row[1]: set(re.findall("`([^`]+)`", row[2]))
    for row in re.finditer(r"^\| ([^|]+?) \| (`[^|]+) \|$", PAGE.read_text(), re.MULTILINE)
}


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms, whose meaning does not matter here."""


_Loader.add_multi_constructor("!", lambda *_: None)
TEMPLATE = yaml.load((PROJECT / "infra/template.yaml").read_text(), _Loader)  # noqa: S506  # it is a SafeLoader


def alarms() -> Iterable[str]:
    return (name for name, what in TEMPLATE["Resources"].items() if what["Type"] == "AWS::CloudWatch::Alarm")


def fields(kind: type[msgspec.Struct]) -> Iterable[str]:
    return (field.encode_name for field in msgspec.structs.fields(kind))


NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "parameters of the stack": lambda: TEMPLATE["Parameters"],
    "outputs of the stack": lambda: TEMPLATE["Outputs"],
    "alarms": alarms,
    "metrics, namespace `Simplestreams`": lambda: METRICS | METRICS_OF_MIRRORS | METRICS_OF_DELTAS,
    "states of a version": lambda: [state.value for state in State],
    "kinds of a reason": lambda: get_args(msgspec.structs.fields(Reason)[1].type),
    "faults of a file": lambda: filter(None, get_args(Fault)),
    "problems of the API": lambda: [kind.name for kind in problems.KINDS],
    "fields of a record": lambda: fields(Record),
    "fields of a file in a record": lambda: fields(FileFacts),
    "rights of a publisher in addition to prefixes": lambda: ("alias", *get_args(Right)),
    "commands of `scripts/admin`": lambda: admin.commands,
}


def test_every_row_of_the_page_is_compared() -> None:
    assert ROWS.keys() == NAMES.keys()


@pytest.mark.parametrize("row", NAMES)
def test_the_page_has_exactly_the_names_that_are_published(row: str) -> None:
    assert ROWS[row] == set(NAMES[row]())
