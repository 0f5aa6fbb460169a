"""xdelta3 as a process: its output, and how it ends."""

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from imageserver.errors import ProgramFailed
from imageserver.programs import xdelta3
from imageserver.programs.xdelta3 import Xdelta3, find_xdelta3
from tests.support import trees


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a base and a target."""
    base = bytes(range(256)) * 40
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "target").write_bytes(base[:5000] + b"changed" + base[5000:])
    return tmp_path


def program(folder: Path, script: str) -> Xdelta3:
    """Return a shell script in place of xdelta3."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Xdelta3(str(path))


@trees.needs_real_pairs
def test_an_encoded_delta_decodes_to_the_same_bytes(folder: Path) -> None:
    found = find_xdelta3()
    assert found
    delta = b"".join(found.encode(folder, 60))
    assert len(delta) < 300
    (folder / "delta").write_bytes(delta)
    assert b"".join(found.decode(folder, 60)) == (folder / "target").read_bytes()


@trees.needs_real_pairs
def test_equal_files_give_equal_deltas_that_any_client_reads(folder: Path, tmp_path: Path) -> None:
    found = find_xdelta3()
    assert found
    delta = b"".join(found.encode(folder, 60))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("base", "target"):
        (other / name).write_bytes((folder / name).read_bytes())
    assert b"".join(found.encode(other, 60)) == delta
    assert delta[4] & 1 == 0, "no secondary compression: not every build of xdelta3 has each"
    (other / "given.vcdiff").write_bytes(delta)
    client = ["xdelta3", "-f", "-d", "-s", "base", "given.vcdiff", "made"]  # as LXD and Incus call it
    subprocess.run(client, cwd=other, check=True)
    assert (other / "made").read_bytes() == (folder / "target").read_bytes()


@trees.needs_real_pairs
def test_the_error_for_a_damaged_delta_quotes_xdelta3(folder: Path) -> None:
    found = find_xdelta3()
    assert found
    (folder / "delta").write_bytes(b"\xd6\xc3\xc4\0\0 no delta")
    with pytest.raises(ProgramFailed, match=r"^xdelta3 -d ended with 1: xdelta3: "):
        list(found.decode(folder, 60))


def test_the_error_for_a_killed_program_names_the_signal(folder: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"^xdelta3 -e was ended by SIGKILL: it said nothing$"):
        list(program(folder, "kill -9 $$").encode(folder, 60))


def test_a_program_that_takes_too_long_is_killed(folder: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"^xdelta3 -e took longer than 0 s$"):
        list(program(folder, "exec sleep 60").encode(folder, 0.2))


def test_closing_the_output_of_a_program_kills_it(folder: Path) -> None:
    chunks = program(folder, "echo $$ > pid; exec cat /dev/zero").encode(folder, 60)
    assert next(chunks)
    assert isinstance(chunks, Generator)
    chunks.close()
    assert not Path(f"/proc/{(folder / 'pid').read_text().strip()}").exists()


def test_a_program_that_cannot_be_started_is_a_fault_of_the_server_not_of_the_image(folder: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        list(Xdelta3("/nowhere/xdelta3").encode(folder, 60))


def test_a_program_that_comes_with_its_library_finds_it(folder: Path) -> None:
    made = program(folder, 'printf %s "$LD_LIBRARY_PATH"')
    assert b"".join(Xdelta3(made.path, "/var/task/xdelta3").encode(folder, 60)) == b"/var/task/xdelta3"
    assert b"".join(made.encode(folder, 60)) == b""


def test_the_packaged_program_takes_precedence_over_an_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xdelta3, "BUNDLED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert find_xdelta3() is None
    (tmp_path / "xdelta3").touch()
    assert find_xdelta3() == Xdelta3(str(tmp_path / "xdelta3"), str(tmp_path))
