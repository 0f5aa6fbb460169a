"""The checks of `scripts/test`, the hooks and the workflows: one list of commands, run by name everywhere."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import test as command

ROOT = command.PROJECT
CHECKS = command.checks(ROOT)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with one file of each kind that a check looks for."""
    for name, text in {
        "scripts/upload": "#!/bin/sh\necho\n",
        "scripts/local": "#!/usr/bin/env python3\n",
        ".ci/run": "#!/usr/bin/env bash\necho\n",
        ".ci/notes": "no script\n",
        ".github/workflows/ci.yml": "",
        "infra/action/boots/boots.sh": "#!/bin/sh\necho\n",
        "infra/action/boots/example.yml": "",
        "README.md": "no marker",
        "infra/COSTS.md": '<!-- [[[cog\nimport cog\ncog.outl("new")\n]]] -->\nold\n<!-- [[[end]]] -->\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_each_check_finds_its_files_by_itself(project: Path) -> None:
    found = command.checks(project)
    boots = project / "infra/action/boots"
    assert found["shellcheck"][1:] == [
        str(project / ".ci/run"),
        str(boots / "boots.sh"),
        str(project / "scripts/upload"),
    ]
    assert found["actionlint"][1:] == [str(project / ".github/workflows/ci.yml"), str(boots / "example.yml")]
    assert found["cog"][1:] == ["--check", str(project / "infra/COSTS.md")]


def test_a_generated_part_that_is_stale_is_found_and_can_be_renewed(project: Path) -> None:
    check = [sys.executable, "-m", "cogapp", *command.checks(project)["cog"][1:]]
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0
    (renew,) = (fix for fix in command.fixes(project) if fix[0] == "cog")
    subprocess.run([sys.executable, "-m", "cogapp", *renew[1:]], capture_output=True, check=True)
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    assert "\nnew\n" in (project / "infra/COSTS.md").read_text()


def lint(monkeypatch: pytest.MonkeyPatch, *names: str) -> int:
    monkeypatch.setattr(sys, "argv", ["test", "--lint", *names])
    return command.main()


def test_an_unknown_check_is_reported_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint(monkeypatch, "rough") == 2
    assert "there is no check rough; the checks are ruff, " in capsys.readouterr().out


@pytest.mark.parametrize(("required", "code", "outcome"), [("", 0, "NOT RUN"), ("1", 1, "FAILED, NOT RUN")])
def test_a_check_whose_program_is_missing_fails_where_everything_is_required(
    required: str, code: int, outcome: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "checks", lambda _project: {"actionlint": ["no-such-program"]})
    monkeypatch.setenv("SIMPLESTREAMS_REQUIRE_EXTRAS", required)
    assert lint(monkeypatch) == code
    assert f"actionlint: {outcome}, no-such-program is missing" in capsys.readouterr().out


@pytest.mark.parametrize(("program", "code"), [("true", 0), ("false", 1)])
def test_the_exit_status_reflects_the_checks(program: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "checks", lambda _project: {"ruff": [program], "mypy": ["true"]})
    assert lint(monkeypatch) == code
    assert lint(monkeypatch, "mypy") == 0


def hooks() -> list[dict[str, Any]]:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    found: list[dict[str, Any]] = repository["hooks"]
    return found


def test_hooks_run_checks_of_the_project_under_their_names() -> None:
    named = [word for hook in hooks() for word in hook["entry"].partition("--lint ")[2].split()]
    assert set(named) == CHECKS.keys() - {"mypy"}  # mypy takes too long for a commit
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_hook_of_the_template_lints_as_the_gate_does() -> None:
    (hook,) = (hook for hook in hooks() if hook["id"] == "cfn-lint")
    assert re.match(hook["files"], "infra/template.yaml")
    gate = (ROOT / "infra" / "gates" / "checks.py").read_text()
    assert 'Path(sys.executable).parent / "cfn-lint"' in gate
    assert "--region eu-central-1" in hook["entry"]


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit_with_its_version_in_a_comment(workflow: Path) -> None:
    for line in workflow.read_text().splitlines():
        if "uses:" in line and "uses: ./" not in line:
            assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_workflows_run_the_two_scripts_that_a_contributor_runs() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    runs = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    assert "./scripts/test" in runs["test"]
    assert ".ci/run" in runs["everything"]
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert release["release"]["needs"] == "ci"


def test_updates_are_configured_wherever_something_is_pinned() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    folders = {folder for update in updates for folder in update.get("directories", [update.get("directory")])}
    for folder in folders:
        assert (ROOT / folder.lstrip("/")).is_dir(), folder
    assert {"/", "/infra/gates/locks"} <= folders


@pytest.mark.parametrize(
    "source", sorted((ROOT / "infra" / "gates" / "locks").glob("*.in")), ids=lambda path: path.name
)
def test_a_lock_of_the_gates_states_the_command_that_makes_it(source: Path) -> None:
    """Dependabot remakes it with the command in its header."""
    lines = source.with_suffix(".txt").read_text().splitlines()
    assert re.match(
        rf"#    uv pip compile --universal --python-version 3\.1[13] --generate-hashes {source.name} -o \S+$", lines[1]
    )
    for wanted in source.read_text().split():
        assert any(line.startswith(f"{wanted}==") for line in lines), wanted


def test_a_lock_names_no_index_but_pypi() -> None:
    locks = [
        ROOT / "uv.lock",
        *(ROOT / "infra" / "gates" / "locks").glob("*.txt"),
        ROOT / "functions" / "requirements.txt",
    ]
    hosts = {host for lock in locks for host in re.findall(r"https?://([^/\"\s]+)", lock.read_text())}
    assert hosts <= {"pypi.org", "files.pythonhosted.org"}
