"""The changelog: each fragment is rendered, and a release is made only from matching parts."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli import changelog
from cli.changelog import NotReleasable
from tests.support import PROJECT

KINDS = [
    kind["directory"] for kind in tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
]
FRAGMENTS = sorted(path for path in (PROJECT / ".changes").iterdir() if path.name != "README.md")
NAME = re.compile(rf"(\d+|\+[a-z0-9-]+)\.({'|'.join(KINDS)})\.md")


def towncrier(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "towncrier", "build", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_a_changelog_fragment_is_named_for_its_issue_and_kind_and_has_a_few_sentences(fragment: Path) -> None:
    assert NAME.fullmatch(fragment.name)
    text = fragment.read_text()
    assert text.strip().endswith(".")
    assert "\n\n" not in text.strip()
    assert len(text) < 600


def test_every_fragment_is_in_the_notes_of_the_next_release() -> None:
    done = towncrier(PROJECT, "--draft", "--version", "9.9.9")
    assert done.returncode == 0, done.stderr
    notes = " ".join(done.stdout.split())
    assert [fragment.name for fragment in FRAGMENTS if " ".join(fragment.read_text().split()) not in notes] == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project before its release 1.2.0, with two changes."""
    text = (PROJECT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(re.sub(r'^version = ".*"$', 'version = "1.2.0"', text, flags=re.MULTILINE))
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n<!-- releases -->\n\n## 1.1.0 (2026-10-01)\n\n- Old.\n")
    (tmp_path / ".changes").mkdir()
    shutil.copy(PROJECT / ".changes" / "README.md", tmp_path / ".changes")
    (tmp_path / ".changes" / "41.fixed.md").write_text("The 41st fault is repaired.\n")
    (tmp_path / ".changes" / "+word.added.md").write_text("A new command.\n")
    return tmp_path


def test_a_release_moves_the_fragments_into_a_section_which_becomes_its_notes(project: Path) -> None:
    done = towncrier(project, "--yes", "--version", "1.2.0", "--date", "2026-11-25")
    assert done.returncode == 0, done.stderr
    assert "## 1.1.0 (2026-10-01)\n\n- Old." in (project / "CHANGELOG.md").read_text()
    assert changelog.notes("v1.2.0", project) == (
        "### Added\n\n- A new command.\n\n### Fixed\n\n- The 41st fault is repaired. (#41)\n"
    )


@pytest.mark.parametrize("name", ["41.fixes.md", "notes.md"])
def test_a_fragment_of_an_unknown_kind_stops_the_release(project: Path, name: str) -> None:
    (project / ".changes" / name).write_text("Lost otherwise.\n")
    done = towncrier(project, "--draft", "--version", "1.2.0")
    assert done.returncode == 1
    assert name in done.stdout + done.stderr


def test_a_tag_of_another_version_is_refused(project: Path) -> None:
    with pytest.raises(NotReleasable, match=r"the tag is v1\.3\.0, but pyproject\.toml says version 1\.2\.0"):
        changelog.notes("v1.3.0", project)


def test_a_tag_before_the_changelog_is_made_is_refused(project: Path) -> None:
    with pytest.raises(
        NotReleasable, match=r"2 changes are not in CHANGELOG\.md yet \(\+word\.added\.md, 41\.fixed\.md\)"
    ):
        changelog.notes("v1.2.0", project)


def test_a_version_without_a_section_is_refused(project: Path) -> None:
    for fragment in (".changes/41.fixed.md", ".changes/+word.added.md"):
        (project / fragment).unlink()
    with pytest.raises(NotReleasable, match=r"no section for 1\.2\.0; it has 1\.1\.0"):
        changelog.notes("v1.2.0", project)


def test_a_tag_that_is_not_a_version_fails_the_workflow_with_a_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert changelog.main(["v0.0.0-none"]) == 1
    assert "changelog: the tag is v0.0.0-none" in capsys.readouterr().err
    assert changelog.main([]) == 2
