"""Untrusted tarballs: every compression, and every way to be invalid."""

import bz2
import gzip
import io
import lzma
import tarfile

import pytest

from imageserver.inspection.tarball import METADATA_LIMITS, UNIFIED_LIMITS, Limits, read_image
from imageserver.inspection.unpacking import UnreadableArchive
from tests.support import images

YAML = b"architecture: x86_64\n"


def read(body: bytes, limits: Limits = METADATA_LIMITS, chunk: int = 700, *, whole: bool = True) -> bytes:
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    return read_image(chunks, limits, whole=whole).metadata_yaml


@pytest.mark.parametrize("compression", ["xz", "gz", "zst", ""])
@pytest.mark.parametrize("chunk", [1, 13, 100_000])
@pytest.mark.parametrize("name", ["metadata.yaml", "./metadata.yaml"])
def test_the_member_is_found_in_any_compression(compression: str, chunk: int, name: str) -> None:
    plain = images.tarball({"templates/x": b"x" * 3000, name: YAML, "z": b"z"})
    body = images.compress(plain, compression) if compression else plain
    assert read(body, chunk=chunk) == YAML


def test_bzip2_and_several_concatenated_streams_are_read() -> None:
    plain = images.tarball({"metadata.yaml": YAML, "z": b"z" * 5000})
    assert read(bz2.compress(plain)) == YAML
    assert read(lzma.compress(plain[:2000]) + b"\0" * 8 + lzma.compress(plain[2000:])) == YAML
    assert read(gzip.compress(plain[:2000]) + gzip.compress(plain[2000:])) == YAML


def special(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("metadata.yaml")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    return buffer.getvalue()


def oversized_header(size: int) -> bytes:
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, size
    return long_name.tobuf() + b"x" * 5_000_000


def long_names(count: int, size: int) -> bytes:
    """Return names for one member, each of which replaces the one before it."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, size
    return (name.tobuf() + b"x" * size) * count


TOO_LONG = "has headers of more than 1,048,576 bytes for one member"
BOMB = images.tarball({"metadata.yaml": YAML, "a": bytes(100_000_000)})
GOOD = images.tarball({"metadata.yaml": YAML, "z": b"z" * 5000})


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a tarball"),
    "text": (b"hello", "it starts with 68 65 6c 6c 6f"),
    "squashfs": (images.squashfs(), "is not a tarball"),
    "other members": (images.tarball({"other": b"x"}), "holds no metadata.yaml"),
    "member in a folder": (images.tarball({"sub/metadata.yaml": b"x"}), "holds no metadata.yaml"),
    "xz cut short": (lzma.compress(GOOD)[:-30], "is cut short"),
    "gzip cut short": (gzip.compress(GOOD)[:-9], "is cut short"),
    "xz damaged": (lzma.compress(GOOD)[:60] + b"\xff" * 60, "is damaged xz data"),
    "gzip damaged": (gzip.compress(GOOD)[:12] + b"\xff" * 60, "is damaged gzip data"),
    "tar cut short": (GOOD[:4000], "is not a valid tarball"),
    "only zeros": (lzma.compress(bytes(100_000_000)), "holds no metadata.yaml"),
    "xz bomb": (lzma.compress(BOMB), "unpacks to more than 64 MiB"),
    "gzip bomb": (gzip.compress(BOMB), "unpacks to more than 64 MiB"),
    "zst bomb": (images.compress(BOMB, "zst"), "unpacks to more than 64 MiB"),
    "bomb behind the end": (gzip.compress(GOOD + bytes(70_000_000)), "unpacks to more than 64 MiB"),
    "huge member": (images.tarball({"metadata.yaml": b"x" * 1_100_000}), "expected at most 1,048,576"),
    "symlink": (special(tarfile.SYMTYPE), "not a regular file"),
    "device": (special(tarfile.CHRTYPE), "not a regular file"),
    "folder": (special(tarfile.DIRTYPE), "not a regular file"),
    "long header": (oversized_header(4_000_000), TOO_LONG),
    "absurd header": (oversized_header(8_000_000_000), TOO_LONG),
    "sparse map": (images.sparse_map(3000), TOO_LONG),
    "sparse map cut short": (images.sparse_map(3), "is not a valid tarball"),
    "pax sparse map": (images.pax_sparse_map(1_000_000), "holds no metadata.yaml"),
    "many long names": (long_names(600, 4096), "two headers of type L for one member"),
}


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD.keys())
def test_each_kind_of_broken_tarball_has_its_own_error(body: bytes, message: str) -> None:
    with pytest.raises(UnreadableArchive) as reason:
        read(body, chunk=100_000)
    assert message in str(reason.value)


def test_a_million_members_are_too_many() -> None:
    body = images.tarball({f"{number}": b"" for number in range(50)})
    with pytest.raises(UnreadableArchive, match="more than 40 members"):
        read(body, Limits(unpacked_bytes=1 << 20, members=40))


def test_a_chain_of_long_names_is_bounded() -> None:
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 5
    with pytest.raises(UnreadableArchive):
        read((link.tobuf() + b"name\0".ljust(512, b"\0")) * 5000)


def test_the_rest_of_a_unified_tarball_is_left_unread() -> None:
    body = images.tarball({"metadata.yaml": YAML, "rootfs/big": bytes(1_000_000)})
    chunks = iter([body[start : start + 1000] for start in range(0, len(body), 1000)])
    assert read_image(chunks, UNIFIED_LIMITS, whole=False).metadata_yaml == YAML
    assert len(list(chunks)) > 900


def test_the_lzma_form_of_an_export_is_read() -> None:
    plain = images.tarball({"metadata.yaml": YAML, "z": b"z" * 5000})
    assert read(lzma.compress(plain, lzma.FORMAT_ALONE)) == YAML
    with pytest.raises(UnreadableArchive):
        read(lzma.compress(plain, lzma.FORMAT_ALONE)[:-30])


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
@pytest.mark.parametrize("trailing", [b"garbage", b"\0\0\0x", b"\x1f", b"\x1fx", b"B", b"x" * 5000])
def test_bytes_after_bzip2_are_ignored_and_those_after_gzip_refused_as_by_tar(trailing: bytes, chunk: int) -> None:
    plain = images.tarball({"metadata.yaml": YAML})
    assert read(bz2.compress(plain) + trailing, chunk=chunk) == YAML
    with pytest.raises(UnreadableArchive, match="has bytes after its gzip data"):
        read(images.compress(plain, "gz") + trailing, chunk=chunk)


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
@pytest.mark.parametrize("zeros", [8, 150_000])
def test_zeros_after_gzip_and_between_xz_streams_are_padding(zeros: int, chunk: int) -> None:
    plain = images.tarball({"metadata.yaml": YAML, "z": b"z" * 5000})
    first, second = images.compress(plain[:2000], "xz"), images.compress(plain[2000:], "xz")
    assert read(images.compress(plain, "gz") + bytes(zeros), chunk=max(chunk, zeros // 1000)) == YAML
    assert read(first + bytes(zeros) + second, chunk=max(chunk, zeros // 1000)) == YAML


@pytest.mark.parametrize("compression", ["xz", "zst"])
def test_bytes_after_xz_and_zstd_are_damage(compression: str) -> None:
    with pytest.raises(UnreadableArchive):
        read(images.compress(images.tarball({"metadata.yaml": YAML}), compression) + b"garbage")
