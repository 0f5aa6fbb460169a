"""Read a stranger's tarball within limits of time and memory.

A small file that inflates to gigabytes costs at most `Limits.unpacked_bytes` of work, and memory as unpacking.py bounds
it. tar_members bounds the cost of headers.
"""

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, Literal

from imageserver.format.wording import escaped, quoted
from imageserver.inspection import foreign, pongo, qcow2
from imageserver.inspection.tar_members import BLOCK, BadTar, Member, Members, is_header
from imageserver.inspection.tar_tree import TarTree
from imageserver.inspection.unpacking import BZIP2, GZIP, LZMA, XZ, ZSTD, UnreadableArchive, compression, unpacked

MIB: Final = 1024 * 1024
MOST_UNPACKED: Final = {b"": 16 << 30, GZIP: 16 << 30, ZSTD: 16 << 30, XZ: 4 << 30, LZMA: 2 << 30, BZIP2: 2 << 30}
"""Unpacked bytes of a tarball that are searched for its end, by its compression: about a minute."""
_MOST_DISK_BYTES: Final = 2 << 30  # of a disk in a tarball: its header and the tables there, some 20 s of xz
_MOST_MAP_BYTES: Final = 4 * MIB  # of a sparse file: some 200,000 holes
_MOST_DIGITS: Final = 18
START_BYTES: Final = MIB
"""How much of a tarball is read to decide whether it is a root: at least a whole block of bzip2 or zstd."""
_START_MEMBERS: Final = 100
MOST_FOR_TEMPLATES: Final = 4 << 30
"""Unpacked bytes of a unified tarball that are searched for its templates: under a minute of xz."""
_MOST_TEMPLATE_BYTES: Final = MIB  # of all templates of an image, which have some hundred bytes each
_MOST_ALIKE: Final = 10  # files metadata.yaml, or rootfs.img; `tar --append` leaves a few
_LONGEST_FILE_NAME: Final = 255  # names of a file system; a tarball may hold longer ones, up to a MiB each
_PACK_AGAIN: Final = "pack the file system with tar"
_NO_TARBALL: Final = (
    (qcow2.MAGIC, ("a qcow2 disk", "upload what it unpacks to as disk.qcow2")),
    (b"hsqs", ("a squashfs", "upload what it unpacks to as rootfs.squashfs")),
    (b"0707", ("a cpio archive", _PACK_AGAIN)),
    *((magic, ("compressed data", "compress it once")) for magic in (XZ, GZIP, ZSTD, BZIP2, LZMA)),
)
"""What compressed files that are not tarballs unpack to: first bytes -> what it is, what to do."""
_MOST_NAMES: Final = 100  # top-level names of a tarball, to recognise it

Content = Literal["", "container", "virtual-machine", "metadata"]
"""The root in a tarball with a metadata.yaml: a non-empty `rootfs/`, `rootfs.img`, or none."""


class _TooLong(UnreadableArchive):
    """Raised at the limit of unpacked bytes."""


class NoMetadata(UnreadableArchive):
    """The bytes are a whole tarball that is neither metadata nor a unified image; the message says what to do."""


class WholeImage(Exception):
    """A tarball that should only be metadata holds a root. The message is the path of its first part."""


@dataclass(frozen=True, slots=True)
class ImageTarball:
    """The content of an image's tarball: the bytes of its metadata.yaml, and which root it holds.

    `templates` maps the names below `templates/` to why a daemon cannot apply that one, completing "a template that …";
    empty if it can. It is None if not all needed ones were found within the bytes that are searched.
    """

    metadata_yaml: bytes
    content: Content
    templates: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Limits:
    """How much work a tarball may cause."""

    unpacked_bytes: int
    members: int
    member_bytes: int = MIB


METADATA_LIMITS: Final = Limits(unpacked_bytes=64 * MIB, members=10_000)
"""For a metadata tarball, which holds metadata.yaml and a few templates: usually some KiB."""
UNIFIED_LIMITS: Final = Limits(unpacked_bytes=16 * 1024 * MIB, members=2_000_000)
"""For a unified tarball, which may hold its metadata.yaml after the whole root file system."""


def read_image(
    chunks: Iterable[bytes | memoryview],
    limits: Limits,
    *,
    whole: bool,
    most_unpacked: int = 0,
    needed: Callable[[bytes], Set[str]] = lambda _: frozenset[str](),
) -> ImageTarball:
    """Read the metadata.yaml of a tarball that arrives in chunks, and find its root.

    `whole` reads to the end of the archive, which proves it complete and within the limits; a root in it raises
    WholeImage. Otherwise reading stops once it has found a root and the templates that are `needed` by the
    metadata.yaml; LXD and Incus write these after the root. The end of the archive is still looked for, up to
    `most_unpacked`, and what lies in front of it counts. Of two metadata.yaml files the last one read counts, as when
    both are unpacked. UnreadableArchive says what was found in place of a tarball with a metadata.yaml.
    """
    plain = _unpacked(chunks, limits)
    members = Members(plain, limits.members)
    found = _TarballContents(needed)
    try:
        _find(members, limits, found, whole=whole)
        if whole:  # a tar ends with zeros; its compression must have its end too
            for _ in plain:
                pass
        else:
            with suppress(_TooLong):
                _look_for_end(members, plain, most_unpacked, found, limits)
        is_known = not found.is_too_far and (found.is_at_end or not found.lacks_templates())
        return ImageTarball(found.body or b"", found.content, found.templates if is_known else None)
    except BadTar as error:
        raise UnreadableArchive(str(error)) from error


def _look_for_end(
    members: Members, plain: Iterator[bytes | memoryview], most_unpacked: int, found: "_TarballContents", limits: Limits
) -> None:
    """Continue to the end of the tar and of its compression. Raise if either has no end, and what `take` raises."""
    rest = iter(members)
    while members.position < most_unpacked:
        if (member := next(rest, None)) is None:
            found.is_at_end = True
            break
        found.take(members, member, limits, whole=False)
    left = most_unpacked - members.position
    while left > 0 and (step := next(plain, b"")):
        left -= len(step)


def looks_like_tar(head: bytes) -> bool:
    """Return whether the first 512 bytes of a file are those of a tarball, or at least of a compressed file."""
    return head[257:262] == b"ustar" or bool(compression(head))


def unlike_a_root(start: bytes) -> str:
    """Return why a tarball that begins with `start` is not a container's root, as a predicate; empty if it may be one.

    A file system may have a metadata.yaml in its root folder, but then not everything else there is part of an image.
    """
    names: set[str] = set()
    is_empty = False
    plain = _unpacked([start[:START_BYTES]], Limits(unpacked_bytes=MIB, members=_START_MEMBERS))
    with suppress(UnreadableArchive, BadTar):
        # The start of a longer file ends too early: decide from what was found so far.
        first = b""
        while len(first) < BLOCK and (step := next(plain, b"")):
            first += step
        if compression(start) and (why := _no_tarball(first)):
            return why
        for member in islice(Members(chain([first], plain), _START_MEMBERS), _START_MEMBERS):
            path = [part for part in member.name.split("/") if part not in ("", ".")]
            names |= set(path[:1])
        is_empty = not names
    if foreign.holds_image(names):
        how = "upload metadata as lxd.tar.xz, a unified image as lxd_combined.tar.gz"
        return f"is no root, it holds a metadata.yaml: {how}"
    if names == {"rootfs"}:
        return "is no root, all of it lies below rootfs/: pack what is in that folder, with `tar -C rootfs`"
    if found := foreign.by_names(names):
        return f"is no root but {found.what}: {found.how}"
    return "is no root, it holds no file: pack the file system again" if is_empty else ""


def _no_tarball(plain: bytes) -> str:
    """Return what unpacked data that begins with `plain` is instead of a tarball; empty if it may be one."""
    if plain and is_header(plain[:BLOCK]):
        return ""
    what = f"something that starts with {plain[:8].hex(' ')}" if plain else "nothing"
    how = _PACK_AGAIN
    if found := foreign.by_bytes(plain):
        what, how = found.what, f"unpack it, and with what it unpacks to {found.how}"
    what, how = next((known for magic, known in _NO_TARBALL if plain.startswith(magic)), (what, how))
    return f"is no root, it unpacks to {what} and not to a tarball: {how}"


@dataclass(slots=True)
class _TarballContents:
    """What the members of a tarball have revealed so far."""

    needed: Callable[[bytes], Set[str]]
    body: bytes | None = None
    bodies: int = 0
    disks: int = 0
    content: Content = "metadata"
    templates: dict[str, str] = field(default_factory=dict)
    template_bytes: int = 0
    """How much of the templates was read."""
    names: set[str] = field(default_factory=set)
    """Top-level names, to recognise a tarball without a metadata.yaml."""
    metadata_folder: str = ""
    """The folder of a metadata.yaml that is not at the top."""
    missing: Set[str] | None = None
    """Templates that the body needs and that were not seen yet; None until computed."""
    tree: TarTree = field(default_factory=TarTree)
    is_at_end: bool = False
    is_too_far: bool = False
    """Whether the search for templates was given up."""

    def take(self, members: Members, member: Member, limits: Limits, *, whole: bool) -> None:
        """Take in the next member. Raise what read_image raises."""
        path = [part for part in member.name.split("/") if part not in ("", ".")]
        if len(self.names) < _MOST_NAMES:
            self.names.update(path[:1])
        if len(path) == 2 and path[1] == "metadata.yaml" and not self.metadata_folder:
            self.metadata_folder = path[0]
        if path == ["metadata.yaml"] and not member.name.startswith("/"):
            self.bodies += 1
            if self.bodies > _MOST_ALIKE:
                raise UnreadableArchive(f"holds more than {_MOST_ALIKE} files metadata.yaml")
            self.body, self.missing = _content(members, member, limits), None
        elif path:
            _check_member(member, path)
            self.content = _content_with(self.content, member, path)
            if path == ["rootfs.img"] and not whole:
                self.disks += 1
                if self.disks > _MOST_ALIKE:
                    raise UnreadableArchive(f"holds more than {_MOST_ALIKE} files rootfs.img")
                _check_disk(members, member)
            if path[0] == "templates" and 0 < len(name := "/".join(path[1:])) <= _LONGEST_FILE_NAME:
                self.templates[name] = self._template_problem(members, member)
                if len(self.templates) > METADATA_LIMITS.members:
                    raise UnreadableArchive(f"holds more than {METADATA_LIMITS.members:,} files in templates/")
        if path[:1] != ["rootfs"] or len(path) == 1:
            self.tree.add(member, path)
        if whole and self.content != "metadata":
            raise WholeImage(escaped("/".join(path)))

    def _template_problem(self, members: Members, member: Member) -> str:
        """Return why a daemon cannot apply a template; empty if it can, or if there is more to read than is read."""
        if not (member.is_file or member.is_hard_link):
            return "is no regular file in the tarball"
        self.template_bytes += member.size
        if member.is_hard_link or member.is_sparse or self.template_bytes > _MOST_TEMPLATE_BYTES:
            return ""
        return pongo.problem(b"".join(members.content()))

    def why_no_metadata(self) -> str:
        """Return what a tarball without a metadata.yaml at its top is, and what to do."""
        if found := foreign.by_names(self.names):
            return f"is not an image of LXD or Incus but {found.what}: {found.how}"
        missing = "holds no metadata.yaml at its top level"
        if self.metadata_folder:
            folder = quoted(self.metadata_folder)
            in_command = folder if folder == f"'{self.metadata_folder}'" else "FOLDER"  # a shell quotes otherwise
            return f"{missing}, it has one in {folder}: pack what is in that folder, with `tar -C {in_command}`"
        return f"{missing}: if it is the root of a container, upload it as rootfs.tar.xz, however it is compressed"

    def lacks_templates(self) -> bool:
        """Return whether the last metadata.yaml needs a template that was not seen yet."""
        if self.missing is None:
            self.missing = self.needed(self.body or b"")
        self.missing -= self.templates.keys()
        return bool(self.missing)


def _find(members: Members, limits: Limits, found: _TarballContents, *, whole: bool) -> None:
    """Take in the members until all that is needed was found. Raise what read_image raises."""
    for count, member in enumerate(members, start=1):
        if count > limits.members:
            raise UnreadableArchive(f"has more than {limits.members:,} members")
        found.take(members, member, limits, whole=whole)
        if found.content != "metadata" and found.body is not None:
            if not found.lacks_templates():
                break
            if members.position + member.size > MOST_FOR_TEMPLATES or count == limits.members:
                found.is_too_far = True
                break
    else:
        found.is_at_end = True
    if found.body is None:
        raise NoMetadata(found.why_no_metadata())
    if found.content == "metadata" and members.position > METADATA_LIMITS.unpacked_bytes:
        raise UnreadableArchive(
            "holds neither rootfs/ with something in it nor rootfs.img, and unpacks to more than "
            f"{METADATA_LIMITS.unpacked_bytes // MIB} MiB, which is too much for metadata"
        )


def _content_with(content: Content, member: Member, path: list[str]) -> Content:
    """Return the content of a tarball of `content` and this member. Raise UnreadableArchive for two roots."""
    root: Content = ""
    if path == ["rootfs.img"]:
        if not member.is_file or not member.size:
            raise UnreadableArchive("holds a rootfs.img that is no disk: it is empty or not a regular file")
        root = "virtual-machine"
    elif path == ["rootfs"]:
        if not member.is_folder:
            raise UnreadableArchive("holds a rootfs that is not a folder")
    elif path[0] == "rootfs":
        root = "container"
    if root and content not in ("metadata", root):
        raise UnreadableArchive(
            "holds both rootfs/ and rootfs.img, the roots of a container and of a virtual machine: expected one of them"
        )
    return root or content


def _check_disk(members: Members, member: Member) -> None:
    """Check the tables of a disk; only its header if the tar stores it without its holes, which shifts them."""
    try:
        if member.is_sparse:
            qcow2.check_header(_behind_map(members.content()))
        else:
            qcow2.check_start(members.content(), member.size, _MOST_DISK_BYTES)
    except qcow2.UnusableDisk as reason:
        raise UnreadableArchive(f"holds a rootfs.img that {reason}") from reason


def _behind_map(content: Iterator[memoryview]) -> bytes:
    """Return the first bytes of a sparse file. The newest format of GNU tar has a map in front: lines of numbers."""
    held = bytearray()
    while len(held) < _MOST_MAP_BYTES and (part := next(content, None)):
        held += part
    first = held.split(b"\n", 1)[0]
    if not first.isdigit() or len(first) > _MOST_DIGITS:
        return bytes(held)
    lines, at = 1 + 2 * int(first), 0
    while lines > 0 and at < len(held):
        lines -= held.count(b"\n", at, at + BLOCK)
        at += BLOCK
    return bytes(held[at:])


def _check_member(member: Member, path: list[str]) -> None:
    """Raise for a member that would unpack outside the image's folder, or that is a device or a pipe.

    Below rootfs/ is a root file system, where links may lead anywhere and devices are allowed.
    """
    if member.name.startswith("/") or ".." in path:
        raise UnreadableArchive(f"holds {quoted(member.name)}, expected names inside the tarball's own folder")
    if path[0] == "rootfs" and len(path) > 1:
        return
    if member.is_device:
        raise UnreadableArchive(f"holds {quoted(member.name)}, which is a device or a pipe, expected files and folders")
    if member.is_symbolic_link or member.is_hard_link:
        base = path[:-1] if member.is_symbolic_link else []
        target = posixpath.normpath(posixpath.join(*base, member.linkname))
        if target.startswith("/") or target.split("/")[0] == "..":
            raise UnreadableArchive(f"holds {quoted(member.name)}, a link that leads out of the tarball's own folder")


def _content(members: Members, member: Member, limits: Limits) -> bytes:
    if not member.is_file or member.is_sparse:
        raise UnreadableArchive("holds a metadata.yaml that is not a regular file")
    if member.size > limits.member_bytes:
        raise UnreadableArchive(
            f"holds a metadata.yaml of {member.size:,} bytes, expected at most {limits.member_bytes:,}"
        )
    content = b"".join(members.content())
    if len(content) != member.size:
        raise UnreadableArchive("ends in the middle of its metadata.yaml")
    return content


def _unpacked(chunks: Iterable[bytes | memoryview], limits: Limits) -> Iterator[bytes | memoryview]:
    """Yield the unpacked bytes of the tarball in small steps, whatever its compression. Raise UnreadableArchive."""
    source = iter(chunks)
    head = b""
    while len(head) < BLOCK and (more := next(source, b"")):
        head += bytes(more)
    if not looks_like_tar(head):
        raise UnreadableArchive(
            f"is not a tarball (xz, gz, zst, bz2, lzma or plain): it starts with {head[:8].hex(' ')}"
        )
    magic, whole = compression(head), chain([head], source)
    made = 0
    for step in unpacked(whole, magic) if magic else whole:
        made += len(step)
        if made > limits.unpacked_bytes:
            raise _TooLong(f"unpacks to more than {limits.unpacked_bytes // MIB:,} MiB")
        yield step
