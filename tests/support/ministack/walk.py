"""Run the walk of a page: its sh blocks, word for word, in the order in which they are written.

A block belongs to the walk of its page when its fence says so, which Markdown viewers pass over:

    ```sh walk
    sam build && sam deploy
    ```

`walk` may carry the exit code that is expected, as `walk=1`. The blocks share one shell as far as a person would
notice: the folder and the exported variables of one are those of the next. A block ends at its first failing command.
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
    """One block of commands. `heading` is the last one above it, `line` where its fence is."""

    heading: str
    line: int
    commands: str
    code: int = 0


class WalkFailed(AssertionError):
    """A block ended with another code than its page expects; the message has its output."""


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page's walk, in their order."""
    lines = iter(enumerate(page.splitlines(), start=1))
    heading = ""
    for number, line in lines:
        if found := _HEADING.match(line):
            heading = found["text"]
        if fence := _FENCE.match(line):
            yield Block(heading, number, _until_fence(lines, number), int(fence["code"] or 0))
        elif line.lstrip().startswith("```"):
            _until_fence(lines, number)  # what is in another block is neither a heading nor a fence


def _until_fence(lines: Iterator[tuple[int, str]], begun: int) -> str:
    taken: list[str] = []
    for _, line in lines:
        if line.strip() == "```":
            return "\n".join(taken) + "\n"
        taken.append(line)
    raise ValueError(f"the block that begins in line {begun} has no end")


@dataclass
class Terminal:
    """The shell of a walk. `answers` is what a person types at every prompt; `state` is a folder for its memory."""

    folder: Path
    environment: Mapping[str, str]
    state: Path
    answers: str = ""
    timeout_s: float = 600

    def run(self, block: Block) -> str:
        """Run a block; its output. WalkFailed when it ends with another code than expected."""
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
        """Run the walk of a page from its first block to its last; what each printed.

        `own` maps values that the page gives as an example to those of this account, as a reader replaces them.
        `before` maps a heading to what happens before its first block: the life of a server between two commands.
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
    """What happens before most blocks."""


_RUN: Final = r"""
. "$WALK_STATE/exports.sh"
cd "$(cat "$WALK_STATE/folder")" || exit 125
trap 'code=$?; pwd >"$WALK_STATE/folder"; export -p >"$WALK_STATE/exports.sh"; exit $code' EXIT
set -e -o pipefail
. "$WALK_STATE/block.sh"
"""
