"""Deltas that xdelta3 would not apply, and how much a valid one reads and makes."""

import subprocess
from pathlib import Path

import pytest

from imageserver.inspection import vcdiff
from tests.support import images
from tests.support.processes import need

HEADER = b"\xd6\xc3\xc4\0"


def read(body: bytes, chunk: int = 61) -> tuple[int, int] | str:
    sizes = vcdiff.Sizes()
    chunks = iter([body[start : start + chunk] for start in range(0, len(body), chunk)])
    try:
        assert b"".join(vcdiff.checked(chunks, sizes)) == body
    except vcdiff.UnusableDelta as reason:
        return str(reason)
    return sizes.base_bytes, sizes.made_bytes


@pytest.mark.parametrize("chunk", [1, 61, 1000])
def test_the_sizes_of_all_windows_count(chunk: int) -> None:
    window = images.vcdiff("2", 60, 5, 30)[5:]
    assert read(images.vcdiff(made_bytes=7) + window + window, chunk) == (30, 17)


@pytest.mark.parametrize("compressor", [b"\1", b"\2", b"\x10"])
def test_secondary_compression_and_a_name_are_skipped(compressor: bytes) -> None:
    window = images.vcdiff(made_bytes=7)[5:]
    assert read(HEADER + b"\5" + compressor + b"\4name" + window) == (0, 7)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (HEADER + b"\0", "is cut short"),
        (HEADER + b"\4\x09name", "is cut short"),
        (images.vcdiff()[:-1], "is cut short"),
        (images.vcdiff() + b"\0", "is cut short"),
        (b"\xd6\xc3\xc4S\0", "is a delta of version 83, expected 0"),
        (HEADER + b"\2\3abc", "has a code table of its own, which xdelta3 does not read"),
        (HEADER + b"\x08\0\0\0", "has the flags 0x8, which xdelta3 does not read"),
        (HEADER + b"\1\3\0\0", "is a delta in compression 3, which xdelta3 does not read"),
        (HEADER + b"\0\2\1\1", "a window copies from what it made, which xdelta3 does not read"),
        (HEADER + b"\0\3\1\1", "a window has the flags 0x3, which xdelta3 does not read"),
        (HEADER + b"\0\x80\1\1", "a window has the flags 0x80"),
        (HEADER + b"\0\0\1\x83\0", "a window is shorter than its own beginning"),
        (HEADER + b"\0\0" + b"\xff" * 9, "it has a number of more than 8 bytes"),
        (HEADER + b"\0\1" + (b"\xff" * 7 + b"\x7f") * 2 + b"\2\1\0", "beyond the end of any file"),
    ],
)
def test_a_delta_that_cannot_be_applied_is_refused(body: bytes, message: str) -> None:
    assert message in str(read(body))
    assert message in str(read(body, 1))


@pytest.mark.parametrize("options", [[], ["-9"], ["-S", "none"], ["-S", "djw"], ["-A"], ["-n"], ["-W", "16384"]])
@pytest.mark.parametrize(("base_bytes", "new_bytes"), [(1000, 1000), (200_001, 100_003), (3_000_001, 3_500_000)])
def test_a_delta_written_by_xdelta3_passes_and_has_the_right_size(
    options: list[str], base_bytes: int, new_bytes: int, tmp_path: Path
) -> None:
    need("xdelta3")
    base, new, made = tmp_path / "base", tmp_path / "new", tmp_path / "delta"
    base.write_bytes(images.filler("base", base_bytes))
    new.write_bytes((b"new" + base.read_bytes() * 2)[:new_bytes])
    subprocess.run(["xdelta3", "-e", "-f", *options, "-s", base, new, made], check=True, timeout=60)
    body = made.read_bytes()
    sizes = read(body, 1 << 16)
    assert isinstance(sizes, tuple), sizes
    assert 0 < sizes[0] <= base_bytes
    assert sizes[1] == new_bytes
    assert "is cut short" in str(read(body[:-1], 1 << 16))
