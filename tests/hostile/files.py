"""Files that an attacker or a broken builder could upload: (name in the version's folder, bytes, the reason).

The reason is a part of the sentence in the record. Bombs are made of equal compressed parts, which decompress one
after the other, so that making one is cheap.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from tests.support import images
from tests.support.images import special, tar

MIB = 1 << 20
ZEROS = bytes(16 * MIB)


@dataclass(frozen=True)
class Hostile:
    """One file. `make` is called in the measuring process. `reason` is a part of the sentence in the record."""

    file: str
    make: Callable[[], bytes]
    reason: str


def special_member(info: tarfile.TarInfo) -> bytes:
    return images.compress(tar(info), "xz")


def header_only(size: int) -> bytes:
    """Return a metadata.yaml whose header declares more than there is."""
    info = tarfile.TarInfo("metadata.yaml")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + b"architecture: x86_64\n".ljust(512, b"\0")


def bomb(compression: str, mib: int, behind: bytes = b"", name: str = "pad") -> bytes:
    """Return a tarball of a few KiB for each 16 MiB that it unpacks to, followed by `behind`."""
    info = tarfile.TarInfo(name)
    info.size = mib * MIB
    head = info.tobuf(tarfile.GNU_FORMAT)

    def pack(body: bytes) -> bytes:
        if compression == "bz2":
            return bz2.compress(body)
        return lzma.compress(body, preset=0) if compression == "xz" else images.compress(body, compression)

    return pack(head) + pack(ZEROS) * (mib // 16) + (pack(behind) if behind else b"")


def lzma_bomb(mib: int) -> bytes:
    """Return the same in lzma, which has one stream for all of it."""
    info = tarfile.TarInfo("pad")
    info.size = mib * MIB
    packer = lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)
    parts = [packer.compress(info.tobuf(tarfile.GNU_FORMAT)), *(packer.compress(ZEROS) for _ in range(mib // 16))]
    return b"".join([*parts, packer.flush()])


def unified_bomb(compression: str) -> bytes:
    """Return a unified tarball with its metadata.yaml after the root, which is allowed: here after a GiB, and wrong."""
    return bomb(compression, 1024, tar(("metadata.yaml", images.metadata_yaml("arm64"))), "rootfs/pad")


def many_members(count: int) -> bytes:
    body = b"".join(tarfile.TarInfo(f"f{n}").tobuf(tarfile.GNU_FORMAT) for n in range(count))
    return images.compress(body, "gz")


def cut_bomb(compression: str) -> bytes:
    """Return a root that unpacks to 4 GiB and lacks its last ten bytes."""
    return bomb(compression, 4096)[:-10]


def tar_of_members(count: int) -> bytes:
    """Return a plain tar of empty members without an end."""
    return tarfile.TarInfo("f").tobuf(tarfile.GNU_FORMAT) * count


def extended_header(size: int) -> bytes:
    """Return a pax header of absurd length, which tarfile would read at once."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, size
    return images.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096), "gz")


def yaml(body: bytes) -> Callable[[], bytes]:
    return lambda: images.metadata_tarball(members={"metadata.yaml": body})


def yaml_of(make: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: images.metadata_tarball(members={"metadata.yaml": make()})


def billion_laughs() -> bytes:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(["architecture: x86_64", *lines]).encode()


def cut(body: bytes, share: float) -> Callable[[], bytes]:
    return lambda: body[: int(len(body) * share)]


def sums(files: Iterable[str]) -> bytes:
    return "".join(f"{0:064}  {file}\n" for file in files).encode()


def noise(size: int) -> bytes:
    return random.Random("noise").randbytes(size)


def qcow2(tables: bytes, **header: int) -> bytes:
    """Return a disk of version 3 with `tables` where its L1 table begins."""
    return images.qcow2_header(version=3, **header) + bytes(2 * images.QCOW2_CLUSTER) + tables


def qcow2_of_tables(mib: int) -> bytes:
    """Return a disk of only L1 and L2 tables, all of which name the last cluster of the file."""
    entries = mib * MIB // images.QCOW2_CLUSTER
    l1_bytes = entries * 8
    first = 3 * images.QCOW2_CLUSTER + l1_bytes
    last = first + (entries - 1) * images.QCOW2_CLUSTER
    l1 = b"".join((first + n * images.QCOW2_CLUSTER).to_bytes(8, "big") for n in range(entries))
    l2 = last.to_bytes(8, "big") * (images.QCOW2_CLUSTER // 8) * entries
    return qcow2(l1 + l2[:-1], l1_entries=entries, virtual=entries * 64 * images.QCOW2_CLUSTER)


def xz_with_index(records: bytes) -> bytes:
    """Return an xz stream of a tarball with its index replaced by one with these records and correct checksums."""
    body = b"\0" + records
    body += bytes(-len(body) % 4)
    index = body + zlib.crc32(body).to_bytes(4, "little")
    sizes = (len(index) // 4 - 1).to_bytes(4, "little") + b"\0\x04"
    return XZ[:64] + index + zlib.crc32(sizes).to_bytes(4, "little") + sizes + b"YZ"


def zstd_of_empty_blocks(count: int) -> bytes:
    """Return a frame of empty blocks of three bytes each, without an end."""
    return b"\x28\xb5\x2f\xfd" + b"\x00\x58" + bytes(3 * count) + b"\x01"


def pax_of_shortest_records(mib: int) -> bytes:
    """Return members with a pax header of nearly a MiB each, made of five-byte records."""
    body = b"5 a=\n" * 170_000
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    one = info.tobuf() + body.ljust(-(-len(body) // 512) * 512, b"\0") + tarfile.TarInfo("f").tobuf()
    return one * mib


def many_sparse_members(mib: int) -> bytes:
    """Return members of the older GNU sparse format, each with a map of half a MiB."""
    return (images.sparse_map(1000)[:-8] + bytes(8)) * (mib * 2)


def pax_record(key: str, value: bytes) -> bytes:
    """Return a record of a pax header: its own length, key and value."""
    rest = b" %s=%s\n" % (key.encode(), value)
    length = len(rest) + 1
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def sparse_in_pax(version: str, members: int) -> bytes:
    """Return sparse members of GNU tar with maps of nearly a MiB in pax headers, as in versions 0.0 and 0.1."""
    regions = range(15_000 if version == "0.0" else 80_000)
    if version == "0.0":
        pairs = (pax_record("GNU.sparse.offset", b"%d" % n) + pax_record("GNU.sparse.numbytes", b"1") for n in regions)
        region_map = b"".join(pairs)
    else:
        region_map = pax_record("GNU.sparse.map", b",".join(b"%d,1" % n for n in regions))
    about = [("GNU.sparse.size", b"%d" % (1 << 40)), ("GNU.sparse.numblocks", b"%d" % len(regions))]
    body = b"".join(pax_record(key, value) for key, value in about) + region_map
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    return (info.tobuf() + body.ljust(-(-len(body) // 512) * 512, b"\0") + tarfile.TarInfo("f").tobuf()) * members


def packed(make: Callable[[], bytes], times: int, compression: str) -> bytes:
    """Return packed content repeated this many times. bz2 is slow on repeated content, so it is packed once."""
    return bz2.compress(make()) * times if compression == "bz2" else images.compress(make() * times, compression)


META = "lxd.tar.xz"
COMPRESSIONS = ("gz", "xz", "zst", "bz2", "plain")
XZ = images.metadata_tarball()
XZ_4_GIB = b"\x02\x00\x21\x01\x28\x00\x00\x00"  # a block header with LZMA2 and the largest dictionary
_KINDS: Iterable[tuple[str, tarfile.TarInfo]] = (
    ("a symbolic link", special("metadata.yaml", tarfile.SYMTYPE, "/etc/passwd")),
    ("a hard link", special("metadata.yaml", tarfile.LNKTYPE, "other")),
    ("a character device", special("metadata.yaml", tarfile.CHRTYPE)),
    ("a block device", special("metadata.yaml", tarfile.BLKTYPE)),
    ("a fifo", special("metadata.yaml", tarfile.FIFOTYPE)),
    ("a folder", special("metadata.yaml", tarfile.DIRTYPE)),
)


def empty_streams(compression: str, count: int) -> bytes:
    """Return a metadata tarball followed by this many empty compressed streams."""
    body = images.metadata_tarball(compression="plain" if compression == "bz2" else compression)
    body = bz2.compress(body) if compression == "bz2" else body
    nothing = {
        "gz": gzip.compress(b"", mtime=0),
        "bz2": bz2.compress(b""),
        "xz": lzma.compress(b""),
        "zst": struct.pack("<II", 0x184D2A50, 0),  # an empty skippable frame
    }[compression]
    return body + nothing * count


def names_of_folders(folders: int, members: int, kind: bytes = b"L") -> bytes:
    """Return members with a name or link of this many folders: each must be parsed, and none can be unpacked."""
    name = b"/".join([b"a"] * folders) + b"\0"
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = len(name), kind
    member = info.tobuf(tarfile.GNU_FORMAT) + name.ljust(-(-len(name) // 512) * 512, b"\0")
    member += special("x", tarfile.SYMTYPE, "a").tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(member * members + tar(("metadata.yaml", b"architecture: x86_64\n")), 1, mtime=0)


CASES: dict[str, Hostile] = {
    **{
        f"{compression} bomb": Hostile(META, partial(bomb, compression, 4096), "unpacks to more than 64 MiB")
        for compression in ("gz", "xz", "zst", "bz2")
    },
    **{
        f"unified {compression} bomb": Hostile(
            "lxd_combined.tar.gz", partial(unified_bomb, compression), "expected x86_64"
        )
        for compression in ("gz", "xz", "zst", "bz2")
    },
    **{
        f"{compression} of empty streams": Hostile(
            META, partial(empty_streams, compression, 400_000), "has more than 10,000 compressed streams"
        )
        for compression in ("gz", "xz", "zst", "bz2")
    },
    "unified of empty streams": Hostile(
        "lxd_combined.tar.gz", partial(empty_streams, "gz", 400_000), "has more than 10,000 compressed streams"
    ),
    "unified of names with 400,000 folders": Hostile(
        "lxd_combined.tar.gz", lambda: names_of_folders(400_000, 300), "has a name of 799,999 bytes"
    ),
    "link of 300,000 folders": Hostile(
        META, lambda: names_of_folders(300_000, 1, kind=b"K"), "has a name of 599,999 bytes"
    ),
    "tar of 1 TiB": Hostile(META, lambda: header_only(1 << 40), "metadata.yaml of 1,099,511,627,776"),
    "negative size": Hostile(META, lambda: header_only(0).replace(b"00000000000", b"-0000000001", 1), "is not"),
    "million members": Hostile(META, lambda: many_members(120_000), "has more than 10,000 members"),
    "extended header of 1 GiB": Hostile(META, lambda: extended_header(1 << 30), "headers of more than 1,048,576 bytes"),
    "sparse map of 60 MiB": Hostile(
        META, lambda: images.compress(images.sparse_map(120_000), "gz"), "headers of more than 1,048,576 bytes"
    ),
    "pax sparse map of 60 MiB": Hostile(
        META, lambda: images.compress(images.pax_sparse_map(30_000_000), "gz"), "holds no metadata.yaml"
    ),
    **{
        f"{what}, {compression}": Hostile(
            META,
            partial(packed, make, times, compression),
            reason if compression != "plain" or "more" in reason else "is cut short",
        )
        for compression in COMPRESSIONS
        for what, make, times, reason in (
            ("older sparse header alone", lambda: images.sparse_map(0), 1, "ends within a header"),
            ("older sparse maps", partial(many_sparse_members, 1), 40, "has more than 30,000 headers"),
            ("shortest pax records", partial(pax_of_shortest_records, 1), 50, "has more than 40,000 pax records"),
            ("sparse map 0.0", partial(sparse_in_pax, "0.0", 1), 50, "has more than 40,000 pax records"),
            ("sparse map 0.1", partial(sparse_in_pax, "0.1", 1), 50, "holds no metadata.yaml"),
            ("sparse map 1.0", partial(images.pax_sparse_map, 4000), 1, "holds no metadata.yaml"),
        )
    },
    "unified sparse maps": Hostile(
        "lxd_combined.tar.gz", lambda: images.compress(many_sparse_members(800), "gz"), "holds no metadata.yaml"
    ),
    "unified pax records": Hostile(
        "lxd_combined.tar.gz",
        lambda: images.compress(pax_of_shortest_records(50), "gz"),
        "has more than 8,000,000 pax records",
    ),
    "root of one older sparse header": Hostile("root.tar.xz", lambda: images.sparse_map(0), "is cut short"),
    "metadata.yaml of 40 MiB": Hostile(
        META, lambda: images.metadata_tarball(members={"metadata.yaml": bytes(40 * MIB)}), "expected at most 1,048,576"
    ),
    **{
        f"metadata.yaml is {what}": Hostile(META, partial(special_member, info), "not a regular file")
        for what, info in _KINDS
    },
    "no metadata.yaml": Hostile(META, lambda: images.compress(tar(("x", b"y")), "xz"), "holds no metadata.yaml"),
    "path outside": Hostile(META, lambda: images.compress(tar(("../metadata.yaml", b"y")), "xz"), "names inside the"),
    "control characters in a name": Hostile(
        META, lambda: images.compress(tar(("metadata.yaml\x1b[2J", b"y")), "xz"), "holds no metadata.yaml"
    ),
    "truncated xz": Hostile(META, cut(XZ, 0.5), "cut short"),
    "truncated gz": Hostile(META, cut(images.metadata_tarball(compression="gz"), 0.5), "cut short"),
    "truncated zst": Hostile(META, cut(images.metadata_tarball(compression="zst"), 0.5), "cut short"),
    "truncated tar": Hostile(META, cut(images.metadata_tarball(compression="plain"), 0.06), "is cut short"),
    "flipped xz": Hostile(META, lambda: XZ[:60] + bytes([XZ[60] ^ 255]) + XZ[61:], "is damaged xz data"),
    "flipped zst": Hostile(META, lambda: images.compress(tar(("a", noise(999))), "zst")[:-9] + noise(9), "is damaged"),
    "xz that wants 4 GiB to unpack": Hostile(
        META,
        lambda: XZ[:12] + XZ_4_GIB + zlib.crc32(XZ_4_GIB).to_bytes(4, "little") + XZ[24:],
        "needs more than 128 MiB of memory to unpack",
    ),
    "random bytes": Hostile(META, lambda: noise(4096), "is not a tarball"),
    "html page": Hostile(META, lambda: b"<html>404</html>" * 40, "is not a tarball"),
    "billion laughs": Hostile(META, yaml(billion_laughs()), "holds more than 50,000 values"),
    "deep YAML": Hostile(META, yaml(b"[" * 250_000), "nests deeper than 32 levels"),
    "number to base 60": Hostile(META, yaml(b"architecture: 1" + b":59" * 80_000), "says `architecture: '1:59:59"),
    "number of 250,000 digits": Hostile(META, yaml(b"architecture: " + b"9" * 250_000), "says `architecture: '99999"),
    "a megabyte of YAML": Hostile(
        META, yaml(b"architecture: [" + b"1," * 500_000 + b"1]"), "holds more than 50,000 values"
    ),
    "all the YAML there may be": Hostile(
        META, yaml(b"architecture: [" + b"1," * 49_990 + b"1]"), "has a list at `architecture`"
    ),
    "python object": Hostile(META, yaml(b"a: !!python/object/apply:os.system ['true']"), "says no `architecture`"),
    "YAML with NUL": Hostile(META, yaml(b"architecture: \0"), "is not YAML"),
    "not UTF-8": Hostile(META, yaml(b"architecture: \xff\xfe\xff"), "is not YAML"),
    "control characters as architecture": Hostile(
        META, yaml(b'architecture: "\\e[31mx86_64"'), "says `architecture: '\\x1b"
    ),
    "other architecture": Hostile(META, lambda: images.metadata_tarball("arm64"), "expected x86_64 as the folder"),
    "metadata.json of 10 MB": Hostile("metadata.json", lambda: b'{"os": "' + b"x" * 10**7 + b'"}', "it is ignored"),
    "deep metadata.json": Hostile("metadata.json", lambda: b"[" * 900_000, "it is not JSON"),
    "metadata.json of 60,000 keys": Hostile(
        "metadata.json", lambda: json.dumps({f"k{n}": 0 for n in range(60_000)}).encode(), "59,980 more things in it"
    ),
    "metadata.json of 140,000 aliases": Hostile(
        "metadata.json",
        lambda: json.dumps({"aliases": ",".join(map(str, range(140_000)))}).encode(),
        "it has 140,000 aliases, expected at most 100",
    ),
    "control characters in metadata.json": Hostile(
        "metadata.json", lambda: b'{"os": "\\u001b[2J", "aliases": "a\\u0000b"}', "os is '\\x1b[2J', expected"
    ),
    "huge number in metadata.json": Hostile(
        "metadata.json", lambda: b'{"os": ' + b"9" * 900_000 + b"}", "it is not JSON"
    ),
    "image.yaml with wrong types": Hostile(
        "image.yaml",
        lambda: b"simplestream: {requirements: [{releases: 5, requirements: {a: b}}, 7], release_aliases: 3}",
        "the number '3' at `simplestream.release_aliases`",
    ),
    "SHA256SUMS of a whole mirror": Hostile(
        "SHA256SUMS",
        lambda: sums(f"{n}.squashfs" for n in range(10_000)),
        "names 10,000 image files, expected at most 1,000",
    ),
    "SHA256SUMS of other files": Hostile(
        "SHA256SUMS", lambda: sums(f"{n}.deb" for n in range(10_000)), "it names 0.deb"
    ),
    "SHA256SUMS with an endless name": Hostile("SHA256SUMS", lambda: sums(["x" * 900_000]), "it names no file"),
    "SHA256SUMS with an endless name twice": Hostile(
        "SHA256SUMS", lambda: sums(["x" * 400_000]) + b"1" + sums(["x" * 400_000])[1:], "another sha256"
    ),
    "SHA256SUMS of noise": Hostile("SHA256SUMS", lambda: noise(900_000), "expected a sha256, two spaces"),
    "empty root": Hostile("rootfs.squashfs", lambda: b"", "is empty (0 bytes)"),
    "root of noise": Hostile("rootfs.squashfs", lambda: noise(100_000), "is not a squashfs"),
    "squashfs magic on noise": Hostile("rootfs.squashfs", lambda: b"hsqs" + noise(100_000), "by its header, expected"),
    "squashfs header on noise": Hostile(
        "rootfs.squashfs", lambda: images.superblock(100_000) + noise(99_904), "but something else is there"
    ),
    "squashfs cut short": Hostile("rootfs.squashfs", lambda: images.squashfs()[:-1], "is cut short"),
    "root of three bytes": Hostile("disk.qcow2", lambda: b"QFI", "is not a qcow2 disk"),
    "tar root of noise": Hostile("root.tar.xz", lambda: noise(100_000), "is not a tarball"),
    "qcow2 magic on noise": Hostile("disk.qcow2", lambda: b"QFI\xfb" + noise(5000), "by its header, expected 2 or 3"),
    "qcow2 of /etc/shadow": Hostile(
        "disk.qcow2", lambda: qcow2(noise(9000), backing=512, backing_bytes=11), "a backing"
    ),
    "qcow2 of nothing but tables": Hostile("disk.qcow2", lambda: qcow2_of_tables(20), "is cut short: by its tables"),
    "qcow2 of 2^64 bytes": Hostile(
        "disk.qcow2", lambda: qcow2(noise(9000), virtual=(1 << 64) - 1), "has an L1 table of 32 entries, expected"
    ),
    "qcow2 with 4 billion L1 entries": Hostile(
        "disk.qcow2", lambda: qcow2(noise(9000), l1_entries=(1 << 32) - 1), "is cut short: by its tables its L1 table"
    ),
    **{
        f"{compression} bomb as a root, cut short": Hostile(
            "root.tar.xz", partial(cut_bomb, compression), "is cut short"
        )
        for compression in ("gz", "xz", "zst", "bz2")
    },
    "lzma bomb": Hostile(META, lambda: lzma_bomb(512), "unpacks to more than 64 MiB"),
    "lzma bomb as a root, cut short": Hostile("root.tar.xz", lambda: lzma_bomb(1024)[:-10], "is cut short"),
    "delta of empty windows": Hostile(
        "rootfs.20261101.vcdiff", lambda: b"\xd6\xc3\xc4\0\0" + b"\0\5\1\0\0\0\0" * 190_000 + b"\0", "is cut short"
    ),
    "delta with an endless number": Hostile(
        "rootfs.20261101.vcdiff", lambda: b"\xd6\xc3\xc4\0\4" + b"\xff" * 200_000, "a number of more than 8 bytes"
    ),
    "xz root with an endless number": Hostile(
        "root.tar.xz", lambda: xz_with_index(b"\x80" * 200_000), "is damaged xz data"
    ),
    "xz root with 2^62 blocks": Hostile(
        "root.tar.xz", lambda: xz_with_index(b"\xff" * 8 + b"\x3f" + b"\x7f" * 200_000), "is damaged xz data"
    ),
    "zstd root of empty blocks": Hostile("root.tar.xz", lambda: zstd_of_empty_blocks(1_900_000), "is cut short"),
    "tar root of members": Hostile("root.tar.xz", lambda: tar_of_members(150_000), "is cut short"),
    "delta of noise": Hostile("rootfs.20261101.vcdiff", lambda: noise(900), "is not a vcdiff delta"),
    "unified without metadata": Hostile(
        "lxd_combined.tar.gz", lambda: images.compress(tar(("rootfs/x", b"y")), "gz"), "holds no metadata.yaml"
    ),
}
"""Name -> file. A root with the magic of its format followed by noise is accepted: see test_hostile.py."""
