"""Subjects of commits: short, without paths, checked by the hook and on each push."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli import commits

SCRIPT = Path(commits.__file__)


@pytest.mark.parametrize(
    "subject",
    [
        "CI runs the suite on the oldest Python and on Lambda's",
        "x" * 72,
        "LXD/Incus: one upload serves both",
        "GET /versions/{path} waits until the version is listed",
        "The header of HTTP/1.1 is read in lower case",
        "README: how to withdraw an image",
        "p90/p99 in the dashboard",
        "Merge pull request #12 from somebody/fix/a-branch-with-a-name-that-is-longer-than-a-subject-may-be",
    ],
)
def test_a_short_subject_without_paths_passes(subject: str) -> None:
    assert list(commits.faults(subject)) == []


@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        ("", "is empty"),
        ("x" * 73, "73 characters, at most 72"),
        ("Merge branch 'faults' of /tmp/clone/faults", "the path /tmp/clone/faults"),
        ("Read ~/clone first", "the path ~/clone"),
        ("Run ./scripts/test in CI", "the path ./scripts/test"),
        (r"Found in C:\clone", r"the path C:\clone"),
        ("functions/storage/stream: close sockets", "the path functions/storage/stream"),
        ("Split infra/SCALE.md", "the path infra/SCALE.md"),
        ("fixup! Settings", "is not squashed yet"),
    ],
)
def test_any_other_subject_is_refused_with_its_fault(subject: str, fault: str) -> None:
    assert [fault in found for found in commits.faults(subject)] == [True]


@pytest.mark.parametrize(("message", "code"), [("# a comment\n\nA subject\n\nbody " + "x" * 99, 0), ("x" * 80, 1)])
def test_the_hook_reads_the_first_line_that_is_not_a_comment(tmp_path: Path, message: str, code: int) -> None:
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message)
    assert commits.main([str(file)]) == code


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with four commits. The first and the third have a bad subject."""
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q"], check=True)
    for subject in ("of /tmp/old/clone", "Good", "of /srv/new/clone", "Good again"):
        subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", subject], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("commits_checked", "named"), [("HEAD~2..HEAD", ["/srv/new/clone"]), ("HEAD", []), ("HEAD~1", ["/srv/new/clone"])]
)
def test_ci_checks_each_commit_of_the_range_and_no_older_one(
    clone: Path, commits_checked: str, named: list[str]
) -> None:
    command = [sys.executable, "-I", str(SCRIPT), "--range", commits_checked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=clone)
    assert done.returncode == (1 if named else 0)
    assert [path in line for line, path in zip(done.stdout.splitlines(), named, strict=True)] == [True] * len(named)


def test_wrong_arguments_are_distinguished_from_a_bad_subject(capsys: pytest.CaptureFixture[str]) -> None:
    assert commits.main([]) == 2
    assert "--range BASE..HEAD" in capsys.readouterr().err
