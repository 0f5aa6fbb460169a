"""The tests mirror the code: the place of a module gives the place of its tests."""

from pathlib import Path

import pytest

from tests.support import PROJECT

UNIT = PROJECT / "tests/unit"
CODE = {
    "imageserver": PROJECT / "functions/imageserver",
    "cli": PROJECT / "scripts/cli",
    "infra": PROJECT / "infra",
    "scripts": PROJECT / "scripts",
    "support": PROJECT / "tests/support",
}
"""The code that each folder of tests/unit mirrors. `project` has tests of the project as a whole."""


def mirrored() -> list[Path]:
    return [path.relative_to(UNIT) for path in sorted(UNIT.rglob("test_*.py")) if path.parent.name != "project"]


def is_of(folder: Path, name: str) -> bool:
    """Return whether a test's name, without `test_`, is or begins with that of a source or package."""
    words = name.split("_")
    stems = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    return any((folder / f"{path}{stem}{end}").exists() for stem in stems for path in ("", "__") for end in ENDS)


ENDS = ("", ".py", "__.py", ".js")


@pytest.mark.parametrize("test", mirrored(), ids=str)
def test_each_unit_test_is_where_its_module_is(test: Path) -> None:
    top, *folders = test.parent.parts
    assert top in CODE, f"tests/unit/{top} mirrors no folder of the code; expected one of {', '.join(CODE)}"
    folder = CODE[top].joinpath(*folders)
    name = test.stem.removeprefix("test_")
    assert is_of(folder, name), f"{folder} has no module whose name begins like {test.name}"


@pytest.mark.parametrize(("name", "found"), [("keys", True), ("keys_versions", True), ("key", False)])
def test_a_test_is_named_after_its_module_and_may_add_a_topic(name: str, found: bool) -> None:
    assert is_of(CODE["imageserver"] / "format", name) is found
