"""Run the walk of a page: its sh blocks, word for word, in the order in which they are written.

A block belongs to the walk of its page if its fence says so. Markdown viewers ignore that:

    ```sh walk
    sam build && sam deploy
    ```

`walk` may carry the expected exit code, as in `walk=1`. The blocks share one shell as far as a person would
notice: each starts with the folder and exported variables of the one before. A block ends at its first failing command.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^(?P<indent> {0,3})```sh[ \t]+walk(?:=(?P<code>\d+))?[ \t]*$")
_HEADING: Final = re.compile(r"^#{1,6} (?P<text>.+)$")


@dataclass(frozen=True)
class Block:
    """One block of commands. `heading` is the last one above it, `line` that of its fence."""

    heading: str
    line: int
    commands: str
    code: int = 0


class WalkFailed(AssertionError):
    """A block ended with another code than its page expects; the message has its output."""


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page's walk, in order."""
    lines = iter(enumerate(page.splitlines(), start=1))
    heading = ""
    for number, line in lines:
        if found := _HEADING.match(line):
            heading = found["text"]
        if fence := _FENCE.match(line):
            yield Block(heading, number, _until_fence(lines, number), int(fence["code"] or 0))
        elif line.lstrip().startswith("```"):
            _until_fence(lines, number)  # a line inside another block is neither a heading nor a fence


def _until_fence(lines: Iterator[tuple[int, str]], begun: int) -> str:
    taken: list[str] = []
    for _, line in lines:
        if line.strip() == "```":
            return "\n".join(taken) + "\n"
        taken.append(line)
    raise ValueError(f"the block that begins in line {begun} has no end")


@dataclass
class Terminal:
    """The shell of a walk. `answers` is typed at every prompt. `state` is a folder for what the shell keeps."""

    folder: Path
    environment: Mapping[str, str]
    state: Path
    answers: str = ""
    timeout_s: float = 600

    def run(self, block: Block) -> str:
        """Run a block and return its output. Raise WalkFailed if it ends with an unexpected code."""
        (self.state / "block.sh").write_text(block.commands)
        if not (self.state / "folder").exists():
            (self.state / "folder").write_text(f"{self.folder}\n")
            (self.state / "exports.sh").write_text("")
        done = subprocess.run(
            ["bash", "-c", _RUN],
            env={**self.environment, "WALK_STATE": str(self.state)},
            input=self.answers, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=self.timeout_s,
        )  # fmt: skip
        if done.returncode != block.code:
            where = f"{block.heading} (line {block.line})"
            raise WalkFailed(
                f"{where}: exit {done.returncode}, expected {block.code}\n{block.commands}{os.linesep}{done.stdout}"
            )
        return done.stdout

    def walk(
        self, page: Path, own: Mapping[str, str] | None = None, before: Mapping[str, Callable[[], None]] | None = None
    ) -> list[str]:
        """Run the walk of a page from its first block to its last; return what each printed.

        `own` maps example values of the page to those of this account, which a reader would put in their place.
        `before` maps a heading to a call made before its first block, for events between two commands.
        """
        text = page.read_text()
        for example, value in (own or {}).items():
            if example not in text:
                raise ValueError(f"{page} does not have the example {example!r}")
            text = text.replace(example, value)
        walk, waiting, printed = list(blocks(text)), dict(before or {}), []
        if not walk or waiting.keys() - {block.heading for block in walk}:
            raise ValueError(
                f"{page} has no block that is marked as `sh walk` below {', '.join(waiting) or 'anything'}"
            )
        for block in walk:
            waiting.pop(block.heading, _nothing)()
            printed.append(self.run(block))
        return printed


def _nothing() -> None:
    """Do nothing: the default before a block."""


_RUN: Final = r"""
. "$WALK_STATE/exports.sh"
cd "$(cat "$WALK_STATE/folder")" || exit 125
trap 'code=$?; pwd >"$WALK_STATE/folder"; export -p >"$WALK_STATE/exports.sh"; exit $code' EXIT
set -e -o pipefail
. "$WALK_STATE/block.sh"
"""
