"""Check the subjects of commits; needs nothing but Python's standard library.

    python3 scripts/cli/commits.py MESSAGE-FILE         one message, as git's commit-msg hook has it
    python3 scripts/cli/commits.py --range BASE..HEAD   every commit of a range
    python3 scripts/cli/commits.py --range HEAD         the last commit alone

A subject has at most 72 characters and names no path: it says what changed for a reader, and the diff says where.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOST_CHARACTERS: Final = 72
_ROUTE: Final = re.compile(r"\b(GET|HEAD|PUT|POST|PATCH|DELETE) /\S*")
"""A route of the API, which is not the path of a file."""
_PATH: Final = re.compile(
    r"""(?<![\w/])(
        (~|\.{1,2})?/[\w.-]+\S*         # /tmp/clone, ~/clone, ./scripts/test
      | [A-Z]:\\\S*                     # C:\clone
      | [\w.-]+(/[\w.-]+){2,}           # functions/storage/stream
      | [\w.-]+/[\w-]+(\.[a-z]+)+\b     # infra/SCALE.md
    )""",
    re.VERBOSE,
)


_BY_GITHUB: Final = re.compile(r"Merge pull request #\d+ from ")
"""GitHub's own subject, with the name of a contributor's branch."""


def faults(subject: str) -> Iterator[str]:
    """Yield what is wrong with a subject, one sentence each."""
    if _BY_GITHUB.match(subject):
        return
    if not subject.strip():
        yield "the subject is empty; say what changes, in one line"
    if len(subject) > MOST_CHARACTERS:
        yield f"{len(subject)} characters, at most {MOST_CHARACTERS}; move the detail into the body"
    if found := _PATH.search(_ROUTE.sub("", subject)):
        yield f"names the path {found[0]}; say what changed, the diff shows where"
    if subject.startswith(("fixup!", "squash!", "amend!")):
        yield "is not squashed yet; run git rebase --autosquash"


def main(arguments: list[str]) -> int:
    """Print every fault. Return 0 if there is none, 1 if there are any, 2 if the arguments are wrong."""
    match arguments:
        case ["--range", commits]:
            command = ["git", "log", "--format=%h %s", *([] if ".." in commits else ["-1"]), commits]
            log = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            subjects = [(commit, subject) for commit, _, subject in (line.partition(" ") for line in log.splitlines())]
        case [file]:
            # The subject as git takes it: the first line that is neither empty nor a comment.
            lines = [line.rstrip() for line in Path(file).read_text().splitlines() if not line.startswith("#")]
            subjects = [("this commit", next(filter(None, lines), ""))]
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    found = [f"{commit}: {subject!r}: {fault}" for commit, subject in subjects for fault in faults(subject)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
