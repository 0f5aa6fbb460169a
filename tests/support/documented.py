"""The shell commands of every page. A test runs each one unchanged, or a reason says why not.

A command is a line of a block marked `sh`, a line after `$ ` in a block without a language, an indented line with one
of the scripts in a block marked `text` (the examples of a help), or code in a sentence that is a whole command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.support import PROJECT

FOLDERS: Final = ("functions", "infra", "scripts", "tests", ".github")
PAGES: Final = {
    str(page.relative_to(PROJECT)): page.read_text()
    for page in (
        PROJECT / "README.md",
        *(page for folder in FOLDERS for page in sorted((PROJECT / folder).rglob("*.md"))),
    )
}
"""Path in the project → text. CHANGELOG.md and .changes/ describe the past."""

_BLOCK: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_SCRIPT: Final = r"(?:\S*/)?scripts/(?:admin|bench|local|presign|smoke|test|upload)"
_EXAMPLE: Final = re.compile(rf"^ +({_SCRIPT}(?: [^\[].*?)?)(?: {{2,}}.*)?$", re.MULTILINE)
_PROGRAMS: Final = (
    r"admin|aws|curl|distrobuilder|export|find|git|incus|lxc|openssl|qemu-img|rm|sam|sqfs2tar|sudo|tar|uv|xz"
)
_IN_A_SENTENCE: Final = re.compile(rf"(?:(?:{_PROGRAMS}) \S|{_SCRIPT} \S|\./upload|\.venv/bin/).*")
_NAME: Final = re.compile(r"(?:scripts/)?[a-z]+(?: [a-z][a-z-]*)+|\w+ …")
"""Code in a sentence that only mentions a command: `admin withdraw`. test_docs.py checks that it exists."""
_COMMENT: Final = re.compile(r"(?:^|\s+)#.*$")


def commands() -> dict[str, list[str]]:
    """Return each command of the pages without its comment, in order of appearance → the pages that have it."""
    found: dict[str, list[str]] = {}
    for page, text in PAGES.items():
        for line in _of_page(text):
            if page not in found.setdefault(line, []):
                found[line].append(page)
    return found


def walked() -> set[str]:
    """Return the commands of blocks marked `sh walk`, which tests/deployment/test_walk.py runs in order."""
    blocks = (block for text in PAGES.values() for block in _BLOCK.finditer(text))
    return {line for block in blocks if block["language"].startswith("sh walk") for line in _of_shell(block["body"])}


def _of_page(text: str) -> Iterator[str]:
    for block in _BLOCK.finditer(text):
        language = block["language"].partition(" ")[0]
        if language == "sh":
            yield from _of_shell(block["body"])
        elif not language:
            yield from (line.strip() for line in re.findall(r"^ *\$ (.+)$", block["body"], re.MULTILINE))
        elif language == "text":
            yield from (line.strip() for line in _EXAMPLE.findall(block["body"]))
    for code in re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text)):
        if _IN_A_SENTENCE.fullmatch(code) and not _NAME.fullmatch(code):
            yield code


def _of_shell(body: str) -> Iterator[str]:
    """Yield each command of a block. A command on several lines is one, and so is one with a here-document."""
    taken: list[str] = []
    ends = ""
    for line in body.splitlines():
        here = re.search(r"<<'?(\w+)'?", line)
        ends = here[1] if here else ends
        taken.append(line if ends else _COMMENT.sub("", line).strip())
        if line.strip() == ends:
            ends = ""
        if not ends and not line.endswith("\\"):
            if any(taken):
                yield "\n".join(taken)
            taken = []


def not_run(command: str) -> str:
    """Return why no test runs a command; empty if one must."""
    return next((why for pattern, why in NOT_RUN if re.fullmatch(pattern, command)), "")


NOT_RUN: Final[tuple[tuple[str, str], ...]] = (
    (r"(\./)?scripts/test.*|\.ci/run", "a test does not start a run of all tests; unit/cli has their arguments"),
    (r"\.venv/bin/(pre-commit install|towncrier .*|python -m (gates|page|tests)\b.*)", "for developers; CI runs them"),
    (r"uv (lock|export|pip compile) ?.*", "they change the locks, and ask a registry"),
    (r"git (pull|checkout) ?.*", "they change the clone"),
    (r"sam deploy --config-(env|file) .*|sam validate --lint", "the walk deploys with the same file; gates validate"),
    (r"aws (cloudformation|lambda|logs) .*", "needs an AWS account, whose emulator has neither"),
    (r"\./scripts/bench hash --bucket .*|\.\./scripts/admin --bucket NAME", "needs a bucket in an AWS account"),
    (r"\./scripts/bench scale", "it measures for minutes; unit/project parses its line"),
    (r"cd infra", "the walk of infra/README.md begins there"),
    (r"distrobuilder .*", "it builds from a distribution's packages, as root; what it writes is uploaded"),
    (r".* \| jq \.ok", "jq is somebody else's; the line without it is run"),
    (
        r"admin mirror add (NAME … --replace )?--(dry-run|keyring FILE)",
        "the page's sentence abbreviates a line that is run",
    ),
    (r"admin import s3://old", "the walk of infra/README.md imports a bucket; decision 3 abbreviates it"),
)
"""Pattern of a whole command → the reason."""

TESTED: Final[dict[str, str]] = {
    "promotion by a publisher": "tests/component/test_uploads_promotion.py",
    "promotion with curl": "tests/component/test_uploads_promotion.py::"
    "test_the_curl_lines_of_the_api_page_post_a_result_promote_and_revert",
    "curl alone": "tests/component/test_uploads_signed_urls.py::test_the_curl_lines_of_the_api_page_upload_a_file",
    "publish": "tests/component/test_printed_commands.py",
    "mirror": "tests/component/test_documented_commands.py",
    "views": "tests/component/test_documented_commands.py",
    "operate": "tests/component/test_documented_commands.py",
    "edge logs": "tests/component/test_edge_logs.py",
    "private remotes": "tests/e2e/test_views.py",
    "first hour": "tests/e2e/test_documented_hour.py",
}
"""Scenario → the test that runs its commands."""

RUN: Final[dict[str, tuple[str, ...]]] = {
    "promotion by a publisher": (r"\./scripts/upload .* --promote .*",),
    "promotion with curl": (r'curl -K who .* "\$API/(promotions|checks)"',),
    "curl alone": (
        r"\(umask 077; printf .* > who\)",
        r"size=.*",
        r"path=images/.*",
        r"curl -K who .*",
        r"curl --fail-with-body -K put .*",
    ),
    "publish": (
        r"export SIMPLESTREAMS_API=.*",
        r"\./upload --to .* meta-1f2e….tar.xz 1f2e….squashfs",
        r"scripts/upload --to debian/trixie/amd64/default build/.*",
        r"cd my-image/",
        r"IMAGE=images/.*",
        r"/path/to/scripts/presign .*",
    ),
    "mirror": (r"(?!.* --channel ).*admin .*\bmirror .*", r"AWS_CA_BUNDLE=.* \./scripts/local --empty .*"),
    "views": (r".*admin .*\b(view|promote) .*", r".*admin mirror add .* --channel .*"),
    "operate": (r"(\.{0,2}/)?(scripts/)?(admin|smoke) .*", r"\./scripts/smoke"),
    "private remotes": (
        r"(lxc|incus) config set core\.proxy_http .*",
        r"lxc remote set-url mine https://host1:.*",
        r"lxc image delete local:FINGERPRINT",
        r"lxc image copy mine:ubuntu/noble .*",
        r"lxc query /1\.0/images/FINGERPRINT",
    ),
    "edge logs": (r"(?s:aws logs (put-delivery-\w+|create-delivery) .*)",),
    "first hour": (
        r"\./scripts/local",
        r"ls",
        r"lxc .*",
        r"mkdir noble && cd noble",
        r"\.\./scripts/upload --to ubuntu/noble/amd64/default \*",
        r"\./upload --to .* --from-incus web .*",
        r"sudo sh -c 'rm -rf .*'",
        r"rm -rf ~/\.cache/incus",
    ),
}
"""Scenario → patterns of whole commands. The first scenario that has a command runs it."""


def scenario_of(command: str) -> str:
    """Return the scenario that runs a command; empty if none does."""
    return next((name for name, patterns in RUN.items() if any(re.fullmatch(p, command) for p in patterns)), "")


def script(scenario: str) -> list[str]:
    """Return the commands of a scenario, in the order of the pages."""
    found = [command for command in commands() if scenario_of(command) == scenario]
    return [command for command in found if not not_run(command) and command not in walked()]
