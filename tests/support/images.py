"""Images for tests: tiny well-formed files from Python alone, and real launchable ones from the real tools.

The first half needs nothing but Python: enough for every check that the server makes, not enough to start.
The second half (`ImageBuilder`) calls mksquashfs, tar, xz, gzip, qemu-img, xdelta3 and a static busybox, and
what it builds a real client can launch. Everything is deterministic for equal arguments. Digests are
hashlib's or sha256sum's, never this project's own.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CREATION_DATE = 1_795_000_000  # 2026-11-18, seconds since the epoch
KERNEL_ARCH = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l", "i386": "i686", "ppc64el": "ppc64le"}


def sha256_hex(*parts: bytes) -> str:
    """Return the SHA-256 of the concatenated parts: `sha256_hex(metadata, root)` is a combined sha256."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def metadata_yaml(arch: str = "amd64", **properties: str) -> bytes:
    """Return the `metadata.yaml` of an image. `arch` is the folder's name; the file has the kernel's."""
    lines = [f"architecture: {KERNEL_ARCH.get(arch, arch)}", f"creation_date: {CREATION_DATE}", "properties:"]
    lines += [f'  {name}: "{value}"' for name, value in ({"description": "a test image"} | properties).items()]
    return "\n".join(lines).encode() + b"\n"


def tarball(members: Mapping[str, bytes]) -> bytes:
    """Return a plain tar of regular files, owned by root, with a fixed time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), 0o644, CREATION_DATE
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tar(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    """Return a plain tar of the given members: headers, or regular files with these bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            content = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(content) or info.size
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def old_tar(name: str) -> bytes:
    """Return a tar of one empty file without a magic number, as `tar --format=v7` writes it."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    header[257:500] = bytes(243)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return the header of a member that is not a regular file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def compress(body: bytes, compression: str) -> bytes:
    """Return the body compressed as `xz`, `gz`, `zst`, `bz2` or `lzma`; `plain` leaves it unchanged."""
    packed: dict[str, Callable[[bytes], bytes]] = {
        "xz": lambda plain: lzma.compress(plain, preset=0),
        "gz": lambda plain: zlib.compress(plain, 9, wbits=31),  # gzip.compress() has another header since Python 3.13
        "zst": lambda plain: zstd.compress(plain, 1),
        "bz2": bz2.compress,
        "lzma": lambda plain: lzma.compress(plain, lzma.FORMAT_ALONE, preset=0),
        "plain": bytes,
    }
    return packed[compression](body)


def sparse_map(blocks: int) -> bytes:
    """Return a tar of one old GNU sparse member whose map continues for this many blocks of 21 regions each."""
    info = tarfile.TarInfo("sparse")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # the map goes on in the next block
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    region = b"%011o\0%011o\0" % (1, 1)
    return bytes(header) + ((region * 21).ljust(504, b"\0") + b"\1".ljust(8, b"\0")) * blocks


def pax_sparse_map(numbers: int) -> bytes:
    """Return a tar of one GNU sparse member (pax, version 1.0) whose map claims and holds so many numbers."""
    info = tarfile.TarInfo("sparse")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse"}
    body = b"%d\n" % (numbers // 2) + b"0\n" * numbers
    info.size = len(body)
    return info.tobuf(tarfile.PAX_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def metadata_tarball(
    arch: str = "amd64",
    compression: str = "xz",
    members: Mapping[str, bytes] | None = None,
    **properties: str,
) -> bytes:
    """Return a metadata tarball: `metadata.yaml` first, then `members`, which may replace it."""
    return compress(tarball({"metadata.yaml": metadata_yaml(arch, **properties), **(members or {})}), compression)


def root_tarball(marker: str = "", compression: str = "xz", prefix: str = "") -> bytes:
    """Return a `root.tar.xz`. `marker` makes its digest differ."""
    return compress(tarball({f"{prefix}etc/marker": marker.encode()}), compression)


def unified_tarball(arch: str = "amd64", compression: str = "gz", marker: str = "", **properties: str) -> bytes:
    """Return metadata and root in one tarball: `metadata.yaml` and `rootfs/`."""
    members = {"metadata.yaml": metadata_yaml(arch, **properties), "rootfs/etc/marker": marker.encode()}
    return compress(tarball(members), compression)


def filler(seed: str, size_bytes: int) -> bytes:
    """Return bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size_bytes)  # not a secret


def squashfs(seed: str = "", size_bytes: int = 4096) -> bytes:
    """Return a file with a squashfs 4.0 superblock that declares its own size, noise, and the index of its ids.

    It does not mount.
    """
    index = struct.pack("<Q", size_bytes - 14)
    header = superblock(size_bytes)
    return header + filler(f"squashfs {seed}", size_bytes - len(header) - len(index)) + index


def squashfs_of(
    *names: str, compression: int = 1, pack: Callable[[bytes], bytes] | None = zlib.compress, before: int = 0
) -> bytes:
    """Return a squashfs with these names in its root folder but without their files. `pack` None leaves it unpacked.

    `before` is how much precedes the inode of the root folder, and its listing, in their tables.
    """
    listing = b"".join(struct.pack("<HhHH", 0, 0, 2, len(name) - 1) + name.encode() for name in sorted(names))
    listing = struct.pack("<III", len(names) - 1, 0, 1) + listing if names else b""
    offset = before % 8192
    start = sum(map(len, _metadata_blocks(bytes(before - offset), pack)))
    inode = struct.pack("<HHHHIIIIHHI", 1, 0o755, 0, 0, 0, 1, start, 2, len(listing) + 3, offset, 2)
    inodes, directories, owners = (
        b"".join(_metadata_blocks(bytes(room) + table, pack))
        for room, table in ((before, inode), (before, listing), (0, bytes(4)))
    )
    offsets = [96, 96 + len(inodes), 96 + len(inodes) + len(directories)]
    index = struct.pack("<Q", offsets[2])
    body = inodes + directories + owners + index
    fields = {"inode_table": offsets[0], "directories": offsets[1], "id_table": offsets[2] + len(owners)}
    root = start << 16 | offset
    return superblock(96 + len(body), compression=compression, root=root, **fields) + body


def _metadata_blocks(table: bytes, pack: Callable[[bytes], bytes] | None) -> list[bytes]:
    """Return each 8 KiB of a squashfs table, preceded by its length."""
    blocks = [table[at : at + 8192] for at in range(0, len(table), 8192)]
    packed = [pack(block) if pack else block for block in blocks]
    return [struct.pack("<H", len(block) | (0 if pack else 1 << 15)) + block for block in packed]


def superblock(used_bytes: int, **other: int) -> bytes:
    """Return the first 96 bytes of a squashfs. `other` replaces fields."""
    no_table = (1 << 64) - 1
    fields = {
        "inodes": 1, "time": CREATION_DATE, "block_bytes": 131072, "fragments": 0,
        "compression": 4, "block_log": 17, "flags": 0, "ids": 1, "major": 4, "minor": 0,
        "root": 0, "used": used_bytes, "id_table": used_bytes - 8, "xattrs": no_table,
        "inode_table": 96, "directories": 200, "fragment_table": no_table, "exports": no_table, **other,
    }  # fmt: skip
    return struct.pack("<4sIIIIHHHHHHQQQQQQQQ", b"hsqs", *fields.values())


def qcow2(seed: str = "", size_bytes: int = 4096) -> bytes:
    """Return a 1 MiB qcow2 (version 2, 512-byte clusters) with nothing allocated, and noise after its tables.

    It does not boot.
    """
    body = qcow2_header() + bytes(3 * QCOW2_CLUSTER)  # refcount table, refcount block, L1 table
    return body + filler(f"qcow2 {seed}", size_bytes - len(body))


QCOW2_CLUSTER = 512


def qcow2_header(**other: int) -> bytes:
    """Return the first cluster of `qcow2`. `other` replaces fields."""
    fields = {
        "version": 2, "backing": 0, "backing_bytes": 0, "cluster_bits": 9, "virtual": 1 << 20, "encryption": 0,
        "l1_entries": 32, "l1": 3 * QCOW2_CLUSTER, "refcounts": QCOW2_CLUSTER, "refcount_clusters": 1,
        "snapshots": 0, "snapshots_at": 0, "incompatible": 0, "compatible": 0, "auto_clear": 0, "refcount_order": 4,
        "header_bytes": 104, "compression": 0, **other,
    }  # fmt: skip
    packed = struct.pack(">4sIQIIQIIQQIIQQQQIIB", b"QFI\xfb", *fields.values())
    return (packed if fields["version"] == 3 else packed[:72]).ljust(QCOW2_CLUSTER, b"\0")


def vcdiff(seed: str = "", size_bytes: int = 512, made_bytes: int = 4096, base_bytes: int = 0) -> bytes:
    """Return a VCDIFF (RFC 3284) of one window that declares what it reads and makes, with noise for instructions."""

    def number(value: int) -> bytes:
        return bytes(128 * (shift > 0) | value >> shift & 127 for shift in (21, 14, 7, 0))

    start = b"\xd6\xc3\xc4\x00\x00" + (b"\1" + number(base_bytes) + number(0) if base_bytes else b"\0")
    body = number(made_bytes) + b"\0"
    noise = filler(f"vcdiff {seed}", size_bytes - len(start + body) - 4)
    return start + number(len(body + noise)) + body + noise


def split_image(arch: str = "amd64", seed: str = "", root: str = "rootfs.squashfs") -> dict[str, bytes]:
    """Return the files of the smallest version that is listed: metadata, and a root of the kind in its name."""
    metadata = metadata_tarball(arch, serial=seed)
    if root.endswith(".squashfs"):
        return {"lxd.tar.xz": metadata, root: squashfs(seed)}
    return {"lxd.tar.xz": metadata, root: root_tarball(seed) if root.endswith(".xz") else qcow2(seed)}


INIT = """#!/bin/busybox sh
# Process 1 of a container has nothing to do but to stay: without it the container stops at once.
trap 'exit 0' TERM PWR
while :; do busybox sleep 3600 & wait $!; done
"""


class ImageBuilder:
    """Builds real images below one folder. A missing tool raises a FileNotFoundError that names it.

    Each method returns file names as publishers upload them, with the path of each file. `marker` is what
    `/etc/marker` in the root file system says, so a test can see which image a container was made from.
    """

    TOOLS = ("busybox", "mksquashfs", "tar", "xz", "gzip", "qemu-img", "xdelta3", "sha256sum")

    def __init__(self, folder: Path, arch: str = "amd64") -> None:
        self.folder = folder
        self.arch = arch

    def metadata(self, name: str, compression: str = "xz", **properties: str) -> Path:
        """Make a metadata tarball with tar and the compressor, at `<folder>/<name>`."""
        tree = self._fresh(f"{name}.tree")
        (tree / "metadata.yaml").write_bytes(metadata_yaml(self.arch, **properties))
        return self._tar(tree, self.folder / name, compression)

    def root_tree(self, name: str, marker: str) -> Path:
        """Make a root file system of one static busybox and an init that keeps running, at `<folder>/<name>`."""
        tree = self._fresh(name)
        for folder in ("bin", "sbin", "etc", "dev", "proc", "sys", "run", "root", "tmp", "var"):
            (tree / folder).mkdir()
        busybox = shutil.which("busybox")
        if busybox is None:
            raise FileNotFoundError("busybox: not on PATH; install busybox-static")
        shutil.copy(busybox, tree / "bin/busybox")
        for applet in ("sh", "cat", "sleep", "uname", "ls", "true"):
            (tree / "bin" / applet).symlink_to("busybox")
        (tree / "sbin/init").write_text(INIT)
        (tree / "sbin/init").chmod(0o755)
        (tree / "etc/marker").write_text(marker)
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        return tree

    def split_squashfs(self, marker: str) -> dict[str, Path]:
        """`lxd.tar.xz` and `rootfs.squashfs`."""
        folder = self._fresh(f"squashfs-{marker}")
        tree = self.root_tree(f"squashfs-{marker}.root", marker)
        root = folder / "rootfs.squashfs"
        times = ("-mkfs-time", str(CREATION_DATE), "-all-time", str(CREATION_DATE))
        self._run("mksquashfs", tree, root, "-all-root", "-noappend", "-no-progress", "-quiet", *times)
        return {"lxd.tar.xz": self._own_metadata(folder, marker), root.name: root}

    def split_root_tar(self, marker: str) -> dict[str, Path]:
        """`lxd.tar.xz` and `root.tar.xz`."""
        folder = self._fresh(f"roottar-{marker}")
        tree = self.root_tree(f"roottar-{marker}.root", marker)
        root = self._tar(tree, folder / "root.tar.xz", "xz")
        return {"lxd.tar.xz": self._own_metadata(folder, marker), root.name: root}

    def split(
        self, marker: str, metadata: tuple[str, str], root: tuple[str, str], options: Sequence[str] = ()
    ) -> dict[str, Path]:
        """Make a metadata tarball and a root: file name and compression of each, options for mksquashfs or qemu-img."""
        folder = self._fresh(f"split-{marker}")
        target = folder / root[0]
        if root[1] == "disk":
            (folder / "raw").write_bytes(marker.encode().ljust(1 << 20, b"\0"))
            self._run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", *options, folder / "raw", target)
        elif root[1] == "squashfs":
            tree = self.root_tree(f"split-{marker}.root", marker)
            self._run("mksquashfs", tree, target, "-all-root", "-noappend", "-no-progress", "-quiet", *options)
        else:
            self._tar(self.root_tree(f"split-{marker}.root", marker), target, root[1])
        named = f"split-{marker}/{metadata[0]}"
        return {metadata[0]: self.metadata(named, metadata[1], description=marker), root[0]: target}

    def whole_machine(self, marker: str) -> dict[str, Path]:
        """Make a virtual machine in one tarball, as `image export` writes it."""
        disk = self.vm_qcow2(marker)["disk.qcow2"]
        tree = self._fresh(f"machine-{marker}.tree")
        (tree / "metadata.yaml").write_bytes(metadata_yaml(self.arch, description=f"machine {marker}"))
        shutil.copy(disk, tree / "rootfs.img")
        return {"machine.tar.gz": self._tar(tree, tree.parent / f"machine-{marker}.tar.gz", "gz")}

    def vm_qcow2(self, marker: str) -> dict[str, Path]:
        """`lxd.tar.xz` and `disk.qcow2`: 8 MiB of disk with the marker at its start. It does not boot."""
        folder = self._fresh(f"vm-{marker}")
        raw = folder / "disk.raw"
        raw.write_bytes(marker.encode().ljust(8 << 20, b"\0"))
        root = folder / "disk.qcow2"
        self._run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, root)
        raw.unlink()
        return {"lxd.tar.xz": self._own_metadata(folder, marker), root.name: root}

    def unified(self, marker: str, compression: str = "gz") -> dict[str, Path]:
        """Make one tarball with metadata and root, as `image export` writes it, under its name for uploads."""
        folder = self._fresh(f"unified-{compression}-{marker}")
        tree = self._fresh(f"unified-{compression}-{marker}.tree")
        (tree / "metadata.yaml").write_bytes(metadata_yaml(self.arch, description=f"unified {marker}"))
        self.root_tree(f"unified-{compression}-{marker}.tree/rootfs", marker)
        root = self._tar(tree, folder / "lxd_combined.tar.gz", compression)
        return {root.name: root}

    def delta(self, base: Path, new: Path, base_version: str) -> dict[str, Path]:
        """`<root's stem>.<base version>.vcdiff`, which turns `base` into `new`."""
        path = self._fresh(f"delta-{base_version}-{new.parent.name}") / f"rootfs.{base_version}.vcdiff"
        # LXD decodes with `xdelta3 -dcs`, without options for secondary compression.
        self._run("xdelta3", "-e", "-f", "-s", base, new, path)
        return {path.name: path}

    def sha256(self, *paths: Path) -> str:
        """Return the SHA-256 of the concatenated files, by sha256sum."""
        out = self._run("sh", "-c", 'cat "$@" | sha256sum', "sh", *paths)
        return out.split()[0]

    def _own_metadata(self, folder: Path, marker: str) -> Path:
        # Each image has its own description: two versions with one fingerprint would be listed once.
        return self.metadata(f"{folder.name}/lxd.tar.xz", description=f"{folder.name} {marker}")

    def _tar(self, tree: Path, target: Path, compression: str) -> Path:
        program = {"xz": "xz -0 -T1", "gz": "gzip -1n", "zst": "zstd -q -1", "bz2": "bzip2 -1", "lzma": "lzma -0"}
        options = ["--sort=name", f"--mtime=@{CREATION_DATE}", "--owner=0", "--group=0", "--numeric-owner"]
        if compression != "plain":
            options.append(f"--use-compress-program={program[compression]}")
        names = sorted(path.name for path in tree.iterdir())
        self._run("tar", *options, "-C", tree, "-cf", target, *names)
        return target

    def _fresh(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True)
        return path

    def _run(self, *command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr}")
        return done.stdout
