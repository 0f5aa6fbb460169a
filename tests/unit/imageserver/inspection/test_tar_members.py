"""Members are found like tarfile finds them, in each form that GNU tar and Python write."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserver.inspection.tar_members import BadTar, Members
from tests.support import images

LONG = "n" * 150
Seen = tuple[str, bytes, str]
names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120)


def found(body: bytes, chunk: int = 700) -> list[Seen]:
    chunks = iter([body[start : start + chunk] for start in range(0, len(body), chunk)])
    return [(member.name.rstrip("/"), member.kind, member.linkname) for member in Members(chunks, 1000)]


def expected(body: bytes) -> list[Seen]:
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return [(member.name, member.type, member.linkname) for member in tar]


@given(
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.tuples(names, st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"7"]), names), max_size=5),
    st.integers(0, 1500),
)
def test_members_written_by_python_are_found_as_tarfile_finds_them(
    form: int, members: list[tuple[str, bytes, str]], size: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link if kind in (b"1", b"2") else ""
            info.size = size if kind in (b"0", b"7") else 0
            tar.addfile(info, io.BytesIO(b"x" * size))
    assert found(out.getvalue()) == expected(out.getvalue())


@pytest.mark.skipif(not shutil.which("tar"), reason="needs GNU tar")
@pytest.mark.parametrize(
    "form",
    [
        ["--format=v7"],
        ["--format=oldgnu", "-S"],
        ["--format=gnu", "-S"],
        ["--format=ustar"],
        ["--format=posix"],
        *(["--format=posix", "-S", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0")),
    ],
    ids=" ".join,
)
def test_members_written_by_gnu_tar_are_found_as_tarfile_finds_them(form: list[str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    name = "folder/file" if form[0] in ("--format=v7", "--format=ustar") else f"folder/{LONG}ü"
    (tmp_path / name).write_bytes(b"content")
    (tmp_path / "link").symlink_to(name)
    os.link(tmp_path / name, tmp_path / "other")
    with (tmp_path / "holes").open("wb") as holes:
        for number in range(1, 60):
            holes.seek(number * 100_000)
            holes.write(b"x" * 5000)
    (tmp_path / "zz").write_bytes(b"last")
    inside = sorted(path.name for path in tmp_path.iterdir())
    command = ["tar", "-cf", "-", *form, "-C", str(tmp_path), *inside]
    body = subprocess.run(command, check=True, capture_output=True).stdout
    assert [seen for seen in found(body) if seen[0] != "holes"] == [
        seen for seen in expected(body) if seen[0] != "holes"
    ]
    assert "holes" in [seen[0] for seen in found(body)]


def pax(body: bytes, size: int | None = None) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(body) if size is None else size
    return info.tobuf() + body.ljust(-(-len(body) // 512) * 512, b"\0") + tarfile.TarInfo("a").tobuf() + bytes(1024)


@pytest.mark.parametrize("record", [b"x", b"9", b"-5 a=b\n", b"6 a=b", b"99 a=b\n", b"0 a=\n", b"5 ab\n", b"\xb2 a=\n"])
def test_a_pax_record_without_its_form_is_an_error(record: bytes) -> None:
    with pytest.raises(BadTar, match="malformed pax record"):
        found(pax(record))


@given(st.binary(max_size=4000))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for data in (body, images.tarball({"a": body})[:512] + body, pax(body)):
        try:
            found(data)
        except BadTar:
            continue
