"""With --json an error is an object on standard output, beside the sentence on standard error."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli import presign
from cli.admin import errors, output
from cli.admin.__main__ import main as admin
from cli.json_errors import JsonErrors
from cli.smoke import __main__ as smoke

USAGE = [
    (admin, "--json frob", "No such command 'frob'."),
    (admin, "list --json --bogus", "No such option '--bogus'."),
    (admin, "list --bogus --json", "No such option '--bogus'."),
    (admin, "--json mirror", "no command is named"),
    (admin, "show --json", "Missing argument 'PATH'."),
    (admin, "mirror add --json", "Missing argument 'NAME'."),
    (admin, "list --url https://x --json", "name one server: --stack, or --bucket with --url, or --state-dir"),
    (smoke.main, "--json --api ftp://x", "--api is 'ftp://x', expected an address such as https://images.example.org"),
    (smoke.main, "--json --wait 0", "Invalid value for '--wait': 0 is not in the range 1<=x<=3600."),
    (presign.main, "--json", "Missing argument 'KEY...'."),
]


@pytest.mark.parametrize(("command", "line", "reason"), USAGE)
def test_wrong_usage_is_an_object_too(command: click.Command, line: str, reason: str) -> None:
    done = CliRunner().invoke(command, line.split())
    assert json.loads(done.stdout) == {"error": {"code": 2, "reasons": [reason]}}
    assert done.exit_code == 2
    assert "Usage: " in done.stderr


@pytest.mark.parametrize(("command", "line", "_reason"), USAGE)
def test_without_json_wrong_usage_prints_nothing_on_standard_output(
    command: click.Command, line: str, _reason: str
) -> None:
    done = CliRunner().invoke(command, line.replace("--json", "").split())
    assert (done.stdout, done.exit_code) == ("", 2)


def test_an_option_after_two_hyphens_is_none() -> None:
    done = CliRunner().invoke(presign.main, ["--bogus", "--", "--json"])
    assert (done.stdout, done.exit_code) == ("", 2)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (admin, "list --json"),
        (smoke.main, "--json"),
        (presign.main, "--json images/a/b/amd64/d/20261123/root.squashfs"),
    ],
)
def test_another_error_has_the_same_form(command: click.Command, line: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [*line.split(), "--state-dir", str(tmp_path)])
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error["code"]) == (6, 6)
    assert error["reasons"][0].startswith("no local stack is running with the state folder")
    assert error["reasons"][0] in done.stderr


def test_an_error_after_the_answer_adds_no_second_document() -> None:
    @click.command(cls=JsonErrors)
    @click.option("--json", "as_json", is_flag=True)
    def command(as_json: bool) -> None:
        output.print_json({"as_json": as_json})
        errors.end(5, "the lease was not given back")

    done = CliRunner().invoke(command, ["--json"], prog_name="smoke")
    assert (json.loads(done.stdout), done.exit_code) == ({"as_json": True}, 5)
    assert done.stderr == "smoke: the lease was not given back\n"


def test_several_reasons_are_a_list() -> None:
    done = CliRunner().invoke(presign.main, ["--json", "a", "b"])
    error = json.loads(done.stdout)["error"]
    assert (error["code"], len(error["reasons"])) == (3, 2)
