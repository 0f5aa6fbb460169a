"""Print the notes of one release from CHANGELOG.md; needs nothing but Python's standard library.

    python3 scripts/cli/changelog.py v1.2.0

The release workflow calls it with the tag. So a tag without a changelog section, or with a version other than the
project's, is refused before anything is published.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
_RELEASE: Final = re.compile(r"^## (?P<version>\S+) \([0-9-]+\)$", re.MULTILINE)


class NotReleasable(Exception):
    """The tag, the project's version and the changelog do not agree; the message says what to do."""


def notes(tag: str, project: Path = PROJECT) -> str:
    """Return the changelog's section of the version that `tag` (v1.2.0) names, without its heading."""
    version = tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    if tag != f"v{version}":
        raise NotReleasable(f"the tag is {tag}, but pyproject.toml says version {version}; expected v{version}")
    waiting = sorted(path.name for path in (project / ".changes").glob("*.md") if path.name != "README.md")
    if waiting:
        raise NotReleasable(
            f"{len(waiting)} changes are not in CHANGELOG.md yet ({', '.join(waiting)}); run towncrier build --version "
            f"{version}, commit and move the tag"
        )
    changelog = (project / "CHANGELOG.md").read_text()
    releases = list(_RELEASE.finditer(changelog))
    for release, following in zip(releases, [*releases[1:], None], strict=True):
        if release["version"] == version:
            return changelog[release.end() : following.start() if following else None].strip() + "\n"
    listed = ", ".join(release["version"] for release in releases) or "none"
    raise NotReleasable(f"CHANGELOG.md has no section for {version}; it has {listed}")


def main(arguments: list[str]) -> int:
    """Print the notes. Return 0 if there are any, 1 if the release must not be made, 2 if the arguments are wrong."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(notes(arguments[0]), end="")
    except NotReleasable as reason:
        print(f"changelog: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
