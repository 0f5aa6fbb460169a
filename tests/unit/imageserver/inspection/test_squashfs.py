"""What is a squashfs by its superblock and its id index, and what only starts like one."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from imageserver.inspection.squashfs import NotSquashfs, checked
from tests.support import images

SIZE = 4096


def whole(**fields: int) -> bytes:
    """4,096 bytes with this superblock; the place of the id block stands where it should."""
    body = images.squashfs(size_bytes=SIZE)
    return images.superblock(SIZE, **fields) + body[96:]


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def refusal(body: bytes) -> str:
    """What is said of it, however it is cut into chunks; empty when it passes, which it then does unchanged."""
    said = {_refusal(body, chunk) for chunk in (1, 7, 1000, 1 << 20)}
    assert len(said) == 1
    return said.pop()


def _refusal(body: bytes, chunk: int) -> str:
    try:
        passed = b"".join(bytes(part) for part in checked(pieces(body, chunk), body[:512], len(body)))
    except NotSquashfs as reason:
        return str(reason)
    assert passed == body
    return ""


@pytest.mark.parametrize("padding", [0, 1, 4096])
def test_a_squashfs_is_accepted_with_any_padding(padding: int) -> None:
    assert refusal(images.squashfs() + bytes(padding)) == ""


def test_a_squashfs_with_many_owners_is_accepted() -> None:
    """2,049 ids of four bytes take two blocks, so the index names two places."""
    index = struct.pack("<QQ", SIZE - 16 - 1000, SIZE - 16 - 500)
    body = images.superblock(SIZE, ids=2049, id_table=SIZE - 16) + bytes(SIZE - 96 - 16) + index
    assert refusal(body) == ""
    backwards = body[:-16] + struct.pack("<QQ", SIZE - 16 - 500, SIZE - 16 - 1000)
    assert "list of owners is at byte 4,080" in refusal(backwards)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"major": 3}, "is squashfs 3.0 by its header, expected 4.0"),
        ({"minor": 1}, "is squashfs 4.1 by its header, expected 4.0"),
        ({"block_log": 16}, "has blocks of 131,072 or 2^16 bytes by its header, expected 2^12 to 2^20"),
        ({"block_bytes": 1 << 21, "block_log": 21}, "expected 2^12 to 2^20"),
        ({"block_log": 65535}, "expected 2^12 to 2^20"),
        ({"used": SIZE + 1}, "is cut short: a squashfs of 4,097 bytes by its header, the file has 4,096"),
        ({"ids": 0}, "lie outside of it or over each other"),
        ({"ids": 4000}, "lie outside of it or over each other"),
        ({"inode_table": 95}, "lie outside of it or over each other"),
        ({"inode_table": 200}, "lie outside of it or over each other"),
        ({"directories": SIZE}, "lie outside of it or over each other"),
        ({"id_table": SIZE - 7}, "lie outside of it or over each other"),
        ({"id_table": (1 << 64) - 1}, "lie outside of it or over each other"),
        ({"id_table": 2048}, "by its header the list of owners is at byte 2,048, but something else is there"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(fields: dict[str, int], says: str) -> None:
    assert says in refusal(whole(**fields))


def test_a_file_that_ends_within_its_header_is_refused() -> None:
    assert refusal(images.squashfs()[:95]) == "has 95 bytes, a squashfs header alone has 96"


def test_reading_stops_at_an_invalid_header() -> None:
    def unread() -> Iterator[bytes]:
        raise AssertionError("read on")
        yield b""

    with pytest.raises(NotSquashfs):
        next(checked(unread(), b"hsqs" + bytes(508), SIZE))
