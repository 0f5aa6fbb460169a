"""The documentation is true: whatever it names exists, and it has what operators and publishers must know."""

from __future__ import annotations

import importlib.util
import re
import shlex
from typing import get_args

import click
import pytest

from cli import local, presign
from cli.admin.__main__ import main as admin
from cli.bench.__main__ import main as bench
from cli.smoke.__main__ import main as smoke
from gates import stack as stacks
from imageserver.api import problems
from imageserver.versions.records import Fault
from tests.support import PROJECT

FOLDERS = ("functions", "infra", "scripts", "tests", ".github", ".changes")
PAGES = {
    str(page.relative_to(PROJECT)): page.read_text()
    for page in (*PROJECT.glob("*.md"), *(page for folder in FOLDERS for page in (PROJECT / folder).rglob("*.md")))
}
"""Path in the project → text."""
README_BYTES = 10_000


def section(page: str, title: str) -> str:
    """Return the text below a heading of a page, up to the next of its level."""
    level = re.match("#+", title)
    assert level
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^{level[0]} |\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no heading {title!r}"
    return found[1]


def named(text: str) -> set[str]:
    """Return everything between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(PAGES["README.md"].encode()) <= README_BYTES


def test_the_readme_names_every_folder_and_leads_to_every_page() -> None:
    readme = PAGES["README.md"]
    folders = {f"{path.name}/" for path in PROJECT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders <= named(readme)
    pages = {page for page in PAGES if not page.startswith((".", "functions/decisions/")) and page != "README.md"}
    assert {page for page in pages if f"]({page})" not in readme} <= {"CHANGELOG.md"}


@pytest.mark.parametrize(
    ("page", "title", "begins"),
    [
        ("infra/RUNBOOK.md", "## Harmless log messages", r"^- `([^`]+)`"),
        ("infra/README.md", "## Logs and metrics", r"`([a-z_]+)` \(digest:"),
    ],
)
def test_log_messages_that_a_page_explains_are_logged(page: str, title: str, begins: str) -> None:
    sources = "".join(path.read_text() for path in (PROJECT / "functions/imageserver").rglob("*.py"))
    messages = re.findall(begins, section(page, title), re.MULTILINE)
    assert messages
    assert [message for message in messages if f'"{message}"' not in sources and f"{message}=" not in sources] == []


def test_the_runbook_answers_every_alarm() -> None:
    alarms = {
        name.removesuffix("Alarm")
        for name in stacks.deployed(MirrorSchedule="rate(1 hour)", Deltas="1").of_type("AWS::CloudWatch::Alarm")
    }
    assert alarms - named(section("infra/RUNBOOK.md", "## An alarm")) == set()


def test_every_parameter_is_described_with_its_default() -> None:
    parameters = stacks.deployed().raw["Parameters"]
    table = section("infra/README.md", "## Parameters")
    assert set(parameters) - named(table) == set()
    rows = {name: row for row in table.splitlines() for name in named(row.partition("|")[2].partition("|")[0])}
    for name, body in parameters.items():
        default = str(body["Default"])
        if default.isdecimal() and int(default) and name != "MaxUploadBytes":
            assert re.search(rf"\b{default}\b", rows[name].split("|")[2]), f"{name}: {default} is not in {rows[name]}"


def test_every_problem_of_the_api_is_explained() -> None:
    explained = named(section("functions/API.md", "## What each refusal means"))
    assert {kind.name for kind in problems.KINDS} - {"broken"} <= explained


def test_the_scripts_that_upload_share_one_table_of_exit_codes() -> None:
    table = dict(re.findall(r"^\| (\d) \| (.*?) \|", section("scripts/README.md", "## Publish an image"), re.MULTILINE))
    script = (PROJECT / "scripts/upload").read_text()
    exit_codes = re.search(r"^Exit codes: (.*?)^EOF", script, re.MULTILINE | re.DOTALL)
    assert exit_codes
    assert set(re.findall(r"\b(\d) ", exit_codes[1])) - {"0"} == set(re.findall(r"(?:fail|exit) (\d)\b", script)) - {
        "0"
    }
    assert (
        set(re.findall(r"\b(\d) ", presign.main.epilog or ""))
        <= set(table)
        == {"0", *re.findall(r"\b(\d) ", exit_codes[1])}
    )
    assert "no local stack" in table[str(presign.NO_STACK)]
    assert "credentials" in table[str(presign.NO_CREDENTIALS)]


def test_every_error_code_is_explained() -> None:
    assert set(filter(None, get_args(Fault))) <= named(section("infra/README.md", "## Logs and metrics"))


WRITTEN = sorted(
    {line for text in PAGES.values() for line in named(prose(text)) if re.match(r"(\S*scripts/)?admin [a-z-]", line)}
    | {
        line.partition("#")[0].strip()
        for text in PAGES.values()
        for line in re.findall(r"^(\S*scripts/admin [a-z-].*)$", text, re.MULTILINE)
    }
)


@pytest.mark.parametrize("line", WRITTEN)
def test_commands_in_the_readme_exist(line: str) -> None:
    """Each `admin …` names commands and options that exist."""
    words = [word for word in re.sub(r'"[^"]*"', "X", line).split()[1:] if word != "…"]
    command: click.Command = admin
    options: set[str] = set()
    while words:
        word = words.pop(0)
        options |= {name for parameter in command.params for name in parameter.opts}
        if word in ("--stack", "--bucket"):
            words.pop(0)
        elif isinstance(command, click.Group) and not word.startswith("-"):
            command = command.commands[word]
        elif word.startswith("--"):
            assert word in {name for parameter in command.params for name in parameter.opts} | options, line


PROGRAMS: dict[str, click.Command] = {"smoke": smoke, "bench": bench, "presign": presign.main, "local": local.main}
RUN = sorted(
    {
        re.split(r"  |#|\|", line)[0].strip()
        for text in PAGES.values()
        for line in re.findall(rf"^ *\S*scripts/((?:{'|'.join(PROGRAMS)})(?: -.*|  .*| \$.*)?)$", text, re.MULTILINE)
    }
)


@pytest.mark.parametrize("line", RUN)
def test_lines_of_the_other_commands_parse(line: str) -> None:
    name, *words = shlex.split(line)
    if name != "presign" or words:
        PROGRAMS[name].make_context(name, words)


LINKS = sorted(
    {
        (page, first or second)
        for page, text in PAGES.items()
        for first, second in re.findall(r"\]\((?!http)([^)]+)\)|srcset=\"([^\"]+)\"", prose(text))
    }
)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_have_a_target(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (PROJECT / page).parent / path if path else PROJECT / page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text()), f"{page}: {path} has no heading for #{anchor}"


NAMED_PATH = re.compile(r"(?<![\w./(-])(?:functions|infra|scripts|tests)/[\w./-]*\w")
OF_THE_OPERATOR = {"infra/samconfig.toml"}
"""Files that a page tells its reader to make."""
PATHS = sorted(
    {(page, path) for page, text in PAGES.items() for path in NAMED_PATH.findall(text) if path not in OF_THE_OPERATOR}
)


@pytest.mark.parametrize(("page", "path"), PATHS)
def test_files_and_folders_that_a_page_names_exist(page: str, path: str) -> None:
    assert (PROJECT / path).exists(), f"{page} names {path}"


MODULES = sorted({(page, module) for page, text in PAGES.items() for module in re.findall(r"python -m ([\w.]+)", text)})


@pytest.mark.parametrize(("page", "module"), MODULES)
def test_modules_that_a_page_runs_exist(page: str, module: str) -> None:
    assert importlib.util.find_spec(module), f"{page} runs {module}"


def test_every_example_uses_the_same_name_for_the_server() -> None:
    """Users add it as `mine`, at images.example.org; operators deploy the stack that samconfig.example.toml names."""
    whole = "\n".join(PAGES.values())
    assert set(re.findall(r"(?:lxc|incus) remote (?:add|set-url) (\S+)", whole)) == {"mine"}
    assert set(re.findall(r"(?:lxc|incus) launch (\w+):", whole)) <= {"mine", "REMOTE"}
    operated = "\n".join(PAGES[page] for page in PAGES if page.startswith(("infra/", "README")))
    assert set(re.findall(r"--stack(?:-name)? (\w+)", operated)) <= {"simplestreams", "NAME"}
    assert 'stack_name = "simplestreams"' in (PROJECT / "infra/samconfig.example.toml").read_text()


def test_the_deployment_page_says_how_many_packages_are_built() -> None:
    functions = [one for one in stacks.template()["Resources"].values() if one["Type"] == "AWS::Serverless::Function"]
    (count,) = re.findall(r"^sam build +# (\d+) packages", PAGES["infra/README.md"], re.MULTILINE)
    assert int(count) == len(functions)  # SAM also builds those whose condition is false
