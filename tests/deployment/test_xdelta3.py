"""The program in the package of delta: where it comes from, and that Lambda's runtime can start it."""

import hashlib
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
    """A Debian package of one file, `./usr/bin/tool`."""
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


def test_a_file_of_a_debian_package_is_found_behind_parts_of_odd_length() -> None:
    assert list(xdelta3.unpacked(deb(b"\x7fELF"), "tool.deb")) == [("usr/bin/tool", b"\x7fELF")]


def test_an_archive_without_data_is_named() -> None:
    with pytest.raises(SystemExit, match=r"tool\.deb has no data\.tar\.xz"):
        list(xdelta3.unpacked(b"!<arch>\n", "tool.deb"))


@pytest.mark.parametrize("at_mirror", [None, b"a newer one"])
def test_a_package_that_the_mirror_has_no_longer_comes_from_the_snapshots(
    monkeypatch: pytest.MonkeyPatch, at_mirror: bytes | None
) -> None:
    wanted = package(b"as before")
    answers = {"https://snapshot.debian.org/file/5ba1": b"as before"}
    mirror(monkeypatch, answers | ({wanted.url: at_mirror} if at_mirror else {}))
    assert xdelta3.fetched(wanted) == b"as before"


def test_a_package_that_is_nowhere_with_its_digest_ends_the_build_with_both_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = package(b"as before")
    mirror(monkeypatch, {wanted.url: b"something else"})
    with pytest.raises(SystemExit) as ended:
        xdelta3.fetched(wanted)
    told = str(ended.value)
    assert f"{wanted.url}: sha256 {hashlib.sha256(b'something else').hexdigest()}, expected {wanted.sha256}" in told
    assert "https://snapshot.debian.org/file/5ba1: no route to host" in told


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
