"""Which files are a squashfs by superblock, id index and root folder, and which only start like one."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imageserver.inspection.squashfs import NotRoot, NotSquashfs, checked
from tests.support import images

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SIZE = 4096


def whole(**fields: int) -> bytes:
    """Return 4,096 bytes with this superblock, and a correct pointer to the id block."""
    body = images.squashfs(size_bytes=SIZE)
    return images.superblock(SIZE, **fields) + body[96:]


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def refusal(body: bytes) -> str:
    """Return the refusal, the same for any chunk sizes; empty if the file passes unchanged."""
    refusals = {_refusal(body, chunk) for chunk in (1, 7, 1000, 1 << 20)}
    assert len(refusals) == 1
    return refusals.pop()


def _refusal(body: bytes, chunk: int) -> str:
    try:
        passed = b"".join(bytes(part) for part in checked(pieces(body, chunk), body[:512], len(body)))
    except (NotRoot, NotSquashfs) as reason:
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
    ("fields", "message"),
    [
        ({"major": 3}, "is squashfs 3.0 by its header, expected 4.0"),
        ({"minor": 1}, "is squashfs 4.1 by its header, expected 4.0"),
        ({"block_log": 16}, "has blocks of 131,072 or 2^16 bytes by its header, expected 2^12 to 2^20"),
        ({"block_bytes": 1 << 21, "block_log": 21}, "expected 2^12 to 2^20"),
        ({"block_log": 65535}, "expected 2^12 to 2^20"),
        ({"used": SIZE + 1}, "is cut short: a squashfs of 4,097 bytes by its header, the file has 4,096"),
        ({"ids": 0}, "lie outside it or overlap"),
        ({"ids": 4000}, "lie outside it or overlap"),
        ({"inode_table": 95}, "lie outside it or overlap"),
        ({"inode_table": 200}, "lie outside it or overlap"),
        ({"directories": SIZE}, "lie outside it or overlap"),
        ({"id_table": SIZE - 7}, "lie outside it or overlap"),
        ({"id_table": (1 << 64) - 1}, "lie outside it or overlap"),
        ({"fragments": 1}, "lie outside it or overlap"),
        ({"fragments": 1, "fragment_table": 200}, "lie outside it or overlap"),
        ({"fragments": 1, "fragment_table": SIZE - 8}, "lie outside it or overlap"),
        ({"exports": 200}, "lie outside it or overlap"),
        ({"exports": SIZE}, "lie outside it or overlap"),
        ({"xattrs": 300}, "lie outside it or overlap"),
        ({"xattrs": SIZE - 15}, "lie outside it or overlap"),
        ({"id_table": 2048}, "by its header the list of owners is at byte 2,048, but something else is there"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(fields: dict[str, int], message: str) -> None:
    assert message in refusal(whole(**fields))


def test_a_file_that_ends_within_its_header_is_refused() -> None:
    assert refusal(images.squashfs()[:95]) == "has 95 bytes, a squashfs header alone has 96"


def test_reading_stops_at_an_invalid_header() -> None:
    def unread() -> Iterator[bytes]:
        raise AssertionError("read on")
        yield b""

    with pytest.raises(NotSquashfs):
        next(checked(unread(), b"hsqs" + bytes(508), SIZE))


WHOLE = ("metadata.yaml", "rootfs", "templates")


def lz4_literals(block: bytes) -> bytes:
    """Return a block of lz4 without a copy in it."""
    long, rest = divmod(max(0, len(block) - 15), 255)
    return bytes([min(len(block), 15) << 4]) + (b"\xff" * long + bytes([rest])) * (len(block) >= 15) + block


PACKED: dict[str, tuple[int, Callable[[bytes], bytes] | None]] = {
    "gzip": (1, zlib.compress),
    "lzma": (2, lambda block: lzma.compress(block, lzma.FORMAT_ALONE)),
    "xz": (4, lzma.compress),
    "zstd": (6, zstd.compress),
    "lz4": (5, lz4_literals),
    "nothing": (1, None),
}


@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("before", [0, 40, 8175, 8192, 20_000])
def test_a_unified_image_is_distinguished_from_a_root_in_any_compression(how: str, before: int) -> None:
    """The inode and the listing are at the start of a block, inside it, across two, and after others."""
    compression, pack = PACKED[how]
    image = images.squashfs_of(*WHOLE, compression=compression, pack=pack, before=before)
    assert "is a whole image in squashfs form" in refusal(image)
    root = images.squashfs_of("bin", "etc", "metadata.yaml", compression=compression, pack=pack, before=before)
    assert refusal(root) == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("metadata.yaml", "rootfs"), "is a whole image in squashfs form"),
        (("metadata.yaml", "rootfs.img"), "is a whole image in squashfs form"),
        (("metadata.yaml",), "is metadata in squashfs form"),
        (("metadata.yaml", "templates"), "is metadata in squashfs form"),
        (("rootfs",), "all of it lies below rootfs/"),
        ((), "it holds no file"),
        (("bin", "rootfs"), ""),
        (("rootfs", "templates"), ""),
        (("metadata.yaml", "rootfs", "bin"), ""),
        (("metadata.yaml", "rootfs", *map("zz{}".format, range(1000))), ""),
    ],
)
def test_a_squashfs_is_a_root_unless_its_top_folder_is_that_of_an_image(names: tuple[str, ...], message: str) -> None:
    found = refusal(images.squashfs_of(*names))
    assert message in found
    assert bool(message) == bool(found)


def test_a_squashfs_of_an_unsupported_compression_is_taken_for_a_root() -> None:
    assert refusal(images.squashfs_of(*WHOLE, compression=3)) == ""


@pytest.mark.parametrize("compression", range(1, 7))
def test_an_unreadable_root_folder_decides_nothing(compression: int) -> None:
    """Clients may or may not mount it. The publisher's digests reveal damage in transit."""
    for pack in (bz2.compress, lambda _: b"", lambda block: block[:9]):
        assert refusal(images.squashfs_of(*WHOLE, compression=compression, pack=pack)) == ""
    image = images.squashfs_of(*WHOLE, compression=compression)
    assert refusal(image[:98] + b"\xff" * 6 + image[104:]) == ""
    for root in (9, 1 << 16, 5000, (1 << 48) + 1, (1 << 64) - 1):
        assert refusal(image[:32] + struct.pack("<Q", root) + image[40:]) == ""


@pytest.mark.skipif(not shutil.which("mksquashfs"), reason="mksquashfs is not installed")
@pytest.mark.parametrize("how", ["gzip", "xz", "zstd", "lzma", "lz4", "lz4 -Xhc"])
def test_images_and_roots_made_by_mksquashfs_are_distinguished(tmp_path: Path, how: str) -> None:
    for folder in ("rootfs/etc", "rootfs/usr/bin", "templates"):
        (tmp_path / "image" / folder).mkdir(parents=True)
    for number in range(2000):
        (tmp_path / f"image/rootfs/usr/bin/{number}").write_text(str(number))
    (tmp_path / "image/metadata.yaml").write_text("architecture: x86_64")
    refusals = []
    for folder in ("image", "image/rootfs"):
        made = tmp_path / "made"
        subprocess.run(
            ["mksquashfs", tmp_path / folder, made, "-noappend", "-quiet", "-no-progress", "-comp", *how.split()],
            check=True,
        )
        refusals.append(refusal(made.read_bytes()))
    assert "is a whole image in squashfs form" in refusals[0]
    assert refusals[1] == ""
