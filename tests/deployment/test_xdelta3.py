"""The xdelta3 program in the package of delta: where it comes from, and that Lambda's runtime can start it."""

import hashlib
import http.client
import io
import re
import tarfile
from pathlib import Path

import pytest

from gates import xdelta3
from tests.support.extras import REQUIRED

NEWEST_GLIBC = (2, 34)  # Amazon Linux 2023, and so Lambda's python3.13
ARCHITECTURES = ("amd64", "arm64")


def deb(content: bytes) -> bytes:
    """Return a Debian package of one file, `./usr/bin/tool`."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        member = tarfile.TarInfo("./usr/bin/tool")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    parts = (b"debian-binary", b"2.0\n"), (b"control.tar.xz", b"odd"), (b"data.tar.xz", data.getvalue())
    return b"!<arch>\n" + b"".join(
        name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8) + str(len(body)).encode().ljust(10)
        + b"`\n" + body + b"\n" * (len(body) % 2)
        for name, body in parts
    )  # fmt: skip


def mirror(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes]) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        if url not in answers:
            raise OSError("no route to host")
        return io.BytesIO(answers[url])

    monkeypatch.setattr("urllib.request.urlopen", urlopen)


def package(body: bytes) -> xdelta3.Package:
    return xdelta3.Package("https://mirror.example/tool.deb", "5ba1", hashlib.sha256(body).hexdigest(), {})


def test_a_file_of_a_debian_package_is_found_after_parts_of_odd_length() -> None:
    assert list(xdelta3.unpacked(deb(b"\x7fELF"), "tool.deb")) == [("usr/bin/tool", b"\x7fELF")]


def test_an_archive_without_data_is_named() -> None:
    with pytest.raises(SystemExit, match=r"tool\.deb has no data\.tar\.xz"):
        list(xdelta3.unpacked(b"!<arch>\n", "tool.deb"))


@pytest.mark.parametrize("at_mirror", [None, b"a newer one"])
def test_a_package_gone_from_the_mirror_comes_from_the_snapshots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_mirror: bytes | None
) -> None:
    wanted = package(b"as before")
    answers = {"https://snapshot.debian.org/file/5ba1": b"as before"}
    mirror(monkeypatch, answers | ({wanted.url: at_mirror} if at_mirror else {}))
    assert xdelta3.fetched(wanted, tmp_path) == b"as before"


def test_a_package_not_found_with_its_digest_ends_the_build_with_each_place_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = package(b"as before")
    mirror(monkeypatch, {wanted.url: b"something else"})
    (tmp_path / "tool.deb").write_bytes(b"half of it")
    with pytest.raises(SystemExit) as ended:
        xdelta3.fetched(wanted, tmp_path)
    message = str(ended.value)
    other, half = (hashlib.sha256(body).hexdigest() for body in (b"something else", b"half of it"))
    assert f"{wanted.url}: sha256 {other}, expected {wanted.sha256}" in message
    assert f"{tmp_path / 'tool.deb'}: sha256 {half}, expected {wanted.sha256}" in message
    assert "https://snapshot.debian.org/file/5ba1: no route to host" in message
    assert "XDELTA3=no sam build" in message
    assert f"put it into {tmp_path}" in message


def test_a_mirror_that_breaks_off_ends_the_build_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise http.client.IncompleteRead(b"half")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(SystemExit, match="IncompleteRead"):
        xdelta3.fetched(package(b"as before"), tmp_path)


def test_the_second_build_needs_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = package(b"as before")
    mirror(monkeypatch, {wanted.url: b"as before"})
    assert xdelta3.fetched(wanted, tmp_path / "new") == b"as before"
    mirror(monkeypatch, {})
    assert xdelta3.fetched(wanted, tmp_path / "new") == b"as before"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tool.deb"]


def test_a_kept_package_with_another_digest_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = package(b"as before")
    (tmp_path / "tool.deb").write_bytes(b"something else")
    mirror(monkeypatch, {wanted.url: b"as before"})
    assert xdelta3.fetched(wanted, tmp_path) == b"as before"
    assert (tmp_path / "tool.deb").read_bytes() == b"as before"


def test_a_folder_that_cannot_be_written_costs_only_the_next_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = package(b"as before")
    (tmp_path / "file").touch()
    mirror(monkeypatch, {wanted.url: b"as before"})
    assert xdelta3.fetched(wanted, tmp_path / "file") == b"as before"
    assert "tool.deb is not kept for the next build" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "wanted"), [(None, True), ("", True), ("no", False)])
def test_a_build_without_xdelta3_is_possible_on_request(value: str | None, wanted: bool) -> None:
    assert xdelta3.is_wanted({} if value is None else {"XDELTA3": value}) is wanted


def test_an_invalid_xdelta3_setting_ends_the_build() -> None:
    with pytest.raises(SystemExit, match="XDELTA3 is 'off', expected no"):
        xdelta3.is_wanted({"XDELTA3": "off"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_program_and_its_library_need_no_newer_glibc_than_the_runtime_has(
    architecture: str, tmp_path: Path
) -> None:
    try:
        xdelta3.add(tmp_path, architecture)
    except SystemExit as error:
        if REQUIRED:
            raise
        pytest.skip(f"NOT TESTED: {error}")
    folder = tmp_path / xdelta3.FOLDER
    for name in ("xdelta3", "liblzma.so.5"):
        found = {
            (int(major), int(minor))
            for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", (folder / name).read_bytes())
        }
        assert (2, 17) <= max(found) <= NEWEST_GLIBC, name
