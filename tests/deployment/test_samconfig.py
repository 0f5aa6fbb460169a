"""samconfig.toml, the one place for parameter values: what SAM's own code would send over a stack's whole life.

The commands of infra/README.md run here word for word, in order, with SAM's connection to AWS cut off.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates import stack, tools
from imageserver.catalog.rights import BadRule, Rights
from local_stack.errors import TemplateError
from local_stack.template import parameters

ROOT = stack.INFRA.parent
EXAMPLE = stack.INFRA / "samconfig.example.toml"
DECLARED: Mapping[str, Any] = stack.source()["Parameters"]

# Runs under SAM's own Python. Each line on stdin is a folder, the arguments of `sam deploy` there, and the parameters
# that the stack has; the answer is what SAM would send to CloudFormation.
SAM = """
import inspect, json, os, sys
from unittest import mock
from samcli.cli.main import cli
from samcli.commands._utils.template import get_template_data
from samcli.commands.deploy import command
from samcli.commands.deploy.deploy_context import DeployContext
from samcli.lib.deploy.deployer import Deployer

names = list(inspect.signature(command.do_cli).parameters)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what SAM prints is no answer

def deploy(*arguments, **more):
    given = dict(zip(names, arguments)) | more
    client = mock.Mock()
    client.get_template_summary.return_value = {"Parameters": [{"ParameterKey": name} for name in existing]}
    deployer = Deployer(client)
    deployer.has_stack = lambda _: bool(existing)
    values = DeployContext.merge_parameters(get_template_data("template.yaml"), given["parameter_overrides"])
    deployer.create_changeset(given["stack_name"], "", values, given["capabilities"], None, None, None, [])
    sent = client.create_change_set.call_args.kwargs
    answer = {"guided": given["guided"], "stack": sent["StackName"], "parameters": sent["Parameters"]}
    print(json.dumps(answer), file=answers, flush=True)

with mock.patch.object(command, "do_cli", deploy):
    for line in sys.stdin:
        folder, arguments, existing = json.loads(line)
        os.chdir(folder)
        cli(["deploy", *arguments], standalone_mode=False)
"""


class Sam:
    """SAM's own code, in a process that loads it only once."""

    def __init__(self, python: Path) -> None:
        environment = {**os.environ, "SAM_CLI_TELEMETRY": "0"}
        self._process = subprocess.Popen(
            [python, "-c", SAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def deploy(self, folder: Path, arguments: list[str], existing: list[str]) -> dict[str, Any]:
        """Return what `sam deploy`, run in `folder`, would send for a stack with these parameters."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([str(folder), arguments, existing]), file=self._process.stdin, flush=True)
        sent: dict[str, Any] = json.loads(self._process.stdout.readline())
        return sent

    def stop(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def sam() -> Iterator[Sam]:
    try:
        process = Sam(tools.environment("sam") / "python")
    except tools.ToolMissing as missing:
        if os.environ.get("SIMPLESTREAMS_REQUIRE_EXTRAS") == "1":
            raise
        pytest.skip(f"SAM was not asked: {missing}")
    yield process
    process.stop()


class Deployments:
    """A clone with stand-ins for the programs that reach AWS, and the stack's current values."""

    def __init__(self, folder: Path, sam: Sam) -> None:
        self._sam = sam
        self.infra = folder / "infra"
        self.infra.mkdir()
        self.values: dict[str, str] = {}
        self.history: list[dict[str, str]] = []
        shutil.copy(EXAMPLE, self.infra)
        # Only the parameters: SAM reads the file several times for each command.
        (self.infra / "template.yaml").write_text(json.dumps({"Parameters": DECLARED, "Resources": {}}))
        self._calls = folder / "calls"
        # Each call of sam records its arguments and the current file.
        call = f"{self._calls}/$(date +%s%N)"
        take = f'call={call}; mkdir -p $call; cp *.toml template.yaml $call; printf "%s\\n" "$@" > $call/arguments'
        self._program(folder / "bin/sam", take)
        self._program(folder / "bin/aws", "echo simplestreams-111122223333-eu-central-1")
        self._program(folder / "scripts/admin", "exit 0")
        self._program(folder / ".venv/bin/python", "exit 0")
        self._path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"

    def run(self, commands: str) -> None:
        """Run shell commands in infra/, and apply what each `sam deploy` sends as CloudFormation would."""
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.infra, env={**os.environ, "PATH": self._path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        for call in sorted(self._calls.iterdir()) if self._calls.exists() else ():
            verb, *arguments = (call / "arguments").read_text().split()
            if verb == "deploy":
                self._apply(self._sam.deploy(call, arguments, sorted(self.values)))
            elif verb == "delete":
                self.values = {}
            shutil.rmtree(call)

    def _apply(self, sent: Mapping[str, Any]) -> None:
        assert not sent["guided"], "--guided saves every default as if it were an answer"
        given = {
            entry["ParameterKey"]: self.values[entry["ParameterKey"]]
            if entry.get("UsePreviousValue")
            else entry["ParameterValue"]
            for entry in sent["parameters"]
        }
        parameters({"Parameters": DECLARED}, given)  # refuses whatever CloudFormation would
        self.values = {name: given.get(name, str(body["Default"])) for name, body in DECLARED.items()}
        self.history.append(self.values)

    @staticmethod
    def _program(path: Path, script: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def deployments(tmp_path: Path, sam: Sam) -> Deployments:
    return Deployments(tmp_path, sam)


def walk() -> list[str]:
    """Return the shell commands of infra/README.md's walk, block by block."""
    return re.findall(r"^```sh walk\n(.*?)^```", (stack.INFRA / "README.md").read_text(), re.M | re.S)


def set_by(block: str) -> dict[str, str]:
    """Return the values that a block appends to samconfig.toml."""
    lines = re.search(r"^cat >> samconfig\.toml <<'EOF'\n(.*?)^EOF$", block, re.M | re.S)
    return tomllib.loads(lines[1]) if lines else {}


def test_the_walk_resets_no_value(deployments: Deployments) -> None:
    """Once, `--guided` saved `{}` for Publishers, and the plain deployment after `--parameter-overrides` sent it."""
    expected = {name: str(body["Default"]) for name, body in DECLARED.items()}
    for block in walk():
        expected |= set_by(block)
        deployments.run(block)
        assert deployments.values == ({} if "sam delete" in block else expected), block
    assert len(deployments.history) == 5, "first deployment, publishers, own domain, upgrade, start again"
    changed = {name for name, value in expected.items() if value != str(DECLARED[name]["Default"])}
    assert changed == {"Publishers", "DomainName", "CertificateArn", "BucketName"}


def test_no_command_sets_a_value_anywhere_else() -> None:
    for block in walk():
        assert not re.search(r"^sam .*--(guided|parameter-overrides|stack-name)", block, re.M)


def test_the_example_deploys_the_defaults(deployments: Deployments) -> None:
    deployments.run("cp samconfig.example.toml samconfig.toml && sam deploy")
    assert deployments.values == {name: str(body["Default"]) for name, body in DECLARED.items()}


def test_every_commented_line_of_the_example_is_the_templates_default(deployments: Deployments) -> None:
    text = EXAMPLE.read_text()
    _, _, tail = text.partition("[default.deploy.parameters.parameter_overrides]\n")
    lines = re.findall(r"^# (\w+ = .*)$", tail, re.M)
    shown = tomllib.loads("\n".join(lines))
    assert shown == {name: str(body["Default"]) for name, body in DECLARED.items()}
    groups = stack.source()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert list(shown) == [name for group in groups for name in group["Parameters"]]
    (deployments.infra / "samconfig.toml").write_text(text.replace(tail, "\n".join(lines) + "\n"))
    deployments.run("sam deploy")
    assert deployments.values == shown


def test_a_value_removed_from_the_file_stays_deployed(deployments: Deployments) -> None:
    deployments.run("cp samconfig.example.toml samconfig.toml && echo 'RetainVersions = \"3\"' >> samconfig.toml")
    deployments.run("sam deploy")
    deployments.run("cp samconfig.example.toml samconfig.toml && sam deploy")
    assert deployments.values["RetainVersions"] == "3"


def test_publishers_arrive_as_they_are_written(deployments: Deployments) -> None:
    publishers = {
        "arn:aws:iam::111122223333:role/ci": ["images/team-a/", "images-daily/team-a/"],
        "repo:octocat@123456/images@456789:ref:refs/heads/main": ["debian/*"],
    }
    text = json.dumps(publishers, indent=2)
    deployments.run(
        f"cp samconfig.example.toml samconfig.toml\ncat >> samconfig.toml <<'EOF'\nPublishers = '''\n{text}\n'''\nEOF"
    )
    deployments.run("sam deploy")
    assert json.loads(deployments.values["Publishers"]) == publishers
    assert Rights.parse(deployments.values["Publishers"]).allow("arn:aws:iam::111122223333:role/ci", "images/team-a/x")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("AllowDeletes = true", "AllowDeletes"),
        ("Publishers = '{'", "Publishers"),
        ("""Publishers = '{"a": "b"}'""", "Publishers"),
        ("""Publishers = '{"a": ["b"],}'""", "Publishers"),
        ("""Publishers = {"a" = ["b"]}""", "Publishers"),
        ("""Publishers = "{'a': ['b']}\"""", "Publishers"),
        ("""Publishers = '{"a": [""]}'""", "Publishers"),
        ("""Publishers = '{"repo:octocat*/images": ["b"]}'""", "Publishers"),
        ("""Publishers = '{"*": ["b"]}'""", "Publishers"),
        ("""Publishers = '''{"a": ["b\nc"]}'''""", "Publishers"),
    ],
)
def test_a_breaking_change_is_refused_before_the_stack_is_changed(
    deployments: Deployments, line: str, named: str
) -> None:
    deployments.run(f"cp samconfig.example.toml samconfig.toml\ncat >> samconfig.toml <<'EOF'\n{line}\nEOF")
    with pytest.raises(TemplateError, match=named):
        deployments.run("sam deploy")


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [
        ("images.example.org", True),
        ("images.example.museum", True),
        ("bilder.xn--mnchen-3ya.de", True),
        ("xn--80aaxitdbjk.xn--p1ai", True),  # a top-level domain of Cyrillic letters
        ("images.example.xn--p1ai-", False),
        ("images.example.123", False),
        ("images", False),
        ("Images.example.org", False),
        ("images.example.org.", False),
    ],
)
def test_a_domain_name_of_any_top_level_domain_is_taken(name: str, is_taken: bool) -> None:
    assert bool(re.search(DECLARED["DomainName"]["AllowedPattern"], name)) == is_taken


NAMES = st.text(st.sampled_from('aé*/:@ {}[],"\\\n'), min_size=1, max_size=5)
CALLERS = st.builds(str.__add__, st.sampled_from(["", "repo:", "project_path:", "arn:"]), NAMES)
PUBLISHERS = st.dictionaries(CALLERS, st.lists(NAMES, max_size=3), max_size=3)


@given(PUBLISHERS, st.sampled_from([None, 2]), st.integers(0, 200), st.sampled_from(["", *'"{}[]:,\\ \n']))
def test_the_api_reads_whatever_the_template_accepts(
    publishers: dict[str, list[str]], indent: int | None, at: int, put: str
) -> None:
    whole = json.dumps(publishers, indent=indent, ensure_ascii=False)
    damaged = whole[:at] + put + whole[at + 1 :]
    accepted = [text for text in (whole, damaged) if re.search(DECLARED["Publishers"]["AllowedPattern"], text)]
    for text in accepted:
        Rights.parse(text)
    if whole not in accepted and "\\" not in whole:
        with pytest.raises(BadRule):
            Rights.parse(whole)


def test_git_ignores_the_operators_file(tmp_path: Path) -> None:
    """Git ignores it, so `git pull` neither conflicts with it nor loses it."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    ignored = subprocess.run(
        ["git", "check-ignore", "infra/samconfig.toml", "infra/samconfig.example.toml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ignored.stdout.split() == ["infra/samconfig.toml"]
